//! The settle time, and the clock that measures it.

use super::*;

/// Returns a bench whose secret was created a second ago by Vault's clock, which is an hour ahead.
fn bench() -> Bench {
    let mut bench = Bench::new(&[("web", &["a"])]);
    bench.reloader.workloads.settings.shared.settle = SignedDuration::from_secs(3);
    bench.reloader.workloads.clocks.now = noon;
    let own_time = noon() + SignedDuration::from_hours(1);
    bench.fake.world().on_clock =
        Some((Arc::clone(&bench.reloader.workloads.clocks.vault), own_time));
    let created = own_time - SignedDuration::from_secs(1);
    bench.fake.world().live.insert("a".to_owned(), Version { number: 2, created });
    bench
}

fn noon() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn three_seconds_later() -> Timestamp {
    noon() + SignedDuration::from_secs(3)
}

#[tokio::test(start_paused = true)]
async fn a_reload_waits_for_the_settle_time_by_the_clock_of_vault() {
    let mut bench = bench();
    bench.fake.world().revised = Some(noon() - SignedDuration::from_hours(1));
    for _ in 0..2 {
        let remaining = bench.poll().await;
        assert_eq!((bench.fake.count("web"), remaining.workloads.len()), (0, 1));
        assert!(remaining.retry_in.is_some_and(|delay| delay <= Duration::from_secs(2)));
    }
    bench.reloader.workloads.clocks.now = three_seconds_later;
    bench.poll().await;
    assert_eq!((bench.fake.count("web"), bench.fake.world().patches), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_clock_of_vault_is_read_where_a_revision_decides() {
    let mut bench = bench();
    bench.reloader.workloads.clocks.now = three_seconds_later;
    // The workload was deployed ten minutes after the rotation, by the API server's clock.
    bench.fake.world().revised = Some(noon() + SignedDuration::from_mins(10));
    bench.fake.world().cluster_clock = Some(Arc::clone(&bench.reloader.workloads.clocks.cluster));
    bench.poll().await;
    let asked = |bench: &Bench| {
        let world = bench.fake.world();
        (world.lookups, world.clock_reads)
    };
    assert_eq!(asked(&bench), (1, 1));
    assert_eq!(bench.fake.count("web"), 0, "the pods have it");
    bench.poll().await;
    assert_eq!(asked(&bench), (1, 1));
}
