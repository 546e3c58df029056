//! Finds out which rotations changed their state since the last look.
//!
//! Only what is certain counts. While Vault does not answer, or the next poll has to decide about a
//! workload, a rotation keeps its last state. So a new workload, or an owner who deploys, is no
//! rotation, and an outage does not complete a rotation twice.
//!
//! Architecture Invariant: a start announces nothing of the past. A rotation that was complete when
//! this process saw it first is not announced, and each version is completed once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::api::{self, WORKLOAD_STATES};
use super::words;
use crate::model::secret::{SecretId, Version};
use crate::model::workload::Workload;
use crate::rollouts::rotation::{Pending, RotationState, Severity, UserState, severity};

/// The number of workloads that refer to a secret, and what they mean for its rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The number of workloads in each state, in the order of [`WORKLOAD_STATES`].
    users: [u32; WORKLOAD_STATES.len()],
    /// The highest severity of the workloads.
    pub(super) worst: Option<Severity>,
    /// Whether the controller certainly acts, or has acted, for a workload.
    is_under_way: bool,
    /// Whether the reload of a workload was taken back.
    is_taken_back: bool,
}

impl Tally {
    /// Adds a workload with its state.
    pub(super) fn add(&mut self, state: &UserState, workload: &Workload) {
        if let Some(count) = self.users.get_mut(api::rank(words::name(state))) {
            *count += 1;
        }
        self.worst = self.worst.max(Some(severity(state)));
        self.is_under_way |= is_under_way(state, workload);
        self.is_taken_back |= *state == UserState::TakenBack;
    }

    /// Whether the pods of a workload are being replaced.
    pub(super) fn has_rollout(&self) -> bool {
        let running = api::rank(words::name(&UserState::Running));
        self.users.get(running).is_some_and(|count| *count > 0)
    }

    /// Returns the number of workloads by the names of their states.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<&'static str, u64> {
        let counts = WORKLOAD_STATES.into_iter().zip(self.users).filter(|(_, count)| *count > 0);
        counts.map(|(name, count)| (name, u64::from(count))).collect()
    }
}

/// Whether a workload shows that its secret was rotated. A rollout that is not ours shows nothing,
/// and neither does a workload about which the controller could not decide yet.
fn is_under_way(state: &UserState, workload: &Workload) -> bool {
    match state {
        UserState::Complete
        | UserState::Silent(_)
        | UserState::Unknown
        | UserState::Pending(Pending::NextPoll | Pending::WaitingForRevision) => false,
        UserState::Running | UserState::FailedAlone(_) => {
            workload.recorded.as_ref().is_some_and(|record| record.of_this_template)
        }
        UserState::Pending(Pending::Settling | Pending::Due | Pending::Retrying(_))
        | UserState::Failed(_)
        | UserState::Held(_)
        | UserState::TakenBack => true,
    }
}

/// A rotation, as a report shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenRotation {
    /// The secret.
    pub secret: Arc<SecretId>,
    /// The version that was last seen live.
    pub version: Option<Version>,
    /// The state.
    pub state: RotationState,
    /// The workloads.
    pub tally: Tally,
}

impl SeenRotation {
    /// Returns the state, if it is certain. A rotation in which only rollouts of others run, or failed,
    /// is not.
    fn certain_state(&self) -> Option<RotationState> {
        match self.state {
            RotationState::Unknown => None,
            RotationState::Running | RotationState::Stopped if !self.tally.is_under_way => None,
            state => Some(state),
        }
    }
}

/// A change of the state of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The rotation now.
    pub now: SeenRotation,
    /// The state before. `None` if this process sees the rotation for the first time.
    pub from: Option<RotationState>,
    /// Whether the rotation is complete for this version for the first time.
    pub completes: bool,
}

/// What is known of the rotation of one secret.
#[derive(Clone, Copy, Debug)]
struct Known {
    state: RotationState,
    version: Option<Version>,
    /// The last version for which the rotation was complete.
    completed: Option<Version>,
    /// Whether a workload still refers to the secret.
    is_used: bool,
}

/// Keeps the last state of each rotation. Each secret that a workload refers to has one entry.
#[derive(Clone, Debug, Default)]
pub struct Tracker {
    known: HashMap<Arc<SecretId>, Known>,
}

impl Tracker {
    /// Takes in all rotations. Returns those that changed their state, in order of their secrets.
    /// Secrets without a rotation are forgotten.
    pub fn take_in(
        &mut self,
        rotations: impl IntoIterator<Item = SeenRotation>,
    ) -> Vec<Transition> {
        let mut transitions = Vec::new();
        for now in rotations {
            let Some(state) = now.certain_state() else {
                if let Some(known) = self.known.get_mut(&now.secret) {
                    known.is_used = true;
                }
                continue;
            };
            let known = self.known.get(&now.secret).copied();
            let (after, is_news) = known_after(known, state, &now);
            self.known.insert(Arc::clone(&now.secret), after);
            if is_news {
                let completed = known.and_then(|known| known.completed);
                transitions.push(Transition {
                    from: known.map(|known| known.state),
                    completes: state == RotationState::Complete && completed != now.version,
                    now,
                });
            }
        }
        self.known.retain(|_, known| std::mem::take(&mut known.is_used));
        transitions.sort_by(|one, other| one.now.secret.cmp(&other.now.secret));
        transitions
    }
}

/// Returns what is known of a rotation after its state was seen, and whether the state is news.
fn known_after(known: Option<Known>, state: RotationState, now: &SeenRotation) -> (Known, bool) {
    let version = now.version;
    let is_complete = state == RotationState::Complete;
    let Some(known) = known else {
        let completed = version.filter(|_| is_complete);
        let is_news = matches!(state, RotationState::Stopped | RotationState::Held);
        return (Known { state, version, completed, is_used: true }, is_news);
    };
    // Pods are replaced, workloads are scaled, and owners deploy long after the rotation. If that
    // fails, the rotation does not stop: all workloads had the version.
    let is_later_rollout = match state {
        RotationState::Running => true,
        RotationState::Stopped => !now.tally.is_taken_back,
        _ => false,
    };
    if is_later_rollout && known.state == RotationState::Complete && known.completed == version {
        return (Known { is_used: true, ..known }, false);
    }
    let completed = if is_complete { version } else { known.completed };
    let is_news = known.state != state || known.version != version;
    (Known { state, version, completed, is_used: true }, is_news)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::hold::Hold;
    use crate::model::fixtures::{recorded, secret, version, workload};
    use crate::model::progress::RolloutFailure;

    /// A workload whose running rollout is of our reload.
    fn reloaded() -> Workload {
        let recorded = Some(recorded(true, &[]));
        Workload { recorded, ..workload("web", &["a"]) }
    }

    /// Returns a rotation of one workload to a version with this number.
    fn seen(number: u64, state: RotationState, user: &UserState, of: &Workload) -> SeenRotation {
        let mut tally = Tally::default();
        tally.add(user, of);
        SeenRotation { secret: secret("a"), version: Some(version(number, 1)), state, tally }
    }

    fn complete(number: u64) -> SeenRotation {
        seen(number, RotationState::Complete, &UserState::Complete, &reloaded())
    }

    fn running(number: u64) -> SeenRotation {
        seen(number, RotationState::Running, &UserState::Running, &reloaded())
    }

    fn stopped(number: u64) -> SeenRotation {
        let failed = UserState::Failed(RolloutFailure::TimedOut);
        seen(number, RotationState::Stopped, &failed, &reloaded())
    }

    fn taken_back(number: u64) -> SeenRotation {
        seen(number, RotationState::Stopped, &UserState::TakenBack, &reloaded())
    }

    fn held(number: u64) -> SeenRotation {
        let held = UserState::Held(Hold::SecretGone);
        seen(number, RotationState::Held, &held, &reloaded())
    }

    fn missing(number: u64) -> SeenRotation {
        seen(number, RotationState::Missing, &UserState::Complete, &reloaded())
    }

    fn unknown(number: u64) -> SeenRotation {
        seen(number, RotationState::Unknown, &UserState::Unknown, &reloaded())
    }

    /// Nothing is decided about a new workload.
    fn undecided(number: u64) -> SeenRotation {
        let pending = UserState::Pending(Pending::NextPoll);
        seen(number, RotationState::Running, &pending, &workload("web", &["a"]))
    }

    /// The owner of the workload deploys.
    fn deploying(number: u64) -> SeenRotation {
        seen(number, RotationState::Running, &UserState::Running, &workload("web", &["a"]))
    }

    /// The owner of the workload deployed, and that failed.
    fn deployment_failed(number: u64) -> SeenRotation {
        let failed = UserState::FailedAlone(RolloutFailure::DeadlineExceeded);
        seen(number, RotationState::Stopped, &failed, &workload("web", &["a"]))
    }

    /// Returns the transitions of one rotation as text; `!` marks the first completion.
    fn transitions(states: &[SeenRotation]) -> Vec<String> {
        let mut tracker = Tracker::default();
        let text = |transition: Transition| {
            let Transition { now, from, completes } = transition;
            let from = from.map_or("new", RotationState::name);
            let number = now.version.map_or(0, |version| version.number);
            let mark = if completes { "!" } else { "" };
            format!("{from}>{}{mark} {number}", now.state.name())
        };
        let all = states.iter().flat_map(|state| tracker.take_in(vec![state.clone()]));
        all.map(text).collect()
    }

    #[test]
    fn each_change_is_told_once() {
        let cases: [(&str, &[SeenRotation], &[&str]); 17] = [
            ("a start after the end", &[unknown(1), complete(1), complete(1)], &[]),
            ("a start before workloads are decided about", &[undecided(1), complete(1)], &[]),
            (
                "a rotation",
                &[complete(1), undecided(2), running(2), complete(2), complete(2)],
                &["complete>running 2", "running>complete! 2"],
            ),
            (
                "a rotation that was over before the next look",
                &[complete(1), complete(2)],
                &["complete>complete! 2"],
            ),
            ("a start within a rotation", &[running(2), complete(2)], &["running>complete! 2"]),
            (
                "a start after a failure, and help",
                &[stopped(2), running(2), complete(2)],
                &["new>stopped 2", "stopped>running 2", "running>complete! 2"],
            ),
            (
                "a start with a hold that ends as the workload is removed",
                &[held(2), held(2), complete(2)],
                &["new>held 2", "held>complete! 2"],
            ),
            (
                "a newer version before the end",
                &[complete(1), running(2), running(3), complete(3)],
                &["complete>running 2", "running>running 3", "running>complete! 3"],
            ),
            (
                "a newer version that fails, too",
                &[complete(1), stopped(2), stopped(2), stopped(3)],
                &["complete>stopped 2", "stopped>stopped 3"],
            ),
            (
                "Vault does not answer for a while",
                &[complete(1), running(2), unknown(2), complete(2), unknown(2), complete(2)],
                &["complete>running 2", "running>complete! 2"],
            ),
            (
                "an owner deploys, and pods are replaced",
                &[complete(1), undecided(1), deploying(1), complete(1), running(1), complete(1)],
                &[],
            ),
            (
                "a reload is taken back after the end",
                &[complete(1), complete(2), taken_back(2), complete(2)],
                &["complete>complete! 2", "complete>stopped 2", "stopped>complete 2"],
            ),
            (
                "an owner deploys after the end, and that fails",
                &[complete(1), deploying(1), deployment_failed(1), deploying(1), complete(1)],
                &[],
            ),
            (
                "a start after a deployment of the owner that failed",
                &[deployment_failed(1), deploying(1), complete(1)],
                &[],
            ),
            (
                "new pods of the reload cannot be created long after the end",
                &[complete(1), running(2), complete(2), stopped(2), complete(2)],
                &["complete>running 2", "running>complete! 2"],
            ),
            (
                "the secret is missing for a while",
                &[complete(1), missing(1), complete(1)],
                &["complete>missing 1", "missing>complete 1"],
            ),
            (
                "the secret is missing, and written again",
                &[missing(1), complete(2)],
                &["missing>complete! 2"],
            ),
        ];
        for (case, states, expected) in cases {
            assert_eq!(transitions(states), expected, "{case}");
        }
    }

    #[test]
    fn a_secret_that_nothing_refers_to_is_forgotten() {
        let mut tracker = Tracker::default();
        assert!(tracker.take_in(vec![complete(1)]).is_empty());
        assert!(tracker.take_in(Vec::new()).is_empty());
        assert!(tracker.known.is_empty());
        assert!(tracker.take_in(vec![complete(2)]).is_empty(), "it is new");
        let other = SeenRotation { secret: secret("0"), ..stopped(1) };
        let told = tracker.take_in(vec![stopped(3), other]);
        let told: Vec<_> = told.iter().map(|it| it.now.secret.to_string()).collect();
        assert_eq!(told, ["0", "a"]);
    }

    #[test]
    fn workloads_are_counted_by_state() {
        let mut tally = Tally::default();
        for state in [UserState::Complete, UserState::Held(Hold::Budget), UserState::Complete] {
            tally.add(&state, &reloaded());
        }
        assert_eq!(tally.by_name(), BTreeMap::from([("complete", 2), ("held", 1)]));
        assert_eq!(tally.worst, Some(Severity::Running), "the rate limit ends by itself");
    }
}
