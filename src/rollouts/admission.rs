//! Admission: which of the due reloads may start now. One value counts the rollouts under way, and
//! asks each rule.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;

use crate::decide::hold::Hold;
use crate::model::reload_policy::{ReloadMode, ReloadPolicy};
use crate::model::secret::{SecretId, Version};
use crate::model::workload::Workload;
use crate::rollouts::interval::time_left;
use crate::rollouts::limits::{RolloutLimits, RunningRollouts};
use crate::rollouts::rollout::{Deadline, RolloutState, rollout_state};
use crate::rollouts::wave::{Member, Room, Use, Wave, WaveRules};

/// The operator's rules for reloads.
#[derive(Clone, Copy, Debug, Default)]
pub struct RolloutRules {
    /// The waves of a new version. `None` if it goes to all workloads at once.
    pub waves: Option<WaveRules>,
    /// The limits on rollouts at a time.
    pub limits: RolloutLimits,
    /// The shortest time between two reloads of a workload.
    pub shortest_interval: Duration,
    /// How long a rollout may take.
    pub timeout: Duration,
}

/// A secret that changed, as this poll knows it.
#[derive(Clone, Copy, Debug)]
pub struct ChangedSecret {
    /// Its live version. `None` if it is missing and may be.
    pub version: Option<Version>,
    /// What its owner says.
    pub policy: ReloadPolicy,
}

impl ChangedSecret {
    /// Whether the owner says that reloads are urgent.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.policy.mode == ReloadMode::Urgent
    }

    fn is_held(&self) -> bool {
        self.policy.mode == ReloadMode::Hold
    }
}

/// A workload that is due.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The workload.
    pub workload: &'a Workload,
    /// The state of the rollout of its present template.
    pub state: RolloutState,
    /// Whether the owner of a changed secret says that its reloads are urgent: see
    /// [`ChangedSecret::is_urgent`]. A reload for one secret brings the new versions of all secrets.
    pub is_urgent: bool,
    /// The secrets that changed.
    pub changed: &'a [Arc<SecretId>],
    /// The secrets of which nobody knows whether they changed. The reload brings their versions, too.
    pub undecided: &'a [Arc<SecretId>],
    /// Whether the reload replaces no pods now.
    pub is_silent: bool,
}

/// Why a reload may not start now, and how long that lasts if it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub hold: Hold,
    /// The time left.
    pub left: Option<SignedDuration>,
}

/// The rollouts under way, and the changed secrets of the due reloads.
#[derive(Debug)]
pub struct Admission<'a> {
    rules: &'a RolloutRules,
    deadline: Deadline,
    running: RunningRollouts,
    secrets: HashMap<&'a SecretId, (ChangedSecret, Wave)>,
}

impl<'a> Admission<'a> {
    /// Counts the rollouts under way. `workloads` are all workloads of the cluster, each with whether
    /// its rollout has ended before. `changed` are the changed and undecided secrets of all due reloads.
    #[must_use]
    pub fn new<'w>(
        rules: &'a RolloutRules,
        deadline: Deadline,
        changed: impl IntoIterator<Item = (&'a SecretId, ChangedSecret)>,
        workloads: impl IntoIterator<Item = (&'w Workload, bool)>,
    ) -> Self {
        let secrets =
            changed.into_iter().map(|(secret, changed)| (secret, (changed, Wave::default())));
        let running = RunningRollouts::default();
        let mut admission = Self { rules, deadline, running, secrets: secrets.collect() };
        for (workload, has_rolled_out) in workloads {
            admission.count(workload, has_rolled_out);
        }
        admission
    }

    fn count(&mut self, workload: &Workload, has_rolled_out: bool) {
        let state = rollout_state(workload, has_rolled_out, self.deadline);
        let recorded = workload.recorded.as_ref();
        let is_ours = recorded.is_some_and(|record| record.of_this_template);
        if is_ours && state == RolloutState::Running {
            self.running.add(&workload.id.namespace);
        }
        for secret in workload.watched() {
            if let Some((changed, wave)) = self.secrets.get_mut(&**secret) {
                wave.add(use_of(workload, state, secret, changed.version));
            }
        }
    }

    /// Sets the number of namespaces that have due workloads. They share the limit of rollouts in all.
    pub fn set_due_namespaces(&mut self, namespaces: usize) {
        self.running.want(namespaces);
    }

    /// Whether the waves or the owners of some secrets keep a workload from being reloaded.
    #[must_use]
    pub fn is_blocked(&self, candidate: &Candidate<'_>, secrets: &[Arc<SecretId>]) -> bool {
        self.is_any_held(secrets) || self.room(candidate, secrets) != Room::Free
    }

    /// Whether the owner of one of these secrets holds its reloads.
    fn is_any_held(&self, secrets: &[Arc<SecretId>]) -> bool {
        let mut known = secrets.iter().filter_map(|secret| self.secrets.get(&**secret));
        known.any(|(known, _)| known.is_held())
    }

    /// Lets a reload start, or says why it may not. A reload that starts is counted.
    pub fn admit(&mut self, candidate: &Candidate<'_>) -> Result<(), Refusal> {
        let Candidate { workload, is_urgent, changed, undecided, .. } = *candidate;
        let for_ever = |hold| Err(Refusal { hold, left: None });
        if self.is_any_held(changed) {
            return for_ever(Hold::SecretOwner);
        }
        let recorded = workload.recorded.as_ref();
        let left = time_left(recorded, self.rules.shortest_interval, is_urgent, self.deadline.now);
        if left.is_some() {
            self.keep_the_turn(candidate);
            return Err(Refusal { hold: Hold::Interval, left });
        }
        if candidate.is_silent {
            return Ok(());
        }
        if !is_urgent {
            match self.room(candidate, changed).max(self.room(candidate, undecided)) {
                Room::Free if self.is_any_held(undecided) => return for_ever(Hold::SecretOwner),
                Room::Free => {}
                Room::Full => return for_ever(Hold::Wave),
                Room::Stopped => return for_ever(Hold::RotationStopped),
            }
        }
        if !self.running.has_room(&self.rules.limits, &workload.id.namespace) {
            return for_ever(Hold::RolloutLimit);
        }
        self.running.add(&workload.id.namespace);
        for secret in changed {
            if let Some((_, wave)) = self.secrets.get_mut(&**secret) {
                wave.running += 1;
            }
        }
        Ok(())
    }

    /// Returns the least room that any of some secrets has for a workload.
    fn room(&self, candidate: &Candidate<'_>, secrets: &[Arc<SecretId>]) -> Room {
        let Some(rules) = &self.rules.waves else { return Room::Free };
        let known =
            secrets.iter().filter_map(|secret| Some((secret, self.secrets.get(&**secret)?)));
        let rooms = known.map(|(secret, (changed, wave))| {
            if changed.version.is_none() {
                // Nobody knows which workloads were reloaded for its live version.
                return Room::Free;
            }
            let user = use_of(candidate.workload, candidate.state, secret, changed.version);
            wave.room(rules, &changed.policy, matches!(user, Use::Earlier(_)))
        });
        rooms.max().unwrap_or(Room::Free)
    }

    /// Keeps the turn of a workload that failed for an earlier version, until its interval is over. No
    /// other workload is risked meanwhile.
    fn keep_the_turn(&mut self, candidate: &Candidate<'_>) {
        let Candidate { workload, state, changed, .. } = *candidate;
        if !matches!(state, RolloutState::Failed(_)) {
            return;
        }
        for secret in changed {
            if let Some((changed, wave)) = self.secrets.get_mut(&**secret)
                && let Use::Earlier(Member { is_excused: false, .. }) =
                    use_of(workload, state, secret, changed.version)
            {
                wave.earlier += 1;
            }
        }
    }
}

/// Returns how a workload stands to the live version of a secret.
fn use_of(
    workload: &Workload,
    state: RolloutState,
    secret: &SecretId,
    live: Option<Version>,
) -> Use {
    let recorded = workload.recorded.as_ref().filter(|record| record.of_this_template);
    let Some(recorded) = recorded else { return Use::Other };
    let is_excused = recorded.was_unhealthy || workload.continue_after == Some(workload.count);
    let member = Member { state, is_excused };
    match recorded.versions.get(secret.hash64()) {
        None => Use::Other,
        Some(version) if Some(version) == live => Use::Reloaded(member),
        Some(_) => match state {
            RolloutState::Running | RolloutState::Failed(_) => Use::Earlier(member),
            RolloutState::Healthy | RolloutState::Silent(_) | RolloutState::Degraded => Use::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::{recorded, second, secret, version, workload};
    use crate::model::progress::{Progress, RolloutFailure};
    use crate::model::record::Recorded;
    use crate::rollouts::rollout::RolloutState;

    const NOW: i64 = 10_000;

    fn rules() -> RolloutRules {
        RolloutRules {
            waves: Some(WaveRules::default()),
            timeout: Duration::from_mins(10),
            ..RolloutRules::default()
        }
    }

    fn deadline() -> Deadline {
        Deadline { now: second(NOW), timeout: Duration::from_mins(10) }
    }

    /// Returns a workload that was reloaded for version 2 of these secrets a minute ago.
    fn member(name: &str, paths: &[&str], progress: Progress) -> Workload {
        let versions: Vec<_> = paths.iter().map(|path| (*path, version(2, 9_000))).collect();
        let recorded = Recorded { at: Some(second(NOW - 60)), ..recorded(true, &versions) };
        Workload { progress, recorded: Some(recorded), ..workload(name, paths) }
    }

    fn others(count: usize, paths: &[&str]) -> Vec<Workload> {
        (0..count).map(|number| workload(&format!("other-{number}"), paths)).collect()
    }

    fn changed(mode: ReloadMode) -> ChangedSecret {
        let policy = ReloadPolicy { mode, ..ReloadPolicy::default() };
        ChangedSecret { version: Some(version(2, 9_000)), policy }
    }

    fn candidate<'a>(
        workload: &'a Workload,
        changed: &'a [Arc<SecretId>],
        undecided: &'a [Arc<SecretId>],
    ) -> Candidate<'a> {
        let state = rollout_state(workload, false, deadline());
        let (is_urgent, is_silent) = (false, false);
        Candidate { workload, state, is_urgent, changed, undecided, is_silent }
    }

    /// Admits the first of the workloads that was not reloaded.
    fn admit(rules: &RolloutRules, all: &[Workload], of: &[(&str, ReloadMode)]) -> Option<Hold> {
        let secrets: Vec<_> = of.iter().map(|(path, mode)| (secret(path), *mode)).collect();
        let known = secrets.iter().map(|(secret, mode)| (&**secret, changed(*mode)));
        let mut admission =
            Admission::new(rules, deadline(), known, all.iter().map(|workload| (workload, false)));
        let due = all.iter().find(|workload| workload.recorded.is_none()).unwrap();
        let changed: Vec<_> = secrets.iter().map(|(secret, _)| Arc::clone(secret)).collect();
        let is_urgent = of.iter().any(|(_, mode)| *mode == ReloadMode::Urgent);
        let due = Candidate { is_urgent, ..candidate(due, &changed, &[]) };
        admission.admit(&due).err().map(|refusal| refusal.hold)
    }

    #[test]
    fn each_rule_has_its_reason() {
        let normal = &[("a", ReloadMode::Normal)];
        let with = |members: Vec<Workload>| -> Vec<Workload> {
            members.into_iter().chain(others(9, &["a"])).collect()
        };
        let running = || with(vec![member("first", &["a"], Progress::Running)]);
        let failure = Progress::Failed(RolloutFailure::FailedCreate);
        let failed = || with(vec![member("first", &["a"], failure)]);
        assert_eq!(admit(&rules(), &with(vec![]), normal), None);
        assert_eq!(admit(&rules(), &running(), normal), Some(Hold::Wave));
        assert_eq!(admit(&rules(), &failed(), normal), Some(Hold::RotationStopped));
        let off = RolloutRules { waves: None, ..rules() };
        assert_eq!(admit(&off, &failed(), normal), None);
        let urgent = &[("a", ReloadMode::Urgent)];
        assert_eq!(admit(&rules(), &failed(), urgent), None);
        assert_eq!(admit(&off, &running(), &[("a", ReloadMode::Hold)]), Some(Hold::SecretOwner));
        let limits = RolloutLimits { in_all: Some(1), per_namespace: None };
        let limited = RolloutRules { limits, ..rules() };
        assert_eq!(admit(&limited, &running(), urgent), Some(Hold::RolloutLimit));
    }

    #[test]
    fn a_failure_that_tells_nothing_about_the_version_stops_nothing() {
        let failure = Progress::Failed(RolloutFailure::DeadlineExceeded);
        let normal = &[("a", ReloadMode::Normal)];
        let hold = |first: Workload| {
            let all: Vec<_> = [first].into_iter().chain(others(9, &["a"])).collect();
            admit(&rules(), &all, normal)
        };
        let failed = member("first", &["a"], failure);
        assert_eq!(hold(failed.clone()), Some(Hold::RotationStopped));
        // Somebody said to go on after this reload, or after an earlier one.
        let said = |count| Workload { continue_after: Some(count), count: 3, ..failed.clone() };
        assert_eq!(hold(said(3)), None);
        assert_eq!(hold(said(2)), Some(Hold::RotationStopped));
        let mut was_unhealthy = failed.clone();
        was_unhealthy.recorded.as_mut().unwrap().was_unhealthy = true;
        assert_eq!(hold(was_unhealthy), None);
        // It was reloaded for an earlier version, or deployed by somebody else since.
        let mut earlier = failed.clone();
        earlier.recorded = Some(recorded(true, &[("a", version(1, 1))]));
        assert_eq!(hold(earlier), None);
        let mut deployed = failed;
        deployed.recorded.as_mut().unwrap().of_this_template = false;
        assert_eq!(hold(deployed), None);
    }

    #[test]
    fn a_workload_needs_room_for_each_of_its_secrets() {
        let all: Vec<_> = others(6, &["a", "b"])
            .into_iter()
            .chain([member("first", &["b"], Progress::Running)])
            .collect();
        let both = &[("a", ReloadMode::Normal), ("b", ReloadMode::Normal)];
        assert_eq!(admit(&rules(), &all, both), Some(Hold::Wave));
        assert_eq!(admit(&rules(), &all, &both[..1]), None);
    }

    #[test]
    fn a_secret_that_changes_all_the_time_reaches_no_other_workload_each_time() {
        let a = [secret("a")];
        let earlier = |name, progress| {
            let mut workload = member(name, &["a"], progress);
            workload.recorded.as_mut().unwrap().versions =
                [(a[0].hash64(), version(1, 1))].into_iter().collect();
            workload
        };
        let hold = |first: &Workload, due: &Workload, rules: &RolloutRules| {
            let all: Vec<_> = [first.clone()].into_iter().chain(others(9, &["a"])).collect();
            let known = [(&*a[0], changed(ReloadMode::Normal))];
            let all = all.iter().map(|workload| (workload, false));
            let mut admission = Admission::new(rules, deadline(), known, all);
            let first = admission.admit(&candidate(first, &a, &[])).err().map(|no| no.hold);
            (first, admission.admit(&candidate(due, &a, &[])).err().map(|no| no.hold))
        };
        let other = workload("other-0", &["a"]);
        let running = earlier("first", Progress::Running);
        assert_eq!(hold(&running, &other, &rules()), (None, Some(Hold::Wave)));
        let failed = earlier("first", Progress::Failed(RolloutFailure::FailedCreate));
        assert_eq!(hold(&failed, &other, &rules()), (None, Some(Hold::Wave)), "it goes first");
        let resting = RolloutRules { shortest_interval: Duration::from_mins(5), ..rules() };
        let (first, second) = hold(&failed, &other, &resting);
        assert_eq!((first, second), (Some(Hold::Interval), Some(Hold::Wave)));
    }

    #[test]
    fn an_undecided_secret_is_not_carried_along() {
        let failure = Progress::Failed(RolloutFailure::FailedCreate);
        let (a, b) = ([secret("a")], [secret("b")]);
        let hold = |first: Workload, mode| {
            let all: Vec<_> = [first].into_iter().chain(others(9, &["a", "b"])).collect();
            let known = [(&*a[0], changed(ReloadMode::Normal)), (&*b[0], changed(mode))];
            let workloads = all.iter().map(|workload| (workload, false));
            let rules = rules();
            let mut admission = Admission::new(&rules, deadline(), known, workloads);
            let due = candidate(&all[1], &a, &b);
            let is_blocked = admission.is_blocked(&due, &b);
            (is_blocked, admission.admit(&due).err().map(|refusal| refusal.hold))
        };
        let failed = member("first", &["b"], failure);
        assert_eq!(hold(failed, ReloadMode::Normal), (true, Some(Hold::RotationStopped)));
        let healthy = || member("first", &["b"], Progress::Complete);
        assert_eq!(hold(healthy(), ReloadMode::Hold), (true, Some(Hold::SecretOwner)));
        assert_eq!(hold(healthy(), ReloadMode::Normal), (false, None));
    }

    #[test]
    fn what_starts_takes_room() {
        let all = others(9, &["a"]);
        let (rules, a) = (rules(), secret("a"));
        let known = [(&*a, changed(ReloadMode::Normal))];
        let mut admission =
            Admission::new(&rules, deadline(), known, all.iter().map(|workload| (workload, false)));
        let mut admit = |place: usize, is_silent| {
            let changed = [Arc::clone(&a)];
            let due = Candidate { is_silent, ..candidate(&all[place], &changed, &[]) };
            admission.admit(&due).err().map(|refusal| refusal.hold)
        };
        assert_eq!(admit(0, true), None, "no pod is replaced");
        assert_eq!(admit(1, false), None);
        assert_eq!(admit(2, false), Some(Hold::Wave));
        assert_eq!(admit(3, true), None);
        assert!(matches!(rollout_state(&all[0], false, deadline()), RolloutState::Healthy));
    }
}
