//! The ConfigMaps and Secrets that workloads name: what is known of each, and who uses it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::workload::{Kind, WorkloadId};
use crate::references::environment::{SourceKind, SourceName};
use crate::references::reason::Reason;
use crate::references::source::{Content, Known, Readable, SourceId};

/// How reading a source ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It does not exist.
    Missing,
    /// It cannot be read, for a reason.
    Not(Reason),
    /// It was read.
    Read {
        /// `metadata.resourceVersion`
        resource_version: String,
        /// What it holds.
        content: Content,
    },
}

/// The sources that workloads name.
#[derive(Debug, Default)]
pub struct Sources {
    readable: Readable,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sources: HashMap<SourceId, Entry>,
    /// Of each workload that names any.
    named: HashMap<WorkloadId, Box<[SourceId]>>,
    /// Named, and not handed out to be read yet.
    unread: BTreeSet<SourceId>,
    /// The workloads whose sources changed, and that were not handed out for that yet. Each is here
    /// once, however often it happens.
    changed: HashMap<Kind, BTreeSet<WorkloadId>>,
}

#[derive(Debug)]
struct Entry {
    /// In order, each once. Most sources have one user, for which a tree takes half a kilobyte.
    users: Vec<WorkloadId>,
    known: Known,
    resource_version: Option<Box<str>>,
}

impl Sources {
    /// No source yet; those of which kinds may be read.
    #[must_use]
    pub fn new(readable: Readable) -> Self {
        Self { readable, state: Mutex::default() }
    }

    /// Which sources may be read.
    #[must_use]
    pub fn readable(&self) -> Readable {
        self.readable
    }

    /// What is known of a source that a workload of a namespace names.
    #[must_use]
    pub fn look_up(&self, namespace: &Arc<str>, named: &SourceName) -> Known {
        if !self.readable.includes(named.kind) {
            return Known::Not(Reason::SourceNotRead);
        }
        if !named.is_valid() {
            return Known::Missing;
        }
        let id = SourceId::new(namespace, named);
        self.state().sources.get(&id).map_or(Known::NotYet, |entry| entry.known.clone())
    }

    /// A workload names these sources from now on, and no others. Returns whether there is something
    /// to read. What no object can be called is never read.
    pub fn name(&self, workload: &WorkloadId, named: BTreeSet<&SourceName>) -> bool {
        let mut state = self.state();
        let is_readable =
            |named: &&SourceName| self.readable.includes(named.kind) && named.is_valid();
        let readable = named.into_iter().filter(is_readable);
        let ids: Box<[_]> =
            readable.map(|named| SourceId::new(&workload.namespace, named)).collect();
        if state.named.get(workload).map_or(ids.is_empty(), |before| *before == ids) {
            return !state.unread.is_empty();
        }
        for id in &ids {
            state.use_of(id, workload);
        }
        let before = if ids.is_empty() {
            if let Some(changed) = state.changed.get_mut(&workload.kind) {
                changed.remove(workload);
            }
            state.named.remove(workload)
        } else {
            state.named.insert(workload.clone(), ids)
        };
        for id in before.iter().flatten() {
            state.no_use_of(id, workload);
        }
        !state.unread.is_empty()
    }

    /// The sources of a kind that are named and were never read; each is answered once.
    #[must_use]
    pub fn unread(&self, kind: SourceKind) -> Vec<SourceId> {
        let mut state = self.state();
        let (unread, others) =
            std::mem::take(&mut state.unread).into_iter().partition(|id| id.kind == kind);
        state.unread = others;
        BTreeSet::into_iter(unread).collect()
    }

    /// The sources of a kind that are named, each with the resource version that was read.
    #[must_use]
    pub fn named(&self, kind: SourceKind) -> Vec<(SourceId, Option<Box<str>>)> {
        let state = self.state();
        let of_kind = state.sources.iter().filter(|(id, _)| id.kind == kind);
        of_kind.map(|(id, entry)| (id.clone(), entry.resource_version.clone())).collect()
    }

    /// Whether a source is named.
    #[must_use]
    pub fn is_named(&self, id: &SourceId) -> bool {
        self.state().sources.contains_key(id)
    }

    /// Whether a source is named, and is another now than when it was read.
    #[must_use]
    pub fn is_outdated(&self, id: &SourceId, resource_version: Option<&str>) -> bool {
        let state = self.state();
        state
            .sources
            .get(id)
            .is_some_and(|entry| entry.resource_version.as_deref() != resource_version)
    }

    /// Takes in what was read. Returns the kinds of the workloads that may refer to other secrets now;
    /// [`Sources::take_changed`] names them.
    pub fn put(&self, id: &SourceId, found: Found) -> BTreeSet<Kind> {
        let mut state = self.state();
        let State { sources, changed, .. } = &mut *state;
        let Some(entry) = sources.get_mut(id) else {
            return BTreeSet::new();
        };
        let (known, resource_version) = match found {
            Found::Missing => (Known::Missing, None),
            // What was read once counts on.
            Found::Not(_) if matches!(entry.known, Known::Read(_)) => return BTreeSet::new(),
            Found::Not(reason) => (Known::Not(reason), None),
            Found::Read { resource_version, content } => {
                (Known::Read(Arc::new(content)), Some(resource_version.into()))
            }
        };
        entry.resource_version = resource_version;
        if std::mem::replace(&mut entry.known, known.clone()) == known {
            return BTreeSet::new();
        }
        for user in &entry.users {
            changed.entry(user.kind).or_default().insert(user.clone());
        }
        entry.users.iter().map(|user| user.kind).collect()
    }

    /// A workload of a kind whose sources changed; each is returned once.
    #[must_use]
    pub fn take_changed(&self, kind: Kind) -> Option<WorkloadId> {
        self.state().changed.get_mut(&kind)?.pop_first()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held ends the process; its other tasks may still look.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn use_of(&mut self, id: &SourceId, workload: &WorkloadId) {
        if let Some(entry) = self.sources.get_mut(id) {
            if let Err(place) = entry.users.binary_search(workload) {
                entry.users.insert(place, workload.clone());
            }
            return;
        }
        let users = vec![workload.clone()];
        let entry = Entry { users, known: Known::NotYet, resource_version: None };
        self.sources.insert(id.clone(), entry);
        self.unread.insert(id.clone());
    }

    fn no_use_of(&mut self, id: &SourceId, workload: &WorkloadId) {
        if self.named.get(workload).is_some_and(|named| named.binary_search(id).is_ok()) {
            return;
        }
        if let Some(entry) = self.sources.get_mut(id) {
            if let Ok(place) = entry.users.binary_search(workload) {
                entry.users.remove(place);
            }
            if entry.users.is_empty() {
                self.sources.remove(id);
                self.unread.remove(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::workload::Kind;

    fn workload(name: &str) -> WorkloadId {
        WorkloadId { kind: Kind::Deployment, namespace: "shop".into(), name: name.into() }
    }

    fn config_map(name: &str) -> SourceName {
        SourceName { kind: SourceKind::ConfigMap, name: name.to_owned() }
    }

    fn read(version: &str, value: &str) -> Found {
        let content = Content::new([("K", value.as_bytes())]);
        Found::Read { resource_version: version.to_owned(), content }
    }

    #[test]
    fn a_source_is_read_once_and_forgotten_with_its_last_user() {
        let sources = Sources::default();
        let (a, b) = (workload("a"), workload("b"));
        let named = config_map("m");
        let id = SourceId::new(&a.namespace, &named);
        assert!(sources.name(&a, [&named].into()));
        assert!(sources.name(&b, [&named].into()));
        assert_eq!(sources.unread(SourceKind::Secret), []);
        assert_eq!(sources.unread(SourceKind::ConfigMap), vec![id.clone()]);
        assert_eq!(sources.unread(SourceKind::ConfigMap), []);
        assert_eq!(sources.look_up(&a.namespace, &named), Known::NotYet);
        assert_eq!(sources.put(&id, read("1", "vault:a#b")), [Kind::Deployment].into());
        assert_eq!(sources.take_changed(Kind::DaemonSet), None);
        assert_eq!(sources.take_changed(Kind::Deployment), Some(a.clone()));
        // Of one that names nothing any more, nothing has changed.
        assert!(!sources.name(&b, BTreeSet::new()));
        assert!(sources.is_named(&id));
        assert!(!sources.name(&a, BTreeSet::new()));
        assert!(!sources.is_named(&id));
        assert_eq!(sources.take_changed(Kind::Deployment), None);
        assert_eq!(sources.put(&id, read("2", "vault:a#b")), BTreeSet::new());
        assert_eq!(sources.look_up(&a.namespace, &named), Known::NotYet);
    }

    #[test]
    fn only_a_change_of_references_is_a_change() {
        let sources = Sources::default();
        let a = workload("a");
        let named = config_map("m");
        let id = SourceId::new(&a.namespace, &named);
        sources.name(&a, [&named].into());
        assert!(sources.is_outdated(&id, Some("1")));
        assert_eq!(sources.put(&id, read("1", "vault:a#b and")).len(), 1);
        assert!(!sources.is_outdated(&id, Some("1")));
        assert_eq!(sources.put(&id, read("2", "vault:a#other")).len(), 0);
        assert!(!sources.is_outdated(&id, Some("2")));
        assert_eq!(sources.put(&id, read("3", "vault:b#b")).len(), 1);
        // What was read counts on while it cannot be read again.
        assert_eq!(sources.put(&id, Found::Not(Reason::SourceDenied)).len(), 0);
        assert!(matches!(sources.look_up(&a.namespace, &named), Known::Read(_)));
        assert_eq!(sources.put(&id, Found::Missing).len(), 1);
        assert_eq!(sources.put(&id, Found::Not(Reason::SourceDenied)).len(), 1);
    }

    #[test]
    fn what_may_not_be_read_is_not() {
        let sources = Sources::default();
        let secret = SourceName { kind: SourceKind::Secret, name: "s".to_owned() };
        assert!(!sources.name(&workload("a"), [&secret].into()));
        let known = sources.look_up(&workload("a").namespace, &secret);
        assert_eq!(known, Known::Not(Reason::SourceNotRead));
    }

    #[test]
    fn another_source_in_the_place_of_one_is_used_and_the_first_is_not() {
        let sources = Sources::default();
        let a = workload("a");
        let (m, n) = (config_map("m"), config_map("n"));
        sources.name(&a, [&m].into());
        assert!(sources.name(&a, [&n].into()));
        assert_eq!(sources.unread(SourceKind::ConfigMap), [SourceId::new(&a.namespace, &n)]);
        assert!(!sources.is_named(&SourceId::new(&a.namespace, &m)));
    }

    #[test]
    fn what_no_object_can_be_called_does_not_exist_and_is_not_read() {
        let sources = Sources::default();
        let a = workload("a");
        let named = config_map("../../bank/configmaps/m");
        assert!(!sources.name(&a, [&named].into()));
        assert_eq!(sources.look_up(&a.namespace, &named), Known::Missing);
    }

    #[test]
    fn no_value_is_kept() {
        let data: [(&str, &[u8]); 4] = [
            ("PLAIN", b"hunter2"),
            ("URL", b"postgres://u:hunter2@${vault:secret/data/a#host}/"),
            ("WRITE", b">>vault:pki/issue/r#c#{\"hunter2\":1}"),
            ("BINARY", b"\xff\xfehunter2"),
        ];
        let content = Content::new(data);
        assert_eq!(content.iter().count(), 4);
        let shown = format!("{content:?}");
        assert!(shown.contains("secret/data/a") && !shown.contains("hunter2"), "{shown}");
    }
}
