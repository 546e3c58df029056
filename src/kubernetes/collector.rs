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

use super::object::Object;
use crate::core::manifest::Read;
use crate::core::reference::Note;
use crate::core::store::{Change, Store};
use crate::core::workload::{Kind, WorkloadId};

/// The worker that log lines name.
const WORKER: &str = "collector";

/// Objects a page of a list. A page is held in memory as a whole, at about 3 kB an object.
const PAGE: u32 = 250;

/// A list that shows nothing for so long is begun anew: its server is gone, or hangs.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// Between two attempts, after an error: doubled from the first to the last of these.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

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
    failures: u32,
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
            failures: 0,
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
        let mut events = pin!(watcher(api, watcher::Config::default().page_size(PAGE)));
        // Up to a tenth later, so that the lists of the kinds do not stay together.
        let end = Instant::now() + self.sync_period.mul_f64(1.0 + fastrand::f64() / 10.0);
        let mut is_listing = true;
        loop {
            let limit = if is_listing { Instant::now() + LONGEST_SILENCE } else { end };
            match timeout_at(limit, events.next()).await {
                Ok(Some(Ok(event))) => {
                    is_listing = match event {
                        Event::Init | Event::InitApply(_) => true,
                        Event::InitDone | Event::Apply(_) | Event::Delete(_) => false,
                    };
                    self.handle(event);
                }
                Ok(Some(Err(error))) => {
                    self.failed(&error.to_string());
                    sleep(self.retry_delay()).await;
                }
                Err(_) if is_listing => {
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
        self.report(&id, &notes);
        let Some(workload) = workload else {
            if self.store.remove(&id) == Change::Removed {
                say_removed(&id);
            }
            return;
        };
        let change = self.store.apply(workload);
        if change == Change::Collected {
            if let Some(error) = record_error {
                warn!(
                    worker = WORKER,
                    "The record on {id} is ignored: {error}. What its pods run with is judged by their age"
                );
            }
            let WorkloadId { kind, namespace, name } = &id;
            if self.store.is_listed(self.kind) {
                info!(worker = WORKER, "Collected secrets from {kind} {namespace}/{name}");
            } else {
                debug!(worker = WORKER, "Collected secrets from {kind} {namespace}/{name}");
            }
        }
    }

    /// Says once what is not watched, or looks odd.
    fn report(&mut self, id: &WorkloadId, notes: &[Note]) {
        if notes.is_empty() {
            self.noted.remove(id);
            return;
        }
        let mut hasher = DefaultHasher::new();
        notes.hash(&mut hasher);
        let digest = hasher.finish();
        let before = self.noted.insert(id.clone(), (digest, self.lists));
        if before.is_some_and(|(before, _)| before == digest) {
            return;
        }
        for Note { origin, reason } in notes {
            if reason.is_warning() {
                warn!(worker = WORKER, "{id}: {origin}: {}", reason.advice());
            } else {
                debug!(worker = WORKER, "{id}: {origin} is not watched: {}", reason.advice());
            }
        }
    }

    fn failed(&mut self, message: &str) {
        if self.failures == 0 {
            error!(
                worker = WORKER,
                "Cannot watch {}: {message}. What is known is kept; retrying",
                self.kind.plural()
            );
        }
        self.failures = self.failures.saturating_add(1);
    }

    fn recovered(&mut self) {
        if self.failures > 0 {
            info!(worker = WORKER, "Watching {} again", self.kind.plural());
            self.failures = 0;
        }
    }

    fn retry_delay(&self) -> Duration {
        let (first, last) = RETRY;
        let delay = first.saturating_mul(1 << self.failures.saturating_sub(1).min(8)).min(last);
        delay.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

fn say_removed(id: &WorkloadId) {
    let WorkloadId { kind, namespace, name } = id;
    info!(worker = WORKER, "Stopped watching {kind} {namespace}/{name}");
}
