//! Sources: the ConfigMaps and Secrets that variables of workloads come from, read when a workload
//! names them, and again when they change.
//!
//! Which there are, and when one changes, is seen by one watch a kind, of nothing but metadata; it
//! begins when the first source is named. What is read is one object at a time, and only what a
//! workload that opted in names and the watch shows. Namespaces take turns.
//!
//! Architecture Invariant: this writes the sources of the index and nothing else. The index reads the
//! workloads again that name a source which changed.

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
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::client::{RequestError, in_time};
use super::effects::Effects;
use super::watching::{WORKER, Watching, retry_delay};
use crate::index::Index;
use crate::index::sources::SourceRead;
use crate::model::fair_queue::FairQueue;
use crate::references::environment::SourceKind;
use crate::references::reason::Reason;
use crate::references::source::{Content, SourceId};

/// Sources that are read at once.
const READS_AT_A_TIME: usize = 8;

/// After so many failures of its own, a source counts as one that cannot be read, so that its workloads
/// do not wait for it any longer. After so many in a row of any, each that fails does so at once.
const FAILURES_TO_GIVE_UP: u32 = 5;

/// A source that the watch does not show so long after it was named does not exist. The watches of
/// workloads and of their sources are two, and one may be ahead of the other.
const SHOWN_WITHIN: Duration = Duration::from_secs(3);

/// Where there is no watch to tell so long after a source was named, the source is asked for itself.
const ASKED_AFTER: Duration = Duration::from_secs(30);

/// Sources that are waited for before those are dropped that no workload names any more.
const MOST_UNSEEN: usize = 1024;

/// Between two looks at the sources that are waited for, while there is no watch to tell.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Between two attempts at one of the sources that cannot be read. Where it can be again, all are tried.
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

type Answer = Result<SourceRead, RequestError>;

/// Reads the sources of one kind.
pub struct SourceReader<K> {
    client: Client,
    index: Arc<Index>,
    effects: Effects,
    watching: Watching<PartialObjectMeta<K>>,
    /// What there is, once the watch has shown it all.
    shown: Option<Shown>,
    /// Of the list that is under way: what it contained.
    listed: Option<Shown>,
    hasher: RandomState,
    /// Named, and not shown by the watch: since when, the first one first.
    unseen: VecDeque<(Instant, SourceId)>,
    /// With more than these, those that are not named any more are dropped.
    most_unseen: usize,
    /// To be read.
    queue: FairQueue<SourceId>,
    /// What is to be read for a resource version, and which.
    versions: HashMap<SourceId, String>,
    reads: FuturesUnordered<BoxFuture<'static, (SourceId, Answer)>>,
    under_way: HashSet<SourceId>,
    /// What cannot be read.
    unreadable: BTreeSet<SourceId>,
    probe: Option<Instant>,
    is_denied: bool,
    is_failing: bool,
    /// Attempts in a row that failed.
    failures: u32,
    /// The attempts at each source that failed, since it was read or given up.
    failures_of: HashMap<SourceId, u32>,
    pause: Option<Instant>,
}

/// Digests of the names of objects. A cluster can have very many that no workload names, and their
/// names are not worth keeping.
type Shown = HashSet<u64>;

impl<K: SourceObject> SourceReader<K> {
    /// A reader of one kind, whose metadata is all read anew after each `sync_period`.
    #[must_use]
    pub fn new(client: Client, index: Arc<Index>, effects: Effects, sync_period: Duration) -> Self {
        let api = Api::all(client.clone());
        Self {
            watching: Watching::new(api, K::KIND.plural(), sync_period),
            client,
            index,
            effects,
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

    /// Reads and watches until `shutdown`; nothing before the first source is named.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            self.take_requests();
            if !self.unseen.is_empty() {
                break;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.effects.sources_to_read(K::KIND) => {}
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
                () = self.effects.sources_to_read(K::KIND) => {}
                () = pause, if is_paused => self.pause = None,
                () = probe, if is_probing => self.probe(),
                () = look, if is_looking => {}
            }
        }
    }

    /// Takes in which sources are named: what the watch shows is to be read.
    fn take_requests(&mut self) {
        for id in self.index.take_unread_sources(K::KIND) {
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

    /// Concludes about what was named and not shown for long enough: it does not exist, or is asked for
    /// where there is no watch to tell. Returns when to look again.
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

    /// Has a source read that is in another version now, unless it was read in that by its turn.
    fn read_version(&mut self, id: SourceId, version: Option<String>) {
        let is_queued = self.queue.contains(&id);
        self.queue.join(&id);
        match version {
            // Where it is to be read whatever the version, it still is.
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

    /// Has the workloads read again of which sources changed: each once, however many of its sources did.
    fn read_changed(&self) {
        while let Some(effects) = self.index.read_next_changed() {
            self.effects.carry_out(&effects);
        }
    }

    fn begin_reads(&mut self) {
        let mut later = Vec::new();
        while self.pause.is_none()
            && self.reads.len() < READS_AT_A_TIME
            && let Some(id) = self.queue.take()
        {
            if self.under_way.contains(&id) {
                // Two answers about one could come in the wrong order.
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
                // Named when the list had gone past it.
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
                for (id, version) in self.index.named_sources(K::KIND) {
                    // What was there is gone.
                    if version.is_some() && !self.is_shown(&id) {
                        self.read_version(id, None);
                    }
                }
            }
            // It may have been made again meanwhile.
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
                self.say_denied(&error);
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
                    self.say_failing(&error);
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
