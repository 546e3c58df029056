//! The entries of workloads whose references are known.

use std::cell::{Ref, RefCell};
use std::collections::BTreeSet;

use super::*;
use crate::model::fixtures;
use crate::model::secret::DEFAULT_CONNECTION;
use crate::model::workload::MOST_SECRETS;

/// Entries that take workloads instead of manifests.
#[derive(Default)]
struct Bench(RefCell<Entries>);

impl Bench {
    /// A list or a watch shows a workload.
    fn apply(&self, workload: Workload) -> Change {
        self.see(&workload.id);
        self.0.borrow_mut().store(workload, Seen::Object)
    }

    /// A list or a watch shows a workload whose sources are not known yet.
    fn defer(&self, id: &WorkloadId) {
        self.see(id);
        self.0.borrow_mut().defer(id, Seen::Object);
    }

    fn see(&self, id: &WorkloadId) {
        let mut entries = self.0.borrow_mut();
        let number = entries.lists.of(id).number;
        entries.workloads.entry(id.clone()).or_default().list = number;
    }

    /// A change of its sources makes a deferred workload known.
    fn conclude(&self, workload: Workload) -> Change {
        self.0.borrow_mut().store(workload, Seen::Otherwise)
    }

    /// A PATCH is answered.
    fn refresh(&self, workload: Workload) {
        let mut entries = self.0.borrow_mut();
        if entries.get(&workload.id).is_some_and(|stored| stored.workload.uid == workload.uid) {
            entries.store(workload, Seen::Otherwise);
        }
    }

    fn remove(&self, id: &WorkloadId) -> Change {
        match self.0.borrow_mut().delete(id) {
            Some(_) => Change::Removed,
            None => Change::Absent,
        }
    }

    fn end_list(&self, kind: Kind) -> Vec<WorkloadId> {
        self.0.borrow_mut().end_list(&kind.into()).0
    }

    fn begin_poll(&self) -> PollNumber {
        self.0.borrow_mut().polls += 1;
        self.0.borrow_mut().polls
    }

    fn get(&self, id: &WorkloadId) -> Option<IndexedWorkload> {
        self.0.borrow().get(id).cloned()
    }

    fn len(&self) -> (usize, usize) {
        self.0.borrow().len()
    }

    fn refers_to(&self, secret: &SecretId) -> bool {
        self.0.borrow().refers_to(secret)
    }

    fn begin_list(&self, kind: Kind) {
        self.0.borrow_mut().lists.begin(&kind.into());
    }

    fn lists(&self) -> Ref<'_, Lists> {
        Ref::map(self.0.borrow(), |entries| &entries.lists)
    }
}

fn workload(name: &str, resource_version: u64, template: u64, paths: &[&str]) -> Workload {
    let resource_version = resource_version.to_string().into();
    Workload { resource_version, template, ..fixtures::workload(name, paths) }
}

#[test]
fn secrets_are_kept_as_long_as_a_workload_refers_to_them() {
    let bench = Bench::default();
    assert_eq!(bench.apply(workload("a", 1, 1, &["x", "y"])), Change::Collected);
    assert_eq!(bench.apply(workload("b", 2, 1, &["y"])), Change::Collected);
    assert_eq!(bench.len(), (2, 2));
    assert_eq!(bench.apply(workload("a", 3, 2, &["y"])), Change::Collected);
    assert_eq!(bench.len(), (2, 1));
    assert_eq!(bench.apply(workload("a", 4, 2, &["y"])), Change::Unchanged);
    let b = workload("b", 2, 1, &[]).id;
    assert_eq!(bench.remove(&b), Change::Removed);
    assert_eq!(bench.remove(&b), Change::Absent);
    assert_eq!(bench.remove(&workload("a", 1, 1, &[]).id), Change::Removed);
    assert_eq!(bench.len(), (0, 0));
}

#[test]
fn what_pods_of_a_template_may_have_read_is_kept_until_another_template_comes() {
    let bench = Bench::default();
    let paths = |secrets: &[Arc<SecretId>]| -> Vec<String> {
        secrets.iter().map(|secret| secret.path.to_string()).collect()
    };
    let id = workload("a", 1, 1, &[]).id;
    let seen = || {
        let IndexedWorkload { workload, template_first_poll, .. } = bench.get(&id).unwrap();
        (paths(&workload.secrets), paths(&workload.former_secrets), template_first_poll)
    };
    bench.apply(workload("a", 1, 1, &["one"]));
    // An edit of a ConfigMap changes nothing of the object.
    bench.begin_poll();
    bench.apply(workload("a", 1, 1, &["two"]));
    assert_eq!(seen(), (vec!["two".into()], vec!["one".into()], 1));
    assert!(bench.refers_to(&fixtures::secret("one")));
    // The ConfigMap is edited again, and the workload is scaled.
    bench.apply(workload("a", 1, 1, &["three"]));
    bench.apply(workload("a", 2, 1, &["three"]));
    assert_eq!(seen().1, ["two", "one"]);
    // The ConfigMap is edited back.
    bench.apply(workload("a", 2, 1, &["one"]));
    assert_eq!(seen(), (vec!["one".into()], vec!["three".into(), "two".into()], 1));
    bench.apply(workload("a", 3, 2, &["one"]));
    assert_eq!(seen(), (vec!["one".into()], vec![], 2));
    assert_eq!(bench.len(), (1, 1));
    // The workload refers to nothing any more. The pods still run with the former secrets.
    assert_eq!(bench.apply(workload("a", 3, 2, &[])), Change::Collected);
    assert_eq!(seen(), (vec![], vec!["one".into()], 2));
    assert_eq!(bench.0.borrow().stored().count(), 1);
    assert_eq!(bench.apply(workload("a", 4, 3, &[])), Change::Removed);
    assert_eq!(bench.apply(workload("a", 5, 3, &[])), Change::Absent);
    bench.apply(workload("a", 6, 3, &["one"]));
    // After any number of edits, no more secrets are watched than for any workload.
    for number in 0..2 * MOST_SECRETS {
        bench.apply(workload("a", 6, 3, &[&format!("{number:05}")]));
    }
    assert_eq!((seen().1.len(), bench.len()), (MOST_SECRETS - 1, (1, MOST_SECRETS)));
    bench.remove(&id);
    assert_eq!(bench.len(), (0, 0));
}

#[test]
fn a_template_enters_with_the_next_poll_and_scaling_does_not_move_it() {
    let bench = Bench::default();
    bench.apply(workload("a", 1, 7, &["x"]));
    let template_first_poll =
        || bench.get(&workload("a", 0, 0, &[]).id).unwrap().template_first_poll;
    assert_eq!(template_first_poll(), 1);
    assert_eq!(bench.begin_poll(), 1);
    bench.apply(workload("a", 2, 7, &["x"]));
    assert_eq!(template_first_poll(), 1);
    bench.apply(workload("a", 3, 8, &["x"]));
    assert_eq!(template_first_poll(), 2);
    let mut anew = workload("a", 4, 8, &["x"]);
    anew.uid = "u2".into();
    assert_eq!(bench.begin_poll(), 2);
    bench.apply(anew);
    assert_eq!(template_first_poll(), 3);
}

#[test]
fn a_template_that_may_have_been_replaced_and_put_back_between_two_lists_enters_anew() {
    let bench = Bench::default();
    let read = |resource_version, generation| Workload {
        generation,
        ..workload("a", resource_version, 7, &["x"])
    };
    let template_first_poll =
        || bench.get(&workload("a", 0, 0, &[]).id).unwrap().template_first_poll;
    bench.apply(read(1, 1));
    assert_eq!(bench.begin_poll(), 1);
    // A watch would have shown another template. This change is an autoscaler's.
    bench.apply(read(5, 4));
    assert_eq!(template_first_poll(), 1);
    bench.begin_list(Kind::DEPLOYMENT);
    bench.apply(read(6, 5));
    assert_eq!(template_first_poll(), 1, "one change of the spec replaces a template, or nothing");
    bench.apply(read(9, 7));
    assert_eq!(template_first_poll(), 2);
}

#[test]
fn an_event_older_than_what_is_known_changes_nothing() {
    let bench = Bench::default();
    bench.apply(workload("a", 9, 1, &["x"]));
    bench.refresh(workload("a", 12, 2, &["x"]));
    assert_eq!(bench.apply(workload("a", 10, 1, &["x", "y"])), Change::Unchanged);
    assert_eq!(bench.get(&workload("a", 0, 0, &[]).id).unwrap().workload.template, 2);
    // A list is believed, since etcd may have been restored.
    bench.begin_list(Kind::DEPLOYMENT);
    bench.apply(workload("a", 3, 1, &["x"]));
    assert_eq!(bench.get(&workload("a", 0, 0, &[]).id).unwrap().workload.template, 1);
    bench.end_list(Kind::DEPLOYMENT);
    // The answer to a PATCH does not bring back a workload that was deleted meanwhile.
    bench.remove(&workload("a", 0, 0, &[]).id);
    bench.refresh(workload("a", 13, 2, &["x"]));
    assert_eq!(bench.len(), (0, 0));
}

#[test]
fn what_a_list_does_not_contain_is_gone_when_it_ends() {
    let bench = Bench::default();
    bench.begin_list(Kind::DEPLOYMENT);
    bench.apply(workload("a", 1, 1, &["x"]));
    bench.apply(workload("b", 2, 1, &["x"]));
    assert!(bench.end_list(Kind::DEPLOYMENT).is_empty());
    bench.begin_list(Kind::DEPLOYMENT);
    bench.apply(workload("a", 1, 1, &["x"]));
    assert_eq!(bench.len().0, 2, "nothing is lost while a list is under way");
    let lost = bench.end_list(Kind::DEPLOYMENT);
    assert_eq!(lost.iter().map(ToString::to_string).collect::<Vec<_>>(), ["shop/Deployment/b"]);
    assert!(!bench.lists().are_all_complete());
    for kind in [Kind::DAEMON_SET, Kind::STATEFUL_SET] {
        bench.begin_list(kind);
        bench.end_list(kind);
    }
    assert!(bench.lists().are_all_complete());
}

#[test]
fn what_is_taken_in_after_its_list_counts_as_seen_by_the_list() {
    let bench = Bench::default();
    let read = |resource_version, generation| Workload {
        generation,
        ..workload("a", resource_version, 7, &["x"])
    };
    let stored = || bench.get(&workload("a", 0, 0, &[]).id).unwrap();
    bench.apply(read(5, 1));
    assert_eq!(bench.begin_poll(), 1);
    bench.begin_list(Kind::DEPLOYMENT);
    bench.defer(&read(9, 7).id);
    assert!(bench.end_list(Kind::DEPLOYMENT).is_empty(), "it is there");
    assert_eq!((stored().workload.generation, stored().template_first_poll), (1, 1));
    // The template may have been replaced and put back before the list.
    bench.conclude(read(9, 7));
    assert_eq!((stored().workload.generation, stored().template_first_poll), (7, 2));
    // The list after etcd was restored.
    bench.begin_list(Kind::DEPLOYMENT);
    bench.defer(&read(3, 7).id);
    bench.end_list(Kind::DEPLOYMENT);
    bench.conclude(read(3, 7));
    assert_eq!(&*stored().workload.resource_version, "3");
    // A watch shows each template, so an event from before is older.
    bench.defer(&read(4, 8).id);
    bench.conclude(read(4, 8));
    assert_eq!(stored().template_first_poll, 2);
    bench.defer(&read(2, 8).id);
    bench.conclude(read(2, 8));
    assert_eq!(&*stored().workload.resource_version, "4");
    // The workload does not exist any more.
    bench.defer(&workload("b", 1, 1, &[]).id);
    bench.begin_list(Kind::DEPLOYMENT);
    assert_eq!(bench.end_list(Kind::DEPLOYMENT).len(), 2);
    assert!(!bench.0.borrow().workloads.contains_key(&workload("b", 1, 1, &[]).id));
}

#[test]
fn who_was_there_before_this_process_and_comes_after_a_poll_is_in_the_next_one_of_its_server() {
    let bench = Bench::default();
    let late = |server: &str| {
        let Snapshot { mut late, is_incomplete, .. } = bench.0.borrow_mut().begin_poll(server);
        let late: BTreeSet<_> = late.drain().map(|id| id.name.to_string()).collect();
        (late.into_iter().collect::<Vec<_>>().join(" "), is_incomplete)
    };
    bench.begin_list(Kind::DEPLOYMENT);
    bench.apply(workload("a", 1, 1, &["x"]));
    for name in ["b", "c"] {
        bench.defer(&workload(name, 1, 1, &[]).id);
    }
    bench.end_list(Kind::DEPLOYMENT);
    for kind in [Kind::DAEMON_SET, Kind::STATEFUL_SET] {
        assert!(!bench.lists().may_be_polled());
        bench.0.borrow_mut().lists.do_not_await(&kind.into());
    }
    assert!(bench.lists().may_be_polled() && !bench.lists().are_all_complete());
    assert_eq!(late(DEFAULT_CONNECTION), (String::new(), true));
    bench.conclude(workload("b", 1, 1, &["x"]));
    assert_eq!(late("of-nobody"), (String::new(), true));
    assert_eq!(late(DEFAULT_CONNECTION), ("b".to_owned(), true));
    assert_eq!(late(DEFAULT_CONNECTION), (String::new(), true));
    // This list ends later than the lists of the other kinds.
    bench.begin_list(Kind::DAEMON_SET);
    let mut daemons = workload("d", 1, 1, &["x"]);
    daemons.id.kind = Kind::DAEMON_SET;
    bench.apply(daemons);
    for kind in [Kind::DAEMON_SET, Kind::STATEFUL_SET] {
        bench.end_list(kind);
    }
    assert!(bench.lists().are_all_complete());
    assert_eq!(late(DEFAULT_CONNECTION), ("d".to_owned(), true));
    // A new workload, or a new object of the same name, has new pods.
    bench.apply(workload("new", 1, 1, &["x"]));
    bench.defer(&workload("a", 2, 2, &[]).id);
    bench.remove(&workload("c", 1, 1, &[]).id);
    bench.apply(workload("a", 2, 2, &["x"]));
    assert_eq!(late(DEFAULT_CONNECTION), (String::new(), false));
}

#[test]
fn a_poll_is_of_the_workloads_of_one_server() {
    let bench = Bench::default();
    bench.apply(workload("a", 1, 1, &["x"]));
    let on_b = |name, resource_version| {
        let id = SecretId { connection: "b".into(), ..(*fixtures::secret("x")).clone() };
        let secrets = [Arc::new(id)].into();
        Workload { secrets, ..workload(name, resource_version, 1, &[]) }
    };
    bench.apply(on_b("b", 2));
    assert_eq!(bench.len(), (2, 2), "one path of two servers is two secrets");
    let names = |server: &str| {
        let snapshot = bench.0.borrow_mut().begin_poll(server);
        let names = snapshot.workloads.iter().map(|stored| stored.workload.id.name.to_string());
        (snapshot.poll, names.collect::<Vec<_>>())
    };
    assert_eq!(names(DEFAULT_CONNECTION), (1, vec!["a".to_owned()]));
    assert_eq!(names("b"), (2, vec!["b".to_owned()]));
    assert_eq!(names("c"), (3, vec![]));
    let [a, none] = ["a", "none"].map(|name| workload(name, 1, 1, &[]).id);
    assert!(
        bench.0.borrow().is_of_another(&a, "b")
            && !bench.0.borrow().is_of_another(&a, DEFAULT_CONNECTION)
    );
    assert!(!bench.0.borrow().is_of_another(&none, "b"));
    // The workload names another server.
    bench.apply(on_b("a", 3));
    assert_eq!(names(DEFAULT_CONNECTION).1, [""; 0]);
    assert_eq!(names("b").1, ["a", "b"]);
}

#[test]
fn equal_secrets_share_one_allocation() {
    let bench = Bench::default();
    bench.apply(workload("a", 1, 1, &["x"]));
    bench.apply(workload("b", 2, 1, &["x"]));
    let snapshot = bench.0.borrow_mut().begin_poll(DEFAULT_CONNECTION);
    let [a, b] = &snapshot.workloads[..] else { panic!("two workloads") };
    assert!(Arc::ptr_eq(&a.workload.secrets[0], &b.workload.secrets[0]));
}

#[test]
fn an_event_that_changes_nothing_but_the_version_is_no_change() {
    let bench = Bench::default();
    let changes = || bench.0.borrow().changes;
    bench.apply(workload("a", 1, 1, &["x"]));
    let before = changes();
    let known = bench.get(&workload("a", 0, 0, &[]).id).unwrap();
    bench.apply(workload("a", 2, 1, &["x"]));
    assert_eq!(changes(), before);
    let stored = bench.get(&known.workload.id).unwrap();
    assert_eq!(&*stored.workload.resource_version, "2", "a PATCH needs it");
    assert!(Arc::ptr_eq(&stored.workload.secrets[0], &known.workload.secrets[0]));
    bench.apply(Workload { progress: Progress::Running, ..workload("a", 3, 1, &["x"]) });
    assert_eq!(changes(), before + 1);
    bench.apply(workload("a", 4, 2, &["y"]));
    assert_eq!(changes(), before + 2);
    assert!(bench.refers_to(&fixtures::secret("y")) && !bench.refers_to(&fixtures::secret("x")));
}

#[test]
fn the_users_of_a_secret_and_the_secrets_of_a_namespace_are_found() {
    let bench = Bench::default();
    bench.apply(workload("a", 1, 1, &["x", "y"]));
    bench.apply(workload("b", 2, 1, &["y"]));
    bench.apply(workload("c", 3, 1, &["z"]));
    let mut other = workload("d", 4, 1, &["x"]);
    other.id.namespace = "shop-2".into();
    other.id.kind = Kind::STATEFUL_SET;
    bench.apply(other);
    let users = |path: &str| -> Vec<String> {
        let users = bench.0.borrow().users(|secret| *secret.path == *path);
        let users = users.into_values().flatten();
        users.map(|stored| stored.workload.id.name.to_string()).collect()
    };
    assert_eq!(users("x"), ["a", "d"]);
    assert_eq!(users("y"), ["a", "b"]);
    assert_eq!(users("other"), [""; 0]);
    let secrets = |namespace: &str| -> BTreeSet<String> {
        let secrets = bench.0.borrow().secrets_of(namespace);
        secrets.into_iter().map(|secret| secret.path.to_string()).collect()
    };
    assert_eq!(secrets("shop"), BTreeSet::from(["x", "y", "z"].map(str::to_owned)));
    assert_eq!(secrets("shop-2"), BTreeSet::from(["x".to_owned()]));
    assert_eq!(secrets("sho"), BTreeSet::new());
}

#[test]
fn an_entry_is_small() {
    // There is one for each of tens of thousands of workloads.
    assert!(size_of::<Entry>() <= 64, "{}", size_of::<Entry>());
}

#[test]
fn the_index_is_settled_once_the_workloads_of_all_first_lists_are_known() {
    let bench = Bench::default();
    let is_settled = || bench.0.borrow_mut().is_settled();
    bench.begin_list(Kind::DEPLOYMENT);
    bench.defer(&workload("a", 1, 1, &[]).id);
    for kind in Kind::ALL {
        bench.end_list(kind);
    }
    assert!(!is_settled());
    bench.conclude(workload("a", 1, 1, &["x"]));
    assert!(is_settled());
    bench.defer(&workload("b", 2, 1, &[]).id);
    assert!(is_settled(), "it is new");
}
