//! The scope of a poll, and the work that remains after it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::model::secret::SecretId;
use crate::model::workload::{Workload, WorkloadId};

/// The scope of a tick.
pub(super) enum PollScope {
    All,
    /// The work that the tick before did not finish.
    Remaining {
        workloads: HashSet<WorkloadId>,
        secrets: HashSet<Arc<SecretId>>,
    },
}

/// The work that remains after a tick, for the time before the next full poll.
#[derive(Default)]
pub(super) struct Remaining {
    pub(super) workloads: HashSet<WorkloadId>,
    pub(super) secrets: HashSet<Arc<SecretId>>,
    /// Whether a secret was answered with a version that is not believed yet.
    pub(super) suspects: bool,
    /// Whether Vault answered for a secret, or no secret was requested.
    pub(super) has_answer: bool,
    /// The number of these workloads that wait for the budget.
    pub(super) over_budget: usize,
    /// The stripped workloads to report.
    pub(super) stripped: Vec<Stripped>,
    /// Whether work proceeds: some workloads were reloaded, or some did not have their turn.
    pub(super) is_moving: bool,
    pub(super) retry_in: Option<Duration>,
}

impl PollScope {
    /// Returns the scope of a tick that comes early, for more workloads.
    pub(super) fn with(self, more: HashSet<WorkloadId>) -> Self {
        let (mut workloads, secrets) = match self {
            // The full poll follows at its time.
            Self::All => (HashSet::new(), HashSet::new()),
            Self::Remaining { workloads, secrets } => (workloads, secrets),
        };
        workloads.extend(more);
        Self::Remaining { workloads, secrets }
    }

    /// Whether a workload is in scope.
    pub(super) fn contains(&self, workload: &Workload) -> bool {
        match self {
            Self::All => true,
            Self::Remaining { workloads, secrets } => {
                workloads.contains(&workload.id)
                    || workload.watched().any(|secret| secrets.contains(secret))
            }
        }
    }
}

/// A workload whose reload is stripped again and again.
pub(super) struct Stripped {
    pub(super) workload: Arc<Workload>,
    /// The hours until the next attempt.
    pub(super) hours: i64,
    pub(super) changed: Vec<Arc<SecretId>>,
    pub(super) gone: Vec<Arc<SecretId>>,
}
