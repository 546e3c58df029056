//! Reloads that wait for the injector: the webhook without which new pods do not get their secrets.
//!
//! The hold is decided in each poll, and again before each PATCH. When the injector is back, the
//! workloads that wait are polled for at once.

use std::collections::HashSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::decide::hold::Hold;
use crate::model::workload::{Workload, WorkloadId};
use crate::rollouts::injector::Injector;

/// The time between the return of the injector and the poll for the workloads that wait. Nodes take
/// a moment until they route to a new endpoint. An injector that comes and goes causes no more polls
/// than this.
const BACK_FOR: Duration = Duration::from_secs(2);

/// The injector as one engine sees it.
pub(super) struct InjectorHold {
    injector: Arc<Injector>,
    /// Shows that something changed.
    changes: watch::Receiver<()>,
    /// The workloads whose reload waits, since the last full poll.
    waiting: HashSet<WorkloadId>,
    /// When the workloads are polled for, if the injector stays until then.
    back_at: Option<Instant>,
}

impl Default for InjectorHold {
    fn default() -> Self {
        Self::new(Arc::default(), watch::channel(()).1)
    }
}

impl InjectorHold {
    pub(super) fn new(injector: Arc<Injector>, changes: watch::Receiver<()>) -> Self {
        Self { injector, changes, waiting: HashSet::new(), back_at: None }
    }

    /// Waits until polls may begin: the state of the injector is known, or is not known in time.
    pub(super) async fn settled(&mut self) {
        while !self.injector.is_settled() {
            if self.changes.changed().await.is_err() {
                // The watch ended, and so does the process.
                return;
            }
        }
    }

    /// Returns why no reload of a workload may start now; `None` if it may.
    pub(super) fn hold(&self, workload: &Workload) -> Option<Hold> {
        self.injector.hold(&workload.id.namespace)
    }

    /// Says what new pods lack, and what to do. `None` if the hold is another one.
    pub(super) fn advice(&self, hold: Hold, namespace: &str) -> Option<String> {
        if !matches!(hold, Hold::InjectorAway | Hold::InjectorMissing) {
            return None;
        }
        // The injector may have come back since the decision.
        let advice = self.injector.advice(namespace);
        Some(advice.unwrap_or_else(|| "the webhook that injects secrets was away".to_owned()))
    }

    /// Notes a workload whose reload waits.
    pub(super) fn await_it(&mut self, id: &WorkloadId) {
        self.waiting.insert(id.clone());
    }

    /// Forgets the workloads that wait, before a full poll decides about all.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
        self.back_at = None;
    }

    /// Waits until reloads may start that waited, and returns all workloads that wait. Cancelling
    /// the call loses nothing, and the next call goes on with the wait.
    pub(super) async fn is_back(&mut self) -> HashSet<WorkloadId> {
        loop {
            if self.may_any_start() {
                let back_at = *self.back_at.get_or_insert_with(|| Instant::now() + BACK_FOR);
                sleep_until(back_at).await;
                if self.may_any_start() {
                    self.back_at = None;
                    return std::mem::take(&mut self.waiting);
                }
            }
            self.back_at = None;
            if self.changes.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    fn may_any_start(&self) -> bool {
        self.waiting.iter().any(|id| self.injector.hold(&id.namespace).is_none())
    }
}
