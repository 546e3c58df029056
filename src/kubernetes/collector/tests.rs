//! Tests when the collector lists again, and which kinds polls wait for.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use axum::body::Body as Answer;
use serde_json::{Value, json};

use super::super::scripted;
use super::*;
use crate::index::entries::LONGEST_KEPT;
use crate::index::sources::SourceRead;
use crate::model::annotation::RECORD;
use crate::model::kind::Kind;
use crate::model::scope::WatchScope;
use crate::references::environment::{SourceKind, SourceName};
use crate::references::source::{Content, SourceId};

/// Returns a collector of a server that answers each request by a script, its index and its
/// effects.
fn collector(
    script: impl Fn(&str) -> Answer + Clone + Send + Sync + 'static,
) -> (Collector, Arc<Index>, Effects) {
    let index = Arc::new(Index::default());
    let effects = Effects::default();
    let settings = settings(&CancellationToken::new(), effects.clone());
    let client = scripted::client(script);
    let collector = Collector::new(Kind::DEPLOYMENT, client, Arc::clone(&index), settings);
    (collector, index, effects)
}

/// Returns settings of a collector that may list at once.
fn settings(synced: &CancellationToken, effects: Effects) -> Settings {
    let selected = CancellationToken::new();
    selected.cancel();
    let (synced, heartbeat) = (synced.clone(), Heartbeat::default());
    Settings { sync_period: Duration::from_hours(1), selected, synced, effects, heartbeat }
}

fn with_config_map(name: &str) -> Value {
    let annotation = "secrets-reloader.security.bank-vaults.io/reload-on-secret-change";
    json!({
        "metadata": { "namespace": "shop", "name": name, "uid": name, "resourceVersion": "1" },
        "spec": { "template": {
            "metadata": { "annotations": { annotation: "true" } },
            "spec": { "containers": [{
                "name": "app",
                "envFrom": [{ "configMapRef": { "name": "refs" } }],
            }] },
        } },
    })
}

fn refs() -> SourceId {
    let named = SourceName { kind: SourceKind::ConfigMap, name: "refs".to_owned() };
    SourceId::new(&"shop".into(), &named)
}

fn read(version: u32, value: &str) -> SourceRead {
    let content = Content::new([("A", value.as_bytes())]);
    SourceRead::Read { resource_version: version.to_string(), content }
}

#[tokio::test(start_paused = true)]
async fn a_manifest_too_long_to_keep_is_listed_anew_when_its_sources_change() {
    let lists = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&lists);
    let (collector, index, effects) = collector(move |query| {
        if query.contains("watch=true") {
            return Answer::empty();
        }
        counter.fetch_add(1, Ordering::Relaxed);
        let mut long = with_config_map("long");
        long["metadata"]["annotations"] = json!({ RECORD: "x".repeat(LONGEST_KEPT) });
        scripted::list(&[long, with_config_map("web")], "")
    });
    let change = |found| {
        index.put_source(&refs(), found);
        while let Some(after) = index.read_next_changed() {
            effects.carry_out(&after);
        }
    };
    let test = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        change(read(1, "vault:secret/data/a#k"));
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!((index.len(), lists.load(Ordering::Relaxed)), ((2, 1), 2));
        // A source that changes all the time does not cause a list each time.
        for version in 2..202 {
            let path = format!("vault:secret/data/{version}#k");
            change(read(version, &path));
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        let lists = lists.load(Ordering::Relaxed);
        assert!((10..=13).contains(&lists), "{lists} lists in eleven minutes");
        tokio::time::sleep(Duration::from_mins(2)).await;
        // Secrets that the pods may have read stay watched while the template is the same.
        assert_eq!(index.len(), (2, 201));
    };
    tokio::select! {
        () = collector.run(CancellationToken::new()) => panic!("it ended"),
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_may_not_be_listed_does_not_keep_the_others_waiting() {
    let client = scripted::client_of(|request| {
        if request.uri().path().contains("statefulsets") {
            return scripted::status(403);
        }
        let query = request.uri().query().unwrap_or_default();
        let is_watch = query.contains("watch=true");
        http::Response::new(if is_watch { Answer::empty() } else { scripted::list(&[], "") })
    });
    let index = Arc::new(Index::default());
    let synced = CancellationToken::new();
    let collectors = Kind::ALL.map(|kind| {
        let settings = settings(&synced, Effects::default());
        let index = Arc::clone(&index);
        Collector::new(kind, client.clone(), index, settings).run(CancellationToken::new())
    });
    let test = async {
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(synced.is_cancelled());
        assert!(!index.is_synced());
    };
    tokio::select! {
        _ = futures::future::join_all(collectors) => panic!("they ended"),
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn only_named_namespaces_are_listed_and_polls_wait_for_each_of_them() {
    let paths = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&paths);
    let client = scripted::client_of(move |request| {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        seen.lock().unwrap().insert(path.to_owned());
        if path.contains("/denied/statefulsets") {
            return scripted::status(403);
        }
        let is_watch = query.contains("watch=true");
        http::Response::new(if is_watch { Answer::empty() } else { scripted::list(&[], "") })
    });
    let names: Arc<[Arc<str>]> = ["denied", "shop"].map(Arc::<str>::from).into();
    let index = Arc::new(Index::default().with_scope(&WatchScope::Named(Arc::clone(&names))));
    let synced = CancellationToken::new();
    let mut collectors = Vec::new();
    for kind in Kind::ALL {
        for name in names.iter() {
            let scope = ListScope { kind, namespace: Some(Arc::clone(name)) };
            let settings = settings(&synced, Effects::default());
            let collector = Collector::new(scope, client.clone(), Arc::clone(&index), settings);
            collectors.push(collector.run(CancellationToken::new()));
        }
    }
    let test = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(!synced.is_cancelled(), "one list is missing");
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(synced.is_cancelled() && !index.is_synced());
    };
    tokio::select! {
        _ = futures::future::join_all(collectors) => panic!("they ended"),
        () = test => {}
    }
    let in_namespace = |name: &Arc<str>| {
        let name = name.to_string();
        let path = move |kind: Kind| format!("/apis/apps/v1/namespaces/{name}/{}", kind.plural());
        Kind::ALL.map(path)
    };
    let expected: BTreeSet<String> = names.iter().flat_map(in_namespace).collect();
    assert_eq!(*paths.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_listed_before_it_is_known_which_namespaces_are_selected() {
    let lists = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&lists);
    let client = scripted::client(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        scripted::list(&[], "")
    });
    let index = Arc::new(Index::default());
    let selected = CancellationToken::new();
    let settings = Settings {
        selected: selected.clone(),
        ..settings(&CancellationToken::new(), Effects::default())
    };
    let collector = Collector::new(Kind::DEPLOYMENT, client, index, settings);
    let test = async {
        tokio::time::sleep(Duration::from_mins(5)).await;
        assert_eq!(lists.load(Ordering::Relaxed), 0);
        selected.cancel();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(lists.load(Ordering::Relaxed) > 0);
    };
    tokio::select! {
        () = collector.run(CancellationToken::new()) => panic!("it ended"),
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn workloads_of_a_namespace_that_is_denied_for_long_are_forgotten() {
    let is_denied = Arc::new(AtomicBool::new(false));
    let denies = Arc::clone(&is_denied);
    let client = scripted::client_of(move |request| {
        if denies.load(Ordering::Relaxed) {
            return scripted::status(403);
        }
        let query = request.uri().query().unwrap_or_default();
        let mut web = with_config_map("web");
        web["spec"]["template"]["spec"]["containers"] =
            json!([{ "name": "app", "env": [{ "name": "A", "value": "vault:secret/data/a#k" }] }]);
        let is_watch = query.contains("watch=true");
        http::Response::new(if is_watch { Answer::empty() } else { scripted::list(&[web], "") })
    });
    let index = Arc::new(Index::default());
    let scope = ListScope { kind: Kind::DEPLOYMENT, namespace: Some("shop".into()) };
    let settings = settings(&CancellationToken::new(), Effects::default());
    let collector = Collector::new(scope, client, Arc::clone(&index), settings);
    let test = async {
        let wait = tokio::time::sleep;
        wait(Duration::from_mins(1)).await;
        assert_eq!(index.len(), (1, 1));
        for (denied, then) in [(50, (1, 1)), (70, (0, 0))] {
            is_denied.store(true, Ordering::Relaxed);
            wait(Duration::from_mins(denied)).await;
            assert_eq!(index.len(), then, "after {denied} minutes");
            // The list of a watch that works again shows them again, once the list is due.
            is_denied.store(false, Ordering::Relaxed);
            wait(Duration::from_hours(2)).await;
            assert_eq!(index.len(), (1, 1));
        }
    };
    tokio::select! {
        () = collector.run(CancellationToken::new()) => panic!("it ended"),
        () = test => {}
    }
}
