//! The reloader: polls, decides, and reloads what changed.
//!
//! It knows the collector only through the store, and Vault and the cluster only through the two
//! traits here. What to do is decided in [`crate::core::plan`]; this is the loop around it.
//!
//! Architecture Invariant: a record moves only with a PATCH that was answered. Whatever fails, here
//! or in between, leaves the old record, and the next poll finds the change again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::core::clock::{ServerClock, skew};
use crate::core::manifest::Manifest;
use crate::core::observation::{Ask, History, Polled, Sighting};
use crate::core::plan::{
    self, Action, Case, Cause, Decision, Hold, Lookup, Past, Reload, Revision, Rules,
};
use crate::core::secret::SecretId;
use crate::core::store::{Snapshot, Store, Stored};
use crate::core::workload::{Workload, WorkloadId};

/// The worker that log lines name.
const WORKER: &str = "reloader";

/// PATCHes under way at once: each starts a rollout, and the API server serves others too.
const PATCHES_AT_A_TIME: usize = 8;

/// How often a workload that others keep changing is read and decided about anew, before it is left
/// to the next attempt.
const CONFLICT_RETRIES: u32 = 5;

/// Between two attempts on workloads that wait or failed: doubled from the first to the last.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

/// How long PATCHes in flight may take once the process is to end.
const GRACE: Duration = Duration::from_secs(1);

/// What the reloader needs of a server of the Vault API.
pub trait Vault: Send {
    /// Asks for secrets, each once.
    fn poll(&mut self, asks: &[Ask]) -> impl Future<Output = Polled> + Send;

    /// Forgets what concerns secrets that are not used any more.
    fn forget(&mut self, is_used: impl Fn(&SecretId) -> bool + Send);

    /// Ends it: gives back what must not be left behind.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// What the reloader needs of the cluster.
pub trait Cluster: Send + Sync {
    /// The present revisions of workloads, by uid; one that cannot be had is not among them.
    fn revisions(
        &self,
        workloads: &[Arc<Workload>],
    ) -> impl Future<Output = HashMap<Box<str>, Revision>> + Send;

    /// Reloads a workload, if it is still as it was decided about. Answers it as it is then.
    fn patch(
        &self,
        workload: &Workload,
        reload: &Reload,
    ) -> impl Future<Output = Result<Manifest, WriteError>> + Send;

    /// Reads a workload.
    fn get(&self, id: &WorkloadId) -> impl Future<Output = Result<Manifest, WriteError>> + Send;

    /// Who wrote a workload last, beside this controller.
    fn last_writer(&self, id: &WorkloadId) -> impl Future<Output = Option<String>> + Send;
}

/// Why a workload could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The object is not the one that was decided about any more.
    #[error("it was changed by somebody else")]
    Conflict,
    /// It does not exist any more.
    #[error("it was deleted")]
    NotFound,
    /// The service account may not, or an admission policy refused.
    #[error("refused: {0}")]
    Refused(String),
    /// No answer, or a failing server.
    #[error("the API server failed: {0}")]
    Failed(String),
}

impl WriteError {
    /// A short name for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::NotFound => "not_found",
            Self::Refused(_) => "refused",
            Self::Failed(_) => "failed",
        }
    }
}

/// What the operator set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The time between two polls.
    pub period: Duration,
    /// See [`Rules::ignore_versions_before`].
    pub ignore_versions_before: Option<Timestamp>,
    /// See [`Rules::ignore_missing`].
    pub ignore_missing: bool,
    /// How many reloads that nothing but the clock speaks for may start at once.
    pub found_burst: u32,
    /// How many more of them each minute.
    pub found_per_minute: u32,
    /// The Vault namespace of workloads that name none.
    pub vault_namespace: Option<Arc<str>>,
}

/// The clocks of the two servers, for comparing times of the one with times of the other.
#[derive(Clone, Debug, Default)]
pub struct Clocks {
    /// The Vault server's.
    pub vault: Arc<ServerClock>,
    /// The API server's.
    pub cluster: Arc<ServerClock>,
}

/// The loop.
pub struct Reloader<V, C> {
    store: Arc<Store>,
    vault: V,
    cluster: C,
    clocks: Clocks,
    settings: Settings,
    history: History,
    /// What is remembered of each workload, by uid.
    memories: HashMap<Box<str>, Memory>,
    budget: Budget,
    /// How many polls in a row left something to be done soon.
    unfinished: u32,
}

/// What is remembered of a workload while this process runs.
#[derive(Default)]
struct Memory {
    past: Past,
    failures: u32,
    /// The revision that the template had.
    revision: Option<(u64, Revision)>,
    /// What was said of it.
    said: Said,
}

/// What was said of a workload, so that it is said once a change.
#[derive(Default, PartialEq, Eq)]
struct Said {
    hold: Option<Hold>,
    reverted: Vec<Arc<SecretId>>,
    error: Option<WriteError>,
}

/// What a tick is about.
enum Scope {
    All,
    /// What the tick before could not finish.
    Unfinished {
        workloads: HashSet<WorkloadId>,
        secrets: HashSet<Arc<SecretId>>,
    },
}

/// What a tick left to be done before the next poll of everything.
#[derive(Default)]
struct Unfinished {
    workloads: HashSet<WorkloadId>,
    secrets: HashSet<Arc<SecretId>>,
    retry_in: Option<Duration>,
}

/// A workload that is about to be reloaded.
struct Due {
    stored: Stored,
    past: Past,
    revision: Option<Revision>,
    cause: Cause,
    changed: Vec<Arc<SecretId>>,
}

/// How a reload ended.
enum Outcome {
    /// The PATCH was answered.
    Reloaded(Reload),
    /// Read anew, there was nothing to do any more.
    NotNeeded,
    /// It did not work.
    Failed(WriteError),
}

/// A token bucket for the reloads that nothing but the clock speaks for.
struct Budget {
    burst: u32,
    /// The time in which one more may start.
    refill: Duration,
    tokens: u32,
    /// When the last token came.
    since: Instant,
}

impl<V: Vault, C: Cluster> Reloader<V, C> {
    /// A reloader that has seen nothing yet.
    pub fn new(
        store: Arc<Store>,
        vault: V,
        cluster: C,
        clocks: Clocks,
        settings: Settings,
    ) -> Self {
        let budget = Budget::new(settings.found_burst, settings.found_per_minute);
        Self {
            store,
            vault,
            cluster,
            clocks,
            settings,
            history: History::default(),
            memories: HashMap::new(),
            budget,
            unfinished: 0,
        }
    }

    /// Polls until `shutdown`; `synced` tells when the store may have become complete.
    pub async fn run(mut self, synced: Arc<Notify>, shutdown: CancellationToken) {
        while !self.store.is_synced() {
            tokio::select! {
                () = synced.notified() => {}
                () = shutdown.cancelled() => return,
            }
        }
        let mut next_poll = Instant::now();
        let mut scope = Scope::All;
        while !shutdown.is_cancelled() {
            if let Scope::All = scope {
                next_poll = Instant::now() + self.settings.period;
            }
            let grace = async {
                shutdown.cancelled().await;
                sleep(GRACE).await;
            };
            let left = tokio::select! {
                left = self.tick(scope, &shutdown) => left,
                () = grace => break,
            };
            let retry = left.retry_in.map(|delay| Instant::now() + delay);
            let (time, next) = match retry.filter(|time| *time < next_poll) {
                Some(time) => {
                    let Unfinished { workloads, secrets, .. } = left;
                    (time, Scope::Unfinished { workloads, secrets })
                }
                None => (next_poll, Scope::All),
            };
            scope = next;
            tokio::select! {
                () = sleep_until(time) => {}
                () = shutdown.cancelled() => {}
            }
        }
        self.vault.close().await;
    }

    /// One poll, and what follows from it.
    async fn tick(&mut self, scope: Scope, shutdown: &CancellationToken) -> Unfinished {
        debug!(worker = WORKER, "Reloader started");
        let snapshot = self.store.begin_poll();
        let is_full = matches!(scope, Scope::All);
        if is_full {
            self.forget(&snapshot);
        }
        let workloads: Vec<_> = snapshot
            .workloads
            .into_iter()
            .filter(|stored| scope.contains(&stored.workload))
            .collect();
        let asks = self.asks(&workloads);
        let polled = tokio::select! {
            polled = self.vault.poll(&asks) => polled,
            () = shutdown.cancelled() => return Unfinished::default(),
        };
        let sightings: HashMap<_, _> = polled
            .observations
            .iter()
            .map(|(secret, observation)| {
                let sighting = self.history.observe(snapshot.poll, secret, *observation);
                (Arc::clone(secret), sighting)
            })
            .collect();
        let mut left = Unfinished {
            workloads: HashSet::new(),
            secrets: polled.failed.into_iter().collect(),
            retry_in: polled.retry_in,
        };
        let rules = self.rules();
        let due = self.decide(&workloads, &sightings, &rules, &mut left).await;
        if due.is_empty() && is_full {
            info!(worker = WORKER, "No workloads to reload");
        }
        self.reload(due, &sightings, &rules, &mut left, shutdown).await;
        self.pace(&mut left);
        left
    }

    fn rules(&self) -> Rules {
        Rules {
            ignore_versions_before: self.settings.ignore_versions_before,
            ignore_missing: self.settings.ignore_missing,
            skew: skew(&self.clocks.vault, &self.clocks.cluster),
        }
    }

    /// Each distinct secret of some workloads, with what is known of it.
    fn asks(&self, workloads: &[Stored]) -> Vec<Ask> {
        let mut asks: HashMap<&Arc<SecretId>, Ask> = HashMap::new();
        for Stored { workload, .. } in workloads {
            for secret in &workload.secrets {
                let ask = asks.entry(secret).or_insert_with(|| {
                    let known = self.history.last_seen(secret);
                    let not_before = known.map(|version| version.created);
                    Ask { secret: Arc::clone(secret), known, not_before, may_be_missing: true }
                });
                ask.may_be_missing &= workload.ignore_missing;
                let recorded = workload.recorded.as_ref();
                let entry = recorded.and_then(|r| r.versions.get(secret.hash64()));
                ask.not_before = ask.not_before.max(entry.map(|version| version.created));
            }
        }
        asks.into_values().collect()
    }

    /// Forgets what is no more.
    fn forget(&mut self, snapshot: &Snapshot) {
        let uids: HashSet<&str> = snapshot.workloads.iter().map(|s| &*s.workload.uid).collect();
        self.memories.retain(|uid, _| uids.contains(&**uid));
        let store = &self.store;
        self.history.retain(|secret| store.refers_to(secret));
        self.vault.forget(|secret| store.refers_to(secret));
    }

    /// Decides about each workload, asking for revisions where an answer hangs on them.
    async fn decide(
        &mut self,
        workloads: &[Stored],
        sightings: &HashMap<Arc<SecretId>, Sighting>,
        rules: &Rules,
        left: &mut Unfinished,
    ) -> Vec<Due> {
        let now = Timestamp::now();
        self.budget.refill();
        let mut due = Vec::new();
        let mut asking = Vec::new();
        for stored in workloads {
            let decision = self.decide_one(stored, sightings, rules, Asked::No, now);
            match decision.action {
                Action::AskRevision => asking.push(stored),
                _ => due.extend(self.conclude(stored, decision, now, left).await),
            }
        }
        if asking.is_empty() {
            return due;
        }
        let wanted: Vec<_> = asking.iter().map(|stored| Arc::clone(&stored.workload)).collect();
        debug!(worker = WORKER, "Asking for the revisions of {} workloads", wanted.len());
        let mut found = self.cluster.revisions(&wanted).await;
        for stored in asking {
            let workload = &stored.workload;
            if let Some(revision) = found.remove(&workload.uid) {
                let memory = self.memories.entry(workload.uid.clone()).or_default();
                memory.revision = Some((workload.template, revision));
            }
            let decision = self.decide_one(stored, sightings, rules, Asked::Yes, now);
            due.extend(self.conclude(stored, decision, now, left).await);
        }
        due
    }

    fn decide_one(
        &self,
        stored: &Stored,
        sightings: &HashMap<Arc<SecretId>, Sighting>,
        rules: &Rules,
        asked: Asked,
        now: Timestamp,
    ) -> Decision {
        let nothing = Past::default();
        let memory = self.memories.get(&stored.workload.uid);
        let revision = memory
            .and_then(|memory| memory.revision.as_ref())
            .filter(|(template, _)| *template == stored.workload.template)
            .map(|(_, revision)| revision);
        let case = Case {
            workload: &stored.workload,
            entered: stored.entered,
            revision: asked.lookup(revision),
            past: memory.map_or(&nothing, |memory| &memory.past),
        };
        plan::decide(&case, seen(sightings), rules, self.budget.tokens, now)
    }

    /// Says what there is to say of a decision, and notes what is to be done.
    async fn conclude(
        &mut self,
        stored: &Stored,
        decision: Decision,
        now: Timestamp,
        left: &mut Unfinished,
    ) -> Option<Due> {
        let Decision { action, gone, reverted, changed, waiting } = decision;
        let workload = &stored.workload;
        let id = &workload.id;
        if waiting {
            debug!(worker = WORKER, "{id} waits for its controller to make a revision");
            left.workloads.insert(id.clone());
        }
        let idle = matches!(action, Action::Leave) && reverted.is_empty();
        if idle && !self.memories.contains_key(&workload.uid) {
            return None;
        }
        let memory = self.memories.entry(workload.uid.clone()).or_default();
        let hold = match &action {
            Action::Hold(hold) => Some(*hold),
            Action::Leave | Action::Roll(_) | Action::AskRevision => None,
        };
        if !reverted.is_empty() && memory.said.reverted != reverted {
            warn!(
                worker = WORKER,
                "The reload of {id} was taken back: an older revision was restored, and its pods may \
                 run with an earlier version of {}. This is left as it is; to have the new version, \
                 roll it out again (kubectl rollout restart)",
                list(&reverted)
            );
        }
        memory.said.reverted = reverted;
        let is_new = hold != memory.said.hold;
        memory.said.hold = hold;
        match hold {
            Some(Hold::SecretGone) if is_new => warn!(
                worker = WORKER,
                "Not reloading {id}, though {} changed: {} is gone, and new pods would fail. It is \
                 reloaded once that is back, or is no longer referred to",
                list(&changed),
                list(&gone)
            ),
            Some(Hold::Stripped) if memory.past.answered => {
                let hold = memory.past.stripped(now);
                let hours = hold.as_hours();
                let writer = self.cluster.last_writer(id).await;
                let by = writer.map(|name| format!(" by {name}")).unwrap_or_default();
                warn!(
                    worker = WORKER,
                    "Not reloading {id} for {}: it was reloaded for this version already, and what \
                     was written was removed{by}. Next attempt in {hours} h; let its owner keep the \
                     annotations of this controller",
                    list(&changed)
                );
            }
            Some(Hold::BackOff | Hold::Budget) => {
                left.workloads.insert(id.clone());
            }
            Some(Hold::SecretGone | Hold::Stripped) | None => {}
        }
        let Action::Roll(cause) = action else { return None };
        if cause == Cause::Found {
            self.budget.take();
        }
        let revision =
            memory.revision.as_ref().filter(|(template, _)| *template == workload.template);
        Some(Due {
            stored: stored.clone(),
            past: memory.past.clone(),
            revision: revision.map(|(_, revision)| revision.clone()),
            cause,
            changed,
        })
    }

    /// Reloads workloads, a few at a time, and takes in how that ended.
    async fn reload(
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
        info!(
            worker = WORKER,
            secrets = list(changed),
            cause = cause.name(),
            "Reloading workload: {id}"
        );
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
            if stored.workload.template != workload.template {
                revision = None;
            }
            let now = Timestamp::now();
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
                debug!(worker = WORKER, "Reloaded {id}, count {}", reload.count);
                memory.past.patched(reload.record.versions);
                memory.failures = 0;
                memory.revision = None;
                memory.said.error = None;
            }
            Outcome::NotNeeded => {
                debug!(worker = WORKER, "{id} needs no reload any more");
                left.workloads.insert(id.clone());
            }
            Outcome::Failed(error) => {
                let delay = backoff(memory.failures);
                memory.failures = memory.failures.saturating_add(1);
                memory.past.not_before = Timestamp::now().checked_add(delay).ok();
                left.workloads.insert(id.clone());
                if memory.said.error.as_ref() == Some(&error) {
                    debug!(worker = WORKER, "failed reloading workload: {id}: {error}");
                } else {
                    error!(worker = WORKER, "failed reloading workload: {id}: {error}. Retrying");
                    memory.said.error = Some(error);
                }
            }
        }
    }

    /// Sets when to come back for what is left.
    fn pace(&mut self, left: &mut Unfinished) {
        if left.workloads.is_empty() {
            self.unfinished = 0;
        } else {
            let delay = backoff(self.unfinished);
            self.unfinished = self.unfinished.saturating_add(1);
            left.retry_in = Some(left.retry_in.map_or(delay, |retry| retry.min(delay)));
        }
    }
}

impl Scope {
    fn contains(&self, workload: &Workload) -> bool {
        match self {
            Self::All => true,
            Self::Unfinished { workloads, secrets } => {
                workloads.contains(&workload.id)
                    || workload.secrets.iter().any(|secret| secrets.contains(secret))
            }
        }
    }
}

/// Whether the revision was asked for.
#[derive(Clone, Copy)]
enum Asked {
    No,
    Yes,
}

impl Asked {
    fn lookup(self, revision: Option<&Revision>) -> Lookup<'_> {
        match (self, revision) {
            (_, Some(revision)) => Lookup::Found(revision),
            (Self::No, None) => Lookup::NotAsked,
            (Self::Yes, None) => Lookup::Unavailable,
        }
    }
}

impl Budget {
    fn new(burst: u32, per_minute: u32) -> Self {
        // A budget that is never refilled would hold a change for ever.
        let (burst, per_minute) = (burst.max(1), per_minute.max(1));
        Self {
            burst,
            refill: Duration::from_mins(1) / per_minute,
            tokens: burst,
            since: Instant::now(),
        }
    }

    /// Adds what has become due since the last time.
    fn refill(&mut self) {
        while self.tokens < self.burst && self.since.elapsed() >= self.refill {
            self.tokens += 1;
            self.since += self.refill;
        }
        if self.tokens == self.burst {
            self.since = Instant::now();
        }
    }

    fn take(&mut self) {
        self.tokens = self.tokens.saturating_sub(1);
    }
}

/// What was seen of a secret in this poll.
fn seen(sightings: &HashMap<Arc<SecretId>, Sighting>) -> impl Fn(&Arc<SecretId>) -> Sighting + '_ {
    |secret| sightings.get(secret).copied().unwrap_or(Sighting::UNKNOWN)
}

/// A mark that was never used before.
fn new_mark() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The delay after so many failures.
fn backoff(failures: u32) -> Duration {
    let (first, last) = RETRY;
    first.saturating_mul(1 << failures.min(9)).min(last)
}

/// Secrets for a log line.
fn list(secrets: &[Arc<SecretId>]) -> String {
    let names: Vec<_> = secrets.iter().map(ToString::to_string).collect();
    names.join(", ")
}
