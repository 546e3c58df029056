//! Sources: the ConfigMaps and Secrets that variables of workloads come from. A source is read when
//! a workload names it, and again when it changes.
//!
//! One metadata-only watch per kind, or per kind and named namespace, shows which sources exist and when
//! a source changes. The watch
//! begins when the first source is named. Sources are read one object at a time. A source is read
//! only if a workload that opted in names it and the watch shows it. Namespaces take turns.
//!
//! Architecture Invariant: this module writes the sources of the index and nothing else. The index
//! reads the workloads again that name a changed source.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use k8s_openapi::NamespaceResourceScope;
pub use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event as WatchEvent;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::client::{RequestError, in_time};
use super::effects::Effects;
use super::watching::{WORKER, Watching, in_namespace, retry_delay};
use crate::index::Index;
use crate::index::sources::SourceRead;
use crate::model::fair_queue::FairQueue;
use crate::references::environment::SourceKind;
use crate::references::reason::Reason;
use crate::references::source::{Content, SourceId};

/// How many sources of a kind are read at once: by one reader, or by those of all named namespaces. Each
/// reader reads at least one.
const READS_AT_A_TIME: usize = 8;

/// The failures after which a source counts as unreadable, so that its workloads no longer wait for
/// it. After this many failures of any sources in a row, each further failure makes its source
/// unreadable at once.
const FAILURES_TO_GIVE_UP: u32 = 5;

/// A named source that the watch does not show within this time does not exist. Workloads and
/// sources have separate watches, and one may be ahead of the other.
const SHOWN_WITHIN: Duration = Duration::from_secs(3);

/// Without a working watch, a named source is read directly after this time.
const ASKED_AFTER: Duration = Duration::from_secs(30);

/// The number of awaited sources beyond which those that no workload names any more are dropped.
const MOST_UNSEEN: usize = 1024;

/// The pause between two checks of the awaited sources while the watch is not ready.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The pause between two attempts at one of the unreadable sources. If one can be read again, all
/// are tried.
const PROBE: Duration = Duration::from_mins(1);

/// A kind of sources.
pub trait SourceObject:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + 'static
{
    /// The kind.
    const KIND: SourceKind;

    /// Returns the parts of an object that are kept.
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
        // A manifest that is not applied yet may have `stringData`, which overrides the same keys
        // of `data`.
        let texts = self.string_data.iter().flatten();
        Content::new(data.chain(texts.map(|(key, value)| (&**key, value.as_bytes()))))
            .annotated(self.annotations().keys().map(String::as_str))
    }
}

/// Returns the kept parts of an object of a kind, from its JSON. Returns `None` if the JSON is no
/// such object.
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

type Answer = Result<SourceRead, RequestError>;

/// What the readers of one kind divide among them.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// All metadata are listed again after this time.
    pub sync_period: Duration,
    /// The namespace whose sources are read; `None` means all namespaces.
    pub namespace: Option<Arc<str>>,
    /// The number of readers of the kind.
    pub readers: usize,
}

/// Reads the sources of one kind, in all namespaces or in one.
pub struct SourceReader<K> {
    client: Client,
    index: Arc<Index>,
    effects: Effects,
    namespace: Option<Arc<str>>,
    /// Notified when there may be sources to read.
    to_read: Arc<Notify>,
    /// How many sources are read at once.
    reads_at_a_time: usize,
    watching: Watching<PartialObjectMeta<K>>,
    /// The existing sources, once the watch has listed them all.
    shown: Option<Shown>,
    /// The sources that the list in progress has shown so far.
    listed: Option<Shown>,
    hasher: RandomState,
    /// The named sources that the watch has not shown, and since when. The oldest comes first.
    unseen: VecDeque<(Instant, SourceId)>,
    /// The length of `unseen` above which sources that are not named any more are dropped.
    most_unseen: usize,
    /// The sources to read.
    queue: FairQueue<SourceId>,
    /// The resource version for which a queued source is to be read.
    versions: HashMap<SourceId, String>,
    reads: FuturesUnordered<BoxFuture<'static, (SourceId, Answer)>>,
    under_way: HashSet<SourceId>,
    /// The sources that cannot be read.
    unreadable: BTreeSet<SourceId>,
    probe: Option<Instant>,
    is_denied: bool,
    is_failing: bool,
    /// Failed attempts in a row.
    failures: u32,
    /// The failed attempts at each source since the source was read or given up.
    failures_of: HashMap<SourceId, u32>,
    pause: Option<Instant>,
}

/// Digests of the names of objects. A cluster can have very many objects that no workload names,
/// and their names would waste memory.
type Shown = HashSet<u64>;

impl<K: SourceObject> SourceReader<K> {
    /// Makes a reader of one kind.
    #[must_use]
    pub fn new(client: Client, index: Arc<Index>, effects: Effects, settings: Settings) -> Self {
        let Settings { sync_period, namespace, readers } = settings;
        let api = match &namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let resource = in_namespace(K::KIND.plural(), namespace.as_deref());
        Self {
            watching: Watching::new(api, resource, sync_period),
            client,
            index,
            to_read: effects.add_source_reader(),
            effects,
            namespace,
            reads_at_a_time: READS_AT_A_TIME.div_ceil(readers.max(1)),
            shown: None,
            listed: None,
            hasher: RandomState::new(),
            unseen: VecDeque::new(),
            most_unseen: MOST_UNSEEN,
            queue: FairQueue::default(),
            versions: HashMap::new(),
            reads: FuturesUnordered::new(),
            under_way: HashSet::new(),
            unreadable: BTreeSet::new(),
            probe: None,
            is_denied: false,
            is_failing: false,
            failures: 0,
            failures_of: HashMap::new(),
            pause: None,
        }
    }

    /// Reads and watches until `shutdown`. Sends no request before the first source is named.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            self.take_requests();
            if !self.unseen.is_empty() {
                break;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.to_read.notified() => {}
            }
        }
        loop {
            self.take_requests();
            let look_at = self.look_at_unseen();
            self.read_changed();
            self.begin_reads();
            let timer = |time: Option<Instant>| {
                let is_set = time.is_some();
                (is_set, sleep_until(time.unwrap_or_else(Instant::now)))
            };
            let (is_paused, pause) = timer(self.pause);
            let (is_probing, probe) = timer(self.probe);
            let (is_looking, look) = timer(look_at);
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = self.watching.next() => self.handle(event),
                Some((id, answer)) = self.reads.next() => self.take_in(id, answer),
                () = self.to_read.notified() => {}
                () = pause, if is_paused => self.pause = None,
                () = probe, if is_probing => self.probe(),
                () = look, if is_looking => {}
            }
        }
    }

    /// Takes in the sources that are named. Sources that the watch shows are read.
    fn take_requests(&mut self) {
        for id in self.index.take_unread_sources(K::KIND, self.namespace.as_deref()) {
            if self.is_shown(&id) {
                self.queue.join(&id);
            } else {
                self.unseen.push_back((Instant::now(), id));
            }
        }
        if self.unseen.len() > self.most_unseen {
            let index = &self.index;
            self.unseen.retain(|(_, id)| index.names_source(id));
            self.most_unseen = MOST_UNSEEN.max(2 * self.unseen.len());
        }
    }

    /// Decides about named sources that the watch has not shown for long enough. With a working
    /// watch, the source does not exist. Otherwise the source is read directly. Returns when to
    /// check again.
    fn look_at_unseen(&mut self) -> Option<Instant> {
        let is_failing = self.watching.is_failing();
        let is_known = self.shown.is_some() && self.listed.is_none() && !is_failing;
        let wait = if is_known || is_failing { SHOWN_WITHIN } else { ASKED_AFTER };
        while let Some((_, id)) = self.unseen.pop_front_if(|(since, _)| since.elapsed() >= wait) {
            if !self.index.names_source(&id) {
                continue;
            }
            if !is_known {
                self.queue.join(&id);
            } else if !self.is_shown(&id) {
                self.put(&id, SourceRead::Missing);
            }
        }
        let (since, _) = self.unseen.front()?;
        Some(if is_known { *since + SHOWN_WITHIN } else { Instant::now() + LOOK_AGAIN })
    }

    fn is_shown(&self, id: &SourceId) -> bool {
        self.shown.as_ref().is_some_and(|shown| shown.contains(&self.hasher.hash_one(id)))
    }

    /// Queues the read of a source that has changed to `version`. The read is skipped if an earlier
    /// read already brought that version.
    fn read_version(&mut self, id: SourceId, version: Option<String>) {
        let is_queued = self.queue.contains(&id);
        self.queue.join(&id);
        match version {
            // A source that is queued for any version stays queued for any version.
            Some(version) if !is_queued || self.versions.contains_key(&id) => {
                self.versions.insert(id, version);
            }
            Some(_) => {}
            None => drop(self.versions.remove(&id)),
        }
    }

    fn put(&self, id: &SourceId, found: SourceRead) {
        self.index.put_source(id, found);
    }

    /// Reads the workloads again whose sources changed. Each workload is read once, however many of
    /// its sources changed.
    fn read_changed(&self) {
        while let Some(effects) = self.index.read_next_changed() {
            self.effects.carry_out(&effects);
        }
    }

    fn begin_reads(&mut self) {
        let mut later = Vec::new();
        while self.pause.is_none()
            && self.reads.len() < self.reads_at_a_time
            && let Some(id) = self.queue.take()
        {
            if self.under_way.contains(&id) {
                // Two concurrent answers about one source could arrive in the wrong order.
                later.push(id);
                continue;
            }
            let version = self.versions.remove(&id);
            if !self.index.names_source(&id) {
                self.unreadable.remove(&id);
                self.failures_of.remove(&id);
                continue;
            }
            if version.is_some() && !self.index.is_source_outdated(&id, version.as_deref()) {
                continue;
            }
            self.under_way.insert(id.clone());
            let api: Api<K> = Api::namespaced(self.client.clone(), &id.namespace);
            self.reads.push(Box::pin(async move {
                let answer = read(&api, &id.name).await;
                (id, answer)
            }));
        }
        for id in &later {
            self.queue.join(id);
        }
    }

    fn handle(&mut self, event: WatchEvent<PartialObjectMeta<K>>) {
        match event {
            WatchEvent::Init => self.listed = Some(Shown::new()),
            WatchEvent::InitApply(object) | WatchEvent::Apply(object) => {
                let id = id_of(&object);
                let digest = self.hasher.hash_one(&id);
                if let Some(shown) = self.listed.as_mut().or(self.shown.as_mut()) {
                    shown.insert(digest);
                }
                let version = object.metadata.resource_version;
                if self.index.is_source_outdated(&id, version.as_deref()) {
                    self.read_version(id, version);
                }
            }
            WatchEvent::InitDone => {
                self.shown = self.listed.take();
                // These sources were named after the list had passed them.
                let (shown, unseen) = std::mem::take(&mut self.unseen)
                    .into_iter()
                    .partition(|(_, id)| self.is_shown(id));
                self.unseen = unseen;
                for (_, id) in VecDeque::into_iter(shown) {
                    let was_read = self.index.is_source_outdated(&id, None);
                    if !was_read && !self.under_way.contains(&id) {
                        self.queue.join(&id);
                    }
                }
                let namespace = self.namespace.as_deref();
                for (id, version) in self.index.named_sources(K::KIND, namespace) {
                    // The source was deleted.
                    if version.is_some() && !self.is_shown(&id) {
                        self.read_version(id, None);
                    }
                }
            }
            // The object may have been made again meanwhile.
            WatchEvent::Delete(object) => {
                let id = id_of(&object);
                let digest = self.hasher.hash_one(&id);
                if let Some(shown) = &mut self.shown {
                    shown.remove(&digest);
                }
                if self.index.names_source(&id) {
                    self.read_version(id, None);
                }
            }
        }
    }

    fn take_in(&mut self, id: SourceId, answer: Answer) {
        self.under_way.remove(&id);
        let found = match answer {
            Ok(found) => {
                self.failures = 0;
                self.failures_of.remove(&id);
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
                self.log_denied(&error);
                self.cannot_read(&id);
                SourceRead::Unreadable(Reason::SourceDenied)
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                let of_source = self.failures_of.entry(id.clone()).or_default();
                *of_source += 1;
                let failures = self.failures.max(*of_source);
                if failures >= FAILURES_TO_GIVE_UP {
                    self.failures_of.remove(&id);
                    self.log_failing(&error);
                } else {
                    self.pause = Some(Instant::now() + retry_delay(self.failures));
                    self.read_version(id, None);
                    return;
                }
                self.cannot_read(&id);
                SourceRead::Unreadable(Reason::SourceFailed)
            }
        };
        self.put(&id, found);
    }

    fn log_failing(&mut self, error: &RequestError) {
        if !std::mem::replace(&mut self.is_failing, true) {
            warn!(
                worker = WORKER,
                "Cannot read {}: {error}. The last known references in them count; retrying",
                K::KIND.plural()
            );
        }
    }

    fn log_denied(&mut self, error: &RequestError) {
        if !std::mem::replace(&mut self.is_denied, true) {
            warn!(
                worker = WORKER,
                "May not read {}: {error}. Grant the service account get, list and watch; until \
                 then the references in them are not watched",
                K::KIND.plural()
            );
        }
    }

    fn cannot_read(&mut self, id: &SourceId) {
        self.unreadable.insert(id.clone());
        self.probe.get_or_insert_with(|| Instant::now() + PROBE);
    }

    /// Tries a random unreadable source.
    fn probe(&mut self) {
        let chosen = fastrand::usize(..self.unreadable.len().max(1));
        let chosen = self.unreadable.iter().nth(chosen).cloned();
        self.probe = chosen.is_some().then(|| Instant::now() + PROBE);
        if let Some(id) = chosen {
            self.read_version(id, None);
        }
    }

    fn readable_again(&mut self) {
        if std::mem::replace(&mut self.is_denied, false) {
            info!(worker = WORKER, "May read {} again", K::KIND.plural());
        }
        self.probe = None;
        for id in std::mem::take(&mut self.unreadable) {
            self.read_version(id, None);
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
            Ok(SourceRead::Read { resource_version, content: object.content() })
        }
        Err(error) if error.code() == 404 => Ok(SourceRead::Missing),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
