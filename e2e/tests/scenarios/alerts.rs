//! The alerts of `deploy/prometheus`: a real Prometheus server scrapes a controller, and each alert fires
//! when that happens which it is about.

use anyhow::{Context as _, Result};
use e2e::refusal;
use e2e::scenario::SOON;
use e2e::{Bed, Controller, ControllerOptions, Prometheus, Workload, eventually};

e2e::scenarios! {
    each_alert_fires_when_it_should,
}

const NAMESPACE: &str = "alerts";

/// The namespace in which new pods are refused.
const NO_PODS: &str = "alerts-no-pods";

const NO_LEADER: &str = "NoLeader";
const NO_POLL: &str = "NoSuccessfulPoll";
const DENIED: &str = "PathDenied";
const STOPPED: &str = "RotationStopped";
const HELD: &str = "WorkloadHeld";

/// Waits until all of these alerts fire, and none of those.
async fn wait_for(
    prometheus: &Prometheus,
    controller: &Controller,
    firing: &[&str],
    silent: &[&str],
) -> Result<()> {
    let found = eventually("the alerts", SOON, || async {
        let all = prometheus.firing().await?;
        let is_in = |name: &&str| all.contains(&format!("VaultSecretsReloader{name}"));
        Ok((firing.iter().all(is_in) && !silent.iter().any(is_in)).then_some(()))
    })
    .await;
    if found.is_ok() {
        return found;
    }
    let state = prometheus.state().await;
    found.with_context(|| {
        format!("wanted {firing:?} without {silent:?}\n{state}\n{}", controller.last_lines())
    })
}

async fn each_alert_fires_when_it_should() -> Result<()> {
    let Some(program) = Prometheus::program() else {
        say_skipped();
        return Ok(());
    };
    let bed = Bed::shared().await?;
    for namespace in [NAMESPACE, NO_PODS] {
        bed.cluster.create_namespace(namespace).await?;
    }
    bed.write_secrets(&["alerts/kept", "alerts/gone"]).await?;
    let using = |namespace, name: &str, path: &str| {
        Workload::deployment(namespace, name).opted_in().env("A", &format!("vault:{path}#k"))
    };
    let stopped = using(NO_PODS, "stopped", "secret/data/alerts/kept");
    let held = using(NO_PODS, "held", "secret/data/alerts/kept")
        .env("B", "vault:secret/data/alerts/gone#k");
    bed.deploy_all(&[&stopped, &held]).await?;
    let mut controller = Controller::start(&bed, &ControllerOptions::new()).await?;
    controller.wait_for_polls(1, SOON).await?;
    let prometheus = Prometheus::start(&bed, program, &controller).await?;
    eventually("Prometheus to see a leader", SOON, || async {
        Ok(prometheus.sees_a_leader().await?.then_some(()))
    })
    .await?;
    eventually("no alert to fire", SOON, || async {
        Ok(prometheus.firing().await?.is_empty().then_some(()))
    })
    .await?;

    // No pod can be created any more, and one secret is gone.
    refusal::refuse_pods(&bed.cluster, NO_PODS, SOON).await?;
    bed.vault.kv("secret").delete_latest("alerts/gone").await?;
    controller.wait_for("Vault secret path secret/data/alerts/gone not found", SOON).await?;
    bed.rotate("alerts/kept").await?;
    wait_for(&prometheus, &controller, &[STOPPED, HELD], &[DENIED, NO_POLL, NO_LEADER]).await?;

    let denied = using(NAMESPACE, "denied", "not-granted/data/alerts");
    bed.deploy_all(&[&denied]).await?;
    wait_for(&prometheus, &controller, &[STOPPED, HELD, DENIED], &[NO_POLL, NO_LEADER]).await?;

    // The pods can be created again, the secret is back, and the reference is corrected.
    refusal::lift(&bed.cluster, NO_PODS).await?;
    bed.rotate("alerts/gone").await?;
    let corrected = using(NAMESPACE, "denied", "secret/data/alerts/kept");
    bed.deploy_all(&[&corrected]).await?;
    let all = [STOPPED, HELD, DENIED, NO_POLL, NO_LEADER];
    wait_for(&prometheus, &controller, &[], &all).await?;

    bed.vault.seal().await?;
    wait_for(&prometheus, &controller, &[NO_POLL], &[NO_LEADER]).await?;
    bed.vault.unseal().await?;
    wait_for(&prometheus, &controller, &[], &all).await?;

    controller.terminate().await?;
    wait_for(&prometheus, &controller, &[NO_LEADER], &[]).await
}

#[expect(clippy::print_stdout, reason = "a test program talks to who runs it")]
fn say_skipped() {
    println!("skipped: alerts: there is no prometheus on the PATH, and VSR_PROMETHEUS is not set");
}
