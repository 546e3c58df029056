//! The agenda: what an engine does next, and when.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::poll_scope::{PollScope, Remaining};
use crate::model::secret::SecretId;
use crate::model::workload::WorkloadId;

/// How often the reloads that wait for others are looked at again without a cause. Most waits end with
/// a rollout, which wakes the engine.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The work before the next full poll.
#[derive(Debug)]
pub(super) struct Agenda {
    next_poll: Instant,
    /// When the failed workloads and secrets are tried again.
    retry: Option<Instant>,
    workloads: HashSet<WorkloadId>,
    secrets: HashSet<Arc<SecretId>>,
    /// The workloads that wait until others have made room.
    waiting: HashSet<WorkloadId>,
    look: Option<Instant>,
}

impl Agenda {
    /// Returns an agenda that begins with a full poll.
    pub(super) fn new() -> Self {
        Self {
            next_poll: Instant::now(),
            retry: None,
            workloads: HashSet::new(),
            secrets: HashSet::new(),
            waiting: HashSet::new(),
            look: None,
        }
    }

    /// Notes that a full poll begins.
    pub(super) fn full_poll_begins(&mut self, period: Duration) {
        self.next_poll = Instant::now() + period;
    }

    /// Takes in what remains after a tick. `is_look` tells that the tick looked only at the workloads
    /// that wait.
    pub(super) fn take_in(&mut self, remaining: Remaining, is_look: bool) {
        let now = Instant::now();
        if !is_look {
            self.workloads.clear();
            self.secrets.clear();
            self.retry = None;
        }
        let retry = remaining.retry_in.map(|delay| now + delay);
        self.retry = self.retry.into_iter().chain(retry).min();
        self.workloads.extend(remaining.workloads);
        self.secrets.extend(remaining.secrets);
        self.waiting = remaining.waiting;
        let is_waiting = !self.waiting.is_empty();
        let look_in = remaining.wait_left.map_or(LOOK_AGAIN, |left| left.min(LOOK_AGAIN));
        self.look = is_waiting.then(|| now + look_in);
    }

    /// Whether workloads wait until others have made room.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether something is tried again before the next full poll.
    pub(super) fn has_retry(&self) -> bool {
        self.retry.is_some_and(|retry| retry < self.next_poll)
    }

    /// Returns when the next tick begins at the latest.
    pub(super) fn next(&self) -> Instant {
        let times = [self.retry, self.look];
        times.into_iter().flatten().min().map_or(self.next_poll, |time| time.min(self.next_poll))
    }

    /// Returns the scope of a tick that begins now.
    pub(super) fn scope(&self) -> PollScope {
        let now = Instant::now();
        if now >= self.next_poll {
            return PollScope::All;
        }
        let waiting = self.waiting.clone();
        if self.retry.is_some_and(|retry| retry <= now) {
            let (workloads, secrets) = (self.workloads.clone(), self.secrets.clone());
            return PollScope::Remaining { workloads, secrets, waiting };
        }
        PollScope::Remaining { workloads: HashSet::new(), secrets: HashSet::new(), waiting }
    }
}
