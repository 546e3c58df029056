//! Rollouts: new pods take time to become available, or they never are, until somebody helps.
//!
//! The status of a workload goes from running to healthy or failed, and from failed to healthy. Only
//! another template makes it running again.

use std::time::Duration;

use tokio::time::Instant;
use vault_secrets_reloader::model::kind::Kind;
use vault_secrets_reloader::model::progress::RolloutFailure;
use vault_secrets_reloader::model::reload_policy::{ReloadMode, ReloadPolicy};
use vault_secrets_reloader::model::secret::Version;

use super::{Job, Object, Pods, Template, World};
use crate::history::Event;
use crate::time;

/// The most by which the age of a reload may seem different to a process: the whole seconds of the
/// record, its clock, and the way of the PATCH.
const CLOCK_ERROR: Duration = Duration::from_secs(5);

/// The longest time in milliseconds until pods are available after somebody helped.
const HELP_MS: u64 = 20_000;

/// How the pods of a workload's present template are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    /// The pods are not made yet, or not available yet.
    Starting,
    Healthy,
    /// The controller of the workload has given up, and says so.
    Failed(RolloutFailure, Instant),
    /// The pods never become available, and nobody says so.
    Hung,
}

/// The state of the pods of a workload's present template.
#[derive(Clone, Debug)]
pub(super) struct PodsState {
    health: Health,
    /// Whether all pods were available at some time.
    pub(super) has_ended: bool,
    /// Whether the pods of any template fail.
    is_broken: bool,
    /// The generation whose pods somebody made available.
    helped: Option<u64>,
}

/// A reload that was applied.
#[derive(Clone, Debug)]
pub(super) struct LastReload {
    pub(super) at: Instant,
    /// The life of the process that sent the PATCH.
    pub(super) life: u64,
    /// Whether the sender got the answer.
    pub(super) is_answered: bool,
    /// The versions that the workload was certainly reloaded for.
    pub(super) reasons: Vec<(usize, Version)>,
}

impl PodsState {
    /// Returns the state of the pods of a new workload.
    pub(super) fn new(is_made: bool) -> Self {
        let health = if is_made { Health::Healthy } else { Health::Starting };
        Self { health, has_ended: is_made, is_broken: false, helped: None }
    }

    /// Begins with another template.
    pub(super) fn begin(&mut self) {
        (self.health, self.has_ended) = (Health::Starting, false);
    }

    /// Forgets who helped, because generations begin again.
    pub(super) fn forget_help(&mut self) {
        self.helped = None;
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.health == Health::Healthy
    }

    /// Returns what the conditions of the workload say of a failure.
    pub(super) fn failure(&self) -> Option<RolloutFailure> {
        if let Health::Failed(failure, _) = self.health { Some(failure) } else { None }
    }

    fn is_ill(&self) -> bool {
        matches!(self.health, Health::Failed(..) | Health::Hung)
    }

    fn become_healthy(&mut self) {
        (self.health, self.has_ended) = (Health::Healthy, true);
    }
}

impl Object {
    /// Whether the status shows that all pods run with the present template.
    pub(super) fn is_complete(&self) -> bool {
        self.pods_state.is_healthy()
            && self.pods.template == self.template
            && self.observed == self.generation
    }

    /// Whether the rollout of the last reload is certainly under way, in the view of each process that
    /// knows the reload. A process knows its time to a few seconds.
    pub(super) fn is_running(&self, timeout: Duration) -> bool {
        let is_open = matches!(self.pods_state.health, Health::Starting | Health::Hung);
        self.has_not_ended()
            && is_open
            && self
                .last_reload
                .as_ref()
                .is_some_and(|last| last.at.elapsed() + CLOCK_ERROR < timeout)
            && self.age_of_record().is_none_or(|age| age + CLOCK_ERROR < timeout)
    }

    /// Returns how long ago the last reload was sent, by its record. A PATCH may arrive late.
    fn age_of_record(&self) -> Option<Duration> {
        let at = self.own_record()?.at?;
        Some(Duration::try_from(time::now().duration_since(at)).unwrap_or_default())
    }

    /// Returns the time since which the rollout of the last reload has certainly failed.
    pub(super) fn failed_since(&self, timeout: Duration) -> Option<Instant> {
        let last = self.last_reload.as_ref().filter(|_| self.has_not_ended())?;
        match self.pods_state.health {
            Health::Failed(_, since) => Some(since),
            Health::Starting | Health::Hung => {
                let since = last.at + timeout + CLOCK_ERROR;
                (since <= Instant::now()).then_some(since)
            }
            Health::Healthy => None,
        }
    }

    /// Whether the status tells that the rollout of the present template has not ended yet.
    pub(super) fn has_not_ended(&self) -> bool {
        !self.is_on_delete() && !self.pods_state.has_ended
    }
}

impl World {
    /// Applies an event of rollouts.
    pub(super) fn affect_rollouts(&mut self, event: &Event) {
        match *event {
            Event::RotateBadly(s, workloads) => {
                self.happen(&Event::Rotate(s));
                let secret = self.secret(s);
                if let Some(live) = self.secrets[secret].state.live() {
                    self.say(|| format!("secret {secret}: bad for {workloads:#b}"));
                    self.bad.push((secret, live, workloads));
                }
            }
            Event::Break(w) => self.break_pods(self.slot(w)),
            Event::Heal(w) => self.heal(self.ill_slot(w)),
            Event::Continue(w) => {
                let slot = self.ill_slot(w);
                let Some(object) = &mut self.objects[slot] else { return };
                object.continue_after = Some(object.template.count);
                self.say(|| format!("w{slot}: somebody says to go on"));
                self.written(slot);
            }
            Event::SetPolicy(s, policy) => {
                let secret = self.secret(s);
                self.policies[secret] = policy;
                if policy.mode == ReloadMode::Hold {
                    self.ever_on_hold.insert(secret);
                }
                self.say(|| format!("secret {secret}: its owner says {policy:?}"));
            }
            _ => {}
        }
    }

    /// Returns a workload whose pods are not available, if there is one.
    fn ill_slot(&self, workload: usize) -> usize {
        let is_ill = |slot: &usize| {
            self.objects[*slot].as_ref().is_some_and(|object| object.pods_state.is_ill())
        };
        let ill: Vec<usize> = (0..self.objects.len()).filter(is_ill).collect();
        ill.get(workload % ill.len().max(1)).copied().unwrap_or_else(|| self.slot(workload))
    }

    fn break_pods(&mut self, slot: usize) {
        let Some(object) = &mut self.objects[slot] else { return };
        object.pods_state.is_broken = true;
        if object.pods_state.is_healthy() && object.pods.template == object.template {
            object.pods_state.health = Health::Hung;
        }
        self.say(|| format!("w{slot}: its pods fail"));
        self.written(slot);
    }

    /// Makes the pods of a workload available, if they never became available.
    pub(super) fn heal(&mut self, slot: usize) {
        let Some(object) = &mut self.objects[slot] else { return };
        object.pods_state.is_broken = false;
        object.pods_state.helped = Some(object.generation);
        if !object.pods_state.is_ill() {
            return;
        }
        let (template, uid) = (object.template.clone(), object.uid.clone());
        if object.pods.template != template && !object.is_on_delete() {
            let uses = self.uses(&template);
            let have = self.read_by_pods(&uses);
            if have.len() < uses.len() && !self.setup.may_be_missing {
                return self.later(7_000, Job::Heal(slot, uid));
            }
            let Some(object) = &mut self.objects[slot] else { return };
            object.pods = Pods { template, uses, have };
        }
        let Some(object) = &mut self.objects[slot] else { return };
        object.pods_state.become_healthy();
        self.say(|| format!("w{slot}: somebody made its pods available"));
        self.written(slot);
    }

    /// Whether no pod can be made from the present template, because a quota or a webhook refuses it.
    pub(super) fn cannot_make_pods(&mut self, slot: usize, template: &Template) -> bool {
        let Some(object) = &self.objects[slot] else { return false };
        let PodsState { health, is_broken, .. } = object.pods_state;
        if object.template != *template {
            return false;
        }
        match health {
            Health::Failed(RolloutFailure::FailedCreate, _) => true,
            Health::Starting if is_broken && object.kind == Kind::DEPLOYMENT => {
                let is_refused = self.below(3) == 0;
                if is_refused {
                    let refused = Health::Failed(RolloutFailure::FailedCreate, Instant::now());
                    self.set_health(slot, refused);
                }
                is_refused
            }
            _ => false,
        }
    }

    /// Lets the pods that were just made become available: at once, or later. Returns whether they
    /// are available at once.
    pub(super) fn await_pods(&mut self, slot: usize) -> bool {
        let Some(object) = &mut self.objects[slot] else { return false };
        let is_waiting =
            object.pods_state.health == Health::Starting && object.pods.template == object.template;
        if !is_waiting {
            return false;
        }
        if !self.setup.rollouts.is_on {
            object.pods_state.become_healthy();
            return true;
        }
        let (uid, generation) = (object.uid.clone(), object.generation);
        let delay = self.below(self.setup.rollouts.ready_ms);
        self.later(delay, Job::EndRollout(slot, uid, generation));
        false
    }

    /// Ends a rollout: the pods are available, or they never will be.
    pub(super) fn end_rollout(&mut self, slot: usize, generation: u64) {
        let Some(object) = &self.objects[slot] else { return };
        let is_due = object.generation == generation
            && object.pods_state.health == Health::Starting
            && object.pods.template == object.template;
        if !is_due {
            return;
        }
        let is_deployment = object.kind == Kind::DEPLOYMENT;
        let health = if !self.fails(slot) {
            Health::Healthy
        } else if is_deployment && self.below(2) == 0 {
            Health::Failed(RolloutFailure::DeadlineExceeded, Instant::now())
        } else {
            Health::Hung
        };
        self.set_health(slot, health);
    }

    /// Whether the pods of a workload never become available.
    fn fails(&mut self, slot: usize) -> bool {
        let Some(object) = &self.objects[slot] else { return false };
        if object.pods_state.helped == Some(object.generation) {
            return false;
        }
        let has_bad = self.bad.iter().any(|(secret, version, workloads)| {
            workloads >> slot & 1 == 1 && object.pods.have.get(secret) == Some(version)
        });
        let is_ill = object.pods_state.is_broken || has_bad;
        is_ill || self.fails_by_chance && self.below(100) < self.setup.rollouts.failing_percent
    }

    fn set_health(&mut self, slot: usize, health: Health) {
        let Some(object) = &mut self.objects[slot] else { return };
        if health == Health::Healthy {
            object.pods_state.become_healthy();
        } else {
            object.pods_state.health = health;
        }
        self.say(|| format!("w{slot}: {health:?}"));
        self.written(slot);
    }

    /// Lets each rollout succeed from now on, unless the history keeps failures to its end.
    pub(super) fn mend_rollouts(&mut self) {
        self.fails_by_chance = false;
        if !self.setup.rollouts.are_mended {
            return;
        }
        self.bad.clear();
        self.policies.fill(ReloadPolicy::NONE);
        for slot in 0..self.objects.len() {
            let Some(object) = &mut self.objects[slot] else { continue };
            object.pods_state.is_broken = false;
            if object.pods_state.is_ill() {
                let uid = object.uid.clone();
                let delay = self.below(HELP_MS);
                self.later(delay, Job::Heal(slot, uid));
            }
        }
    }
}
