//! The index: which workloads refer to which secrets, by which ConfigMaps and Secrets, and since which poll.
//!
//! The adapters of Kubernetes write it, and the engines take snapshots of it; they know each other only through
//! it. It also numbers the polls, because a witness is a matter of order: what counts is whether a
//! template entered the index before a poll began.
//!
//! Architecture Invariant: there is one lock, it is never held across an await, and nothing in here waits.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::kind::Kind;
use crate::model::secret::SecretId;
use crate::model::workload::WorkloadId;
use crate::references::environment::SourceKind;
use crate::references::manifest::{Manifest, Read};
use crate::references::servers::Servers;
use crate::references::source::{ReadableSources, SourceId};

pub mod effect;
pub mod entries;
pub mod findings;
mod lists;
pub mod quota;
pub mod sources;
#[cfg(test)]
mod tests;

#[cfg(test)]
use std::sync::Arc;

use effect::Effect;
use entries::{Entries, Snapshot};
use findings::{Finding, FindingSource, Findings};
use quota::Quota;
use sources::SourceRead;

#[cfg(test)]
use crate::references::environment::SourceName;
#[cfg(test)]
use crate::references::source::SourceState;

/// Who refers to what.
#[derive(Debug, Default)]
pub struct Index {
    servers: Servers,
    readable: ReadableSources,
    findings: Findings,
    quota: Quota,
    entries: Mutex<Entries>,
}

impl Index {
    /// An empty index, for workloads that mean some servers, and whose sources of some kinds may be read.
    #[must_use]
    pub fn new(servers: Servers, readable: ReadableSources) -> Self {
        let mut entries = Entries::default();
        entries.sources.readable = readable;
        Self { servers, readable, entries: Mutex::new(entries), ..Self::default() }
    }

    /// The same, with a quota for each namespace.
    #[must_use]
    pub fn with_quota(self, quota: Quota) -> Self {
        Self { quota, ..self }
    }

    /// How many secrets the workloads of a namespace may refer to.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// The servers that workloads may mean.
    #[must_use]
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Which sources may be read.
    #[must_use]
    pub fn readable(&self) -> ReadableSources {
        self.readable
    }

    /// What the owners of workloads should know of their references.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Takes in an object as a list or a watch shows it.
    pub fn apply(&self, manifest: Manifest, kind: Kind) -> Vec<Effect> {
        let effects = self.entries().apply(manifest, kind, &self.servers);
        self.take_in_findings(&effects);
        effects
    }

    /// Takes in the answer to our own PATCH, if the workload is there still.
    pub fn refresh(&self, manifest: &Manifest, kind: Kind) {
        self.entries().refresh(manifest, kind, &self.servers);
    }

    /// Reads a manifest with what is known of its sources, and changes nothing.
    #[must_use]
    pub fn read(&self, manifest: &Manifest, kind: Kind) -> Read {
        self.entries().read(manifest, kind, &self.servers)
    }

    /// Removes a workload that was deleted.
    pub fn delete(&self, id: &WorkloadId) -> Vec<Effect> {
        let removed = self.entries().delete(id);
        self.findings.forget(id);
        removed.into_iter().collect()
    }

    /// A full list of a kind begins: what it does not contain is gone when it ends.
    pub fn begin_list(&self, kind: Kind) {
        self.entries().lists.begin(kind);
    }

    /// A full list of a kind ended.
    pub fn end_list(&self, kind: Kind) -> Vec<Effect> {
        let (gone, effects) = self.entries().end_list(kind);
        for id in gone {
            self.findings.forget(&id);
        }
        effects
    }

    /// Takes out the sources of a kind that workloads name and that were never read.
    #[must_use]
    pub fn take_unread_sources(&self, kind: SourceKind) -> Vec<SourceId> {
        self.entries().sources.take_unread(kind)
    }

    /// The sources of a kind that workloads name, each with the resource version that was read.
    #[must_use]
    pub fn named_sources(&self, kind: SourceKind) -> Vec<(SourceId, Option<Box<str>>)> {
        self.entries().sources.named(kind)
    }

    /// Whether a workload names a source.
    #[must_use]
    pub fn names_source(&self, id: &SourceId) -> bool {
        self.entries().sources.is_named(id)
    }

    /// Whether a workload names a source that is in another version now than when it was read.
    #[must_use]
    pub fn is_source_outdated(&self, id: &SourceId, resource_version: Option<&str>) -> bool {
        self.entries().sources.is_outdated(id, resource_version)
    }

    /// Takes in how reading a source ended. [`Index::read_next_changed`] takes in what that means.
    pub fn put_source(&self, id: &SourceId, found: SourceRead) {
        self.entries().put_source(id, found);
    }

    /// Reads again a workload of which a source changed; `None` where no such workload is left. The lock is held
    /// for one workload at a time.
    pub fn read_next_changed(&self) -> Option<Vec<Effect>> {
        let effects = self.entries().read_changed(&self.servers)?;
        self.take_in_findings(&effects);
        Some(effects)
    }

    /// Whether every kind was listed in full at least once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.entries().lists.are_all_complete()
    }

    /// Polls need not wait for the first full list of a kind any longer.
    pub fn do_not_await(&self, kind: Kind) {
        self.entries().lists.do_not_await(kind);
    }

    /// Whether polls may begin: one kind was listed in full, and each other one was, too, or is
    /// overdue.
    #[must_use]
    pub fn may_be_polled(&self) -> bool {
        self.entries().lists.may_be_polled()
    }

    /// Begins a poll of a server: numbers it, and says what there is of that server at this moment. The
    /// polls of all servers are numbered in one row.
    #[must_use]
    pub fn begin_poll(&self, server: &str) -> Snapshot {
        let mut snapshot = self.entries().begin_poll(server);
        let workloads = std::mem::take(&mut snapshot.workloads);
        (snapshot.workloads, snapshot.over_quota) =
            self.quota.split(workloads, |stored| &stored.workload);
        snapshot
    }

    /// Whether a workload refers to secrets of another server than this.
    #[must_use]
    pub fn is_of_another(&self, id: &WorkloadId, server: &str) -> bool {
        self.entries().is_of_another(id, server)
    }

    /// Whether any workload refers to a secret.
    #[must_use]
    pub fn refers_to(&self, secret: &SecretId) -> bool {
        self.entries().refers_to(secret)
    }

    /// The number of workloads that refer to secrets, and of distinct secrets.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        self.entries().len()
    }

    /// One workload, as it is now.
    #[cfg(test)]
    pub(crate) fn get(&self, id: &WorkloadId) -> Option<entries::IndexedWorkload> {
        self.entries().get(id).cloned()
    }

    /// How many workloads anything is kept of.
    #[cfg(test)]
    fn known(&self) -> usize {
        self.entries().known()
    }

    /// What is known of a source.
    #[cfg(test)]
    pub(crate) fn look_up(&self, namespace: &Arc<str>, named: &SourceName) -> SourceState {
        self.entries().sources.look_up(namespace, named)
    }

    /// Takes in what the owners of workloads should know of their references.
    fn take_in_findings(&self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Noted { id, uid, notes, .. } => {
                    self.findings.set(id, uid, FindingSource::Manifest, Finding::of_notes(notes));
                }
                Effect::Removed(id) => self.findings.take_back(id, FindingSource::Vault),
                Effect::ReadSources
                | Effect::ListAgain(_)
                | Effect::Collected { .. }
                | Effect::FirstListEnded { .. } => {}
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // A panic while the lock was held ends the process; its other tasks may still look.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
