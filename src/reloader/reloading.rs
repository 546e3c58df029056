//! Reloading what is due: one PATCH a workload, and on a conflict everything about it anew.

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::deciding::{Asked, Due};
use super::ports::{Cluster, Vault, WriteError};
use super::report::{Report, Reporter};
use super::{Reloader, Unfinished, WORKER, backoff, seen};
use crate::core::observation::Sighting;
use crate::core::plan::{self, Action, Case, Reload, Rules};
use crate::core::secret::SecretId;
use crate::core::store::Stored;

/// PATCHes under way at once: each starts a rollout, and the API server serves others too.
const PATCHES_AT_A_TIME: usize = 8;

/// How often a workload that others keep changing is read and decided about anew, before it is left
/// to the next attempt.
const CONFLICT_RETRIES: u32 = 5;

/// How a reload ended.
enum Outcome {
    /// The PATCH was answered.
    Reloaded(Reload),
    /// Read anew, there was nothing to do any more.
    NotNeeded,
    /// It did not work.
    Failed(WriteError),
}

impl<V: Vault, C: Cluster, R: Reporter> Reloader<V, C, R> {
    /// Reloads workloads, a few at a time, and takes in how that ended.
    pub(super) async fn reload(
        &mut self,
        due: Vec<Due>,
        sightings: &HashMap<Arc<SecretId>, Sighting>,
        rules: &Rules,
        left: &mut Unfinished,
        shutdown: &CancellationToken,
    ) {
        let this = &*self;
        let mut outcomes = stream::iter(due)
            .map(|due| async move {
                // What has not begun is found again by whoever polls next.
                if shutdown.is_cancelled() {
                    return None;
                }
                let outcome = this.reload_one(&due, sightings, rules).await;
                Some((due.stored, outcome))
            })
            .buffer_unordered(PATCHES_AT_A_TIME);
        let mut ended = Vec::new();
        while let Some(outcome) = outcomes.next().await {
            ended.extend(outcome);
        }
        drop(outcomes);
        for (stored, outcome) in ended {
            self.take_in(&stored, outcome, left);
        }
    }

    async fn reload_one(
        &self,
        due: &Due,
        sightings: &HashMap<Arc<SecretId>, Sighting>,
        rules: &Rules,
    ) -> Outcome {
        let Due { past, cause, changed, .. } = due;
        let mut stored = due.stored.clone();
        let mut revision = due.revision.clone();
        let id = stored.workload.id.clone();
        self.reporter.report(&id, &Report::Reloading { changed, cause: *cause });
        for _ in 0..CONFLICT_RETRIES {
            let workload = Arc::clone(&stored.workload);
            let reload = plan::reload(&workload, seen(sightings), new_mark());
            match self.cluster.patch(&workload, &reload).await {
                Ok(manifest) => {
                    let read = manifest.read(id.kind, self.settings.vault_namespace.as_ref());
                    if let Some(workload) = read.workload {
                        self.store.refresh(workload);
                    }
                    return Outcome::Reloaded(reload);
                }
                Err(WriteError::Conflict) => {}
                Err(WriteError::NotFound) => return Outcome::NotNeeded,
                Err(error) => return Outcome::Failed(error),
            }
            debug!(worker = WORKER, "{id} was changed meanwhile; reading it and deciding anew");
            match self.read_anew(&stored).await {
                Ok(Some(fresh)) => stored = fresh,
                Ok(None) => return Outcome::NotNeeded,
                Err(error) => return Outcome::Failed(error),
            }
            if stored.workload.mark != workload.mark {
                // Another controller reloaded it, or somebody took a reload back. What that one saw
                // may be newer than what was seen here: the next poll decides.
                return Outcome::NotNeeded;
            }
            if stored.workload.template != workload.template {
                revision = None;
            }
            let now = (self.clocks.now)();
            let mut asked = Asked::No;
            loop {
                let lookup = asked.lookup(revision.as_ref());
                let case = Case {
                    workload: &stored.workload,
                    entered: stored.entered,
                    revision: lookup,
                    past,
                };
                match plan::decide(&case, seen(sightings), rules, 1, now).action {
                    Action::Roll(_) => break,
                    Action::AskRevision => {
                        let workload = Arc::clone(&stored.workload);
                        let uid = workload.uid.clone();
                        revision = self.cluster.revisions(&[workload]).await.remove(&uid);
                        asked = Asked::Yes;
                    }
                    Action::Leave | Action::Hold(_) => return Outcome::NotNeeded,
                }
            }
        }
        Outcome::Failed(WriteError::Conflict)
    }

    /// Reads a workload that somebody changed. `None` if there is nothing left to reload.
    async fn read_anew(&self, stored: &Stored) -> Result<Option<Stored>, WriteError> {
        let id = &stored.workload.id;
        let manifest = match self.cluster.get(id).await {
            Ok(manifest) => manifest,
            Err(WriteError::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        let read = manifest.read(id.kind, self.settings.vault_namespace.as_ref());
        let fresh = read.workload.filter(|workload| workload.uid == stored.workload.uid);
        Ok(fresh.map(|workload| {
            // No poll has begun after a template that has only just been read.
            let same = workload.template == stored.workload.template;
            let entered = if same { stored.entered } else { u64::MAX };
            Stored { workload: Arc::new(workload), entered }
        }))
    }

    fn take_in(&mut self, stored: &Stored, outcome: Outcome, left: &mut Unfinished) {
        let workload = &stored.workload;
        let id = &workload.id;
        let memory = self.memories.entry(workload.uid.clone()).or_default();
        match outcome {
            Outcome::Reloaded(reload) => {
                self.reporter.report(id, &Report::Reloaded { count: reload.count });
                memory.past.patched(reload.record.versions);
                memory.failures = 0;
                memory.revision = None;
                memory.said.error = None;
            }
            Outcome::NotNeeded => {
                self.reporter.report(id, &Report::NotNeeded);
                memory.failures = 0;
                memory.said.error = None;
                left.workloads.insert(id.clone());
            }
            Outcome::Failed(error) => {
                let delay = backoff(memory.failures);
                memory.failures = memory.failures.saturating_add(1);
                memory.past.retry_at = (self.clocks.now)().checked_add(delay).ok();
                left.workloads.insert(id.clone());
                let again = memory.said.error.as_ref() == Some(&error);
                self.reporter.report(id, &Report::Failed { error: &error, again });
                memory.said.error = Some(error);
            }
        }
    }
}

/// A mark that was never used before.
fn new_mark() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
