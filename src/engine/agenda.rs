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

    /// Takes in what remains after a tick.
    pub(super) fn take_in(&mut self, remaining: Remaining) {
        let now = Instant::now();
        let retry = remaining.retry_in.map(|delay| now + delay);
        self.retry = self.retry.into_iter().chain(retry).min();
        self.workloads.extend(remaining.workloads);
        self.secrets.extend(remaining.secrets);
        self.waiting = remaining.waiting;
        let is_waiting = !self.waiting.is_empty();
        let look_in = remaining.wait_left.map_or(LOOK_AGAIN, |left| left.min(LOOK_AGAIN));
        self.look = is_waiting.then(|| now + look_in);
    }

    /// Adds workloads that are tried now.
    pub(super) fn add_now(&mut self, workloads: HashSet<WorkloadId>) {
        self.workloads.extend(workloads);
        self.retry = Some(Instant::now());
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

    /// Returns the scope of a tick that begins now. The scope takes its work off the agenda.
    pub(super) fn next_scope(&mut self, period: Duration) -> PollScope {
        let now = Instant::now();
        if now >= self.next_poll {
            *self = Self { next_poll: now + period, ..Self::new() };
            return PollScope::All;
        }
        let waiting = std::mem::take(&mut self.waiting);
        if self.retry.take_if(|retry| *retry <= now).is_some() {
            let workloads = std::mem::take(&mut self.workloads);
            let secrets = std::mem::take(&mut self.secrets);
            return PollScope::Remaining { workloads, secrets, waiting };
        }
        PollScope::Remaining { workloads: HashSet::new(), secrets: HashSet::new(), waiting }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::workload;

    const PERIOD: Duration = Duration::from_mins(1);

    fn ids(names: &[&str]) -> HashSet<WorkloadId> {
        names.iter().map(|name| workload(name, &[]).id).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_leaves_what_is_tried_again_where_it_is() {
        let mut agenda = Agenda::new();
        assert!(matches!(agenda.next_scope(PERIOD), PollScope::All));
        let remaining = Remaining {
            workloads: ids(&["failed"]),
            waiting: ids(&["waits"]),
            retry_in: Some(Duration::from_secs(20)),
            wait_left: Some(Duration::from_secs(3)),
            ..Remaining::default()
        };
        agenda.take_in(remaining);
        let begin = Instant::now();
        assert!(agenda.is_waiting() && agenda.has_retry());
        assert_eq!(agenda.next() - begin, Duration::from_secs(3));
        let scope = agenda.next_scope(PERIOD);
        assert!(scope.is_look() && scope.contains(&workload("waits", &[])));
        assert!(!scope.contains(&workload("failed", &[])));
        agenda.take_in(Remaining { waiting: ids(&["waits"]), ..Remaining::default() });
        assert_eq!(agenda.next() - begin, LOOK_AGAIN);
        tokio::time::advance(Duration::from_secs(20)).await;
        let scope = agenda.next_scope(PERIOD);
        assert!(scope.contains(&workload("waits", &[])));
        assert!(scope.contains(&workload("failed", &[])));
        agenda.take_in(Remaining::default());
        assert_eq!(agenda.next() - begin, PERIOD);
        assert!(!agenda.is_waiting() && !agenda.has_retry());
    }
}
