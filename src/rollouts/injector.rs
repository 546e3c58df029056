//! The injector: the mutating webhook that puts the injection of secrets into new pods. Where the
//! webhook is away and its failure policy is `Ignore`, new pods start with the literal text of their
//! references. A reload would then break what was healthy.
//!
//! Architecture Invariant: what is not known holds no reload, unless the operator requires an
//! injector.

use std::collections::{BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use crate::decide::hold::Hold;
use crate::rollouts::selector::{Labels, Selector};

/// The names of the webhooks of Bank-Vaults, before and after its move to another domain. The name of
/// their configuration depends on the Helm release.
pub const DEFAULT_WEBHOOKS: &str =
    "pods.*.admission.banzaicloud.com,pods.*.admission.bank-vaults.io";

/// The most webhooks that count. A cluster has one injector, or two while it moves to another.
pub const MOST_WEBHOOKS: usize = 16;

/// When reloads are held for the injector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InjectorCheck {
    /// While a webhook that covers the namespace is away.
    Auto,
    /// Also while no webhook covers the namespace.
    Required,
    /// Never. Nothing is watched.
    #[default]
    Off,
}

/// The names by which a webhook, or its configuration, is known as an injector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookNames(pub Box<[NamePattern]>);

/// A name, or the beginning and the end of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamePattern {
    /// The whole name.
    Exact(Box<str>),
    /// The texts before and after a `*`, which stands for any text.
    Around(Box<str>, Box<str>),
}

/// The settings of the check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InjectorSettings {
    /// When reloads are held.
    pub check: InjectorCheck,
    /// Which webhooks inject.
    pub webhooks: WebhookNames,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    /// The namespace.
    pub namespace: Box<str>,
    /// The name.
    pub name: Box<str>,
}

/// What the API server does with a pod if the webhook cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailurePolicy {
    /// It creates the pod as it is.
    Ignore,
    /// It refuses the pod.
    Fail,
}

/// A webhook that injects secrets into new pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// The name of its `MutatingWebhookConfiguration`.
    pub configuration: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// What happens to new pods while it is away.
    pub failure_policy: FailurePolicy,
    /// The namespaces whose pods it gets.
    pub namespaces: Selector,
    /// The Service behind which it runs. A webhook that is named by a URL has none, and counts as
    /// ready.
    pub service: Option<Service>,
}

/// What injects secrets into the new pods of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage<'a> {
    /// A webhook that is ready.
    Covered,
    /// This webhook, which is away.
    Away(&'a Webhook),
    /// Nothing: no webhook selects the namespace.
    NotCovered,
    /// Nothing: there is no such webhook in the cluster.
    NoInjector,
    /// It is not known.
    Unknown,
}

/// What is known of the injector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InjectorState {
    /// The webhooks; `None` before the first list.
    pub webhooks: Option<Vec<Webhook>>,
    /// Whether each Service has a ready endpoint. A Service whose endpoints were not listed yet has
    /// no entry.
    pub ready: HashMap<Service, bool>,
    /// The labels of the namespaces that have some; `None` before the first list. Only the labels
    /// that [`Self::label_keys`] names are kept.
    pub namespaces: Option<HashMap<Box<str>, Labels>>,
    /// Whether polls need not wait any longer for more to be known.
    pub is_settled: bool,
}

/// The labels of a namespace without any.
static NO_LABELS: Labels = Labels::new();

/// The injector. The watch of the API server writes what is known, and engines and the status read
/// it.
#[derive(Debug, Default)]
pub struct Injector {
    settings: InjectorSettings,
    state: RwLock<InjectorState>,
}

impl WebhookNames {
    /// Whether a name is one of these.
    #[must_use]
    pub fn contain(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(name))
    }
}

impl NamePattern {
    /// Parses a pattern. `None` if it is empty, is nothing but a `*`, or has more than one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('*') {
            None if text.is_empty() => None,
            None => Some(Self::Exact(text.into())),
            Some(("", "")) => None,
            Some((_, end)) if end.contains('*') => None,
            Some((start, end)) => Some(Self::Around(start.into(), end.into())),
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(whole) => **whole == *name,
            Self::Around(start, end) => {
                name.strip_prefix(&**start).is_some_and(|rest| rest.ends_with(&**end))
            }
        }
    }
}

impl InjectorState {
    /// Returns the keys of the labels of namespaces on which a webhook depends.
    #[must_use]
    pub fn label_keys(&self) -> BTreeSet<Box<str>> {
        let webhooks = self.webhooks.iter().flatten();
        webhooks.flat_map(|webhook| webhook.namespaces.keys().map(Box::from)).collect()
    }

    /// Whether all is known on which a decision can depend.
    #[must_use]
    pub fn is_known(&self) -> bool {
        let Some(webhooks) = &self.webhooks else { return false };
        let is_ready_known = |webhook: &Webhook| self.is_ready(webhook).is_some();
        webhooks.iter().all(is_ready_known)
            && (self.namespaces.is_some() || self.label_keys().is_empty())
    }

    /// Sets the kept labels of a namespace. Returns whether they changed.
    pub fn label_namespace(&mut self, name: Box<str>, labels: Labels) -> bool {
        let Some(namespaces) = &mut self.namespaces else { return false };
        if labels.is_empty() {
            return namespaces.remove(&name).is_some();
        }
        if namespaces.get(&name) == Some(&labels) {
            return false;
        }
        namespaces.insert(name, labels);
        true
    }

    /// Returns the labels of a namespace; `None` if they are not known.
    fn namespace_labels(&self, name: &str) -> Option<&Labels> {
        Some(self.namespaces.as_ref()?.get(name).unwrap_or(&NO_LABELS))
    }

    /// Whether a webhook has a ready endpoint. `None` if that is not known.
    fn is_ready(&self, webhook: &Webhook) -> Option<bool> {
        webhook.service.as_ref().map_or(Some(true), |service| self.ready.get(service).copied())
    }

    /// Returns what injects secrets into the new pods of a namespace.
    #[must_use]
    pub fn coverage(&self, namespace: &str) -> Coverage<'_> {
        let Some(webhooks) = &self.webhooks else { return Coverage::Unknown };
        if webhooks.is_empty() {
            return Coverage::NoInjector;
        }
        let labels = self.namespace_labels(namespace);
        let (mut is_covered, mut is_unknown, mut away) = (false, false, None);
        for webhook in webhooks {
            match (webhook.namespaces.selects(namespace, labels), self.is_ready(webhook)) {
                (Some(false), _) => {}
                // Such a webhook refuses each pod, whatever the others do.
                (Some(true), Some(false)) if webhook.failure_policy == FailurePolicy::Fail => {
                    return Coverage::Away(webhook);
                }
                (Some(true), Some(false)) => away = away.or(Some(webhook)),
                (Some(true), Some(true)) => is_covered = true,
                (None, _) | (Some(true), None) => is_unknown = true,
            }
        }
        match away {
            _ if is_covered => Coverage::Covered,
            // A webhook of which too little is known may inject.
            _ if is_unknown => Coverage::Unknown,
            Some(webhook) => Coverage::Away(webhook),
            None => Coverage::NotCovered,
        }
    }
}

impl Injector {
    /// Returns an injector of which nothing is known.
    #[must_use]
    pub fn new(settings: InjectorSettings) -> Self {
        Self { settings, state: RwLock::default() }
    }

    /// Returns the settings.
    #[must_use]
    pub fn settings(&self) -> &InjectorSettings {
        &self.settings
    }

    /// Whether nothing is checked.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.settings.check == InjectorCheck::Off
    }

    /// Whether polls may begin: enough is known, or it is not known in time.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_off() || self.state().is_settled
    }

    /// Changes what is known.
    pub fn change<T>(&self, change: impl FnOnce(&mut InjectorState) -> T) -> T {
        // A panic under the lock ends the process.
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns what is known.
    pub fn state(&self) -> RwLockReadGuard<'_, InjectorState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns why no reload of a namespace may start now; `None` if it may.
    #[must_use]
    pub fn hold(&self, namespace: &str) -> Option<Hold> {
        let is_required = match self.settings.check {
            InjectorCheck::Off => return None,
            InjectorCheck::Auto => false,
            InjectorCheck::Required => true,
        };
        match self.state().coverage(namespace) {
            Coverage::Covered => None,
            Coverage::Away(_) => Some(Hold::InjectorAway),
            Coverage::NotCovered | Coverage::NoInjector | Coverage::Unknown => {
                is_required.then_some(Hold::InjectorMissing)
            }
        }
    }

    /// Says what the new pods of a namespace lack, and what to do. `None` if no reload is held.
    #[must_use]
    pub fn advice(&self, namespace: &str) -> Option<String> {
        self.hold(namespace)?;
        let state = self.state();
        Some(match state.coverage(namespace) {
            Coverage::Covered => return None,
            Coverage::Away(webhook) => webhook.advice(),
            Coverage::NotCovered => format!(
                "no webhook that injects secrets selects the namespace {namespace}, and \
                 --injector-check=required. Label the namespace as the namespaceSelector of the \
                 webhook wants, or name its webhook by --injector-webhooks"
            ),
            Coverage::NoInjector => "the cluster has no webhook that injects secrets, and \
                 --injector-check=required. Install the webhook, or name it by --injector-webhooks"
                .to_owned(),
            Coverage::Unknown => "it is not known whether the webhook that injects secrets is \
                 ready, and --injector-check=required. Grant the service account list and watch on \
                 mutatingwebhookconfigurations, endpointslices and namespaces"
                .to_owned(),
        })
    }
}

impl Webhook {
    /// Says that the webhook is away, and where to look.
    fn advice(&self) -> String {
        let consequence = match self.failure_policy {
            FailurePolicy::Ignore => "new pods would start with unresolved references",
            FailurePolicy::Fail => "no new pod can be created",
        };
        let Self { configuration, name, .. } = self;
        let look = self.service.as_ref().map_or_else(String::new, |service| {
            let Service { namespace, name } = service;
            format!(
                ". See: kubectl -n {namespace} get endpointslices -l kubernetes.io/service-name={name}"
            )
        });
        format!(
            "{consequence}, since the webhook {name} of the MutatingWebhookConfiguration \
             {configuration} has no ready endpoint{look}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailurePolicy::{Fail, Ignore};

    /// Returns a webhook in the namespace `vault` that selects the namespaces with a value of the
    /// label `team`, or all.
    fn webhook(name: &str, failure_policy: FailurePolicy, team: Option<&str>) -> Webhook {
        let labels = team.map(|team| ("team".to_owned(), team.to_owned()));
        Webhook {
            configuration: "vswh".into(),
            name: name.into(),
            failure_policy,
            namespaces: Selector::new(labels, []),
            service: Some(Service { namespace: "vault".into(), name: name.into() }),
        }
    }

    fn state(webhooks: &[(Webhook, Option<bool>)]) -> InjectorState {
        let ready = webhooks
            .iter()
            .filter_map(|(webhook, is_ready)| webhook.service.clone().zip(*is_ready));
        let labels = Labels::from([("team".into(), "a".into())]);
        InjectorState {
            ready: ready.collect(),
            webhooks: Some(webhooks.iter().map(|(webhook, _)| webhook.clone()).collect()),
            namespaces: Some([("shop".into(), labels)].into()),
            is_settled: true,
        }
    }

    #[test]
    fn a_namespace_is_covered_by_a_webhook_that_selects_it_and_is_ready() {
        let all = |failure_policy| webhook("all", failure_policy, None);
        let of_team = |team| webhook("team", Ignore, Some(team));
        let (ready, away, unknown) = (Some(true), Some(false), None);
        for (webhooks, expected) in [
            (vec![], "NoInjector"),
            (vec![(all(Ignore), ready)], "Covered"),
            (vec![(all(Ignore), away)], "Away all"),
            (vec![(all(Fail), away)], "Away all"),
            (vec![(all(Ignore), unknown)], "Unknown"),
            (vec![(of_team("a"), ready)], "Covered"),
            (vec![(of_team("a"), away)], "Away team"),
            (vec![(of_team("b"), ready)], "NotCovered"),
            (vec![(of_team("b"), away)], "NotCovered"),
            // One of two injects.
            (vec![(all(Ignore), away), (of_team("a"), ready)], "Covered"),
            (vec![(all(Ignore), away), (of_team("b"), ready)], "Away all"),
            (vec![(all(Ignore), away), (of_team("a"), unknown)], "Unknown"),
            // No pod is created at all.
            (vec![(of_team("a"), ready), (all(Fail), away)], "Away all"),
        ] {
            let found = |state: &InjectorState| match state.coverage("shop") {
                Coverage::Away(webhook) => format!("Away {}", webhook.name),
                other => format!("{other:?}"),
            };
            assert_eq!(found(&state(&webhooks)), expected, "{webhooks:?}");
        }
        let by_url = Webhook { service: None, ..all(Ignore) };
        assert_eq!(state(&[(by_url, None)]).coverage("shop"), Coverage::Covered);
    }

    #[test]
    fn what_is_not_known_is_unknown() {
        let webhook = webhook("team", Ignore, Some("a"));
        let known = state(&[(webhook, Some(false))]);
        assert!(known.is_known());
        assert_eq!(known.label_keys(), BTreeSet::from(["team".into()]));
        assert_eq!(known.coverage("other"), Coverage::NotCovered);
        for unknown in [
            InjectorState::default(),
            InjectorState { namespaces: None, ..known.clone() },
            InjectorState { ready: HashMap::new(), ..known.clone() },
        ] {
            assert!(!unknown.is_known());
            assert_eq!(unknown.coverage("shop"), Coverage::Unknown);
        }
    }

    #[test]
    fn the_check_decides_what_holds_and_each_hold_has_advice() {
        use InjectorCheck::{Auto, Off, Required};
        let one = |is_ready| state(&[(webhook("team", Ignore, Some("a")), Some(is_ready))]);
        let (away, missing) = (Some(Hold::InjectorAway), Some(Hold::InjectorMissing));
        for (state, namespace, auto, required) in [
            (one(true), "shop", None, None),
            (one(false), "shop", away, away),
            (one(false), "other", None, missing),
            (self::state(&[]), "shop", None, missing),
            (InjectorState::default(), "shop", None, missing),
        ] {
            for (check, expected) in [(Off, None), (Auto, auto), (Required, required)] {
                let settings = InjectorSettings { check, ..InjectorSettings::default() };
                let injector = Injector::new(settings);
                injector.change(|present| *present = state.clone());
                assert_eq!(injector.hold(namespace), expected, "{check:?} {state:?}");
                assert_eq!(injector.advice(namespace).is_some(), expected.is_some());
            }
        }
        let advice = webhook("w", Ignore, None).advice();
        let command = "kubectl -n vault get endpointslices -l kubernetes.io/service-name=w";
        assert!(advice.starts_with("new pods would start with unresolved"), "{advice}");
        assert!(advice.ends_with(command), "{advice}");
        assert!(webhook("w", Fail, None).advice().starts_with("no new pod can be created"));
    }

    #[test]
    fn names_are_whole_or_have_one_star() {
        let names =
            |text: &str| WebhookNames(text.split(',').filter_map(NamePattern::parse).collect());
        let default = names(DEFAULT_WEBHOOKS);
        for name in [
            "pods.vault-secrets-webhook.admission.banzaicloud.com",
            "pods.secrets-webhook.admission.banzaicloud.com",
            "pods.vault-secrets-webhook.admission.bank-vaults.io",
        ] {
            assert!(default.contain(name), "{name}");
        }
        for name in [
            "secrets.vault-secrets-webhook.admission.banzaicloud.com",
            "vault.hashicorp.com",
            "pods.admission.banzaicloud.com",
            "pods.",
            "",
        ] {
            assert!(!default.contain(name), "{name}");
        }
        let others = names("vswh,*.example.com");
        assert!(others.contain("vswh") && others.contain("pods.example.com"));
        assert!(!others.contain("vswh2") && !others.contain("example.com"));
        for wrong in ["", "*", "a*b*c", "**"] {
            assert_eq!(NamePattern::parse(wrong), None, "{wrong}");
        }
    }
}
