//! What was rotated and when, what each workload must therefore show, and the two counts that
//! follow: missed and doubled.
//!
//! A workload shows a version when its record, with the mark that its template has, holds it; or
//! when its present revision is younger than the version, so that its pods start with it. How often
//! it was reloaded is read from `metadata.generation`, which the API server raises with each change
//! of a `spec`, and compared with the count that the controller writes: a reload that overwrites
//! another one shows in the first and not in the second.
//!
//! Invariant: nothing in here hangs on what the controller says of itself.

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};

use crate::state::State;
use crate::vault::Version;
use crate::workload::Workload;

/// A secret, as it was rotated last.
#[derive(Debug, Clone)]
pub(super) struct Secret {
    /// Its path within the mount `secret`.
    pub(super) path: String,
    pub(super) live: Option<Live>,
}

/// The version of a secret that is live.
#[derive(Debug, Clone)]
pub(super) struct Live {
    /// As records spell it.
    spelling: String,
    /// When it was created, by the bed's one clock.
    created: Timestamp,
    /// The turn in which it was made.
    turn: u64,
}

impl Live {
    /// `shift` is what something between Vault and the controller adds to its times.
    pub(super) fn new(version: &Version, turn: u64, shift: SignedDuration) -> Result<Self> {
        let created: Timestamp = version.created_time.parse().context("created_time")?;
        let seen = created.checked_add(shift)?;
        let spelling = format!("{}@{}", version.version, base36(seen.as_nanosecond()));
        Ok(Self { spelling, created, turn })
    }

    pub(super) fn spelling(&self) -> &str {
        &self.spelling
    }

    /// Whether a revision of that time has pods that start with this version. Kubernetes has whole
    /// seconds, rounded down: within the same second it is not known.
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

/// A workload, and what it may do since the counts were last compared.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) workload: Workload,
    /// Which secrets it refers to.
    pub(super) secrets: Vec<usize>,
    pub(super) opted_in: bool,
    /// The turn of its last deploy: its pods have what was live then.
    pub(super) deployed: u64,
    /// How often its `spec` was changed by the suite itself.
    pub(super) own_changes: i64,
    /// The most reloads that are right: one for each moment in which a secret of it was rotated.
    pub(super) allowed: i64,
    since: Since,
}

/// A workload as it was when the counts were last compared.
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

    /// Counts from here on.
    pub(super) fn rebase(&mut self, state: &State) {
        self.since = Since {
            uid: state.uid().to_owned(),
            generation: state.generation(),
            count: state.count().unwrap_or_default(),
        };
        self.own_changes = 0;
        self.allowed = 0;
    }

    /// Notes that the suite itself deployed it in this turn: what was rotated before is no reason
    /// for a reload any more.
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

    /// The live versions that it must show and whose presence its record does not tell.
    pub(super) fn unrecorded<'a>(&self, secrets: &'a [Secret], state: &State) -> Vec<&'a Live> {
        if !self.opted_in {
            return Vec::new();
        }
        let recorded = recorded(state);
        let its = self.live(secrets);
        its.filter(|live| live.turn > self.deployed && !recorded.contains(&live.spelling)).collect()
    }

    /// When the live versions of its secrets were created, by the bed's one clock.
    pub(super) fn created(&self, secrets: &[Secret]) -> Vec<Timestamp> {
        self.live(secrets).map(|live| live.created).collect()
    }

    /// The live versions of its secrets.
    fn live<'a>(&self, secrets: &'a [Secret]) -> impl Iterator<Item = &'a Live> {
        self.secrets.iter().filter_map(|secret| secrets.get(*secret)?.live.as_ref())
    }

    /// How often it was reloaded.
    pub(super) fn reloads(&self, state: &State) -> Reloads {
        let Since { uid, generation, count } = &self.since;
        let (generation, count) =
            if uid == state.uid() { (*generation, *count) } else { (1 - self.own_changes, 0) };
        let changes = state.generation() - generation - self.own_changes;
        let counted = state.count().unwrap_or_default() - count;
        Reloads { changes, counted, allowed: self.allowed }
    }
}

/// Whether polls could come in between the rotations of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// None did: whoever uses several of the secrets is reloaded once.
    One,
    /// Some may have: each rotation may be seen on its own.
    Several,
}

/// The reloads of a workload since the counts were last compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reloads {
    /// By what the API server counts.
    changes: i64,
    /// By what the controller counts.
    counted: i64,
    allowed: i64,
}

impl Reloads {
    pub(super) fn number(self) -> i64 {
        self.changes.max(self.counted)
    }

    /// Those that nothing speaks for, and those that overwrote another.
    pub(super) fn doubled(self) -> i64 {
        let beyond = (self.number() - self.allowed).max(0);
        beyond.max((self.changes - self.counted).abs())
    }
}

/// The versions of the record, if it speaks of the present template.
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
        // The same as in the tests of `core::record`.
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
        // What was rotated before the deploy is with the pods.
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
