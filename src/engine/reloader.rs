//! The reloader: polls, decides, and reloads what changed.
//!
//! It knows the collector only through the index, and Vault and the cluster only through the two
//! traits here. What to do is decided in [`crate::decide::plan`]; this is the loop around it.
//!
//! Architecture Invariant: a record moves only with a PATCH that was answered. Whatever fails, here
//! or in between, leaves the old record, and the next poll finds the change again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::decide::observation::{Observation, ObservedVersion, ReadRequest};
use crate::heartbeat::Heartbeat;
use crate::index::Index;
use crate::index::entries::{IndexedWorkload, Snapshot};
use crate::index::findings::{Finding, FindingSource};
use crate::model::poll::PollNumber;
use crate::model::secret::SecretId;
use crate::references::place::{Note, Origin};
use crate::references::reason::Reason;

use super::api_server_outage::ApiServerOutage;
use super::backoff::backoff;
use super::poll_scope::{PollScope, Remaining};
use super::ports::{Cluster, Vault};
use super::secret_track::SecretTracks;
use super::settings::{Clocks, Settings};
use super::workload_track::WorkloadTracks;
use super::workloads::Workloads;
use crate::election::leadership::Leadership;
use crate::events::event::Event;
use crate::events::sink::Events;
use crate::rollouts::budget::Budget;

/// How long PATCHes in flight may take once the process is to end.
const GRACE: Duration = Duration::from_secs(1);

/// For how long the PATCHes of a tick may begin: for the period, but not for less than this. Where
/// many take their time to fail, Vault is asked again before all had their turn.
const SHORTEST_TURN: Duration = Duration::from_secs(30);

/// The longest time between two attempts on workloads of which all wait for the budget.
const BUDGET_PAUSE: Duration = Duration::from_secs(10);

/// How often the reloader comes back for workloads that were there before the process and are not known
/// yet, with a delay that doubles: for half an hour. After that, polls of everything find them.
const MOST_INCOMPLETE: u32 = 12;

/// How many secrets are told of to the owner of one workload. The log has all of them.
const MOST_NOTICES: usize = 10;

/// The loop.
pub struct Reloader<V, C> {
    vault: V,
    workloads: Workloads<C>,
    /// When this reloader was made.
    began: Instant,
    secrets: SecretTracks,
    /// How many polls in a row left something to be done soon.
    unfinished: u32,
    /// The namespaces that were said to be over their quota.
    over_quota: BTreeSet<Arc<str>>,
    /// How many workloads waited for the budget after the last poll.
    over_budget: usize,
    /// Whether it is yet to be said of this period that nothing was to be reloaded.
    owes_idle_line: bool,
    /// How many polls the index was incomplete in.
    incomplete: u32,
}

impl<V: Vault, C: Cluster> Reloader<V, C> {
    /// A reloader that has seen nothing yet. All reloaders of a process share one budget.
    pub fn new(
        index: Arc<Index>,
        vault: V,
        cluster: C,
        events: Events,
        clocks: Clocks,
        settings: Settings,
        budget: Budget,
    ) -> Self {
        Self {
            vault,
            workloads: Workloads {
                index,
                cluster,
                events,
                clocks,
                settings,
                leadership: Leadership::always(),
                heartbeat: Heartbeat::default(),
                tracks: WorkloadTracks::default(),
                budget,
                outage: ApiServerOutage::default(),
            },
            began: Instant::now(),
            secrets: SecretTracks::default(),
            unfinished: 0,
            over_quota: BTreeSet::new(),
            over_budget: 0,
            owes_idle_line: false,
            incomplete: 0,
        }
    }

    /// The same, which says by `heartbeat` that it moves.
    #[must_use]
    pub fn with_heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.workloads.heartbeat = heartbeat;
        self
    }

    /// Polls until `shutdown`, whenever this process leads, from when the index is complete, which
    /// `synced` tells.
    pub async fn run(
        mut self,
        synced: CancellationToken,
        leadership: Leadership,
        shutdown: CancellationToken,
    ) {
        tokio::select! {
            () = synced.cancelled() => {}
            () = shutdown.cancelled() => return,
        }
        leadership.stand();
        self.workloads.leadership = leadership.clone();
        let first_poll =
            Instant::now() + self.workloads.settings.shared.start_within.mul_f64(fastrand::f64());
        while !shutdown.is_cancelled() {
            self.workloads.heartbeat.waits_for_others();
            tokio::select! {
                () = leadership.gained() => {}
                () = shutdown.cancelled() => return,
            }
            let term = shutdown.child_token();
            let lost = async {
                leadership.lost().await;
                term.cancel();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = self.poll_until(first_poll, &term) => {}
                () = lost => {}
            }
            self.workloads.heartbeat.works();
            // Whoever does not lead keeps no token, and logs in again when it is needed.
            self.vault.close().await;
        }
    }

    /// Polls from `first_poll` until `shutdown`, of the process or of this term of leading.
    async fn poll_until(&mut self, first_poll: Instant, shutdown: &CancellationToken) {
        self.workloads.heartbeat.waits_until(first_poll);
        tokio::select! {
            () = sleep_until(first_poll) => {}
            () = shutdown.cancelled() => return,
        }
        tokio::select! {
            () = self.vault.read_clock() => {}
            () = shutdown.cancelled() => return,
        }
        self.secrets.resume();
        let mut next_poll = Instant::now();
        let mut scope = PollScope::All;
        while !shutdown.is_cancelled() {
            if let PollScope::All = scope {
                next_poll = Instant::now() + self.workloads.settings.shared.period;
            }
            let grace = async {
                shutdown.cancelled().await;
                sleep(GRACE).await;
            };
            let left = tokio::select! {
                left = self.tick(scope, shutdown) => left,
                () = grace => break,
            };
            let retry = left.retry_in.map(|delay| Instant::now() + delay);
            let mut time = next_poll;
            scope = PollScope::All;
            if let Some(retry) = retry.filter(|retry| *retry < next_poll) {
                let Remaining { workloads, secrets, .. } = left;
                time = retry;
                scope = PollScope::Remaining { workloads, secrets };
            } else {
                self.vault.rest().await;
            }
            self.workloads.heartbeat.waits_until(time);
            tokio::select! {
                () = sleep_until(time) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// One poll, and what follows from it.
    async fn tick(&mut self, mut scope: PollScope, shutdown: &CancellationToken) -> Remaining {
        self.workloads.events.emit(&Event::PollStarted);
        let snapshot = self.workloads.index.begin_poll(&self.workloads.settings.server);
        self.secrets.begin(snapshot.poll, self.began.elapsed());
        if let PollScope::Remaining { workloads, .. } = &mut scope {
            workloads.extend(snapshot.late.iter().cloned());
        }
        let is_full = matches!(scope, PollScope::All);
        if is_full {
            self.forget(&snapshot);
            self.secrets.next_round();
            self.workloads.tracks.next_round();
        }
        let over_quota = snapshot.over_quota;
        self.report_quota(&over_quota);
        let mut workloads: Vec<_> = snapshot
            .workloads
            .into_iter()
            .filter(|stored| scope.contains(&stored.workload))
            .collect();
        let mut asks = self.asks(&workloads);
        self.secrets.narrow(&mut asks, &scope, &workloads);
        let mut left = Remaining::default();
        let asked = Instant::now();
        tokio::select! {
            () = self.ask(snapshot.poll, &asks, &mut left) => {}
            () = shutdown.cancelled() => return Remaining::default(),
        }
        self.workloads.events.emit(&Event::PollEnded {
            server: &self.workloads.settings.server,
            is_answered: left.has_answer,
            took: asked.elapsed(),
        });
        self.tell_owners(&workloads, &over_quota, is_full);
        self.retain_complete(&mut workloads);
        let again = tokio::select! {
            again = self.unconfirmed(&workloads) => again,
            () = shutdown.cancelled() => return Remaining::default(),
        };
        if !again.is_empty() {
            tokio::select! {
                () = self.ask(snapshot.poll, &again, &mut left) => {}
                () = shutdown.cancelled() => return Remaining::default(),
            }
            self.retain_complete(&mut workloads);
        }
        let observed_versions = self.secrets.observed_versions(&workloads);
        let is_idle = self.act(&workloads, &observed_versions, &mut left, shutdown).await;
        self.report_budget(left.over_budget);
        self.report_idle(is_full, is_idle, left.has_answer);
        self.pace(&mut left);
        if snapshot.is_incomplete && self.incomplete < MOST_INCOMPLETE {
            let delay = backoff(self.incomplete);
            self.incomplete += 1;
            left.retry_in = Some(left.retry_in.map_or(delay, |retry| retry.min(delay)));
        }
        left
    }

    /// Asks for secrets, and takes in what there is to know of them.
    async fn ask(&mut self, poll: PollNumber, asks: &[ReadRequest], left: &mut Remaining) {
        self.workloads.heartbeat.works();
        let polled = self.vault.poll(asks).await;
        let is_known = |observation: &Observation| *observation != Observation::Unknown;
        left.has_answer |= asks.is_empty() || polled.observations.values().any(is_known);
        left.secrets.extend(polled.failed);
        left.retry_in = left.retry_in.into_iter().chain(polled.retry_in).min();
        for ask in asks {
            let secret = &ask.secret;
            if polled.late.contains(secret) {
                self.secrets.is_late(secret);
                continue;
            }
            let Some(observation) = polled.observations.get(secret) else {
                self.secrets.forget(secret);
                continue;
            };
            if self.secrets.take_in(poll, ask, *observation) {
                debug!(worker = "reloader", "{secret}: the answer is older than what is known");
                left.secrets.insert(Arc::clone(secret));
                left.suspects = true;
            }
        }
    }

    /// Leaves out the workloads that wait for a secret which there was no time to ask for.
    fn retain_complete(&mut self, workloads: &mut Vec<IndexedWorkload>) {
        let (tracks, secrets) = (&mut self.workloads.tracks, &self.secrets);
        workloads.retain(|stored| tracks.is_complete(stored, secrets.has_late(stored)));
    }

    /// What is to be asked for again: what was seen long ago of the secrets of workloads that may be due.
    async fn unconfirmed(&mut self, workloads: &[IndexedWorkload]) -> Vec<ReadRequest> {
        let is_old =
            |stored: &&IndexedWorkload| self.secrets.seen_long_ago(stored).next().is_some();
        let old: Vec<IndexedWorkload> = workloads.iter().filter(is_old).cloned().collect();
        let observed_versions = self.secrets.observed_versions(&old);
        let due = self.workloads.may_be_due(&mut self.vault, old, &observed_versions).await;
        let again: HashSet<_> =
            due.iter().flat_map(|stored| self.secrets.seen_long_ago(stored)).collect();
        let mut asks = self.asks(&due);
        asks.retain(|ask| again.contains(&ask.secret));
        asks
    }

    /// Decides about workloads, and reloads those that are due. Answers whether none was due.
    async fn act(
        &mut self,
        workloads: &[IndexedWorkload],
        observed_versions: &HashMap<Arc<SecretId>, ObservedVersion>,
        left: &mut Remaining,
        shutdown: &CancellationToken,
    ) -> bool {
        let end = Instant::now() + self.workloads.settings.shared.period.max(SHORTEST_TURN);
        let (due, asking) = self.workloads.decide(workloads, observed_versions, left);
        let mut is_idle = due.is_empty();
        self.workloads.reload(due, observed_versions, left, end, shutdown).await;
        if !asking.is_empty() {
            let due = self
                .workloads
                .decide_by_revision(&mut self.vault, asking, observed_versions, left)
                .await;
            is_idle &= due.is_empty();
            self.workloads.reload(due, observed_versions, left, end, shutdown).await;
        }
        self.workloads.report_stripped(std::mem::take(&mut left.stripped)).await;
        is_idle
    }

    /// Says what the answers of Vault mean for the workloads that use those secrets, and which workloads are
    /// over the quota of their namespace; of all that are not among them, that this means nothing any more,
    /// if these are all.
    fn tell_owners(
        &self,
        workloads: &[IndexedWorkload],
        over_quota: &[IndexedWorkload],
        are_all: bool,
    ) {
        let of_secrets = self.vault.notices();
        let notices = self.workloads.index.findings();
        if of_secrets.is_empty() && over_quota.is_empty() && !notices.has_of_vault() {
            return;
        }
        let reason = Reason::TooManySecretsInNamespace;
        let over = Finding::of_notes(&[Note { origin: Origin::Workload, reason }]);
        for IndexedWorkload { workload, .. } in over_quota {
            notices.set(&workload.id, &workload.uid, FindingSource::Vault, over.clone());
        }
        for IndexedWorkload { workload, .. } in workloads {
            let found =
                workload.secrets.iter().filter_map(|secret| of_secrets.get(secret).cloned());
            let found = found.take(MOST_NOTICES).collect();
            notices.set(&workload.id, &workload.uid, FindingSource::Vault, found);
        }
        if are_all {
            let present = workloads.iter().chain(over_quota).map(|stored| &stored.workload.id);
            let present: HashSet<_> = present.collect();
            let server = &*self.workloads.settings.server;
            notices.retain_of_vault(|id| {
                present.contains(id) || self.workloads.index.is_of_another(id, server)
            });
        }
    }

    /// Each distinct secret of some workloads, in order, with what is known of it.
    fn asks(&self, workloads: &[IndexedWorkload]) -> Vec<ReadRequest> {
        let mut asks: BTreeMap<&Arc<SecretId>, ReadRequest> = BTreeMap::new();
        for IndexedWorkload { workload, .. } in workloads {
            for secret in workload.watched() {
                asks.entry(secret).or_insert_with(|| {
                    let last = self.secrets.last_seen(secret);
                    let not_before = last.map(|version| version.created);
                    ReadRequest { secret: Arc::clone(secret), not_before, may_be_missing: true }
                });
            }
            // New pods do not need the former ones.
            for secret in workload.secrets.iter().filter(|_| !workload.ignore_missing) {
                asks.entry(secret).and_modify(|ask| ask.may_be_missing = false);
            }
        }
        asks.into_values().collect()
    }

    /// Forgets what is no more.
    fn forget(&mut self, snapshot: &Snapshot) {
        let uids: HashSet<&str> = snapshot.workloads.iter().map(|s| &*s.workload.uid).collect();
        self.workloads.tracks.retain(|uid| uids.contains(uid));
        let index = &self.workloads.index;
        self.secrets.retain(|secret| index.refers_to(secret));
        self.vault.forget(|secret| index.refers_to(secret));
    }

    /// Says once a period that nothing was to be reloaded, where Vault has answered. In an outage, the
    /// first answer after it says so.
    fn report_idle(&mut self, is_full: bool, is_idle: bool, has_answer: bool) {
        self.owes_idle_line = is_idle && (is_full || self.owes_idle_line);
        if self.owes_idle_line && has_answer {
            self.owes_idle_line = false;
            self.workloads.events.emit(&Event::NothingToReload);
        }
    }

    /// Says which namespaces are over their quota, and which are not any more.
    fn report_quota(&mut self, over_quota: &[IndexedWorkload]) {
        if over_quota.is_empty() && self.over_quota.is_empty() {
            return;
        }
        let events = &self.workloads.events;
        let mut present: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for IndexedWorkload { workload, .. } in over_quota {
            *present.entry(Arc::clone(&workload.id.namespace)).or_default() += 1;
        }
        for (namespace, &workloads) in &present {
            if !self.over_quota.contains(namespace) {
                let quota = self.workloads.index.quota().0;
                events.emit(&Event::NamespaceOverQuota { namespace, workloads, quota });
            }
        }
        for namespace in self.over_quota.iter().filter(|name| !present.contains_key(*name)) {
            events.emit(&Event::NamespaceWithinQuota { namespace });
        }
        self.over_quota = present.into_keys().collect();
    }

    /// Says when workloads begin to wait for the budget, and when none does any more.
    fn report_budget(&mut self, over_budget: usize) {
        let per_minute = self.workloads.budget.per_minute();
        let events = &self.workloads.events;
        match (self.over_budget, over_budget) {
            (0, workloads @ 1..) => events.emit(&Event::BudgetSpent { workloads, per_minute }),
            (1.., 0) => events.emit(&Event::BudgetFree),
            _ => {}
        }
        self.over_budget = over_budget;
    }

    /// Sets when to come back for what is left.
    fn pace(&mut self, left: &mut Remaining) {
        if left.workloads.is_empty() && !left.suspects {
            self.unfinished = 0;
        } else {
            if left.is_moving {
                self.unfinished = 0;
            }
            let mut delay = backoff(self.unfinished);
            if left.workloads.len() == left.over_budget && !left.suspects {
                // Their secrets are asked for each time.
                delay = delay.max(self.workloads.budget.pause().min(BUDGET_PAUSE));
            }
            self.unfinished = self.unfinished.saturating_add(1);
            left.retry_in = Some(left.retry_in.map_or(delay, |retry| retry.min(delay)));
        }
    }
}

#[cfg(test)]
mod tests;
