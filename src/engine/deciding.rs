//! Deciding about the workloads of a poll, and saying what there is to say of each decision, once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join, join_all};
use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::decide::observation::ObservedVersion;
use crate::decide::plan::{
    self, Action, Cause, Decision, DecisionInput, Hold, Lookup, ReloadHistory, Revision, Rules,
};
use crate::engine::poll_scope::{Remaining, Stripped};
use crate::engine::ports::{Cluster, Vault};
use crate::engine::secret_track::seen;
use crate::engine::workloads::Workloads;
use crate::events::event::{Event, Held};
use crate::index::entries::IndexedWorkload;
use crate::model::secret::SecretId;

/// How often in a row a workload may wait for its controller before that is reported, and before it
/// is left to the polls of everything.
const PATIENCE: u32 = 6;

/// A workload that is about to be reloaded.
pub(super) struct Due {
    pub(super) stored: IndexedWorkload,
    pub(super) past: ReloadHistory,
    pub(super) revision: Option<Revision>,
    pub(super) cause: Cause,
    pub(super) changed: Vec<Arc<SecretId>>,
}

/// How many workloads the API server is asked for by whom they were written last, in one tick, and for
/// how long: the name is a help for whoever looks for the cause, and nothing hangs on it.
const MOST_WRITERS: usize = 10;
const WRITERS_WITHIN: Duration = Duration::from_secs(5);

/// Whether the revision was asked for.
#[derive(Clone, Copy)]
pub(super) enum LookupState {
    No,
    Yes,
}

impl LookupState {
    pub(super) fn lookup(self, revision: Option<&Revision>) -> Lookup<'_> {
        match (self, revision) {
            (_, Some(revision)) => Lookup::Found(revision),
            (Self::No, None) => Lookup::NotAsked,
            (Self::Yes, None) => Lookup::Unavailable,
        }
    }
}

impl<C: Cluster> Workloads<C> {
    /// Decides about each workload. Returns those that are due, and those that hang on their revisions.
    pub(super) fn decide<'a>(
        &mut self,
        workloads: &'a [IndexedWorkload],
        observed_versions: &HashMap<Arc<SecretId>, ObservedVersion>,
        left: &mut Remaining,
    ) -> (Vec<Due>, Vec<&'a IndexedWorkload>) {
        let now = (self.clocks.now)();
        let rules = self.rules();
        self.budget.refill(Instant::now().into_std());
        let mut due = Vec::new();
        let mut asking = Vec::new();
        for stored in self.in_fair_order(workloads) {
            let decision = self.decide_one(stored, observed_versions, &rules, LookupState::No, now);
            match decision.action {
                Action::AskRevision => asking.push(stored),
                _ => due.extend(self.conclude(stored, decision, now, left)),
            }
        }
        (due, asking)
    }

    /// Asks for the revisions of workloads, and decides about each. Returns those that are due.
    pub(super) async fn decide_by_revision(
        &mut self,
        vault: &mut impl Vault,
        asking: Vec<&IndexedWorkload>,
        observed_versions: &HashMap<Arc<SecretId>, ObservedVersion>,
        left: &mut Remaining,
    ) -> Vec<Due> {
        self.read_revisions(vault, &asking).await;
        let now = (self.clocks.now)();
        let rules = self.rules();
        let mut due = Vec::new();
        for stored in asking {
            let decision =
                self.decide_one(stored, observed_versions, &rules, LookupState::Yes, now);
            due.extend(self.conclude(stored, decision, now, left));
        }
        due
    }

    /// Reads the revisions of workloads, and keeps them until their templates change.
    async fn read_revisions(&mut self, vault: &mut impl Vault, asking: &[&IndexedWorkload]) {
        let wanted: Vec<_> = asking.iter().map(|stored| Arc::clone(&stored.workload)).collect();
        debug!(worker = "reloader", "Asking for the revisions of {} workloads", wanted.len());
        self.heartbeat.works();
        // Both clocks count for what is decided by a revision.
        let revisions = self.cluster.revisions(&wanted);
        let ((), mut found) = join(vault.read_clock(), revisions).await;
        for stored in asking {
            if let Some(revision) = found.remove(&stored.workload.uid) {
                self.tracks.keep_revision(stored, revision);
            }
        }
    }

    /// Of some workloads, those that there may be something to do about. What holds one up now may end
    /// while the next answers of Vault are waited for.
    pub(super) async fn may_be_due(
        &mut self,
        vault: &mut impl Vault,
        mut workloads: Vec<IndexedWorkload>,
        observed_versions: &HashMap<Arc<SecretId>, ObservedVersion>,
    ) -> Vec<IndexedWorkload> {
        let action = |this: &Self, rules: &Rules, stored: &IndexedWorkload, asked| {
            this.decide_one(stored, observed_versions, rules, asked, (this.clocks.now)()).action
        };
        let rules = self.rules();
        let asking: Vec<_> = workloads
            .iter()
            .filter(|stored| action(self, &rules, stored, LookupState::No) == Action::AskRevision)
            .collect();
        if !asking.is_empty() {
            self.read_revisions(vault, &asking).await;
        }
        // Both clocks are known now.
        let rules = self.rules();
        workloads.retain(|stored| action(self, &rules, stored, LookupState::Yes) != Action::Leave);
        workloads
    }

    /// Reports workloads from which what was written is removed again. The API server is asked by
    /// whom, for a few of them.
    pub(super) async fn report_stripped(&self, stripped: Vec<Stripped>) {
        self.heartbeat.works();
        let first = stripped.iter().take(MOST_WRITERS);
        let ask = join_all(first.map(|stripped| self.cluster.last_writer(&stripped.workload.id)));
        let mut writers = timeout(WRITERS_WITHIN, ask).await.unwrap_or_default().into_iter();
        for Stripped { workload, hours, changed, gone } in stripped {
            let by = writers.next().flatten();
            let (by, owner) = (by.as_deref(), workload.owner.as_deref());
            let hold = Held::Stripped { hours, by, owner };
            let (workload, changed, gone) = (&workload.id, &*changed, &*gone);
            self.events.emit(&Event::Held { workload, hold, changed, gone });
        }
    }

    /// The order in which workloads take from the budget: those whose last reload failed come last,
    /// and the others one of each namespace after the other. Failures count as turns.
    ///
    /// Whoever writes many workloads, or sees to it that their reloads fail, keeps nobody else waiting.
    fn in_fair_order<'a>(&self, workloads: &'a [IndexedWorkload]) -> Vec<&'a IndexedWorkload> {
        let failures = |stored: &IndexedWorkload| self.tracks.failures(&stored.workload.uid);
        let mut turns: HashMap<&str, u32> = HashMap::new();
        for stored in workloads.iter().filter(|stored| failures(stored) > 0) {
            *turns.entry(&stored.workload.id.namespace).or_default() += 1;
        }
        let mut in_order: Vec<_> = workloads
            .iter()
            .map(|stored| {
                let turn = turns.entry(&stored.workload.id.namespace).or_default();
                *turn += 1;
                (failures(stored), *turn, stored)
            })
            .collect();
        in_order.sort_by_key(|(failures, turn, _)| (*failures, *turn));
        in_order.into_iter().map(|(_, _, stored)| stored).collect()
    }

    fn decide_one(
        &self,
        stored: &IndexedWorkload,
        observed_versions: &HashMap<Arc<SecretId>, ObservedVersion>,
        rules: &Rules,
        asked: LookupState,
        now: Timestamp,
    ) -> Decision {
        let nothing = ReloadHistory::default();
        let reload_state = self.tracks.state(&stored.workload.uid);
        let case = DecisionInput {
            workload: &stored.workload,
            template_first_poll: stored.template_first_poll,
            revision: asked.lookup(self.tracks.revision(stored)),
            past: reload_state.map_or(&nothing, |reload_state| &reload_state.past),
        };
        plan::decide(&case, seen(observed_versions), rules, now)
    }

    /// Lets a due reload start now, or holds it: where only the clock speaks for a change, by the budget.
    fn admit(&self, action: Action) -> Action {
        match action {
            Action::Roll(Cause::Found) if !self.budget.try_take() => Action::Hold(Hold::Budget),
            action => action,
        }
    }

    /// Says what there is to say of a decision, and notes what is to be done.
    fn conclude(
        &mut self,
        stored: &IndexedWorkload,
        decision: Decision,
        now: Timestamp,
        left: &mut Remaining,
    ) -> Option<Due> {
        let Decision { action, gone, mut reverted, changed, waiting, unsettled, open } = decision;
        let action = self.admit(action);
        let workload = &stored.workload;
        let id = &workload.id;
        if unsettled {
            debug!(
                worker = "reloader",
                "{id}: a secret has a version that has to be seen for longer: it is older than the \
                 recorded one, or newer than the settle time (--settle-time)"
            );
            left.workloads.insert(id.clone());
        }
        let idle = matches!(action, Action::Leave) && reverted.is_empty() && !waiting;
        if idle && self.tracks.state(&workload.uid).is_none() {
            return None;
        }
        let reload_state = self.tracks.state_mut(&workload.uid);
        if waiting {
            reload_state.waits = reload_state.waits.saturating_add(1);
            // Controllers take a moment; whoever takes longer is asked for with all others.
            if reload_state.waits < PATIENCE {
                left.workloads.insert(id.clone());
            }
            if reload_state.waits <= PATIENCE {
                let is_long = reload_state.waits == PATIENCE;
                self.events.emit(&Event::WaitingForRevision { workload: id, is_long });
            }
        } else if open.len() < workload.watched().count() {
            reload_state.waits = 0;
        }
        let said = &mut reload_state.reported.reverted;
        let again = reverted.iter().all(|secret| said.contains(secret));
        reverted.extend(said.iter().filter(|secret| open.contains(secret)).cloned());
        reverted.sort_unstable();
        if *said != reverted {
            let owner = workload.owner.as_deref();
            let secrets = &reverted;
            self.events.emit(&Event::TakenBack { workload: id, secrets, again, owner });
            *said = reverted;
        }
        let hold = match &action {
            Action::Hold(hold) => Some(*hold),
            Action::Leave if !open.is_empty() => return None,
            Action::Leave | Action::Roll(_) | Action::AskRevision => None,
        };
        match hold {
            Some(Hold::BackOff) => drop(left.workloads.insert(id.clone())),
            Some(Hold::Budget) => {
                left.workloads.insert(id.clone());
                left.over_budget += 1;
            }
            Some(Hold::Deleting | Hold::SecretGone | Hold::Stripped) | None => {}
        }
        let is_new = hold != reload_state.reported.hold;
        reload_state.reported.hold = hold;
        match hold {
            Some(Hold::Stripped) if reload_state.past.answered => {
                let hours = reload_state.past.stripped(now).as_hours();
                let workload = Arc::clone(workload);
                left.stripped.push(Stripped { workload, hours, changed: changed.clone(), gone });
            }
            Some(hold) if is_new && hold != Hold::Stripped => {
                let hold = Held::For(hold);
                let (changed, gone) = (&*changed, &*gone);
                self.events.emit(&Event::Held { workload: id, hold, changed, gone });
            }
            None if is_new => self.events.emit(&Event::Released { workload: id }),
            _ => {}
        }
        let Action::Roll(cause) = action else { return None };
        let past = reload_state.past.clone();
        let revision = self.tracks.revision(stored).cloned();
        Some(Due { stored: stored.clone(), past, revision, cause, changed })
    }
}
