//! The index with objects, their ConfigMaps and lists.

use super::*;
use crate::model::annotation::{Annotations, MARK, OptIn};
use crate::model::progress::{Progress, RolloutFailure, RolloutStatus};
use crate::model::record::{Record, Versions};
use crate::model::secret::DEFAULT_CONNECTION;
use crate::references::environment::{Container, EnvFrom, EnvVar, SourceName};
use crate::references::source::Content;

/// Returns an opted-in Deployment with variables.
fn with_values(name: &str, values: &[(&str, &str)]) -> Manifest {
    let variables = values.iter().map(|(name, value)| EnvVar::literal(*name, *value)).collect();
    Manifest {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        annotations: [(OptIn::Current.key(), "true")].into_iter().collect(),
        containers: vec![Container { name: "app".to_owned(), variables, ..Container::default() }],
        ..Manifest::default()
    }
}

/// Returns a Deployment that takes its variables from the ConfigMap `refs`.
fn with_config_map(name: &str) -> Manifest {
    let mut manifest = with_values(name, &[]);
    let from = EnvFrom { prefix: String::new(), source: refs_name(), optional: false };
    manifest.containers[0].from = vec![from];
    manifest
}

fn refs_name() -> SourceName {
    SourceName { kind: SourceKind::ConfigMap, name: "refs".to_owned() }
}

fn refs() -> SourceId {
    SourceId::new(&"shop".into(), &refs_name())
}

fn id(name: &str) -> WorkloadId {
    with_values(name, &[]).id(Kind::DEPLOYMENT)
}

fn read(version: u32, value: &str) -> SourceRead {
    let content = Content::new([("A", value.as_bytes())]);
    SourceRead::Read { resource_version: version.to_string(), content }
}

/// Stores the result of reading the ConfigMap. Returns the effects.
fn put(index: &Index, found: SourceRead) -> Vec<Effect> {
    index.put_source(&refs(), found);
    std::iter::from_fn(|| index.read_next_changed()).flatten().collect()
}

fn list(index: &Index, manifests: impl IntoIterator<Item = Manifest>) -> Vec<Effect> {
    index.begin_list(Kind::DEPLOYMENT);
    for manifest in manifests {
        index.apply(manifest, Kind::DEPLOYMENT);
    }
    index.end_list(Kind::DEPLOYMENT)
}

#[test]
fn what_is_kept_of_workloads_goes_with_them() {
    let index = Index::default();
    let odd = |name: &str| {
        with_values(name, &[("A", "vault:secret/data/a#k"), ("ODD", "vault:secret/data/a")])
    };
    list(&index, []);
    for day in 0..30 {
        for number in 0..100 {
            let name = format!("a{day}-{number}");
            index.apply(odd(&name), Kind::DEPLOYMENT);
            if number % 2 == 0 {
                assert_eq!(index.delete(&id(&name)), [Effect::Removed(id(&name))]);
            }
        }
        // A workload that was deleted while no watch ran is not in the next list.
        list(&index, [odd("stays")]);
        assert_eq!((index.known(), index.len()), (1, (1, 1)));
        assert_eq!(index.findings().counts().into_values().collect::<Vec<_>>(), [1]);
    }
    // Nothing is kept of a workload that opted out or refers to nothing.
    let opted_out = Manifest { annotations: Annotations::default(), ..odd("stays") };
    let effects = index.apply(opted_out, Kind::DEPLOYMENT);
    assert!(effects.contains(&Effect::Removed(id("stays"))), "{effects:?}");
    index.apply(with_values("plain", &[("A", "plain")]), Kind::DEPLOYMENT);
    assert_eq!((index.known(), index.findings().counts().len()), (0, 0));
}

#[test]
fn what_there_is_to_say_of_references_is_said_once_a_change() {
    let index = Index::default();
    list(&index, []);
    let noted = |values: &[(&str, &str)]| {
        let effects = index.apply(with_values("web", values), Kind::DEPLOYMENT);
        let notes = effects.into_iter().find_map(|effect| match effect {
            Effect::Noted { notes, .. } => Some(notes.len()),
            _ => None,
        });
        (notes, index.findings().counts().into_values().sum::<u64>())
    };
    assert_eq!(noted(&[("A", "vault:secret/data/a#k")]), (None, 0));
    assert_eq!(noted(&[("ODD", "vault:secret/data/a")]), (Some(1), 1));
    assert_eq!(noted(&[("ODD", "vault:secret/data/a")]), (None, 1));
    assert_eq!(noted(&[("A", "vault:secret/data/a#k")]), (Some(0), 0));
}

#[test]
fn what_a_source_refers_to_is_watched_and_no_more_than_that() {
    let index = Index::default();
    list(&index, []);
    let effects = index.apply(with_config_map("web"), Kind::DEPLOYMENT);
    assert_eq!((effects, index.len()), (vec![Effect::ReadSources], (0, 0)));
    assert_eq!(index.take_unread_sources(SourceKind::ConfigMap, None), [refs()]);
    let change = |found| {
        put(&index, found);
        index.len()
    };
    let collected = Effect::Collected { id: id("web"), is_of_first_list: false };
    assert_eq!(put(&index, read(1, "vault:secret/data/a#k")), [collected]);
    assert_eq!(index.len(), (1, 1));
    assert_eq!(change(read(2, "${vault:secret/data/a#k}${vault:secret/data/b#k}")), (1, 2));
    // The running pods still use the former secrets.
    assert_eq!(change(read(3, "plain")), (1, 2));
    assert_eq!(change(read(4, "vault:secret/data/a#k")), (1, 2));
    // The ConfigMap does not exist any more: pods would not start, and no references are known.
    assert_eq!(change(SourceRead::Missing), (0, 0));
    index.apply(with_config_map("other"), Kind::DEPLOYMENT);
    index.delete(&id("web"));
    assert!(index.names_source(&refs()));
    // A list that does not contain the workload has the same effect.
    list(&index, []);
    assert!(!index.names_source(&refs()));
    assert_eq!(index.known(), 0);
}

#[test]
fn no_list_and_no_other_workload_waits_for_a_source() {
    let index = Index::default();
    let web = with_values("web", &[("A", "vault:secret/data/a#k")]);
    let effects = list(&index, [with_config_map("waits"), web]);
    let kind = Kind::DEPLOYMENT;
    let ended = Effect::FirstListEnded { kind, workloads: 1, secrets: 1, waiting: 1 };
    assert_eq!((effects, index.len()), (vec![ended], (1, 1)));
    for kind in [Kind::DAEMON_SET, Kind::STATEFUL_SET] {
        index.begin_list(kind);
        index.end_list(kind);
    }
    let poll = index.begin_poll(DEFAULT_CONNECTION);
    assert_eq!((poll.workloads.len(), poll.is_incomplete), (1, true));
    // The first poll after the ConfigMap is known includes the workload, whichever poll that is.
    let of_first_list = Effect::Collected { id: id("waits"), is_of_first_list: true };
    assert_eq!(put(&index, read(1, "vault:secret/data/b#k")), [of_first_list]);
    let poll = index.begin_poll(DEFAULT_CONNECTION);
    let late: Vec<_> = poll.late.iter().map(ToString::to_string).collect();
    assert_eq!((poll.workloads.len(), late), (2, vec!["shop/Deployment/waits".to_owned()]));
    assert!(!poll.is_incomplete);
}

#[test]
fn a_source_that_changes_during_a_list_brings_back_nobody_that_the_list_does_not_contain() {
    let index = Index::default();
    list(&index, [with_config_map("gone"), with_config_map("there")]);
    put(&index, read(1, "vault:secret/data/a#k"));
    assert_eq!(index.len(), (2, 1));
    index.begin_list(Kind::DEPLOYMENT);
    index.apply(with_config_map("there"), Kind::DEPLOYMENT);
    put(&index, read(2, "vault:secret/data/b#k"));
    index.refresh(&with_config_map("gone"), Kind::DEPLOYMENT);
    assert_eq!(index.end_list(Kind::DEPLOYMENT), [Effect::Removed(id("gone"))]);
    let stored = index.begin_poll(DEFAULT_CONNECTION).workloads;
    assert_eq!(stored.len(), 1);
    assert_eq!(&*stored[0].workload.secrets[0].path, "secret/data/b");
    assert!(index.names_source(&refs()));
}

#[test]
fn a_workload_shares_its_names_with_the_index_and_its_namespace_with_others() {
    let index = Index::default();
    let value = [("A", "vault:secret/data/a#k")];
    list(&index, [with_values("a", &value), with_values("b", &value)]);
    // Another sight of the same object does not bring its own names.
    index.apply(with_values("a", &value), Kind::DEPLOYMENT);
    let stored = index.begin_poll(DEFAULT_CONNECTION).workloads;
    let ids: Vec<_> = stored.iter().map(|stored| &stored.workload.id).collect();
    assert!(std::sync::Arc::ptr_eq(&ids[0].namespace, &ids[1].namespace));
    for id in ids {
        assert!(index.entries().shares_names(id), "{id}");
    }
}

/// Returns a Deployment after a reload of ours, with this number of updated pods of two.
fn reloaded(resource_version: u32, updated: u32) -> Manifest {
    let mut manifest = with_values("web", &[("A", "vault:secret/data/a#k")]);
    manifest.resource_version = resource_version.to_string();
    let (uid, mark) = (manifest.uid.clone(), "m".to_owned());
    let record = Record {
        uid,
        mark,
        at: None,
        streak: 0,
        was_unhealthy: false,
        versions: Versions::default(),
    };
    manifest.record = Some(record.encode());
    manifest.annotations.push(MARK.to_owned(), "m".to_owned());
    manifest.template = 7;
    let (replicas_in_spec, replicas, ready, available) = (Some(2), 2, 2, 2);
    let failure = (updated == 0).then_some(RolloutFailure::FailedCreate);
    manifest.status = RolloutStatus {
        replicas_in_spec,
        replicas,
        updated,
        ready,
        available,
        failure,
        ..RolloutStatus::default()
    };
    manifest
}

#[test]
fn the_end_of_a_rollout_is_told_once() {
    let index = Index::default();
    let ended = |failure| vec![Effect::RolloutEnded { id: id("web"), failure }];
    let mut number = 0;
    let mut see = |updated| {
        number += 1;
        let effects = index.apply(reloaded(number, updated), Kind::DEPLOYMENT);
        let is_end = |effect: &Effect| matches!(effect, Effect::RolloutEnded { .. });
        effects.into_iter().filter(is_end).collect::<Vec<_>>()
    };
    assert_eq!(see(1), [], "its beginning was not seen");
    assert_eq!(see(0), ended(Some(RolloutFailure::FailedCreate)));
    assert_eq!(see(0), []);
    assert_eq!(see(2), ended(None), "pods can be created again");
    // Pods are replaced, or the workload is scaled: that is no rollout of ours.
    for updated in [1, 0, 2] {
        assert_eq!(see(updated), []);
    }
    let stored = index.get(&id("web")).unwrap();
    assert!(stored.has_rolled_out);
    // The next template begins anew.
    let mut next = reloaded(99, 1);
    next.template = 8;
    index.apply(next, Kind::DEPLOYMENT);
    assert!(!index.get(&id("web")).unwrap().has_rolled_out);
}

#[test]
fn a_failure_lasts_until_the_rollout_is_complete() {
    let index = Index::default();
    let mut number = 0;
    let mut see = |updated, template| {
        number += 1;
        let mut manifest = reloaded(number, updated);
        manifest.template = template;
        index.apply(manifest, Kind::DEPLOYMENT);
        index.get(&id("web")).unwrap().workload.progress
    };
    let failed = Progress::Failed(RolloutFailure::FailedCreate);
    assert_eq!(see(1, 7), Progress::Running);
    assert_eq!(see(0, 7), failed);
    assert_eq!(see(1, 7), failed, "somebody scaled it");
    assert_eq!(see(2, 7), Progress::Complete);
    assert_eq!(see(0, 7), failed);
    assert_eq!(see(1, 8), Progress::Running, "another template");
}

#[test]
fn a_daemon_set_whose_new_pods_never_were_available_is_still_on_its_way() {
    let see = |index: &Index, updated, available| {
        let mut manifest = reloaded(1, updated);
        manifest.status.failure = None;
        manifest.status.available = available;
        let id = manifest.id(Kind::DAEMON_SET);
        index.apply(manifest, Kind::DAEMON_SET);
        index.get(&id).unwrap().workload.progress
    };
    let index = Index::default();
    assert_eq!(see(&index, 0, 2), Progress::Running);
    assert_eq!(see(&index, 2, 1), Progress::Running, "its beginning was seen");
    assert_eq!(see(&index, 2, 2), Progress::Complete);
    assert_eq!(see(&index, 1, 2), Progress::Running);
    assert_eq!(see(&index, 2, 1), Progress::Updated, "its end was seen");
    assert_eq!(see(&Index::default(), 2, 1), Progress::Updated, "nobody knows");
}

#[test]
fn findings_of_a_former_workload_of_the_same_name_are_forgotten() {
    let index = Index::default();
    index.apply(reloaded(1, 2), Kind::DEPLOYMENT);
    let held = Finding::new("ReloadHeld", true, "held".to_owned());
    let uid = index.uid(&id("web")).unwrap();
    index.findings().set(&id("web"), &uid, FindingSource::Hold, vec![held]);
    index.apply(reloaded(2, 2), Kind::DEPLOYMENT);
    assert!(index.findings().has(&id("web"), FindingSource::Hold));
    let mut other = reloaded(3, 2);
    other.uid = "another".to_owned();
    index.apply(other, Kind::DEPLOYMENT);
    assert!(!index.findings().has(&id("web"), FindingSource::Hold));
}

#[test]
fn an_index_is_settled_once_its_first_workloads_have_their_sources() {
    let index =
        Index::new(Servers::default(), ReadableSources { config_maps: true, secrets: false });
    assert!(!index.is_settled());
    for kind in Kind::ALL {
        index.begin_list(kind);
        if kind == Kind::DEPLOYMENT {
            index.apply(with_config_map("web"), kind);
        }
        index.end_list(kind);
    }
    assert!(index.is_synced() && !index.is_settled(), "a ConfigMap is not read yet");
    put(&index, read(1, "vault:secret/data/a#k"));
    assert!(index.is_settled());
    // A workload that comes later is not waited for.
    let mut later = with_values("later", &[]);
    let source = SourceName { kind: SourceKind::ConfigMap, name: "others".to_owned() };
    later.containers[0].from = vec![EnvFrom { prefix: String::new(), source, optional: false }];
    index.apply(later, Kind::DEPLOYMENT);
    assert!(index.is_settled());
}

/// Returns an opted-in Deployment of a namespace that refers to a secret.
fn of_namespace(namespace: &str, name: &str) -> Manifest {
    let manifest = with_values(name, &[("A", "vault:secret/data/a#k")]);
    Manifest { namespace: namespace.to_owned(), ..manifest }
}

/// Returns the namespaces of the workloads in the index, in order.
fn namespaces(index: &Index) -> Vec<String> {
    index.workloads().iter().map(|stored| stored.workload.id.namespace.to_string()).collect()
}

#[test]
fn a_list_of_one_namespace_removes_nothing_of_another() {
    let names: [Arc<str>; 2] = ["bank", "shop"].map(Arc::<str>::from);
    let index = Index::default().with_scope(&WatchScope::Named(names.clone().into()));
    let of =
        |name: &Arc<str>| ListScope { kind: Kind::DEPLOYMENT, namespace: Some(Arc::clone(name)) };
    let mut ended = Vec::new();
    for name in &names {
        index.begin_list(of(name));
        index.apply(of_namespace(name, "web"), Kind::DEPLOYMENT);
        ended.extend(index.end_list(of(name)));
    }
    let kind = Kind::DEPLOYMENT;
    let all = Effect::FirstListEnded { kind, workloads: 2, secrets: 1, waiting: 0 };
    assert_eq!(ended, [all], "the first list of a kind ends with that of the last namespace");
    assert_eq!(namespaces(&index), ["bank", "shop"]);
    assert!(!index.is_synced(), "the other kinds were not listed");
    index.begin_list(of(&names[0]));
    let gone = of_namespace("bank", "web").id(Kind::DEPLOYMENT);
    assert_eq!(index.end_list(of(&names[0])), [Effect::Removed(gone)]);
    assert_eq!(namespaces(&index), ["shop"]);
}

#[test]
fn only_workloads_of_selected_namespaces_are_in_the_index() {
    let index = Index::default().with_scope(&WatchScope::Selected("team=payments".into()));
    let apply = |namespace: &str| {
        index.apply(of_namespace(namespace, "web"), Kind::DEPLOYMENT);
        namespaces(&index)
    };
    assert!(apply("shop").is_empty(), "nothing is selected yet");
    assert!(index.selection().add("shop"));
    assert_eq!(apply("shop"), ["shop"]);
    assert_eq!(apply("bank"), ["shop"]);
    // The label is taken away, and the watch goes on.
    assert!(index.selection().remove("shop"));
    let gone = of_namespace("shop", "web").id(Kind::DEPLOYMENT);
    assert_eq!(index.leave_namespace("shop"), [Effect::Removed(gone)]);
    assert!(apply("shop").is_empty());
    assert_eq!((index.known(), index.len()), (0, (0, 0)));
}

#[test]
fn a_namespace_that_leaves_takes_its_sources_along() {
    let index = Index::default().with_scope(&WatchScope::Selected("team=payments".into()));
    index.selection().add("shop");
    index.apply(with_config_map("web"), Kind::DEPLOYMENT);
    assert!(index.names_source(&refs()));
    index.selection().remove("shop");
    assert_eq!(index.leave_namespace("shop"), [], "no secret was known");
    assert!(!index.names_source(&refs()));
}
