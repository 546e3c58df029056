//! The workloads of the index: what they refer to, which sources they name, and since which poll their
//! templates are known.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::effect::Effect;
use super::lists::Lists;
use super::sources::{SourceRead, Sources};
use crate::model::kind::Kind;
use crate::model::poll::PollNumber;
use crate::model::secret::SecretId;
use crate::model::workload::{Workload, WorkloadId};
use crate::references::manifest::{Manifest, Read};
use crate::references::servers::Servers;
use crate::references::source::SourceId;

/// The longest manifest that is kept for the time when its sources change. One of a thousand references
/// and its record have about as many bytes. A tenant can make longer ones, up to the limit of an object: where
/// their sources change, everything is listed again.
pub(crate) const LONGEST_KEPT: usize = 1 << 16;

/// A workload that refers to secrets.
#[derive(Clone, Debug)]
pub struct IndexedWorkload {
    /// The workload.
    pub workload: Arc<Workload>,
    /// The first poll that began after its present template entered the index.
    pub template_first_poll: PollNumber,
}

/// What the index holds at the begin of a poll.
#[derive(Debug)]
pub struct Snapshot {
    /// The number of this poll.
    pub poll: PollNumber,
    /// The workloads of one server, in order of their names, without those over the quota of their namespace.
    pub workloads: Vec<IndexedWorkload>,
    /// The workloads of that server over the quota of their namespace.
    pub over_quota: Vec<IndexedWorkload>,
    /// Those of them that were there before this process and came into the index when polls had
    /// begun already; each is in one snapshot.
    pub late: HashSet<WorkloadId>,
    /// Whether more of these may come.
    pub is_incomplete: bool,
}

/// What was seen of a workload.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// The object, by a list or a watch.
    Object,
    /// A change of one of its sources, or the answer to a PATCH. A list that is under way has not shown it for that.
    Otherwise,
}

/// All that is known of one workload.
#[derive(Debug, Default)]
struct Entry {
    /// The list of its kind that last contained it.
    list: u64,
    /// The sources that it names and that are read, in order.
    sources: Box<[SourceId]>,
    /// What it was read from, where it names sources and is short enough.
    manifest: Option<Box<Manifest>>,
    /// Set while some of its sources are not known yet.
    pending: Option<Pending>,
    /// A digest of what was said of its references.
    noted: Option<u64>,
    /// The workload, if it refers to secrets.
    stored: Option<IndexedWorkload>,
}

/// A workload that is there, and of which it is not known yet what it refers to. What was known of it before stays.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    /// Whether a list has shown it since it was taken in: what was in between is not known then.
    is_of_list: bool,
    /// Whether the first list of its kind has shown it.
    is_of_first_list: bool,
}

/// The state behind the lock of the index.
#[derive(Debug, Default)]
pub(super) struct Entries {
    polls: PollNumber,
    pub(super) lists: Lists,
    pub(super) sources: Sources,
    /// In order, so that what a poll does first does not hang on chance.
    workloads: BTreeMap<WorkloadId, Entry>,
    /// Each secret with the number of workloads that refer to it. The map is also what makes equal
    /// ids share one allocation.
    secrets: HashMap<Arc<SecretId>, usize>,
    namespaces: HashSet<Arc<str>>,
    /// The workloads that were there before this process and came in when polls had begun already.
    late: HashSet<WorkloadId>,
}

/// What a manifest changed among the workloads that refer to secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// A workload is new, or refers to other secrets than before.
    Collected,
    /// A workload refers to the same secrets as before.
    Unchanged,
    /// A workload referred to secrets and does not any more.
    Removed,
    /// A workload did not refer to any secret and does not now.
    Absent,
}

impl Entries {
    /// Takes in an object that a list or a watch shows. Returns its notes where they are other ones than before.
    pub(super) fn apply(
        &mut self,
        manifest: Manifest,
        kind: Kind,
        servers: &Servers,
    ) -> Vec<Effect> {
        let id = manifest.id(kind);
        let named = manifest.sources();
        let names_any = !named.is_empty();
        let ids = self.sources.ids(&id.namespace, named);
        let entry = self.workloads.entry(id.clone()).or_default();
        entry.list = self.lists.of(kind).number;
        let before = std::mem::replace(&mut entry.sources, ids);
        self.sources.name(&id, &before, &entry.sources);
        let mut effects = Vec::new();
        if self.sources.has_unread() {
            effects.push(Effect::ReadSources);
        }
        self.take_in(&manifest, kind, servers, Seen::Object, &mut effects);
        if let Some(entry) = self.workloads.get_mut(&id) {
            let is_kept = names_any && manifest.weight() <= LONGEST_KEPT;
            entry.manifest = is_kept.then(|| Box::new(manifest));
        }
        self.drop_if_empty(&id);
        effects
    }

    /// Takes in the answer to a PATCH, if the workload is there still.
    pub(super) fn refresh(&mut self, manifest: &Manifest, kind: Kind, servers: &Servers) {
        let read = self.read(manifest, kind, servers);
        let entry = self.workloads.get(&read.id);
        let known = entry.and_then(|entry| entry.stored.as_ref());
        if let Some(workload) = read.workload.filter(|_| !read.is_waiting)
            && known.is_some_and(|stored| stored.workload.uid == workload.uid)
        {
            self.store(workload, Seen::Otherwise);
        }
    }

    /// Reads again a workload of which a source changed.
    pub(super) fn read_changed(&mut self, servers: &Servers) -> Option<Vec<Effect>> {
        let id = self.sources.take_changed()?;
        let mut effects = Vec::new();
        let Some(entry) = self.workloads.get_mut(&id) else { return Some(effects) };
        let Some(manifest) = entry.manifest.take() else {
            effects.push(Effect::ListAgain(id));
            return Some(effects);
        };
        self.take_in(&manifest, id.kind, servers, Seen::Otherwise, &mut effects);
        if let Some(entry) = self.workloads.get_mut(&id) {
            entry.manifest = Some(manifest);
        }
        Some(effects)
    }

    /// Reads a manifest with what is known of its sources.
    pub(super) fn read(&self, manifest: &Manifest, kind: Kind, servers: &Servers) -> Read {
        manifest.read(kind, servers, |namespace, named| self.sources.look_up(namespace, named))
    }

    /// Takes in a source that was read; [`Entries::read_changed`] does the rest.
    pub(super) fn put_source(&mut self, id: &SourceId, found: SourceRead) {
        self.sources.put(id, found);
    }

    /// Removes a workload that was deleted.
    pub(super) fn delete(&mut self, id: &WorkloadId) -> Option<Effect> {
        self.late.remove(id);
        let entry = self.workloads.remove(id)?;
        self.sources.name(id, &entry.sources, &[]);
        let stored = entry.stored?;
        self.release(&stored.workload);
        Some(Effect::Removed(id.clone()))
    }

    /// A full list of a kind ended: what it did not contain is gone. Returns those that were gone.
    pub(super) fn end_list(&mut self, kind: Kind) -> (Vec<WorkloadId>, Vec<Effect>) {
        let list = self.lists.end(kind);
        let of_kind = self.workloads.iter().filter(|(id, _)| id.kind == kind);
        let gone = of_kind.filter(|(_, entry)| entry.list != list.number);
        let gone: Vec<_> = gone.map(|(id, _)| id.clone()).collect();
        let mut effects: Vec<_> = gone.iter().filter_map(|id| self.delete(id)).collect();
        // What only this set still holds is the namespace of no workload any more.
        self.namespaces.retain(|namespace| Arc::strong_count(namespace) > 1);
        if !list.is_complete {
            let (workloads, secrets) = self.len();
            let of_kind = self.workloads.iter().filter(|(id, _)| id.kind == kind);
            let waiting = of_kind.filter(|(_, entry)| entry.pending.is_some()).count();
            effects.push(Effect::FirstListEnded { kind, workloads, secrets, waiting });
        }
        (gone, effects)
    }

    /// The workloads that refer to secrets.
    pub(super) fn stored(&self) -> impl Iterator<Item = &IndexedWorkload> {
        self.workloads.values().filter_map(|entry| entry.stored.as_ref())
    }

    /// One workload, if it refers to secrets.
    pub(super) fn get(&self, id: &WorkloadId) -> Option<&IndexedWorkload> {
        self.workloads.get(id)?.stored.as_ref()
    }

    /// Begins a poll of a server: numbers it, and returns what there is of that server. No quota counts here.
    pub(super) fn begin_poll(&mut self, server: &str) -> Snapshot {
        self.polls += 1;
        let of_server = self.stored().filter(|stored| stored.workload.is_of(server));
        let workloads = of_server.cloned().collect();
        let (poll, is_incomplete) = (self.polls, self.is_incomplete());
        let late = self.take_late(server);
        Snapshot { poll, workloads, over_quota: Vec::new(), late, is_incomplete }
    }

    /// Whether a workload refers to secrets of another server than this.
    pub(super) fn is_of_another(&self, id: &WorkloadId, server: &str) -> bool {
        self.get(id).is_some_and(|stored| !stored.workload.is_of(server))
    }

    /// The workloads of a server that were there before this process and came in after the poll before; each is
    /// returned once.
    fn take_late(&mut self, server: &str) -> HashSet<WorkloadId> {
        let Self { late, workloads, .. } = self;
        let is_of_server = |id: &WorkloadId| {
            let stored = workloads.get(id).and_then(|entry| entry.stored.as_ref());
            stored.is_none_or(|stored| stored.workload.is_of(server))
        };
        late.extract_if(is_of_server).collect()
    }

    /// How many workloads anything is kept of.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.workloads.len()
    }

    /// Whether workloads that were there before this process are not known yet.
    fn is_incomplete(&self) -> bool {
        let mut pending = self.workloads.values().filter_map(|entry| entry.pending);
        self.lists.is_any_late() || pending.any(|pending| pending.is_of_first_list)
    }

    pub(super) fn refers_to(&self, secret: &SecretId) -> bool {
        self.secrets.contains_key(secret)
    }

    /// The number of workloads that refer to secrets, and of distinct secrets.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.stored().count(), self.secrets.len())
    }

    /// Reads a workload, and takes in what it refers to.
    fn take_in(
        &mut self,
        manifest: &Manifest,
        kind: Kind,
        servers: &Servers,
        seen: Seen,
        effects: &mut Vec<Effect>,
    ) {
        let read = self.read(manifest, kind, servers);
        let Read { id, workload, notes, is_waiting, record_error } = read;
        if is_waiting {
            // What is known of it stays until all of it is known: a part of its references does not
            // say whether one of its secrets is gone.
            self.defer(&id, seen);
            return;
        }
        let digest = (!notes.is_empty() || record_error.is_some()).then(|| {
            let mut hasher = DefaultHasher::new();
            (&*manifest.uid, &notes, &record_error).hash(&mut hasher);
            hasher.finish()
        });
        let list = self.lists.of(kind);
        let entry = self.workloads.entry(id.clone()).or_default();
        let pending = entry.pending.unwrap_or_default();
        let is_of_first_list = pending.is_of_first_list || !list.is_complete;
        if std::mem::replace(&mut entry.noted, digest) != digest {
            let uid = manifest.uid.as_str().into();
            effects.push(Effect::Noted { id: id.clone(), uid, notes, record_error });
        }
        let change = match workload {
            Some(workload) => self.store(workload, seen),
            None => self.remove(&id),
        };
        match change {
            Change::Collected => effects.push(Effect::Collected { id, is_of_first_list }),
            Change::Removed => effects.push(Effect::Removed(id)),
            Change::Unchanged | Change::Absent => {}
        }
    }

    fn defer(&mut self, id: &WorkloadId, seen: Seen) {
        let list = self.lists.of(id.kind);
        let pending = self.workloads.entry(id.clone()).or_default().pending.get_or_insert_default();
        pending.is_of_list |= list.is_under_way && seen == Seen::Object;
        pending.is_of_first_list |= !list.is_complete;
    }

    /// Takes in a workload whose sources are all known.
    fn store(&mut self, mut workload: Workload, seen: Seen) -> Change {
        let list = self.lists.of(workload.id.kind);
        let entry = self.workloads.entry(workload.id.clone()).or_default();
        let pending = entry.pending.take().unwrap_or_default();
        let old = entry.stored.clone();
        if self.polls > 0 && (pending.is_of_first_list || list.is_late()) {
            self.late.insert(workload.id.clone());
        }
        // What a list has shown is no other for being taken in after its end.
        let is_listed = (list.is_under_way && seen == Seen::Object) || pending.is_of_list;
        if let Some(old) = &old
            && !is_listed
            && old.workload.uid == workload.uid
            && is_older(&workload.resource_version, &old.workload.resource_version)
        {
            // A watch that lags behind the answer to our own PATCH. A list is believed whatever it
            // says: a restored etcd counts from an earlier number.
            return Change::Unchanged;
        }
        let template_first_poll = match &old {
            // A watch shows every template. Between two lists, one may have come and gone.
            Some(old)
                if old.workload.kept_its_template(&workload)
                    || (!is_listed && old.workload.has_template_of(&workload)) =>
            {
                workload.take_over_secrets(&old.workload);
                old.template_first_poll
            }
            _ => self.polls + 1,
        };
        if workload.watched().next().is_none() {
            return self.remove(&workload.id);
        }
        self.share_strings(&mut workload);
        for secret in workload.watched() {
            *self.secrets.entry(Arc::clone(secret)).or_insert(0) += 1;
        }
        let change = match &old {
            Some(old) if old.workload.secrets == workload.secrets => Change::Unchanged,
            _ => Change::Collected,
        };
        if let Some(entry) = self.workloads.get_mut(&workload.id) {
            entry.stored =
                Some(IndexedWorkload { workload: Arc::new(workload), template_first_poll });
        }
        if let Some(old) = old {
            self.release(&old.workload);
        }
        change
    }

    /// A workload refers to no secret any more.
    fn remove(&mut self, id: &WorkloadId) -> Change {
        self.late.remove(id);
        let Some(entry) = self.workloads.get_mut(id) else { return Change::Absent };
        entry.pending = None;
        let Some(stored) = entry.stored.take() else { return Change::Absent };
        self.release(&stored.workload);
        Change::Removed
    }

    /// Forgets a workload of which nothing is known but that it is there.
    fn drop_if_empty(&mut self, id: &WorkloadId) {
        let is_empty = self.workloads.get(id).is_some_and(|entry| {
            entry.stored.is_none()
                && entry.pending.is_none()
                && entry.noted.is_none()
                && entry.sources.is_empty()
        });
        if is_empty {
            self.workloads.remove(id);
        }
    }

    fn share_strings(&mut self, workload: &mut Workload) {
        if let Some(shared) = self.namespaces.get(&workload.id.namespace) {
            workload.id.namespace = Arc::clone(shared);
        } else {
            self.namespaces.insert(Arc::clone(&workload.id.namespace));
        }
        for secret in workload.secrets.iter_mut().chain(&mut workload.former_secrets) {
            if let Some((shared, _)) = self.secrets.get_key_value(secret) {
                *secret = Arc::clone(shared);
            }
        }
    }

    fn release(&mut self, workload: &Workload) {
        for secret in workload.watched() {
            if let Some(users) = self.secrets.get_mut(secret) {
                *users -= 1;
                if *users == 0 {
                    self.secrets.remove(secret);
                }
            }
        }
    }
}

/// Whether a resource version is older than another: they are numbers that grow, and where they are
/// not, nothing is older.
fn is_older(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version < than,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
