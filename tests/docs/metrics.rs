//! Metrics, alerts and the dashboard.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use vault_secrets_reloader::decide::plan::Cause;
use vault_secrets_reloader::events::event::Event;
use vault_secrets_reloader::events::metrics::Metrics;
use vault_secrets_reloader::events::sink::Sink as _;
use vault_secrets_reloader::model::kind::Kind;
use vault_secrets_reloader::model::progress::RolloutFailure;
use vault_secrets_reloader::model::request_end::RequestEnd;
use vault_secrets_reloader::model::workload::WorkloadId;
use vault_secrets_reloader::notifications::metrics::NotificationMetrics;
use vault_secrets_reloader::process::ProcessMetrics;
use vault_secrets_reloader::status::board::Board;
use vault_secrets_reloader::status::metrics::StatusMetrics;
use vault_secrets_reloader::status::report::Sources;

use super::{named, prose, read};

/// What the metrics of the status are computed from: nothing.
fn sources() -> Sources {
    let index = Arc::default();
    Sources {
        board: Arc::new(Board::new(Arc::clone(&index), || Timestamp::UNIX_EPOCH)),
        index,
        clock: Arc::default(),
        now: || Timestamp::UNIX_EPOCH,
        injector: Arc::default(),
        rollout_timeout: Duration::ZERO,
        servers: Arc::default(),
        replica: "a".into(),
    }
}

#[test]
fn every_metric_is_documented_once() {
    let metrics = Metrics::new(Arc::default(), Arc::default(), || 0.0);
    let metrics = metrics.with(StatusMetrics::new(sources(), Arc::default()));
    let metrics = metrics.with(NotificationMetrics(Arc::default()));
    let metrics = metrics.with_period(Duration::ZERO);
    let metrics = metrics.with_unprefixed(ProcessMetrics::new(0.0));
    // A metric with labels is shown once it has counted.
    let (kind, namespace, name) = (Kind::DEPLOYMENT, "shop".into(), "web".into());
    let workload = WorkloadId { kind, namespace, name };
    let (server, took, cause) = ("default", Duration::ZERO, Cause::Found);
    metrics.on(&Event::PollEnded { server, is_answered: true, took });
    let (error, again) = ("refused", false);
    metrics.on(&Event::ReloadFailed { workload: &workload, cause, error, again });
    metrics.on(&Event::TokenUsed { server, left: Some(took) });
    let failure = Some(RolloutFailure::FailedCreate);
    metrics.on(&Event::RolloutEnded { workload: &workload, failure });
    let (server, end) = (&Arc::from(server), RequestEnd::Answered(200));
    metrics.on(&Event::VaultRequest { server, operation: "metadata", end });
    metrics.on(&Event::VaultLogin { server, method: "jwt", is_success: true });
    metrics.on(&Event::ApiRequest { verb: "patch", resource: "deployments", end });
    let (is_warning, is_success) = (true, true);
    metrics.on(&Event::EventWritten { reason: "NoKey", is_warning, is_success });
    let page = read("docs/operations.md");
    let text = metrics.text();
    let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(names.len() > 5, "{text}");
    for name in names {
        let (name, kind) = name.split_once(' ').unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let row = format!("| `{name}{suffix}` |");
        assert_eq!(page.matches(&row).count(), 1, "{row} in docs/operations.md");
    }
}

/// The names of this controller's metrics in queries, without the suffixes of a histogram's series.
fn metrics_in(query: &str) -> BTreeSet<String> {
    // The name of a recording rule has colons.
    let names = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let names = names
        .filter(|name| name.starts_with("vault_secrets_reloader_") || name.starts_with("process_"));
    let without_suffix = |name: &str| {
        let suffixes = ["_bucket", "_sum", "_count"];
        let stem = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
        stem.unwrap_or(name).to_owned()
    };
    names.map(without_suffix).collect()
}

/// The texts of a key, anywhere in a document.
fn texts_of<'a>(document: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match document {
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::String(text) if name == key => found.push(text),
                    other => texts_of(other, key, found),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                texts_of(item, key, found);
            }
        }
        _ => {}
    }
}

/// The rules of Prometheus.
fn alert_rules() -> Value {
    serde_saphyr::from_str(&read("deploy/prometheus/alerts.yaml")).unwrap()
}

#[test]
fn alerts_and_dashboard_use_documented_metrics() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/dashboard.json")).unwrap();
    let documented = named(&read("docs/operations.md"));
    for document in [alert_rules(), dashboard] {
        let mut queries = Vec::new();
        texts_of(&document, "expr", &mut queries);
        let used: BTreeSet<String> = queries.iter().flat_map(|query| metrics_in(query)).collect();
        assert!(used.len() > 5, "{used:?}");
        let gone: Vec<_> = used.iter().filter(|name| !documented.contains_key(*name)).collect();
        assert!(gone.is_empty(), "not in docs/operations.md: {gone:?}");
    }
}

#[test]
fn every_alert_has_a_heading_in_the_runbook() {
    let rules = alert_rules();
    let (mut alerts, mut links) = (Vec::new(), Vec::new());
    texts_of(&rules, "alert", &mut alerts);
    texts_of(&rules, "runbook_url", &mut links);
    assert!(alerts.len() > 5, "{alerts:?}");
    let page = read("docs/runbook.md");
    let headings: Vec<&str> = prose(&page).filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(headings, alerts);
    let link = |alert: &&str| format!("docs/runbook.md#{}", alert.to_lowercase());
    let expected: Vec<String> = alerts.iter().map(link).collect();
    assert_eq!(links, expected);
}
