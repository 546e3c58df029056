//! What `/metrics` counts, compared with the audit logs of both servers.

use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::deploy::{ROLE, allow_login};
use e2e::scenario::{SOON, polling_faster};
use e2e::{Bed, Controller, Workload, eventually};

e2e::scenarios! {
    a_rotation_and_its_requests_are_counted,
}

const NAMESPACE: &str = "metrics";

/// How long pods take to be ready. Rotations are looked at every few seconds, so each is seen while
/// it is running.
const SLOW: Duration = Duration::from_secs(8);

/// The longest time from a rotation to the line about its end.
const ROTATED_WITHIN: Duration = Duration::from_mins(2);

/// The line about the end of a rotation.
const COMPLETE: &str = "Rotation complete";

/// Returns the samples of a family: its labels and its value.
fn samples<'a>(text: &'a str, name: &str) -> Vec<(&'a str, f64)> {
    let sample = |line: &'a str| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let is_whole = labels.is_empty() || labels.starts_with('{');
        is_whole.then_some((labels, value.parse().ok()?))
    };
    text.lines().filter_map(sample).collect()
}

/// Returns the sum of all samples of a family whose labels are wanted.
fn sum(text: &str, name: &str, is_wanted: impl Fn(&str) -> bool) -> f64 {
    let samples = samples(text, name);
    samples.iter().filter(|(labels, _)| is_wanted(labels)).map(|(_, value)| value).sum()
}

async fn scrape(controller: &Controller) -> Result<String> {
    Ok(controller.probe("/metrics").await?.body)
}

/// Compares the counted requests to Vault with the audit log, until both are equal. A request may be
/// under way at any time.
async fn compare_with_the_audit_log(
    bed: &Bed,
    controller: &Controller,
    mark: &e2e::Mark,
) -> Result<()> {
    let is_audited =
        |labels: &str| !labels.contains("\"health\"") && !labels.contains("\"seal_status\"");
    let name = "vault_secrets_reloader_vault_requests_total";
    let count = async || -> Result<(f64, f64, String)> {
        let audited = u32::try_from(bed.vault_requests_since(mark)?.len())?;
        let text = scrape(controller).await?;
        Ok((f64::from(audited), sum(&text, name, is_audited), text))
    };
    let found = eventually("as many requests as the audit log has", SOON, || async {
        let (audited, counted, _) = count().await?;
        Ok(((audited - counted).abs() < 0.5).then_some(()))
    })
    .await;
    let (audited, counted, text) = count().await?;
    found.with_context(|| format!("{counted} of {audited} requests are counted:\n{text}"))
}

async fn a_rotation_and_its_requests_are_counted() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace(NAMESPACE).await?;
    bed.write_secrets(&["metrics/a", "metrics/b"]).await?;
    let using = |name: &str| {
        let reference = format!("vault:secret/data/metrics/{name}#k");
        Workload::deployment(NAMESPACE, name).opted_in().env("A", &reference).ready_after(SLOW)
    };
    let (a, b) = (using("a"), using("b"));
    bed.deploy_all(&[&a, &b]).await?;
    allow_login(&bed, "default", "default").await?;
    let jwt = bed.cluster.request_token("default", "default", Duration::from_mins(10)).await?;
    let file = bed.folder().join("jwt-of-metrics");
    std::fs::write(&file, &jwt)?;
    let options = polling_faster().kubernetes_login(ROLE, &file);

    let mark = bed.mark().await?;
    let mut controller = Controller::start(&bed, &options).await?;
    controller.wait_for_polls(2, SOON).await?;
    let rotations = "vault_secrets_reloader_rotation_duration_seconds_count";
    assert_eq!(samples(&scrape(&controller).await?, rotations), [("", 0.0)]);

    bed.rotate("metrics/a").await?;
    let line = controller.wait_for(COMPLETE, ROTATED_WITHIN).await?.text;
    for part in ["secret=secret/data/metrics/a", "version=2", "workloads=1", "took="] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    bed.expect_rolls(&controller, &[&a], 1).await?;
    compare_with_the_audit_log(&bed, &controller, &mark).await?;
    let text = scrape(&controller).await?;
    assert_eq!(samples(&text, rotations), [("", 1.0)]);
    for line in [
        "vault_secrets_reloader_vault_logins_total{server=\"default\",method=\"jwt\",result=\"success\"} 1",
        "vault_secrets_reloader_api_requests_total{verb=\"patch\",resource=\"deployments\",code=\"200\"} 1",
        "vault_secrets_reloader_vault_requests_total{server=\"default\",operation=\"login\",code=\"200\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    for name in ["process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"]
    {
        let found = samples(&text, name);
        assert!(matches!(found[..], [("", value)] if value > 0.0), "{name}: {found:?}\n{text}");
    }
    eventually("the Events to be counted", SOON, || async {
        let text = scrape(&controller).await?;
        let is_reload =
            |labels: &str| labels.contains("\"Reloaded\"") && labels.contains("success");
        Ok((sum(&text, "vault_secrets_reloader_events_total", is_reload) > 0.0).then_some(()))
    })
    .await?;

    // A restart tells nothing of rotations that are over.
    controller.restart().await?;
    controller.wait_for_polls(2, SOON).await?;
    bed.rotate("metrics/b").await?;
    controller.wait_for(COMPLETE, ROTATED_WITHIN).await?;
    let lines = controller.lines_with(COMPLETE);
    let is_other = |text: &str| text.contains("secret=secret/data/metrics/b");
    assert!(lines.len() == 1 && is_other(&lines[0].text), "{lines:#?}");
    assert_eq!(samples(&scrape(&controller).await?, rotations), [("", 1.0)]);
    Ok(())
}
