//! The metrics, in the text format of `OpenMetrics`. A new metric is a field, its registration, and
//! the event that updates it. A metric of a state rather than an event is read in [`State`].

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::event::Event;
use super::request_metrics::RequestMetrics;
use crate::election::leadership::Leadership;
use crate::events::sink::Sink;
use crate::index::Index;

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The prefix of the names of all metrics.
const PREFIX: &str = "vault_secrets_reloader";

/// The upper bounds of the buckets of durations, in seconds: of polls, which take a minute at most,
/// and from a rotation to a reload, which takes about a period, or as long as no controller watched.
const POLL_BUCKETS: [f64; 8] = [0.05, 0.2, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0];
const DELAY_BUCKETS: [f64; 9] = [5.0, 15.0, 60.0, 120.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0];

/// The upper bounds of the buckets of rotations, in seconds. A rotation takes about a period and the
/// time of the slowest rollout, or as long as nobody helps.
const ROTATION_BUCKETS: [f64; 10] =
    [10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 14_400.0, 86_400.0];

/// The metrics of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The metrics whose names have no prefix.
    unprefixed: Registry,
    requests: RequestMetrics,
    rotation_duration: Histogram,
    poll_duration: Family<ServerLabels, Histogram, fn() -> Histogram>,
    reload_delay: Histogram,
    rollouts_failed: Family<KindLabels, Counter>,
    token_expiry: Family<ServerLabels, Gauge<f64, AtomicU64>>,
    polls: Family<PollLabels, Counter>,
    last_poll: Family<ServerLabels, Gauge<f64, AtomicU64>>,
    reloads: Family<ReloadLabels, Counter>,
    now: fn() -> f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerLabels {
    server: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PollLabels {
    server: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    kind: &'static str,
    cause: &'static str,
    result: &'static str,
}

impl Metrics {
    /// Returns the metrics of a process. The findings of `index` are shown while `leadership`
    /// holds. `now` returns the time in seconds since 1970.
    #[must_use]
    pub fn new(index: Arc<Index>, leadership: Arc<OnceLock<Leadership>>, now: fn() -> f64) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register(
            "build",
            "The version of the controller",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let polls = Family::default();
        registry.register(
            "polls",
            "Polls of a Vault server. A poll failed if Vault answered for no secret",
            polls.clone(),
        );
        let last_poll = Family::default();
        registry.register(
            "last_successful_poll_timestamp_seconds",
            "When the last poll of a Vault server ended that Vault answered",
            last_poll.clone(),
        );
        let reloads = Family::default();
        registry.register(
            "reloads",
            "Reloads of workloads: PATCHes and how they ended",
            reloads.clone(),
        );
        let poll_duration: Family<ServerLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(POLL_BUCKETS));
        registry.register(
            "poll_duration_seconds",
            "How long a poll of a Vault server took",
            poll_duration.clone(),
        );
        let reload_delay = Histogram::new(DELAY_BUCKETS);
        registry.register(
            "reload_delay_seconds",
            "The time from the creation of a version to the PATCH that reloaded a workload for it",
            reload_delay.clone(),
        );
        let rollouts_failed = Family::default();
        registry.register(
            "rollouts_failed",
            "Rollouts of reloads that failed: the workload's controller reports it, or they took too long",
            rollouts_failed.clone(),
        );
        let token_expiry = Family::default();
        registry.register(
            "vault_token_expiry_timestamp_seconds",
            "When the token of a Vault server ends, if the controller can neither renew nor replace it",
            token_expiry.clone(),
        );
        let requests = RequestMetrics::register(&mut registry);
        let rotation_duration = register_rotation_duration(&mut registry);
        registry.register_collector(Box::new(State { index, leadership }));
        Self {
            registry,
            unprefixed: Registry::default(),
            requests,
            rotation_duration,
            poll_duration,
            reload_delay,
            rollouts_failed,
            token_expiry,
            polls,
            last_poll,
            reloads,
            now,
        }
    }

    /// Returns the metrics with the time between two polls.
    #[must_use]
    pub fn with_period(mut self, period: Duration) -> Self {
        let gauge: Gauge<f64, AtomicU64> = Gauge::default();
        gauge.set(period.as_secs_f64());
        self.registry.register("poll_period_seconds", "The time between two polls of Vault", gauge);
        self
    }

    /// Returns the metrics with those of another collector.
    #[must_use]
    pub fn with(mut self, collector: impl Collector) -> Self {
        self.registry.register_collector(Box::new(collector));
        self
    }

    /// Returns the metrics with those of a collector whose names get no prefix.
    #[must_use]
    pub fn with_unprefixed(mut self, collector: impl Collector) -> Self {
        self.unprefixed.register_collector(Box::new(collector));
        self
    }

    /// Returns all metrics in the format that Prometheus reads. May block: a collector may read
    /// files.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode_registry(&mut text, &self.unprefixed);
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn register_rotation_duration(registry: &mut Registry) -> Histogram {
    let histogram = Histogram::new(ROTATION_BUCKETS);
    registry.register(
        "rotation_duration_seconds",
        "The time from the creation of a version until all workloads that give a signal ran with it",
        histogram.clone(),
    );
    histogram
}

impl Sink for Metrics {
    fn on(&self, event: &Event<'_>) {
        match *event {
            Event::PollEnded { server, is_answered, took } => {
                let of_server = ServerLabels { server: server.to_owned() };
                self.poll_duration.get_or_create(&of_server).observe(took.as_secs_f64());
                let result = if is_answered { "success" } else { "failure" };
                let server = server.to_owned();
                self.polls.get_or_create(&PollLabels { server: server.clone(), result }).inc();
                if is_answered {
                    self.last_poll.get_or_create(&ServerLabels { server }).set((self.now)());
                }
            }
            Event::Reloaded { workload, cause, delay, .. } => {
                if let Some(delay) = delay {
                    self.reload_delay.observe(delay.as_secs_f64());
                }
                let (kind, cause) = (workload.kind.name(), cause.name());
                let labels = ReloadLabels { kind, cause, result: "success" };
                self.reloads.get_or_create(&labels).inc();
            }
            Event::TokenUsed { server, left } => {
                let labels = ServerLabels { server: server.to_owned() };
                match left {
                    Some(left) => {
                        let ends = (self.now)() + left.as_secs_f64();
                        self.token_expiry.get_or_create(&labels).set(ends);
                    }
                    None => drop(self.token_expiry.remove(&labels)),
                }
            }
            Event::RolloutEnded { workload, failure: Some(_) } => {
                let kind = workload.kind.name();
                self.rollouts_failed.get_or_create(&KindLabels { kind }).inc();
            }
            Event::ReloadFailed { workload, cause, .. } => {
                let (kind, cause) = (workload.kind.name(), cause.name());
                let labels = ReloadLabels { kind, cause, result: "failure" };
                self.reloads.get_or_create(&labels).inc();
            }
            Event::RotationChanged { took: Some(took), .. } => {
                self.rotation_duration.observe(took.as_secs_f64());
            }
            Event::VaultRequest { .. }
            | Event::VaultLogin { .. }
            | Event::ApiRequest { .. }
            | Event::EventWritten { .. } => self.requests.on(event),
            _ => {}
        }
    }
}

/// The metrics that are read from the present state on each request.
struct State {
    index: Arc<Index>,
    leadership: Arc<OnceLock<Leadership>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let is_leader = self.leadership.get().is_some_and(Leadership::holds);
        let metric = encoder.encode_descriptor(
            "leader",
            "Whether this replica leads",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(i64::from(is_leader)).encode(metric)?;
        let mut metric = encoder.encode_descriptor(
            "notices",
            "Workloads with references that are not watched or look odd at present, by reason. Only the leader \
             shows them.",
            None,
            MetricType::Gauge,
        )?;
        if is_leader {
            for (reason, count) in self.index.findings().counts() {
                let labels = [("reason", reason)];
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                ConstGauge::new(count).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::decide::plan::Cause;
    use crate::election::leadership::{Claim, election_channel};
    use crate::index::findings::{Finding, FindingSource};
    use crate::model::fixtures::secret;
    use crate::model::kind::Kind;
    use crate::model::strategy::Rollout;
    use crate::model::workload::WorkloadId;
    use crate::rollouts::rotation::RotationState;

    fn workload() -> WorkloadId {
        WorkloadId { kind: Kind::DEPLOYMENT, namespace: "shop".into(), name: "web".into() }
    }

    fn metrics() -> (Metrics, Arc<Index>, Arc<OnceLock<Leadership>>) {
        let (index, leadership) = (Arc::new(Index::default()), Arc::new(OnceLock::new()));
        (Metrics::new(Arc::clone(&index), Arc::clone(&leadership), || 1.5), index, leadership)
    }

    #[test]
    fn events_are_counted() {
        let (metrics, ..) = metrics();
        let took = Duration::from_secs(1);
        for is_answered in [true, false, true] {
            metrics.on(&Event::PollEnded { server: "default", is_answered, took });
        }
        let (workload, cause) = (&workload(), Cause::Witnessed);
        let (rollout, delay) = (Rollout::Automatic, Some(Duration::from_secs(70)));
        metrics.on(&Event::Reloaded { workload, count: 1, cause, rollout, changes: &[], delay });
        metrics.on(&Event::ReloadFailed { workload, cause, error: "refused", again: false });
        let (server, left) = ("default", Some(Duration::from_secs(9)));
        metrics.on(&Event::TokenUsed { server, left });
        for took in [None, Some(Duration::from_secs(90))] {
            let (from, to) = (Some(RotationState::Running), RotationState::Complete);
            let (secret, version, users) = (&secret("a"), None, &BTreeMap::new());
            metrics.on(&Event::RotationChanged { secret, version, from, to, took, users });
        }
        let text = metrics.text();
        for line in [
            "vault_secrets_reloader_rotation_duration_seconds_count 1",
            "vault_secrets_reloader_rotation_duration_seconds_bucket{le=\"60.0\"} 0",
            "vault_secrets_reloader_rotation_duration_seconds_bucket{le=\"120.0\"} 1",
            "vault_secrets_reloader_vault_token_expiry_timestamp_seconds{server=\"default\"} 10.5",
            "vault_secrets_reloader_polls_total{server=\"default\",result=\"success\"} 2",
            "vault_secrets_reloader_polls_total{server=\"default\",result=\"failure\"} 1",
            "vault_secrets_reloader_last_successful_poll_timestamp_seconds{server=\"default\"} 1.5",
            "vault_secrets_reloader_reloads_total{kind=\"Deployment\",cause=\"witnessed\",result=\"success\"} 1",
            "vault_secrets_reloader_reloads_total{kind=\"Deployment\",cause=\"witnessed\",result=\"failure\"} 1",
            "# TYPE vault_secrets_reloader_reloads counter",
            "vault_secrets_reloader_poll_duration_seconds_bucket{le=\"1.0\",server=\"default\"} 3",
            "vault_secrets_reloader_reload_delay_seconds_bucket{le=\"60.0\"} 0",
            "vault_secrets_reloader_reload_delay_seconds_bucket{le=\"120.0\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.contains(concat!(
            "build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1"
        )));
        assert!(text.ends_with("# EOF\n"), "{text}");
        metrics.on(&Event::TokenUsed { server, left: None });
        assert!(!metrics.text().contains("10.5"), "another token took its place");
        let period = Duration::from_secs(90);
        let text = self::metrics().0.with_period(period).text();
        assert!(text.contains("\nvault_secrets_reloader_poll_period_seconds 90.0\n"), "{text}");
    }

    #[test]
    fn only_the_leader_shows_the_reasons() {
        let (metrics, index, leadership) = metrics();
        let notice = |reason| Finding { reason, is_warning: true, message: String::new() };
        let id = workload();
        let notices = vec![notice("NoKey"), notice("Pinned")];
        index.findings().set(&id, "u", FindingSource::Manifest, notices);
        assert!(metrics.text().contains("\nvault_secrets_reloader_leader 0\n"));
        let (candidacy, of_process) = election_channel();
        assert!(leadership.set(of_process).is_ok());
        assert!(!metrics.text().contains("reason="));
        candidacy.say(Claim::Always);
        let text = metrics.text();
        assert!(text.contains("\nvault_secrets_reloader_leader 1\n"), "{text}");
        assert!(text.contains("\nvault_secrets_reloader_notices{reason=\"NoKey\"} 1\n"), "{text}");
        assert!(text.contains("\nvault_secrets_reloader_notices{reason=\"Pinned\"} 1\n"), "{text}");
        index.findings().forget(&id);
        assert!(!metrics.text().contains("NoKey"));
    }
}
