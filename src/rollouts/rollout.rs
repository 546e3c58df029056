//! The rollout of a reload: how a workload does that was reloaded, by the status of the object, by
//! its record, and by a time-out.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::model::progress::{Progress, RolloutFailure, Silence};
use crate::model::strategy::Rollout;
use crate::model::workload::Workload;

/// The clock and the limit by which a rollout takes too long.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// The present, by the API server's clock.
    pub now: Timestamp,
    /// How long a rollout may take (`--rollout-timeout`).
    pub timeout: Duration,
}

impl Deadline {
    /// Whether a reload began longer ago than a rollout may take. A time so far in the future was
    /// not written by this controller.
    fn is_past(self, at: Timestamp) -> bool {
        let timeout = SignedDuration::try_from(self.timeout).unwrap_or(SignedDuration::MAX);
        self.now.duration_since(at).unsigned_abs() > timeout.unsigned_abs()
    }
}

/// The state of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutState {
    /// All pods run with the present template.
    Healthy,
    /// Pods are being replaced.
    Running,
    /// The rollout failed.
    Failed(RolloutFailure),
    /// The workload gives no signal.
    Silent(Silence),
    /// Pods are not available long after the reload. The reload need not be the cause.
    Degraded,
}

/// Returns the state of the rollout of a workload's present template. `has_rolled_out` tells whether
/// the rollout has ended before.
///
/// Only the rollout of a reload has a time-out: it begins at a known time.
#[must_use]
pub fn rollout_state(
    workload: &Workload,
    has_rolled_out: bool,
    deadline: Deadline,
) -> RolloutState {
    let recorded = workload.recorded.as_ref().filter(|record| record.of_this_template);
    let is_past = recorded.map(|record| record.at.map(|at| deadline.is_past(at)));
    match (workload.progress, is_past) {
        (Progress::Complete, _) => RolloutState::Healthy,
        (Progress::Silent(silence), _) => RolloutState::Silent(silence),
        // Pods fail after the rollout, or long after the reload. The reload need not be the cause.
        (Progress::Failed(_), Some(_)) | (_, Some(Some(true))) if has_rolled_out => {
            RolloutState::Degraded
        }
        (Progress::Failed(failure), _) => RolloutState::Failed(failure),
        // Records of releases before 1.1 tell no time.
        (_, Some(None)) | (Progress::Updated | Progress::Degraded, Some(Some(true))) => {
            RolloutState::Degraded
        }
        (Progress::Running, Some(Some(true))) => RolloutState::Failed(RolloutFailure::TimedOut),
        (Progress::Running | Progress::Updated | Progress::Degraded, Some(Some(false)) | None) => {
            RolloutState::Running
        }
    }
}

/// Whether a workload is not healthy before a reload, and not because of an earlier reload. A failure
/// of the next rollout then tells nothing about the new version.
#[must_use]
pub fn is_unhealthy_by_itself(
    workload: &Workload,
    has_rolled_out: bool,
    deadline: Deadline,
) -> bool {
    let recorded = workload.recorded.as_ref().filter(|record| record.of_this_template);
    match rollout_state(workload, has_rolled_out, deadline) {
        RolloutState::Healthy | RolloutState::Silent(_) => false,
        RolloutState::Degraded => true,
        RolloutState::Running | RolloutState::Failed(_) => {
            recorded.is_none_or(|record| record.was_unhealthy)
        }
    }
}

/// Whether the reload of a workload replaces no pod for now.
#[must_use]
pub fn replaces_no_pods(workload: &Workload) -> bool {
    matches!(workload.rollout, Rollout::Paused | Rollout::OnDelete)
        || workload.progress == Progress::Silent(Silence::NoReplicas)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::{recorded, second, version, workload};

    #[test]
    fn what_a_reload_broke_was_healthy_before() {
        let deadline = Deadline { now: second(1_000), timeout: Duration::from_mins(10) };
        let is_unhealthy = |web: &Workload| is_unhealthy_by_itself(web, false, deadline);
        let mut web = workload("web", &["a"]);
        assert!(!is_unhealthy(&web));
        web.progress = Progress::Failed(RolloutFailure::DeadlineExceeded);
        assert!(is_unhealthy(&web), "somebody else deployed it");
        let mut record = recorded(true, &[]);
        record.at = Some(second(900));
        web.recorded = Some(record);
        assert!(!is_unhealthy(&web), "a reload broke it");
        web.recorded.as_mut().unwrap().was_unhealthy = true;
        assert!(is_unhealthy(&web), "it was broken before that reload");
        web.progress = Progress::Complete;
        assert!(!is_unhealthy(&web));
    }

    #[test]
    fn only_the_rollout_of_a_reload_takes_too_long() {
        let mut web = workload("web", &["a"]);
        web.progress = Progress::Running;
        let mut record = recorded(true, &[("a", version(2, 100))]);
        record.at = Some(second(1_000));
        web.recorded = Some(record);
        let timeout = Duration::from_mins(10);
        let state = |web: &Workload, has_rolled_out, now| {
            rollout_state(web, has_rolled_out, Deadline { now: second(now), timeout })
        };
        let timed_out = RolloutState::Failed(RolloutFailure::TimedOut);
        assert_eq!(state(&web, false, 900), RolloutState::Running, "its clock is behind");
        assert_eq!(state(&web, false, 1_600), RolloutState::Running);
        assert_eq!(state(&web, false, 1_601), timed_out);
        // Somebody else wrote a time in the future.
        assert_eq!(state(&web, false, 399), timed_out);
        // A pod of the workload is replaced after the rollout.
        assert_eq!(state(&web, true, 1_600), RolloutState::Running);
        assert_eq!(state(&web, true, 1_601), RolloutState::Degraded);
        // A node of a DaemonSet is away, and nobody knows whether the rollout ended before.
        web.progress = Progress::Updated;
        assert_eq!(state(&web, false, 1_600), RolloutState::Running);
        assert_eq!(state(&web, false, 1_601), RolloutState::Degraded);
        web.progress = Progress::Running;
        // Somebody else deployed since.
        let mut other = web.clone();
        other.recorded.as_mut().unwrap().of_this_template = false;
        assert_eq!(state(&other, false, 9_999), RolloutState::Running);
        // An earlier release reloaded the workload, and nobody knows when.
        web.recorded.as_mut().unwrap().at = None;
        assert_eq!(state(&web, false, 1_000), RolloutState::Degraded);
        web.progress = Progress::Failed(RolloutFailure::FailedCreate);
        let failed = RolloutState::Failed(RolloutFailure::FailedCreate);
        assert_eq!(state(&web, false, 1_000), failed);
        assert_eq!(state(&web, true, 1_000), RolloutState::Degraded, "after its rollout");
        web.recorded.as_mut().unwrap().at = Some(second(1_000));
        assert_eq!(state(&web, false, 9_999), failed);
        assert_eq!(state(&web, true, 9_999), RolloutState::Degraded, "long after its rollout");
    }
}
