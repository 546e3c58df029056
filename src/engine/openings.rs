//! The workloads that are looked at again before the next full poll, since their freeze ends or their
//! window opens before it. A window can be shorter than the time between two polls.
//!
//! Nothing is lost with an opening: each full poll finds the changes again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;

use crate::model::workload::WorkloadId;

/// The shortest pause until a workload is looked at again. The API server's clock is known to within
/// about a second.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// The times at which workloads are looked at again.
#[derive(Default)]
pub(super) struct Openings(HashMap<WorkloadId, Instant>);

impl Openings {
    /// Notes that the reload of a workload may start after a pause. Without effect unless that is
    /// within `period`, the time between two full polls.
    pub(super) fn note(&mut self, id: &WorkloadId, pause: SignedDuration, period: Duration) {
        let pause = Duration::try_from(pause).unwrap_or_default().max(SHORTEST_PAUSE);
        if pause < period {
            self.0.insert(id.clone(), Instant::now() + pause);
        }
    }

    /// Returns the first of the times.
    pub(super) fn first(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }

    /// Takes out the workloads whose time has come.
    pub(super) fn take_due(&mut self) -> HashSet<WorkloadId> {
        let now = Instant::now();
        self.0.extract_if(|_, time| *time <= now).map(|(id, _)| id).collect()
    }

    /// Forgets all times, before a full poll.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
