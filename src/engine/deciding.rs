//! Decides about the workloads of a poll, and reports each decision once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join, join_all};
use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::decide::hold::Hold;
use crate::decide::observation::ObservedVersion;
use crate::decide::plan::{
    self, Action, Cause, Decision, DecisionInput, Lookup, ReloadHistory, Revision, Rules,
};
use crate::engine::poll_scope::{Remaining, Stripped};
use crate::engine::ports::{Cluster, Vault};
use crate::engine::secret_track::seen;
use crate::engine::workloads::Workloads;
use crate::events::event::{Event, Held};
use crate::events::log::RELOADER;
use crate::index::entries::IndexedWorkload;
use crate::model::secret::SecretId;

/// How often in a row a workload may wait for its controller. After that, the wait is reported as
/// long, and the workload is left to full polls.
const MOST_WAITS: u32 = 6;

/// A workload that is due, if the rules allow it.
pub(super) struct Candidate<'a> {
    pub(super) stored: &'a IndexedWorkload,
    pub(super) decision: Decision,
}

/// A workload that is about to be reloaded.
pub(super) struct Due {
    pub(super) stored: IndexedWorkload,
    pub(super) past: ReloadHistory,
    pub(super) revision: Option<Revision>,
    pub(super) cause: Cause,
    pub(super) changed: Vec<Arc<SecretId>>,
    /// Whether the owner of a changed secret says that its reloads are urgent.
    pub(super) is_urgent: bool,
    /// Whether the reload waited until others had made room.
    pub(super) has_waited: bool,
}

/// The number of workloads in one tick whose last writer the API server is asked for, and the time
/// for that. The name only helps to find the cause: no decision depends on it.
const MOST_WRITERS: usize = 10;
const WRITERS_WITHIN: Duration = Duration::from_secs(5);

/// Whether the revision was looked up.
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
    /// Decides about each workload. Returns the workloads that are due, and those whose decision
    /// needs their revision.
    pub(super) fn decide<'a>(
        &mut self,
        workloads: &'a [IndexedWorkload],
        observed_versions: &HashMap<Arc<SecretId>, ObservedVersion>,
        remaining: &mut Remaining,
    ) -> (Vec<Due>, Vec<&'a IndexedWorkload>) {
        let now = (self.clocks.now)();
        let rules = self.rules();
        self.budget.refill(Instant::now().into_std());
        let (mut candidates, mut needing_revision) = (Vec::new(), Vec::new());
        for stored in workloads {
            let decision = self.decide_one(stored, observed_versions, &rules, LookupState::No, now);
            match decision.action {
                Action::AskRevision => needing_revision.push(stored),
                Action::Roll(_) => candidates.push(Candidate { stored, decision }),
                Action::Leave | Action::Hold(_) => {
                    self.conclude(stored, decision, false, now, remaining);
                }
            }
        }
        let lookup_state = LookupState::No;
        let (due, unclear) =
            self.admit(candidates, workloads, observed_versions, now, lookup_state, remaining);
        needing_revision.extend(unclear);
        (due, needing_revision)
    }

    /// Looks up the revisions of workloads, and decides about each workload. Returns those that are
    /// due.
    pub(super) async fn decide_by_revision<'a>(
        &mut self,
        vault: &mut impl Vault,
        needing_revision: Vec<&'a IndexedWorkload>,
        in_scope: &'a [IndexedWorkload],
        observed_versions: &HashMap<Arc<SecretId>, ObservedVersion>,
        remaining: &mut Remaining,
    ) -> Vec<Due> {
        self.read_revisions(vault, &needing_revision).await;
        let now = (self.clocks.now)();
        let rules = self.rules();
        let mut candidates = Vec::new();
        for stored in needing_revision {
            let decision =
                self.decide_one(stored, observed_versions, &rules, LookupState::Yes, now);
            if let Action::Roll(_) = decision.action {
                candidates.push(Candidate { stored, decision });
            } else {
                self.conclude(stored, decision, false, now, remaining);
            }
        }
        self.admit(candidates, in_scope, observed_versions, now, LookupState::Yes, remaining).0
    }

    /// Looks up the revisions of workloads, and keeps each revision until the template changes.
    async fn read_revisions(
        &mut self,
        vault: &mut impl Vault,
        needing_revision: &[&IndexedWorkload],
    ) {
        let wanted: Vec<_> =
            needing_revision.iter().map(|stored| Arc::clone(&stored.workload)).collect();
        debug!(worker = RELOADER, "Asking for the revisions of {} workloads", wanted.len());
        self.heartbeat.works();
        // A decision by a revision uses both clocks.
        let revisions = self.cluster.revisions(&wanted);
        let ((), mut found) = join(vault.read_clock(), revisions).await;
        for stored in needing_revision {
            if let Some(revision) = found.remove(&*stored.workload.uid) {
                self.tracks.keep_revision(stored, revision);
            }
        }
    }

    /// Returns the workloads that are not left alone. A held workload is among them, because its
    /// hold may end while Vault is read again.
    pub(super) async fn may_be_due(
        &mut self,
        vault: &mut impl Vault,
        mut workloads: Vec<IndexedWorkload>,
        observed_versions: &HashMap<Arc<SecretId>, ObservedVersion>,
    ) -> Vec<IndexedWorkload> {
        let action = |this: &Self, rules: &Rules, stored: &IndexedWorkload, lookup| {
            this.decide_one(stored, observed_versions, rules, lookup, (this.clocks.now)()).action
        };
        let rules = self.rules();
        let needing_revision: Vec<_> = workloads
            .iter()
            .filter(|stored| action(self, &rules, stored, LookupState::No) == Action::AskRevision)
            .collect();
        if !needing_revision.is_empty() {
            self.read_revisions(vault, &needing_revision).await;
        }
        // The look-up read both clocks, and the rules depend on the clocks.
        let rules = self.rules();
        workloads.retain(|stored| action(self, &rules, stored, LookupState::Yes) != Action::Leave);
        workloads
    }

    /// Reports workloads whose reload is stripped repeatedly. For the first few, the API server is
    /// asked for the last writer.
    pub(super) async fn report_stripped(&self, stripped: Vec<Stripped>) {
        self.heartbeat.works();
        let first = stripped.iter().take(MOST_WRITERS);
        let lookups =
            join_all(first.map(|stripped| self.cluster.last_writer(&stripped.workload.id)));
        let mut writers = timeout(WRITERS_WITHIN, lookups).await.unwrap_or_default().into_iter();
        for Stripped { workload, hours, changed, gone } in stripped {
            let by = writers.next().flatten();
            let (by, owner) = (by.as_deref(), workload.owner.as_deref());
            let hold = Held::Stripped { hours, by, owner };
            let (workload, changed, gone) = (&workload.id, &*changed, &*gone);
            self.events.emit(&Event::Held { workload, hold, changed, gone });
        }
    }

    fn decide_one(
        &self,
        stored: &IndexedWorkload,
        observed_versions: &HashMap<Arc<SecretId>, ObservedVersion>,
        rules: &Rules,
        lookup_state: LookupState,
        now: Timestamp,
    ) -> Decision {
        let no_history = ReloadHistory::default();
        let reload_state = self.tracks.state(&stored.workload.uid);
        let input = DecisionInput {
            workload: &stored.workload,
            template_first_poll: stored.template_first_poll,
            revision: lookup_state.lookup(self.tracks.revision(stored)),
            past: reload_state.map_or(&no_history, |reload_state| &reload_state.past),
        };
        plan::decide(&input, seen(observed_versions), rules, now)
    }

    /// Reports a decision, and notes the remaining work. Returns the reload, if one may start: see
    /// [`Due::is_urgent`].
    pub(super) fn conclude(
        &mut self,
        stored: &IndexedWorkload,
        decision: Decision,
        is_urgent: bool,
        now: Timestamp,
        remaining: &mut Remaining,
    ) -> Option<Due> {
        let (decided, poll) = (stored, self.poll);
        self.events.emit(&Event::Decided { decided, poll, decision: &decision });
        let Decision { action, gone, mut reverted, changed, waiting, unsettled, open, .. } =
            decision;
        let workload = &stored.workload;
        let id = &workload.id;
        if unsettled {
            debug!(
                worker = RELOADER,
                "{id}: a secret has a version that has to be seen for longer: it is older than the \
                 recorded one, or newer than the settle time (--settle-time)"
            );
            remaining.workloads.insert(id.clone());
        }
        let idle = matches!(action, Action::Leave) && reverted.is_empty() && !waiting;
        if idle && self.tracks.state(&workload.uid).is_none() {
            return None;
        }
        let reload_state = self.tracks.state_mut(&workload.uid);
        if waiting {
            reload_state.waits = reload_state.waits.saturating_add(1);
            // Controllers take a moment. A workload that waits longer is left to full polls.
            if reload_state.waits < MOST_WAITS {
                remaining.workloads.insert(id.clone());
            }
            if reload_state.waits <= MOST_WAITS {
                let is_long = reload_state.waits == MOST_WAITS;
                self.events.emit(&Event::WaitingForRevision { workload: id, is_long });
            }
        } else if open.len() < workload.watched().count() {
            reload_state.waits = 0;
        }
        let reported = &mut reload_state.reported.reverted;
        let again = reverted.iter().all(|secret| reported.contains(secret));
        reverted.extend(reported.iter().filter(|secret| open.contains(secret)).cloned());
        reverted.sort_unstable();
        if *reported != reverted {
            let owner = workload.owner.as_deref();
            let secrets = &reverted;
            self.events.emit(&Event::TakenBack { workload: id, secrets, again, owner });
            *reported = reverted;
        }
        let hold = match &action {
            Action::Hold(hold) => Some(*hold),
            Action::Leave if !open.is_empty() => return None,
            Action::Leave | Action::Roll(_) | Action::AskRevision => None,
        };
        match hold {
            Some(Hold::BackOff) => drop(remaining.workloads.insert(id.clone())),
            Some(Hold::Budget) => {
                remaining.workloads.insert(id.clone());
                remaining.over_budget += 1;
            }
            Some(Hold::InjectorAway | Hold::InjectorMissing) => self.injector.await_it(id),
            Some(hold) if hold.ends_by_itself() => {
                remaining.waiting.insert(id.clone());
                *remaining.waiting_for.entry(hold).or_default() += 1;
            }
            Some(_) | None => {}
        }
        let is_new = hold != reload_state.reported.hold;
        let has_waited = reload_state.reported.hold.is_some_and(Hold::ends_by_itself);
        reload_state.reported.hold = hold;
        match hold {
            // Another hold may have come between, and its report counts no more.
            Some(Hold::Stripped) if reload_state.past.answered || is_new => {
                let past = &mut reload_state.past;
                let left = if past.answered { past.stripped(now) } else { past.stripped_left(now) };
                let hours = left.as_hours();
                let workload = Arc::clone(workload);
                remaining.stripped.push(Stripped {
                    workload,
                    hours,
                    changed: changed.clone(),
                    gone,
                });
            }
            Some(hold) if is_new && hold != Hold::Stripped => {
                let advice = self.injector.advice(hold, &id.namespace);
                let hold = advice.as_deref().map_or(Held::For(hold), Held::Injector);
                let (changed, gone) = (&*changed, &*gone);
                self.events.emit(&Event::Held { workload: id, hold, changed, gone });
            }
            None if is_new => self.events.emit(&Event::Released { workload: id }),
            _ => {}
        }
        let Action::Roll(cause) = action else { return None };
        let past = reload_state.past.clone();
        let revision = self.tracks.revision(stored).cloned();
        let stored = stored.clone();
        Some(Due { stored, past, revision, cause, changed, is_urgent, has_waited })
    }
}
