//! Tests of plans: what is done with a workload after all its secrets have a verdict.

use super::*;

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
