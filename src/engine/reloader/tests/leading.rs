//! A replica that does not lead does nothing. A replica that no longer leads begins nothing more.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A Vault that counts polls and closed sessions.
#[derive(Clone, Default)]
struct Counted {
    fake: Fake,
    polls: Arc<AtomicU32>,
    closes: Arc<AtomicU32>,
}

impl Vault for Counted {
    async fn poll(&mut self, requests: &[ReadRequest]) -> PollResult {
        self.polls.fetch_add(1, Ordering::Relaxed);
        self.fake.poll(requests).await
    }

    async fn read_clock(&mut self) {
        self.fake.read_clock().await;
    }

    async fn rest(&mut self) {
        self.fake.rest().await;
    }

    fn forget(&mut self, _: impl Fn(&SecretId) -> bool + Send) {}

    async fn close(&mut self) {
        self.closes.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counted {
    fn counts(&self) -> (u32, u32) {
        (self.polls.load(Ordering::Relaxed), self.closes.load(Ordering::Relaxed))
    }
}

/// Runs a reloader that polls once a minute beside a test, until the test ends.
async fn run(bench: Bench, leadership: Leadership, test: impl AsyncFnOnce(Counted)) -> Counted {
    let Bench { fake, index, reloader, shutdown } = bench;
    for kind in Kind::ALL {
        index.begin_list(kind);
        for object in fake.world().objects.values().filter(|_| kind == Kind::DEPLOYMENT) {
            index.apply(object.clone(), kind);
        }
        index.end_list(kind);
    }
    let counted = Counted { fake: fake.clone(), ..Counted::default() };
    let Workloads { clocks, settings, budget, .. } = reloader.workloads;
    let vault = counted.clone();
    let events = Events::new(vec![Box::new(fake.clone())]);
    let reloader = Reloader::new(index, vault, fake, events, clocks, settings, budget);
    let synced = CancellationToken::new();
    synced.cancel();
    let ending = shutdown.clone();
    let test = async {
        test(counted.clone()).await;
        shutdown.cancel();
    };
    tokio::join!(reloader.run(synced, leadership, ending), test);
    counted
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_asks_nothing_and_who_leads_polls_at_once() {
    let (candidacy, leadership) = election_channel();
    let lead = || candidacy.say(Claim::Until(Instant::now() + Duration::from_secs(10)));
    let soon = || sleep(Duration::from_millis(10));
    run(Bench::new(&[("web", &["a"])]), leadership, async |counted| {
        candidacy.stands().await;
        sleep(Duration::from_hours(1)).await;
        assert_eq!(counted.counts(), (0, 0));

        lead();
        soon().await;
        assert_eq!(counted.counts(), (1, 0));
        // The claim is renewed for two and a half minutes, and then not any more.
        for _ in 0..30 {
            sleep(Duration::from_secs(5)).await;
            lead();
        }
        assert_eq!(counted.counts(), (3, 0));
        sleep(Duration::from_mins(10)).await;
        assert_eq!(counted.counts(), (3, 1), "no poll any more, and no token kept");

        lead();
        soon().await;
        assert_eq!(counted.counts(), (4, 1), "it polls at once");
        candidacy.say(Claim::No);
        soon().await;
        assert_eq!(counted.counts(), (4, 2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_replicas_that_start_at_once_do_not_come_in_the_same_second() {
    let within = Duration::from_secs(10);
    let mut seconds = [0_u32; 10];
    for _ in 0..100 {
        let mut bench = Bench::new(&[("web", &["a"])]);
        bench.reloader.workloads.settings.shared.start_within = within;
        let began = Instant::now();
        run(bench, Leadership::always(), async |counted| {
            while counted.counts().0 == 0 {
                sleep(Duration::from_millis(10)).await;
            }
            let second = usize::try_from(began.elapsed().as_secs()).unwrap();
            seconds[second.min(9)] += 1;
        })
        .await;
    }
    // The average is ten a second. Three times that has odds of one in a million.
    assert!(seconds.iter().all(|count| *count < 30), "{seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_period_outlives_is_given_back_before_it_and_not_between_tries() {
    let bench = Bench::new(&[("web", &["a"])]);
    let live = std::mem::take(&mut bench.fake.world().live);
    run(bench, Leadership::always(), async |counted| {
        sleep(Duration::from_secs(30)).await;
        assert!(counted.counts().0 > 9, "{} tries", counted.counts().0);
        assert_eq!(counted.fake.world().rests, 0);
        counted.fake.world().live = live;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(counted.fake.world().rests, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_end_ends_it_whether_it_leads_or_not() {
    for leadership in [Leadership::always(), election_channel().1] {
        let leads = leadership.holds();
        let soon = async |_| sleep(Duration::from_millis(10)).await;
        let counted = run(Bench::new(&[("web", &["a"])]), leadership, soon).await;
        assert_eq!(counted.counts(), if leads { (1, 1) } else { (0, 0) });
    }
}

#[tokio::test]
async fn nothing_new_begins_once_the_claim_has_ended() {
    let mut bench = Bench::of(50);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    let (candidacy, leadership) = election_channel();
    bench.reloader.workloads.leadership = leadership;
    // Nothing tells the reloader that its claim ended. The process may have been frozen, for
    // example.
    candidacy.say(Claim::Until(Instant::now()));
    bench.poll().await;
    assert_eq!(bench.fake.world().patches, 0);
    bench.reloader.workloads.leadership = Leadership::always();
    bench.poll().await;
    assert_eq!(bench.fake.world().patches, 50);
}
