//! What counts as a reference to a secret, and what is done with each.
//!
//! This is the one place that reads references: [`grammar`] says how one value is read, [`reason`] why
//! a reference is not watched, and [`each`] where in a pod template they stand.
//!
//! Architecture Invariant: reading never fails. Every value yields the paths to watch and, for each
//! reference that is not watched or looks odd, a note with the reason.

use std::collections::BTreeSet;
use std::fmt;

use super::annotation::{Annotations, Webhook};

pub mod grammar;
pub mod reason;

pub use grammar::{Reading, may_hold_reference};
pub use reason::Reason;

/// Where in a pod template a reference stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// The environment of a container.
    Env {
        /// The container's name.
        container: String,
        /// The variable's name.
        name: String,
    },
    /// One of the annotations that list paths.
    FromPath(PathList),
    /// The annotation that names the Vault namespace.
    Namespace,
}

/// An annotation that lists paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathList {
    /// `vault-from-path`
    Vault,
    /// `bao-from-path`
    Bao,
}

impl PathList {
    /// What it is among the annotations of the webhook.
    #[must_use]
    pub fn annotation(self) -> Webhook {
        match self {
            Self::Vault => Webhook::VaultFromPath,
            Self::Bao => Webhook::BaoFromPath,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env { container, name } => write!(f, "variable {name} of container {container}"),
            Self::FromPath(PathList::Vault) => f.write_str("annotation vault-from-path"),
            Self::FromPath(PathList::Bao) => f.write_str("annotation bao-from-path"),
            Self::Namespace => f.write_str("annotation vault-namespace"),
        }
    }
}

/// One reference that is not watched or looks odd. It never holds the value itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Note {
    /// Where it stands.
    pub origin: Origin,
    /// Why it is noted.
    pub reason: Reason,
}

/// A variable of a container, as it stands in the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvVar {
    /// The container's name.
    pub container: String,
    /// The variable's name.
    pub name: String,
    /// The variable's value.
    pub value: String,
}

/// What a pod template refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extraction {
    /// The API paths to watch, cleaned, each once, in order.
    pub paths: BTreeSet<String>,
    /// What is not watched or looks odd.
    pub notes: Vec<Note>,
}

/// Where one reference stands, and what stands there.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// A variable of a container.
    Env(&'a EnvVar),
    /// An item of an annotation that lists paths.
    FromPath(PathList, &'a str),
}

impl From<Place<'_>> for Origin {
    fn from(place: Place) -> Self {
        match place {
            Place::Env(EnvVar { container, name, .. }) => {
                Self::Env { container: container.clone(), name: name.clone() }
            }
            Place::FromPath(list, _) => Self::FromPath(list),
        }
    }
}

/// Reads all references of a pod template from its annotations and its variables, in order.
pub fn each<'a>(
    annotations: &'a Annotations,
    variables: impl IntoIterator<Item = &'a EnvVar>,
    mut take: impl FnMut(Place<'a>, Reading),
) {
    let known_provider =
        matches!(annotations.webhook(Webhook::Provider), None | Some("" | "vault" | "bao"));
    let mut take = |place, reading| {
        take(place, if known_provider { reading } else { Reading::Skip(Reason::OtherProvider) });
    };
    for variable in variables {
        for reference in grammar::parse(&variable.name, &variable.value) {
            take(Place::Env(variable), reference.read());
        }
    }
    for list in [PathList::Vault, PathList::Bao] {
        let items = annotations.webhook(list.annotation()).unwrap_or_default();
        for item in items.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (path, version) = item.split_once('#').unwrap_or((item, ""));
            take(Place::FromPath(list, item), grammar::read_latest(path, version));
        }
    }
}

/// Collects the references of a pod template from its annotations and its variables.
#[must_use]
pub fn extract<'a>(
    annotations: &'a Annotations,
    variables: impl IntoIterator<Item = &'a EnvVar>,
) -> Extraction {
    let mut found = Extraction::default();
    each(annotations, variables, |place, reading| found.add(place, reading));
    found
}

impl Extraction {
    fn add(&mut self, place: Place, reading: Reading) {
        let (path, reason) = match reading {
            Reading::Watch(path) => (Some(path), None),
            Reading::WatchOdd(path, reason) => (Some(path), Some(reason)),
            Reading::Skip(reason) => (None, Some(reason)),
        };
        self.paths.extend(path);
        self.notes.extend(reason.map(|reason| Note { origin: place.into(), reason }));
    }
}

/// Finds the references in one value, and what is done about each; a literal has none.
#[must_use]
pub fn read_value(variable: &str, value: &str) -> Vec<Reading> {
    grammar::parse(variable, value).iter().map(grammar::Reference::read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_path_annotations_are_trimmed_and_skip_pinned_items() {
        let annotations: Annotations = [(
            "secrets-webhook.security.bank-vaults.io/vault-from-path",
            " secret/data/a , secret/data/b#1,,secret/data/c#0,secret/data/d#x",
        )]
        .into_iter()
        .collect();
        let found = extract(&annotations, []);
        assert_eq!(found.paths.iter().collect::<Vec<_>>(), ["secret/data/a", "secret/data/c"],);
        let reasons: Vec<_> = found.notes.iter().map(|note| note.reason).collect();
        assert_eq!(reasons, [Reason::Pinned, Reason::BadVersion]);
    }

    #[test]
    fn the_older_annotation_counts_only_where_the_current_is_absent() {
        let older = ("vault.security.banzaicloud.io/vault-env-from-path", "secret/data/old");
        let current =
            ("secrets-webhook.security.bank-vaults.io/vault-from-path", "secret/data/new");
        let paths = |pairs: &[(&str, &str)]| {
            let annotations: Annotations = pairs.iter().copied().collect();
            extract(&annotations, []).paths.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(paths(&[older]), ["secret/data/old"]);
        assert_eq!(paths(&[older, current]), ["secret/data/new"]);
    }

    #[test]
    fn another_provider_is_skipped_and_a_path_is_listed_once() {
        let variables: Vec<EnvVar> = ["vault:secret/data/a#x", "vault:/secret/data/a/#y"]
            .into_iter()
            .map(|value| EnvVar {
                container: "app".to_owned(),
                name: "X".to_owned(),
                value: value.to_owned(),
            })
            .collect();
        assert_eq!(extract(&Annotations::default(), &variables).paths.len(), 1);
        let aws: Annotations =
            [("secrets-webhook.security.bank-vaults.io/provider", "aws")].into_iter().collect();
        let found = extract(&aws, &variables);
        assert!(found.paths.is_empty());
        assert!(found.notes.iter().all(|note| note.reason == Reason::OtherProvider));
    }
}
