//! A tenant who does all that hurts, beside fifty honest workloads.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::noisy::NoisyTenant;
use e2e::scenario::SOON;
use e2e::workload::RECORD;
use e2e::{Bed, Controller, ControllerOptions, Workload};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;
use vault_secrets_reloader::model::record::Record;
use vault_secrets_reloader::model::secret::{DEFAULT_CONNECTION, SecretId, Version};

e2e::scenarios! {
    a_noisy_tenant_keeps_nobody_waiting: long alone,
}

const HONEST: usize = 50;
const PERIOD: Duration = Duration::from_secs(6);

/// What one workload may cost: secrets that are asked for in a poll, lines about its references each time
/// that they change, and Events at once.
const SECRETS_OF_ONE: usize = 1_000;
const LINES_OF_ONE: usize = 21;
const EVENTS_OF_ONE: usize = 25;

/// Lines about secrets in one poll.
const LINES_OF_POLL: usize = 101;

/// `128 MiB`, the limit of the chart.
const MEMORY: u64 = 128 << 20;

fn honest(number: usize) -> Workload {
    Workload::deployment("honest", &format!("w-{number}"))
        .replicas(0)
        .opted_in()
        .env("A", &format!("vault:secret/data/{}#k", path(number)))
}

fn path(number: usize) -> String {
    format!("honest/{number}")
}

/// A record that says of the secrets of others that far newer versions were rolled out.
fn forged(uid: &str) -> Result<String> {
    let created: Timestamp = "9892-01-01T00:00:00Z".parse()?;
    let versions = (0..HONEST).map(|number| {
        let path = format!("secret/data/{}", path(number)).into();
        let secret = SecretId { connection: DEFAULT_CONNECTION.into(), namespace: None, path };
        (secret.hash64(), Version { number: 99, created })
    });
    let (uid, mark) = (uid.to_owned(), "forged".to_owned());
    Ok(Record {
        uid,
        mark,
        at: None,
        streak: 0,
        was_unhealthy: false,
        versions: versions.collect(),
    }
    .encode())
}

async fn a_noisy_tenant_keeps_nobody_waiting() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("honest").await?;
    let paths: Vec<_> = (0..HONEST).map(path).collect();
    bed.write_secrets(&paths.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let start = bed.vault_mark();
    let workloads: Vec<_> = (0..HONEST).map(honest).collect();
    bed.deploy_all(&workloads.iter().collect::<Vec<_>>()).await?;
    let options =
        ControllerOptions::new().flag("--reloader-run-period", &format!("{}s", PERIOD.as_secs()));
    let mut controller = Controller::start(&bed, &options).await?;

    let tenant = NoisyTenant::begin(&bed, "noisy", &controller.address(), &path(0)).await?;
    let forger = (0..HONEST).fold(
        Workload::deployment("noisy", "forger").replicas(0).opted_in(),
        |workload, number| {
            let value = format!("vault:secret/data/{}#k", path(number));
            workload.env(&format!("V{number}"), &value)
        },
    );
    let uid = bed.cluster.apply(&forger).await?.uid().to_owned();
    let record = json!({"metadata": {"annotations": {RECORD: forged(&uid)?}}});
    bed.cluster.patch(&forger, &record).await?;
    controller.wait_for("noisy/Deployment/names-3", SOON).await?;
    controller.wait_for_polls(2, PERIOD * 6).await?;

    // At once, and from a start, when nothing is known.
    for count in 1..=2 {
        if count == 2 {
            controller.terminate().await?;
            controller.restart().await?;
        }
        controller.wait_for_polls(1, PERIOD * 6).await?;
        let mark = bed.mark().await?;
        let (lines, polls) = (controller.lines().len(), controller.polls());
        let began = Instant::now();
        for path in &paths {
            bed.rotate(path).await?;
        }
        for workload in &workloads {
            bed.cluster.wait_for_count(workload, count, PERIOD * 6).await?;
        }
        let took = began.elapsed();
        assert!(took < PERIOD * 2, "the last one was reloaded after {took:?}");

        let polls = controller.polls() - polls + 1;
        let of_tenant = |line: &str| line.contains("noisy");
        let said = controller.lines().split_off(lines);
        let said = said.iter().filter(|line| of_tenant(&line.text)).count();
        // Each edit of the restless one is a change of nothing that is said.
        let most = polls * LINES_OF_POLL + tenant.workloads() * LINES_OF_ONE;
        assert!(said <= most, "{said} lines in {polls} polls");
        let asked = bed.vault_requests_since(&mark)?;
        let asked = asked.iter().filter(|request| of_tenant(&request.path)).count();
        // Two workloads name more secrets than are watched of one.
        let most = polls * (2 * SECRETS_OF_ONE + 2);
        assert!(asked <= most, "{asked} requests in {polls} polls");
    }

    let events = bed.events("noisy").await?;
    for (workload, reason) in NoisyTenant::reasons() {
        let of_workload =
            events.get(workload).with_context(|| format!("no Event on {workload}"))?;
        ensure!(of_workload.iter().any(|event| event.ends_with(reason)), "{workload}: {events:#?}");
        assert!(of_workload.len() <= EVENTS_OF_ONE, "{workload}: {}", of_workload.len());
    }
    let (_, most) = controller.memory()?;
    assert!(most < MEMORY, "{} MiB", most >> 20);
    assert_eq!(controller.probe("/healthz").await?.status, 200);
    let once_each: Vec<_> = workloads.iter().map(|workload| (workload, Some(2))).collect();
    bed.expect_no_roll(&controller, &once_each).await?;
    tenant.end(&bed).await?;
    bed.expect_no_value_touched(&start)
}
