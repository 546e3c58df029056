//! Waves: which of the due workloads start, and what lets the others follow.

use super::*;
use crate::model::progress::RolloutStatus;
use crate::model::reload_policy::ReloadMode;
use crate::rollouts::wave::WaveRules;

/// The status of a workload whose only pod runs with the present template.
fn healthy() -> RolloutStatus {
    let (replicas, updated, ready, available) = (1, 1, 1, 1);
    RolloutStatus { replicas, updated, ready, available, ..RolloutStatus::default() }
}

fn failed() -> RolloutStatus {
    let failure = Some(crate::model::progress::RolloutFailure::FailedCreate);
    RolloutStatus { failure, ..RolloutStatus::default() }
}

/// A bench of workloads that all refer to one path, with waves, after its first poll.
async fn bench(count: usize) -> Bench {
    begin(Bench::of(count)).await
}

/// Returns a bench of healthy workloads with waves, after its first poll.
async fn begin(mut bench: Bench) -> Bench {
    let rollouts = &mut bench.reloader.workloads.settings.shared.rollouts;
    rollouts.waves = Some(WaveRules::default());
    rollouts.timeout = Duration::from_mins(10);
    let names: Vec<_> = bench.fake.world().objects.keys().cloned().collect();
    for name in names {
        bench.write(&name, |object| object.status = healthy());
    }
    bench.poll().await;
    bench
}

/// The names of the workloads that were PATCHed, in order.
fn patched(bench: &Bench) -> Vec<String> {
    bench.fake.world().patched.clone()
}

/// Ends the rollout of each workload that was PATCHed.
fn end_rollouts(bench: &Bench, status: RolloutStatus) {
    for name in patched(bench) {
        bench.write(&name, |object| object.status = status);
    }
}

/// Looks at the workloads that wait, as after a rollout has ended.
async fn look(bench: &mut Bench) -> Remaining {
    let waiting = bench.index.workloads().iter().map(|stored| stored.workload.id.clone()).collect();
    let scope =
        PollScope::Remaining { workloads: HashSet::new(), secrets: HashSet::new(), waiting };
    bench.reloader.tick(scope, &bench.shutdown).await
}

#[tokio::test]
async fn one_workload_first_and_a_share_at_a_time_after_it() {
    let mut bench = bench(20).await;
    bench.fake.rotate("a", 2);
    bench.poll().await;
    assert_eq!(patched(&bench).len(), 1);
    bench.fake.world().asked.clear();
    assert_eq!(look(&mut bench).await.waiting.len(), 19);
    assert_eq!(patched(&bench).len(), 1, "the first one is not healthy yet");
    assert_eq!(bench.fake.world().asked, [""; 0], "a look asks Vault for nothing");
    for expected in [6, 11, 16, 20] {
        end_rollouts(&bench, healthy());
        look(&mut bench).await;
        assert_eq!(patched(&bench).len(), expected);
    }
    let names: BTreeSet<_> = patched(&bench).into_iter().collect();
    assert_eq!(names.len(), 20, "each of them once");
}

#[tokio::test]
async fn a_look_asks_for_nothing_that_could_not_be_read() {
    let names: Vec<String> = (0..6).map(|number| format!("web-{number}")).collect();
    let workloads = names.iter().map(|name| (name.as_str(), &["a", "b"][..]));
    let mut bench = begin(Bench::new(&workloads.collect::<Vec<_>>())).await;
    bench.fake.world().live.remove("b");
    bench.fake.rotate("a", 2);
    bench.poll().await;
    assert_eq!(patched(&bench).len(), 1);
    bench.fake.world().asked.clear();
    assert_eq!(look(&mut bench).await.waiting.len(), 5);
    assert_eq!(bench.fake.world().asked, [""; 0]);
}

#[tokio::test]
async fn a_look_asks_for_no_revision_that_is_known() {
    let names: Vec<String> = (0..6).map(|number| format!("web-{number}")).collect();
    let workloads = names.iter().map(|name| (name.as_str(), &["a", "b"][..]));
    let mut bench = begin(Bench::new(&workloads.collect::<Vec<_>>())).await;
    bench.reloader.workloads.settings.shared.rollouts.waves = None;
    bench.fake.rotate("b", 2);
    bench.poll().await;
    assert_eq!(patched(&bench).len(), 6, "each has a record of both secrets");
    end_rollouts(&bench, healthy());
    bench.poll().await;
    bench.reloader.workloads.settings.shared.rollouts.waves = Some(WaveRules::default());
    // Nobody knows whether this secret changed, and the first reload brings its live version, too.
    bench.fake.world().live.remove("b");
    bench.fake.rotate("a", 2);
    bench.poll().await;
    assert_eq!(patched(&bench).len(), 7);
    let asked = |bench: &Bench| {
        let world = bench.fake.world();
        (world.lookups, world.clock_reads)
    };
    let before = asked(&bench);
    assert_eq!(look(&mut bench).await.waiting.len(), 5);
    assert_eq!(asked(&bench), before, "a secret that is not known blocks nothing");
    // Its owner held it before, and the revisions may tell whether the workloads have it.
    let b = secret("b");
    let policy = ReloadPolicy { mode: ReloadMode::Hold, ..ReloadPolicy::NONE };
    bench.reloader.secrets.set_policy(&b, policy);
    look(&mut bench).await;
    let once = asked(&bench);
    assert!(once.0 > before.0, "{once:?}");
    look(&mut bench).await;
    assert_eq!(asked(&bench), once);
}

#[tokio::test]
async fn a_failure_stops_the_others_until_somebody_says_to_go_on() {
    let mut bench = bench(20).await;
    bench.fake.rotate("a", 2);
    bench.poll().await;
    end_rollouts(&bench, failed());
    for _ in 0..3 {
        bench.poll().await;
        look(&mut bench).await;
    }
    let first = patched(&bench);
    assert_eq!(first.len(), 1);
    bench.write(&first[0], |object| object.continue_after = Some(1));
    look(&mut bench).await;
    assert_eq!(patched(&bench).len(), 2, "again one first");
    // A newer version is another rotation. It goes to the workload that is broken already.
    end_rollouts(&bench, failed());
    bench.fake.rotate("a", 3);
    bench.poll().await;
    assert_eq!(patched(&bench).len(), 3);
    assert!(patched(&bench)[..2].contains(&patched(&bench)[2]));
    end_rollouts(&bench, healthy());
    look(&mut bench).await;
    assert_eq!(patched(&bench).len(), 8);
}

#[tokio::test]
async fn a_restart_and_another_leader_count_the_same() {
    let mut bench = bench(20).await;
    bench.fake.rotate("a", 2);
    bench.poll().await;
    bench.reloader.workloads.tracks.clear();
    bench.reloader.secrets = SecretTracks::default();
    bench.fake.world().revised = Some(second(0));
    bench.poll().await;
    assert_eq!(patched(&bench).len(), 1, "the first one is still on its way");
    end_rollouts(&bench, healthy());
    bench.poll().await;
    assert_eq!(patched(&bench).len(), 6);
}

#[tokio::test]
async fn the_owner_of_the_secret_has_a_word() {
    for (mode, expected) in [(ReloadMode::Hold, 0), (ReloadMode::Urgent, 20)] {
        let mut bench = bench(20).await;
        let policy = ReloadPolicy { mode, ..ReloadPolicy::NONE };
        bench.fake.world().policies.insert("a".to_owned(), policy);
        bench.fake.rotate("a", 2);
        bench.poll().await;
        assert_eq!(patched(&bench).len(), expected, "{mode:?}");
        bench.fake.world().policies.clear();
        bench.poll().await;
        assert_eq!(patched(&bench).len(), expected.max(1), "{mode:?}");
    }
    let mut bench = bench(20).await;
    bench.reloader.workloads.settings.shared.heeds_owners = false;
    let policy = ReloadPolicy { mode: ReloadMode::Hold, ..ReloadPolicy::NONE };
    bench.fake.world().policies.insert("a".to_owned(), policy);
    bench.fake.rotate("a", 2);
    bench.poll().await;
    assert_eq!(patched(&bench).len(), 1, "the operator does not heed owners");
}

#[tokio::test]
async fn what_an_owner_holds_stays_held_while_it_cannot_be_read() {
    let mut bench = begin(Bench::new(&[("web", &["a", "b"])])).await;
    let policy = ReloadPolicy { mode: ReloadMode::Hold, ..ReloadPolicy::NONE };
    bench.fake.world().policies.insert("b".to_owned(), policy);
    bench.fake.rotate("b", 2);
    bench.poll().await;
    // New pods would read the new version of b.
    bench.fake.world().live.remove("b");
    bench.fake.rotate("a", 2);
    bench.poll().await;
    assert_eq!(patched(&bench), [""; 0]);
    bench.fake.world().policies.clear();
    bench.fake.rotate("b", 2);
    bench.poll().await;
    assert_eq!(patched(&bench), ["web"]);
}

#[tokio::test]
async fn a_secret_that_changes_all_the_time_is_slowed_down() {
    let mut bench = Bench::new(&[("web", &["a"])]);
    bench.reloader.workloads.settings.shared.rollouts.shortest_interval = Duration::from_mins(1);
    bench.poll().await;
    for version in 2..9 {
        bench.fake.rotate("a", version);
        bench.poll().await;
    }
    assert_eq!(bench.fake.count("web"), 1);
    let remaining = look(&mut bench).await;
    let left = remaining.wait_left.unwrap();
    assert!(left <= Duration::from_mins(1) && left > Duration::from_secs(30), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_rollout_wakes_the_engine() {
    let mut bench = bench(20).await;
    let wake = crate::engine::wake::Wake::default();
    bench.reloader = bench.reloader.with_wake(wake.receiver());
    let (fake, index, shutdown) =
        (bench.fake.clone(), Arc::clone(&bench.index), bench.shutdown.clone());
    let synced = CancellationToken::new();
    synced.cancel();
    let run = bench.reloader.run(synced, Leadership::always(), shutdown.clone());
    let until = async |count: usize| {
        while fake.world().patched.len() < count {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let test = async {
        sleep(Duration::from_secs(5)).await;
        fake.rotate("a", 2);
        until(1).await;
        let first = fake.world().patched[0].clone();
        let manifest = {
            let mut world = fake.world();
            let object = world.objects.get_mut(&first).unwrap();
            object.status = healthy();
            touch(object);
            object.clone()
        };
        let id = manifest.id(Kind::DEPLOYMENT);
        index.apply(manifest, Kind::DEPLOYMENT);
        let began = Instant::now();
        wake.on(&Event::RolloutEnded { workload: &id, failure: None });
        until(6).await;
        assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
        shutdown.cancel();
    };
    futures::future::join(run, test).await;
}
