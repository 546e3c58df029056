//! The metric of notifications.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

/// How many messages had each result.
#[derive(Debug, Default)]
pub struct Counts {
    /// The webhook accepted the message.
    sent: AtomicU64,
    /// The message was given up.
    failed: AtomicU64,
    /// The rate limit left the message out, or the queue was full.
    dropped: AtomicU64,
}

impl Counts {
    pub(super) fn count_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the counts by the name of their result.
    #[must_use]
    pub fn by_result(&self) -> [(&'static str, u64); 3] {
        [("sent", &self.sent), ("failed", &self.failed), ("dropped", &self.dropped)]
            .map(|(result, count)| (result, count.load(Ordering::Relaxed)))
    }
}

/// The metric of some counts.
#[derive(Debug)]
pub struct NotificationMetrics(pub Arc<Counts>);

impl Collector for NotificationMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "notifications",
            "Messages to the webhook: sent, given up, or dropped before they were sent",
            None,
            MetricType::Counter,
        )?;
        for (result, count) in self.0.by_result() {
            let labels = [("result", result)];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
