//! Reloads wait for the injector, and go on by themselves when it is back.

use tokio::time::timeout;

use super::*;
use crate::decide::hold::Hold;
use crate::engine::injector_hold::InjectorHold;
use crate::rollouts::injector::{
    FailurePolicy, Injector, InjectorCheck, InjectorSettings, InjectorState, Service, Webhook,
};
use crate::rollouts::selector::Selector;

/// The state of an injector that covers all namespaces.
fn state(is_ready: bool) -> InjectorState {
    let service = Service { namespace: "vault".into(), name: "vswh".into() };
    let webhook = Webhook {
        configuration: "vswh".into(),
        name: "pods.vswh".into(),
        failure_policy: FailurePolicy::Ignore,
        namespaces: Selector::default(),
        service: Some(service.clone()),
    };
    InjectorState {
        webhooks: Some(vec![webhook]),
        ready: [(service, is_ready)].into(),
        namespaces: None,
        is_settled: true,
    }
}

/// The injector of a reloader.
struct Remote {
    injector: Arc<Injector>,
    changed: watch::Sender<()>,
}

impl Remote {
    fn of(bench: &mut Bench) -> Self {
        let check = InjectorCheck::Auto;
        let settings = InjectorSettings { check, ..InjectorSettings::default() };
        let injector = Arc::new(Injector::new(settings));
        let (changed, changes) = watch::channel(());
        bench.reloader.workloads.injector = InjectorHold::new(Arc::clone(&injector), changes);
        Self { injector, changed }
    }

    fn set(&self, is_ready: bool) {
        self.injector.change(|present| *present = state(is_ready));
        self.changed.send_replace(());
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_waits_for_the_injector_and_for_nothing_else() {
    let mut bench = Bench::new(&[("web", &["a"]), ("api", &["b"])]);
    let remote = Remote::of(&mut bench);
    bench.poll().await;
    remote.set(false);
    bench.fake.rotate("a", 2);
    for _ in 0..2 {
        let remaining = bench.poll().await;
        assert!(remaining.workloads.is_empty(), "no poll comes early in vain");
    }
    assert_eq!(bench.fake.world().patches, 0);
    let hold = |bench: &Bench| {
        let state = bench.reloader.workloads.tracks.state("uid-of-web");
        state.and_then(|state| state.reported.hold)
    };
    assert_eq!(hold(&bench), Some(Hold::InjectorAway));
    let away = Duration::from_hours(1);
    let is_back = timeout(away, bench.reloader.workloads.injector.is_back()).await;
    assert!(is_back.is_err(), "{is_back:?}");
    // It comes and goes again within the time that nodes take to notice.
    remote.set(true);
    let comes_and_goes = async {
        sleep(Duration::from_secs(1)).await;
        remote.set(false);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        is_back = timeout(away, bench.reloader.workloads.injector.is_back()) => {
            assert!(is_back.is_err(), "{is_back:?}");
        }
        () = comes_and_goes => {}
    }
    remote.set(true);
    // Rollouts that end wake the engine all the time, and each time the wait is cancelled.
    let mut waiting = HashSet::new();
    for _ in 0..5 {
        let wait = timeout(Duration::from_secs(1), bench.reloader.workloads.injector.is_back());
        if let Ok(back) = wait.await {
            waiting = back;
            break;
        }
    }
    assert_eq!(waiting.len(), 1);
    bench.fake.rotate("b", 2);
    bench
        .reloader
        .tick(
            PollScope::Remaining {
                workloads: waiting,
                secrets: HashSet::new(),
                waiting: HashSet::new(),
            },
            &bench.shutdown,
        )
        .await;
    assert_eq!(["web", "api"].map(|name| bench.fake.count(name)), [1, 0]);
    assert_eq!(hold(&bench), None);
}

#[tokio::test(start_paused = true)]
async fn the_loop_goes_on_before_the_next_period() {
    let mut bench = Bench::new(&[("web", &["a"])]);
    let remote = Remote::of(&mut bench);
    bench.reloader.workloads.settings.shared.period = Duration::from_hours(1);
    let Bench { fake, reloader, shutdown, .. } = bench;
    let synced = CancellationToken::new();
    synced.cancel();
    let run = reloader.run(synced, Leadership::always(), shutdown.clone());
    let test = async {
        // Nothing is known of the injector yet.
        sleep(Duration::from_secs(10)).await;
        assert!(fake.world().asked.is_empty(), "no poll yet");
        remote.set(false);
        sleep(Duration::from_mins(1)).await;
        assert_eq!(fake.world().asked, ["a"]);
        fake.rotate("a", 2);
        sleep(Duration::from_hours(2)).await;
        assert_eq!(fake.count("web"), 0);
        remote.set(true);
        sleep(Duration::from_mins(1)).await;
        assert_eq!(fake.count("web"), 1);
        shutdown.cancel();
    };
    tokio::join!(run, test);
}
