//! What the collector keeps and says, and what it waits for.

use std::sync::atomic::{AtomicU32, Ordering};

use axum::body::Body as Answer;
use serde_json::{Value, json};

use super::super::scripted;
use super::*;
use crate::index::sources::Found;
use crate::model::annotation::RECORD;
use crate::model::secret::DEFAULT_CONNECTION;
use crate::references::environment::{SourceKind, SourceName};
use crate::references::place::Origin;
use crate::references::reason::Reason;
use crate::references::source::{Content, SourceId};

/// A collector of a server that answers each request by a script; its store, and what tells it of
/// changes.
fn collector(
    script: impl Fn(&str) -> Answer + Clone + Send + Sync + 'static,
) -> (Collector, Arc<Store>, WorkloadUpdates) {
    let store = Arc::new(Store::default());
    let updates = WorkloadUpdates::default();
    let settings = Settings {
        sync_period: Duration::from_hours(1),
        synced: CancellationToken::new(),
        requests: SourceRequests::default(),
        updates: updates.clone(),
        heartbeat: Heartbeat::default(),
    };
    let client = scripted::client(script);
    let collector = Collector::new(Kind::Deployment, client, Arc::clone(&store), settings);
    (collector, store, updates)
}

#[test]
fn lines_about_one_workload_have_an_end() {
    let note = |number: usize| Note {
        origin: Origin::Env { container: "x".repeat(9999), name: number.to_string() },
        reason: Reason::NoKey,
    };
    let notes: Vec<Note> = (0..5000).map(note).collect();
    let notes: Vec<&Note> = notes.iter().collect();
    let said = lines(&notes, "look odd");
    assert_eq!(said.len(), MOST_LINES + 1);
    assert!(said.iter().all(|line| line.text.len() < 1000));
    assert!(said[..MOST_LINES].iter().all(|line| line.reason == Some("NoKey")));
    let more = "and 4980 more references look odd".to_owned();
    assert_eq!(said[MOST_LINES], Line { reason: None, text: more });
    assert_eq!(lines(&notes[..MOST_LINES], "look odd").len(), MOST_LINES);
    assert!(lines(&[], "look odd").is_empty());
}

#[tokio::test]
async fn what_is_kept_of_workloads_goes_with_them() {
    let (mut collector, store, _) = collector(|_| Answer::empty());
    let object = |name: String| -> Object {
        let env = json!([
            { "name": "A", "value": "vault:secret/data/a#k" },
            { "name": "ODD", "value": "vault:secret/data/a" },
        ]);
        let annotation = "secrets-reloader.security.bank-vaults.io/reload-on-secret-change";
        serde_json::from_value(json!({
            "metadata": { "namespace": name, "name": name, "uid": name },
            "spec": { "template": {
                "metadata": { "annotations": { annotation: "true" } },
                "spec": { "containers": [{ "name": "app", "env": env }] },
            } },
        }))
        .unwrap()
    };
    collector.handle(Event::Init);
    collector.handle(Event::InitDone);
    for day in 0..30 {
        for number in 0..100 {
            collector.handle(Event::Apply(object(format!("a{day}-{number}"))));
            if number % 2 == 0 {
                collector.handle(Event::Delete(object(format!("a{day}-{number}"))));
            }
        }
        // What was deleted while nobody watched is not in the next list.
        collector.handle(Event::Init);
        collector.handle(Event::InitApply(object("stays".to_owned())));
        collector.handle(Event::InitDone);
        assert_eq!((collector.noted.len(), store.len()), (1, (1, 1)));
    }
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

fn read(version: u32, value: &str) -> Found {
    let content = Content::new([("A", value.as_bytes())]);
    Found::Read { resource_version: version.to_string(), content }
}

#[tokio::test]
async fn what_a_source_refers_to_is_watched_and_no_more_than_that() {
    let (mut collector, store, _) = collector(|_| Answer::empty());
    let object = |name: &str| serde_json::from_value::<Object>(with_config_map(name)).unwrap();
    collector.handle(Event::Init);
    collector.handle(Event::InitDone);
    collector.handle(Event::Apply(object("web")));
    assert_eq!((collector.waiting.len(), store.len()), (1, (0, 0)));
    let change = |collector: &mut Collector, found| {
        store.sources().put(&refs(), found);
        while let Some(user) = store.sources().take_changed(Kind::Deployment) {
            collector.read_again(&user);
        }
        store.len()
    };
    assert_eq!(change(&mut collector, read(1, "vault:secret/data/a#k")), (1, 1));
    assert!(collector.waiting.is_empty());
    assert_eq!(
        change(&mut collector, read(2, "${vault:secret/data/a#k}${vault:secret/data/b#k}")),
        (1, 2)
    );
    // The pods that run still use what it named before.
    assert_eq!(change(&mut collector, read(3, "plain")), (1, 2));
    assert_eq!(change(&mut collector, read(4, "vault:secret/data/a#k")), (1, 2));
    // It does not exist any more: the pods would not start, and nothing is known of references.
    assert_eq!(change(&mut collector, Found::Missing), (0, 0));
    collector.handle(Event::Apply(object("other")));
    collector.handle(Event::Delete(object("web")));
    assert!(store.sources().is_named(&refs()));
    // A list that does not contain it says the same.
    collector.handle(Event::Init);
    collector.handle(Event::InitDone);
    assert!(!store.sources().is_named(&refs()));
    assert!(collector.with_sources.is_empty() && collector.waiting.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_manifest_too_long_to_keep_is_listed_anew_when_its_sources_change() {
    let lists = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&lists);
    let (collector, store, updates) = collector(move |query| {
        if query.contains("watch=true") {
            return Answer::empty();
        }
        counter.fetch_add(1, Ordering::Relaxed);
        let mut long = with_config_map("long");
        long["metadata"]["annotations"] = json!({ RECORD: "x".repeat(LONGEST_KEPT) });
        scripted::list(&[long, with_config_map("web")], "")
    });
    let change = |found| {
        for kind in store.sources().put(&refs(), found) {
            updates.tell(kind);
        }
    };
    let test = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        change(read(1, "vault:secret/data/a#k"));
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!((store.len(), lists.load(Ordering::Relaxed)), ((2, 1), 2));
        // A source that changes all the time is no reason to list all the time.
        for version in 2..202 {
            let path = format!("vault:secret/data/{version}#k");
            change(read(version, &path));
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        let lists = lists.load(Ordering::Relaxed);
        assert!((10..=13).contains(&lists), "{lists} lists in eleven minutes");
        tokio::time::sleep(Duration::from_mins(2)).await;
        // What its pods may have read stays watched while its template is the same.
        assert_eq!(store.len(), (2, 201));
    };
    tokio::select! {
        () = collector.run(CancellationToken::new()) => panic!("it ended"),
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn no_list_and_no_other_workload_waits_for_a_source() {
    let (collector, store, updates) = collector(|query| {
        let mut web = with_config_map("web");
        web["spec"]["template"]["spec"]["containers"][0]["envFrom"] = json!([]);
        web["spec"]["template"]["spec"]["containers"][0]["env"] =
            json!([{ "name": "A", "value": "vault:secret/data/a#k" }]);
        let is_watch = query.contains("watch=true");
        let objects = [with_config_map("waits"), web];
        if is_watch { Answer::empty() } else { scripted::list(&objects, "") }
    });
    let test = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!((store.is_listed(Kind::Deployment), store.len()), (true, (1, 1)));
        assert_eq!(store.sources().unread(SourceKind::ConfigMap), [refs()]);
        let poll = store.begin_poll(DEFAULT_CONNECTION);
        assert_eq!((poll.workloads.len(), poll.is_incomplete), (1, true));
        // Once it is known, the workload is looked at by the next poll, whichever that is.
        for kind in store.sources().put(&refs(), read(1, "vault:secret/data/b#k")) {
            updates.tell(kind);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let poll = store.begin_poll(DEFAULT_CONNECTION);
        let late: Vec<_> = poll.late.iter().map(ToString::to_string).collect();
        assert_eq!((poll.workloads.len(), late), (2, vec!["shop/Deployment/waits".to_owned()]));
        assert!(!poll.is_incomplete);
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
    let store = Arc::new(Store::default());
    let synced = CancellationToken::new();
    let collectors = Kind::ALL.map(|kind| {
        let settings = Settings {
            sync_period: Duration::from_hours(1),
            synced: synced.clone(),
            requests: SourceRequests::default(),
            updates: WorkloadUpdates::default(),
            heartbeat: Heartbeat::default(),
        };
        let store = Arc::clone(&store);
        Collector::new(kind, client.clone(), store, settings).run(CancellationToken::new())
    });
    let test = async {
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(synced.is_cancelled());
        assert!(!store.is_synced());
    };
    tokio::select! {
        _ = futures::future::join_all(collectors) => panic!("they ended"),
        () = test => {}
    }
}
