//! The ConfigMaps and Secrets that workloads name: the state of each, and the workloads that use
//! it.
//!
//! A source is read only while a workload names it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::model::workload::WorkloadId;
use crate::references::environment::{SourceKind, SourceName};
use crate::references::reason::Reason;
use crate::references::source::{Content, ReadableSources, SourceId, SourceState};

/// The result of reading a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceRead {
    /// The source does not exist.
    Missing,
    /// The source cannot be read, for a reason.
    Unreadable(Reason),
    /// The source was read.
    Read {
        /// `metadata.resourceVersion`
        resource_version: String,
        /// The content of the source.
        content: Content,
    },
}

/// The sources that workloads name.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) readable: ReadableSources,
    entries: HashMap<SourceId, Entry>,
    /// The sources that are named and were not taken out to be read yet.
    unread: BTreeSet<SourceId>,
    /// The workloads to read again, because one of their sources changed. Each is here once,
    /// however often that happens.
    changed: BTreeSet<WorkloadId>,
}

#[derive(Debug)]
struct Entry {
    /// The workloads that name the source, in order, each once. A vector, because most sources have
    /// one user, for which a tree would take half a kilobyte.
    users: Vec<WorkloadId>,
    known: SourceState,
    resource_version: Option<Box<str>>,
}

impl Sources {
    /// Returns the state of a source that a workload of a namespace names.
    pub(super) fn look_up(&self, namespace: &Arc<str>, named: &SourceName) -> SourceState {
        if !self.readable.includes(named.kind) {
            return SourceState::Unreadable(Reason::SourceNotRead);
        }
        if !named.is_valid() {
            return SourceState::Missing;
        }
        let id = SourceId::new(namespace, named);
        self.entries.get(&id).map_or(SourceState::Unread, |entry| entry.known.clone())
    }

    /// Returns the readable sources among those that a workload of a namespace names. A source with
    /// an invalid object name is never read.
    pub(super) fn ids(
        &self,
        namespace: &Arc<str>,
        named: BTreeSet<&SourceName>,
    ) -> Box<[SourceId]> {
        let is_readable =
            |named: &&SourceName| self.readable.includes(named.kind) && named.is_valid();
        let readable = named.into_iter().filter(is_readable);
        readable.map(|named| SourceId::new(namespace, named)).collect()
    }

    /// Replaces the sources that a workload names: `ids` instead of `before`. Both are in order.
    pub(super) fn name(&mut self, workload: &WorkloadId, before: &[SourceId], ids: &[SourceId]) {
        if before == ids {
            return;
        }
        for id in ids {
            self.begin_use(id, workload);
        }
        for id in before.iter().filter(|id| ids.binary_search(id).is_err()) {
            self.end_use(id, workload);
        }
        if ids.is_empty() {
            self.changed.remove(workload);
        }
    }

    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Takes out the sources of a kind that are named and were not taken out before: all, or those
    /// of a namespace.
    pub(super) fn take_unread(
        &mut self,
        kind: SourceKind,
        namespace: Option<&str>,
    ) -> Vec<SourceId> {
        // The readers of all named namespaces are woken, and most of them find nothing.
        if !self.unread.iter().any(|id| is_of(id, kind, namespace)) {
            return Vec::new();
        }
        let (unread, others) =
            std::mem::take(&mut self.unread).into_iter().partition(|id| is_of(id, kind, namespace));
        self.unread = others;
        BTreeSet::into_iter(unread).collect()
    }

    /// The sources of a kind that are named, each with the resource version that was read: all, or
    /// those of a namespace.
    pub(super) fn named(
        &self,
        kind: SourceKind,
        namespace: Option<&str>,
    ) -> Vec<(SourceId, Option<Box<str>>)> {
        let wanted = self.entries.iter().filter(|(id, _)| is_of(id, kind, namespace));
        wanted.map(|(id, entry)| (id.clone(), entry.resource_version.clone())).collect()
    }

    pub(super) fn is_named(&self, id: &SourceId) -> bool {
        self.entries.contains_key(id)
    }

    /// Whether a source is named and has another resource version than the one that was read.
    pub(super) fn is_outdated(&self, id: &SourceId, resource_version: Option<&str>) -> bool {
        let entry = self.entries.get(id);
        entry.is_some_and(|entry| entry.resource_version.as_deref() != resource_version)
    }

    /// Stores the result of reading a source. If its state changes, the workloads that name the
    /// source are read again.
    pub(super) fn put(&mut self, id: &SourceId, found: SourceRead) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let (known, resource_version) = match found {
            SourceRead::Missing => (SourceState::Missing, None),
            // The content that was read before stays valid.
            SourceRead::Unreadable(_) if matches!(entry.known, SourceState::Read(_)) => return,
            SourceRead::Unreadable(reason) => (SourceState::Unreadable(reason), None),
            SourceRead::Read { resource_version, content } => {
                (SourceState::Read(Arc::new(content)), Some(resource_version.into()))
            }
        };
        entry.resource_version = resource_version;
        if entry.known != known {
            entry.known = known;
            self.changed.extend(entry.users.iter().cloned());
        }
    }

    /// Takes out the next workload to read again.
    pub(super) fn take_changed(&mut self) -> Option<WorkloadId> {
        self.changed.pop_first()
    }

    fn begin_use(&mut self, id: &SourceId, workload: &WorkloadId) {
        if let Some(entry) = self.entries.get_mut(id) {
            if let Err(place) = entry.users.binary_search(workload) {
                entry.users.insert(place, workload.clone());
            }
            return;
        }
        let users = vec![workload.clone()];
        let entry = Entry { users, known: SourceState::Unread, resource_version: None };
        self.entries.insert(id.clone(), entry);
        self.unread.insert(id.clone());
    }

    fn end_use(&mut self, id: &SourceId, workload: &WorkloadId) {
        if let Some(entry) = self.entries.get_mut(id) {
            if let Ok(place) = entry.users.binary_search(workload) {
                entry.users.remove(place);
            }
            if entry.users.is_empty() {
                self.entries.remove(id);
                self.unread.remove(id);
            }
        }
    }
}

/// Whether a source is of a kind, and of a namespace if one is given.
fn is_of(id: &SourceId, kind: SourceKind, namespace: Option<&str>) -> bool {
    id.kind == kind && namespace.is_none_or(|namespace| *id.namespace == *namespace)
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::model::kind::Kind;

    fn workload(name: &str) -> WorkloadId {
        WorkloadId { kind: Kind::DEPLOYMENT, namespace: "shop".into(), name: name.into() }
    }

    fn config_map(name: &str) -> SourceName {
        SourceName { kind: SourceKind::ConfigMap, name: name.to_owned() }
    }

    fn id(name: &str) -> SourceId {
        SourceId::new(&"shop".into(), &config_map(name))
    }

    fn read(version: &str, value: &str) -> SourceRead {
        let content = Content::new([("K", value.as_bytes())]);
        SourceRead::Read { resource_version: version.to_owned(), content }
    }

    fn changed(sources: &mut Sources) -> Vec<WorkloadId> {
        std::iter::from_fn(|| sources.take_changed()).collect()
    }

    #[test]
    fn a_source_is_read_once_and_forgotten_with_its_last_user() {
        let mut sources = Sources::default();
        let (a, b, m) = (workload("a"), workload("b"), id("m"));
        sources.name(&a, &[], from_ref(&m));
        sources.name(&b, &[], from_ref(&m));
        assert_eq!(sources.take_unread(SourceKind::Secret, None), []);
        assert_eq!(sources.take_unread(SourceKind::ConfigMap, Some("bank")), []);
        assert_eq!(sources.named(SourceKind::ConfigMap, Some("bank")), []);
        assert_eq!(sources.named(SourceKind::ConfigMap, Some("shop")), [(m.clone(), None)]);
        assert_eq!(sources.take_unread(SourceKind::ConfigMap, Some("shop")), from_ref(&m));
        assert!(!sources.has_unread());
        assert_eq!(sources.look_up(&a.namespace, &config_map("m")), SourceState::Unread);
        sources.put(&m, read("1", "vault:a#b"));
        assert_eq!(sources.take_changed(), Some(a.clone()));
        // A workload that names no source any more is not read again.
        sources.name(&b, from_ref(&m), &[]);
        assert!(sources.is_named(&m));
        sources.name(&a, from_ref(&m), &[]);
        assert!(!sources.is_named(&m));
        sources.put(&m, read("2", "vault:a#b"));
        assert_eq!(changed(&mut sources), []);
        assert_eq!(sources.look_up(&a.namespace, &config_map("m")), SourceState::Unread);
    }

    #[test]
    fn only_a_change_of_references_is_a_change() {
        let mut sources = Sources::default();
        let (a, m) = (workload("a"), id("m"));
        sources.name(&a, &[], from_ref(&m));
        assert!(sources.is_outdated(&m, Some("1")));
        let mut put = |found| {
            sources.put(&m, found);
            changed(&mut sources).len()
        };
        assert_eq!(put(read("1", "vault:a#b and")), 1);
        assert_eq!(put(read("2", "vault:a#other")), 0);
        assert_eq!(put(read("3", "vault:b#b")), 1);
        // The content stays valid while the source cannot be read.
        assert_eq!(put(SourceRead::Unreadable(Reason::SourceDenied)), 0);
        assert_eq!(put(SourceRead::Missing), 1);
        assert_eq!(put(SourceRead::Unreadable(Reason::SourceDenied)), 1);
        assert_eq!(put(read("4", "vault:b#b")), 1);
        assert!(!sources.is_outdated(&m, Some("4")) && sources.is_outdated(&m, Some("5")));
    }

    #[test]
    fn what_may_not_be_read_or_cannot_exist_is_not_read() {
        let sources = Sources::default();
        let namespace = "shop".into();
        let secret = SourceName { kind: SourceKind::Secret, name: "s".to_owned() };
        let odd = config_map("../../bank/configmaps/m");
        assert!(sources.ids(&namespace, [&secret, &odd].into()).is_empty());
        assert_eq!(
            sources.look_up(&namespace, &secret),
            SourceState::Unreadable(Reason::SourceNotRead)
        );
        assert_eq!(sources.look_up(&namespace, &odd), SourceState::Missing);
    }

    #[test]
    fn another_source_in_the_place_of_one_is_used_and_the_first_is_not() {
        let mut sources = Sources::default();
        let (a, m, n) = (workload("a"), id("m"), id("n"));
        sources.name(&a, &[], from_ref(&m));
        sources.name(&a, from_ref(&m), from_ref(&n));
        assert_eq!(sources.take_unread(SourceKind::ConfigMap, None), [n]);
        assert!(!sources.is_named(&m));
    }
}
