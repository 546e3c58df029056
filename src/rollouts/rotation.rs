//! Rotations: which workloads run with the live version of a secret, which do not, and why.
//!
//! A *rotation* is one secret, its live version, and all workloads that refer to the secret. Its
//! state is computed from the last decision about each workload, from the status of the workload,
//! and from its record. Nothing is stored, so a restart or a new leader computes the same.

use std::sync::Arc;

use jiff::Timestamp;

use crate::decide::hold::Hold;
use crate::decide::observation::Observation;
use crate::decide::plan::{Action, Decision};
use crate::model::poll::PollNumber;
use crate::model::progress::{Progress, RolloutFailure, Silence};
use crate::model::secret::{SecretId, Version};
use crate::model::workload::Workload;
use crate::rollouts::rollout::RolloutState;

/// What the last poll saw of a secret. The version is beside it: there is one for each of tens of
/// thousands of secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The latest version can be read.
    Live,
    /// See [`Observation::Gone`].
    Gone,
    /// See [`Observation::Unknown`].
    Unknown,
}

impl From<Observation> for Reading {
    fn from(observation: Observation) -> Self {
        match observation {
            Observation::Live(_) => Self::Live,
            Observation::Gone => Self::Gone,
            Observation::Unknown => Self::Unknown,
        }
    }
}

/// What is known of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownSecret {
    /// What the last poll saw. If the secret is live, it has the `version`.
    pub reading: Reading,
    /// The version that was last seen live.
    pub version: Option<Version>,
    /// The poll that saw this version, or the loss of it, first.
    pub first_poll: PollNumber,
    /// When the last poll began that read the secret, by the controller's clock.
    pub read_at: Option<Timestamp>,
}

impl KnownSecret {
    /// The state of a secret that no poll has read.
    pub const UNREAD: Self = Self {
        reading: Reading::Unknown,
        version: None,
        first_poll: PollNumber::MAX,
        read_at: None,
    };

    /// Takes in the observation of a poll that began at this time.
    pub fn observe(
        &mut self,
        poll: PollNumber,
        began: Option<Timestamp>,
        observation: Observation,
    ) {
        let before = (self.reading == Reading::Gone, self.version);
        if let Observation::Live(version) = observation {
            self.version = Some(version);
        }
        self.reading = observation.into();
        let is_known = self.reading != Reading::Unknown;
        if is_known {
            self.read_at = began;
        }
        // Without an answer, nothing is known to have changed.
        let is_first = self.first_poll == PollNumber::MAX;
        if is_known && (is_first || before != (self.reading == Reading::Gone, self.version)) {
            self.first_poll = poll;
        }
    }
}

/// The last decision about a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The poll of the decision.
    pub poll: PollNumber,
    /// The first poll of the template that was decided about.
    pub template_first_poll: PollNumber,
    /// What is not as it should be. Few workloads have any, so it is boxed.
    pub open: Option<Box<OpenIssues>>,
}

/// What a decision found that is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenIssues {
    /// Why the reload is held.
    pub hold: Option<Hold>,
    /// Why the last PATCH failed.
    pub error: Option<Arc<str>>,
    /// The secrets that changed and for which the workload was not reloaded.
    pub changed: Box<[Arc<SecretId>]>,
    /// The secrets of reloads that were taken back.
    pub taken_back: Box<[Arc<SecretId>]>,
    /// The secrets without a verdict.
    pub undecided: Box<[Arc<SecretId>]>,
    /// Whether a verdict waits for the workload's controller.
    pub is_waiting: bool,
    /// Whether a verdict waits for the settle time.
    pub is_settling: bool,
}

impl Standing {
    /// Returns the standing of a workload after a decision.
    #[must_use]
    pub fn of(poll: PollNumber, template_first_poll: PollNumber, decision: &Decision) -> Self {
        let Decision { action, reverted, changed, waiting, unsettled, undecided, .. } = decision;
        let hold = if let Action::Hold(hold) = action { Some(*hold) } else { None };
        let is_open =
            !(reverted.is_empty() && changed.is_empty() && undecided.is_empty() && hold.is_none());
        let issues = || OpenIssues {
            hold,
            error: None,
            changed: changed.as_slice().into(),
            taken_back: reverted.as_slice().into(),
            undecided: undecided.as_slice().into(),
            is_waiting: *waiting,
            is_settling: *unsettled,
        };
        Self { poll, template_first_poll, open: is_open.then(|| Box::new(issues())) }
    }
}

/// Why a workload does not have the live version yet, although nothing prevents its reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pending {
    /// The next poll decides about the workload.
    NextPoll,
    /// The version is younger than the settle time, or must be seen for longer.
    Settling,
    /// The workload's controller has not made a revision of the present template yet.
    WaitingForRevision,
    /// The reload is due.
    Due,
    /// The PATCH failed with this error, and is tried again.
    Retrying(Arc<str>),
}

/// How far a workload is with the live version of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserState {
    /// All pods run with the version.
    Complete,
    /// The workload was reloaded, and its rollout is under way.
    Running,
    /// The workload was reloaded, and its rollout failed.
    Failed(RolloutFailure),
    /// Its rollout failed, and that keeps no other workload from the version: an operator went on
    /// without it, it was not healthy before, or the rollout is not the one of a reload.
    FailedAlone(RolloutFailure),
    /// The workload was reloaded, and it gives no signal that all its pods were replaced.
    Silent(Silence),
    /// The workload is not reloaded yet.
    Pending(Pending),
    /// The reload is held.
    Held(Hold),
    /// The reload was taken back: an older template was put back.
    TakenBack,
    /// Vault does not answer for the secret, so nothing is known.
    Unknown,
}

/// A workload that refers to a secret, with all that its state depends on.
#[derive(Clone, Copy, Debug)]
pub struct User<'a> {
    /// The workload.
    pub workload: &'a Workload,
    /// The first poll of its present template.
    pub template_first_poll: PollNumber,
    /// The state of the rollout of its present template.
    pub rollout: RolloutState,
    /// The last decision about it.
    pub standing: Option<&'a Standing>,
}

/// Returns how far a workload is with the live version of a secret.
#[must_use]
pub fn user_state(user: &User<'_>, secret: &SecretId, known: &KnownSecret) -> UserState {
    let Some(version) = known.version else { return UserState::Unknown };
    if known.reading == Reading::Unknown {
        return UserState::Unknown;
    }
    let is_in = |secrets: &[Arc<SecretId>]| secrets.iter().any(|other| **other == *secret);
    // A decision about an earlier template, or about an earlier version, tells nothing.
    let standing = user.standing.filter(|standing| {
        standing.poll >= known.first_poll
            && standing.template_first_poll == user.template_first_poll
    });
    let Some(standing) = standing else {
        let recorded = user.workload.recorded.as_ref().filter(|record| record.of_this_template);
        let entry = recorded.and_then(|record| record.versions.get(secret.hash64()));
        return if entry == Some(version) {
            progress(user)
        } else {
            UserState::Pending(Pending::NextPoll)
        };
    };
    let Some(open) = &standing.open else { return progress(user) };
    if is_in(&open.taken_back) {
        UserState::TakenBack
    } else if is_in(&open.undecided) {
        if open.is_settling {
            UserState::Pending(Pending::Settling)
        } else if open.is_waiting {
            UserState::Pending(Pending::WaitingForRevision)
        } else {
            // Another secret of the workload decided, before this one needed a verdict.
            open.hold.map_or(UserState::Pending(Pending::NextPoll), UserState::Held)
        }
    } else if is_in(&open.changed) {
        match (&open.error, open.hold) {
            (Some(error), _) => UserState::Pending(Pending::Retrying(error.clone())),
            (None, Some(Hold::BackOff)) => {
                UserState::Pending(Pending::Retrying("the error is not known".into()))
            }
            (None, Some(hold)) => UserState::Held(hold),
            (None, None) if open.is_settling => UserState::Pending(Pending::Settling),
            (None, None) => UserState::Pending(Pending::Due),
        }
    } else {
        progress(user)
    }
}

/// Returns the state of a workload whose template starts pods with the live version.
fn progress(user: &User<'_>) -> UserState {
    match (user.rollout, user.workload.progress) {
        (RolloutState::Healthy, _) => UserState::Complete,
        (RolloutState::Silent(silence), _) => UserState::Silent(silence),
        (RolloutState::Failed(failure), _) if stops_rotations(user.workload) => {
            UserState::Failed(failure)
        }
        (RolloutState::Failed(failure), _)
        | (RolloutState::Degraded, Progress::Failed(failure)) => UserState::FailedAlone(failure),
        (RolloutState::Running | RolloutState::Degraded, _) => UserState::Running,
    }
}

/// Whether a rollout of the workload that fails stops rotations.
fn stops_rotations(workload: &Workload) -> bool {
    let recorded = workload.recorded.as_ref().filter(|record| record.of_this_template);
    recorded.is_some_and(|record| !record.was_unhealthy)
        && workload.continue_after != Some(workload.count)
}

/// The state of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RotationState {
    /// Each workload that gives a signal runs with the version.
    Complete,
    /// Workloads are being reloaded, or will be without help.
    Running,
    /// A rollout failed, or a reload was taken back. Somebody should look.
    Stopped,
    /// Nothing is under way, and reloads are held.
    Held,
    /// The secret is missing, or its latest version is deleted.
    Missing,
    /// Vault has not answered for the secret.
    Unknown,
}

impl RotationState {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Complete, Self::Running, Self::Stopped, Self::Held, Self::Missing, Self::Unknown];

    /// Returns the name in the API and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Held => "held",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

/// Whether no pod of a workload can use an earlier version any more.
#[must_use]
pub fn is_replaced(user: &UserState) -> bool {
    matches!(user, UserState::Complete | UserState::Silent(Silence::NoReplicas))
}

/// How much a workload keeps a rotation from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Not at all.
    Done,
    /// Nothing is known.
    Unknown,
    /// Until somebody helps, while the others go on.
    FailedAlone,
    /// Until the hold ends.
    Held,
    /// Until the reload and its rollout end.
    Running,
    /// Until somebody helps.
    Stopped,
}

/// Returns how much a workload keeps a rotation from its end.
#[must_use]
pub fn severity(user: &UserState) -> Severity {
    match user {
        UserState::Complete | UserState::Silent(_) => Severity::Done,
        UserState::Unknown => Severity::Unknown,
        UserState::FailedAlone(_) => Severity::FailedAlone,
        // These reloads start by themselves when the others have made room.
        UserState::Running
        | UserState::Pending(_)
        | UserState::Held(Hold::Budget | Hold::Wave | Hold::RolloutLimit | Hold::Interval) => {
            Severity::Running
        }
        UserState::Held(_) => Severity::Held,
        UserState::Failed(_) | UserState::TakenBack => Severity::Stopped,
    }
}

/// Returns the state of a rotation from the highest severity of its workloads.
#[must_use]
pub fn rotation_of(known: &KnownSecret, worst: Option<Severity>) -> RotationState {
    match (known.reading, known.version, worst) {
        (Reading::Gone, ..) => RotationState::Missing,
        (_, None, _) | (.., Some(Severity::Unknown)) => RotationState::Unknown,
        (.., None | Some(Severity::Done)) => RotationState::Complete,
        (.., Some(Severity::Held)) => RotationState::Held,
        (.., Some(Severity::Running)) => RotationState::Running,
        (.., Some(Severity::FailedAlone | Severity::Stopped)) => RotationState::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::model::fixtures::{recorded, secret, version, workload};
    use crate::rollouts::rollout::{Deadline, rollout_state};

    const DEADLINE: Deadline =
        Deadline { now: Timestamp::UNIX_EPOCH, timeout: Duration::from_mins(10) };

    /// Returns the state of a rotation from the states of all workloads that refer to the secret.
    fn rotation_state<'a>(
        known: &KnownSecret,
        users: impl IntoIterator<Item = &'a UserState>,
    ) -> RotationState {
        rotation_of(known, users.into_iter().map(severity).max())
    }

    fn live(number: u64) -> KnownSecret {
        let version = Some(version(number, 100));
        KnownSecret { reading: Reading::Live, version, first_poll: 5, read_at: None }
    }

    fn state(workload: &Workload, known: &KnownSecret, standing: Option<&Standing>) -> UserState {
        let rollout = rollout_state(workload, false, DEADLINE);
        let user = User { workload, template_first_poll: 3, rollout, standing };
        user_state(&user, &secret("a"), known)
    }

    #[test]
    fn only_a_decision_about_this_version_and_this_template_counts() {
        let web = workload("web", &["a"]);
        let of = |poll, template| Standing::of(poll, template, &Decision::of(Action::Leave));
        assert_eq!(state(&web, &live(2), Some(&of(5, 3))), UserState::Complete);
        let next_poll = UserState::Pending(Pending::NextPoll);
        assert_eq!(state(&web, &live(2), Some(&of(4, 3))), next_poll);
        assert_eq!(state(&web, &live(2), Some(&of(9, 2))), next_poll);
        assert_eq!(state(&web, &live(2), None), next_poll);
        assert_eq!(state(&web, &KnownSecret::UNREAD, None), UserState::Unknown);
        // Right after a PATCH, and after a restart, the record tells.
        let mut reloaded = workload("web", &["a"]);
        reloaded.recorded = Some(recorded(true, &[("a", version(2, 100))]));
        assert_eq!(state(&reloaded, &live(2), None), UserState::Complete);
        assert_eq!(state(&reloaded, &live(3), None), next_poll);
        reloaded.recorded = Some(recorded(false, &[("a", version(2, 100))]));
        assert_eq!(state(&reloaded, &live(2), None), next_poll);
    }

    #[test]
    fn what_keeps_a_workload_from_the_version_is_told() {
        let web = workload("web", &["a", "b"]);
        let a = || vec![secret("a")];
        let standing = |decision: Decision| Standing::of(5, 3, &decision);
        let changed = |action| Decision { changed: a(), ..Decision::of(action) };
        let due = changed(Action::Roll(crate::decide::plan::Cause::Witnessed));
        let undecided = || Decision { undecided: a(), ..Decision::of(Action::Leave) };
        let held_for_another =
            Decision { undecided: a(), ..Decision::of(Action::Hold(Hold::SecretGone)) };
        let settling = UserState::Pending(Pending::Settling);
        for (decision, expected) in [
            (due, UserState::Pending(Pending::Due)),
            (changed(Action::Hold(Hold::SecretGone)), UserState::Held(Hold::SecretGone)),
            (held_for_another, UserState::Held(Hold::SecretGone)),
            (Decision { unsettled: true, ..changed(Action::Leave) }, settling.clone()),
            (Decision { unsettled: true, ..undecided() }, settling),
            (
                Decision { waiting: true, ..undecided() },
                UserState::Pending(Pending::WaitingForRevision),
            ),
            (Decision { reverted: a(), ..Decision::of(Action::Leave) }, UserState::TakenBack),
            // The other secret of the workload changed: this one has the version.
            (
                Decision {
                    changed: vec![secret("b")],
                    ..Decision::of(Action::Hold(Hold::SecretGone))
                },
                UserState::Complete,
            ),
        ] {
            assert_eq!(state(&web, &live(2), Some(&standing(decision.clone()))), expected);
        }
        let unknown = KnownSecret { reading: Reading::Unknown, ..live(2) };
        assert_eq!(state(&web, &unknown, Some(&standing(undecided()))), UserState::Unknown);
        let mut failed = standing(changed(Action::Hold(Hold::BackOff)));
        failed.open.as_mut().unwrap().error = Some("refused: quota".into());
        let retrying = UserState::Pending(Pending::Retrying("refused: quota".into()));
        assert_eq!(state(&web, &live(2), Some(&failed)), retrying);
    }

    #[test]
    fn a_rotation_is_complete_when_each_workload_with_a_signal_is() {
        let silent = UserState::Silent(Silence::OnDelete);
        let held = UserState::Held(Hold::SecretGone);
        let due = UserState::Pending(Pending::Due);
        let failed = UserState::Failed(RolloutFailure::TimedOut);
        let of = |users: &[&UserState]| rotation_state(&live(2), users.iter().copied());
        assert_eq!(of(&[]), RotationState::Complete);
        assert_eq!(of(&[&UserState::Complete, &silent]), RotationState::Complete);
        assert_eq!(of(&[&UserState::Complete, &UserState::Unknown]), RotationState::Unknown);
        assert_eq!(of(&[&held, &UserState::Unknown]), RotationState::Held);
        assert_eq!(of(&[&UserState::Running, &held]), RotationState::Running);
        assert_eq!(of(&[&UserState::Held(Hold::Budget)]), RotationState::Running);
        assert_eq!(of(&[&due, &silent]), RotationState::Running);
        assert_eq!(of(&[&UserState::TakenBack, &due]), RotationState::Stopped);
        assert_eq!(of(&[&UserState::Running, &failed]), RotationState::Stopped);
        let gone = KnownSecret { reading: Reading::Gone, ..live(2) };
        assert_eq!(rotation_state(&gone, [&due]), RotationState::Missing);
        assert_eq!(rotation_state(&KnownSecret::UNREAD, []), RotationState::Unknown);
    }

    #[test]
    fn a_failure_that_stops_no_rotation_lets_the_others_go_on() {
        let failure = RolloutFailure::FailedCreate;
        let standing = Standing::of(5, 3, &Decision::of(Action::Leave));
        let of = |web: &Workload| state(web, &live(2), Some(&standing));
        let mut web = workload("web", &["a"]);
        web.progress = Progress::Failed(failure);
        assert_eq!(of(&web), UserState::FailedAlone(failure), "its owner deployed");
        web.recorded = Some(recorded(true, &[("a", version(2, 100))]));
        web.count = 3;
        assert_eq!(of(&web), UserState::Failed(failure));
        web.continue_after = Some(3);
        assert_eq!(of(&web), UserState::FailedAlone(failure), "an operator went on");
        web.continue_after = Some(2);
        assert_eq!(of(&web), UserState::Failed(failure), "that was about another reload");
        web.recorded.as_mut().unwrap().was_unhealthy = true;
        assert_eq!(of(&web), UserState::FailedAlone(failure), "it failed before");
        let alone = UserState::FailedAlone(failure);
        let rotation = |other: &UserState| rotation_state(&live(2), [&alone, other]);
        assert_eq!(rotation(&UserState::Running), RotationState::Running);
        assert_eq!(rotation(&UserState::Held(Hold::Wave)), RotationState::Running);
        assert_eq!(rotation(&UserState::Held(Hold::SecretGone)), RotationState::Held);
        assert_eq!(rotation(&UserState::Complete), RotationState::Stopped);
    }

    #[test]
    fn the_first_poll_of_a_version_is_kept() {
        let mut known = KnownSecret::UNREAD;
        let mut at = |poll, observation| {
            known.observe(poll, None, observation);
            known.first_poll
        };
        assert_eq!(at(1, Observation::Unknown), PollNumber::MAX);
        assert_eq!(at(2, Observation::Live(version(1, 1))), 2);
        assert_eq!(at(3, Observation::Live(version(1, 1))), 2);
        assert_eq!(at(4, Observation::Unknown), 2);
        assert_eq!(at(5, Observation::Live(version(1, 1))), 2);
        assert_eq!(at(6, Observation::Live(version(2, 2))), 6);
        assert_eq!(at(7, Observation::Gone), 7);
        assert_eq!(at(8, Observation::Gone), 7);
        // The secret came back. What was decided while it was gone tells nothing.
        assert_eq!(at(9, Observation::Live(version(2, 2))), 9);
    }

    #[test]
    fn what_is_known_of_a_secret_is_small() {
        // There is one for each of tens of thousands of secrets.
        assert!(size_of::<KnownSecret>() <= 72, "{}", size_of::<KnownSecret>());
        assert!(size_of::<Standing>() <= 24, "{}", size_of::<Standing>());
    }
}
