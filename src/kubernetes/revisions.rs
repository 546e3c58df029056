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
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::annotation::RECORD;
    use crate::model::fixtures::{secret, version, workload};

    fn revision_of(workload: &Workload, objects: &[Value]) -> Option<Revision> {
        let mut candidate = Candidate::of(workload);
        for object in objects {
            candidate.take(serde_json::from_value(object.clone()).unwrap());
        }
        candidate.into_revision()
    }

    fn replica_set(number: &str, created: &str, record: &str) -> Value {
        json!({ "metadata": {
            "name": format!("web-{number}"),
            "creationTimestamp": created,
            "annotations": { "deployment.kubernetes.io/revision": number, RECORD: record, "a": "b" },
        } })
    }

    fn controller_revision(name: &str, number: i64, created: &str) -> Value {
        json!({ "metadata": { "name": name, "creationTimestamp": created }, "revision": number })
    }

    const EARLY: &str = "2026-11-22T05:00:00Z";
    const LATE: &str = "2026-11-22T06:00:00Z";

    #[test]
    fn the_highest_number_is_the_present_replica_set() {
        let web = workload("web", &["a"]);
        // After `rollout undo` the older object has the higher number.
        let objects = [replica_set("9", LATE, ""), replica_set("10", EARLY, "")];
        let revision = revision_of(&web, &objects).unwrap();
        assert_eq!(revision.created, EARLY.parse().unwrap());
        assert_eq!(revision_of(&web, &[]), None);
        assert_eq!(revision_of(&web, &[replica_set("1", "no time", "")]), None);
    }

    #[test]
    fn in_which_order_they_are_listed_does_not_matter() {
        let web = workload("web", &["a"]);
        let highest_without_a_time = [replica_set("2", "no time", ""), replica_set("1", EARLY, "")];
        let twice = [replica_set("2", LATE, ""), replica_set("2", EARLY, "")];
        for (mut objects, expected) in
            [(highest_without_a_time, None), (twice, Some(EARLY.parse().unwrap()))]
        {
            for _ in 0..2 {
                let created = revision_of(&web, &objects).map(|revision| revision.created);
                assert_eq!(created, expected, "{objects:?}");
                objects.reverse();
            }
        }
    }

    #[test]
    fn a_stateful_set_says_itself_what_it_moves_to() {
        let objects = [controller_revision("db-a", 3, LATE), controller_revision("db-b", 2, EARLY)];
        let kind = |kind, update_revision: Option<&str>| {
            let mut db = workload("db", &["a"]);
            db.id.kind = kind;
            db.update_revision = update_revision.map(Into::into);
            revision_of(&db, &objects).unwrap().created
        };
        assert_eq!(kind(Kind::STATEFUL_SET, Some("db-b")), EARLY.parse().unwrap());
        assert_eq!(kind(Kind::STATEFUL_SET, None), LATE.parse().unwrap());
        assert_eq!(kind(Kind::DAEMON_SET, None), LATE.parse().unwrap());
    }

    #[test]
    fn who_will_never_have_a_revision_has_pods_as_old_as_itself_at_most() {
        let created_of = |kind, objects: &[Value]| {
            let mut db = workload("db", &["a"]);
            db.id.kind = kind;
            db.update_revision = Some("db-of-another".into());
            db.created = EARLY.parse().unwrap();
            revision_of(&db, objects).map(|revision| revision.created.to_string())
        };
        for kind in [Kind::DAEMON_SET, Kind::STATEFUL_SET] {
            assert_eq!(created_of(kind, &[]).as_deref(), Some(EARLY));
            // The workload's own revision cannot be older than the workload.
            let own = [controller_revision("db-a", 1, LATE)];
            assert_eq!(created_of(kind, &own).as_deref(), Some(LATE));
            assert_eq!(created_of(kind, &[controller_revision("db-a", 1, "no time")]), None);
        }
        // A paused Deployment may have neither a ReplicaSet nor pods.
        assert_eq!(created_of(Kind::DEPLOYMENT, &[]), None);
    }

    #[test]
    fn copies_of_the_record_count_if_they_are_its_own_and_of_its_secrets() {
        let web = workload("web", &["a"]);
        let record = |uid: &str| {
            let versions =
                [(secret("a").hash64(), version(1, 1)), (secret("z").hash64(), version(2, 2))];
            let versions = versions.into_iter().collect();
            Record {
                uid: uid.to_owned(),
                mark: "m".to_owned(),
                at: None,
                streak: 0,
                was_unhealthy: false,
                versions,
            }
            .encode()
        };
        let objects = [
            replica_set("1", EARLY, &record("uid-of-web")),
            replica_set("2", EARLY, &record("uid-of-web")),
            replica_set("3", LATE, &record("uid-of-another")),
            replica_set("4", LATE, "nonsense"),
        ];
        let revision = revision_of(&web, &objects).unwrap();
        let copy = Copied { secret: secret("a").hash64(), version: version(1, 1), is_later: false };
        assert_eq!(*revision.copies, [copy]);
        // A template that was put back is the template of an earlier revision.
        let objects = [
            replica_set("9", EARLY, ""),
            replica_set("8", LATE, &record("uid-of-web")),
            replica_set("7", EARLY, &record("uid-of-web")),
        ];
        let revision = revision_of(&web, &objects).unwrap();
        assert_eq!(*revision.copies, [copy, Copied { is_later: true, ..copy }]);
    }

    /// Makes a look-up whose server answers each request by a script after one second.
    fn revisions_from(
        script: impl Fn(&str) -> axum::body::Body + Clone + Send + Sync + 'static,
    ) -> Revisions {
        let server = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let script = script.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let query = request.uri().query().unwrap_or_default();
                Ok::<_, tower::BoxError>(http::Response::new(script(query)))
            }
        });
        let server = tower::Layer::layer(&super::super::bounds::BoundsLayer, server);
        Revisions::new(Client::new(server, "default"))
    }

    fn page(next: &str, objects: &[Value]) -> axum::body::Body {
        let owned = objects.iter().map(|object| owned(object, "shop", &[]));
        let items: Vec<Value> = owned.collect();
        json!({ "metadata": { "continue": next }, "items": items }).to_string().into()
    }

    /// Returns a revision in a namespace, owned by the Deployment `web` except for the fields of
    /// `but`.
    fn owned(object: &Value, namespace: &str, but: &[(&str, Value)]) -> Value {
        let mut owner = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": "web",
            "uid": "uid-of-web",
            "controller": true,
        });
        for (field, value) in but {
            owner[*field] = value.clone();
        }
        let mut object = object.clone();
        object["metadata"]["namespace"] = namespace.into();
        object["metadata"]["ownerReferences"] = json!([owner]);
        object
    }

    #[test]
    fn a_revision_counts_only_where_its_owner_can_be_the_workload() {
        let web = workload("web", &["a"]);
        let own = owned(&replica_set("1", EARLY, ""), "shop", &[]);
        let forged = replica_set("999", LATE, "");
        let others = [
            owned(&forged, "of-another-tenant", &[]),
            owned(&forged, "shop", &[("name", json!("web-2"))]),
            owned(&forged, "shop", &[("kind", json!("StatefulSet"))]),
            owned(&forged, "shop", &[("apiVersion", json!("example.com/v1"))]),
            owned(&forged, "shop", &[("controller", json!(false))]),
            owned(&forged, "shop", &[("uid", json!("uid-of-another"))]),
            forged,
        ];
        for other in others {
            let mut candidates = Candidates::new([&web]);
            let items = [own.clone(), other.clone()];
            candidates.take(serde_json::from_value(json!({ "items": items })).unwrap());
            let created = candidates.into_revisions().remove(0).1.created;
            assert_eq!(created, EARLY.parse().unwrap(), "{other}");
        }
        let mut candidates = Candidates::new([&web]);
        let items = [own, owned(&replica_set("2", LATE, ""), "shop", &[])];
        candidates.take(serde_json::from_value(json!({ "items": items })).unwrap());
        assert_eq!(candidates.into_revisions()[0].1.created, LATE.parse().unwrap());
    }

    #[test]
    fn of_a_list_that_was_cut_short_the_namespaces_before_the_last_one_count() {
        let found = |namespaces: &[&str]| {
            let workloads: Vec<_> = ["a", "a-b", "b"]
                .map(|namespace| {
                    let mut web = workload("web", &["a"]);
                    (web.id.namespace, web.uid) = (namespace.into(), namespace.into());
                    web
                })
                .into();
            let mut candidates = Candidates::new(&workloads);
            let object = |namespace: &&str| {
                owned(&replica_set("1", EARLY, ""), namespace, &[("uid", json!(namespace))])
            };
            let items: Vec<_> = namespaces.iter().map(object).collect();
            candidates.take(serde_json::from_value(json!({ "items": items })).unwrap());
            let mut found: Vec<_> = candidates
                .into_complete_revisions()
                .into_iter()
                .map(|(uid, _)| uid.to_string())
                .collect();
            found.sort();
            found.join(" ")
        };
        // The key `a-b/web` comes before `a/web`.
        assert_eq!(found(&["a-b", "a", "b"]), "a a-b");
        assert_eq!(found(&["a-b", "a-b"]), "");
        assert_eq!(found(&["a", "b"]), "a", "one without a revision is not known of");
        // A server that lists in another order may still show more objects of each namespace.
        assert_eq!(found(&["a", "a-b", "b"]), "");
        assert_eq!(found(&[]), "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_without_an_end_is_given_up_and_known_of_nobody() {
        let endless = revisions_from(|_| page("more", &[replica_set("1", EARLY, "")]));
        for kind in [Kind::DEPLOYMENT, Kind::DAEMON_SET] {
            let mut web = workload("web", &["a"]);
            web.id.kind = kind;
            let began = Instant::now();
            assert!(endless.of(&[Arc::new(web)]).await.is_empty());
            assert_eq!(began.elapsed(), LONGEST);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_is_too_long_is_asked_for_in_parts() {
        let server = revisions_from(|query| {
            if query.contains("limit=250") || query.contains("limit=62&continue=next") {
                return "x".repeat(17 << 20).into();
            }
            let next = if query.contains("continue") { "" } else { "next" };
            page(next, &[replica_set("1", EARLY, "")])
        });
        let found = server.of(&[Arc::new(workload("web", &["a"]))]).await;
        assert_eq!(found.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn pages_that_arrived_count_where_a_later_one_fails() {
        let of = |name: &str, namespace: &str| {
            let mut workload = workload(name, &["a"]);
            workload.id.namespace = namespace.into();
            Arc::new(workload)
        };
        // With so many namespaces, one list covers all of them.
        let names: Vec<String> = (10..30).map(|number| format!("n{number}")).collect();
        let workloads: Vec<_> = names.iter().map(|name| of("web", name)).collect();
        let fails = Arc::new(std::sync::atomic::AtomicU32::new(u32::MAX));
        let failing = Arc::clone(&fails);
        let server = revisions_from(move |query| {
            let objects = |names: std::ops::Range<u32>| -> Vec<Value> {
                names
                    .map(|number| {
                        let namespace = format!("n{number}");
                        let mut object = owned(&replica_set("1", EARLY, ""), &namespace, &[]);
                        let uid = format!("uid-{namespace}");
                        object["metadata"]["ownerReferences"][0]["uid"] = uid.into();
                        object
                    })
                    .collect()
            };
            if !query.contains("continue") {
                let metadata = json!({ "continue": "next" });
                return json!({ "metadata": metadata, "items": objects(10..20) })
                    .to_string()
                    .into();
            }
            if failing.load(Ordering::Relaxed) > 0 {
                failing.fetch_sub(1, Ordering::Relaxed);
                return "no JSON".into();
            }
            json!({ "items": objects(19..30) }).to_string().into()
        });
        let workloads: Vec<_> = workloads
            .into_iter()
            .map(|workload| {
                let uid = format!("uid-{}", workload.id.namespace).into();
                Arc::new(Workload { uid, ..(*workload).clone() })
            })
            .collect();
        // The missing page may show more revisions of the last namespace that was seen.
        assert_eq!(server.of(&workloads).await.len(), 9);
        // A passing error does not matter.
        fails.store(2, Ordering::Relaxed);
        assert_eq!(server.of(&workloads).await.len(), 20);
    }

    #[test]
    fn copies_of_the_record_have_an_end() {
        let web = workload("web", &["a"]);
        let objects: Vec<Value> = (0..10_500)
            .map(|number| {
                let versions = [(secret("a").hash64(), version(number, 1))].into_iter().collect();
                let record = Record {
                    streak: 0,
                    was_unhealthy: false,
                    uid: "uid-of-web".to_owned(),
                    mark: "m".to_owned(),
                    at: None,
                    versions,
                };
                replica_set("1", EARLY, &record.encode())
            })
            .collect();
        assert_eq!(revision_of(&web, &objects).unwrap().copies.len(), MOST_COPIES);
    }
}
