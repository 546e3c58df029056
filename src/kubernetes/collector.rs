//! The collector: one watch a kind, and what it sees goes to the store.
//!
//! Architecture Invariant: the collector writes the store and nothing else. It knows no Vault, and
//! an object that it cannot use never stops it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::bounds::is_too_long;
use super::object::Object;
use crate::core::manifest::Read;
use crate::core::record::RecordError;
use crate::core::reference::Note;
use crate::core::store::{Change, Store};
use crate::core::words::in_short;
use crate::core::workload::{Kind, WorkloadId};

/// The worker that log lines name.
const WORKER: &str = "collector";

/// Objects a page of a list. A page is held in memory as a whole, at about 3 kB an object. Where it is
/// too long for the client, the list is begun anew with a quarter of them, down to one, which always
/// fits; each list that ends makes it four times as many again, up to this.
const PAGE: u32 = 250;

/// A list that shows nothing for so long is begun anew: its server is gone, or hangs.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// The longest list, in time and in objects: one that goes on is given up, and begun anew later. Ten
/// thousand workloads take seconds, and Kubernetes is made for clusters of 150,000 pods.
const LONGEST_LIST: Duration = Duration::from_mins(10);
const MOST_OBJECTS: u32 = 200_000;

/// Between two attempts, after an error: doubled from the first to the last of these.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// After so long without an error the next one is the first again.
const QUIET: Duration = Duration::from_mins(1);

/// Lines about one workload, each time that something about it changes. A manifest of a tenant can
/// hold tens of thousands of odd references, and the first few tell what is wrong.
const MOST_LINES: usize = 20;

/// Watches one kind.
pub struct Collector {
    kind: Kind,
    client: Client,
    store: Arc<Store>,
    synced: Arc<Notify>,
    vault_namespace: Option<Arc<str>>,
    sync_period: Duration,
    /// What was noted of the references of each workload, as a digest: each is said once. With it
    /// goes the number of the list that last contained the workload.
    noted: HashMap<WorkloadId, (u64, u64)>,
    lists: u64,
    page: u32,
    is_failing: bool,
    failures: u32,
    last_failure: Option<Instant>,
}

impl Collector {
    /// A collector of one kind, which reads everything anew each `sync_period`.
    ///
    /// `synced` is told when a full list has ended; `vault_namespace` is the Vault namespace of
    /// workloads that name none.
    #[must_use]
    pub fn new(
        kind: Kind,
        client: Client,
        store: Arc<Store>,
        synced: Arc<Notify>,
        vault_namespace: Option<Arc<str>>,
        sync_period: Duration,
    ) -> Self {
        let noted = HashMap::new();
        Self {
            kind,
            client,
            store,
            synced,
            vault_namespace,
            sync_period,
            noted,
            lists: 0,
            page: PAGE,
            is_failing: false,
            failures: 0,
            last_failure: None,
        }
    }

    /// Watches until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.list_and_watch() => {}
            }
        }
    }

    /// Lists and watches until everything is to be read anew, or the server hangs.
    async fn list_and_watch(&mut self) {
        let api: Api<Object> = Api::all_with(self.client.clone(), &self.kind);
        let mut events = pin!(watcher(api, watcher::Config::default().page_size(self.page)));
        // Up to a tenth later, so that the lists of the kinds do not stay together.
        let end = Instant::now() + self.sync_period.mul_f64(1.0 + fastrand::f64() / 10.0);
        let mut list = Some(ListSoFar::begin());
        loop {
            let silence = Instant::now() + LONGEST_SILENCE;
            let limit = list.as_ref().map_or(end, |list| silence.min(list.ends));
            match timeout_at(limit, events.next()).await {
                Ok(Some(Ok(event))) => {
                    match (&event, &mut list) {
                        (Event::Init, list) => *list = Some(ListSoFar::begin()),
                        (Event::InitApply(_), Some(list)) => list.objects += 1,
                        (Event::InitApply(_), None) => {}
                        (Event::InitDone | Event::Apply(_) | Event::Delete(_), list) => {
                            *list = None;
                        }
                    }
                    if list.as_ref().is_some_and(ListSoFar::is_too_long) {
                        self.failed("the list has no end");
                        sleep(self.retry_delay()).await;
                        return;
                    }
                    self.handle(event);
                }
                Ok(Some(Err(error))) => {
                    if list.is_some() && self.page > 1 && is_too_long(&error) {
                        self.page = (self.page / 4).max(1);
                        debug!(worker = WORKER, "Listing {} by {}", self.kind.plural(), self.page);
                        return;
                    }
                    self.failed(&error.to_string());
                    sleep(self.retry_delay()).await;
                }
                Err(_) if list.is_some() => {
                    self.failed("the API server does not answer");
                    return;
                }
                Ok(None) | Err(_) => {
                    debug!(worker = WORKER, "Reading all {}s anew", self.kind);
                    return;
                }
            }
        }
    }

    fn handle(&mut self, event: Event<Object>) {
        match event {
            Event::Init => {
                self.lists += 1;
                self.store.begin_list(self.kind);
            }
            Event::InitApply(object) => self.apply(object),
            Event::InitDone => {
                self.recovered();
                self.page = (self.page * 4).min(PAGE);
                let first = !self.store.is_listed(self.kind);
                for id in self.store.end_list(self.kind) {
                    say_removed(&id);
                }
                self.noted.retain(|_, (_, list)| *list == self.lists);
                self.synced.notify_one();
                if first {
                    let (workloads, secrets) = self.store.len();
                    info!(
                        worker = WORKER,
                        "All {}s are read; so far {workloads} workloads refer to {secrets} secrets",
                        self.kind
                    );
                }
            }
            Event::Apply(object) => {
                self.recovered();
                self.apply(object);
            }
            Event::Delete(object) => {
                self.recovered();
                let read = object.into_manifest().read(self.kind, None);
                self.noted.remove(&read.id);
                if self.store.remove(&read.id) == Change::Removed {
                    say_removed(&read.id);
                }
            }
        }
    }

    fn apply(&mut self, object: Object) {
        let Read { id, workload, notes, record_error } =
            object.into_manifest().read(self.kind, self.vault_namespace.as_ref());
        self.report(&id, &notes, record_error.as_ref());
        let Some(workload) = workload else {
            if self.store.remove(&id) == Change::Removed {
                say_removed(&id);
            }
            return;
        };
        if self.store.apply(workload) == Change::Collected {
            let WorkloadId { kind, namespace, name } = &id;
            if self.store.is_listed(self.kind) {
                info!(worker = WORKER, "Collected secrets from {kind} {namespace}/{name}");
            } else {
                debug!(worker = WORKER, "Collected secrets from {kind} {namespace}/{name}");
            }
        }
    }

    /// Says once what is not watched, or looks odd.
    fn report(&mut self, id: &WorkloadId, notes: &[Note], record_error: Option<&RecordError>) {
        if notes.is_empty() && record_error.is_none() {
            self.noted.remove(id);
            return;
        }
        let mut hasher = DefaultHasher::new();
        (notes, record_error).hash(&mut hasher);
        let digest = hasher.finish();
        let before = self.noted.insert(id.clone(), (digest, self.lists));
        if before.is_some_and(|(before, _)| before == digest) {
            return;
        }
        if let Some(error) = record_error {
            warn!(
                worker = WORKER,
                "The record on {id} is ignored: {error}. What its pods run with is judged by their age"
            );
        }
        // The warnings first, so that what is merely not watched does not hide them.
        let (warnings, others): (Vec<_>, Vec<_>) =
            notes.iter().partition(|note| note.reason.is_warning());
        for Line { reason, text } in lines(&warnings, "look odd") {
            warn!(worker = WORKER, reason, "{id}: {text}");
        }
        for Line { reason, text } in lines(&others, "are not watched") {
            debug!(worker = WORKER, reason, "{id}: {text}");
        }
    }

    fn failed(&mut self, message: &str) {
        if !self.is_failing {
            error!(
                worker = WORKER,
                "Cannot watch {}: {}. What is known is kept; retrying",
                self.kind.plural(),
                in_short(message)
            );
        }
        self.is_failing = true;
        // A server whose lists work and whose watches do not is no reason to list without a pause.
        if self.last_failure.is_none_or(|time| time.elapsed() > QUIET) {
            self.failures = 0;
        }
        self.last_failure = Some(Instant::now());
        self.failures = self.failures.saturating_add(1);
    }

    fn recovered(&mut self) {
        if self.is_failing {
            info!(worker = WORKER, "Watching {} again", self.kind.plural());
            self.is_failing = false;
        }
    }

    fn retry_delay(&self) -> Duration {
        let (first, last) = RETRY;
        let delay = first.saturating_mul(1 << self.failures.saturating_sub(1).min(8)).min(last);
        delay.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// A list that is under way.
struct ListSoFar {
    ends: Instant,
    objects: u32,
}

impl ListSoFar {
    fn begin() -> Self {
        Self { ends: Instant::now() + LONGEST_LIST, objects: 0 }
    }

    fn is_too_long(&self) -> bool {
        self.objects > MOST_OBJECTS || Instant::now() >= self.ends
    }
}

/// What there is to say of one reference, or of those that are too many.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    /// The code of the reason.
    reason: Option<&'static str>,
    text: String,
}

/// What there is to say of some notes on a workload, with an end; `so` is what its references are.
fn lines(notes: &[&Note], so: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = notes
        .iter()
        .take(MOST_LINES)
        .map(|Note { origin, reason }| Line {
            reason: Some(reason.code()),
            text: format!("{}: {}", in_short(&origin.to_string()), reason.advice()),
        })
        .collect();
    let more = notes.len() - lines.len();
    if more > 0 {
        lines.push(Line { reason: None, text: format!("and {more} more references {so}") });
    }
    lines
}

fn say_removed(id: &WorkloadId) {
    let WorkloadId { kind, namespace, name } = id;
    info!(worker = WORKER, "Stopped watching {kind} {namespace}/{name}");
}

#[cfg(test)]
mod tests;
