//! The alerts of `deploy/prometheus` and the dashboard of `deploy/grafana`: a real Prometheus server
//! scrapes a controller. Each alert fires when that happens which it is about, and the queries of the
//! dashboard find something.

use anyhow::{Context as _, Result};
use e2e::refusal;
use e2e::scenario::SOON;
use e2e::{Bed, Controller, ControllerOptions, Prometheus, TokenRequest, Workload, eventually};
use serde_json::Value;

e2e::scenarios! {
    each_alert_fires_when_it_should,
    a_given_token_that_ends_alerts_before_polls_fail,
}

const DASHBOARD: &str = include_str!("../../../deploy/grafana/dashboard.json");

/// The panels that are empty on the bed: its token is given, and can be renewed.
const EMPTY_PANELS: [&str; 2] = ["Logins to Vault", "Tokens that end"];

const NAMESPACE: &str = "alerts";

/// The namespace in which new pods are refused.
const NO_PODS: &str = "alerts-no-pods";

const NO_LEADER: &str = "NoLeader";
const NO_POLL: &str = "NoSuccessfulPoll";
const DENIED: &str = "PathDenied";
const STOPPED: &str = "RotationStopped";
const HELD: &str = "WorkloadHeld";
const FAILING: &str = "ReloadFailing";
const TOKEN_ENDS: &str = "TokenEnds";

/// The label of workloads whose changes are refused.
const REFUSED: &str = "alerts-refused";

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
    let refused = using(NAMESPACE, "refused", "secret/data/alerts/kept").label(REFUSED, "yes");
    bed.deploy_all(&[&stopped, &held, &refused]).await?;
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
    // All that can be shown is there at this time.
    expect_panels(&prometheus).await?;

    // The pods can be created again, the secret is back, and the reference is corrected.
    refusal::lift(&bed.cluster, NO_PODS).await?;
    bed.rotate("alerts/gone").await?;
    let corrected = using(NAMESPACE, "denied", "secret/data/alerts/kept");
    bed.deploy_all(&[&corrected]).await?;
    let all = [STOPPED, HELD, DENIED, FAILING, TOKEN_ENDS, NO_POLL, NO_LEADER];
    wait_for(&prometheus, &controller, &[], &all).await?;

    // An admission policy refuses the PATCH of a reload.
    refusal::refuse(&bed.cluster, REFUSED, (REFUSED, "no changes here"), &refused, SOON).await?;
    bed.rotate("alerts/kept").await?;
    wait_for(&prometheus, &controller, &[FAILING], &[DENIED, NO_POLL, NO_LEADER]).await?;
    refusal::lift(&bed.cluster, REFUSED).await?;
    wait_for(&prometheus, &controller, &[], &all).await?;

    bed.vault.seal().await?;
    wait_for(&prometheus, &controller, &[NO_POLL], &[NO_LEADER]).await?;
    bed.vault.unseal().await?;
    wait_for(&prometheus, &controller, &[], &all).await?;

    controller.terminate().await?;
    wait_for(&prometheus, &controller, &[NO_LEADER], &[]).await
}

/// Each query of the dashboard is accepted, and each panel shows something.
async fn expect_panels(prometheus: &Prometheus) -> Result<()> {
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let mut tried = 0;
    for panel in panels {
        let title = panel["title"].as_str().unwrap_or_default();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().context("a target without a query")?;
            tried += 1;
            let is_empty = EMPTY_PANELS.contains(&title);
            eventually(&format!("the panel {title:?}"), SOON, || async {
                let series = prometheus.series(query).await?;
                Ok((is_empty || series > 0).then_some(()))
            })
            .await?;
        }
    }
    anyhow::ensure!(tried > 20, "only {tried} queries");
    Ok(())
}

/// In the rules of the bed, a day and two days have five seconds. So what counts is the second part of
/// the rule: the token ends within two periods, and had more time before.
async fn a_given_token_that_ends_alerts_before_polls_fail() -> Result<()> {
    let Some(program) = Prometheus::program() else {
        say_skipped();
        return Ok(());
    };
    let bed = Bed::shared().await?;
    bed.write_secrets(&["alerts/token"]).await?;
    let user = Workload::deployment("default", "alerts-token")
        .replicas(0)
        .opted_in()
        .env("A", "vault:secret/data/alerts/token#k");
    bed.deploy_all(&[&user]).await?;
    let request =
        TokenRequest { ttl: Some("15s".to_owned()), renewable: false, ..TokenRequest::default() };
    let token = bed.vault.create_token(&request).await?.token;
    let options = ControllerOptions::new().vault_token(&token);
    let controller = Controller::start(&bed, &options).await?;
    let prometheus = Prometheus::start(&bed, program, &controller).await?;
    eventually("Prometheus to see a leader", SOON, || async {
        Ok(prometheus.sees_a_leader().await?.then_some(()))
    })
    .await?;
    wait_for(&prometheus, &controller, &[TOKEN_ENDS], &[NO_POLL, NO_LEADER]).await
}

#[expect(clippy::print_stdout, reason = "a test program talks to who runs it")]
fn say_skipped() {
    println!("skipped: alerts: there is no prometheus on the PATH, and VSR_PROMETHEUS is not set");
}
