//! Reloads the workloads that are due, by one PATCH each. After a conflict, the workload is read
//! and evaluated again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::decide::observation::{Observation, ObservedVersion};
use crate::decide::plan::{self, Action, Cause, Circumstances, DecisionInput, Reload, Rules};
use crate::engine::backoff::backoff;
use crate::engine::deciding::{Due, LookupState};
use crate::engine::holds::Holds;
use crate::engine::injector_hold::InjectorHold;
use crate::engine::poll_scope::Remaining;
use crate::engine::ports::{Cluster, WriteError};
use crate::engine::secret_track::seen;
use crate::engine::settings::Clocks;
use crate::engine::workload_track::ReloadState;
use crate::engine::workloads::Workloads;
use crate::events::event::{Change, Event};
use crate::events::log::RELOADER;
use crate::events::sink::Events;
use crate::index::Index;
use crate::index::entries::IndexedWorkload;
use crate::model::secret::SecretId;
use crate::model::strategy::Rollout;
use crate::model::workload::{Workload, WorkloadId};
use crate::rollouts::admission::RolloutRules;
use crate::rollouts::interval::next_streak;
use crate::rollouts::rollout::is_unhealthy_by_itself;

/// The number of PATCHes under way at once. Each starts a rollout, and the API server has other
/// clients too.
const PATCHES_AT_A_TIME: usize = 8;

/// How often one attempt tries a workload that others keep changing. The workload is read and
/// evaluated again after each conflict, and finally left to the next attempt.
const CONFLICT_TRIES: u32 = 5;

/// The outcome of a reload.
enum Outcome {
    /// The PATCH was answered.
    Reloaded(Box<Reloaded>),
    /// The workload was deleted, or was changed and needs no reload any more.
    NotNeeded,
    /// The workload could not be read or written.
    Failed(WriteError),
}

/// What a PATCH that was answered did.
struct Reloaded {
    reload: Reload,
    rollout: Rollout,
    changes: Vec<Change>,
    delay: Option<Duration>,
}

impl Outcome {
    /// Whether certainly no rollout began. A request without an answer may have begun one.
    fn began_no_rollout(&self) -> bool {
        match self {
            Self::NotNeeded => true,
            Self::Failed(error) => !matches!(error, WriteError::Failed(_)),
            Self::Reloaded(..) => false,
        }
    }
}

impl<C: Cluster> Workloads<C> {
    /// Reloads workloads, a few at a time, and takes in each outcome as it arrives.
    ///
    /// If the API server itself does not work, no further reload begins. The next tick first checks
    /// whether the API server works again. A reload that did not begin does not count as failed.
    /// After `end`, no further reload begins either.
    pub(super) async fn reload(
        &mut self,
        due: Vec<Due>,
        observed_versions: &HashMap<Arc<SecretId>, ObservedVersion>,
        remaining: &mut Remaining,
        end: Instant,
        shutdown: &CancellationToken,
    ) {
        let mut due = self.failed_last(due);
        let writer = Writer {
            index: &self.index,
            cluster: &self.cluster,
            injector: &self.injector,
            events: &self.events,
            clocks: &self.clocks,
            holds: Holds {
                index: &self.index,
                settings: &self.settings.shared,
                calendar: &self.calendar,
                clocks: &self.clocks,
            },
            observed_versions,
            rules: self.rules(),
            rollouts: self.settings.shared.rollouts,
        };
        let outage = &mut self.outage;
        if outage.is_known
            && let Some(first) = due.front()
        {
            outage.see(&writer.try_to_read(&first.stored.workload.id).await, writer.events);
        }
        let mut under_way = FuturesUnordered::new();
        loop {
            // The next poll of any replica finds the changes again whose reloads did not begin.
            while under_way.len() < PATCHES_AT_A_TIME
                && !outage.is_known
                && !shutdown.is_cancelled()
                && self.leadership.holds()
                && Instant::now() < end
                && let Some(next) = due.pop_front()
            {
                let writer = &writer;
                under_way.push(async move {
                    let outcome = writer.reload(&next).await;
                    (next.stored, next.cause, outcome)
                });
            }
            self.heartbeat.works();
            let Some((stored, cause, outcome)) = under_way.next().await else { break };
            let id = &stored.workload.id;
            if cause == Cause::Found && outcome.began_no_rollout() {
                self.budget.give_back();
            }
            match &outcome {
                Outcome::Failed(WriteError::Failed(_)) if !outage.is_known => {
                    outage.see(&writer.try_to_read(id).await, writer.events);
                }
                Outcome::Failed(WriteError::Failed(_)) => {}
                Outcome::Failed(_) | Outcome::NotNeeded => outage.see(&Ok(()), writer.events),
                Outcome::Reloaded(..) => {
                    remaining.is_moving = true;
                    outage.see(&Ok(()), writer.events);
                }
            }
            let uid = &stored.workload.uid;
            if matches!(outcome, Outcome::Reloaded(..)) {
                self.tracks.forget_revision(uid);
            }
            let reload_state = self.tracks.state_mut(uid);
            if reload_state.take_in(
                &stored.workload,
                cause,
                outcome,
                writer.events,
                (self.clocks.now)(),
            ) {
                remaining.workloads.insert(id.clone());
            }
        }
        remaining.is_moving |= !due.is_empty() && !outage.is_known;
        for due in due {
            if due.cause == Cause::Found {
                self.budget.give_back();
            }
            remaining.workloads.insert(due.stored.workload.id.clone());
        }
    }

    /// Puts workloads whose reloads failed last. Whatever makes a reload fail, even a slow request,
    /// must not keep the other workloads waiting for ever.
    fn failed_last(&self, mut due: Vec<Due>) -> VecDeque<Due> {
        due.sort_by_cached_key(|due| self.tracks.failures(&due.stored.workload.uid));
        due.into()
    }
}

/// The values that all reloads of one call share.
struct Writer<'a, C> {
    index: &'a Index,
    cluster: &'a C,
    injector: &'a InjectorHold,
    events: &'a Events,
    clocks: &'a Clocks,
    holds: Holds<'a>,
    observed_versions: &'a HashMap<Arc<SecretId>, ObservedVersion>,
    rules: Rules,
    rollouts: RolloutRules,
}

impl<C: Cluster> Writer<'_, C> {
    async fn reload(&self, due: &Due) -> Outcome {
        let Self { observed_versions, rules, .. } = self;
        let Due { past, cause, changed, is_urgent, .. } = due;
        let mut stored = due.stored.clone();
        let mut revision = due.revision.clone();
        let id = stored.workload.id.clone();
        if self.injector.hold(&stored.workload).is_some() {
            // The injector went away after the decision. The next poll reports the hold.
            return Outcome::NotNeeded;
        }
        for attempt in 0..CONFLICT_TRIES {
            let workload = Arc::clone(&stored.workload);
            if self.holds.of(&workload, *is_urgent).is_some() {
                // An annotation came meanwhile, on the workload or on its namespace. The next poll
                // says why the workload is held.
                return Outcome::NotNeeded;
            }
            // This comes after the holds: a namespace that loses its label leaves the selection before
            // its annotations are forgotten.
            if !self.index.selection().contains(&id.namespace) {
                return Outcome::NotNeeded;
            }
            if attempt == 0 {
                self.events.emit(&Event::Reloading { workload: &id, changed, cause: *cause });
            }
            let circumstances = self.circumstances(&stored);
            let reload =
                plan::reload(&workload, seen(observed_versions), rules, new_mark(), circumstances);
            match self.cluster.patch(&workload, &reload).await {
                Ok(manifest) => {
                    let rollout = manifest.rollout;
                    self.index.refresh(&manifest, id.kind);
                    let (changes, delay) =
                        (changes(changed, &workload, &reload), self.delay(changed));
                    let reloaded = Reloaded { reload, rollout, changes, delay };
                    return Outcome::Reloaded(Box::new(reloaded));
                }
                Err(WriteError::Conflict) => {}
                Err(WriteError::NotFound) => return Outcome::NotNeeded,
                Err(error) => return Outcome::Failed(error),
            }
            debug!(worker = RELOADER, "{id} was changed meanwhile; reading it and deciding anew");
            match self.read_again(&stored).await {
                Ok(Some(fresh)) => stored = fresh,
                Ok(None) => return Outcome::NotNeeded,
                Err(error) => return Outcome::Failed(error),
            }
            let kept_template = workload.kept_its_template(&stored.workload);
            let is_reloaded = stored.workload.mark != workload.mark
                || stored.workload.recorded != workload.recorded
                || !kept_template && workload.has_template_of(&stored.workload);
            if is_reloaded {
                // Another controller reloaded the workload, and that reload may have been taken
                // back or stripped since. The other controller may have seen newer versions, so the
                // next poll decides.
                return Outcome::NotNeeded;
            }
            if !kept_template {
                revision = None;
            }
            let now = (self.clocks.now)();
            let mut lookup_state = LookupState::No;
            loop {
                let lookup = lookup_state.lookup(revision.as_ref());
                let input = DecisionInput {
                    workload: &stored.workload,
                    template_first_poll: stored.template_first_poll,
                    revision: lookup,
                    past,
                };
                match plan::decide(&input, seen(observed_versions), rules, now).action {
                    Action::Roll(_) => break,
                    Action::AskRevision => {
                        let workload = Arc::clone(&stored.workload);
                        let uid = Arc::clone(&workload.uid);
                        revision = self.cluster.revisions(&[workload]).await.remove(&*uid);
                        lookup_state = LookupState::Yes;
                    }
                    Action::Leave | Action::Hold(_) => return Outcome::NotNeeded,
                }
            }
        }
        Outcome::Failed(WriteError::Conflict)
    }

    /// Returns when and on what the reload of a workload is done.
    fn circumstances(&self, stored: &IndexedWorkload) -> Circumstances {
        let IndexedWorkload { workload, has_rolled_out, .. } = stored;
        let RolloutRules { shortest_interval, timeout, .. } = self.rollouts;
        let deadline = self.clocks.deadline((self.clocks.now)(), timeout);
        let at = deadline.now;
        Circumstances {
            at,
            streak: next_streak(workload.recorded.as_ref(), shortest_interval, at),
            was_unhealthy: is_unhealthy_by_itself(workload, *has_rolled_out, deadline),
        }
    }

    /// Returns the time since the oldest live version of some secrets was created.
    fn delay(&self, changed: &[Arc<SecretId>]) -> Option<Duration> {
        let now = self.clocks.vault.at((self.clocks.now)());
        let created = changed.iter().filter_map(|secret| {
            match seen(self.observed_versions)(secret).observation {
                Observation::Live(version) => Some(version.created),
                Observation::Gone | Observation::Unknown => None,
            }
        });
        Duration::try_from(now.duration_since(created.min()?)).ok()
    }

    /// Reads a workload again that another client changed. Returns `None` if nothing is left to
    /// reload.
    async fn read_again(
        &self,
        stored: &IndexedWorkload,
    ) -> Result<Option<IndexedWorkload>, WriteError> {
        let id = &stored.workload.id;
        let manifest = match self.cluster.get(id).await {
            Ok(manifest) => manifest,
            Err(WriteError::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        let read = self.index.read(&manifest, id.kind);
        // While a source of the workload is not known, the collector handles the workload. A later
        // poll decides.
        let fresh = read.workload.filter(|_| !read.is_waiting);
        let fresh = fresh.filter(|workload| workload.uid == stored.workload.uid);
        Ok(fresh.map(|mut workload| {
            // A changed template was read only now, so no poll has begun since.
            let kept_template = stored.workload.kept_its_template(&workload);
            if kept_template {
                workload.take_over_secrets(&stored.workload);
            }
            let template_first_poll =
                if kept_template { stored.template_first_poll } else { u64::MAX };
            let has_rolled_out = kept_template && stored.has_rolled_out;
            IndexedWorkload { workload: Arc::new(workload), template_first_poll, has_rolled_out }
        }))
    }

    /// Reads a workload to learn whether the API server answers. Any answer is `Ok`.
    async fn try_to_read(&self, id: &WorkloadId) -> Result<(), WriteError> {
        match self.cluster.get(id).await {
            Err(error @ WriteError::Failed(_)) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl ReloadState {
    /// Takes in the outcome of a reload. Returns whether something is left to do.
    fn take_in(
        &mut self,
        workload: &Workload,
        cause: Cause,
        outcome: Outcome,
        events: &Events,
        now: Timestamp,
    ) -> bool {
        let id = &workload.id;
        match outcome {
            Outcome::Reloaded(reloaded) => {
                let Reloaded { reload, rollout, changes, delay } = *reloaded;
                events.emit(&Event::Reloaded {
                    workload: id,
                    count: reload.count,
                    cause,
                    rollout,
                    changes: &changes,
                    delay,
                });
                // The PATCH replaced exactly this mark: a workload with another mark is not PATCHed
                // again.
                self.past.patched(reload.record, workload.mark.clone());
                self.failures = 0;
                self.reported.error = None;
                false
            }
            Outcome::NotNeeded => {
                events.emit(&Event::NotNeeded { workload: id });
                self.failures = 0;
                self.reported.error = None;
                true
            }
            Outcome::Failed(error) => {
                let delay = backoff(self.failures);
                self.failures = self.failures.saturating_add(1);
                self.past.retry_at = now.checked_add(delay).ok();
                let again = self.reported.error.as_ref() == Some(&error);
                let text = error.to_string();
                events.emit(&Event::ReloadFailed { workload: id, cause, error: &text, again });
                self.reported.error = Some(error);
                true
            }
        }
    }
}

/// Returns the versions of some secrets before and after a reload, by the records.
fn changes(changed: &[Arc<SecretId>], workload: &Workload, reload: &Reload) -> Vec<Change> {
    let before = workload.recorded.as_ref().map(|recorded| &recorded.versions);
    let change = |secret: &Arc<SecretId>| {
        let hash = secret.hash64();
        let from = before.and_then(|versions| versions.get(hash));
        let to = reload.record.versions.get(hash);
        Change { secret: Arc::clone(secret), from, to }
    };
    changed.iter().map(change).collect()
}

/// Returns a mark that was never used before.
fn new_mark() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
