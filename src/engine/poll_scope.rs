//! The scope of a poll, and the work that remains after it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::decide::hold::Hold;
use crate::model::secret::SecretId;
use crate::model::workload::{Workload, WorkloadId};

/// The scope of a tick.
pub(super) enum PollScope {
    All,
    /// The work that the tick before did not finish.
    Remaining {
        workloads: HashSet<WorkloadId>,
        secrets: HashSet<Arc<SecretId>>,
        /// The workloads that wait until others have made room. Their secrets need not be read again
        /// for that.
        waiting: HashSet<WorkloadId>,
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
    /// The workloads that wait until others have made room, or until time has passed.
    pub(super) waiting: HashSet<WorkloadId>,
    /// What they wait for, with their number.
    pub(super) waiting_for: BTreeMap<Hold, usize>,
    /// The time until the first of them need not wait any more, if it is known.
    pub(super) wait_left: Option<Duration>,
    /// The stripped workloads to report.
    pub(super) stripped: Vec<Stripped>,
    /// Whether work proceeds: some workloads were reloaded, or some did not have their turn.
    pub(super) is_moving: bool,
    pub(super) retry_in: Option<Duration>,
}

impl PollScope {
    /// Whether a workload is in scope.
    pub(super) fn contains(&self, workload: &Workload) -> bool {
        match self {
            Self::All => true,
            Self::Remaining { workloads, secrets, waiting } => {
                workloads.contains(&workload.id)
                    || waiting.contains(&workload.id)
                    || workload.watched().any(|secret| secrets.contains(secret))
            }
        }
    }

    /// Whether the tick only looks at the workloads that wait.
    pub(super) fn is_look(&self) -> bool {
        match self {
            Self::All => false,
            Self::Remaining { workloads, secrets, .. } => {
                workloads.is_empty() && secrets.is_empty()
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
