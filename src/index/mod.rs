//! The store: which workloads refer to which secrets, kept both ways.
//!
//! The collector writes it and the reloader takes snapshots of it; they know each other only through
//! it. It also numbers the polls, because a witness is a matter of order: what counts is whether a
//! template entered the store before a poll began.
//!
//! Architecture Invariant: the lock is never held across an await, and nothing in here waits.

pub mod findings;
pub mod quota;
pub mod sources;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::decide::observation::Poll;
use crate::index::findings::Notices;
use crate::index::quota::Quota;
use crate::index::sources::Sources;
use crate::model::secret::SecretId;
use crate::model::workload::{Kind, Workload, WorkloadId};
use crate::references::server::Servers;
use crate::references::source::Readable;

/// A handle to the store, shared by whoever holds it.
#[derive(Debug, Default)]
pub struct Store {
    servers: Servers,
    sources: Sources,
    notices: Notices,
    quota: Quota,
    state: Mutex<State>,
}

/// A workload in the store.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The workload.
    pub workload: Arc<Workload>,
    /// The first poll that began after its present template entered the store.
    pub entered: Poll,
}

/// What the store holds at the begin of a poll.
#[derive(Debug)]
pub struct Snapshot {
    /// The number of this poll.
    pub poll: Poll,
    /// The workloads of one server, in order of their names, without those over the quota of their namespace.
    pub workloads: Vec<Stored>,
    /// The workloads of that server over the quota of their namespace.
    pub over_quota: Vec<Stored>,
    /// Those of them that were there before this process and came into the store when polls had
    /// begun already; each is in one snapshot.
    pub late: HashSet<WorkloadId>,
    /// Whether more of these may come.
    pub is_incomplete: bool,
}

/// What a manifest changed in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A workload is new, or refers to other secrets than before.
    Collected,
    /// A workload is in the store, and refers to the same secrets as before.
    Unchanged,
    /// A workload was in the store and is not any more.
    Removed,
    /// A workload was not in the store and is not now.
    Absent,
}

#[derive(Debug, Default)]
struct State {
    polls: Poll,
    /// In order, so that what a poll does first does not hang on chance.
    workloads: BTreeMap<WorkloadId, Entry>,
    /// Each secret with the number of workloads that refer to it. The map is also what makes equal
    /// ids share one allocation.
    secrets: HashMap<Arc<SecretId>, usize>,
    namespaces: HashSet<Arc<str>>,
    lists: HashMap<Kind, List>,
    /// The workloads whose sources are not known yet, whether or not an earlier sight of them is
    /// among the others.
    deferred: HashMap<WorkloadId, Deferred>,
    /// See [`Snapshot::late`].
    late: HashSet<WorkloadId>,
}

/// A workload that is there, and of which it is not known yet what it refers to.
#[derive(Debug, Default)]
struct Deferred {
    /// The list of its kind that last contained it.
    list: u64,
    /// Whether a list has shown it since it was taken in: what was in between is not known then.
    is_of_list: bool,
    /// Whether the first list of its kind has shown it.
    is_of_first_list: bool,
}

#[derive(Debug)]
struct Entry {
    stored: Stored,
    /// The list of its kind that last contained it.
    list: u64,
}

/// The lists that a kind was read by.
#[derive(Debug, Default)]
struct List {
    number: u64,
    under_way: bool,
    complete: bool,
    /// Whether polls begin without it.
    is_overdue: bool,
}

impl List {
    /// Whether polls begin without it, and it has not ended yet.
    fn is_late(&self) -> bool {
        self.is_overdue && !self.complete
    }
}

impl Store {
    /// An empty store, for workloads that mean some servers, and whose sources of some kinds may be read.
    #[must_use]
    pub fn new(servers: Servers, readable: Readable) -> Self {
        Self { servers, sources: Sources::new(readable), ..Self::default() }
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

    /// The ConfigMaps and Secrets that workloads name.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// What the owners of workloads should know of their references.
    #[must_use]
    pub fn notices(&self) -> &Notices {
        &self.notices
    }

    /// Takes in a workload as a watch event shows it. One that refers to no secret, and whose pods use
    /// none of before either, is removed.
    pub fn apply(&self, workload: Workload) -> Change {
        self.state().apply(workload)
    }

    /// Takes in a workload as the answer to our own PATCH shows it, if the store has it still.
    pub fn refresh(&self, workload: Workload) {
        let mut state = self.state();
        if state.workloads.get(&workload.id).is_some_and(|e| e.stored.workload.uid == workload.uid)
        {
            state.apply(workload);
        }
    }

    /// Notes that a workload is there whose sources are not known yet. What the store has of it stays
    /// until it is applied or removed.
    pub fn defer(&self, id: &WorkloadId) {
        self.state().defer(id);
    }

    /// Removes a workload: it was deleted, or opted out.
    pub fn remove(&self, id: &WorkloadId) -> Change {
        self.state().remove(id)
    }

    /// A full list of a kind begins: what it does not contain is gone when it ends.
    pub fn begin_list(&self, kind: Kind) {
        let mut state = self.state();
        let list = state.lists.entry(kind).or_default();
        list.number += 1;
        list.under_way = true;
    }

    /// A full list of a kind ended. Answers the workloads that it did not contain.
    pub fn end_list(&self, kind: Kind) -> Vec<WorkloadId> {
        let mut state = self.state();
        let list = state.lists.entry(kind).or_default();
        list.complete = true;
        list.under_way = false;
        let number = list.number;
        let lost: Vec<_> = state
            .workloads
            .iter()
            .filter(|(id, entry)| id.kind == kind && entry.list != number)
            .map(|(id, _)| id.clone())
            .collect();
        for id in &lost {
            state.remove(id);
        }
        state.deferred.retain(|id, deferred| id.kind != kind || deferred.list == number);
        // What only this set still holds is the namespace of no workload any more.
        state.namespaces.retain(|namespace| Arc::strong_count(namespace) > 1);
        lost
    }

    /// Whether every kind was listed in full at least once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        let state = self.state();
        Kind::ALL.iter().all(|kind| state.lists.get(kind).is_some_and(|list| list.complete))
    }

    /// Polls need not wait for the first full list of a kind any longer.
    pub fn do_not_await(&self, kind: Kind) {
        self.state().lists.entry(kind).or_default().is_overdue = true;
    }

    /// Whether polls may begin: one kind was listed in full, and each other one was, too, or is
    /// overdue.
    #[must_use]
    pub fn may_be_polled(&self) -> bool {
        let state = self.state();
        let is_complete = |kind: &Kind| state.is_listed(*kind);
        let is_overdue = |kind: &Kind| state.lists.get(kind).is_some_and(|list| list.is_overdue);
        let mut kinds = Kind::ALL.iter();
        kinds.all(|kind| is_complete(kind) || is_overdue(kind)) && Kind::ALL.iter().any(is_complete)
    }

    /// Whether the first full list of a kind has ended.
    #[must_use]
    pub fn is_listed(&self, kind: Kind) -> bool {
        self.state().is_listed(kind)
    }

    /// Begins a poll of a server: numbers it, and says what there is of that server at this moment. The
    /// polls of all servers are numbered in one row.
    #[must_use]
    pub fn begin_poll(&self, server: &str) -> Snapshot {
        let mut state = self.state();
        state.polls += 1;
        let all = state.workloads.values().map(|entry| &entry.stored);
        let workloads: Vec<_> =
            all.filter(|stored| stored.workload.is_of(server)).cloned().collect();
        let poll = state.polls;
        let is_incomplete = state.lists.values().any(List::is_late)
            || state.deferred.values().any(|deferred| deferred.is_of_first_list);
        let State { workloads: all, late, .. } = &mut *state;
        let is_of_server =
            |id: &WorkloadId| all.get(id).is_none_or(|entry| entry.stored.workload.is_of(server));
        let late = late.extract_if(is_of_server).collect();
        drop(state);
        let (workloads, over_quota) = self.quota.split(workloads, |stored| &stored.workload);
        Snapshot { poll, workloads, over_quota, late, is_incomplete }
    }

    /// Whether a workload is there, and of another server than this.
    #[must_use]
    pub fn is_of_another(&self, id: &WorkloadId, server: &str) -> bool {
        let state = self.state();
        state.workloads.get(id).is_some_and(|entry| !entry.stored.workload.is_of(server))
    }

    /// One workload, as it is now.
    #[cfg(test)]
    pub(crate) fn get(&self, id: &WorkloadId) -> Option<Stored> {
        self.state().workloads.get(id).map(|entry| entry.stored.clone())
    }

    /// Whether any workload refers to a secret.
    #[must_use]
    pub fn refers_to(&self, secret: &SecretId) -> bool {
        self.state().secrets.contains_key(secret)
    }

    /// The number of workloads and of distinct secrets.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        let state = self.state();
        (state.workloads.len(), state.secrets.len())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held ends the process; its other tasks may still look.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_listed(&self, kind: Kind) -> bool {
        self.lists.get(&kind).is_some_and(|list| list.complete)
    }

    fn defer(&mut self, id: &WorkloadId) {
        let is_of_first_list = !self.is_listed(id.kind);
        let list = self.lists.entry(id.kind).or_default();
        if let Some(entry) = self.workloads.get_mut(id) {
            entry.list = list.number;
        }
        let deferred = self.deferred.entry(id.clone()).or_default();
        deferred.list = list.number;
        deferred.is_of_list |= list.under_way;
        deferred.is_of_first_list |= is_of_first_list;
    }

    fn apply(&mut self, mut workload: Workload) -> Change {
        let deferred = self.deferred.remove(&workload.id).unwrap_or_default();
        let list = self.lists.get(&workload.id.kind);
        if self.polls > 0 && (deferred.is_of_first_list || list.is_some_and(List::is_late)) {
            self.late.insert(workload.id.clone());
        }
        let (list, listing) = list.map_or((0, false), |list| (list.number, list.under_way));
        // What a list has shown is no other for being taken in after its end.
        let listing = listing || deferred.is_of_list;
        let old = self.workloads.get(&workload.id).map(|entry| entry.stored.clone());
        if let Some(old) = &old
            && !listing
            && old.workload.uid == workload.uid
            && is_older(&workload.resource_version, &old.workload.resource_version)
        {
            // A watch that lags behind the answer to our own PATCH. A list is believed whatever it
            // says: a restored etcd counts from an earlier number.
            return Change::Unchanged;
        }
        let entered = match &old {
            // A watch shows every template. Between two lists, one may have come and gone.
            Some(old)
                if old.workload.kept_its_template(&workload)
                    || (!listing && old.workload.has_template_of(&workload)) =>
            {
                workload.take_over_secrets(&old.workload);
                old.entered
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
        let id = workload.id.clone();
        let stored = Stored { workload: Arc::new(workload), entered };
        self.workloads.insert(id, Entry { stored, list });
        if let Some(old) = old {
            self.release(&old.workload);
        }
        change
    }

    fn remove(&mut self, id: &WorkloadId) -> Change {
        self.deferred.remove(id);
        self.late.remove(id);
        match self.workloads.remove(id) {
            Some(entry) => {
                self.release(&entry.stored.workload);
                Change::Removed
            }
            None => Change::Absent,
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
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::fixtures;
    use crate::model::secret::DEFAULT_CONNECTION;
    use crate::model::workload::MOST_SECRETS;

    fn workload(name: &str, resource_version: u64, template: u64, paths: &[&str]) -> Workload {
        let resource_version = resource_version.to_string().into();
        Workload { resource_version, template, ..fixtures::workload(name, paths) }
    }

    #[test]
    fn secrets_are_kept_as_long_as_a_workload_refers_to_them() {
        let store = Store::default();
        assert_eq!(store.apply(workload("a", 1, 1, &["x", "y"])), Change::Collected);
        assert_eq!(store.apply(workload("b", 2, 1, &["y"])), Change::Collected);
        assert_eq!(store.len(), (2, 2));
        assert_eq!(store.apply(workload("a", 3, 2, &["y"])), Change::Collected);
        assert_eq!(store.len(), (2, 1));
        assert_eq!(store.apply(workload("a", 4, 2, &["y"])), Change::Unchanged);
        let b = workload("b", 2, 1, &[]).id;
        assert_eq!(store.remove(&b), Change::Removed);
        assert_eq!(store.remove(&b), Change::Absent);
        assert_eq!(store.remove(&workload("a", 1, 1, &[]).id), Change::Removed);
        assert_eq!(store.len(), (0, 0));
    }

    #[test]
    fn what_pods_of_a_template_may_have_read_is_kept_until_another_template_comes() {
        let store = Store::default();
        let paths = |secrets: &[Arc<SecretId>]| -> Vec<String> {
            secrets.iter().map(|secret| secret.path.to_string()).collect()
        };
        let id = workload("a", 1, 1, &[]).id;
        let seen = || {
            let Stored { workload, entered } = store.get(&id).unwrap();
            (paths(&workload.secrets), paths(&workload.former_secrets), entered)
        };
        store.apply(workload("a", 1, 1, &["one"]));
        // A ConfigMap is edited, which changes nothing of the object.
        let _ = store.begin_poll(DEFAULT_CONNECTION);
        store.apply(workload("a", 1, 1, &["two"]));
        assert_eq!(seen(), (vec!["two".into()], vec!["one".into()], 1));
        assert!(store.refers_to(&fixtures::secret("one")));
        // Edited again, and scaled.
        store.apply(workload("a", 1, 1, &["three"]));
        store.apply(workload("a", 2, 1, &["three"]));
        assert_eq!(seen().1, ["two", "one"]);
        // Edited back.
        store.apply(workload("a", 2, 1, &["one"]));
        assert_eq!(seen(), (vec!["one".into()], vec!["three".into(), "two".into()], 1));
        store.apply(workload("a", 3, 2, &["one"]));
        assert_eq!(seen(), (vec!["one".into()], vec![], 2));
        assert_eq!(store.len(), (1, 1));
        // Edited so that it refers to nothing any more: the pods still run with what it referred to.
        assert_eq!(store.apply(workload("a", 3, 2, &[])), Change::Collected);
        assert_eq!(seen(), (vec![], vec!["one".into()], 2));
        assert_eq!(store.begin_poll(DEFAULT_CONNECTION).workloads.len(), 1);
        assert_eq!(store.apply(workload("a", 4, 3, &[])), Change::Removed);
        assert_eq!(store.apply(workload("a", 5, 3, &[])), Change::Absent);
        store.apply(workload("a", 6, 3, &["one"]));
        // However often it is edited, no more are watched than of any workload.
        for number in 0..2 * MOST_SECRETS {
            store.apply(workload("a", 6, 3, &[&format!("{number:05}")]));
        }
        assert_eq!((seen().1.len(), store.len()), (MOST_SECRETS - 1, (1, MOST_SECRETS)));
        store.remove(&id);
        assert_eq!(store.len(), (0, 0));
    }

    #[test]
    fn a_template_enters_with_the_next_poll_and_scaling_does_not_move_it() {
        let store = Store::default();
        store.apply(workload("a", 1, 7, &["x"]));
        let entered = || store.get(&workload("a", 0, 0, &[]).id).unwrap().entered;
        assert_eq!(entered(), 1);
        assert_eq!(store.begin_poll(DEFAULT_CONNECTION).poll, 1);
        store.apply(workload("a", 2, 7, &["x"]));
        assert_eq!(entered(), 1);
        store.apply(workload("a", 3, 8, &["x"]));
        assert_eq!(entered(), 2);
        let mut anew = workload("a", 4, 8, &["x"]);
        anew.uid = "u2".into();
        assert_eq!(store.begin_poll(DEFAULT_CONNECTION).poll, 2);
        store.apply(anew);
        assert_eq!(entered(), 3);
    }

    #[test]
    fn a_template_that_may_have_been_replaced_and_put_back_between_two_lists_enters_anew() {
        let store = Store::default();
        let read = |resource_version, generation| Workload {
            generation,
            ..workload("a", resource_version, 7, &["x"])
        };
        let entered = || store.get(&workload("a", 0, 0, &[]).id).unwrap().entered;
        store.apply(read(1, 1));
        assert_eq!(store.begin_poll(DEFAULT_CONNECTION).poll, 1);
        // A watch would have shown the other template; this is an autoscaler.
        store.apply(read(5, 4));
        assert_eq!(entered(), 1);
        store.begin_list(Kind::Deployment);
        store.apply(read(6, 5));
        assert_eq!(entered(), 1, "one change of the spec replaces a template, or nothing");
        store.apply(read(9, 7));
        assert_eq!(entered(), 2);
    }

    #[test]
    fn an_event_older_than_what_is_known_changes_nothing() {
        let store = Store::default();
        store.apply(workload("a", 9, 1, &["x"]));
        store.refresh(workload("a", 12, 2, &["x"]));
        assert_eq!(store.apply(workload("a", 10, 1, &["x", "y"])), Change::Unchanged);
        assert_eq!(store.get(&workload("a", 0, 0, &[]).id).unwrap().workload.template, 2);
        // A list is believed: etcd may have been restored.
        store.begin_list(Kind::Deployment);
        store.apply(workload("a", 3, 1, &["x"]));
        assert_eq!(store.get(&workload("a", 0, 0, &[]).id).unwrap().workload.template, 1);
        store.end_list(Kind::Deployment);
        // The answer to a PATCH does not bring back what was deleted meanwhile.
        store.remove(&workload("a", 0, 0, &[]).id);
        store.refresh(workload("a", 13, 2, &["x"]));
        assert_eq!(store.len(), (0, 0));
    }

    #[test]
    fn what_a_list_does_not_contain_is_gone_when_it_ends() {
        let store = Store::default();
        store.begin_list(Kind::Deployment);
        store.apply(workload("a", 1, 1, &["x"]));
        store.apply(workload("b", 2, 1, &["x"]));
        assert!(store.end_list(Kind::Deployment).is_empty());
        store.begin_list(Kind::Deployment);
        store.apply(workload("a", 1, 1, &["x"]));
        assert_eq!(store.len().0, 2, "nothing is lost while a list is under way");
        let lost = store.end_list(Kind::Deployment);
        assert_eq!(lost.iter().map(ToString::to_string).collect::<Vec<_>>(), ["shop/Deployment/b"]);
        assert!(!store.is_synced());
        for kind in [Kind::DaemonSet, Kind::StatefulSet] {
            store.begin_list(kind);
            store.end_list(kind);
        }
        assert!(store.is_synced());
    }

    #[test]
    fn what_is_taken_in_after_its_list_counts_as_seen_by_the_list() {
        let store = Store::default();
        let read = |resource_version, generation| Workload {
            generation,
            ..workload("a", resource_version, 7, &["x"])
        };
        let stored = || store.get(&workload("a", 0, 0, &[]).id).unwrap();
        store.apply(read(5, 1));
        assert_eq!(store.begin_poll(DEFAULT_CONNECTION).poll, 1);
        store.begin_list(Kind::Deployment);
        store.defer(&read(9, 7).id);
        assert!(store.end_list(Kind::Deployment).is_empty(), "it is there");
        assert_eq!((stored().workload.generation, stored().entered), (1, 1));
        // Its template may have been replaced and put back before the list.
        store.apply(read(9, 7));
        assert_eq!((stored().workload.generation, stored().entered), (7, 2));
        // The list after etcd was restored.
        store.begin_list(Kind::Deployment);
        store.defer(&read(3, 7).id);
        store.end_list(Kind::Deployment);
        store.apply(read(3, 7));
        assert_eq!(&*stored().workload.resource_version, "3");
        // A watch shows each template, and what it showed before is older.
        store.defer(&read(4, 8).id);
        store.apply(read(4, 8));
        assert_eq!(stored().entered, 2);
        store.defer(&read(2, 8).id);
        store.apply(read(2, 8));
        assert_eq!(&*stored().workload.resource_version, "4");
        // One that is not there any more.
        store.defer(&workload("b", 1, 1, &[]).id);
        store.begin_list(Kind::Deployment);
        assert_eq!(store.end_list(Kind::Deployment).len(), 1);
        assert!(store.state().deferred.is_empty());
    }

    #[test]
    fn who_was_there_before_this_process_and_comes_after_a_poll_is_in_the_next_one_of_its_server() {
        let store = Store::default();
        let late = |server: &str| {
            let Snapshot { mut late, is_incomplete, .. } = store.begin_poll(server);
            let late: BTreeSet<_> = late.drain().map(|id| id.name.to_string()).collect();
            (late.into_iter().collect::<Vec<_>>().join(" "), is_incomplete)
        };
        store.begin_list(Kind::Deployment);
        store.apply(workload("a", 1, 1, &["x"]));
        for name in ["b", "c"] {
            store.defer(&workload(name, 1, 1, &[]).id);
        }
        store.end_list(Kind::Deployment);
        for kind in [Kind::DaemonSet, Kind::StatefulSet] {
            assert!(!store.may_be_polled());
            store.do_not_await(kind);
        }
        assert!(store.may_be_polled() && !store.is_synced());
        assert_eq!(late(DEFAULT_CONNECTION), (String::new(), true));
        store.apply(workload("b", 1, 1, &["x"]));
        assert_eq!(late("of-nobody"), (String::new(), true));
        assert_eq!(late(DEFAULT_CONNECTION), ("b".to_owned(), true));
        assert_eq!(late(DEFAULT_CONNECTION), (String::new(), true));
        // A list that ends later than that of the others.
        store.begin_list(Kind::DaemonSet);
        let mut daemons = workload("d", 1, 1, &["x"]);
        daemons.id.kind = Kind::DaemonSet;
        store.apply(daemons);
        for kind in [Kind::DaemonSet, Kind::StatefulSet] {
            store.end_list(kind);
        }
        assert!(store.is_synced());
        assert_eq!(late(DEFAULT_CONNECTION), ("d".to_owned(), true));
        // Whoever is new, or is another one now, has pods that are as new.
        store.apply(workload("new", 1, 1, &["x"]));
        store.defer(&workload("a", 2, 2, &[]).id);
        store.remove(&workload("c", 1, 1, &[]).id);
        store.apply(workload("a", 2, 2, &["x"]));
        assert_eq!(late(DEFAULT_CONNECTION), (String::new(), false));
    }

    #[test]
    fn a_poll_is_of_the_workloads_of_one_server() {
        let store = Store::default();
        store.apply(workload("a", 1, 1, &["x"]));
        let on_b = |name, resource_version| {
            let id = SecretId { connection: "b".into(), ..(*fixtures::secret("x")).clone() };
            let secrets = [Arc::new(id)].into();
            Workload { secrets, ..workload(name, resource_version, 1, &[]) }
        };
        store.apply(on_b("b", 2));
        assert_eq!(store.len(), (2, 2), "one path of two servers is two secrets");
        let names = |server: &str| {
            let snapshot = store.begin_poll(server);
            let names = snapshot.workloads.iter().map(|stored| stored.workload.id.name.to_string());
            (snapshot.poll, names.collect::<Vec<_>>())
        };
        assert_eq!(names(DEFAULT_CONNECTION), (1, vec!["a".to_owned()]));
        assert_eq!(names("b"), (2, vec!["b".to_owned()]));
        assert_eq!(names("c"), (3, vec![]));
        let [a, none] = ["a", "none"].map(|name| workload(name, 1, 1, &[]).id);
        assert!(store.is_of_another(&a, "b") && !store.is_of_another(&a, DEFAULT_CONNECTION));
        assert!(!store.is_of_another(&none, "b"));
        // It names another server.
        store.apply(on_b("a", 3));
        assert_eq!(names(DEFAULT_CONNECTION).1, [""; 0]);
        assert_eq!(names("b").1, ["a", "b"]);
    }

    #[test]
    fn equal_secrets_share_one_allocation() {
        let store = Store::default();
        store.apply(workload("a", 1, 1, &["x"]));
        store.apply(workload("b", 2, 1, &["x"]));
        let snapshot = store.begin_poll(DEFAULT_CONNECTION);
        let [a, b] = &snapshot.workloads[..] else { panic!("two workloads") };
        assert!(Arc::ptr_eq(&a.workload.secrets[0], &b.workload.secrets[0]));
    }
}
