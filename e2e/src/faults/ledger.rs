//! The ledger of rotations: the versions that each workload must therefore show, and the counts of
//! missed and doubled reloads.
//!
//! A workload shows a version in one of two cases. Its record has the mark of its template and
//! holds the version. Or its present revision is younger than the version, so that its pods start
//! with the version. The number of reloads is read from `metadata.generation`, which the API server
//! raises with each change of a `spec`. It is compared with the count that the controller writes: a
//! reload that overwrites another one shows in the generation and not in the count.
//!
//! Invariant: the ledger does not rely on the controller's own log.

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};

use crate::state::State;
use crate::vault::Version;
use crate::workload::Workload;

/// A secret and its last rotation.
#[derive(Debug, Clone)]
pub(super) struct Secret {
    /// The path within the mount `secret`.
    pub(super) path: String,
    pub(super) live: Option<Live>,
}

/// The live version of a secret.
#[derive(Debug, Clone)]
pub(super) struct Live {
    /// The version in the form of records.
    spelling: String,
    /// The creation time by the bed's common clock.
    created: Timestamp,
    /// The turn in which the version was made.
    turn: u64,
}

impl Live {
    /// Returns a live version. `shift` is the time that something between Vault and the controller
    /// adds to Vault's times.
    pub(super) fn new(version: &Version, turn: u64, shift: SignedDuration) -> Result<Self> {
        let created: Timestamp = version.created_time.parse().context("created_time")?;
        let seen = created.checked_add(shift)?;
        let spelling = format!("{}@{}", version.version, base36(seen.as_nanosecond()));
        Ok(Self { spelling, created, turn })
    }

    pub(super) fn spelling(&self) -> &str {
        &self.spelling
    }

    /// Whether pods of a revision of this time start with this version. Times of Kubernetes are
    /// rounded down to whole seconds, so the order within one second is not known.
    pub(super) fn is_older_than(&self, revision: Timestamp) -> bool {
        self.created < revision
    }
}

fn base36(nanoseconds: i128) -> String {
    let mut rest = nanoseconds.unsigned_abs();
    let mut digits = Vec::new();
    while rest > 0 {
        digits.extend(u32::try_from(rest % 36).ok().and_then(|digit| char::from_digit(digit, 36)));
        rest /= 36;
    }
    digits.iter().rev().collect()
}

/// A workload, and its allowed changes since the last comparison of counts.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) workload: Workload,
    /// The secrets that the workload refers to.
    pub(super) secrets: Vec<usize>,
    pub(super) opted_in: bool,
    /// The turn of the last deploy. The pods have the versions that were live then.
    pub(super) deployed: u64,
    /// The number of changes of the `spec` by the suite itself.
    pub(super) own_changes: i64,
    /// The most reloads that are right: one for each moment in which a secret of the workload was
    /// rotated.
    pub(super) allowed: i64,
    since: Since,
}

/// The state of a workload at the last comparison of counts.
#[derive(Debug, Clone, Default)]
struct Since {
    uid: String,
    generation: i64,
    count: i64,
}

impl Subject {
    pub(super) fn new(workload: Workload, secrets: Vec<usize>, opted_in: bool) -> Self {
        let since = Since::default();
        Self { workload, secrets, opted_in, deployed: 0, own_changes: 0, allowed: 0, since }
    }

    /// Starts counting from this state.
    pub(super) fn rebase(&mut self, state: &State) {
        self.since = Since {
            uid: state.uid().to_owned(),
            generation: state.generation(),
            count: state.count().unwrap_or_default(),
        };
        self.own_changes = 0;
        self.allowed = 0;
    }

    /// Notes that the suite itself deployed the workload in this turn. Earlier rotations are no
    /// reason for a reload any more.
    pub(super) fn redeployed(&mut self, turn: u64) {
        self.deployed = turn;
        self.own_changes += 1;
        self.allowed = 0;
    }

    /// Notes a rotation of some secrets.
    pub(super) fn rotated(&mut self, secrets: &[usize], moment: Moment) {
        if !self.opted_in {
            return;
        }
        let its = self.secrets.iter().filter(|secret| secrets.contains(secret)).count();
        self.allowed += match moment {
            Moment::One => i64::from(its > 0),
            Moment::Several => i64::try_from(its).unwrap_or(i64::MAX),
        };
    }

    /// Returns the live versions that the workload must show and that its record does not hold.
    pub(super) fn unrecorded<'a>(&self, secrets: &'a [Secret], state: &State) -> Vec<&'a Live> {
        if !self.opted_in {
            return Vec::new();
        }
        let recorded = recorded(state);
        let its = self.live(secrets);
        its.filter(|live| live.turn > self.deployed && !recorded.contains(&live.spelling)).collect()
    }

    /// Returns the creation times of the live versions of its secrets, by the bed's common clock.
    pub(super) fn created(&self, secrets: &[Secret]) -> Vec<Timestamp> {
        self.live(secrets).map(|live| live.created).collect()
    }

    /// Returns the live versions of its secrets.
    fn live<'a>(&self, secrets: &'a [Secret]) -> impl Iterator<Item = &'a Live> {
        self.secrets.iter().filter_map(|secret| secrets.get(*secret)?.live.as_ref())
    }

    /// Returns the number of reloads since the last comparison.
    pub(super) fn reloads(&self, state: &State) -> Reloads {
        let Since { uid, generation, count } = &self.since;
        let (generation, count) =
            if uid == state.uid() { (*generation, *count) } else { (1 - self.own_changes, 0) };
        let changes = state.generation() - generation - self.own_changes;
        let counted = state.count().unwrap_or_default() - count;
        Reloads { changes, counted, allowed: self.allowed }
    }
}

/// Whether polls could come between the rotations of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// No poll came between: a workload with several of the secrets is reloaded once.
    One,
    /// Polls may have come between: each rotation may be seen on its own.
    Several,
}

/// The reloads of a workload since the last comparison of counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reloads {
    /// The number of reloads by the API server's generation.
    changes: i64,
    /// The number of reloads by the controller's count.
    counted: i64,
    allowed: i64,
}

impl Reloads {
    pub(super) fn number(self) -> i64 {
        self.changes.max(self.counted)
    }

    /// The number of reloads without a reason, and of reloads that overwrote another.
    pub(super) fn doubled(self) -> i64 {
        let beyond = (self.number() - self.allowed).max(0);
        beyond.max((self.changes - self.counted).abs())
    }
}

/// Returns the versions of the record, if the record belongs to the present template.
fn recorded(state: &State) -> Vec<String> {
    let Some(record) = state.record() else { return Vec::new() };
    if record["uid"] != state.uid() || record["mark"].as_str() != state.mark() {
        return Vec::new();
    }
    let versions = record["secrets"].as_object().into_iter().flatten();
    versions.filter_map(|(_, version)| version.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workload::{Generation, MARK, RECORD};

    const AT: &str = "2026-11-22T05:51:00.123456789Z";

    fn secret(path: &str, number: u64, turn: u64) -> Secret {
        let version = Version { version: number, created_time: AT.to_owned() };
        let live = Live::new(&version, turn, SignedDuration::ZERO).unwrap();
        Secret { path: path.to_owned(), live: Some(live) }
    }

    fn state(generation: i64, count: &str, mark: &str, versions: &[&str]) -> State {
        let secrets: serde_json::Map<_, _> = versions
            .iter()
            .enumerate()
            .map(|(hash, version)| (hash.to_string(), json!(version)))
            .collect();
        let record = json!({"v": 1, "uid": "u", "mark": "m", "secrets": secrets}).to_string();
        let template = json!({ Generation::Current.count(): count, MARK: mark });
        State {
            object: json!({
                "metadata": {
                    "uid": "u", "generation": generation, "annotations": { RECORD: record },
                },
                "spec": {"template": {"metadata": {"annotations": template}}},
            }),
        }
    }

    fn subject() -> Subject {
        let mut subject = Subject::new(Workload::deployment("a", "b"), vec![0, 1], true);
        subject.rebase(&state(3, "2", "m", &[]));
        subject.deployed = 5;
        subject
    }

    #[test]
    fn the_spelling_is_that_of_records() {
        // As in the tests of `model::record`.
        let version = Version { version: 2, created_time: AT.to_owned() };
        let spell = |hours| {
            let live = Live::new(&version, 0, SignedDuration::from_hours(hours)).unwrap();
            live.spelling().to_owned()
        };
        assert_eq!(spell(0), "2@dn1i6pp0smj9");
        assert_ne!(spell(1), spell(0));
    }

    #[test]
    fn a_version_is_missed_unless_the_record_of_this_template_holds_it() {
        let secrets = [secret("a", 1, 6), secret("b", 2, 7)];
        let missed = |state: &State| subject().unrecorded(&secrets, state).len();
        assert_eq!(missed(&state(4, "3", "m", &["1@dn1i6pp0smj9", "2@dn1i6pp0smj9"])), 0);
        assert_eq!(missed(&state(4, "3", "m", &["1@dn1i6pp0smj9"])), 1);
        assert_eq!(missed(&state(4, "3", "other", &["1@dn1i6pp0smj9", "2@dn1i6pp0smj9"])), 2);
        assert_eq!(missed(&state(4, "3", "m", &[])), 2);
        // The pods have the versions from before the deploy.
        let before = [secret("a", 1, 4), secret("b", 2, 5)];
        assert!(subject().unrecorded(&before, &state(3, "2", "m", &[])).is_empty());
        let opted_out = Subject { opted_in: false, ..subject() };
        assert!(opted_out.unrecorded(&secrets, &state(3, "2", "m", &[])).is_empty());
    }

    #[test]
    fn a_reload_beyond_the_moments_is_doubled_and_so_is_one_that_overwrote_another() {
        let mut subject = subject();
        let doubled = |subject: &Subject, generation, count: &str| {
            subject.reloads(&state(generation, count, "m", &[])).doubled()
        };
        assert_eq!(doubled(&subject, 3, "2"), 0);
        assert_eq!(doubled(&subject, 4, "3"), 1, "none of its secrets was rotated");
        subject.rotated(&[0, 1], Moment::One);
        assert_eq!(doubled(&subject, 4, "3"), 0);
        assert_eq!(doubled(&subject, 5, "4"), 1);
        subject.rotated(&[1, 2], Moment::Several);
        assert_eq!(doubled(&subject, 5, "4"), 0);
        assert_eq!(doubled(&subject, 5, "3"), 1, "two changes, counted once");
        subject.rotated(&[2, 3], Moment::Several);
        assert_eq!(subject.allowed, 2);
        subject.redeployed(9);
        assert_eq!(doubled(&subject, 4, "2"), 0, "the suite's own change");
        assert_eq!(doubled(&subject, 5, "3"), 1, "deployed after the rotations");
    }
}
