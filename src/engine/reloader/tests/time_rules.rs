//! Freezes and windows: a reload is held for a time, and found again.

use super::*;
use crate::index::namespaces::NamespaceRules;
use crate::model::scope::WatchScope;

/// Returns the text of a freeze that ends after some seconds, or ended before.
fn freeze(seconds: i64) -> String {
    (Timestamp::now() + SignedDuration::from_secs(seconds)).to_string()
}

fn frozen(seconds: i64) -> TimeRules {
    TimeRules::new(Some(&freeze(seconds)), None)
}

impl Bench {
    /// Sets the time rules of the namespace of all workloads.
    fn set_rules_of_namespace(&self, time_rules: TimeRules) {
        self.index.namespaces().apply("shop", NamespaceRules { dry_run: false, time_rules });
    }
}

#[tokio::test]
async fn a_freeze_of_anybody_holds_reloads_and_takes_nothing_from_the_rate_limit() {
    let set: [fn(&mut Bench, TimeRules); 3] = [
        |bench, rules| bench.reloader.workloads.settings.shared.time_rules = rules,
        |bench, rules| bench.set_rules_of_namespace(rules),
        |bench, rules| bench.write("web", |object| object.time_rules = rules.boxed()),
    ];
    for set in set {
        let mut bench = Bench::new(&[("web", &["a"])]);
        bench.fake.world().revised = Some(second(0));
        let tokens = bench.reloader.workloads.budget.tokens();
        set(&mut bench, frozen(100));
        let told = bench.told().await;
        assert!(told.iter().any(|line| line.contains("Frozen")), "{told:?}");
        assert_eq!(bench.told().await, [""; 0], "it is said once");
        assert_eq!(bench.fake.requests(), (0, 0));
        assert_eq!(bench.reloader.workloads.budget.tokens(), tokens);
        // Nothing is remembered: the next poll after the end finds the change.
        set(&mut bench, frozen(-1));
        bench.poll().await;
        assert_eq!(bench.fake.count("web"), 1);
    }
}

#[tokio::test]
async fn the_namespace_can_ask_for_a_dry_run() {
    let mut bench = Bench::new(&[("web", &["a"])]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    let rules = NamespaceRules { dry_run: true, ..NamespaceRules::default() };
    bench.index.namespaces().apply("shop", rules);
    let told = bench.told().await;
    assert!(told.iter().any(|line| line.contains("DryRun")), "{told:?}");
    bench.index.namespaces().apply("shop", NamespaceRules::default());
    bench.poll().await;
    assert_eq!(bench.fake.count("web"), 1);
}

#[tokio::test]
async fn a_text_that_cannot_be_read_holds_and_is_reported() {
    let mut bench = Bench::new(&[("web", &["a"]), ("api", &["a"])]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    let rules = TimeRules::new(None, Some("allow nothing"));
    bench.write("web", |object| object.time_rules = rules.boxed());
    let told = bench.told().await;
    assert!(told.iter().any(|line| line.contains("InvalidTimeRule")), "{told:?}");
    assert_eq!((bench.fake.count("web"), bench.fake.count("api")), (0, 1));
    bench.write("web", |object| object.time_rules = None);
    bench.poll().await;
    assert_eq!(bench.fake.count("web"), 1);
}

#[tokio::test]
async fn a_freeze_that_comes_just_before_the_patch_counts() {
    let mut bench = Bench::new(&[("web", &["a"])]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    let write = |object: &mut Manifest| object.time_rules = frozen(100).boxed();
    bench.fake.world().faults.push_back(Fault::WrittenBefore(write));
    bench.poll().await;
    assert_eq!((bench.fake.count("web"), bench.fake.world().patches), (0, 1), "one conflict");
}

#[tokio::test]
async fn a_namespace_that_leaves_the_selection_during_a_tick_is_not_reloaded() {
    let index = Index::default().with_scope(&WatchScope::Selected("team=payments".into()));
    index.selection().add("shop");
    let mut bench = Bench::with_index(index, &[("web", &["a"])]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    // A tick that began before still has the workload.
    assert!(bench.index.selection().remove("shop"));
    bench.poll().await;
    assert_eq!((bench.fake.count("web"), bench.fake.world().patches), (0, 0));
    bench.index.selection().add("shop");
    bench.poll().await;
    assert_eq!(bench.fake.count("web"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_ends_before_the_next_full_poll_is_looked_at_then() {
    let mut bench = Bench::new(&[("web", &["a"]), ("api", &["b"])]);
    bench.reloader.workloads.settings.shared.period = Duration::from_hours(1);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    bench.set_rules_of_namespace(frozen(1_800));
    let began = Instant::now();
    bench.poll().await;
    let opening = bench.reloader.workloads.openings.first().unwrap();
    let pause = opening.duration_since(began).as_secs();
    assert!((1_790..=1_801).contains(&pause), "{pause} s");
    // The controller's own clock does not follow the paused one.
    bench.set_rules_of_namespace(frozen(-1));
    tokio::time::advance(Duration::from_secs(1_801)).await;
    let scope = PollScope::Remaining {
        workloads: HashSet::new(),
        secrets: HashSet::new(),
        waiting: HashSet::new(),
    };
    bench.reloader.tick(scope, &bench.shutdown).await;
    assert_eq!(bench.fake.count("web"), 1);
    assert_eq!(bench.fake.world().asked, ["a"], "nothing else is read");
    assert_eq!(bench.reloader.workloads.openings.first(), None);
    // A later end is left to full polls.
    bench.fake.rotate("a", 3);
    bench.set_rules_of_namespace(frozen(7_200));
    bench.poll().await;
    assert_eq!(bench.reloader.workloads.openings.first(), None);
}
