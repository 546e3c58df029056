//! The workloads of the index: the secrets they refer to, the sources they name, and the first poll
//! of their templates.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::num::NonZeroU64;
use std::sync::Arc;

use super::effect::Effect;
use super::lists::Lists;
use super::sources::{SourceRead, Sources};
use super::states::{is_older, is_same_but_for_version, share_secrets};
use crate::model::kind::Kind;
use crate::model::poll::PollNumber;
use crate::model::progress::{Progress, Silence};
use crate::model::scope::ListScope;
use crate::model::secret::SecretId;
use crate::model::workload::{Workload, WorkloadId};
use crate::references::manifest::{Manifest, Read};
use crate::references::servers::Servers;
use crate::references::source::SourceId;

/// The longest manifest that is kept for changes of its sources, in bytes. A manifest with a
/// thousand references and its record is about this long. A tenant can make longer manifests, up to
/// the limit of an object. When their sources change, the whole kind is listed again.
pub(crate) const LONGEST_KEPT: usize = 1 << 16;

/// A workload that refers to secrets.
#[derive(Clone, Debug)]
pub struct IndexedWorkload {
    /// The workload.
    pub workload: Arc<Workload>,
    /// The first poll that began after the present template entered the index.
    pub template_first_poll: PollNumber,
    /// Whether the rollout of the present template has ended, as far as this process has seen.
    pub has_rolled_out: bool,
}

/// The content of the index at the start of a poll of one server.
#[derive(Debug)]
pub struct Snapshot {
    /// The number of this poll.
    pub poll: PollNumber,
    /// The workloads of the server within the quota of their namespace, in order of their names.
    pub workloads: Vec<IndexedWorkload>,
    /// The workloads of the server over the quota of their namespace.
    pub over_quota: Vec<IndexedWorkload>,
    /// The late workloads: they existed before this process and entered the index after polls had
    /// begun. Each late workload is in one snapshot only.
    pub late: HashSet<WorkloadId>,
    /// Whether more late workloads may come.
    pub is_incomplete: bool,
}

/// How the index learns of a workload.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// A list or a watch shows the object.
    Object,
    /// One of its sources changed, or a PATCH was answered. This does not mean that a list under
    /// way has shown the object.
    Otherwise,
}

/// All that the index knows of one workload.
#[derive(Debug, Default)]
struct Entry {
    /// The number of the last list that contained the workload.
    list: u32,
    /// The readable sources that the workload names, in order.
    sources: Box<[SourceId]>,
    /// The manifest of the workload, if it names sources and is short enough.
    manifest: Option<Box<Manifest>>,
    /// Set while some of its sources are not known yet.
    pending: Option<Pending>,
    /// A digest of the last notes on its references.
    noted: Option<NonZeroU64>,
    /// The workload, if it refers to secrets.
    stored: Option<IndexedWorkload>,
}

/// An existing workload whose references are not known yet. Its former state stays in the index.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    /// Whether a list has shown the workload since it was stored. A template between the two states
    /// may have been missed then.
    is_of_list: bool,
    /// Whether the first list of its kind has shown the workload.
    is_of_first_list: bool,
}

/// The state behind the lock of the index.
#[derive(Debug, Default)]
pub(super) struct Entries {
    polls: PollNumber,
    /// The number of changes of stored workloads so far. Another version of the object alone is none.
    pub(super) changes: u64,
    pub(super) lists: Lists,
    pub(super) sources: Sources,
    /// In order, so that each poll processes workloads in the same order.
    workloads: BTreeMap<WorkloadId, Entry>,
    /// Each secret with the number of workloads that refer to it. Equal ids share the allocation of
    /// the key.
    secrets: HashMap<Arc<SecretId>, usize>,
    namespaces: HashSet<Arc<str>>,
    /// The late workloads that are in no snapshot yet: see [`Snapshot::late`].
    late: HashSet<WorkloadId>,
    /// Whether all workloads of all first lists are known. No later workload is of a first list.
    is_settled_for_good: bool,
}

/// What a manifest changed in the set of workloads that refer to secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// The workload is new, or refers to other secrets than before.
    Collected,
    /// The workload refers to the same secrets as before.
    Unchanged,
    /// The workload referred to secrets and no longer does.
    Removed,
    /// The workload referred to no secret before and refers to none now.
    Absent,
}

impl Entries {
    /// Applies an object from a list or a watch. The effects contain the notes on its references if
    /// they changed.
    pub(super) fn apply(
        &mut self,
        manifest: Manifest,
        kind: Kind,
        servers: &Servers,
    ) -> Vec<Effect> {
        let id = manifest.id(kind);
        let id = self.share_namespace(id);
        let named = manifest.sources();
        let names_any = !named.is_empty();
        let ids = self.sources.ids(&id.namespace, named);
        let entry = self.workloads.entry(id.clone()).or_default();
        entry.list = self.lists.of(&id).number;
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

    /// Applies the answer to a PATCH, if the workload is still in the index.
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

    /// Reads the next workload of which a source changed. Returns `None` if there is none.
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

    /// Reads a manifest with the present state of its sources.
    pub(super) fn read(&self, manifest: &Manifest, kind: Kind, servers: &Servers) -> Read {
        manifest.read(kind, servers, |namespace, named| self.sources.look_up(namespace, named))
    }

    /// Stores the result of reading a source. [`Entries::read_changed`] applies it to the
    /// workloads.
    pub(super) fn put_source(&mut self, id: &SourceId, found: SourceRead) {
        self.sources.put(id, found);
    }

    /// Removes a workload that was deleted.
    pub(super) fn delete(&mut self, id: &WorkloadId) -> Option<Effect> {
        self.late.remove(id);
        let entry = self.workloads.remove(id)?;
        self.sources.name(id, &entry.sources, &[]);
        let stored = entry.stored?;
        self.changes += 1;
        self.release(&stored.workload);
        Some(Effect::Removed(id.clone()))
    }

    /// Removes and returns the workloads of a namespace.
    pub(super) fn leave_namespace(&mut self, namespace: &str) -> (Vec<WorkloadId>, Vec<Effect>) {
        let gone = self.workloads.keys().filter(|id| *id.namespace == *namespace);
        let gone: Vec<_> = gone.cloned().collect();
        let effects = gone.iter().filter_map(|id| self.delete(id)).collect();
        (gone, effects)
    }

    /// Ends a full list: removes and returns the workloads that the list did not contain.
    pub(super) fn end_list(&mut self, scope: &ListScope) -> (Vec<WorkloadId>, Vec<Effect>) {
        let (list, kind) = (self.lists.end(scope), scope.kind);
        let of_list = self.workloads.iter().filter(|(id, _)| scope.contains(id));
        let gone = of_list.filter(|(_, entry)| entry.list != list.number);
        let gone: Vec<_> = gone.map(|(id, _)| id.clone()).collect();
        let mut effects: Vec<_> = gone.iter().filter_map(|id| self.delete(id)).collect();
        // A namespace that only this set holds has no workload any more.
        self.namespaces.retain(|namespace| Arc::strong_count(namespace) > 1);
        if !list.is_complete && self.lists.are_complete_of(kind) {
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

    /// Returns the workloads that refer to secrets, in order of their ids.
    pub(super) fn all(&self) -> Vec<IndexedWorkload> {
        // The number of entries is known, so the list is allocated once.
        let mut all = Vec::with_capacity(self.workloads.len());
        all.extend(self.stored().cloned());
        all
    }

    /// Returns the wanted secrets, each with the workloads that refer to it.
    ///
    /// A list of users for each secret would cost memory for each pair of a workload and a secret.
    /// This walk copies nothing but the result, and ends with the last user.
    pub(super) fn users(
        &self,
        is_wanted: impl Fn(&SecretId) -> bool,
    ) -> BTreeMap<Arc<SecretId>, Vec<IndexedWorkload>> {
        let wanted = self.secrets.iter().filter(|(secret, _)| is_wanted(secret));
        let (mut users, mut left) = (BTreeMap::new(), 0_usize);
        for (secret, &count) in wanted {
            left += count;
            users.insert(Arc::clone(secret), Vec::with_capacity(count));
        }
        for stored in self.stored() {
            if left == 0 {
                break;
            }
            for secret in stored.workload.watched() {
                if let Some(users) = users.get_mut(secret) {
                    users.push(stored.clone());
                    left -= 1;
                }
            }
        }
        users
    }

    /// Returns the secrets that the workloads of a Kubernetes namespace refer to.
    pub(super) fn secrets_of(&self, namespace: &str) -> HashSet<Arc<SecretId>> {
        let (namespace, name): (Arc<str>, Arc<str>) = (namespace.into(), "".into());
        let mut secrets = HashSet::new();
        for kind in Kind::ALL {
            let (namespace, name) = (Arc::clone(&namespace), Arc::clone(&name));
            let first = WorkloadId { kind, namespace, name };
            let is_in = |id: &WorkloadId| (id.kind, &id.namespace) == (kind, &first.namespace);
            let from_first =
                self.workloads.range::<WorkloadId, _>(&first..).take_while(|(id, _)| is_in(id));
            for stored in from_first.filter_map(|(_, entry)| entry.stored.as_ref()) {
                secrets.extend(stored.workload.watched().cloned());
            }
        }
        secrets
    }

    /// Returns a workload, if it refers to secrets.
    pub(super) fn get(&self, id: &WorkloadId) -> Option<&IndexedWorkload> {
        self.workloads.get(id)?.stored.as_ref()
    }

    /// Begins a poll of a server: numbers the poll and returns the workloads of the server. Quotas
    /// are not applied here.
    pub(super) fn begin_poll(&mut self, server: &str) -> Snapshot {
        self.polls += 1;
        let mut workloads = self.all();
        workloads.retain(|stored| stored.workload.is_of(server));
        let (poll, is_incomplete) = (self.polls, self.is_incomplete());
        let late = self.take_late(server);
        Snapshot { poll, workloads, over_quota: Vec::new(), late, is_incomplete }
    }

    /// Whether the workload refers to secrets of another server than `server`.
    pub(super) fn is_of_another(&self, id: &WorkloadId, server: &str) -> bool {
        self.get(id).is_some_and(|stored| !stored.workload.is_of(server))
    }

    /// Takes out the late workloads of a server that entered the index after the previous poll.
    /// Each is returned once.
    fn take_late(&mut self, server: &str) -> HashSet<WorkloadId> {
        let Self { late, workloads, .. } = self;
        let is_of_server = |id: &WorkloadId| {
            let stored = workloads.get(id).and_then(|entry| entry.stored.as_ref());
            stored.is_none_or(|stored| stored.workload.is_of(server))
        };
        late.extract_if(is_of_server).collect()
    }

    /// Whether the names of an id are the allocations of the entry's key.
    #[cfg(test)]
    pub(super) fn shares_names(&self, id: &WorkloadId) -> bool {
        self.workloads.get_key_value(id).is_some_and(|(key, _)| {
            Arc::ptr_eq(&key.namespace, &id.namespace) && Arc::ptr_eq(&key.name, &id.name)
        })
    }

    /// The number of workloads that have an entry.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.workloads.len()
    }

    /// Whether all workloads that existed before this process are known, but for those of kinds that
    /// cannot be listed.
    pub(super) fn is_settled(&mut self) -> bool {
        if self.is_settled_for_good {
            return true;
        }
        let mut pending = self.workloads.values().filter_map(|entry| entry.pending);
        let is_settled =
            self.lists.may_be_polled() && !pending.any(|pending| pending.is_of_first_list);
        self.is_settled_for_good = is_settled && self.lists.are_all_complete();
        is_settled
    }

    /// Whether some workloads that existed before this process are not known yet.
    fn is_incomplete(&self) -> bool {
        let mut pending = self.workloads.values().filter_map(|entry| entry.pending);
        self.lists.is_any_late() || pending.any(|pending| pending.is_of_first_list)
    }

    pub(super) fn refers_to(&self, secret: &SecretId) -> bool {
        self.secrets.contains_key(secret)
    }

    /// The number of workloads that refer to secrets, and the number of distinct secrets.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.stored().count(), self.secrets.len())
    }

    /// Reads a manifest and stores the workload with its references.
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
            // The former state stays until all references are known: a part of them does not tell
            // whether the workload dropped one of its secrets.
            self.defer(&id, seen);
            return;
        }
        let digest = (!notes.is_empty() || record_error.is_some()).then(|| {
            let mut hasher = DefaultHasher::new();
            (&*manifest.uid, &notes, &record_error).hash(&mut hasher);
            NonZeroU64::new(hasher.finish()).unwrap_or(NonZeroU64::MIN)
        });
        let list = self.lists.of(&id);
        let entry = self.workloads.entry(id.clone()).or_default();
        let pending = entry.pending.unwrap_or_default();
        let is_of_first_list = pending.is_of_first_list || !list.is_complete;
        if std::mem::replace(&mut entry.noted, digest) != digest {
            let uid = manifest.uid.as_str().into();
            effects.push(Effect::Noted { id: id.clone(), uid, notes, record_error });
        }
        let before = self.get(&id).cloned();
        let change = match workload {
            Some(workload) => self.store(workload, seen),
            None => self.remove(&id),
        };
        if let Some(before) = before
            && let Some(after) = self.get(&id)
        {
            effects.extend(rollout_ended(&before, &after.workload));
        }
        match change {
            Change::Collected => effects.push(Effect::Collected { id, is_of_first_list }),
            Change::Removed => effects.push(Effect::Removed(id)),
            Change::Unchanged | Change::Absent => {}
        }
    }

    fn defer(&mut self, id: &WorkloadId, seen: Seen) {
        let list = self.lists.of(id);
        let pending = self.workloads.entry(id.clone()).or_default().pending.get_or_insert_default();
        pending.is_of_list |= list.is_under_way && seen == Seen::Object;
        pending.is_of_first_list |= !list.is_complete;
    }

    /// Stores a workload whose sources are all known.
    fn store(&mut self, mut workload: Workload, seen: Seen) -> Change {
        let list = self.lists.of(&workload.id);
        let entry = self.workloads.entry(workload.id.clone()).or_default();
        let pending = entry.pending.take().unwrap_or_default();
        let old = entry.stored.clone();
        if self.polls > 0 && (pending.is_of_first_list || list.is_late()) {
            self.late.insert(workload.id.clone());
        }
        // A pending workload may be stored after the end of the list that showed it.
        let is_listed = (list.is_under_way && seen == Seen::Object) || pending.is_of_list;
        if let Some(old) = &old
            && !is_listed
            && old.workload.uid == workload.uid
            && is_older(&workload.resource_version, &old.workload.resource_version)
        {
            // The watch lags behind the answer to our own PATCH. A list is believed with any
            // version, since a restored etcd counts from an earlier number.
            return Change::Unchanged;
        }
        let template_first_poll = match &old {
            // A watch shows every template. Between two lists, a template may have come and gone.
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
        let has_same_secrets = self.share_strings(&mut workload, old.as_ref());
        let change = match &old {
            Some(old) if old.workload.secrets == workload.secrets => Change::Unchanged,
            _ => Change::Collected,
        };
        let kept = old.as_ref().filter(|old| old.workload.has_template_of(&workload));
        if let Some(old) = kept {
            keep_progress(old, &mut workload);
        }
        let has_rolled_out = kept.is_some_and(|old| old.has_rolled_out)
            || matches!(
                workload.progress,
                Progress::Complete | Progress::Degraded | Progress::Silent(Silence::NoReplicas)
            );
        let is_same = old.as_ref().is_some_and(|old| {
            (old.template_first_poll, old.has_rolled_out) == (template_first_poll, has_rolled_out)
                && is_same_but_for_version(&old.workload, &mut workload)
        });
        self.changes += u64::from(!is_same);
        if let Some(entry) = self.workloads.get_mut(&workload.id) {
            let workload = Arc::new(workload);
            entry.stored = Some(IndexedWorkload { workload, template_first_poll, has_rolled_out });
        }
        if let Some(old) = old.filter(|_| !has_same_secrets) {
            self.release(&old.workload);
        }
        change
    }

    /// Removes the stored state of a workload that refers to no secret any more.
    fn remove(&mut self, id: &WorkloadId) -> Change {
        self.late.remove(id);
        let Some(entry) = self.workloads.get_mut(id) else { return Change::Absent };
        entry.pending = None;
        let Some(stored) = entry.stored.take() else { return Change::Absent };
        self.changes += 1;
        self.release(&stored.workload);
        Change::Removed
    }

    /// Drops an entry that holds nothing but the existence of its workload.
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

    /// Returns an id whose namespace shares the allocation of the other workloads of that namespace.
    fn share_namespace(&mut self, mut id: WorkloadId) -> WorkloadId {
        if let Some(shared) = self.namespaces.get(&id.namespace) {
            id.namespace = Arc::clone(shared);
        } else {
            self.namespaces.insert(Arc::clone(&id.namespace));
        }
        id
    }

    /// Lets a workload share the strings of its earlier state, or those of other workloads. Returns
    /// whether both states have the same secrets. If not, the workload is counted as a user of its
    /// secrets.
    fn share_strings(&mut self, workload: &mut Workload, old: Option<&IndexedWorkload>) -> bool {
        if let Some((key, _)) = self.workloads.get_key_value(&workload.id) {
            workload.id = key.clone();
        }
        if let Some(old) = old.filter(|old| old.workload.uid == workload.uid) {
            workload.uid = Arc::clone(&old.workload.uid);
        }
        let has_same_secrets = old.is_some_and(|old| share_secrets(&old.workload, workload));
        if !has_same_secrets {
            self.add_secrets(workload);
        }
        has_same_secrets
    }

    /// Counts a workload as a user of its secrets. Its ids become the shared ones.
    fn add_secrets(&mut self, workload: &mut Workload) {
        for secret in workload.secrets.iter_mut().chain(&mut workload.former_secrets) {
            if let Some((shared, _)) = self.secrets.get_key_value(secret) {
                *secret = Arc::clone(shared);
            }
            *self.secrets.entry(Arc::clone(secret)).or_insert(0) += 1;
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

/// Keeps what is known of a rollout until the rollout is complete.
///
/// Any change of the object, such as a scaled Deployment, looks like progress for a moment, and must not
/// let a stopped rotation go on. A rollout that was seen under way has not ended because all pods were
/// replaced: some may never become available.
fn keep_progress(before: &IndexedWorkload, after: &mut Workload) {
    let IndexedWorkload { workload, has_rolled_out, .. } = before;
    let is_kept = match (workload.progress, after.progress) {
        (Progress::Failed(_), Progress::Running) => true,
        (Progress::Running, Progress::Updated) => workload.observed && !has_rolled_out,
        _ => false,
    };
    if is_kept {
        after.progress = workload.progress;
    }
}

/// Returns the effect if the rollout of a reload ended or failed between two states of a workload.
/// Rollouts of others have no effect.
fn rollout_ended(before: &IndexedWorkload, after: &Workload) -> Option<Effect> {
    let is_reload = after.recorded.as_ref().is_some_and(|record| record.of_this_template);
    let is_same = before.workload.has_template_of(after);
    // After the rollout, pods may be replaced, and the workload may be scaled.
    if !is_reload || !is_same || before.has_rolled_out {
        return None;
    }
    let failure = match (before.workload.progress, after.progress) {
        (Progress::Running | Progress::Updated | Progress::Failed(_), Progress::Complete) => None,
        (Progress::Running | Progress::Updated, Progress::Failed(failure)) => Some(failure),
        _ => return None,
    };
    Some(Effect::RolloutEnded { id: after.id.clone(), failure })
}

#[cfg(test)]
mod tests;
