//! Rounds: a poll that is cut short, and the polls that finish it.

use super::*;

impl Bench {
    /// Polls for the work that the last poll did not finish.
    async fn go_on(&mut self, remaining: Remaining) -> Remaining {
        let scope = PollScope::Remaining {
            workloads: remaining.workloads,
            secrets: remaining.secrets,
            waiting: HashSet::new(),
        };
        self.reloader.tick(scope, &self.shutdown).await
    }
}

#[tokio::test]
async fn what_was_answered_is_not_asked_for_again() {
    let mut bench = Bench::new(&[("web", &["a", "b", "c"]), ("api", &["c", "d"])]);
    for late in ["b", "c"] {
        bench.fake.world().live.remove(late);
    }
    let remaining = bench.poll().await;
    bench.fake.rotate("b", 1);
    let remaining = bench.go_on(remaining).await;
    assert_eq!(bench.fake.world().asked, ["b", "c"]);
    bench.fake.rotate("c", 1);
    let remaining = bench.go_on(remaining).await;
    assert_eq!(bench.fake.world().asked, ["c"]);
    assert!(remaining.retry_in.is_none());
    bench.poll().await;
    assert_eq!(bench.fake.world().asked, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn that_a_secret_is_gone_holds_its_workload_while_others_are_late() {
    let mut bench = Bench::new(&[("web", &["a", "b"])]);
    bench.poll().await;
    bench.fake.delete("a");
    bench.fake.world().are_late.insert("b".to_owned());
    let remaining = bench.poll().await;
    bench.fake.world().are_late.clear();
    // The next poll gets no answer for the secret that is gone.
    bench.fake.world().gone.remove("a");
    bench.fake.rotate("b", 2);
    bench.go_on(remaining).await;
    assert_eq!(bench.fake.count("web"), 0);
}

#[tokio::test]
async fn a_workload_is_reloaded_once_all_its_secrets_had_their_turn() {
    let mut bench = Bench::new(&[("web", &["a", "b"]), ("api", &["a"])]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    bench.fake.rotate("b", 2);
    bench.fake.world().are_late.insert("b".to_owned());
    let remaining = bench.poll().await;
    assert_eq!(["web", "api"].map(|name| bench.fake.count(name)), [0, 1]);
    bench.fake.world().are_late.clear();
    bench.go_on(remaining).await;
    assert_eq!(["web", "api"].map(|name| bench.fake.count(name)), [1, 1]);
}

#[tokio::test]
async fn a_workload_of_which_some_secret_is_always_late_is_not_forgotten() {
    let mut bench = Bench::new(&[("web", &["a", "b"])]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    bench.fake.world().are_late.insert("b".to_owned());
    bench.poll().await;
    assert_eq!(bench.fake.count("web"), 0);
    // The period is over, and the secret is late again.
    bench.poll().await;
    assert_eq!(bench.fake.count("web"), 1);
}

impl Bench {
    /// Runs a full poll that has no time for one of the secrets.
    async fn poll_without(&mut self, late: &str) {
        self.fake.world().are_late = [late.to_owned()].into();
        self.poll().await;
    }
}

#[tokio::test]
async fn no_change_is_missed_where_another_secret_is_late_each_time() {
    let mut bench = Bench::new(&[("web", &["a", "b"])]);
    bench.poll().await;
    bench.poll_without("b").await;
    bench.poll_without("a").await;
    bench.fake.rotate("a", 2);
    bench.poll_without("b").await;
    bench.poll_without("a").await;
    assert_eq!(bench.fake.count("web"), 1);
}

#[tokio::test]
async fn that_a_secret_was_gone_holds_its_workload_while_it_is_late() {
    let mut bench = Bench::new(&[("web", &["a", "b"])]);
    bench.poll().await;
    bench.fake.delete("a");
    bench.poll_without("b").await;
    bench.fake.rotate("b", 2);
    bench.poll_without("a").await;
    bench.poll_without("a").await;
    assert_eq!(bench.fake.count("web"), 0);
    bench.fake.rotate("a", 3);
    bench.poll_without("").await;
    assert_eq!(bench.fake.count("web"), 1);
}

#[tokio::test]
async fn a_version_that_a_round_before_saw_does_not_count_where_another_has_recorded_a_later_one() {
    let mut bench = Bench::new(&[("web", &["a", "b"])]);
    bench.poll().await;
    bench.poll_without("b").await;
    bench.poll_without("b").await;
    bench.reload_by_another("web", "a", 2);
    bench.poll_without("a").await;
    assert_eq!(bench.fake.count("web"), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_long_ago_is_asked_for_again_before_it_is_acted_on() {
    let mut bench = Bench::new(&[("web", &["a", "b"]), ("api", &["b", "c"])]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    bench.fake.world().are_late.insert("b".to_owned());
    let remaining = bench.poll().await;
    bench.fake.world().are_late.clear();
    tokio::time::advance(Duration::from_mins(20)).await;
    // The secret was deleted since.
    bench.fake.delete("a");
    bench.go_on(remaining).await;
    assert_eq!(bench.fake.world().asked, ["a"], "of the one that is due");
    assert_eq!(bench.fake.count("web"), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_revision_shows_to_be_known_is_not_asked_for_again_however_long_a_poll_takes() {
    // This is the first poll of a process that just started, with requests spread over a long
    // period.
    let mut bench = Bench::new(&[("web", &["a", "b"]), ("api", &["c"])]);
    bench.fake.world().are_late.insert("b".to_owned());
    let remaining = bench.poll().await;
    bench.fake.world().are_late.clear();
    tokio::time::advance(Duration::from_mins(20)).await;
    bench.go_on(remaining).await;
    assert_eq!(bench.fake.world().asked, ["b"]);
    assert_eq!(bench.fake.world().patches, 0);
}

#[tokio::test]
async fn whoever_waits_is_not_reloaded_while_vault_cannot_be_asked() {
    let mut bench = Bench::new(&[("web", &["a"])]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    bench.fake.world().faults.push_back(Fault::Refused);
    let remaining = bench.poll().await;
    // The back-off of the workload is over.
    bench.reloader.workloads.tracks.clear();
    bench.fake.world().is_out = true;
    // New pods could not read their secrets.
    let remaining = bench.go_on(remaining).await;
    assert_eq!(bench.fake.count("web"), 0);
    bench.fake.world().is_out = false;
    bench.go_on(remaining).await;
    assert_eq!(bench.fake.count("web"), 1);
}

/// Returns a bench that finds many workloads of one namespace and two of another outdated. Its
/// budget is 2, and does not grow meanwhile.
fn beside_a_crowd() -> Bench {
    let crowd: Vec<String> = (0..20).map(|number| format!("crowd-{number:02}")).collect();
    let names = crowd.iter().map(String::as_str).chain(["web", "api"]);
    let mut bench = Bench::new(&names.map(|name| (name, &["a"][..])).collect::<Vec<_>>());
    bench.fake.rotate("a", 2);
    bench.fake.world().revised = Some(between_the_versions());
    for name in &crowd {
        let mut world = bench.fake.world();
        let object = world.objects.get_mut(name).unwrap();
        bench.index.delete(&object.id(Kind::DEPLOYMENT));
        object.namespace = "crowd".to_owned();
    }
    bench.watch();
    bench.reloader.workloads.budget = Budget::new(2, 1);
    bench
}

#[tokio::test(start_paused = true)]
async fn a_namespace_with_many_workloads_does_not_take_the_whole_budget() {
    let mut bench = beside_a_crowd();
    bench.poll().await;
    assert_eq!(bench.reloads(), 2);
    assert_eq!(bench.fake.count("api") + bench.fake.count("web"), 1);
}

#[tokio::test(start_paused = true)]
async fn refused_reloads_take_nothing_from_the_budget() {
    let mut bench = beside_a_crowd();
    let names: BTreeSet<String> = bench.fake.world().objects.keys().cloned().collect();
    let crowd = names.into_iter().filter(|name| name.starts_with("crowd")).collect();
    bench.fake.world().refused = crowd;
    for _ in 0..3 {
        bench.poll().await;
    }
    assert_eq!(["web", "api"].map(|name| bench.fake.count(name)), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_reload_without_an_answer_counts_for_the_budget() {
    let mut bench = beside_a_crowd();
    bench.fake.world().faults.extend([Fault::AnswerLost, Fault::AnswerLost]);
    for _ in 0..3 {
        bench.poll().await;
    }
    assert_eq!(bench.reloads(), 2);
}

#[tokio::test]
async fn who_comes_into_the_store_late_does_not_wait_for_the_next_poll_of_everything() {
    let mut bench = Bench::new(&[("web", &["a"]), ("late", &["b"])]);
    let id = crate::model::fixtures::workload("late", &[]).id;
    bench.index.delete(&id);
    bench.name_a_config_map("late");
    bench.fake.rotate("b", 2);
    bench.fake.world().revised = Some(between_the_versions());
    let remaining = bench.poll().await;
    assert_eq!(bench.fake.world().asked, ["a"]);
    assert_eq!(remaining.retry_in, Some(Duration::from_secs(1)));
    bench.fake.world().asked.clear();
    let remaining = bench.go_on(remaining).await;
    assert_eq!(bench.fake.world().asked, [""; 0]);
    assert_eq!(remaining.retry_in, Some(Duration::from_secs(2)));
    bench.watch();
    let remaining = bench.go_on(remaining).await;
    assert_eq!(bench.fake.world().asked, ["b"]);
    assert_eq!((bench.fake.count("late"), remaining.retry_in), (1, None));
    // A workload that never enters the index must not cause early polls for ever.
    bench.index.delete(&id);
    bench.name_a_config_map("late");
    let mut times = 0;
    while bench.poll().await.retry_in.is_some() {
        times += 1;
    }
    assert_eq!(times, MOST_INCOMPLETE, "the complete index has begun the count again");
}
