//! The annotations that the controller reads and writes.
//!
//! Two generations of names are in use; where both are present the current one counts.

use crate::model::scheme::Scheme;

/// Prefix of the annotations that this controller owns.
const RELOADER: &str = "secrets-reloader.security.bank-vaults.io/";

/// Prefixes of the annotations of the webhook, the current one and the older one.
const CURRENT_WEBHOOK: &str = "secrets-webhook.security.bank-vaults.io/";
const OLDER_WEBHOOK: &str = "vault.security.banzaicloud.io/";

/// On a pod template: a value never used before, so that two templates of ours always differ, and a
/// template that was put back can be told from the one that the record belongs to.
pub const MARK: &str = "secrets-reloader.security.bank-vaults.io/reload-mark";

/// A label of a pod template: by the value `skip`, pods do not reach the webhook at all.
pub const MUTATE_LABEL: &str = "security.banzaicloud.io/mutate";

/// On the metadata of a workload: the record, see [`crate::model::record`].
pub const RECORD: &str = "secrets-reloader.security.bank-vaults.io/reload-record";

/// Which generation of annotations a workload opted in with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OptIn {
    /// `secrets-reloader.security.bank-vaults.io/…`
    Current,
    /// `alpha.vault.security.banzaicloud.io/…`
    Older,
}

impl OptIn {
    /// The annotation on the pod template that opts a workload in, by the value `"true"`.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Current => "secrets-reloader.security.bank-vaults.io/reload-on-secret-change",
            Self::Older => "alpha.vault.security.banzaicloud.io/reload-on-secret-change",
        }
    }

    /// The annotation on the pod template that is counted up to start a rollout.
    #[must_use]
    pub fn count_key(self) -> &'static str {
        match self {
            Self::Current => "secrets-reloader.security.bank-vaults.io/secret-reload-count",
            Self::Older => "alpha.vault.security.banzaicloud.io/secret-reload-count",
        }
    }
}

/// What the webhook reads from a pod template, by the part of the name behind its prefix.
///
/// `secrets-webhook.security.bank-vaults.io/` is the current prefix, and
/// `vault.security.banzaicloud.io/` the older one.
///
/// Each injector reads those of its own scheme alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Webhook {
    /// Paths whose keys all become environment variables.
    FromPath(Scheme),
    /// The address of the server that all paths are on.
    Addr(Scheme),
    /// The Vault namespace of all paths.
    Namespace(Scheme),
    /// A missing secret is not an error for this workload.
    IgnoreMissingSecrets(Scheme),
    /// `skip` means that the webhook leaves the workload alone.
    Mutate,
    /// Which secret provider the webhook uses.
    Provider,
}

/// The webhook's annotations: what each is, its current name, its older name. The older webhook knew
/// Vault alone.
const WEBHOOK: [(Webhook, &str, Option<&str>); 10] = [
    (
        Webhook::FromPath(Scheme::Vault),
        "secrets-webhook.security.bank-vaults.io/vault-from-path",
        Some("vault.security.banzaicloud.io/vault-env-from-path"),
    ),
    (Webhook::FromPath(Scheme::Bao), "secrets-webhook.security.bank-vaults.io/bao-from-path", None),
    (
        Webhook::Addr(Scheme::Vault),
        "secrets-webhook.security.bank-vaults.io/vault-addr",
        Some("vault.security.banzaicloud.io/vault-addr"),
    ),
    (Webhook::Addr(Scheme::Bao), "secrets-webhook.security.bank-vaults.io/bao-addr", None),
    (
        Webhook::Namespace(Scheme::Vault),
        "secrets-webhook.security.bank-vaults.io/vault-namespace",
        Some("vault.security.banzaicloud.io/vault-namespace"),
    ),
    (
        Webhook::Namespace(Scheme::Bao),
        "secrets-webhook.security.bank-vaults.io/bao-namespace",
        None,
    ),
    (
        Webhook::IgnoreMissingSecrets(Scheme::Vault),
        "secrets-webhook.security.bank-vaults.io/vault-ignore-missing-secrets",
        Some("vault.security.banzaicloud.io/vault-ignore-missing-secrets"),
    ),
    (
        Webhook::IgnoreMissingSecrets(Scheme::Bao),
        "secrets-webhook.security.bank-vaults.io/bao-ignore-missing-secrets",
        None,
    ),
    (
        Webhook::Mutate,
        "secrets-webhook.security.bank-vaults.io/mutate",
        Some("vault.security.banzaicloud.io/mutate"),
    ),
    (Webhook::Provider, "secrets-webhook.security.bank-vaults.io/provider", None),
];

impl Webhook {
    /// Its names, the one that counts where both are there first.
    pub fn keys(self) -> impl Iterator<Item = &'static str> {
        WEBHOOK
            .iter()
            .filter(move |(which, ..)| *which == self)
            .flat_map(|(_, current, older)| [Some(*current), *older].into_iter().flatten())
    }
}

/// Whether an annotation tells the webhook how to resolve references, and not to let them be.
#[must_use]
pub fn is_for_webhook(key: &str) -> bool {
    let is_its_own = [CURRENT_WEBHOOK, OLDER_WEBHOOK].iter().any(|prefix| key.starts_with(prefix));
    is_its_own && !Webhook::Mutate.keys().any(|mutate| key == mutate)
}

/// Whether the controller reads this annotation of a pod template at all.
///
/// What it does not read is not kept while an object is decoded.
#[must_use]
pub fn is_read_on_template(key: &str) -> bool {
    key.starts_with(RELOADER)
        || key == OptIn::Older.key()
        || key == OptIn::Older.count_key()
        || WEBHOOK.iter().any(|(_, current, older)| key == *current || Some(key) == *older)
}

/// The annotations of a pod template, or of a workload, that the controller reads, and the one
/// [label](MUTATE_LABEL).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations(Vec<(String, String)>);

impl Annotations {
    /// Adds one annotation.
    pub fn push(&mut self, key: String, value: String) {
        self.0.push((key, value));
    }

    /// The value of an annotation, if it is there.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The value of an annotation of the webhook; its current name wins over the older one.
    #[must_use]
    pub fn webhook(&self, which: Webhook) -> Option<&str> {
        which.keys().find_map(|key| self.get(key))
    }

    /// Whether the webhook leaves the pods alone.
    #[must_use]
    pub fn is_left_alone(&self) -> bool {
        // Either generation counts by itself, whatever the other one holds.
        Webhook::Mutate.keys().chain([MUTATE_LABEL]).any(|key| self.get(key) == Some("skip"))
    }

    /// Whether references of a scheme are resolved, by the provider that is named.
    #[must_use]
    pub fn resolves(&self, scheme: Scheme) -> bool {
        match self.webhook(Webhook::Provider) {
            None | Some("") => true,
            Some(provider) => provider == scheme.name(),
        }
    }

    /// The list of paths of a scheme that all containers get; none where it is empty.
    #[must_use]
    pub fn path_list(&self, scheme: Scheme) -> Option<&str> {
        self.webhook(Webhook::FromPath(scheme)).filter(|list| !list.is_empty())
    }

    /// How long they are, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.0.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// The generation of annotations that opts in, if any does.
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
