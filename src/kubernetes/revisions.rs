//! Revisions: the ReplicaSets and ControllerRevisions of the present templates of workloads.
//!
//! Revisions are looked up only if a decision depends on them. One LIST of a namespace serves all
//! of its workloads. If many namespaces are concerned, one LIST covers the whole cluster.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use kube::Client;
use kube::api::{ListParams, Request};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::error;

use super::bounds::is_too_long;
use super::client::{RequestError, in_time};
use super::watching::retry_delay;
use crate::decide::plan::{Copied, Revision};
use crate::model::kind::{self, Kind};
use crate::model::record::Record;
use crate::model::secret::Version;
use crate::model::workload::Workload;

/// Objects per page. The metadata of a ReplicaSet is about 2 kB. If a page is too long for the
/// client, the page is requested again with a quarter of the objects. A page of one object always
/// fits.
const PAGE: u32 = 250;

/// The time limit of a look-up. Ten thousand ReplicaSets take a few seconds. A hundred thousand
/// take a minute if the API server is busy. The next poll asks again for the missing revisions.
const LONGEST: Duration = Duration::from_mins(5);

/// How often a page is requested again after a failure of the API server.
const RETRIES: u32 = 3;

/// The highest number of record entries that are kept for a workload from copies of its record. A
/// thousand secrets and ten old ReplicaSets, the default history, make as many. Further copies are
/// ignored: a reload that was taken back may then be repeated.
const MOST_COPIES: usize = 10_000;

/// With more namespaces than this, one LIST of the cluster is less work for the controller and the
/// API server.
const MANY_NAMESPACES: usize = 16;

/// How many namespaces are listed at a time.
const AT_A_TIME: usize = 4;

/// Looks up revisions.
#[derive(Clone)]
pub struct Revisions {
    client: Client,
    /// Whether the last list failed. Each change is logged once.
    is_failing: Arc<AtomicBool>,
    /// Whether a list was cut short since the last look-up began. The look-up after a cut lists
    /// namespaces one by one: complete namespaces need no second list.
    is_cut: Arc<AtomicBool>,
}

/// The API resource of revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    ReplicaSets,
    ControllerRevisions,
}

impl Resource {
    fn of(kind: Kind) -> Self {
        match kind.revisions() {
            kind::Revisions::ReplicaSets => Self::ReplicaSets,
            kind::Revisions::ControllerRevisions | kind::Revisions::NamedControllerRevisions => {
                Self::ControllerRevisions
            }
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::ReplicaSets => "replicasets",
            Self::ControllerRevisions => "controllerrevisions",
        }
    }
}

impl Revisions {
    /// Makes a look-up that uses `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, is_failing: Arc::default(), is_cut: Arc::default() }
    }

    /// Returns the revisions of workloads by uid. A revision that cannot be read is missing from
    /// the map.
    pub async fn of(&self, workloads: &[Arc<Workload>]) -> HashMap<Box<str>, Revision> {
        let mut found = HashMap::new();
        let end = Instant::now() + LONGEST;
        let was_cut = self.is_cut.swap(false, Ordering::Relaxed);
        for resource in [Resource::ReplicaSets, Resource::ControllerRevisions] {
            let mut namespaces: HashMap<&str, Vec<&Workload>> = HashMap::new();
            for workload in workloads.iter().filter(|w| Resource::of(w.id.kind) == resource) {
                namespaces.entry(&workload.id.namespace).or_default().push(workload);
            }
            let lists: Vec<_> = if namespaces.len() > MANY_NAMESPACES && !was_cut {
                let all = namespaces.into_values().flatten().collect();
                vec![self.list(resource, None, all, end)]
            } else {
                let lists = namespaces.into_iter();
                lists.map(|(name, wanted)| self.list(resource, Some(name), wanted, end)).collect()
            };
            found.extend(stream::iter(lists).buffer_unordered(AT_A_TIME).concat().await);
        }
        found
    }

    /// Lists the revisions of workloads of one namespace, or of all namespaces. The revisions are
    /// picked out page by page, so that only one page of old ReplicaSets is in memory.
    async fn list(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        wanted: Vec<&Workload>,
        end: Instant,
    ) -> Vec<(Box<str>, Revision)> {
        if self.is_cut.load(Ordering::Relaxed) {
            // The API server already failed for another list, after several attempts.
            return Vec::new();
        }
        let scope = namespace.map(|name| format!("namespaces/{name}/")).unwrap_or_default();
        let request = Request::new(format!("/apis/apps/v1/{scope}{}", resource.plural()));
        let mut candidates = Candidates::new(wanted);
        let listing = self.read_pages(resource, &request, &mut candidates);
        match timeout_at(end, listing).await {
            Ok(Ok(())) => {
                self.is_failing.store(false, Ordering::Relaxed);
                return candidates.into_revisions();
            }
            Ok(Err(error)) => self.failed(resource, &error),
            Err(_) => self.failed(resource, &"the list has no end"),
        }
        self.is_cut.store(true, Ordering::Relaxed);
        candidates.into_complete_revisions()
    }

    async fn read_pages(
        &self,
        resource: Resource,
        request: &Request,
        candidates: &mut Candidates<'_>,
    ) -> Result<(), RequestError> {
        let mut limit = PAGE;
        let mut next = None;
        let mut failures = 0;
        loop {
            let params =
                ListParams { continue_token: next.clone(), ..ListParams::default().limit(limit) };
            match self.page(resource, request, &params).await {
                Ok(page) => match candidates.take(page) {
                    Some(token) => (next, failures) = (Some(token), 0),
                    None => return Ok(()),
                },
                Err(error) if limit > 1 && is_too_long(&error) => limit = (limit / 4).max(1),
                Err(error) if failures < RETRIES && matches!(error.code(), 0 | 429 | 500..) => {
                    failures += 1;
                    sleep(retry_delay(failures)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn failed(&self, resource: Resource, message: &dyn std::fmt::Display) {
        if !self.is_failing.swap(true, Ordering::Relaxed) {
            error!(
                worker = "reloader",
                "Cannot list {}: {message}. Workloads that need the list for a decision wait for \
                 it; retrying",
                resource.plural()
            );
        }
    }

    async fn page(
        &self,
        resource: Resource,
        request: &Request,
        params: &ListParams,
    ) -> Result<Page, RequestError> {
        // The number of a ControllerRevision is outside its metadata.
        let request = match resource {
            Resource::ReplicaSets => request.list_metadata(params),
            Resource::ControllerRevisions => request.list(params),
        };
        in_time(self.client.request::<Page>(request.map_err(kube::Error::BuildRequest)?)).await
    }
}

/// The present revisions of some workloads, as far as the pages of a list have shown them. The
/// order of the pages does not matter once all of them were taken in.
pub struct Candidates<'a> {
    by_uid: HashMap<&'a str, Candidate<'a>>,
    /// The namespace of the last object.
    last_namespace: String,
    /// Whether the namespaces came in the order of the API server's keys.
    is_in_order: bool,
}

impl<'a> Candidates<'a> {
    /// All workloads must have revisions of one resource.
    pub fn new(workloads: impl IntoIterator<Item = &'a Workload>) -> Self {
        Self {
            by_uid: workloads.into_iter().map(|w| (&*w.uid, Candidate::of(w))).collect(),
            last_namespace: String::new(),
            is_in_order: true,
        }
    }

    /// Takes in a page. Returns the continue token of the next page, if there is one.
    pub fn take(&mut self, page: Page) -> Option<String> {
        for object in page.items {
            let namespace = &object.metadata.namespace;
            if *namespace != self.last_namespace {
                self.is_in_order &= is_before(&self.last_namespace, namespace);
                self.last_namespace.clone_from(namespace);
            }
            let owner = object.metadata.owner_references.iter().find(|owner| owner.controller);
            if let Some(candidate) = owner.and_then(|o| self.by_uid.get_mut(o.uid.as_str()))
                && owner.is_some_and(|owner| candidate.is(owner, &object.metadata.namespace))
            {
                candidate.take(object);
            }
        }
        page.metadata.next.filter(|token| !token.is_empty())
    }

    /// Returns the revisions by the uid of their workloads. All pages must have been taken in.
    #[must_use]
    pub fn into_revisions(self) -> Vec<(Box<str>, Revision)> {
        let found = self.by_uid.into_iter();
        found.filter_map(|(uid, found)| Some((uid.into(), found.into_revision()?))).collect()
    }

    /// Returns the revisions that no later page can change, for a list that was cut short. These
    /// are the revisions of the namespaces before the last namespace that was seen.
    #[must_use]
    pub fn into_complete_revisions(mut self) -> Vec<(Box<str>, Revision)> {
        let Self { by_uid, last_namespace, is_in_order } = &mut self;
        by_uid.retain(|_, candidate| {
            *is_in_order && is_before(&candidate.workload.id.namespace, last_namespace)
        });
        self.into_revisions()
    }
}

/// Whether a list shows all objects of a namespace before those of another. The keys of the API
/// server are sorted, and a slash follows the namespace in a key.
fn is_before(namespace: &str, other: &str) -> bool {
    let key = |namespace: &'_ str| namespace.bytes().chain([b'/']).collect::<Vec<_>>();
    namespace.is_empty() || key(namespace) < key(other)
}

/// The present revision of one workload, as far as it was found.
struct Candidate<'a> {
    workload: &'a Workload,
    number: i64,
    created: Option<Timestamp>,
    /// The entries of the record's copies, each with the creation time of the revision that has the
    /// copy.
    copies: BTreeSet<(u64, Version, Option<Timestamp>)>,
}

impl<'a> Candidate<'a> {
    fn of(workload: &'a Workload) -> Self {
        Self { workload, number: i64::MIN, created: None, copies: BTreeSet::new() }
    }

    /// Whether `owner`, which has the uid of this workload, is this workload. An owner is always in
    /// the namespace of its object. Anybody who may write revisions in another namespace can claim
    /// any uid there.
    fn is(&self, owner: &Owner, namespace: &str) -> bool {
        let id = &self.workload.id;
        *id.namespace == *namespace
            && *id.name == *owner.name
            && id.kind.name() == owner.kind
            && owner.api_version.split('/').next() == Some(id.kind.group())
    }

    fn take(&mut self, object: RevisionObject) {
        let Meta { name, creation_timestamp, annotations, .. } = object.metadata;
        let Annotations { number, record } = annotations.unwrap_or_default();
        let is_named = self.workload.update_revision.as_deref() == Some(&name);
        let number = match self.workload.id.kind.revisions() {
            kind::Revisions::ReplicaSets => {
                number.and_then(|number| number.parse().ok()).unwrap_or(0)
            }
            // The revision that the status of the workload names counts, whatever the numbers are.
            kind::Revisions::NamedControllerRevisions if is_named => i64::MAX,
            kind::Revisions::ControllerRevisions | kind::Revisions::NamedControllerRevisions => {
                object.revision
            }
        };
        let created = creation_timestamp.and_then(|time| time.parse().ok());
        match number.cmp(&self.number) {
            std::cmp::Ordering::Greater => (self.number, self.created) = (number, created),
            // Numbers are unique. If two are equal, the earlier time makes sure that no change is
            // missed.
            std::cmp::Ordering::Equal => {
                self.created = self.created.into_iter().chain(created).min();
            }
            std::cmp::Ordering::Less => {}
        }
        let record = record.and_then(|text| Record::parse(&text).ok());
        if let Some(recorded) = record.and_then(|record| record.of(&self.workload.uid, None)) {
            let hashes: HashSet<u64> = self.workload.watched().map(|s| s.hash64()).collect();
            let room = MOST_COPIES.saturating_sub(self.copies.len());
            let of_its_secrets = recorded.versions.iter().filter(|(hash, _)| hashes.contains(hash));
            let entries = of_its_secrets.map(|(hash, version)| (hash, version, created));
            self.copies.extend(entries.take(room));
        }
    }

    fn into_revision(self) -> Option<Revision> {
        let present = self.created.or_else(|| self.stand_in())?;
        let copies = self.copies.into_iter().map(|(secret, version, created)| Copied {
            secret,
            version,
            is_later: created.is_some_and(|time| time > present),
        });
        Some(Revision {
            created: present,
            copies: copies.collect::<BTreeSet<_>>().into_iter().collect(),
        })
    }

    /// Returns the earliest time of the present revision for a workload that will never have a
    /// revision.
    ///
    /// The controllers of DaemonSets and StatefulSets make the revision before they report that
    /// they have seen the template. But they adopt an equal revision with the same name. Such a
    /// revision may be left over from a workload that was deleted and made again, and the garbage
    /// collector then removes it. After that the workload has no revision, possibly for ever. A
    /// paused Deployment has no revision, and no pods of the template either.
    fn stand_in(&self) -> Option<Timestamp> {
        let has_none = self.number == i64::MIN;
        (has_none && Resource::of(self.workload.id.kind) == Resource::ControllerRevisions)
            .then_some(self.workload.created)
    }
}

/// A page of a list: the fields that are decoded.
#[derive(Deserialize)]
pub struct Page {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<RevisionObject>,
}

#[derive(Default, Deserialize)]
struct ListMeta {
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

/// A `ReplicaSet` or a `ControllerRevision` without its data.
#[derive(Deserialize)]
struct RevisionObject {
    metadata: Meta,
    #[serde(default)]
    revision: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    creation_timestamp: Option<String>,
    #[serde(default)]
    owner_references: Vec<Owner>,
    annotations: Option<Annotations>,
}

/// The annotations that count. All others are skipped.
#[derive(Default, Deserialize)]
struct Annotations {
    /// The number of a ReplicaSet, written by the Deployment controller.
    #[serde(rename = "deployment.kubernetes.io/revision")]
    number: Option<String>,
    /// A copy of the record: [`crate::model::annotation::RECORD`].
    #[serde(rename = "secrets-reloader.security.bank-vaults.io/reload-record")]
    record: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Owner {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    controller: bool,
}

#[cfg(test)]
mod tests;
