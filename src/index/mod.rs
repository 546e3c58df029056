//! The index: which workloads refer to which secrets, by which ConfigMaps and Secrets, and since
//! which poll.
//!
//! The Kubernetes adapters write the index, and the engines take snapshots of it. They share
//! nothing but the index. The index also numbers the polls, because a witnessed change rests on
//! their order: what counts is whether a template entered the index before a poll began.
//!
//! Architecture Invariant: the entries have a lock, and so have the findings and the namespaces. No
//! function takes two at once, none is held across an await, and nothing in this module waits.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
pub mod namespaces;
pub mod quota;
pub mod sources;
mod states;
#[cfg(test)]
mod tests;

use effect::Effect;
use entries::{Entries, IndexedWorkload, Snapshot};
use findings::{Finding, FindingSource, Findings};
use namespaces::Namespaces;
use quota::Quota;
use sources::SourceRead;

#[cfg(test)]
use crate::references::environment::SourceName;
#[cfg(test)]
use crate::references::source::SourceState;

/// The workloads, the secrets they refer to, and the sources they name.
#[derive(Debug, Default)]
pub struct Index {
    servers: Servers,
    readable: ReadableSources,
    findings: Findings,
    namespaces: Namespaces,
    quota: Quota,
    entries: Mutex<Entries>,
}

impl Index {
    /// Returns an empty index. `servers` are the servers that workloads may use; `readable` are the
    /// kinds of sources that may be read.
    #[must_use]
    pub fn new(servers: Servers, readable: ReadableSources) -> Self {
        let mut entries = Entries::default();
        entries.sources.readable = readable;
        Self { servers, readable, entries: Mutex::new(entries), ..Self::default() }
    }

    /// Sets the quota of each namespace.
    #[must_use]
    pub fn with_quota(self, quota: Quota) -> Self {
        Self { quota, ..self }
    }

    /// The number of secrets that the workloads of a namespace may refer to.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// The servers that workloads may use.
    #[must_use]
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// The kinds of sources that may be read.
    #[must_use]
    pub fn readable(&self) -> ReadableSources {
        self.readable
    }

    /// What the owners of workloads should know of their references.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// What the annotations of namespaces say about reloads.
    #[must_use]
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// Applies an object from a list or a watch.
    pub fn apply(&self, manifest: Manifest, kind: Kind) -> Vec<Effect> {
        self.findings.forget_others(&manifest.id(kind), &manifest.uid);
        let effects = self.entries().apply(manifest, kind, &self.servers);
        self.take_in_findings(&effects);
        effects
    }

    /// Applies the answer to our own PATCH, if the workload is still in the index.
    pub fn refresh(&self, manifest: &Manifest, kind: Kind) {
        self.entries().refresh(manifest, kind, &self.servers);
    }

    /// Reads a manifest with the present state of its sources. Changes nothing.
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

    /// Begins a full list of a kind. At its end, workloads that it did not contain are removed.
    pub fn begin_list(&self, kind: Kind) {
        self.entries().lists.begin(kind);
    }

    /// Ends a full list of a kind.
    pub fn end_list(&self, kind: Kind) -> Vec<Effect> {
        let (gone, effects) = self.entries().end_list(kind);
        for id in gone {
            self.findings.forget(&id);
        }
        effects
    }

    /// Takes out the sources of a kind that workloads name and that were not taken out before.
    #[must_use]
    pub fn take_unread_sources(&self, kind: SourceKind) -> Vec<SourceId> {
        self.entries().sources.take_unread(kind)
    }

    /// Returns the sources of a kind that workloads name, each with the resource version that was
    /// read.
    #[must_use]
    pub fn named_sources(&self, kind: SourceKind) -> Vec<(SourceId, Option<Box<str>>)> {
        self.entries().sources.named(kind)
    }

    /// Whether any workload names a source.
    #[must_use]
    pub fn names_source(&self, id: &SourceId) -> bool {
        self.entries().sources.is_named(id)
    }

    /// Whether any workload names a source, and its resource version is not the one that was read.
    #[must_use]
    pub fn is_source_outdated(&self, id: &SourceId, resource_version: Option<&str>) -> bool {
        self.entries().sources.is_outdated(id, resource_version)
    }

    /// Stores the result of reading a source. [`Index::read_next_changed`] applies it to the
    /// workloads.
    pub fn put_source(&self, id: &SourceId, found: SourceRead) {
        self.entries().put_source(id, found);
    }

    /// Reads the next workload of which a source changed. Returns `None` if there is none. The lock
    /// is held for one workload at a time.
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

    /// Whether all workloads that existed before this process are known, but for those of kinds that
    /// cannot be listed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.entries().is_settled()
    }

    /// Lets polls begin without the first full list of a kind.
    pub fn do_not_await(&self, kind: Kind) {
        self.entries().lists.do_not_await(kind);
    }

    /// Whether polls may begin: at least one kind was listed in full, and each other kind was
    /// listed in full or is overdue, as are the namespaces.
    #[must_use]
    pub fn may_be_polled(&self) -> bool {
        self.namespaces.may_be_polled() && self.entries().lists.may_be_polled()
    }

    /// Begins a poll of a server: numbers the poll and returns the present workloads of the server.
    /// The polls of all servers are numbered in one sequence.
    #[must_use]
    pub fn begin_poll(&self, server: &str) -> Snapshot {
        let mut snapshot = self.entries().begin_poll(server);
        let workloads = std::mem::take(&mut snapshot.workloads);
        (snapshot.workloads, snapshot.over_quota) =
            self.quota.split(workloads, |stored| &stored.workload);
        snapshot
    }

    /// Whether the workload refers to secrets of another server than `server`.
    #[must_use]
    pub fn is_of_another(&self, id: &WorkloadId, server: &str) -> bool {
        self.entries().is_of_another(id, server)
    }

    /// Whether any workload refers to a secret.
    #[must_use]
    pub fn refers_to(&self, secret: &SecretId) -> bool {
        self.entries().refers_to(secret)
    }

    /// Returns the workloads that refer to secrets, in order of their names.
    #[must_use]
    pub fn workloads(&self) -> Vec<IndexedWorkload> {
        self.entries().all()
    }

    /// Returns the present state of a workload, if it refers to secrets.
    #[must_use]
    pub fn get(&self, id: &WorkloadId) -> Option<IndexedWorkload> {
        self.entries().get(id).cloned()
    }

    /// Returns the wanted secrets, each with the workloads that refer to it. Workloads are in order of
    /// their ids. `is_wanted` is asked once for each secret.
    #[must_use]
    pub fn users(
        &self,
        is_wanted: impl Fn(&SecretId) -> bool,
    ) -> BTreeMap<Arc<SecretId>, Vec<IndexedWorkload>> {
        self.entries().users(is_wanted)
    }

    /// Returns the secrets that the workloads of a Kubernetes namespace refer to.
    #[must_use]
    pub fn secrets_of(&self, namespace: &str) -> HashSet<Arc<SecretId>> {
        self.entries().secrets_of(namespace)
    }

    /// The number of changes of these workloads so far. While it stays the same, so do they, but for
    /// the versions of their objects.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.entries().changes
    }

    /// Returns the uid of a workload that refers to secrets.
    #[must_use]
    pub fn uid(&self, id: &WorkloadId) -> Option<Arc<str>> {
        self.entries().get(id).map(|stored| Arc::clone(&stored.workload.uid))
    }

    /// The number of workloads that refer to secrets, and the number of distinct secrets.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        self.entries().len()
    }

    /// The number of workloads that have an entry.
    #[cfg(test)]
    fn known(&self) -> usize {
        self.entries().known()
    }

    /// Returns the state of a source.
    #[cfg(test)]
    pub(crate) fn look_up(&self, namespace: &Arc<str>, named: &SourceName) -> SourceState {
        self.entries().sources.look_up(namespace, named)
    }

    /// Updates the findings from the effects of a change.
    fn take_in_findings(&self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Noted { id, uid, notes, .. } => {
                    self.findings.set(id, uid, FindingSource::Manifest, Finding::of_notes(notes));
                }
                Effect::Removed(id) => {
                    for source in FindingSource::OF_WATCHED {
                        self.findings.take_back(id, source);
                    }
                }
                Effect::ReadSources
                | Effect::ListAgain(_)
                | Effect::Collected { .. }
                | Effect::RolloutEnded { .. }
                | Effect::FirstListEnded { .. } => {}
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // A panic under the lock ends the process. Until then, its other tasks may still read.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
