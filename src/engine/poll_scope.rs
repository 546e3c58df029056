//! What a poll is about, and what it leaves to be done.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::model::secret::SecretId;
use crate::model::workload::{Workload, WorkloadId};

/// What a tick is about.
pub(super) enum PollScope {
    All,
    /// What the tick before could not finish.
    Remaining {
        workloads: HashSet<WorkloadId>,
        secrets: HashSet<Arc<SecretId>>,
    },
}

/// What a tick left to be done before the next poll of everything.
#[derive(Default)]
pub(super) struct Remaining {
    pub(super) workloads: HashSet<WorkloadId>,
    pub(super) secrets: HashSet<Arc<SecretId>>,
    /// Whether any of the secrets was answered with a version that is yet to be believed.
    pub(super) suspects: bool,
    /// Whether Vault has answered for any secret, or none was asked for.
    pub(super) has_answer: bool,
    /// How many of the workloads wait for the budget.
    pub(super) over_budget: usize,
    /// The workloads of which is to be told that they are stripped.
    pub(super) stripped: Vec<Stripped>,
    /// Whether it goes on: some were reloaded, or not all had their turn.
    pub(super) is_moving: bool,
    pub(super) retry_in: Option<Duration>,
}

impl PollScope {
    /// Whether a workload is among those that are decided about.
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

/// A workload from which what was written is removed again and again.
pub(super) struct Stripped {
    pub(super) workload: Arc<Workload>,
    /// Until the next attempt.
    pub(super) hours: i64,
    pub(super) changed: Vec<Arc<SecretId>>,
    pub(super) gone: Vec<Arc<SecretId>>,
}
