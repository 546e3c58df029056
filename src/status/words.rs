//! The words of a state: its name, its reason code, and a sentence for people.

use jiff::Timestamp;

use super::api;
use crate::decide::hold::Hold;
use crate::model::annotation::CONTINUE_AFTER_FAILURE;
use crate::model::progress::{RolloutFailure, Silence};
use crate::model::secret::Version;
use crate::model::strategy;
use crate::model::text::shorten;
use crate::model::time_rules::SetBy;
use crate::model::workload::{Workload, WorkloadId};
use crate::rollouts::rotation::{Pending, UserState};

/// Returns the name of a state.
pub(super) fn name(state: &UserState) -> &'static str {
    match state {
        UserState::Complete => "complete",
        UserState::Running => "running",
        UserState::Failed(_) | UserState::FailedAlone(_) => "failed",
        UserState::Silent(_) => "silent",
        UserState::Pending(_) => "pending",
        UserState::Held(_) => "held",
        UserState::TakenBack => "takenBack",
        UserState::Unknown => "unknown",
    }
}

/// Returns the reason code of a state; `None` for a complete rollout.
pub(super) fn code(state: &UserState) -> Option<&'static str> {
    Some(match state {
        UserState::Complete => return None,
        UserState::Running => "RolloutRunning",
        UserState::Failed(failure) | UserState::FailedAlone(failure) => failure.code(),
        UserState::Silent(silence) => silence.code(),
        UserState::Pending(Pending::NextPoll) => "NextPoll",
        UserState::Pending(Pending::Settling) => "Settling",
        UserState::Pending(Pending::WaitingForRevision) => "WaitingForRevision",
        UserState::Pending(Pending::Due) => "Due",
        UserState::Pending(Pending::Retrying(_)) => Hold::BackOff.code(),
        UserState::Held(hold) => hold.code(),
        UserState::TakenBack => "TakenBack",
        UserState::Unknown => "NoAnswer",
    })
}

/// Returns the sentence of a state.
fn message(state: &UserState, workload: &Workload) -> String {
    let owner = workload.owner.as_deref();
    match state {
        UserState::Complete => "All pods run with this version".to_owned(),
        UserState::Running => "The workload was reloaded, and its pods are being replaced".to_owned(),
        UserState::Failed(failure) => failed(*failure, workload),
        UserState::FailedAlone(failure) => {
            format!("{}. Other workloads do not wait for this one", failure.advice())
        }
        UserState::Silent(Silence::NoReplicas) => {
            "The workload has no pods. New pods read this version".to_owned()
        }
        UserState::Silent(Silence::Paused) => {
            "The workload is paused. Its pods get this version once it is resumed (kubectl rollout \
             resume)"
                .to_owned()
        }
        UserState::Silent(Silence::OnDelete) => {
            "The update strategy is OnDelete. Pods get this version as they are deleted".to_owned()
        }
        UserState::Silent(Silence::Partition) => {
            "The update strategy has a partition. Pods below it get this version once the partition \
             is lowered, or as they are deleted"
                .to_owned()
        }
        UserState::Pending(Pending::NextPoll) => {
            "The next poll decides about the workload".to_owned()
        }
        UserState::Pending(Pending::Settling) => {
            "The version is younger than --settle-time, or older than one that was seen before. The \
             workload is reloaded when that time is over"
                .to_owned()
        }
        UserState::Pending(Pending::WaitingForRevision) => {
            "The workload's controller has not made a revision of the present template yet. Check \
             that this controller runs"
                .to_owned()
        }
        UserState::Pending(Pending::Due) => "The reload begins".to_owned(),
        UserState::Pending(Pending::Retrying(error)) => {
            format!("The reload failed, and is tried again: {}", shorten(error))
        }
        UserState::Held(hold) => held(*hold, owner),
        UserState::TakenBack => {
            format!(
                "The reload was taken back: an older revision was restored. To have this version, {}",
                strategy::how_to_renew(owner)
            )
        }
        UserState::Unknown => {
            "Vault has not answered for the secret since this leader began, or does not answer now. If \
             this lasts for a period, look at the controller's log"
                .to_owned()
        }
    }
}

/// Returns the sentence of a hold. `owner` is the controller that owns the workload.
fn held(hold: Hold, owner: Option<&str>) -> String {
    match hold {
        Hold::BackOff => "The reload failed, and is tried again".to_owned(),
        Hold::Deleting => "The workload is being deleted".to_owned(),
        Hold::SecretGone => {
            "Another secret of the workload is missing, and new pods would fail. The workload is \
             reloaded when that secret is back or no longer referred to"
                .to_owned()
        }
        Hold::Stripped => {
            format!(
                "The workload was reloaded, and what was written was removed; {}",
                strategy::how_to_keep(owner)
            )
        }
        Hold::DryRun => {
            "The workload would be reloaded. --dry-run, or the annotation dry-run of the workload or its \
             namespace, prevents that"
                .to_owned()
        }
        Hold::Frozen { by, until } => {
            format!("A freeze holds the reload until {until}: {}", by.freeze())
        }
        Hold::OutsideWindow { by, opens } => outside_window(by, opens),
        Hold::InvalidTimeRule { by, error } => {
            format!("A text that cannot be used holds the reload: {} {error}", error.place(by))
        }
        Hold::InjectorAway => held_by_injector(
            "new pods would not get their secrets, since the webhook that injects them is away",
        ),
        Hold::InjectorMissing => {
            held_by_injector("no webhook that injects secrets is known to cover the namespace")
        }
        Hold::Budget => {
            "The workload waits for the rate limit of reloads for changes while no controller \
             watched (--found-reload-rate)"
                .to_owned()
        }
        Hold::Wave => {
            "Other workloads get the version first. This one follows when they are healthy (--waves)"
                .to_owned()
        }
        Hold::RotationStopped => {
            "The rotation is stopped, because another workload failed after its reload. This workload \
             keeps the version before"
                .to_owned()
        }
        Hold::RolloutLimit => {
            "The workload waits until fewer rollouts are under way (--max-rollouts, \
             --max-rollouts-per-namespace)"
                .to_owned()
        }
        Hold::Interval => {
            "The workload was reloaded a short while ago. It is reloaded again when \
             --reload-min-interval is over, which doubles for each reload in a row"
                .to_owned()
        }
        Hold::SecretOwner => {
            "The owner of a secret of the workload holds its reloads (custom_metadata reload=hold)"
                .to_owned()
        }
    }
}

/// Says that the rollout of a reload failed, and how the rotation goes on.
fn failed(failure: RolloutFailure, workload: &Workload) -> String {
    let WorkloadId { kind, namespace, name } = &workload.id;
    if workload.continue_after == Some(workload.count) {
        return format!(
            "The workload was reloaded. {}. Rotations go on without it, since its annotation \
             {CONTINUE_AFTER_FAILURE} says so",
            failure.advice()
        );
    }
    format!(
        "The workload was reloaded. {}. If this stopped the rotation, the rotation goes on when the \
         workload is healthy, or with a newer version. To go on without it: kubectl annotate {} {name} --namespace {namespace} \
         --overwrite {CONTINUE_AFTER_FAILURE}={}",
        failure.advice(),
        kind.name().to_ascii_lowercase(),
        workload.count
    )
}

/// Returns the sentence of windows that let no reload begin.
fn outside_window(by: SetBy, opens: Option<Timestamp>) -> String {
    let place = by.windows();
    match opens {
        Some(opens) => format!("The windows let no reload begin before {opens}: {place}"),
        None => format!(
            "The windows let no reload begin, and no opening is near: {place}. Check the windows"
        ),
    }
}

/// Returns the sentence of a hold for the injector, which says what new pods lack.
pub(super) fn held_by_injector(lack: &str) -> String {
    format!(
        "The reload waits for the webhook that injects secrets: {lack}. The workload is reloaded by \
         itself once new pods get their secrets"
    )
}

/// Returns since when a workload is in a state.
fn since(state: &UserState, version: Option<Version>, workload: &Workload) -> Option<Timestamp> {
    let recorded = workload.recorded.as_ref().filter(|record| record.of_this_template);
    match state {
        UserState::Running
        | UserState::Failed(_)
        | UserState::FailedAlone(_)
        | UserState::Silent(_) => recorded.and_then(|record| record.at),
        UserState::Pending(_) | UserState::Held(_) | UserState::TakenBack => {
            version.map(|version| version.created)
        }
        UserState::Complete | UserState::Unknown => None,
    }
}

/// Returns a state as the API shows it.
pub(super) fn progress(
    state: &UserState,
    version: Option<Version>,
    workload: &Workload,
) -> api::Progress {
    api::Progress {
        state: name(state).to_owned(),
        reason: code(state).map(str::to_owned),
        message: message(state, workload),
        since: since(state, version, workload),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::iter;

    use super::*;
    use crate::model::fixtures::workload;
    use crate::model::time_rules::TimeError;

    /// Returns the state after this one in a list of all states. A new state does not compile
    /// before it has a place in the list.
    fn next(state: &UserState) -> Option<UserState> {
        let (by, time) = (SetBy::Namespace, Timestamp::UNIX_EPOCH);
        Some(match state {
            UserState::Complete => UserState::Running,
            UserState::Running => UserState::Failed(RolloutFailure::FailedCreate),
            UserState::Failed(RolloutFailure::FailedCreate) => {
                UserState::Failed(RolloutFailure::DeadlineExceeded)
            }
            UserState::Failed(RolloutFailure::DeadlineExceeded) => {
                UserState::Failed(RolloutFailure::TimedOut)
            }
            UserState::Failed(RolloutFailure::TimedOut) => {
                UserState::FailedAlone(RolloutFailure::TimedOut)
            }
            UserState::FailedAlone(_) => UserState::Silent(Silence::NoReplicas),
            UserState::Silent(Silence::NoReplicas) => UserState::Silent(Silence::Paused),
            UserState::Silent(Silence::Paused) => UserState::Silent(Silence::OnDelete),
            UserState::Silent(Silence::OnDelete) => UserState::Silent(Silence::Partition),
            UserState::Silent(Silence::Partition) => UserState::Pending(Pending::NextPoll),
            UserState::Pending(Pending::NextPoll) => UserState::Pending(Pending::Settling),
            UserState::Pending(Pending::Settling) => {
                UserState::Pending(Pending::WaitingForRevision)
            }
            UserState::Pending(Pending::WaitingForRevision) => UserState::Pending(Pending::Due),
            UserState::Pending(Pending::Due) => {
                UserState::Pending(Pending::Retrying("refused: quota".into()))
            }
            UserState::Pending(Pending::Retrying(_)) => UserState::Held(Hold::BackOff),
            UserState::Held(Hold::BackOff) => UserState::Held(Hold::Deleting),
            UserState::Held(Hold::Deleting) => UserState::Held(Hold::SecretGone),
            UserState::Held(Hold::SecretGone) => UserState::Held(Hold::Stripped),
            UserState::Held(Hold::Stripped) => UserState::Held(Hold::Budget),
            UserState::Held(Hold::Budget) => UserState::Held(Hold::DryRun),
            UserState::Held(Hold::DryRun) => UserState::Held(Hold::InjectorAway),
            UserState::Held(Hold::InjectorAway) => UserState::Held(Hold::InjectorMissing),
            UserState::Held(Hold::InjectorMissing) => {
                UserState::Held(Hold::Frozen { by, until: time })
            }
            UserState::Held(Hold::Frozen { .. }) => {
                UserState::Held(Hold::OutsideWindow { by, opens: Some(time) })
            }
            UserState::Held(Hold::OutsideWindow { .. }) => {
                UserState::Held(Hold::InvalidTimeRule { by, error: TimeError::Cron })
            }
            UserState::Held(Hold::InvalidTimeRule { .. }) => UserState::Held(Hold::Wave),
            UserState::Held(Hold::Wave) => UserState::Held(Hold::RotationStopped),
            UserState::Held(Hold::RotationStopped) => UserState::Held(Hold::RolloutLimit),
            UserState::Held(Hold::RolloutLimit) => UserState::Held(Hold::Interval),
            UserState::Held(Hold::Interval) => UserState::Held(Hold::SecretOwner),
            UserState::Held(Hold::SecretOwner) => UserState::TakenBack,
            UserState::TakenBack => UserState::Unknown,
            UserState::Unknown => return None,
        })
    }

    #[test]
    fn the_lists_hold_each_name_and_each_reason_once() {
        let states: Vec<_> = iter::successors(Some(UserState::Complete), next).collect();
        let names: BTreeSet<_> = states.iter().map(name).collect();
        assert_eq!(names, BTreeSet::from(api::WORKLOAD_STATES));
        assert_eq!(names.len(), api::WORKLOAD_STATES.len());
        let codes: BTreeSet<_> = states.iter().filter_map(code).collect();
        assert_eq!(codes, BTreeSet::from(api::REASONS));
        assert_eq!(codes.len(), api::REASONS.len());
    }

    #[test]
    fn the_command_to_go_on_is_shown_until_somebody_ran_it() {
        let mut web = workload("web", &["a"]);
        web.count = 3;
        let state = UserState::Failed(RolloutFailure::TimedOut);
        let command = format!("{CONTINUE_AFTER_FAILURE}=3");
        assert!(message(&state, &web).contains(&command));
        web.continue_after = Some(2);
        assert!(message(&state, &web).contains(&command), "after an earlier reload");
        web.continue_after = Some(3);
        let text = message(&state, &web);
        assert!(!text.contains(&command) && text.contains("go on without it"), "{text}");
    }
}
