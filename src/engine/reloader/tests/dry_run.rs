//! Dry run: everything is decided and reported, and nothing is written.

use super::*;

#[tokio::test]
async fn a_dry_run_reports_once_and_reloads_once_it_is_over() {
    let mut bench = Bench::new(&[("web", &["a"])]);
    bench.reloader.workloads.settings.shared.dry_run = true;
    bench.poll().await;
    bench.fake.rotate("a", 2);
    let told = bench.told().await;
    assert!(told.iter().any(|line| line.contains("DryRun")), "{told:?}");
    assert_eq!(bench.told().await, [""; 0], "it is said once");
    assert_eq!((bench.fake.count("web"), bench.fake.world().patches), (0, 0));
    bench.reloader.workloads.settings.shared.dry_run = false;
    bench.poll().await;
    assert_eq!((bench.fake.count("web"), bench.fake.world().patches), (1, 1));
}

#[tokio::test]
async fn the_annotation_of_one_workload_counts_for_that_workload() {
    let mut bench = Bench::new(&[("web", &["a"]), ("api", &["a"])]);
    bench.poll().await;
    bench.write("api", |object| object.dry_run = true);
    bench.fake.rotate("a", 2);
    bench.poll().await;
    assert_eq!((bench.fake.count("web"), bench.fake.count("api")), (1, 0));
    bench.write("api", |object| object.dry_run = false);
    bench.poll().await;
    assert_eq!((bench.fake.count("web"), bench.fake.count("api")), (1, 1));
}

#[tokio::test]
async fn an_annotation_that_comes_just_before_the_patch_counts() {
    let mut bench = Bench::new(&[("web", &["a"])]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    bench.fake.world().faults.push_back(Fault::WrittenBefore(|object| object.dry_run = true));
    bench.poll().await;
    assert_eq!((bench.fake.count("web"), bench.fake.world().patches), (0, 1), "one conflict");
}

#[tokio::test]
async fn a_dry_run_takes_nothing_from_the_rate_limit() {
    let mut bench = Bench::of(5);
    bench.fake.world().revised = Some(second(0));
    let tokens = |bench: &Bench| bench.reloader.workloads.budget.tokens();
    let before = tokens(&bench);
    bench.reloader.workloads.settings.shared.dry_run = true;
    bench.poll().await;
    assert_eq!((bench.reloads(), tokens(&bench)), (0, before));
    bench.reloader.workloads.settings.shared.dry_run = false;
    bench.poll().await;
    assert_eq!((bench.reloads(), tokens(&bench)), (5, before - 5));
}
