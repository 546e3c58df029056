//! The annotations that the controller reads and writes.
//!
//! There are two generations of names. If both are present, the current one counts.

use crate::model::scheme::Scheme;

/// The prefix of the annotations that this controller owns.
const RELOADER: &str = "secrets-reloader.security.bank-vaults.io/";

/// The prefixes of the webhook's annotations: the current one and the older one.
const CURRENT_WEBHOOK: &str = "secrets-webhook.security.bank-vaults.io/";
const OLDER_WEBHOOK: &str = "vault.security.banzaicloud.io/";

/// An annotation of the pod template with a value that was never used before. So two templates of
/// this controller always differ. A template that was put back differs from the template of the
/// record.
pub const MARK: &str = "secrets-reloader.security.bank-vaults.io/reload-mark";

/// A label of the pod template. With the value `skip`, pods never reach the webhook.
pub const MUTATE_LABEL: &str = "security.banzaicloud.io/mutate";

/// An annotation of the workload's own metadata: the record, see [`crate::model::record`].
pub const RECORD: &str = "secrets-reloader.security.bank-vaults.io/reload-record";

/// An annotation of a workload's own metadata, or of its namespace: with the value `"true"`, the
/// workload is never reloaded, and it is reported when it would be.
pub const DRY_RUN: &str = "secrets-reloader.security.bank-vaults.io/dry-run";

/// An annotation of the workload's own metadata: its place among the workloads of its namespace that
/// are due. The lowest number starts first; without the annotation the number is 0.
pub const RELOAD_ORDER: &str = "secrets-reloader.security.bank-vaults.io/reload-order";

/// An annotation of the workload's own metadata. Its value is the reload count of a reload that
/// failed. Rotations that this failure stopped go on.
pub const CONTINUE_AFTER_FAILURE: &str =
    "secrets-reloader.security.bank-vaults.io/continue-after-failure";

/// An annotation of a workload's own metadata, or of its namespace: no reload begins before this
/// time. See [`crate::rollouts::calendar`].
pub const FREEZE_UNTIL: &str = "secrets-reloader.security.bank-vaults.io/freeze-until";

/// An annotation of a workload's own metadata, or of its namespace: reloads begin only while these
/// windows let them.
pub const RELOAD_WINDOWS: &str = "secrets-reloader.security.bank-vaults.io/reload-windows";

/// The generation of annotations that a workload opted in with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OptIn {
    /// `secrets-reloader.security.bank-vaults.io/…`
    Current,
    /// `alpha.vault.security.banzaicloud.io/…`
    Older,
}

impl OptIn {
    /// Returns the annotation of the pod template that opts a workload in, with the value `"true"`.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Current => "secrets-reloader.security.bank-vaults.io/reload-on-secret-change",
            Self::Older => "alpha.vault.security.banzaicloud.io/reload-on-secret-change",
        }
    }

    /// Returns the annotation of the pod template whose count is raised to start a rollout.
    #[must_use]
    pub const fn count_key(self) -> &'static str {
        match self {
            Self::Current => "secrets-reloader.security.bank-vaults.io/secret-reload-count",
            Self::Older => "alpha.vault.security.banzaicloud.io/secret-reload-count",
        }
    }
}

/// The webhook's annotations of a pod template, by the part of the name after the prefix.
///
/// `secrets-webhook.security.bank-vaults.io/` is the current prefix, and
/// `vault.security.banzaicloud.io/` the older one.
///
/// Each injector reads only the annotations of its own scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Webhook {
    /// Paths whose keys all become environment variables.
    FromPath(Scheme),
    /// The address of the server of all paths.
    Addr(Scheme),
    /// The Vault namespace of all paths.
    Namespace(Scheme),
    /// Whether a missing secret is no error for this workload.
    IgnoreMissingSecrets(Scheme),
    /// With the value `skip`, the webhook skips the workload.
    Mutate,
    /// The secret provider that the webhook uses.
    Provider,
}

/// The webhook's annotations: the annotation, its current name, its older name, and its meaning. The
/// older webhook knew only Vault.
const WEBHOOK: [(Webhook, &str, Option<&str>, &str); 10] = [
    (
        Webhook::Addr(Scheme::Vault),
        "secrets-webhook.security.bank-vaults.io/vault-addr",
        Some("vault.security.banzaicloud.io/vault-addr"),
        "The server of `vault:` references",
    ),
    (
        Webhook::Namespace(Scheme::Vault),
        "secrets-webhook.security.bank-vaults.io/vault-namespace",
        Some("vault.security.banzaicloud.io/vault-namespace"),
        "The Vault namespace of `vault:` references",
    ),
    (
        Webhook::FromPath(Scheme::Vault),
        "secrets-webhook.security.bank-vaults.io/vault-from-path",
        Some("vault.security.banzaicloud.io/vault-env-from-path"),
        "Paths. Every key of each path becomes a variable",
    ),
    (
        Webhook::IgnoreMissingSecrets(Scheme::Vault),
        "secrets-webhook.security.bank-vaults.io/vault-ignore-missing-secrets",
        Some("vault.security.banzaicloud.io/vault-ignore-missing-secrets"),
        "A missing secret does not block reloads of the workload. True values are Go's: `1`, `t`, \
         `T`, `true`, `TRUE`, `True`",
    ),
    (
        Webhook::Addr(Scheme::Bao),
        "secrets-webhook.security.bank-vaults.io/bao-addr",
        None,
        "As `vault-addr`, for `bao:`",
    ),
    (
        Webhook::Namespace(Scheme::Bao),
        "secrets-webhook.security.bank-vaults.io/bao-namespace",
        None,
        "As `vault-namespace`, for `bao:`",
    ),
    (
        Webhook::FromPath(Scheme::Bao),
        "secrets-webhook.security.bank-vaults.io/bao-from-path",
        None,
        "As `vault-from-path`, for `bao:`",
    ),
    (
        Webhook::IgnoreMissingSecrets(Scheme::Bao),
        "secrets-webhook.security.bank-vaults.io/bao-ignore-missing-secrets",
        None,
        "As `vault-ignore-missing-secrets`, for `bao:`",
    ),
    (
        Webhook::Mutate,
        "secrets-webhook.security.bank-vaults.io/mutate",
        Some("vault.security.banzaicloud.io/mutate"),
        "`skip` keeps the webhook away",
    ),
    (
        Webhook::Provider,
        "secrets-webhook.security.bank-vaults.io/provider",
        None,
        "`vault` or `bao`: the webhook treats references of the other scheme as text",
    ),
];

impl Webhook {
    /// Returns the names. If several are present, the first one counts.
    pub fn keys(self) -> impl Iterator<Item = &'static str> {
        WEBHOOK
            .iter()
            .filter(move |(which, ..)| *which == self)
            .flat_map(|(_, current, older, _)| [Some(*current), *older].into_iter().flatten())
    }
}

/// Whether an annotation makes the webhook resolve references. `mutate` does not count: it makes
/// the webhook skip the object.
#[must_use]
pub fn is_for_webhook(key: &str) -> bool {
    let is_its_own = [CURRENT_WEBHOOK, OLDER_WEBHOOK].iter().any(|prefix| key.starts_with(prefix));
    is_its_own && !Webhook::Mutate.keys().any(|mutate| key == mutate)
}

/// Whether the controller reads this annotation of a pod template.
///
/// The decoder drops all other annotations.
#[must_use]
pub fn is_read_on_template(key: &str) -> bool {
    key.starts_with(RELOADER)
        || key == OptIn::Older.key()
        || key == OptIn::Older.count_key()
        || WEBHOOK.iter().any(|(_, current, older, _)| key == *current || Some(key) == *older)
}

/// Where an annotation stands, and who writes it. Each place has a table in `docs/annotations.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The owner of a workload sets it on the pod template, to opt in.
    OptIn,
    /// The webhook and the controller read it on the pod template.
    Webhook,
    /// A label of the pod template.
    Label,
    /// An owner sets it on the workload, or on its namespace.
    Owner,
    /// The controller writes it on the pod template.
    WrittenOnTemplate,
    /// The controller writes it on the workload.
    WrittenOnWorkload,
}

/// An annotation and its meaning, for `docs/annotations.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// Where it stands.
    pub place: Place,
    /// Its name.
    pub name: &'static str,
    /// Its older name, if the controller reads the older name in its place.
    pub older: Option<&'static str>,
    /// Its meaning, in Markdown without links.
    pub meaning: &'static str,
}

/// The annotations that are not those of the webhook, and the label.
const OTHERS: [(Place, &str, &str); 12] = [
    (
        Place::OptIn,
        OptIn::Current.key(),
        "The controller reloads the workload when one of its secrets changes",
    ),
    (
        Place::OptIn,
        OptIn::Older.key(),
        "The older name. If both names opt in, the current name applies",
    ),
    (Place::Label, MUTATE_LABEL, "`skip` keeps the webhook away"),
    (
        Place::Owner,
        DRY_RUN,
        "`\"true\"`: the controller does not reload the workload, or those of the namespace, and \
         reports when it would",
    ),
    (Place::Owner, FREEZE_UNTIL, "No reload begins before this time"),
    (Place::Owner, RELOAD_WINDOWS, "Reloads begin only while these windows let them"),
    (
        Place::Owner,
        RELOAD_ORDER,
        "Only on a workload: a whole number from -32768 to 32767, by default 0. It is the workload's \
         place in the order of reloads in its namespace. The lowest comes first",
    ),
    (
        Place::Owner,
        CONTINUE_AFTER_FAILURE,
        "Only on a workload: the reload count of a failed reload. Rotations that it stopped go on",
    ),
    (
        Place::WrittenOnTemplate,
        OptIn::Current.count_key(),
        "The reload count. A higher count starts the rollout",
    ),
    (
        Place::WrittenOnTemplate,
        OptIn::Older.count_key(),
        "The same, if the workload opted in with the older name",
    ),
    (
        Place::WrittenOnTemplate,
        MARK,
        "The mark: a unique value. It shows which pod template the record belongs to",
    ),
    (
        Place::WrittenOnWorkload,
        RECORD,
        "The record: for each secret, the version that the pods started with, or a later one",
    ),
];

/// Returns all annotations that the controller reads or writes, and the label, with their meaning.
pub fn described() -> impl Iterator<Item = Described> {
    let of_webhook = WEBHOOK.iter().map(|&(_, name, older, meaning)| Described {
        place: Place::Webhook,
        name,
        older,
        meaning,
    });
    let others = OTHERS.iter().map(|&(place, name, meaning)| Described {
        place,
        name,
        older: None,
        meaning,
    });
    of_webhook.chain(others)
}

/// The annotations of a pod template or workload that the controller reads, and one
/// [label](MUTATE_LABEL).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations(Vec<(String, String)>);

impl Annotations {
    /// Adds one annotation.
    pub fn push(&mut self, key: String, value: String) {
        self.0.push((key, value));
    }

    /// Returns the value of an annotation, if it is present.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Returns the value of an annotation of the webhook. The current name wins over the older one.
    #[must_use]
    pub fn webhook(&self, which: Webhook) -> Option<&str> {
        which.keys().find_map(|key| self.get(key))
    }

    /// Whether the webhook skips the pods.
    #[must_use]
    pub fn is_left_alone(&self) -> bool {
        // Each generation counts, whatever value the other one has.
        Webhook::Mutate.keys().chain([MUTATE_LABEL]).any(|key| self.get(key) == Some("skip"))
    }

    /// Whether the named provider resolves references of a scheme.
    #[must_use]
    pub fn resolves(&self, scheme: Scheme) -> bool {
        match self.webhook(Webhook::Provider) {
            None | Some("") => true,
            Some(provider) => provider == scheme.name(),
        }
    }

    /// Returns the list of paths of a scheme that all containers get. An empty list counts as none.
    #[must_use]
    pub fn path_list(&self, scheme: Scheme) -> Option<&str> {
        self.webhook(Webhook::FromPath(scheme)).filter(|list| !list.is_empty())
    }

    /// Returns the length of all annotations, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.0.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// Returns the generation of annotations that opts in, if any does.
    #[must_use]
    pub fn opt_in(&self) -> Option<OptIn> {
        [OptIn::Current, OptIn::Older]
            .into_iter()
            .find(|generation| self.get(generation.key()) == Some("true"))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Annotations {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        Self(iter.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_generation_wins_where_both_opt_in() {
        let both: Annotations =
            [(OptIn::Older.key(), "true"), (OptIn::Current.key(), "true")].into_iter().collect();
        assert_eq!(both.opt_in(), Some(OptIn::Current));
        let older: Annotations =
            [(OptIn::Older.key(), "true"), (OptIn::Current.key(), "false")].into_iter().collect();
        assert_eq!(older.opt_in(), Some(OptIn::Older));
    }

    #[test]
    fn the_webhook_is_kept_away_by_either_generation_and_by_a_label() {
        let current = "secrets-webhook.security.bank-vaults.io/mutate";
        let older = "vault.security.banzaicloud.io/mutate";
        let is_left_alone =
            |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<Annotations>().is_left_alone();
        for key in [current, older, MUTATE_LABEL] {
            assert!(is_left_alone(&[(key, "skip")]), "{key}");
            assert!(!is_left_alone(&[(key, "true")]), "{key}");
        }
        assert!(is_left_alone(&[(current, "true"), (older, "skip")]));
        assert!(!is_left_alone(&[]));
    }

    #[test]
    fn what_tells_the_webhook_to_let_it_be_is_not_for_it() {
        assert!(is_for_webhook("vault.security.banzaicloud.io/vault-role"));
        assert!(is_for_webhook("secrets-webhook.security.bank-vaults.io/provider"));
        for other in ["", "vault.security.banzaicloud.io/mutate", OptIn::Older.key(), MARK] {
            assert!(!is_for_webhook(other), "{other}");
        }
    }

    #[test]
    fn only_the_exact_value_true_opts_in() {
        for value in ["True", "yes", "1", " true", ""] {
            let annotations: Annotations = [(OptIn::Current.key(), value)].into_iter().collect();
            assert_eq!(annotations.opt_in(), None, "{value:?}");
        }
    }

    #[test]
    fn what_is_read_is_kept_and_nothing_else() {
        for key in [MARK, OptIn::Older.key(), OptIn::Current.count_key()] {
            assert!(is_read_on_template(key), "{key}");
        }
        assert!(is_read_on_template("vault.security.banzaicloud.io/vault-env-from-path"));
        for key in ["", "prometheus.io/scrape", "vault.security.banzaicloud.io/vault-role"] {
            assert!(!is_read_on_template(key), "{key}");
        }
    }
}
