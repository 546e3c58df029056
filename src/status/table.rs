//! The table: a row for each rotation and each workload at one moment, and the overview.
//!
//! The rows are small, so that one table can be kept for a moment and answer all requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::api::{self, WORKLOAD_STATES};
use crate::model::secret::{SecretId, Version};
use crate::model::workload::WorkloadId;
use crate::rollouts::rotation::{
    KnownSecret, RotationState, Severity, UserState, is_revocable, rotation_of, severity,
};

/// All rotations and all workloads at one moment.
#[derive(Debug)]
pub struct Table {
    /// The overview.
    pub overview: api::Overview,
    /// The rotations, in order of their secrets.
    pub rotations: Vec<RotationRow>,
    /// The workloads, in order of their names.
    pub workloads: Vec<WorkloadRow>,
}

/// A rotation.
#[derive(Debug)]
pub struct RotationRow {
    /// The secret.
    pub secret: Arc<SecretId>,
    known: KnownSecret,
    worst: Option<Severity>,
    /// Whether each workload runs with the version, or has no pods.
    are_replaced: bool,
    /// The number of workloads by the place of their state in [`WORKLOAD_STATES`].
    counts: [u64; WORKLOAD_STATES.len()],
}

impl RotationRow {
    /// Returns the rotation of a secret without workloads.
    pub(super) fn new(secret: &Arc<SecretId>, known: KnownSecret) -> Self {
        let (secret, counts) = (Arc::clone(secret), [0; WORKLOAD_STATES.len()]);
        Self { secret, known, worst: None, are_replaced: true, counts }
    }

    /// Adds a workload by its state and the name of that state.
    pub(super) fn add(&mut self, state: &UserState, name: &str) {
        self.worst = self.worst.max(Some(severity(state)));
        self.are_replaced &= is_revocable(RotationState::Complete, [state]);
        if let Some(count) = self.counts.get_mut(api::rank(name)) {
            *count += 1;
        }
    }

    /// Returns the state of the rotation.
    #[must_use]
    pub fn state(&self) -> RotationState {
        rotation_of(&self.known, self.worst)
    }

    /// Returns the key by which the rotations are in order: see [`api::Secret::key`].
    #[must_use]
    pub fn key(&self) -> String {
        api_secret(&self.secret).key()
    }

    /// Whether the secret has all words of a search in its server, its Vault namespace or its path.
    #[must_use]
    pub fn is_found_by(&self, search: &Search) -> bool {
        let SecretId { connection, namespace, path } = &*self.secret;
        search.finds(&[connection.as_ref(), namespace.as_deref().unwrap_or(""), path.as_ref()])
    }

    /// Returns the rotation as the API shows it.
    #[must_use]
    pub fn rotation(&self) -> api::Rotation {
        let counts = WORKLOAD_STATES.iter().zip(self.counts).filter(|(_, count)| *count > 0);
        let workloads: BTreeMap<_, _> =
            counts.map(|(name, count)| ((*name).to_owned(), count)).collect();
        let state = self.state();
        api::Rotation {
            secret: api_secret(&self.secret),
            version: self.known.version.map(api_version),
            read_at: self.known.read_at,
            state: state.name().to_owned(),
            revocable: state == RotationState::Complete && self.are_replaced,
            workloads,
        }
    }
}

/// A workload with the worst state of its secrets.
#[derive(Debug)]
pub struct WorkloadRow {
    name: Box<str>,
    secrets: u64,
    state: &'static str,
}

impl WorkloadRow {
    /// Returns the row of a workload without secrets.
    pub(super) fn new(id: &WorkloadId) -> Self {
        Self { name: id.to_string().into(), secrets: 0, state: "complete" }
    }

    /// Adds a secret, by the name of the workload's state for this secret.
    pub(super) fn add(&mut self, state: &'static str) {
        self.secrets += 1;
        if api::rank(state) < api::rank(self.state) {
            self.state = state;
        }
    }

    /// Returns the workload, as `namespace/Kind/name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the worst state of the secrets.
    #[must_use]
    pub fn state(&self) -> &'static str {
        self.state
    }

    /// Whether the workload is in a Kubernetes namespace.
    #[must_use]
    pub fn is_in(&self, namespace: &str) -> bool {
        self.name.split('/').next() == Some(namespace)
    }

    /// Returns the workload as the API shows it.
    #[must_use]
    pub fn workload(&self) -> api::Workload {
        let (workload, state) = (self.name.as_ref().to_owned(), self.state.to_owned());
        api::Workload { workload, secrets: self.secrets, state }
    }
}

/// The words of a search. Upper and lower case of ASCII letters count as the same.
#[derive(Debug, Default)]
pub struct Search(Vec<Box<str>>);

impl Search {
    /// Returns the search for all words of a text, with blanks between them.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.split_whitespace().map(Into::into).collect())
    }

    /// Whether each word is in one of the texts.
    #[must_use]
    pub fn finds(&self, texts: &[&str]) -> bool {
        self.0.iter().all(|word| texts.iter().any(|text| contains(text, word)))
    }
}

fn contains(text: &str, word: &str) -> bool {
    // A word is never empty.
    let mut parts = text.as_bytes().windows(word.len().max(1));
    parts.any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

/// Returns a secret as the API shows it.
pub(super) fn api_secret(secret: &SecretId) -> api::Secret {
    api::Secret {
        server: secret.connection.as_ref().to_owned(),
        namespace: secret.namespace.as_deref().map(str::to_owned),
        path: secret.path.as_ref().to_owned(),
    }
}

/// Returns a version as the API shows it.
pub(super) fn api_version(version: Version) -> api::Version {
    api::Version { number: version.number, created: version.created }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_finds_all_its_words_in_any_text_and_case() {
        for (search, expected) in [
            ("", true),
            ("  ", true),
            ("mysql", true),
            ("MySQL", true),
            ("data/my", true),
            ("team secret", true),
            ("mysql other", false),
            ("secret/data/mysql/longer", false),
            ("teamsecret", false),
            ("\u{e9}", false),
        ] {
            let found = Search::new(search).finds(&["default", "team", "secret/data/mySql"]);
            assert_eq!(found, expected, "{search:?}");
        }
    }
}
