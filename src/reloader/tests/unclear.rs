//! Clocks that differ, and are not known well enough to tell what came first.

use super::*;

/// A workload whose secret was created at the time of its revision, as far as is known: Vault's clock is
/// an hour ahead, to within a second for each of the two.
fn bench() -> Bench {
    let mut bench = Bench::new(&[("web", &["a"])]);
    let noon = noon();
    let Clocks { vault, cluster, now } = &mut bench.reloader.clocks;
    observe(vault, noon, "13:00:00");
    observe(cluster, noon, "12:00:00");
    *now = self::noon;
    bench.fake.world().revised = Some(unclear());
    bench
}

fn noon() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn observe(clock: &ServerClock, time: Timestamp, second: &str) {
    clock.observe(&format!("Sun, 22 Nov 2026 {second} GMT"), time, time);
}

/// A time of a revision that the version may have been created before, or after.
fn unclear() -> Timestamp {
    second(1_000_001 - 3600)
}

#[tokio::test(start_paused = true)]
async fn both_servers_are_asked_a_few_times_and_then_it_is_taken_for_a_change() {
    let mut bench = bench();
    let began = Instant::now();
    bench.poll().await;
    {
        let world = bench.fake.world();
        // The revision is known.
        assert_eq!((world.patches, world.looks, world.gets, world.lookups), (1, LOOKS, LOOKS, 1));
    }
    // As far as is known it is half past a second by either clock, and stays so.
    assert_eq!(began.elapsed().as_millis(), u128::from(LOOKS) * 500);
    bench.watch();
    bench.poll().await;
    assert_eq!((bench.fake.count("web"), bench.fake.world().looks), (1, LOOKS));
}

#[tokio::test(start_paused = true)]
async fn what_was_decided_so_is_not_looked_at_again_though_it_cannot_be_reloaded_yet() {
    let mut bench = bench();
    bench.fake.world().faults.push_back(Fault::Refused);
    for _ in 0..3 {
        let left = bench.poll().await;
        assert_eq!(left.workloads.len(), 1);
    }
    let world = bench.fake.world();
    assert_eq!((world.patches, world.looks), (1, LOOKS));
}

#[tokio::test(start_paused = true)]
async fn once_it_is_clear_that_the_pods_have_it_they_are_left_alone() {
    let mut bench = bench();
    let (vault, cluster) =
        (Arc::clone(&bench.reloader.clocks.vault), Arc::clone(&bench.reloader.clocks.cluster));
    bench.fake.world().on_look = Some(Box::new(move || {
        // They are a little more than an hour apart, so the version was there before the revision.
        let after = |millis| noon() + SignedDuration::from_millis(millis);
        observe(&vault, after(-30), "13:00:00");
        observe(&cluster, after(-10), "11:59:59");
        observe(&cluster, after(10), "12:00:00");
    }));
    for _ in 0..3 {
        bench.poll().await;
    }
    let world = bench.fake.world();
    assert_eq!((world.patches, world.looks, world.gets), (0, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_about_what_was_deployed_long_after_or_before() {
    for (seconds, reloads) in [(-100, 1), (100, 0)] {
        let mut bench = bench();
        bench.fake.world().revised = Some(unclear() + SignedDuration::from_secs(seconds));
        bench.poll().await;
        assert_eq!((bench.fake.count("web"), bench.fake.world().looks), (reloads, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_deployed_while_it_is_reloaded_is_looked_at_too() {
    let mut bench = bench();
    // It is clear of the first template, and then somebody deploys another.
    {
        let mut world = bench.fake.world();
        world.revised = Some(unclear() - SignedDuration::from_secs(100));
        world.revised_next = Some(unclear());
        world.faults.push_back(Fault::WrittenBefore(|object| object.template += 1));
    }
    let left = bench.poll().await;
    assert_eq!((bench.fake.count("web"), bench.fake.world().patches), (0, 1));
    assert_eq!(left.workloads.len(), 1, "it is looked at soon");
    bench.watch();
    bench.poll().await;
    assert_eq!((bench.fake.count("web"), bench.fake.world().looks), (1, LOOKS));
}

#[tokio::test(start_paused = true)]
async fn whoever_is_to_end_does_not_wait_for_that() {
    let mut bench = bench();
    let shutdown = bench.shutdown.clone();
    bench.fake.world().on_look = Some(Box::new(move || shutdown.cancel()));
    bench.poll().await;
    let world = bench.fake.world();
    assert_eq!((world.patches, world.looks), (0, 1));
}
