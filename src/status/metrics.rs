//! The metrics that are computed from the status on each request. Only the leader shows them.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::report::{Census, Sources};
use crate::election::leadership::Leadership;

/// How long the numbers are shown before they are computed again. Anybody in the cluster can scrape
/// the metrics as often as they like.
const KEPT_FOR: Duration = Duration::from_secs(5);

/// The number of workloads, secrets and rotations by their state.
#[derive(Debug)]
pub struct StatusMetrics {
    sources: Sources,
    leadership: Arc<OnceLock<Leadership>>,
    kept: Mutex<Option<(Instant, Arc<Census>)>>,
}

impl StatusMetrics {
    /// Returns the metrics, which are shown while `leadership` holds.
    #[must_use]
    pub fn new(sources: Sources, leadership: Arc<OnceLock<Leadership>>) -> Self {
        Self { sources, leadership, kept: Mutex::default() }
    }

    /// Returns the numbers. A replica that does not lead has none.
    fn census(&self) -> Arc<Census> {
        // A panic under the lock ends the process.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.leadership.get().is_some_and(Leadership::holds) {
            *kept = None;
            return Arc::default();
        }
        match &*kept {
            Some((time, census)) if time.elapsed() < KEPT_FOR => Arc::clone(census),
            _ => {
                let census = Arc::new(self.sources.report().census());
                *kept = Some((Instant::now(), Arc::clone(&census)));
                census
            }
        }
    }
}

impl Collector for StatusMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let census = self.census();
        for (family, help) in [
            (
                "workloads_watched",
                "Workloads that opted in and refer to secrets, by kind. Only the leader shows them",
            ),
            (
                "secrets_watched",
                "Secrets that workloads refer to, by Vault server. Only the leader shows them",
            ),
            (
                "rotations",
                "Secrets by the state of their rotation: how far the workloads are with the live \
                 version. Only the leader shows them",
            ),
            (
                "references",
                "Pairs of a workload and a secret, by how far the workload is with the live version, \
                 and by reason. Only the leader shows them",
            ),
        ] {
            let mut metric = encoder.encode_descriptor(family, help, None, MetricType::Gauge)?;
            for (labels, count) in census.get(family).into_iter().flatten() {
                let count = i64::try_from(*count).unwrap_or(i64::MAX);
                ConstGauge::new(count).encode(metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}
