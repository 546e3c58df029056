//! The index: which workloads refer to which secrets, by which ConfigMaps and Secrets, and since
//! which poll.
//!
//! The Kubernetes adapters write the index, and the engines take snapshots of it. They share
//! nothing but the index. The index also numbers the polls, because a witnessed change rests on
//! their order: what counts is whether a template entered the index before a poll began.
//!
//! Architecture Invariant: the entries have a lock, and so have the findings, the namespaces and the
//! selection. No function takes two at once, none is held across an await, and nothing in this module
//! waits.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::kind::Kind;
use crate::model::scope::{ListScope, WatchScope};
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
pub mod selection;
pub mod sources;
mod states;
#[cfg(test)]
mod tests;

use effect::Effect;
use entries::{Entries, IndexedWorkload, Snapshot};
use findings::{Finding, FindingSource, Findings};
use lists::Lists;
use namespaces::Namespaces;
use quota::Quota;
use selection::Selection;
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
    selection: Selection,
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

    /// Sets which namespaces are watched. All are, unless this is called.
    #[must_use]
    pub fn with_scope(self, scope: &WatchScope) -> Self {
        self.entries().lists = Lists::of_namespaces(scope.names());
        Self { selection: Selection::new(scope.selector().is_some()), ..self }
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

    /// The namespaces that the operator's label selector selects.
    #[must_use]
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Applies an object from a list or a watch. An object of a namespace that is not selected does
    /// not enter the index.
    pub fn apply(&self, manifest: Manifest, kind: Kind) -> Vec<Effect> {
        let id = manifest.id(kind);
        if !self.selection.contains(&id.namespace) {
            return self.delete(&id);
        }
        self.findings.forget_others(&id, &manifest.uid);
        let mut effects = self.entries().apply(manifest, kind, &self.servers);
        self.take_in_findings(&effects);
        // The namespace may have lost its label meanwhile, and its workloads may have been removed
        // before this one came.
        if !self.selection.contains(&id.namespace) {
            effects.extend(self.delete(&id));
        }
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

    /// Removes the workloads of a namespace that is not selected any more.
    pub fn leave_namespace(&self, namespace: &str) -> Vec<Effect> {
        let (gone, effects) = self.entries().leave_namespace(namespace);
        self.forget(gone);
        effects
    }

    /// Begins a full list. At its end, workloads that it should contain and did not are removed.
    pub fn begin_list(&self, list: impl Into<ListScope>) {
        self.entries().lists.begin(&list.into());
    }

    /// Ends a full list.
    pub fn end_list(&self, list: impl Into<ListScope>) -> Vec<Effect> {
        let (gone, effects) = self.entries().end_list(&list.into());
        self.forget(gone);
        effects
    }

    /// Takes out the sources of a kind that workloads name and that were not taken out before: all,
    /// or those of a namespace.
    #[must_use]
    pub fn take_unread_sources(&self, kind: SourceKind, namespace: Option<&str>) -> Vec<SourceId> {
        self.entries().sources.take_unread(kind, namespace)
    }

    /// Returns the sources of a kind that workloads name, each with the resource version that was
    /// read: all, or those of a namespace.
    #[must_use]
    pub fn named_sources(
        &self,
        kind: SourceKind,
        namespace: Option<&str>,
    ) -> Vec<(SourceId, Option<Box<str>>)> {
        self.entries().sources.named(kind, namespace)
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

    /// Whether every kind was listed in full at least once, in each namespace that is watched.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.entries().lists.are_all_complete()
    }

    /// Whether the controller can do its work: every kind was listed in full at least once. A named
    /// namespace that cannot be listed in time is not waited for.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.entries().lists.are_ready()
    }

    /// Whether all workloads that existed before this process are known, but for those of kinds that
    /// cannot be listed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.entries().is_settled()
    }

    /// Lets polls begin without the first full list of these workloads.
    pub fn do_not_await(&self, list: impl Into<ListScope>) {
        self.entries().lists.do_not_await(&list.into());
    }

    /// Whether polls may begin: at least one list has ended, and each other list has ended or is
    /// overdue, as are the namespaces.
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

    fn forget(&self, gone: Vec<WorkloadId>) {
        for id in gone {
            self.findings.forget(&id);
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // A panic under the lock ends the process. Until then, its other tasks may still read.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
