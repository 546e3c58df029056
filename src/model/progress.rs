//! The progress of a rollout: whether all pods of a workload run with its present template.
//!
//! The workload's own controller does the rollout and reports it in the status of the object. The
//! counters mean different things for each kind, so the table of kinds names a function of this
//! file. All of these functions are total.

use crate::model::strategy::Rollout;

/// The fields of a workload's spec and status that tell its progress. Fields that are absent count
/// as zero, as in the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RolloutStatus {
    /// `spec.replicas`; `None` if it is absent, which means one.
    pub replicas_in_spec: Option<u32>,
    /// `status.replicas`, or `status.desiredNumberScheduled` of a DaemonSet.
    pub replicas: u32,
    /// `status.updatedReplicas`, or `status.updatedNumberScheduled` of a DaemonSet.
    pub updated: u32,
    /// `status.readyReplicas`, or `status.numberReady` of a DaemonSet.
    pub ready: u32,
    /// `status.availableReplicas`, or `status.numberAvailable` of a DaemonSet.
    pub available: u32,
    /// `status.terminatingReplicas`: pods that are ending. Releases of Kubernetes before 1.33 do not
    /// tell them.
    pub terminating: u32,
    /// What `status.conditions` says of a failure.
    pub failure: Option<RolloutFailure>,
    /// Whether the status says that the rollout of the present template has ended before. DaemonSets
    /// do not tell.
    pub has_ended: bool,
}

/// Why a rollout failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RolloutFailure {
    /// A pod cannot be created: a quota or an admission webhook refuses it.
    FailedCreate,
    /// The Deployment made no progress within `spec.progressDeadlineSeconds`.
    DeadlineExceeded,
    /// The rollout takes longer than the controller waits for it (`--rollout-timeout`).
    TimedOut,
}

/// Why a workload gives no signal that all its pods run with the present template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Silence {
    /// The workload has no pods.
    NoReplicas,
    /// The Deployment is paused.
    Paused,
    /// Pods are replaced only when somebody deletes them.
    OnDelete,
    /// Pods of a StatefulSet below its partition keep the former template.
    Partition,
}

/// The progress of a rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// All pods run with the present template.
    Complete,
    /// Pods are being replaced.
    #[default]
    Running,
    /// All pods were made from the present template, and some are not available. DaemonSets do not
    /// tell whether they ever were.
    Updated,
    /// All pods run with the present template since its rollout ended, but some are not available.
    Degraded,
    /// The rollout does not proceed.
    Failed(RolloutFailure),
    /// Some pods may keep the former template for ever, or there are none.
    Silent(Silence),
}

/// Returns the progress of a Deployment.
#[must_use]
pub fn of_deployment(status: &RolloutStatus, rollout: Rollout) -> Progress {
    let RolloutStatus { replicas, updated, available, terminating, failure, .. } = *status;
    let wanted = wanted(status);
    // Right after a PATCH the old pods are still available, so all pods must be updated ones. Pods
    // that are ending still use the version before.
    if updated >= wanted && replicas <= updated && available >= updated && terminating == 0 {
        return complete(wanted);
    }
    match (rollout, failure) {
        (Rollout::Paused, _) => Progress::Silent(Silence::Paused),
        (_, Some(failure)) => Progress::Failed(failure),
        // All that are left are updated ones.
        (_, None) if status.has_ended && replicas <= updated && terminating == 0 => {
            Progress::Degraded
        }
        (_, None) => Progress::Running,
    }
}

/// Returns the progress of a StatefulSet. A StatefulSet reports no failure.
#[must_use]
pub fn of_stateful_set(status: &RolloutStatus, rollout: Rollout) -> Progress {
    let RolloutStatus { replicas, updated, ready, .. } = *status;
    let wanted = wanted(status);
    if updated >= wanted && replicas <= wanted && ready >= wanted {
        return complete(wanted);
    }
    match rollout {
        Rollout::OnDelete => Progress::Silent(Silence::OnDelete),
        Rollout::Partition(partition)
            if updated >= wanted.saturating_sub(partition) && ready >= wanted =>
        {
            Progress::Silent(Silence::Partition)
        }
        _ if status.has_ended && replicas <= updated => Progress::Degraded,
        _ => Progress::Running,
    }
}

/// Returns the progress of a DaemonSet. A DaemonSet reports no failure.
#[must_use]
pub fn of_daemon_set(status: &RolloutStatus, rollout: Rollout) -> Progress {
    let RolloutStatus { replicas, updated, available, .. } = *status;
    if updated >= replicas && available >= replicas {
        return complete(replicas);
    }
    match rollout {
        _ if updated >= replicas => Progress::Updated,
        Rollout::OnDelete => Progress::Silent(Silence::OnDelete),
        _ => Progress::Running,
    }
}

fn wanted(status: &RolloutStatus) -> u32 {
    status.replicas_in_spec.unwrap_or(1)
}

fn complete(pods: u32) -> Progress {
    if pods == 0 { Progress::Silent(Silence::NoReplicas) } else { Progress::Complete }
}

impl RolloutFailure {
    /// Returns the failure that a condition of a Deployment tells, if any.
    #[must_use]
    pub fn of_condition(kind: &str, status: &str, reason: &str) -> Option<Self> {
        match (kind, status, reason) {
            ("ReplicaFailure", "True", _) => Some(Self::FailedCreate),
            ("Progressing", "False", _) => Some(Self::DeadlineExceeded),
            _ => None,
        }
    }

    /// Returns the reason code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::FailedCreate => "FailedCreate",
            Self::DeadlineExceeded => "ProgressDeadlineExceeded",
            Self::TimedOut => "RolloutTimedOut",
        }
    }
}

impl RolloutFailure {
    /// Returns what is the case and what to do, as a sentence.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::FailedCreate => {
                "New pods cannot be created. Check quotas and admission webhooks (kubectl describe)"
            }
            Self::DeadlineExceeded => {
                "The rollout made no progress within its deadline. Check why new pods do not become \
                 ready (kubectl describe pod)"
            }
            Self::TimedOut => {
                "The rollout takes longer than --rollout-timeout. Check why new pods do not become \
                 ready (kubectl describe pod)"
            }
        }
    }
}

impl Silence {
    /// Returns the reason code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NoReplicas => "NoReplicas",
            Self::Paused => "Paused",
            Self::OnDelete => "OnDelete",
            Self::Partition => "Partition",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the status of a workload of three pods: all, updated, ready and available ones.
    fn status(replicas: u32, updated: u32, ready: u32, available: u32) -> RolloutStatus {
        let replicas_in_spec = Some(3);
        RolloutStatus {
            replicas_in_spec,
            replicas,
            updated,
            ready,
            available,
            ..RolloutStatus::default()
        }
    }

    #[test]
    fn a_deployment_is_complete_when_only_updated_pods_are_left() {
        let automatic = |status| of_deployment(&status, Rollout::Automatic);
        assert_eq!(automatic(status(3, 3, 3, 3)), Progress::Complete);
        // Seen right after a PATCH on a real cluster: an old pod is still there.
        assert_eq!(automatic(status(4, 3, 4, 4)), Progress::Running);
        assert_eq!(automatic(status(3, 2, 3, 3)), Progress::Running);
        assert_eq!(automatic(status(3, 3, 2, 2)), Progress::Running);
        assert_eq!(automatic(RolloutStatus::default()), Progress::Running);
        let one = RolloutStatus { replicas_in_spec: None, ..status(1, 1, 1, 1) };
        assert_eq!(automatic(one), Progress::Complete);
        let none = RolloutStatus { replicas_in_spec: Some(0), ..RolloutStatus::default() };
        assert_eq!(automatic(none), Progress::Silent(Silence::NoReplicas));
        let failure = Some(RolloutFailure::FailedCreate);
        let failing = RolloutStatus { failure, ..status(3, 1, 3, 3) };
        assert_eq!(automatic(failing), Progress::Failed(RolloutFailure::FailedCreate));
        // A pod could not be created for a moment, and then it was.
        let recovered = RolloutStatus { failure, ..status(3, 3, 3, 3) };
        assert_eq!(automatic(recovered), Progress::Complete);
        // A pod crashes after the rollout. Right after a PATCH, the condition is of the template before.
        let has_ended = true;
        let crashing = RolloutStatus { has_ended, ..status(3, 3, 2, 2) };
        assert_eq!(automatic(crashing), Progress::Degraded);
        let just_patched = RolloutStatus { has_ended, ..status(4, 1, 3, 3) };
        assert_eq!(automatic(just_patched), Progress::Running);
        let ending = RolloutStatus { terminating: 1, ..status(3, 3, 3, 3) };
        assert_eq!(automatic(ending), Progress::Running);
        let paused = |status| of_deployment(&status, Rollout::Paused);
        assert_eq!(paused(status(3, 0, 3, 3)), Progress::Silent(Silence::Paused));
        assert_eq!(paused(status(3, 3, 3, 3)), Progress::Complete);
    }

    #[test]
    fn a_stateful_set_with_a_partition_keeps_old_pods() {
        let of = |status, rollout| of_stateful_set(&status, rollout);
        assert_eq!(of(status(3, 3, 3, 3), Rollout::Automatic), Progress::Complete);
        assert_eq!(of(status(3, 3, 2, 2), Rollout::Automatic), Progress::Running);
        let partition = Rollout::Partition(2);
        assert_eq!(of(status(3, 0, 3, 3), partition), Progress::Running);
        assert_eq!(of(status(3, 1, 2, 2), partition), Progress::Running);
        assert_eq!(of(status(3, 1, 3, 3), partition), Progress::Silent(Silence::Partition));
        assert_eq!(of(status(3, 3, 3, 3), partition), Progress::Complete);
        assert_eq!(
            of(status(3, 1, 3, 3), Rollout::Partition(u32::MAX)),
            Progress::Silent(Silence::Partition)
        );
        let on_delete = Rollout::OnDelete;
        assert_eq!(of(status(3, 1, 3, 3), on_delete), Progress::Silent(Silence::OnDelete));
        // Somebody deleted each pod.
        assert_eq!(of(status(3, 3, 3, 3), on_delete), Progress::Complete);
    }

    #[test]
    fn a_daemon_set_counts_nodes() {
        let of = |status, rollout| of_daemon_set(&status, rollout);
        assert_eq!(of(status(5, 5, 5, 5), Rollout::Automatic), Progress::Complete);
        assert_eq!(of(status(5, 4, 5, 5), Rollout::Automatic), Progress::Running);
        assert_eq!(of(status(5, 5, 4, 4), Rollout::Automatic), Progress::Updated);
        assert_eq!(of(status(5, 4, 5, 5), Rollout::OnDelete), Progress::Silent(Silence::OnDelete));
        let no_node = RolloutStatus::default();
        assert_eq!(of(no_node, Rollout::Automatic), Progress::Silent(Silence::NoReplicas));
    }

    #[test]
    fn only_a_failing_condition_is_a_failure() {
        let of = RolloutFailure::of_condition;
        let failed = Some(RolloutFailure::DeadlineExceeded);
        assert_eq!(of("Progressing", "False", "ProgressDeadlineExceeded"), failed);
        assert_eq!(
            of("ReplicaFailure", "True", "FailedCreate"),
            Some(RolloutFailure::FailedCreate)
        );
        for (kind, status) in
            [("Progressing", "True"), ("Progressing", "Unknown"), ("ReplicaFailure", "False")]
        {
            assert_eq!(of(kind, status, ""), None);
        }
        assert_eq!(of("Available", "False", "MinimumReplicasUnavailable"), None);
    }
}
