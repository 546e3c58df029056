//! What something took, and how it is shown.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// What something took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// To Vault.
    pub(crate) requests: usize,
    pub(crate) logins: usize,
    pub(crate) audit_bytes: u64,
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    /// To the API server; of a whole process only.
    pub(crate) api_requests: Option<usize>,
    /// Log lines; of a whole process only.
    pub(crate) lines: Option<usize>,
}

/// A row of the table.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    of: fn(&Cost) -> Option<f64>,
    decimals: usize,
}

/// The rows of the table for each way to poll.
pub(crate) const FIGURES: [Figure; 7] = [
    Figure { name: "requests", of: |cost| count(cost.requests), decimals: 0 },
    Figure { name: "logins", of: |cost| count(cost.logins), decimals: 0 },
    Figure { name: "audit log, kB", of: |cost| Some(kilo(cost.audit_bytes)), decimals: 0 },
    Figure { name: "time, ms", of: |cost| Some(milliseconds(cost.wall)), decimals: 1 },
    Figure { name: "CPU, ms", of: |cost| Some(milliseconds(cost.cpu)), decimals: 0 },
    Figure { name: "API requests", of: |cost| cost.api_requests.and_then(count), decimals: 0 },
    Figure { name: "log lines", of: |cost| cost.lines.and_then(count), decimals: 0 },
];

impl Figure {
    /// This figure of a cost; empty where it has none.
    pub(crate) fn show(&self, cost: Option<&Cost>) -> String {
        let number = cost.and_then(self.of);
        number.map(|number| format!("{number:.*}", self.decimals)).unwrap_or_default()
    }

    /// How many times the floor it is; empty where that says nothing.
    pub(crate) fn times(&self, cost: &Cost, floor: &Cost) -> String {
        match ((self.of)(cost), (self.of)(floor)) {
            (Some(cost), Some(floor)) if floor > 0.0 => format!("{:.2}", cost / floor),
            _ => String::new(),
        }
    }
}

/// The one whose time is in the middle.
pub(crate) fn median(mut costs: Vec<Cost>) -> Result<Cost> {
    costs.sort_by_key(|cost| cost.wall);
    costs.get(costs.len() / 2).copied().context("nothing was measured")
}

fn count(count: usize) -> Option<f64> {
    u32::try_from(count).ok().map(f64::from)
}

fn kilo(bytes: u64) -> f64 {
    Duration::from_millis(bytes).as_secs_f64()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
