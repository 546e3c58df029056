//! Watches the injector: the configuration of its webhook, the endpoints of its Service, and the
//! labels of namespaces by which the webhook selects them.
//!
//! The endpoints are watched once a configuration names their Service. Namespaces are watched once a
//! configuration selects them by a label other than their name.
//!
//! Architecture Invariant: this module writes the injector and nothing else. It only reads the
//! cluster.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{pending, select_all};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations,
};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event as WatchEvent;
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::first_list::{FirstList, LISTED_WITHIN};
use super::watching::{WORKER, Watching};
use crate::rollouts::injector::{
    FailurePolicy, Injector, InjectorCheck, MOST_WEBHOOKS, Service, Webhook, WebhookNames,
};
use crate::rollouts::selector::{Labels, Selector};

/// The resources that are watched, each with its API group.
pub(super) const WATCHED_RESOURCES: [(&str, &str); 3] = [
    (CONFIGURATIONS, "admissionregistration.k8s.io"),
    (ENDPOINT_SLICES, "discovery.k8s.io"),
    (NAMESPACES, ""),
];
const CONFIGURATIONS: &str = "mutatingwebhookconfigurations";
const ENDPOINT_SLICES: &str = "endpointslices";
const NAMESPACES: &str = "namespaces";

/// The label of an `EndpointSlice` that names its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The most slices with a ready endpoint that are kept of a Service. One of them suffices, and a
/// slice has a hundred endpoints.
const MOST_SLICES: usize = 100;

/// Watches the injector.
pub struct InjectorWatch {
    client: Client,
    sync_period: Duration,
    injector: Arc<Injector>,
    /// Shows that something changed.
    changed: watch::Sender<()>,
    configurations: Watching<MutatingWebhookConfiguration>,
    /// The webhooks of each configuration that has some.
    webhooks: Shown<Vec<Webhook>>,
    services: BTreeMap<Service, ServiceWatch>,
    namespaces: Option<NamespaceWatch>,
    /// The first lists of all watches: the state is known once they have ended.
    first_lists: FirstList,
    is_overdue: bool,
}

/// A watch of the endpoints of one Service.
struct ServiceWatch {
    watching: Watching<EndpointSlice>,
    /// The slices with a ready endpoint.
    ready: Shown<()>,
}

/// A watch of the labels of namespaces.
struct NamespaceWatch {
    watching: Watching<PartialObjectMeta<Namespace>>,
    /// The labels that are kept.
    keys: BTreeSet<Box<str>>,
    /// What the list in progress has shown so far.
    listed: HashMap<Box<str>, Labels>,
}

/// What is kept of the objects that a watch shows.
struct Shown<T> {
    present: BTreeMap<String, T>,
    /// What the list in progress has shown so far.
    listed: BTreeMap<String, T>,
    /// The most objects of which something is kept.
    most: usize,
}

impl<T> Shown<T> {
    fn new(most: usize) -> Self {
        Self { present: BTreeMap::new(), listed: BTreeMap::new(), most }
    }

    /// Takes in an event. `read` returns what is kept of an object. Returns whether the event may
    /// have changed what is present.
    fn take_in<K: Resource>(
        &mut self,
        event: WatchEvent<K>,
        read: impl Fn(K) -> Option<T>,
    ) -> bool {
        match event {
            WatchEvent::Init => self.listed.clear(),
            WatchEvent::InitApply(object) => {
                let name = object.name_any();
                if let Some(kept) = read(object).filter(|_| self.listed.len() < self.most) {
                    self.listed.insert(name, kept);
                }
            }
            WatchEvent::InitDone => {
                self.present = std::mem::take(&mut self.listed);
                return true;
            }
            WatchEvent::Apply(object) => {
                let name = object.name_any();
                self.present.remove(&name);
                if let Some(kept) = read(object).filter(|_| self.present.len() < self.most) {
                    self.present.insert(name, kept);
                }
                return true;
            }
            WatchEvent::Delete(object) => {
                self.present.remove(&object.name_any());
                return true;
            }
        }
        false
    }
}

impl InjectorWatch {
    /// Makes a watch that writes `injector`, and shows each change by `changed`. Everything is
    /// listed again after each `sync_period`.
    #[must_use]
    pub fn new(
        client: Client,
        injector: Arc<Injector>,
        changed: watch::Sender<()>,
        sync_period: Duration,
    ) -> Self {
        let configurations = Api::all(client.clone());
        Self {
            client,
            sync_period,
            injector,
            changed,
            configurations: Watching::new(configurations, CONFIGURATIONS, sync_period),
            webhooks: Shown::new(MOST_WEBHOOKS),
            services: BTreeMap::new(),
            namespaces: None,
            first_lists: FirstList::default(),
            is_overdue: false,
        }
    }

    /// Watches until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.first_lists.begin();
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.step() => {}
            }
        }
    }

    /// Waits for the next event and handles it.
    async fn step(&mut self) {
        let has_changed = tokio::select! {
            event = self.configurations.next() => self.take_in_configuration(event),
            (service, event) = next_slice(&mut self.services) => self.take_in_slice(&service, event),
            event = next_namespace(&mut self.namespaces) => self.take_in_namespace(event),
            () = self.first_lists.overdue() => self.go_on_without(),
        };
        if has_changed {
            self.note_known();
            self.changed.send_replace(());
        }
    }

    fn take_in_configuration(&mut self, event: WatchEvent<MutatingWebhookConfiguration>) -> bool {
        let names = &self.injector.settings().webhooks;
        let read = |configuration| {
            let webhooks = webhooks_of(configuration, names);
            (!webhooks.is_empty()).then_some(webhooks)
        };
        if !self.webhooks.take_in(event, read) {
            return false;
        }
        let webhooks = self.webhooks.present.values().flatten().take(MOST_WEBHOOKS).cloned();
        let webhooks: Vec<Webhook> = webhooks.collect();
        let before = self.injector.state().webhooks.as_ref().map(Vec::len);
        if self.injector.state().webhooks.as_ref() == Some(&webhooks) {
            return false;
        }
        if before.is_some_and(|count| count > 0) && webhooks.is_empty() {
            info!(worker = WORKER, "There is no webhook that injects secrets any more");
        }
        for Webhook { configuration, name, .. } in &webhooks {
            info!(worker = WORKER, "Reloads wait while {name} of {configuration} is away");
        }
        self.watch_services(&webhooks);
        let keys = self.injector.change(|state| {
            state.webhooks = Some(webhooks);
            state.label_keys()
        });
        self.watch_namespaces(keys);
        true
    }

    /// Watches the endpoints of the Services of these webhooks, and of no others.
    fn watch_services(&mut self, webhooks: &[Webhook]) {
        let wanted: BTreeSet<&Service> =
            webhooks.iter().filter_map(|webhook| webhook.service.as_ref()).collect();
        self.services.retain(|service, _| wanted.contains(service));
        self.injector.change(|state| state.ready.retain(|service, _| wanted.contains(service)));
        for service in wanted {
            if self.services.contains_key(service) {
                continue;
            }
            let Service { namespace, name } = service;
            if !is_label(namespace) || !is_label(name) {
                // No Service can have this name.
                self.injector.change(|state| state.ready.insert(service.clone(), false));
                continue;
            }
            let api = Api::namespaced(self.client.clone(), namespace);
            let watching = Watching::new(api, ENDPOINT_SLICES, self.sync_period)
                .with_labels(format!("{SERVICE_LABEL}={name}"));
            let ready = Shown::new(MOST_SLICES);
            self.services.insert(service.clone(), ServiceWatch { watching, ready });
        }
    }

    /// Watches namespaces if a webhook selects them by labels with these keys.
    fn watch_namespaces(&mut self, keys: BTreeSet<Box<str>>) {
        if self.namespaces.as_ref().is_some_and(|namespaces| namespaces.keys == keys) {
            return;
        }
        // The labels that were kept are not those that count now.
        self.injector.change(|state| state.namespaces = None);
        self.namespaces = (!keys.is_empty()).then(|| NamespaceWatch {
            watching: Watching::new(Api::all(self.client.clone()), NAMESPACES, self.sync_period),
            keys,
            listed: HashMap::new(),
        });
    }

    fn take_in_slice(&mut self, service: &Service, event: WatchEvent<EndpointSlice>) -> bool {
        let Some(ServiceWatch { ready, .. }) = self.services.get_mut(service) else { return false };
        if !ready.take_in(event, |slice| has_ready_endpoint(&slice).then_some(())) {
            return false;
        }
        let is_ready = !ready.present.is_empty();
        let before = self.injector.change(|state| state.ready.insert(service.clone(), is_ready));
        if before != Some(is_ready) {
            let Service { namespace, name } = service;
            let state = if is_ready { "has" } else { "does not have" };
            info!(
                worker = WORKER,
                "The Service {namespace}/{name} of the webhook that injects secrets {state} a ready endpoint"
            );
        }
        before != Some(is_ready)
    }

    fn take_in_namespace(&mut self, event: WatchEvent<PartialObjectMeta<Namespace>>) -> bool {
        let Some(NamespaceWatch { keys, listed, .. }) = &mut self.namespaces else { return false };
        match event {
            WatchEvent::Init => listed.clear(),
            WatchEvent::InitApply(object) => {
                let (name, labels) = labels_of(object.metadata, keys);
                if !labels.is_empty() {
                    listed.insert(name, labels);
                }
            }
            WatchEvent::InitDone => {
                let all = Some(std::mem::take(listed));
                return self.injector.change(|state| {
                    let has_changed = state.namespaces != all;
                    state.namespaces = all;
                    has_changed
                });
            }
            WatchEvent::Apply(object) => {
                let (name, labels) = labels_of(object.metadata, keys);
                return self.injector.change(|state| state.label_namespace(name, labels));
            }
            WatchEvent::Delete(object) => {
                let (name, _) = labels_of(object.metadata, keys);
                return self.injector.change(|state| state.label_namespace(name, Labels::new()));
            }
        }
        false
    }

    /// Lets polls begin once enough is known.
    fn note_known(&mut self) {
        let is_known = self.injector.change(|state| {
            let is_known = state.is_known();
            state.is_settled |= is_known;
            is_known
        });
        if is_known {
            self.first_lists.end();
            if std::mem::replace(&mut self.is_overdue, false) {
                info!(worker = WORKER, "The state of the webhook that injects secrets is known");
            }
        }
    }

    /// Lets polls begin although the state of the injector is not known.
    fn go_on_without(&mut self) -> bool {
        self.first_lists.end();
        self.is_overdue = true;
        let consequence = match self.injector.settings().check {
            InjectorCheck::Required => {
                "No workload is reloaded until then (--injector-check=required)"
            }
            InjectorCheck::Auto | InjectorCheck::Off => "Until then, no reload is held for it",
        };
        warn!(
            worker = WORKER,
            "The state of the webhook that injects secrets is not known within {} s. {consequence}. If the \
             API server denies it, grant the service account list and watch on {CONFIGURATIONS}, \
             {ENDPOINT_SLICES} and {NAMESPACES}, or set --injector-check=off",
            LISTED_WITHIN.as_secs()
        );
        self.injector.change(|state| state.is_settled = true);
        true
    }
}

/// Waits for the next event about the endpoints of any Service.
async fn next_slice(
    services: &mut BTreeMap<Service, ServiceWatch>,
) -> (Service, WatchEvent<EndpointSlice>) {
    let next = services.iter_mut().map(|(service, ServiceWatch { watching, .. })| {
        let service = service.clone();
        Box::pin(async move { (service, watching.next().await) })
    });
    let next: Vec<_> = next.collect();
    if next.is_empty() {
        return pending().await;
    }
    // Cancelling the other calls loses no event.
    select_all(next).await.0
}

/// Waits for the next event about a namespace, if namespaces are watched.
async fn next_namespace(
    namespaces: &mut Option<NamespaceWatch>,
) -> WatchEvent<PartialObjectMeta<Namespace>> {
    match namespaces {
        Some(NamespaceWatch { watching, .. }) => watching.next().await,
        None => pending().await,
    }
}

/// Returns the webhooks of a configuration that get new pods and are known by one of these names.
fn webhooks_of(configuration: MutatingWebhookConfiguration, names: &WebhookNames) -> Vec<Webhook> {
    let MutatingWebhookConfiguration { metadata, webhooks } = configuration;
    let name = metadata.name.unwrap_or_default();
    let is_named = names.contain(&name);
    let webhooks = webhooks.into_iter().flatten();
    let webhooks = webhooks.filter(|webhook| is_named || names.contain(&webhook.name));
    let webhooks = webhooks.filter(|webhook| webhook.rules.iter().flatten().any(gets_new_pods));
    webhooks.map(|webhook| read_webhook(&name, webhook)).collect()
}

/// Whether a rule selects requests that create pods.
fn gets_new_pods(rule: &RuleWithOperations) -> bool {
    let contains = |list: Option<&Vec<String>>, names: &[&str]| {
        list.into_iter().flatten().any(|one| names.contains(&one.as_str()))
    };
    let RuleWithOperations { api_groups, api_versions, operations, resources, scope } = rule;
    contains(api_groups.as_ref(), &["", "*"])
        && contains(api_versions.as_ref(), &["v1", "*"])
        && contains(operations.as_ref(), &["CREATE", "*"])
        && contains(resources.as_ref(), &["pods", "*", "*/*"])
        && scope.as_deref() != Some("Cluster")
}

fn read_webhook(configuration: &str, webhook: MutatingWebhook) -> Webhook {
    let MutatingWebhook { name, client_config, failure_policy, namespace_selector, .. } = webhook;
    let is_ignored = failure_policy.as_deref() == Some("Ignore");
    Webhook {
        configuration: configuration.into(),
        name: name.into(),
        failure_policy: if is_ignored { FailurePolicy::Ignore } else { FailurePolicy::Fail },
        namespaces: namespace_selector.map(read_selector).unwrap_or_default(),
        service: client_config.service.map(|service| Service {
            namespace: service.namespace.into(),
            name: service.name.into(),
        }),
    }
}

fn read_selector(selector: LabelSelector) -> Selector {
    let LabelSelector { match_labels, match_expressions } = selector;
    let expressions = match_expressions.into_iter().flatten();
    let expressions = expressions.map(|expression| {
        (expression.key, expression.operator, expression.values.unwrap_or_default())
    });
    Selector::new(match_labels.into_iter().flatten(), expressions)
}

/// Whether an endpoint of a slice is ready. An endpoint without a condition counts as ready.
fn has_ready_endpoint(slice: &EndpointSlice) -> bool {
    let is_ready = |ready: Option<bool>| ready != Some(false);
    slice.endpoints.iter().any(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        is_ready(conditions.and_then(|conditions| conditions.ready))
    })
}

/// Returns the name of an object, and its labels with these keys.
fn labels_of(metadata: ObjectMeta, keys: &BTreeSet<Box<str>>) -> (Box<str>, Labels) {
    let ObjectMeta { name, labels, .. } = metadata;
    let labels = labels.into_iter().flatten().filter(|(key, _)| keys.contains(key.as_str()));
    let labels = labels.map(|(key, value)| (key.into(), value.into())).collect();
    (name.unwrap_or_default().into(), labels)
}

/// Whether a name can be the name of a Service, or of a namespace.
fn is_label(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests;
