//! Sources: the ConfigMaps and Secrets that variables of workloads come from, read when a workload
//! names them, and again when they change.
//!
//! Changes are seen by one watch a kind, of nothing but metadata; it begins when the first source is
//! named. What is read is one object at a time, and only what a workload that opted in names.
//!
//! Architecture Invariant: this writes the sources of the store and nothing else; the collectors, which
//! are told which workloads are concerned, read those anew.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use k8s_openapi::NamespaceResourceScope;
pub use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::client::{RequestError, in_time};
use super::watching::{WORKER, Watching, retry_delay};
use crate::core::environment::SourceKind;
use crate::core::reference::Reason;
use crate::core::source::{Content, Found, SourceId};
use crate::core::store::Store;
use crate::core::workload::{Kind, WorkloadId};

/// Sources that are read at once.
const READS_AT_A_TIME: usize = 8;

/// From so many failures in a row on, a source whose answer is one more counts as one that cannot be
/// read, so that nobody waits for it any longer.
const FAILURES_TO_GIVE_UP: u32 = 5;

/// Between two attempts at one of the sources that cannot be read. Where it can be again, all are tried.
const PROBE: Duration = Duration::from_mins(1);

/// Tells that there are sources to read.
#[derive(Clone, Debug, Default)]
pub struct Wanted(Arc<[Notify; SourceKind::ALL.len()]>);

impl Wanted {
    /// Tells the readers of all kinds.
    pub fn tell(&self) {
        for notify in &*self.0 {
            notify.notify_one();
        }
    }

    async fn told(&self, kind: SourceKind) {
        let [config_maps, secrets] = &*self.0;
        match kind {
            SourceKind::ConfigMap => config_maps.notified().await,
            SourceKind::Secret => secrets.notified().await,
        }
    }
}

/// Where the collector of each kind hears which of its workloads are concerned by a change.
#[derive(Clone, Debug)]
pub struct Concerned([UnboundedSender<WorkloadId>; Kind::ALL.len()]);

impl Concerned {
    /// One way for each kind, in the order of [`Kind::ALL`].
    #[must_use]
    pub fn new() -> (Self, [UnboundedReceiver<WorkloadId>; Kind::ALL.len()]) {
        let [a, b, c] = Kind::ALL.map(|_| unbounded_channel());
        (Self([a.0, b.0, c.0]), [a.1, b.1, c.1])
    }

    fn tell(&self, workloads: Vec<WorkloadId>) {
        let [deployments, daemon_sets, stateful_sets] = &self.0;
        for id in workloads {
            let collector = match id.kind {
                Kind::Deployment => deployments,
                Kind::DaemonSet => daemon_sets,
                Kind::StatefulSet => stateful_sets,
            };
            // A collector that has ended needs nothing any more.
            let _ = collector.send(id);
        }
    }
}

/// A kind of sources.
pub trait SourceObject:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + 'static
{
    /// Which one.
    const KIND: SourceKind;

    /// What is kept of one.
    fn content(&self) -> Content;
}

impl SourceObject for ConfigMap {
    const KIND: SourceKind = SourceKind::ConfigMap;

    fn content(&self) -> Content {
        let data = self.data.iter().flatten();
        Content::new(data.map(|(key, value)| (&**key, value.as_bytes())))
            .annotated(self.annotations().keys().map(String::as_str))
    }
}

impl SourceObject for Secret {
    const KIND: SourceKind = SourceKind::Secret;

    fn content(&self) -> Content {
        let data = self.data.iter().flatten().map(|(key, value)| (&**key, &*value.0));
        // What is not applied yet may hold texts, which come before the same keys of the data.
        let texts = self.string_data.iter().flatten();
        Content::new(data.chain(texts.map(|(key, value)| (&**key, value.as_bytes()))))
            .annotated(self.annotations().keys().map(String::as_str))
    }
}

/// What is kept of an object of a kind, from its JSON; `None` if it is no such object.
#[must_use]
pub fn content_of(kind: SourceKind, object: serde_json::Value) -> Option<Content> {
    match kind {
        SourceKind::ConfigMap => content_as::<ConfigMap>(object),
        SourceKind::Secret => content_as::<Secret>(object),
    }
}

fn content_as<K: SourceObject>(object: serde_json::Value) -> Option<Content> {
    serde_json::from_value::<K>(object).ok().map(|object| object.content())
}

type Answer = Result<Found, RequestError>;

/// Reads the sources of one kind.
pub struct SourceReader<K> {
    client: Client,
    store: Arc<Store>,
    wanted: Wanted,
    concerned: Concerned,
    watching: Watching<PartialObjectMeta<K>>,
    /// To be read, in this order, each once.
    queue: VecDeque<SourceId>,
    /// What is in the queue; where it is there for a resource version, which.
    queued: HashMap<SourceId, Option<String>>,
    reads: FuturesUnordered<BoxFuture<'static, (SourceId, Answer)>>,
    under_way: HashSet<SourceId>,
    /// What cannot be read.
    unreadable: BTreeSet<SourceId>,
    probe: Option<Instant>,
    is_denied: bool,
    is_failing: bool,
    /// Attempts in a row that failed.
    failures: u32,
    pause: Option<Instant>,
    /// Of the list that is under way: what it contained.
    listed: Option<HashSet<SourceId>>,
}

impl<K: SourceObject> SourceReader<K> {
    /// A reader of one kind, whose metadata is all read anew after each `sync_period`.
    #[must_use]
    pub fn new(
        client: Client,
        store: Arc<Store>,
        wanted: Wanted,
        concerned: Concerned,
        sync_period: Duration,
    ) -> Self {
        let api = Api::all(client.clone());
        Self {
            watching: Watching::new(api, K::KIND.plural(), sync_period),
            client,
            store,
            wanted,
            concerned,
            queue: VecDeque::new(),
            queued: HashMap::new(),
            reads: FuturesUnordered::new(),
            under_way: HashSet::new(),
            unreadable: BTreeSet::new(),
            probe: None,
            is_denied: false,
            is_failing: false,
            failures: 0,
            pause: None,
            listed: None,
        }
    }

    /// Reads and watches until `shutdown`; nothing before the first source is named.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            for id in self.store.sources().unread(K::KIND) {
                self.enqueue(id);
            }
            if !self.queue.is_empty() {
                break;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wanted.told(K::KIND) => {}
            }
        }
        loop {
            for id in self.store.sources().unread(K::KIND) {
                self.enqueue(id);
            }
            self.begin_reads();
            let is_paused = self.pause.is_some();
            let pause = self.pause.unwrap_or_else(Instant::now);
            let is_probing = self.probe.is_some();
            let probe = self.probe.unwrap_or_else(Instant::now);
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = self.watching.next() => self.handle(event),
                Some((id, answer)) = self.reads.next() => self.take_in(id, answer),
                () = self.wanted.told(K::KIND) => {}
                () = sleep_until(pause), if is_paused => self.pause = None,
                () = sleep_until(probe), if is_probing => self.probe(),
            }
        }
    }

    fn enqueue(&mut self, id: SourceId) {
        self.enqueue_for(id, None);
    }

    /// Has a source read, unless it was read in that version by the time it is its turn.
    fn enqueue_for(&mut self, id: SourceId, version: Option<String>) {
        match self.queued.get_mut(&id) {
            None => {
                self.queued.insert(id.clone(), version);
                self.queue.push_back(id);
            }
            Some(None) => {}
            Some(before) => *before = version,
        }
    }

    fn begin_reads(&mut self) {
        let mut later = Vec::new();
        while self.pause.is_none()
            && self.reads.len() < READS_AT_A_TIME
            && let Some(id) = self.queue.pop_front()
        {
            if self.under_way.contains(&id) {
                // Two answers about one could come in the wrong order.
                later.push(id);
                continue;
            }
            let version = self.queued.remove(&id).flatten();
            let sources = self.store.sources();
            if !sources.is_named(&id) {
                self.unreadable.remove(&id);
                continue;
            }
            if version.is_some() && !sources.is_outdated(&id, version.as_deref()) {
                continue;
            }
            self.under_way.insert(id.clone());
            let api: Api<K> = Api::namespaced(self.client.clone(), &id.namespace);
            self.reads.push(Box::pin(async move {
                let answer = read(&api, &id.name).await;
                (id, answer)
            }));
        }
        self.queue.extend(later);
    }

    fn handle(&mut self, event: Event<PartialObjectMeta<K>>) {
        match event {
            Event::Init => self.listed = Some(HashSet::new()),
            Event::InitApply(object) | Event::Apply(object) => {
                let id = id_of(&object);
                if let Some(listed) = &mut self.listed {
                    listed.insert(id.clone());
                }
                let version = object.metadata.resource_version;
                if self.store.sources().is_outdated(&id, version.as_deref()) {
                    self.enqueue_for(id, version);
                }
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                for (id, version) in self.store.sources().named(K::KIND) {
                    // What was there is gone.
                    if version.is_some() && !listed.contains(&id) {
                        self.enqueue(id);
                    }
                }
            }
            // It may have been made anew meanwhile.
            Event::Delete(object) => {
                let id = id_of(&object);
                if self.store.sources().is_named(&id) {
                    self.enqueue(id);
                }
            }
        }
    }

    fn take_in(&mut self, id: SourceId, answer: Answer) {
        self.under_way.remove(&id);
        let found = match answer {
            Ok(found) => {
                self.failures = 0;
                if std::mem::replace(&mut self.is_failing, false) {
                    info!(worker = WORKER, "Reading {} again", K::KIND.plural());
                }
                if self.unreadable.remove(&id) {
                    self.readable_again();
                }
                found
            }
            Err(error) if error.is_forbidden() => {
                self.failures = 0;
                self.say_denied(&error);
                self.cannot_read(&id);
                Found::Not(Reason::SourceDenied)
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                if self.failures == FAILURES_TO_GIVE_UP {
                    self.say_failing(&error);
                }
                let is_answer = error.code() != 0;
                if !is_answer || self.failures < FAILURES_TO_GIVE_UP {
                    self.pause = Some(Instant::now() + retry_delay(self.failures));
                    self.enqueue(id);
                    return;
                }
                self.cannot_read(&id);
                Found::Not(Reason::SourceFailed)
            }
        };
        self.concerned.tell(self.store.sources().put(&id, found));
    }

    fn say_failing(&mut self, error: &RequestError) {
        if !std::mem::replace(&mut self.is_failing, true) {
            warn!(
                worker = WORKER,
                "Cannot read {}: {error}. What is known of them is kept; retrying",
                K::KIND.plural()
            );
        }
    }

    fn say_denied(&mut self, error: &RequestError) {
        if !std::mem::replace(&mut self.is_denied, true) {
            warn!(
                worker = WORKER,
                "May not read {}: {error}. Grant it get, list and watch; until then the references in \
                 them are not watched",
                K::KIND.plural()
            );
        }
    }

    fn cannot_read(&mut self, id: &SourceId) {
        self.unreadable.insert(id.clone());
        self.probe.get_or_insert_with(|| Instant::now() + PROBE);
    }

    /// Tries one of those that cannot be read, by chance.
    fn probe(&mut self) {
        let chosen = fastrand::usize(..self.unreadable.len().max(1));
        let chosen = self.unreadable.iter().nth(chosen).cloned();
        self.probe = chosen.is_some().then(|| Instant::now() + PROBE);
        if let Some(id) = chosen {
            self.enqueue(id);
        }
    }

    fn readable_again(&mut self) {
        if std::mem::replace(&mut self.is_denied, false) {
            info!(worker = WORKER, "May read {} again", K::KIND.plural());
        }
        self.probe = None;
        for id in std::mem::take(&mut self.unreadable) {
            self.enqueue(id);
        }
    }
}

fn id_of<K>(object: &PartialObjectMeta<K>) -> SourceId
where
    K: SourceObject,
{
    let metadata = &object.metadata;
    SourceId {
        kind: K::KIND,
        namespace: metadata.namespace.as_deref().unwrap_or_default().into(),
        name: metadata.name.as_deref().unwrap_or_default().into(),
    }
}

async fn read<K: SourceObject>(api: &Api<K>, name: &str) -> Answer {
    match in_time(api.get(name)).await {
        Ok(object) => {
            let resource_version = object.meta().resource_version.clone().unwrap_or_default();
            Ok(Found::Read { resource_version, content: object.content() })
        }
        Err(error) if error.code() == 404 => Ok(Found::Missing),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
