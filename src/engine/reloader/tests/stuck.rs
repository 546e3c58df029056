//! A reloader that hangs is detected, and a reloader that waits for good reasons is not.

use super::*;
use crate::engine::settings::SharedSettings;
use crate::heartbeat::Heartbeats;

const STEP: Duration = Duration::from_mins(15);

/// A Vault whose polls never end once `hangs` is cancelled.
struct Hanging {
    fake: Fake,
    hangs: CancellationToken,
}

impl Vault for Hanging {
    async fn poll(&mut self, requests: &[ReadRequest]) -> PollResult {
        if self.hangs.is_cancelled() {
            std::future::pending::<()>().await;
        }
        self.fake.poll(requests).await
    }

    async fn read_clock(&mut self) {}

    async fn rest(&mut self) {}

    fn forget(&mut self, _: impl Fn(&SecretId) -> bool + Send) {}

    async fn close(&mut self) {}
}

/// The handles of a test on a reloader that runs beside it.
struct Running {
    fake: Fake,
    heartbeats: Heartbeats,
    synced: CancellationToken,
    hangs: CancellationToken,
    candidacy: Candidate,
}

impl Running {
    fn lead(&self, time: Duration) {
        self.candidacy.say(Claim::Until(Instant::now() + time));
    }

    async fn expect_no_stuck_for(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            sleep(Duration::from_mins(1)).await;
            assert_eq!(self.heartbeats.stuck(), None);
        }
    }
}

async fn beside_a_reloader(period: Duration, test: impl AsyncFnOnce(Running)) {
    let Bench { fake, index, reloader, shutdown } = Bench::new(&[("web", &["a"])]);
    let Workloads { clocks, settings, budget, .. } = reloader.workloads;
    let shared = SharedSettings { period, ..settings.shared };
    let settings = Settings { shared, ..settings };
    let (candidacy, leadership) = election_channel();
    let (heartbeats, hangs) = (Heartbeats::default(), CancellationToken::new());
    let vault = Hanging { fake: fake.clone(), hangs: hangs.clone() };
    let events = Events::new(vec![Box::new(fake.clone())]);
    let reloader = Reloader::new(index, vault, fake.clone(), events, clocks, settings, budget)
        .with_heartbeat(heartbeats.add("reloader", STEP));
    let synced = CancellationToken::new();
    let run = reloader.run(synced.clone(), leadership, shutdown.clone());
    let test = async {
        test(Running { fake, heartbeats, synced, hangs, candidacy }).await;
        shutdown.cancel();
    };
    tokio::join!(run, test);
}

#[tokio::test(start_paused = true)]
async fn a_reloader_that_waits_is_not_stuck_however_long_it_waits() {
    let (hour, day) = (Duration::from_hours(1), Duration::from_hours(24));
    beside_a_reloader(hour, async |running| {
        running.expect_no_stuck_for(day).await;
        running.synced.cancel();
        running.expect_no_stuck_for(day).await;
        running.lead(2 * day);
        running.expect_no_stuck_for(day).await;
        assert!(running.fake.world().idle > 20, "it polled once an hour");
        running.fake.world().is_out = true;
        running.expect_no_stuck_for(day).await;
        running.expect_no_stuck_for(day).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reloader_that_hangs_is_stuck_until_another_leads() {
    beside_a_reloader(Duration::from_mins(1), async |running| {
        running.synced.cancel();
        running.lead(Duration::from_hours(24));
        running.expect_no_stuck_for(Duration::from_hours(1)).await;
        running.hangs.cancel();
        sleep(Duration::from_mins(14)).await;
        assert_eq!(running.heartbeats.stuck(), None);
        sleep(Duration::from_mins(3)).await;
        assert_eq!(&*running.heartbeats.stuck().unwrap().name, "reloader");
        running.candidacy.say(Claim::No);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(running.heartbeats.stuck(), None, "what hung was given up");
    })
    .await;
}
