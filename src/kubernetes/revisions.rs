//! Revisions: what the controllers of workloads made of their present templates.
//!
//! They are asked for only where an answer hangs on them, by a LIST of one namespace that serves
//! all of its workloads, or of the whole cluster where many namespaces are concerned.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use kube::Client;
use kube::api::{ListParams, Request};
use serde::Deserialize;
use tracing::error;

use super::client::in_time;
use crate::core::plan::{Copied, Revision};
use crate::core::record::Record;
use crate::core::secret::Version;
use crate::core::workload::{Kind, Workload};

/// Objects a page: metadata of ReplicaSets is about 2 kB each.
const PAGE: u32 = 250;

/// With more namespaces than these, one LIST of the cluster is less work for everybody.
const MANY_NAMESPACES: usize = 16;

/// Namespaces that are listed at a time.
const AT_A_TIME: usize = 4;

/// Looks up revisions.
#[derive(Clone)]
pub struct Revisions {
    client: Client,
    /// Whether a list has failed since the last that did not; said once a change.
    is_failing: Arc<AtomicBool>,
}

/// What a resource of revisions is called, and how it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    ReplicaSets,
    ControllerRevisions,
}

impl Resource {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Deployment => Self::ReplicaSets,
            Kind::DaemonSet | Kind::StatefulSet => Self::ControllerRevisions,
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
    /// A look-up that uses `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, is_failing: Arc::default() }
    }

    /// The revisions of workloads, by uid. One that cannot be had is not among them.
    pub async fn of(&self, workloads: &[Arc<Workload>]) -> HashMap<Box<str>, Revision> {
        let mut found = HashMap::new();
        for resource in [Resource::ReplicaSets, Resource::ControllerRevisions] {
            let mut namespaces: HashMap<&str, Vec<&Workload>> = HashMap::new();
            for workload in workloads.iter().filter(|w| Resource::of(w.id.kind) == resource) {
                namespaces.entry(&workload.id.namespace).or_default().push(workload);
            }
            let lists: Vec<_> = if namespaces.len() > MANY_NAMESPACES {
                let all = namespaces.into_values().flatten().collect();
                vec![self.list(resource, None, all)]
            } else {
                let lists = namespaces.into_iter();
                lists.map(|(name, wanted)| self.list(resource, Some(name), wanted)).collect()
            };
            found.extend(stream::iter(lists).buffer_unordered(AT_A_TIME).concat().await);
        }
        found
    }

    /// The revisions of workloads of one namespace, or of any. They are picked out page by page, so
    /// that a cluster with many old ReplicaSets takes no more memory than one page of them.
    async fn list(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        wanted: Vec<&Workload>,
    ) -> Vec<(Box<str>, Revision)> {
        let scope = namespace.map(|name| format!("namespaces/{name}/")).unwrap_or_default();
        let request = Request::new(format!("/apis/apps/v1/{scope}{}", resource.plural()));
        let mut params = ListParams::default().limit(PAGE);
        let mut candidates: HashMap<&str, Candidate> =
            wanted.into_iter().map(|w| (&*w.uid, Candidate::of(w))).collect();
        loop {
            let page = match self.page(resource, &request, &params).await {
                Ok(page) => page,
                Err(message) => {
                    // What came before counts for nothing: a later page may hold a newer revision.
                    if !self.is_failing.swap(true, Ordering::Relaxed) {
                        error!(
                            worker = "reloader",
                            "Cannot list {}: {message}. Workloads whose secret may have changed while \
                             nobody watched wait for it; retrying",
                            resource.plural()
                        );
                    }
                    return Vec::new();
                }
            };
            for object in page.items {
                let owner = object.metadata.owner_references.iter().find(|owner| owner.controller);
                if let Some(candidate) = owner.and_then(|o| candidates.get_mut(o.uid.as_str())) {
                    candidate.take(object);
                }
            }
            params.continue_token = page.metadata.next.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                self.is_failing.store(false, Ordering::Relaxed);
                let found = candidates.into_iter().filter_map(|(uid, candidate)| {
                    candidate.into_revision().map(|revision| (uid.into(), revision))
                });
                return found.collect();
            }
        }
    }

    async fn page(
        &self,
        resource: Resource,
        request: &Request,
        params: &ListParams,
    ) -> Result<Page, String> {
        // The number of a ControllerRevision is not part of its metadata.
        let request = match resource {
            Resource::ReplicaSets => request.list_metadata(params),
            Resource::ControllerRevisions => request.list(params),
        };
        let request = request.map_err(|error| error.to_string())?;
        in_time(self.client.request::<Page>(request)).await.map_err(|error| error.to_string())
    }
}

/// The present revision of one workload, as far as it was found.
struct Candidate<'a> {
    workload: &'a Workload,
    number: i64,
    created: Option<Timestamp>,
    /// What the copies of its record say, and when the revisions that have them were made.
    copies: Vec<(u64, Version, Option<Timestamp>)>,
}

impl<'a> Candidate<'a> {
    fn of(workload: &'a Workload) -> Self {
        Self { workload, number: i64::MIN, created: None, copies: Vec::new() }
    }

    fn take(&mut self, object: RevisionObject) {
        let Meta { name, creation_timestamp, annotations, .. } = object.metadata;
        let Annotations { number, record } = annotations.unwrap_or_default();
        let number = match self.workload.id.kind {
            Kind::Deployment => number.and_then(|number| number.parse().ok()).unwrap_or(0),
            // The one that a StatefulSet says it is moving to, whatever the numbers say.
            Kind::StatefulSet if self.workload.update_revision.as_deref() == Some(&name) => {
                i64::MAX
            }
            Kind::DaemonSet | Kind::StatefulSet => object.revision,
        };
        let created = creation_timestamp.and_then(|time| time.parse().ok());
        if number > self.number || self.created.is_none() {
            self.number = number;
            self.created = created;
        }
        let record = record.and_then(|text| Record::parse(&text).ok());
        if let Some(recorded) = record.and_then(|record| record.of(&self.workload.uid, None)) {
            let hashes: HashSet<u64> = self.workload.secrets.iter().map(|s| s.hash64()).collect();
            let entries = recorded.versions.iter().filter(|(hash, _)| hashes.contains(hash));
            self.copies.extend(entries.map(|(hash, version)| (hash, version, created)));
        }
    }

    fn into_revision(self) -> Option<Revision> {
        let present = self.created?;
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
}

#[derive(Deserialize)]
struct Page {
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

/// A `ReplicaSet` or `ControllerRevision`; of the latter not its data.
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
    creation_timestamp: Option<String>,
    #[serde(default)]
    owner_references: Vec<Owner>,
    annotations: Option<Annotations>,
}

/// The annotations that count; the others are skipped while they are read.
#[derive(Default, Deserialize)]
struct Annotations {
    /// By which a Deployment's controller numbers its ReplicaSets.
    #[serde(rename = "deployment.kubernetes.io/revision")]
    number: Option<String>,
    /// A copy of the record: [`crate::core::annotation::RECORD`].
    #[serde(rename = "secrets-reloader.security.bank-vaults.io/reload-record")]
    record: Option<String>,
}

#[derive(Deserialize)]
struct Owner {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    controller: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::core::annotation::RECORD;
    use crate::core::fixtures::{secret, version, workload};

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
    fn a_stateful_set_says_itself_what_it_moves_to() {
        let objects = [controller_revision("db-a", 3, LATE), controller_revision("db-b", 2, EARLY)];
        let kind = |kind, update_revision: Option<&str>| {
            let mut db = workload("db", &["a"]);
            db.id.kind = kind;
            db.update_revision = update_revision.map(Into::into);
            revision_of(&db, &objects).unwrap().created
        };
        assert_eq!(kind(Kind::StatefulSet, Some("db-b")), EARLY.parse().unwrap());
        assert_eq!(kind(Kind::StatefulSet, None), LATE.parse().unwrap());
        assert_eq!(kind(Kind::DaemonSet, None), LATE.parse().unwrap());
    }

    #[test]
    fn copies_of_the_record_count_if_they_are_its_own_and_of_its_secrets() {
        let web = workload("web", &["a"]);
        let record = |uid: &str| {
            let versions =
                [(secret("a").hash64(), version(1, 1)), (secret("z").hash64(), version(2, 2))];
            let versions = versions.into_iter().collect();
            Record { uid: uid.to_owned(), mark: "m".to_owned(), versions }.encode()
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
        // A template that was put back is that of an earlier revision.
        let objects = [
            replica_set("9", EARLY, ""),
            replica_set("8", LATE, &record("uid-of-web")),
            replica_set("7", EARLY, &record("uid-of-web")),
        ];
        let revision = revision_of(&web, &objects).unwrap();
        assert_eq!(*revision.copies, [copy, Copied { is_later: true, ..copy }]);
    }
}
