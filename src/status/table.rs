//! The table: a row for each rotation and each workload at one moment, and the overview.
//!
//! The rows are small, so that one table can be kept for a moment and answer all requests.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::api::{self, WORKLOAD_STATES};
use super::words;
use crate::model::secret::{SecretId, Version};
use crate::model::workload::WorkloadId;
use crate::rollouts::rotation::{
    KnownSecret, RotationState, Severity, UserState, is_replaced, rotation_of, severity,
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
    counts: [u32; WORKLOAD_STATES.len()],
}

impl RotationRow {
    /// Returns the rotation of a secret without workloads.
    pub(super) fn new(secret: &Arc<SecretId>, known: KnownSecret) -> Self {
        let (secret, counts) = (Arc::clone(secret), [0; WORKLOAD_STATES.len()]);
        Self { secret, known, worst: None, are_replaced: true, counts }
    }

    /// Adds a workload by its state.
    pub(super) fn add(&mut self, state: &UserState) {
        self.worst = self.worst.max(Some(severity(state)));
        self.are_replaced &= is_replaced(state);
        if let Some(count) = self.counts.get_mut(api::rank(words::name(state))) {
            *count += 1;
        }
    }

    /// Returns what is known of the secret.
    pub(super) fn known(&self) -> &KnownSecret {
        &self.known
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
            counts.map(|(name, count)| ((*name).to_owned(), u64::from(count))).collect();
        let state = self.state();
        api::Rotation {
            secret: api_secret(&self.secret),
            version: self.known.version.map(api_version),
            read_at: self.known.read_at,
            state: state.name().to_owned(),
            // No pod can use an earlier version any more.
            revocable: state == RotationState::Complete && self.are_replaced,
            workloads,
        }
    }
}

/// A workload with the worst state of its secrets.
#[derive(Debug)]
pub struct WorkloadRow {
    id: WorkloadId,
    secrets: u32,
    /// The place of the worst state in [`WORKLOAD_STATES`].
    rank: u8,
}

impl WorkloadRow {
    /// Returns the row of a workload without secrets.
    pub(super) fn new(id: &WorkloadId) -> Self {
        Self { id: id.clone(), secrets: 0, rank: u8::MAX }
    }

    /// Adds a secret, by the workload's state for this secret.
    pub(super) fn add(&mut self, state: &UserState) {
        self.secrets += 1;
        let rank = api::rank(words::name(state));
        self.rank = self.rank.min(u8::try_from(rank).unwrap_or(u8::MAX));
    }

    /// Returns the name of the workload.
    #[must_use]
    pub fn id(&self) -> &WorkloadId {
        &self.id
    }

    /// Returns the worst state of the secrets.
    #[must_use]
    pub fn state(&self) -> &'static str {
        WORKLOAD_STATES.get(usize::from(self.rank)).copied().unwrap_or("complete")
    }

    /// Whether the workload is in a Kubernetes namespace.
    #[must_use]
    pub fn is_in(&self, namespace: &str) -> bool {
        *self.id.namespace == *namespace
    }

    /// Whether the name of the workload, as `namespace/Kind/name`, has all words of a search.
    #[must_use]
    pub fn is_found_by(&self, search: &Search) -> bool {
        search.is_empty() || search.finds(&[&self.id.to_string()])
    }

    /// Returns the workload as the API shows it.
    #[must_use]
    pub fn workload(&self) -> api::Workload {
        let (workload, state) = (self.id.to_string(), self.state().to_owned());
        api::Workload { workload, secrets: u64::from(self.secrets), state }
    }
}

/// Compares two names of workloads as their texts `namespace/Kind/name` compare.
pub(super) fn by_name(one: &WorkloadId, other: &WorkloadId) -> Ordering {
    if one.namespace == other.namespace {
        return (one.kind.name(), &one.name).cmp(&(other.kind.name(), &other.name));
    }
    // A dash comes before the slash, and letters come after it.
    text_of(one).cmp(text_of(other))
}

fn text_of(id: &WorkloadId) -> impl Iterator<Item = u8> + '_ {
    id.namespace.as_bytes().iter().chain(b"/").copied()
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

    /// Whether there are no words, so that everything is found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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
    use crate::model::fixtures::{secret, version, workload};
    use crate::model::kind::Kind;
    use crate::model::progress::{RolloutFailure, Silence};
    use crate::rollouts::rotation::Reading;

    #[test]
    fn a_rotation_is_revocable_when_all_pods_are_replaced() {
        let version = Some(version(2, 9));
        let known = KnownSecret { reading: Reading::Live, version, ..KnownSecret::UNREAD };
        let is_revocable = |known, states: &[UserState]| {
            let mut row = RotationRow::new(&secret("a"), known);
            for state in states {
                row.add(state);
            }
            row.rotation().revocable
        };
        let without_pods = UserState::Silent(Silence::NoReplicas);
        let silent = UserState::Silent(Silence::OnDelete);
        let alone = UserState::FailedAlone(RolloutFailure::TimedOut);
        assert!(is_revocable(known, &[]));
        assert!(is_revocable(known, &[UserState::Complete, without_pods]));
        assert!(!is_revocable(known, &[UserState::Complete, silent]));
        assert!(!is_revocable(known, &[UserState::Complete, alone]));
        let gone = KnownSecret { reading: Reading::Gone, ..known };
        assert!(!is_revocable(gone, &[UserState::Complete]));
    }

    #[test]
    fn rows_are_small() {
        // One table has a row for each of tens of thousands of secrets and workloads.
        assert!(size_of::<RotationRow>() <= 120, "{}", size_of::<RotationRow>());
        assert!(size_of::<WorkloadRow>() <= 48, "{}", size_of::<WorkloadRow>());
    }

    #[test]
    fn workloads_are_in_order_of_their_texts() {
        let mut ids = Vec::new();
        for namespace in ["a", "a-b", "ab", "a0", "b"] {
            for kind in Kind::ALL {
                for name in ["web", "web-1", "api"] {
                    let (namespace, name) = (namespace.into(), name.into());
                    ids.push(WorkloadId { kind, namespace, name });
                }
            }
        }
        let mut texts: Vec<_> = ids.iter().map(ToString::to_string).collect();
        texts.sort_unstable();
        ids.sort_unstable_by(by_name);
        assert_eq!(ids.iter().map(ToString::to_string).collect::<Vec<_>>(), texts);
    }

    #[test]
    fn a_workload_has_the_worst_state_of_its_secrets() {
        let mut row = WorkloadRow::new(&workload("web", &[]).id);
        assert_eq!((row.state(), row.secrets), ("complete", 0));
        let state = |row: &mut WorkloadRow, state| {
            row.add(&state);
            row.state()
        };
        assert_eq!(state(&mut row, UserState::Complete), "complete");
        assert_eq!(state(&mut row, UserState::TakenBack), "takenBack");
        assert_eq!(state(&mut row, UserState::Running), "takenBack");
        assert_eq!(row.workload().secrets, 3);
    }

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
