//! Each change reloads a workload once, whatever happens to requests and to objects meanwhile.

use super::*;

#[tokio::test]
async fn a_change_that_was_seen_rolls_once_by_one_request() {
    let mut bench = Bench::new(&[("web", &["a", "b"]), ("api", &["b"]), ("job", &["c"])]);
    bench.poll().await;
    assert_eq!(bench.fake.world().asked, ["a", "b", "c"], "each secret once");
    let lookups = bench.fake.world().lookups;
    bench.fake.rotate("a", 2);
    bench.fake.rotate("b", 2);
    for _ in 0..3 {
        bench.poll().await;
    }
    let counts = ["web", "api", "job"].map(|name| bench.fake.count(name));
    assert_eq!(counts, [1, 1, 0]);
    let world = bench.fake.world();
    assert_eq!((world.patches, world.gets, world.lookups), (2, 0, lookups));
}

#[tokio::test]
async fn an_answer_that_is_lost_rolls_once() {
    let mut bench = Bench::new(&[("web", &["a"])]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    bench.fake.world().faults.push_back(Fault::AnswerLost);
    let remaining = bench.poll().await;
    assert!(remaining.retry_in.is_some());
    // The index has not seen the reload yet. The precondition of the PATCH detects it.
    bench.reloader.workloads.tracks.clear();
    bench.poll().await;
    bench.watch();
    bench.poll().await;
    assert_eq!(bench.fake.count("web"), 1);
    // One read checks whether the API server works. The other follows the conflict.
    assert_eq!(bench.fake.requests(), (2, 2));
}

#[tokio::test]
async fn a_conflict_is_read_and_decided_anew() {
    let mut bench = Bench::new(&[("web", &["a"]), ("api", &["a"])]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    // One workload is only touched. The other no longer refers to the secret.
    bench.fake.world().faults.extend([
        Fault::WrittenBefore(|_| {}),
        Fault::WrittenBefore(|object| {
            object.containers.clear();
            object.template += 1;
        }),
    ]);
    bench.poll().await;
    let counts = bench.fake.count("web") + bench.fake.count("api");
    assert_eq!(counts, 1);
    assert_eq!(bench.fake.requests(), (3, 2));
}

#[tokio::test]
async fn what_is_read_after_a_conflict_is_under_the_same_path_rules() {
    let (namespaces, paths) = (vec!["shop".to_owned()], Some(vec!["a".to_owned()]));
    let rule = Rule::new(&RuleText { namespaces, paths, ..RuleText::default() }).unwrap();
    let servers = Servers::default().with_path_rules(PathRules::new(vec![rule]));
    let mut bench = Bench::with(servers, &[("web", &["a"])]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    // The workload now refers to a secret that the path rules forbid.
    bench.fake.world().faults.push_back(Fault::WrittenBefore(|object| {
        object.containers[0].variables.push(EnvVar::literal("B", "vault:b#k"));
    }));
    bench.poll().await;
    assert_eq!(bench.fake.count("web"), 1);
    assert_eq!(bench.fake.requests(), (2, 1));
    // Neither the read nor the answer to the PATCH brings the secret into the index.
    bench.poll().await;
    assert_eq!(bench.fake.world().asked, ["a"]);
}

#[tokio::test]
async fn what_another_controller_reloaded_meanwhile_is_left_to_the_next_poll() {
    // The other controller's reload was taken back before the object is read again. Either the
    // record is still there, or only the generation shows the reload.
    let writes: [fn(&mut Manifest); 2] = [
        |object| {
            let (uid, mark) = (object.uid.clone(), "theirs".to_owned());
            object.record = Some(
                Record {
                    uid,
                    mark,
                    at: None,
                    streak: 0,
                    was_unhealthy: false,
                    versions: Versions::default(),
                }
                .encode(),
            );
        },
        |object| {
            object.generation += 2;
            object.observed_generation = object.generation;
        },
    ];
    for write in writes {
        let mut bench = Bench::new(&[("web", &["a"])]);
        bench.poll().await;
        bench.fake.rotate("a", 2);
        // By the clock this is a change.
        bench.fake.world().revised = Some(between_the_versions());
        bench.fake.world().faults.push_back(Fault::WrittenBefore(write));
        let remaining = bench.poll().await;
        assert_eq!(bench.fake.requests(), (1, 1));
        assert_eq!(remaining.workloads.len(), 1, "it is looked at again");
    }
}

#[tokio::test]
async fn a_version_earlier_than_what_another_has_recorded_is_asked_for_again() {
    let mut bench = Bench::new(&[("web", &["a"])]);
    bench.poll().await;
    // A standby still shows version 1 to this controller.
    bench.reload_by_another("web", "a", 2);
    bench.poll().await;
    assert_eq!(bench.fake.requests(), (0, 0));
    bench.fake.rotate("a", 2);
    bench.poll().await;
    assert_eq!(bench.fake.requests(), (0, 0));
}

#[tokio::test]
async fn a_redeploy_under_the_hands_of_a_reload_is_judged_by_its_own_revision() {
    let mut bench = Bench::new(&[("web", &["a"])]);
    bench.poll().await;
    let lookups = bench.fake.world().lookups;
    bench.fake.rotate("a", 2);
    // The fake creates the revision long after the rotation.
    let redeploy = Fault::WrittenBefore(|object| object.template += 1);
    bench.fake.world().faults.push_back(redeploy);
    bench.poll().await;
    assert_eq!(bench.fake.count("web"), 0);
    assert_eq!(bench.fake.world().lookups, lookups + 1);
}

#[tokio::test]
async fn a_refused_patch_waits_and_the_others_go_on() {
    let mut bench = Bench::new(&[("web", &["a"]), ("api", &["a"])]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    bench.fake.world().faults.push_back(Fault::Refused);
    let remaining = bench.poll().await;
    assert_eq!(remaining.workloads.len(), 1);
    assert_eq!(remaining.retry_in, Some(Duration::from_secs(1)));
    assert_eq!(bench.fake.count("web") + bench.fake.count("api"), 1);
    // The PATCH is not tried again at once.
    let remaining = bench.poll().await;
    assert_eq!(bench.fake.world().patches, 2);
    assert_eq!((remaining.workloads.len(), remaining.retry_in), (1, Some(Duration::from_secs(2))));
    // The back-off ends.
    for reload_state in bench.reloader.workloads.tracks.states_mut() {
        reload_state.past.retry_at = reload_state.past.retry_at.map(|_| second(0));
    }
    bench.poll().await;
    assert_eq!(bench.fake.count("web") + bench.fake.count("api"), 2);
}

#[tokio::test]
async fn what_could_not_be_read_is_asked_for_alone() {
    let mut bench = Bench::new(&[("web", &["a"]), ("api", &["b"])]);
    bench.fake.world().live.remove("b");
    let remaining = bench.poll().await;
    assert!(remaining.retry_in.is_some());
    let scope = PollScope::Remaining {
        workloads: remaining.workloads,
        secrets: remaining.secrets,
        waiting: HashSet::new(),
    };
    bench.fake.rotate("b", 1);
    let remaining = bench.reloader.tick(scope, &bench.shutdown).await;
    assert_eq!(bench.fake.world().asked, ["b"]);
    assert!(remaining.retry_in.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_version_older_than_what_was_seen_rolls_once_nothing_else_is_seen_for_a_while() {
    let mut bench = Bench::new(&[("web", &["a"])]);
    bench.fake.rotate("a", 5);
    bench.poll().await;
    bench.fake.rotate("a", 4);
    let remaining = bench.poll().await;
    assert_eq!(remaining.retry_in, Some(Duration::from_secs(1)), "it is asked for again soon");
    assert_eq!(bench.fake.count("web"), 0);
    let scope = || PollScope::Remaining {
        workloads: remaining.workloads.clone(),
        secrets: remaining.secrets.clone(),
        waiting: HashSet::new(),
    };
    let almost = Duration::from_secs(29);
    tokio::time::advance(almost).await;
    let again = bench.reloader.tick(scope(), &bench.shutdown).await;
    assert_eq!((bench.fake.count("web"), again.retry_in.is_some()), (0, true));
    tokio::time::advance(BELIEVED_AFTER.saturating_sub(almost)).await;
    let again = bench.reloader.tick(scope(), &bench.shutdown).await;
    assert_eq!((bench.fake.count("web"), again.retry_in), (1, None));
}

/// Returns a bench with two workloads. One has a later version on record than Vault has, the other
/// has no record.
fn beside_a_later_record() -> Bench {
    let bench = Bench::new(&[("web", &["a"]), ("api", &["a"])]);
    let versions = [(secret("a").hash64(), version(9, 253_402_207_200))].into_iter().collect();
    let record = Record {
        uid: "uid-of-web".to_owned(),
        mark: "m".to_owned(),
        at: None,
        streak: 0,
        was_unhealthy: false,
        versions,
    };
    let mut world = bench.fake.world();
    let web = world.objects.get_mut("web").unwrap();
    web.annotations = [(OptIn::Current.key(), "true"), (MARK, "m")].into_iter().collect();
    web.record = Some(record.encode());
    drop(world);
    bench.watch();
    bench
}

#[tokio::test(start_paused = true)]
async fn what_one_workload_has_on_record_is_no_matter_of_the_others() {
    let mut bench = beside_a_later_record();
    bench.poll().await;
    let workloads = bench.index.begin_poll(DEFAULT_CONNECTION).workloads;
    let requests = bench.reloader.asks(&workloads);
    assert_eq!(
        requests[0].not_before,
        Some(second(1_000_001)),
        "its answers are no older than known"
    );
    assert_eq!(bench.reloads(), 0);
    // As far as the controller can know, this is a restored storage once nothing else was seen for
    // a while.
    tokio::time::advance(BELIEVED_AFTER).await;
    bench.poll().await;
    assert_eq!(["web", "api"].map(|name| bench.fake.count(name)), [1, 0]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    bench.poll().await;
    assert_eq!(["web", "api"].map(|name| bench.fake.count(name)), [2, 1]);
}

#[tokio::test]
async fn nothing_new_begins_once_the_process_is_to_end() {
    let mut bench = Bench::of(50);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    bench.fake.world().faults.push_back(Fault::Shutdown);
    bench.poll().await;
    let counts = bench.reloads();
    assert!((1..50).contains(&counts), "{counts} reloaded");
    assert_eq!(counts, u64::from(bench.fake.world().patches), "none is half done");
}

#[tokio::test]
async fn what_was_written_and_stripped_is_left_alone() {
    let mut bench = Bench::new(&[("web", &["a"])]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    bench.reloader.workloads.tracks.clear();
    bench.poll().await;
    assert_eq!(bench.fake.count("web"), 1);
    for _ in 0..3 {
        {
            let mut world = bench.fake.world();
            let object = world.objects.get_mut("web").unwrap();
            object.record = None;
            object.template = 100;
            object.annotations = [(OptIn::Current.key(), "true")].into_iter().collect();
            touch(object);
        }
        bench.watch();
        let kind = Kind::DEPLOYMENT;
        let id = WorkloadId { kind, namespace: "shop".into(), name: "web".into() };
        // Created before the rotation, so the clock speaks for a change.
        let revision = Revision { created: second(1_000_001), copies: Arc::new([]) };
        let stored = bench.index.get(&id).unwrap();
        bench.reloader.workloads.tracks.keep_revision(&stored, revision);
        bench.poll().await;
    }
    assert_eq!(bench.fake.world().patches, 1);
    assert_eq!(bench.fake.count("web"), 0, "it is as its owner wants it");
    // Another hold comes between. When it ends, it is not what is reported.
    bench.told().await;
    bench.write("web", |object| object.deleting = true);
    assert_eq!(bench.told().await, ["web is held: Deleting"]);
    bench.write("web", |object| object.deleting = false);
    assert_eq!(bench.told().await, ["web is stripped by somebody"]);
    assert_eq!(bench.told().await, [""; 0], "once");
}
