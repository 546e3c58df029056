//! Failures hold up no other work, and a failing server is not asked again and again.

use super::*;

#[tokio::test]
async fn an_api_server_that_does_not_work_is_asked_once_a_tick_and_nobody_pays_for_it() {
    let mut bench = Bench::of(50);
    bench.fake.rotate("a", 2);
    // Only the clock speaks for the change, and the budget allows a hundred reloads.
    bench.fake.world().revised = Some(second(1_000_001));
    bench.fake.world().is_down = true;
    let remaining = bench.poll().await;
    assert_eq!(remaining.workloads.len(), 50);
    let (failed, gets) = bench.fake.requests();
    assert!((1..=8).contains(&failed), "{failed} PATCHes");
    assert_eq!(gets, 1, "to see whether it was that workload alone");
    for tick in 1..=5 {
        let remaining = bench.poll().await;
        assert_eq!(remaining.workloads.len(), 50);
        assert_eq!(remaining.retry_in, Some(Duration::from_secs(1 << tick)));
        assert_eq!(bench.fake.requests(), (failed, gets + tick));
    }
    bench.fake.world().is_down = false;
    let remaining = bench.poll().await;
    // The failed workloads wait for their back-off. The others never began.
    assert_eq!(bench.reloads(), u64::from(50 - failed));
    assert_eq!(remaining.workloads.len(), failed as usize);
    assert_eq!(remaining.retry_in, Some(Duration::from_secs(1)), "it goes on");
}

#[tokio::test]
async fn that_there_is_nothing_to_reload_is_said_once_vault_has_answered() {
    let mut bench = Bench::new(&[("web", &["a"]), ("other", &["b"])]);
    let idle = |bench: &Bench| bench.fake.world().idle;
    bench.poll().await;
    assert_eq!(idle(&bench), 1);
    bench.fake.world().is_out = true;
    bench.poll().await;
    assert_eq!(idle(&bench), 1, "no answer at all");
    bench.fake.world().is_out = false;
    let b = bench.fake.world().live.remove("b").unwrap();
    let remaining = bench.poll().await;
    assert_eq!(idle(&bench), 2, "one secret that fails is an error line of its own");
    assert_eq!(remaining.secrets.len(), 1);
    bench.fake.world().live.insert("b".to_owned(), b);
    bench.fake.rotate("a", 2);
    bench.poll().await;
    assert_eq!((idle(&bench), bench.reloads()), (2, 1));
}

#[tokio::test]
async fn after_an_outage_it_is_said_with_the_first_answer_and_once_a_period() {
    let mut bench = Bench::new(&[("web", &["a"])]);
    bench.fake.world().is_out = true;
    let remaining = bench.poll().await;
    bench.fake.world().is_out = false;
    let Remaining { workloads, secrets, .. } = remaining;
    let again = || PollScope::Remaining {
        workloads: workloads.clone(),
        secrets: secrets.clone(),
        waiting: HashSet::new(),
    };
    for _ in 0..2 {
        bench.reloader.tick(again(), &CancellationToken::new()).await;
        assert_eq!(bench.fake.world().idle, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_hangs_for_some_keeps_nobody_else_waiting_and_comes_last() {
    let mut bench = Bench::of(50);
    bench.poll().await;
    let hanging: BTreeSet<String> = (0..20).map(|number| format!("web-{number}")).collect();
    bench.fake.world().hanging.clone_from(&hanging);
    for rotation in 1..=2 {
        bench.fake.rotate("a", rotation + 1);
        bench.poll().await;
        assert_eq!(bench.reloads(), 30 * rotation);
        bench.watch();
        // The version that the new pods started with is known from the next poll on.
        bench.poll().await;
        for reload_state in bench.reloader.workloads.tracks.states_mut() {
            reload_state.past.retry_at = None;
        }
    }
    let patched = &bench.fake.world().patched;
    assert_eq!(patched.len(), 100);
    assert!(patched[50..80].iter().all(|name| !hanging.contains(name)), "{patched:?}");
}

#[tokio::test(start_paused = true)]
async fn a_turn_ends_with_the_period_and_the_next_begins_with_whoever_had_none() {
    let mut bench = Bench::of(200);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    let all = bench.fake.world().objects.keys().cloned().collect();
    bench.fake.world().hanging = all;
    let began = Instant::now();
    let remaining = bench.poll().await;
    assert!(began.elapsed() < bench.reloader.workloads.settings.shared.period + 2 * HANGS_FOR);
    assert_eq!(remaining.workloads.len(), 200);
    let first = std::mem::take(&mut bench.fake.world().patched);
    let remaining = bench.poll().await;
    assert_eq!(remaining.retry_in, Some(Duration::from_secs(1)), "and on");
    let second = bench.fake.world().patched.clone();
    assert!((8..100).contains(&first.len()), "{}", first.len());
    assert!(second.iter().all(|name| !first.contains(name)), "{first:?} {second:?}");
}
