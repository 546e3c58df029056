//! One test per rule of the plan.

use super::*;
use crate::model::fixtures::{recorded, second, secret, version, workload};
use crate::model::record::Recorded;

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

/// Decides about a workload with the secrets a and b, given the observation of each.
fn decided(workload: &Workload, seen: [ObservedVersion; 2], past: &ReloadHistory) -> Decision {
    let revision = Revision { created: second(100), copies: Arc::new([]) };
    let case = DecisionInput {
        workload,
        template_first_poll: 5,
        revision: Lookup::Found(&revision),
        past,
    };
    let of = |id: &Arc<SecretId>| seen[usize::from(&*id.path == "b")];
    decide(&case, of, &Rules::default(), second(1_000))
}

fn saw(observation: Observation) -> ObservedVersion {
    ObservedVersion::of(observation)
}

fn witnessed(number: u64) -> ObservedVersion {
    ObservedVersion {
        last_poll_with_other_version: 5,
        ..saw(Observation::Live(version(number, 200)))
    }
}

fn same() -> ObservedVersion {
    saw(Observation::Live(version(1, 50)))
}

#[test]
fn what_to_do() {
    let web = workload("web", &["a", "b"]);
    let found = saw(Observation::Live(version(2, 200)));
    let gone = saw(Observation::Gone);
    let table = [
        ([same(), same()], Action::Leave),
        ([same(), ObservedVersion::UNKNOWN], Action::Leave),
        ([same(), gone], Action::Leave),
        ([witnessed(2), same()], Action::Roll(Cause::Witnessed)),
        ([witnessed(2), witnessed(2)], Action::Roll(Cause::Witnessed)),
        ([witnessed(2), ObservedVersion::UNKNOWN], Action::Roll(Cause::Witnessed)),
        ([witnessed(2), gone], Action::Hold(Hold::SecretGone)),
        ([found, same()], Action::Roll(Cause::Found)),
        ([found, witnessed(2)], Action::Roll(Cause::Witnessed)),
    ];
    for (seen, expected) in table {
        let decision = decided(&web, seen, &ReloadHistory::default());
        assert_eq!(decision.action, expected, "{seen:?}");
    }
    let deleting = Workload { deleting: true, ..web.clone() };
    let decision = decided(&deleting, [witnessed(2), gone], &ReloadHistory::default());
    assert_eq!(decision.action, Action::Hold(Hold::Deleting));
    assert_eq!((decision.changed, decision.gone), (vec![secret("a")], vec![]));
    let decision = decided(&deleting, [same(), gone], &ReloadHistory::default());
    assert_eq!((decision.action, decision.gone), (Action::Leave, vec![]));
    let lenient = Workload { ignore_missing: true, ..web };
    let decision = decided(&lenient, [witnessed(2), gone], &ReloadHistory::default());
    assert_eq!(decision.action, Action::Roll(Cause::Witnessed));
    assert_eq!(decision.gone, [secret("b")], "it is still reported");
}

#[test]
fn nobody_asks_for_a_revision_that_cannot_matter() {
    let web = workload("web", &["a", "b"]);
    let past = ReloadHistory::default();
    let case = DecisionInput {
        workload: &web,
        template_first_poll: 5,
        revision: Lookup::NotAsked,
        past: &past,
    };
    let action = |seen: [ObservedVersion; 2]| {
        let of = |id: &Arc<SecretId>| seen[usize::from(&*id.path == "b")];
        decide(&case, of, &Rules::default(), second(0)).action
    };
    let found = saw(Observation::Live(version(2, 200)));
    assert_eq!(action([found, found]), Action::AskRevision);
    assert_eq!(action([found, witnessed(2)]), Action::Roll(Cause::Witnessed));
    // The revision decides whether a reload is held. Without a look-up, the hold would not be
    // reported.
    assert_eq!(action([found, saw(Observation::Gone)]), Action::AskRevision);
    assert_eq!(action([witnessed(2), saw(Observation::Gone)]), Action::Hold(Hold::SecretGone));
    let deleting = Workload { deleting: true, ..web.clone() };
    let case = DecisionInput { workload: &deleting, ..case };
    let left = decide(&case, |_| found, &Rules::default(), second(0));
    assert_eq!(left.action, Action::Leave);
    // Nothing was decided about these secrets, so nobody may take their version for known.
    assert_eq!(left.undecided, [secret("a"), secret("b")]);
}

#[test]
fn each_secret_without_a_verdict_is_named() {
    let workload =
        Workload { former_secrets: [secret("former")].into(), ..workload("web", &["a", "b"]) };
    let case = DecisionInput {
        workload: &workload,
        template_first_poll: 5,
        revision: Lookup::NotAsked,
        past: &ReloadHistory::default(),
    };
    let found = saw(Observation::Live(version(2, 200)));
    let decided = |former: ObservedVersion| {
        let of = |id: &Arc<SecretId>| match &*id.path {
            "a" => witnessed(2),
            "b" => found,
            _ => former,
        };
        decide(&case, of, &settling(3), second(0))
    };
    // A former secret whose version settles, or which cannot be read. The revision that `b` needs is
    // not looked up, because `a` decides.
    for former in [saw(Observation::Unknown), witnessed(2)] {
        let decision = decided(former);
        let is_settling = former.observation != Observation::Unknown;
        if !is_settling {
            assert_eq!(decision.undecided, [secret("former"), secret("b")], "{decision:?}");
        }
        assert!(!decision.open.contains(&secret("former")), "it is not reported");
    }
}

#[test]
fn what_is_stripped_again_is_not_fought() {
    let web = workload("web", &["a", "b"]);
    let mut past = ReloadHistory::default();
    let reloaded =
        reload(&web, |_| witnessed(2), &Rules::default(), "m".to_owned(), Circumstances::default());
    past.patched(reloaded.record.clone(), None);
    let seen = [witnessed(2), witnessed(2)];
    let at = |past: &ReloadHistory, now: i64| {
        let revision = Revision { created: second(100), copies: Arc::new([]) };
        let case = DecisionInput {
            workload: &web,
            template_first_poll: 5,
            revision: Lookup::Found(&revision),
            past,
        };
        let of = |id: &Arc<SecretId>| seen[usize::from(&*id.path == "b")];
        decide(&case, of, &Rules::default(), second(now)).action
    };
    // Held for one hour, then one more attempt, then two hours, and so on up to a day.
    let mut now = 1_000;
    for hours in [1, 2, 4, 8, 16, 24, 24] {
        assert_eq!(at(&past, now), Action::Hold(Hold::Stripped));
        assert_eq!(past.stripped(second(now)), SignedDuration::from_hours(hours));
        assert_eq!(at(&past, now + hours * 3600 - 1), Action::Hold(Hold::Stripped));
        now += hours * 3600;
        assert_eq!(at(&past, now), Action::Roll(Cause::Witnessed));
        past.patched(reloaded.record.clone(), None);
    }
    // A version that was not PATCHed before is an ordinary change, also during a hold.
    past.stripped(second(1_000));
    let decision = decided(&web, [witnessed(3), witnessed(2)], &past);
    assert_eq!(decision.action, Action::Roll(Cause::Witnessed));
}

#[test]
fn what_was_reloaded_since_is_not_stripped() {
    let first = workload("web", &["a", "b"]);
    let mut past = ReloadHistory::default();
    let older = reload(
        &first,
        |_| witnessed(9),
        &Rules::default(),
        "our older".to_owned(),
        Circumstances::default(),
    );
    past.patched(older.record, None);
    let reloaded = reload(
        &first,
        |_| witnessed(2),
        &Rules::default(),
        "ours".to_owned(),
        Circumstances::default(),
    );
    past.patched(reloaded.record, Some("before".into()));
    let seen = [witnessed(2), witnessed(2)];
    let with = |mark: &str, of_this_template, number| {
        let entry = version(number, i64::try_from(number).unwrap() * 10_000_000);
        Workload {
            mark: Some(mark.into()),
            recorded: Some(recorded(of_this_template, &[("a", entry), ("b", entry)])),
            ..first.clone()
        }
    };
    // A later version was rolled out since, and then an earlier storage was restored.
    let decision = decided(&with("another", true, 9), seen, &past);
    assert_eq!(decision.action, Action::Roll(Cause::Witnessed));
    // The earlier state was put back, as a whole or in part.
    for web in [
        with("before", true, 9),
        with("our older", true, 9),
        with("ours", false, 9),
        with("another", false, 9),
        with("long ago", true, 0),
    ] {
        assert_eq!(decided(&web, seen, &past).action, Action::Hold(Hold::Stripped));
    }
}

#[test]
fn only_so_many_marks_are_kept() {
    let web = workload("web", &["a"]);
    let mut past = ReloadHistory::default();
    for number in 0..100 {
        let reloaded = reload(
            &web,
            |_| witnessed(2),
            &Rules::default(),
            format!("m{number}"),
            Circumstances::default(),
        );
        past.patched(reloaded.record, (number == 0).then(|| "first".into()));
    }
    let latest: Vec<&str> = past.earlier.iter().map(|mark| &**mark).collect();
    assert_eq!(latest, ["m91", "m92", "m93", "m94", "m95", "m96", "m97", "m98"]);
}

#[test]
fn after_a_failed_patch_the_next_waits() {
    let web = workload("web", &["a", "b"]);
    let past = ReloadHistory { retry_at: Some(second(1_001)), ..ReloadHistory::default() };
    let seen = [witnessed(2), same()];
    assert_eq!(decided(&web, seen, &past).action, Action::Hold(Hold::BackOff));
    // A clock that was a day ahead was set back.
    let past =
        ReloadHistory { retry_at: Some(second(1_000 + 24 * 3600 + 1)), ..ReloadHistory::default() };
    assert_eq!(decided(&web, seen, &past).action, Action::Roll(Cause::Witnessed));
    let past = ReloadHistory { retry_at: Some(second(1_000)), ..ReloadHistory::default() };
    assert_eq!(decided(&web, seen, &past).action, Action::Roll(Cause::Witnessed));
}

#[test]
fn a_record_takes_over_what_is_live_and_keeps_what_is_not_known() {
    let web = Workload {
        count: 6,
        recorded: Some(recorded(
            true,
            &[
                ("a", version(1, 10)),
                ("b", version(1, 11)),
                ("c", version(1, 12)),
                ("x", version(9, 9)),
            ],
        )),
        ..workload("web", &["a", "b", "c", "d"])
    };
    let of = |id: &Arc<SecretId>| match &*id.path {
        "a" => saw(Observation::Live(version(2, 20))),
        "b" => saw(Observation::Gone),
        _ => ObservedVersion::UNKNOWN,
    };
    let reload = reload(&web, of, &Rules::default(), "fresh".to_owned(), Circumstances::default());
    assert_eq!(reload.count, 7);
    assert_eq!(reload.record.mark, "fresh");
    assert_eq!(reload.record.uid, "uid-of-web");
    let version_of = |path: &str| reload.record.versions.get(secret(path).hash64());
    assert_eq!(version_of("a"), Some(version(2, 20)));
    assert_eq!(version_of("b"), Some(version(1, 11)));
    assert_eq!(version_of("c"), Some(version(1, 12)));
    assert_eq!(version_of("d"), None, "nothing is known of it");
    assert_eq!(version_of("x"), None, "it is not referred to any more");
}

/// Decides about a workload whose secret a has a version of `age` seconds, and b one of a second. The
/// settle time is three seconds.
fn decided_while_b_settles(age: i64) -> (Decision, Reload) {
    let now = 1_000;
    let rules =
        Rules { settle: SignedDuration::from_secs(3), vault_now: second(now), ..Rules::default() };
    let web = Workload {
        recorded: Some(recorded(true, &[("a", version(1, 10)), ("b", version(1, 11))])),
        ..workload("web", &["a", "b"])
    };
    let of = |id: &Arc<SecretId>| {
        let age = if &*id.path == "a" { age } else { 1 };
        ObservedVersion {
            last_poll_with_other_version: 5,
            ..saw(Observation::Live(version(2, now - age)))
        }
    };
    let past = ReloadHistory::default();
    let case = DecisionInput {
        workload: &web,
        template_first_poll: 5,
        revision: Lookup::NotAsked,
        past: &past,
    };
    (
        decide(&case, of, &rules, second(now)),
        reload(&web, of, &rules, "m".to_owned(), Circumstances::default()),
    )
}

#[test]
fn a_settling_version_is_not_recorded_by_a_reload_for_another_secret() {
    let (decision, reload) = decided_while_b_settles(6);
    assert_eq!((decision.action, decision.unsettled), (Action::Roll(Cause::Witnessed), true));
    let version_of = |path: &str| reload.record.versions.get(secret(path).hash64());
    assert_eq!(version_of("a"), Some(version(2, 994)));
    assert_eq!(version_of("b"), Some(version(1, 11)), "the new pods may have read this one");
}

#[test]
fn secrets_that_are_rotated_together_are_one_reload() {
    for age in [3, 5] {
        let (decision, _) = decided_while_b_settles(age);
        assert_eq!((decision.action, decision.unsettled), (Action::Leave, true), "{age} s");
    }
}

#[test]
fn no_time_is_out_of_range() {
    for extreme in [Timestamp::MIN, Timestamp::MAX] {
        let live = Version { number: 1, created: extreme };
        for end in [SignedDuration::MIN, SignedDuration::MAX] {
            let rules = Rules { skew: end, settle: end, vault_now: extreme, ..Rules::default() };
            Row { rules, ..Row::live(live) }.recorded(false, old()).verdict();
        }
    }
    let mut past = ReloadHistory { stripped: u32::MAX, ..ReloadHistory::default() };
    assert_eq!(past.stripped(Timestamp::MAX), LONGEST_STRIPPED_HOLD);
}

#[test]
fn a_former_secret_reloads_and_need_not_be_there() {
    let workload =
        Workload { former_secrets: [secret("former")].into(), ..workload("web", &["a"]) };
    let revision = Revision { created: second(1_000_100), copies: Arc::default() };
    let case = DecisionInput {
        workload: &workload,
        template_first_poll: 5,
        revision: Lookup::Found(&revision),
        past: &ReloadHistory::default(),
    };
    let decided = |former: Observation, last_poll_with_other_version| {
        let observed = |of: &Arc<SecretId>| {
            if *of == secret("a") {
                return ObservedVersion::of(Observation::Live(old()));
            }
            ObservedVersion {
                last_poll_with_other_version,
                last_poll_gone: 9,
                ..ObservedVersion::of(former)
            }
        };
        let decision = decide(&case, observed, &Rules::default(), second(2_000_000));
        assert!(decision.gone.is_empty() && decision.open.is_empty());
        let written = reload(
            &workload,
            observed,
            &Rules::default(),
            "m".to_owned(),
            Circumstances::default(),
        )
        .record
        .versions;
        assert_eq!(written.get(secret("former").hash64()), None);
        (decision.action, decision.changed)
    };
    let changed = |cause| (Action::Roll(cause), vec![secret("former")]);
    assert_eq!(decided(Observation::Live(new()), 5), changed(Cause::Witnessed));
    assert_eq!(decided(Observation::Live(new()), 0), changed(Cause::Found));
    for left in [Observation::Live(old()), Observation::Gone, Observation::Unknown] {
        assert_eq!(decided(left, 0), (Action::Leave, vec![]));
    }
}

#[test]
fn a_former_secret_that_was_reloaded_for_and_taken_back_is_not_fought_for() {
    let workload =
        Workload { former_secrets: [secret("former")].into(), ..workload("web", &["a"]) };
    let revision = Revision { created: second(1_000_100), copies: Arc::default() };
    let mut past = ReloadHistory::default();
    let decided = |past: &ReloadHistory| {
        let lookup = Lookup::Found(&revision);
        let case =
            DecisionInput { workload: &workload, template_first_poll: 5, revision: lookup, past };
        let live = |of: &Arc<SecretId>| if *of == secret("a") { old() } else { new() };
        let observed = |of: &Arc<SecretId>| ObservedVersion::of(Observation::Live(live(of)));
        decide(&case, observed, &Rules::default(), second(2_000_000)).action
    };
    assert_eq!(decided(&past), Action::Roll(Cause::Found));
    // The reload recorded the secret while the ConfigMap still named it.
    let versions = [(secret("former").hash64(), new())].into_iter().collect();
    let record = Record {
        uid: workload.uid.to_string(),
        mark: "m".to_owned(),
        at: None,
        streak: 0,
        was_unhealthy: false,
        versions,
    };
    past.patched(record, None);
    assert_eq!(decided(&past), Action::Hold(Hold::Stripped));
}
