//! Measures a rotation in waves: the time until many workloads have the new version of one secret,
//! beside the sum of the times that their rollouts took.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::{Bed, Controller, ControllerOptions, Options, State, Table, Workload, eventually};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::say::Say;

const NAMESPACES: usize = 10;
const SECRET: &str = "waves/shared";
/// How long a new pod takes to become ready.
const READY_AFTER: Duration = Duration::from_secs(2);
/// The number of concurrent requests while the bed is filled.
const AT_ONCE: usize = 16;
/// The longest wait. It is enough for one of two busy cores.
const WITHIN: Duration = Duration::from_mins(20);
/// How often the workloads are listed. The times of rollouts are as exact as this.
const LOOK: Duration = Duration::from_millis(250);

/// What was seen of the rollouts.
#[derive(Default)]
struct Seen {
    /// When the reload of each workload was seen first, and when its rollout was complete.
    rollouts: HashMap<String, (Instant, Option<Instant>)>,
    /// The most rollouts under way at a time.
    most: usize,
}

impl Seen {
    /// Takes in one state of all workloads. Returns whether all are rolled out.
    fn take_in(&mut self, states: &[State], workloads: usize) -> bool {
        let now = Instant::now();
        for state in states.iter().filter(|state| state.count().is_some()) {
            let (_, end) = self.rollouts.entry(state.uid().to_owned()).or_insert((now, None));
            if end.is_none() && state.is_rolled_out() {
                *end = Some(now);
            }
        }
        let running = self.rollouts.values().filter(|(_, end)| end.is_none()).count();
        self.most = self.most.max(running);
        self.rollouts.len() == workloads && running == 0
    }

    /// Returns the sum of the times of all rollouts.
    fn sum(&self) -> Duration {
        let took = |(begin, end): &(Instant, Option<Instant>)| end.unwrap_or(*begin) - *begin;
        self.rollouts.values().map(took).sum()
    }
}

/// Fills a bed with workloads that refer to one secret, rotates it, and prints the measurement.
pub(crate) async fn waves(workloads: usize, say: &mut Say) -> Result<()> {
    say.line("Starting the servers...");
    let bed = Bed::start(Options::new().scale()).await?;
    bed.write_secrets(&[SECRET]).await?;
    fill(&bed, workloads).await?;
    say.line(&format!("{workloads} Deployments are rolled out."));
    let options = ControllerOptions::new()
        .usual_rollouts()
        .flag("--reloader-run-period", "5s")
        .flag("--log-level", "info");
    let controller = Controller::start(&bed, &options).await?;
    controller.wait_for("No workloads to reload", WITHIN).await?;
    let mark = bed.mark().await?;
    let began = Instant::now();
    bed.rotate(SECRET).await?;
    let mut seen = Seen::default();
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        if seen.take_in(&bed.deployments().await?, workloads) {
            break;
        }
        ensure!(began.elapsed() < WITHIN, "the rotation does not end; {}", controller.last_lines());
    }
    let took = began.elapsed();
    let requests = bed.api_requests_of("vault-secrets-reloader/", &mark).await?;
    let patches = requests.iter().filter(|request| request.patches_workload()).count();
    let sum = seen.sum();
    let mut table = Table::new(&["workloads", "complete after", "sum of rollouts", "at a time"]);
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f32());
    table.row([workloads.to_string(), seconds(took), seconds(sum), seen.most.to_string()]);
    say.line(&format!("One secret in waves; new pods are ready after {READY_AFTER:?}\n{table}"));
    say.line(&format!(
        "{:.0} times as fast as one rollout after the other; {patches} PATCHes for {workloads} reloads.",
        sum.as_secs_f32() / took.as_secs_f32()
    ));
    Ok(())
}

async fn fill(bed: &Bed, workloads: usize) -> Result<()> {
    for number in 0..NAMESPACES {
        bed.cluster.create_namespace(&format!("waves-{number}")).await?;
    }
    stream::iter(0..workloads)
        .map(|number| {
            let namespace = format!("waves-{}", number % NAMESPACES);
            let workload = Workload::deployment(&namespace, &format!("workload-{number}"))
                .opted_in()
                .ready_after(READY_AFTER)
                .env("SECRET", &format!("vault:secret/data/{SECRET}#k"));
            let cluster = &bed.cluster;
            async move { cluster.apply(&workload).await.map(drop) }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    eventually("the Deployments to be rolled out", WITHIN, || async {
        let states = bed.deployments().await?;
        Ok((states.len() == workloads && states.iter().all(State::is_rolled_out)).then_some(()))
    })
    .await
}
