//! One test per rule of the plan.

use super::*;
use crate::model::fixtures::{recorded, second, secret, version, workload};
use crate::model::record::Recorded;

mod plans;

/// One secret of one workload. The workload was created at second 0, its present template entered
/// before poll 5, and its revision was made at second 100.
struct Row {
    recorded: Option<Recorded>,
    live: Observation,
    seen: PollNumber,
    last_poll_with_other_version: PollNumber,
    settled_since: PollNumber,
    observed: bool,
    revision: Option<Lookup<'static>>,
    copies: Vec<Copied>,
    rules: Rules,
}

impl Row {
    fn live(version: Version) -> Self {
        Self {
            recorded: None,
            live: Observation::Live(version),
            seen: 9,
            last_poll_with_other_version: 0,
            observed: true,
            revision: None,
            copies: Vec::new(),
            rules: Rules::default(),
            settled_since: 5,
        }
    }

    fn recorded(self, of_this_template: bool, version: Version) -> Self {
        Self { recorded: Some(recorded(of_this_template, &[("a", version)])), ..self }
    }

    fn verdict(self) -> Verdict {
        let workload = Workload {
            observed: self.observed,
            recorded: self.recorded,
            created: second(1_000_000),
            ..workload("web", &["a"])
        };
        let revision = Revision { created: second(1_000_100), copies: self.copies.into() };
        let case = DecisionInput {
            workload: &workload,
            template_first_poll: 5,
            revision: self.revision.unwrap_or(Lookup::Found(&revision)),
            past: &ReloadHistory::default(),
        };
        let Self { seen, last_poll_with_other_version, settled_since, .. } = self;
        let observed = ObservedVersion {
            seen,
            last_poll_with_other_version,
            settled_since,
            ..ObservedVersion::of(self.live)
        };
        verdict(&case, &secret("a"), observed, &self.rules)
    }
}

/// A version from before the workload's revision. `new` is from after the revision.
fn old() -> Version {
    version(1, 1_000_050)
}

fn new() -> Version {
    version(2, 1_000_200)
}

#[test]
fn an_error_is_never_a_change() {
    let row =
        Row { live: Observation::Unknown, last_poll_with_other_version: 9, ..Row::live(new()) };
    assert_eq!(row.recorded(true, old()).verdict(), Verdict::Undetermined);
    let row = Row { live: Observation::Gone, last_poll_with_other_version: 9, ..Row::live(new()) };
    assert_eq!(row.recorded(true, old()).verdict(), Verdict::Gone);
}

#[test]
fn what_is_recorded_for_this_template_is_known() {
    assert_eq!(Row::live(new()).recorded(true, new()).verdict(), Verdict::Same);
    // Earlier observations do not matter: the pods started with this version, or later.
    let row = Row { last_poll_with_other_version: 9, ..Row::live(new()) };
    assert_eq!(row.recorded(true, new()).verdict(), Verdict::Same);
}

#[test]
fn what_was_seen_to_change_needs_no_clock_and_no_request() {
    let row = Row {
        last_poll_with_other_version: 5,
        revision: Some(Lookup::NotAsked),
        ..Row::live(new())
    };
    assert_eq!(row.verdict(), Verdict::Changed(Cause::Witnessed));
    let row = Row { last_poll_with_other_version: 5, observed: false, ..Row::live(old()) };
    assert_eq!(row.verdict(), Verdict::Changed(Cause::Witnessed));
    // The other version was seen before the template was there. The pods started later.
    let row = Row { last_poll_with_other_version: 4, ..Row::live(old()) };
    assert_eq!(row.verdict(), Verdict::Same);
}

#[test]
fn a_version_that_is_older_than_what_is_recorded_is_a_restored_storage() {
    for of_this_template in [true, false] {
        let row = Row::live(old()).recorded(of_this_template, new());
        assert_eq!(row.verdict(), Verdict::Changed(Cause::Restored));
    }
    // The older version may come from a standby until nothing else was seen for a while since the
    // template came.
    let row = Row { settled_since: 4, ..Row::live(old()) };
    assert_eq!(row.recorded(true, new()).verdict(), Verdict::Unsettled);
    // A workload without a record takes the live version, whatever other workloads have on record.
    assert_eq!(Row { settled_since: 0, ..Row::live(old()) }.verdict(), Verdict::Same);
    // The number alone is no evidence: a secret that was deleted and made again starts at 1.
    let row = Row::live(version(1, 1_000_200)).recorded(true, version(3, 1_000_050));
    assert_eq!(row.verdict(), Verdict::Changed(Cause::Found));
}

#[test]
fn the_record_of_another_default_server_causes_a_reload_only_if_the_own_version_is_older() {
    // Two installations name different servers `default`. The record is from the other one, and
    // this server has an older version.
    let row = Row::live(old()).recorded(true, new());
    assert_eq!(row.verdict(), Verdict::Changed(Cause::Restored));
    // This server has a newer version than the record, from before the reload of the other one.
    let row = Row::live(version(2, 1_000_060)).recorded(true, version(1, 1_000_050));
    assert_eq!(row.verdict(), Verdict::Same);
}

#[test]
fn what_was_created_before_the_revision_is_what_its_pods_have() {
    assert_eq!(Row::live(old()).verdict(), Verdict::Same);
    assert_eq!(Row::live(new()).verdict(), Verdict::Changed(Cause::Found));
    // The same second: a needless reload is better than a missed one.
    let row = Row::live(version(2, 1_000_100));
    assert_eq!(row.verdict(), Verdict::Changed(Cause::Found));
    assert_eq!(Row::live(new()).recorded(true, old()).verdict(), Verdict::Changed(Cause::Found));
}

#[test]
fn times_are_compared_on_one_clock() {
    let rules = skewed(-150);
    assert_eq!(Row { rules, ..Row::live(new()) }.verdict(), Verdict::Same);
    let rules = skewed(150);
    let row = Row { rules, ..Row::live(old()) };
    assert_eq!(row.verdict(), Verdict::Changed(Cause::Found));
}

fn skewed(seconds: i64) -> Rules {
    Rules { skew: SignedDuration::from_secs(seconds), ..Rules::default() }
}

fn settling(seconds: i64) -> Rules {
    Rules { settle: SignedDuration::from_secs(seconds), vault_now: second(1_000_202), ..skewed(0) }
}

#[test]
fn pods_that_started_within_the_settle_time_may_have_the_version_before() {
    // The version is of second 50, the revision of second 100.
    for (settle, expected) in
        [(0, Verdict::Same), (49, Verdict::Same), (50, Verdict::Changed(Cause::Found))]
    {
        let row = Row { rules: settling(settle), ..Row::live(old()) };
        assert_eq!(row.verdict(), expected, "{settle}");
    }
}

#[test]
fn nothing_is_reloaded_within_the_settle_time() {
    // The version is of second 200, and now it is second 202.
    for (settle, expected) in [
        (0, Verdict::Changed(Cause::Witnessed)),
        (2, Verdict::Changed(Cause::Witnessed)),
        (3, Verdict::Unsettled),
    ] {
        let row =
            Row { rules: settling(settle), last_poll_with_other_version: 5, ..Row::live(new()) };
        assert_eq!(row.verdict(), expected, "{settle}");
    }
    // A version that the pods have need not settle.
    let row = Row { rules: settling(3), ..Row::live(new()) };
    assert_eq!(row.recorded(true, new()).verdict(), Verdict::Same);
    // A version from an hour ahead was created by a node with a wrong clock.
    let ahead = version(2, 1_003_802);
    let row = Row { rules: settling(3), last_poll_with_other_version: 5, ..Row::live(ahead) };
    assert_eq!(row.verdict(), Verdict::Changed(Cause::Witnessed));
}

#[test]
fn pods_of_an_object_that_is_younger_than_they_are_count_by_their_revision() {
    // The workload was created at second 0, and adopted pods of a revision from a month before.
    let month = 30 * 24 * 3600;
    let revision = Revision { created: second(1_000_000 - month), copies: Arc::new([]) };
    let web = Workload { created: second(1_000_000), ..workload("web", &["a"]) };
    let past = ReloadHistory::default();
    let case = DecisionInput {
        workload: &web,
        template_first_poll: 5,
        revision: Lookup::Found(&revision),
        past: &past,
    };
    let seen = |seconds| ObservedVersion::of(Observation::Live(version(2, 1_000_000 + seconds)));
    let verdict = |observed| verdict(&case, &secret("a"), observed, &Rules::default());
    assert_eq!(verdict(seen(-2 * 24 * 3600)), Verdict::Changed(Cause::Found));
    assert_eq!(verdict(seen(-month - 1)), Verdict::Same);
}

/// The verdict about a workload whose record has the old version for its present template.
fn verdict_with_record(observed: ObservedVersion, rules: &Rules) -> Verdict {
    let workload =
        Workload { recorded: Some(recorded(true, &[("a", old())])), ..workload("web", &["a"]) };
    let past = ReloadHistory::default();
    let revision = Revision { created: second(1_000_100), copies: Arc::new([]) };
    let lookup = Lookup::Found(&revision);
    let case = DecisionInput {
        workload: &workload,
        template_first_poll: 5,
        revision: lookup,
        past: &past,
    };
    verdict(&case, &secret("a"), observed, rules)
}

#[test]
fn pods_that_started_without_a_secret_are_reloaded_when_it_is_back() {
    let lenient = Rules { ignore_missing: true, ..Rules::default() };
    let row = |last_poll_gone, rules| {
        let observed =
            ObservedVersion { last_poll_gone, ..ObservedVersion::of(Observation::Live(old())) };
        verdict_with_record(observed, &rules)
    };
    assert_eq!(row(5, lenient), Verdict::Changed(Cause::Witnessed));
    // The secret was missing before the present template came, or the pods wait for the missing
    // secret.
    assert_eq!(row(4, lenient), Verdict::Same);
    assert_eq!(row(5, Rules::default()), Verdict::Same);
    // A reload while the secret was gone records it as missing.
    let row = |of_this_template, seen| {
        let row = Row { rules: lenient, seen, ..Row::live(old()) };
        row.recorded(of_this_template, Version::MISSING).verdict()
    };
    assert_eq!(row(true, 5), Verdict::Changed(Cause::Found));
    assert_eq!(row(false, 5), Verdict::Same);
    // An observation from before that reload, by another process, is older than the observation of
    // that process.
    assert_eq!(row(true, 4), Verdict::Undetermined);
    // A reload for the return of the secret was taken back. A reload from before it was gone is no
    // evidence.
    for (is_later, expected) in [(true, Verdict::Reverted), (false, Verdict::Changed(Cause::Found))]
    {
        let copies = vec![Copied { secret: secret("a").hash64(), version: old(), is_later }];
        let row = Row { rules: lenient, copies, ..Row::live(old()) };
        assert_eq!(row.recorded(true, Version::MISSING).verdict(), expected);
    }
    // A version that was created since can have been rolled out only since, whatever the date of
    // the ReplicaSet with the copy.
    let copies = vec![Copied { secret: secret("a").hash64(), version: new(), is_later: false }];
    let row = Row { rules: lenient, copies, ..Row::live(new()) };
    assert_eq!(row.recorded(true, Version::MISSING).verdict(), Verdict::Reverted);
}

#[test]
fn a_newer_version_that_was_seen_counts_before_the_record() {
    // Pods were renewed while version 2 was live. Then the storage was restored to the recorded
    // version.
    let row = |last_poll_with_other_version, other_version_created| {
        let other_version_created = Some(second(other_version_created));
        let observed = ObservedVersion {
            last_poll_with_other_version,
            other_version_created,
            ..ObservedVersion::of(Observation::Live(old()))
        };
        verdict_with_record(observed, &Rules::default())
    };
    assert_eq!(row(5, 1_000_200), Verdict::Changed(Cause::Restored));
    assert_eq!(row(4, 1_000_200), Verdict::Same);
    // A standby that lagged behind.
    assert_eq!(row(5, 1_000_010), Verdict::Same);
}

#[test]
fn a_revision_is_asked_for_only_where_the_answer_hangs_on_it() {
    let not_asked = |row: Row| Row { revision: Some(Lookup::NotAsked), ..row }.verdict();
    assert_eq!(not_asked(Row::live(new())), Verdict::AskRevision);
    assert_eq!(not_asked(Row::live(old())), Verdict::AskRevision);
    let rules = Rules { ignore_versions_before: Some(second(1_000_201)), ..Rules::default() };
    assert_eq!(not_asked(Row { rules, ..Row::live(new()) }), Verdict::Same);
    // A record is better evidence than a date.
    let row = Row { rules, ..Row::live(new()) }.recorded(true, old());
    assert_eq!(not_asked(row), Verdict::AskRevision);
}

#[test]
fn what_its_controller_has_not_seen_waits() {
    let row = Row { observed: false, ..Row::live(new()) };
    assert_eq!(row.verdict(), Verdict::Wait);
    let row = Row { revision: Some(Lookup::Unavailable), ..Row::live(new()) };
    assert_eq!(row.verdict(), Verdict::Wait);
}

#[test]
fn a_reload_that_was_taken_back_is_not_fought() {
    // The record is still there, but its template is not.
    assert_eq!(Row::live(new()).recorded(false, new()).verdict(), Verdict::Reverted);
    // The record went back with the template. Its copy on the newer revision is the evidence.
    let copy = Copied { secret: secret("a").hash64(), version: new(), is_later: true };
    let copies = vec![copy];
    let row = Row { copies, ..Row::live(new()) };
    assert_eq!(row.recorded(true, old()).verdict(), Verdict::Reverted);
    // A later version is an ordinary change.
    let row = Row { copies: vec![copy], ..Row::live(version(3, 1_000_300)) };
    assert_eq!(row.verdict(), Verdict::Changed(Cause::Found));
    // A reload for a restored storage was taken back, too.
    let row = Row { copies: vec![copy], ..Row::live(new()) };
    assert_eq!(row.recorded(true, version(3, 1_000_300)).verdict(), Verdict::Reverted);
    // This version was live and rolled out before the newer version as well.
    let copies = vec![Copied { is_later: false, ..copy }];
    let row = Row { copies, ..Row::live(new()) };
    assert_eq!(
        row.recorded(true, version(3, 1_000_300)).verdict(),
        Verdict::Changed(Cause::Restored)
    );
}
