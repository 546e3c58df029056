//! Lets due reloads start, or holds them, by the rules of [`crate::rollouts`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::decide::hold::Hold;
use crate::decide::observation::{Observation, ObservedVersion};
use crate::decide::plan::{Action, Cause, Decision};
use crate::engine::deciding::{Candidate, Due, LookupState};
use crate::engine::poll_scope::Remaining;
use crate::engine::ports::Cluster;
use crate::engine::secret_track::seen;
use crate::engine::workloads::Workloads;
use crate::index::entries::IndexedWorkload;
use crate::model::reload_policy::ReloadPolicy;
use crate::model::secret::{SecretId, Version};
use crate::model::workload::Workload;
use crate::rollouts::admission::{Admission, Candidate as DueReload, ChangedSecret};
use crate::rollouts::order::{Turn, rank, sort_by_turns};
use crate::rollouts::rollout::{Deadline, RolloutState, replaces_no_pods, rollout_state};

/// A candidate, with what its turn and its admission depend on.
struct Ranked<'a> {
    candidate: Candidate<'a>,
    /// The state of the rollout of its present template.
    state: RolloutState,
    /// Whether the owner of a changed secret says that its reloads are urgent.
    is_urgent: bool,
}

impl<C: Cluster> Workloads<C> {
    /// Returns the candidates that may start, and reports all decisions. `in_scope` are the workloads
    /// of this tick. Without a look-up of revisions, also returns the workloads that need one: their
    /// reload would bring a version that other rules hold.
    pub(super) fn admit<'a>(
        &mut self,
        candidates: Vec<Candidate<'a>>,
        in_scope: &'a [IndexedWorkload],
        observed_versions: &HashMap<Arc<SecretId>, ObservedVersion>,
        now: Timestamp,
        lookup_state: LookupState,
        remaining: &mut Remaining,
    ) -> (Vec<Due>, Vec<&'a IndexedWorkload>) {
        if candidates.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let rules = self.settings.shared.rollouts;
        let deadline = self.deadline(now);
        let known = |secret: &Arc<SecretId>| self.changed_secret(seen(observed_versions)(secret));
        let changed = candidates.iter().flat_map(|Candidate { decision, .. }| {
            decision.changed.iter().chain(&decision.undecided)
        });
        let changed: HashMap<Arc<SecretId>, ChangedSecret> =
            changed.map(|secret| (Arc::clone(secret), known(secret))).collect();
        // The index has what was reloaded since the poll began, and what other engines reloaded.
        let all = self.index.workloads();
        let all = all.iter().map(|stored| (&*stored.workload, stored.has_rolled_out));
        let known = changed.iter().map(|(secret, changed)| (&**secret, *changed));
        let mut admission = Admission::new(&rules, deadline, known, all);
        let namespaces: HashSet<&str> =
            candidates.iter().map(|candidate| &*candidate.stored.workload.id.namespace).collect();
        admission.set_due_namespaces(namespaces.len());
        let (mut due, mut unclear) = (Vec::new(), Vec::new());
        for ranked in self.in_order(candidates, in_scope, &changed, deadline) {
            let Candidate { stored, decision } = &ranked.candidate;
            let reload = ranked.reload();
            // A revision that is known was considered, and tells no more if it is read again.
            let is_unclear = matches!(lookup_state, LookupState::No)
                && self.tracks.revision(stored).is_none()
                && !decision.undecided.is_empty()
                && admission.is_blocked(&reload, &decision.undecided);
            if is_unclear {
                // The workload may have these versions: its revision tells.
                unclear.push(*stored);
                continue;
            }
            let action = self.may_start(&mut admission, &reload, &decision.action, remaining);
            let Ranked { candidate: Candidate { stored, decision }, is_urgent, .. } = ranked;
            let decision = Decision { action, ..decision };
            due.extend(self.conclude(stored, decision, is_urgent, now, remaining));
        }
        (due, unclear)
    }

    /// Returns the clock and the limit by which a rollout takes too long.
    pub(super) fn deadline(&self, now: Timestamp) -> Deadline {
        self.clocks.deadline(now, self.settings.shared.rollouts.timeout)
    }

    fn changed_secret(&self, observed: ObservedVersion) -> ChangedSecret {
        let version = match observed.observation {
            Observation::Live(version) => Some(version),
            Observation::Gone => Some(Version::MISSING),
            Observation::Unknown => None,
        };
        let heeds_owners = self.settings.shared.heeds_owners;
        let policy = if heeds_owners { observed.policy } else { ReloadPolicy::NONE };
        ChangedSecret { version, policy }
    }

    /// Returns candidates in the order in which they start.
    fn in_order<'a>(
        &self,
        candidates: Vec<Candidate<'a>>,
        in_scope: &'a [IndexedWorkload],
        changed: &HashMap<Arc<SecretId>, ChangedSecret>,
        deadline: Deadline,
    ) -> Vec<Ranked<'a>> {
        let failures = |stored: &IndexedWorkload| self.tracks.failures(&stored.workload.uid);
        let mut failing: HashMap<&str, u32> = HashMap::new();
        for stored in in_scope.iter().filter(|stored| failures(stored) > 0) {
            *failing.entry(&stored.workload.id.namespace).or_default() += 1;
        }
        let ranked = |candidate: Candidate<'a>| {
            let Candidate { stored, decision } = &candidate;
            let state = rollout_state(&stored.workload, stored.has_rolled_out, deadline);
            let mut known = decision.changed.iter().filter_map(|secret| changed.get(secret));
            let is_urgent = known.any(ChangedSecret::is_urgent);
            Ranked { candidate, state, is_urgent }
        };
        let ranked: Vec<_> = candidates.into_iter().map(ranked).collect();
        sort_by_turns(ranked, failing, |Ranked { candidate, state, is_urgent }| {
            let Candidate { stored, decision } = candidate;
            let workload = &stored.workload;
            let first = decision.changed.first();
            let first = first
                .map(|secret| (&**secret, changed.get(secret).and_then(|changed| changed.version)));
            Turn {
                namespace: &workload.id.namespace,
                failures: failures(stored),
                rank: rank(workload, *state, first, *is_urgent),
            }
        })
    }

    /// Returns why a due reload may not start: a dry run, a freeze or a window. Notes when to look
    /// again.
    fn hold_by_rules(&mut self, workload: &Workload, is_urgent: bool) -> Option<Hold> {
        let hold = self.holds().of(workload, is_urgent)?;
        if let Some(end) = hold.end() {
            let now = self.clocks.cluster.at((self.clocks.now)());
            let period = self.settings.shared.period;
            self.openings.note(&workload.id, end.duration_since(now), period);
        }
        Some(hold)
    }

    /// Asks each rule whether a reload may start.
    fn may_start(
        &mut self,
        admission: &mut Admission<'_>,
        reload: &DueReload<'_>,
        action: &Action,
        remaining: &mut Remaining,
    ) -> Action {
        let workload = reload.workload;
        let Action::Roll(cause) = *action else { return action.clone() };
        if let Some(hold) = self.hold_by_rules(workload, reload.is_urgent) {
            return Action::Hold(hold);
        }
        if let Some(hold) = self.injector.hold(workload) {
            return Action::Hold(hold);
        }
        // Only the clock speaks for these.
        let takes_budget = cause == Cause::Found;
        if takes_budget && !self.budget.try_take() {
            return Action::Hold(Hold::Budget);
        }
        match admission.admit(reload) {
            Ok(()) => Action::Roll(cause),
            Err(refusal) => {
                if takes_budget {
                    self.budget.give_back();
                }
                let left = refusal.left.and_then(|left| left.try_into().ok());
                remaining.wait_left = remaining.wait_left.into_iter().chain(left).min();
                Action::Hold(refusal.hold)
            }
        }
    }
}

impl Ranked<'_> {
    /// Returns the due reload as the rules see it.
    fn reload(&self) -> DueReload<'_> {
        let Self { candidate: Candidate { stored, decision }, state, is_urgent } = self;
        DueReload {
            workload: &stored.workload,
            state: *state,
            is_urgent: *is_urgent,
            changed: &decision.changed,
            undecided: &decision.undecided,
            is_silent: replaces_no_pods(&stored.workload),
        }
    }
}
