//! The reloader: polls Vault, decides, and reloads the workloads whose secrets changed.
//!
//! The reloader reaches the collector only through the index, and Vault and the cluster only
//! through the two traits of [`super::ports`]. [`crate::decide::plan`] decides what to do. This
//! file is the loop around the plan.
//!
//! Architecture Invariant: a record moves only with a PATCH that was answered. After any failure
//! the old record remains, and the next poll finds the change again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::decide::hold::Hold;
use crate::decide::observation::{Observation, ObservedVersion, ReadRequest};
use crate::decide::plan::Cause;
use crate::heartbeat::Heartbeat;
use crate::index::Index;
use crate::index::entries::{IndexedWorkload, Snapshot};
use crate::model::poll::PollNumber;
use crate::model::secret::SecretId;

use super::agenda::Agenda;
use super::api_server_outage::ApiServerOutage;
use super::backoff::backoff;
use super::deciding::Due;
use super::injector_hold::InjectorHold;
use super::openings::Openings;
use super::poll_scope::{PollScope, Remaining};
use super::ports::{Cluster, Vault};
use super::reports::{ReportedWorkloads, Reports, set_findings};
use super::secret_track::SecretTracks;
use super::settings::{Clocks, Settings};
use super::wake::WakeReceiver;
use super::workload_track::WorkloadTracks;
use super::workloads::Workloads;
use crate::election::leadership::Leadership;
use crate::events::event::Event;
use crate::events::log::RELOADER;
use crate::events::sink::Events;
use crate::rollouts::budget::Budget;
use crate::rollouts::calendar::Calendar;
use crate::rollouts::injector::Injector;

/// How long PATCHes in flight may take after the process is told to end.
const GRACE: Duration = Duration::from_secs(1);

/// The PATCHes of a tick may begin within the poll period, but at least within this time. If many
/// PATCHes fail slowly, Vault is polled again before every workload had its turn.
const SHORTEST_TURN: Duration = Duration::from_secs(30);

/// A reload that waited begins only if its secrets were observed within this time. Each step of a wave
/// costs Vault a read of the secret.
const LATELY: Duration = Duration::from_secs(10);

/// Rollouts that end within this time wake the engine once.
const GATHERING: Duration = Duration::from_millis(500);

/// The longest pause between two attempts if all remaining workloads wait for the budget.
const BUDGET_PAUSE: Duration = Duration::from_secs(10);

/// How often the reloader polls early for workloads that are older than the process and not in the
/// index yet. The delay doubles, for 23 minutes in total. After that, full polls find these
/// workloads.
const MOST_INCOMPLETE: u32 = 12;

/// The loop of one Vault server.
pub struct Reloader<V, C> {
    vault: V,
    workloads: Workloads<C>,
    /// When this reloader was created.
    began: Instant,
    secrets: SecretTracks,
    /// The number of polls in a row after which work remained to be done soon.
    unfinished: u32,
    reports: Reports,
    wake: WakeReceiver,
    /// The number of polls in a row with an incomplete index, up to [`MOST_INCOMPLETE`].
    incomplete: u32,
}

impl<V: Vault, C: Cluster> Reloader<V, C> {
    /// Creates a reloader that has seen nothing yet. All reloaders of a process share one budget.
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
                calendar: Calendar::default(),
                openings: Openings::default(),
                injector: InjectorHold::default(),
                outage: ApiServerOutage::default(),
                poll: 0,
            },
            began: Instant::now(),
            secrets: SecretTracks::default(),
            unfinished: 0,
            reports: Reports::default(),
            wake: WakeReceiver::default(),
            incomplete: 0,
        }
    }

    /// Returns the reloader with a heartbeat that shows its progress.
    #[must_use]
    pub fn with_heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.workloads.heartbeat = heartbeat;
        self
    }

    /// Returns the reloader with the receiver that wakes it when rollouts end.
    #[must_use]
    pub fn with_wake(mut self, wake: WakeReceiver) -> Self {
        self.wake = wake;
        self
    }

    /// Returns the reloader with a check of the injector. `changes` shows when the state of the
    /// injector changed.
    #[must_use]
    pub fn with_injector(mut self, injector: Arc<Injector>, changes: watch::Receiver<()>) -> Self {
        self.workloads.injector = InjectorHold::new(injector, changes);
        self
    }

    /// Polls until `shutdown`, whenever this process leads. Polling begins when the index is
    /// complete, which cancels `synced`.
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
        tokio::select! {
            () = self.workloads.injector.settled() => {}
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
            // A replica that does not lead keeps no token. It logs in again when it needs a token.
            self.vault.close().await;
        }
    }

    /// Polls from `first_poll` until `shutdown`, which ends the process or this term as leader.
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
        let server = &*self.workloads.settings.server;
        self.workloads.events.emit(&Event::PollingBegan { server });
        let mut agenda = Agenda::new();
        while !shutdown.is_cancelled() {
            let scope = agenda.next_scope(self.workloads.settings.shared.period);
            let grace = async {
                shutdown.cancelled().await;
                sleep(GRACE).await;
            };
            let remaining = tokio::select! {
                remaining = self.tick(scope, shutdown) => remaining,
                () = grace => break,
            };
            agenda.take_in(remaining);
            let opening = self.workloads.openings.first();
            if !agenda.has_retry() && opening.is_none() {
                self.vault.rest().await;
            }
            let time = opening.map_or(agenda.next(), |opening| opening.min(agenda.next()));
            self.workloads.heartbeat.waits_until(time);
            let woken = async {
                if agenda.is_waiting() {
                    self.wake.wait().await;
                    sleep(GATHERING).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = sleep_until(time) => {}
                () = woken => {}
                workloads = self.workloads.injector.is_back() => agenda.add_now(workloads),
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// Takes a snapshot of the index, and adds to the scope what became due meanwhile. A full poll
    /// forgets what is gone.
    fn begin(&mut self, scope: &mut PollScope) -> Snapshot {
        let snapshot = self.workloads.index.begin_poll(&self.workloads.settings.server);
        self.secrets.begin(snapshot.poll, self.began.elapsed());
        self.workloads.poll = snapshot.poll;
        match scope {
            PollScope::Remaining { workloads, .. } => {
                workloads.extend(snapshot.late.iter().cloned());
                workloads.extend(self.workloads.openings.take_due());
            }
            PollScope::All => {
                self.workloads.openings.clear();
                self.forget(&snapshot);
                self.secrets.next_round();
                self.workloads.tracks.next_round();
            }
        }
        let quota = self.workloads.index.quota().0;
        self.reports.quota(&self.workloads.events, quota, &snapshot.over_quota);
        for secret in snapshot.over_quota.iter().flat_map(|stored| stored.workload.watched()) {
            // Nobody reads the secret, unless another workload refers to it.
            let (observation, poll) = (Observation::Unknown, snapshot.poll);
            self.workloads.events.emit(&Event::Observed { secret, observation, poll });
        }
        snapshot
    }

    /// Runs one poll, and decides about and reloads the workloads in scope. Returns the remaining
    /// work.
    async fn tick(&mut self, mut scope: PollScope, shutdown: &CancellationToken) -> Remaining {
        let snapshot = self.begin(&mut scope);
        let is_look = scope.is_look();
        let is_full = matches!(scope, PollScope::All);
        let mut workloads: Vec<_> = snapshot
            .workloads
            .into_iter()
            .filter(|stored| scope.contains(&stored.workload))
            .collect();
        let mut requests = self.asks(&workloads);
        self.secrets.narrow(&mut requests, &scope, &workloads);
        let mut remaining = Remaining::default();
        if !(is_look && requests.is_empty()) {
            tokio::select! {
                () = self.poll(snapshot.poll, &requests, &mut remaining) => {}
                () = shutdown.cancelled() => return Remaining::default(),
            }
        }
        let reported = ReportedWorkloads {
            server: &self.workloads.settings.server,
            workloads: &workloads,
            over_quota: &snapshot.over_quota,
            are_all: is_full,
        };
        set_findings(&self.workloads.index, &self.vault.notices(), &reported);
        self.retain_complete(&mut workloads);
        let again = tokio::select! {
            again = self.requests_to_repeat(&workloads) => again,
            () = shutdown.cancelled() => return Remaining::default(),
        };
        if !again.is_empty() {
            tokio::select! {
                () = self.read_secrets(snapshot.poll, &again, &mut remaining) => {}
                () = shutdown.cancelled() => return Remaining::default(),
            }
            self.retain_complete(&mut workloads);
        }
        let observed_versions = self.secrets.observed_versions(&workloads);
        let is_idle =
            self.decide_and_reload(&workloads, &observed_versions, &mut remaining, shutdown).await;
        if !is_look {
            let per_minute = self.workloads.budget.per_minute();
            self.reports.budget(&self.workloads.events, per_minute, remaining.over_budget);
        }
        // Without an answer of Vault, nothing is known of the reloads that waited before.
        if is_look || remaining.has_answer {
            self.reports.waiting(&self.workloads.events, &remaining.waiting_for);
        }
        let are_moving = |hold: &Hold| matches!(hold, Hold::Wave | Hold::RolloutLimit);
        let is_idle = is_idle && !remaining.waiting_for.keys().any(are_moving);
        self.reports.idle(&self.workloads.events, is_full, is_idle, remaining.has_answer);
        self.set_retry(&mut remaining, is_look);
        if !snapshot.is_incomplete {
            self.incomplete = 0;
        } else if self.incomplete < MOST_INCOMPLETE {
            let delay = backoff(self.incomplete);
            self.incomplete += 1;
            remaining.retry_in = Some(remaining.retry_in.map_or(delay, |retry| retry.min(delay)));
        }
        remaining
    }

    /// Reads secrets from Vault, and reports the poll.
    async fn poll(
        &mut self,
        poll: PollNumber,
        requests: &[ReadRequest],
        remaining: &mut Remaining,
    ) {
        let began = Instant::now();
        let server = &*self.workloads.settings.server;
        self.workloads.events.emit(&Event::PollStarted { server });
        self.read_secrets(poll, requests, remaining).await;
        self.workloads.events.emit(&Event::PollEnded {
            server: &self.workloads.settings.server,
            is_answered: remaining.has_answer,
            took: began.elapsed(),
        });
    }

    /// Reads secrets from Vault, and takes in the observations.
    async fn read_secrets(
        &mut self,
        poll: PollNumber,
        requests: &[ReadRequest],
        remaining: &mut Remaining,
    ) {
        self.workloads.heartbeat.works();
        let polled = self.vault.poll(requests).await;
        let (server, left) = (&*self.workloads.settings.server, polled.token_left);
        self.workloads.events.emit(&Event::TokenUsed { server, left });
        let is_known = |observation: &Observation| *observation != Observation::Unknown;
        remaining.has_answer |= requests.is_empty() || polled.observations.values().any(is_known);
        remaining.secrets.extend(polled.failed);
        remaining.retry_in = remaining.retry_in.into_iter().chain(polled.retry_in).min();
        for request in requests {
            let secret = &request.secret;
            if polled.late.contains(secret) {
                self.secrets.is_late(secret);
                continue;
            }
            match polled.observations.get(secret) {
                None => self.secrets.forget(secret),
                Some(observation)
                    if self.secrets.take_in(
                        poll,
                        request,
                        *observation,
                        polled.policies.get(secret).copied().unwrap_or_default(),
                    ) =>
                {
                    debug!(worker = RELOADER, "{secret}: the answer is older than what is known");
                    remaining.secrets.insert(Arc::clone(secret));
                    remaining.suspects = true;
                }
                Some(_) => {}
            }
            let observation = self.secrets.observation(secret);
            self.workloads.events.emit(&Event::Observed { secret, observation, poll });
        }
    }

    /// Removes the workloads that wait for a secret that the poll had no time to read.
    fn retain_complete(&mut self, workloads: &mut Vec<IndexedWorkload>) {
        let (tracks, secrets) = (&mut self.workloads.tracks, &self.secrets);
        workloads.retain(|stored| tracks.is_complete(stored, secrets.has_late(stored)));
    }

    /// Returns the requests to repeat: those for secrets of workloads that may be due, if the
    /// secret was observed long ago.
    async fn requests_to_repeat(&mut self, workloads: &[IndexedWorkload]) -> Vec<ReadRequest> {
        // The secrets of workloads that wait for room are read again once there is room.
        let is_old = |stored: &&IndexedWorkload| {
            self.secrets.seen_long_ago(stored).next().is_some()
                && !self.workloads.tracks.waits_for_room(&stored.workload.uid)
        };
        let old: Vec<IndexedWorkload> = workloads.iter().filter(is_old).cloned().collect();
        let observed_versions = self.secrets.observed_versions(&old);
        let due = self.workloads.may_be_due(&mut self.vault, old, &observed_versions).await;
        let again: HashSet<_> =
            due.iter().flat_map(|stored| self.secrets.seen_long_ago(stored)).collect();
        let mut requests = self.asks(&due);
        requests.retain(|request| again.contains(&request.secret));
        requests
    }

    /// Decides about workloads, and reloads those that are due. Returns whether no workload was
    /// due.
    async fn decide_and_reload(
        &mut self,
        workloads: &[IndexedWorkload],
        observed_versions: &HashMap<Arc<SecretId>, ObservedVersion>,
        remaining: &mut Remaining,
        shutdown: &CancellationToken,
    ) -> bool {
        let end = Instant::now() + self.workloads.settings.shared.period.max(SHORTEST_TURN);
        let (due, needing_revision) =
            self.workloads.decide(workloads, observed_versions, remaining);
        let due = self.only_fresh(due, remaining);
        let mut is_idle = due.is_empty();
        self.workloads.reload(due, observed_versions, remaining, end, shutdown).await;
        if !needing_revision.is_empty() {
            let due = self
                .workloads
                .decide_by_revision(
                    &mut self.vault,
                    needing_revision,
                    workloads,
                    observed_versions,
                    remaining,
                )
                .await;
            let due = self.only_fresh(due, remaining);
            is_idle &= due.is_empty();
            self.workloads.reload(due, observed_versions, remaining, end, shutdown).await;
        }
        self.workloads.report_stripped(std::mem::take(&mut remaining.stripped)).await;
        is_idle
    }

    /// Keeps the due reloads whose secrets were observed lately. The others have waited for room: the
    /// next tick reads their secrets again.
    fn only_fresh(&self, due: Vec<Due>, remaining: &mut Remaining) -> Vec<Due> {
        let is_old = |due: &Due| {
            due.has_waited && self.secrets.seen_before(&due.stored, LATELY).next().is_some()
        };
        let (old, fresh): (Vec<_>, Vec<_>) = due.into_iter().partition(is_old);
        for Due { stored, cause, .. } in old {
            if cause == Cause::Found {
                self.workloads.budget.give_back();
            }
            remaining.workloads.insert(stored.workload.id.clone());
            remaining.is_moving = true;
        }
        fresh
    }

    /// Returns one request for each distinct secret of the workloads, in order, with what is known
    /// of the secret.
    fn asks(&self, workloads: &[IndexedWorkload]) -> Vec<ReadRequest> {
        let mut requests: BTreeMap<&Arc<SecretId>, ReadRequest> = BTreeMap::new();
        for IndexedWorkload { workload, .. } in workloads {
            for secret in workload.watched() {
                requests.entry(secret).or_insert_with(|| {
                    let last = self.secrets.last_seen(secret);
                    let not_before = last.map(|version| version.created);
                    ReadRequest { secret: Arc::clone(secret), not_before, may_be_missing: true }
                });
            }
            // New pods do not need the former secrets.
            for secret in workload.secrets.iter().filter(|_| !workload.ignore_missing) {
                requests.entry(secret).and_modify(|request| request.may_be_missing = false);
            }
        }
        requests.into_values().collect()
    }

    /// Forgets workloads that are gone, and secrets without a reference.
    fn forget(&mut self, snapshot: &Snapshot) {
        let uids: HashSet<&str> = snapshot.workloads.iter().map(|s| &*s.workload.uid).collect();
        self.workloads.tracks.retain(|uid| uids.contains(uid));
        self.workloads.injector.forget();
        let index = &self.workloads.index;
        self.secrets.retain(|secret| index.refers_to(secret));
        self.vault.forget(|secret| index.refers_to(secret));
    }

    /// Sets when to poll again for the remaining work. A look at the workloads that wait for others
    /// tells nothing about the remaining work of the tick before it.
    fn set_retry(&mut self, remaining: &mut Remaining, is_look: bool) {
        if remaining.workloads.is_empty() && !remaining.suspects {
            if !is_look {
                self.unfinished = 0;
            }
        } else {
            if remaining.is_moving {
                self.unfinished = 0;
            }
            let mut delay = backoff(self.unfinished);
            if remaining.workloads.len() == remaining.over_budget && !remaining.suspects {
                // Each attempt reads the secrets of these workloads again, so it waits for the
                // budget.
                delay = delay.max(self.workloads.budget.pause().min(BUDGET_PAUSE));
            }
            self.unfinished = self.unfinished.saturating_add(1);
            remaining.retry_in = Some(remaining.retry_in.map_or(delay, |retry| retry.min(delay)));
        }
    }
}

#[cfg(test)]
mod tests;
