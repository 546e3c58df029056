//! What the collector keeps and says, and what it waits for.

use std::sync::atomic::{AtomicU32, Ordering};

use axum::body::Body as Answer;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::super::scripted;
use super::*;
use crate::core::annotation::RECORD;
use crate::core::environment::{SourceKind, SourceName};
use crate::core::reference::{Origin, Reason};
use crate::core::source::{Content, Found, SourceId};

/// A collector of a server that answers each request by a script, and what concerns its workloads.
fn collector(
    script: impl Fn(&str) -> Answer + Clone + Send + Sync + 'static,
) -> (Collector, Arc<Store>, UnboundedSender<WorkloadId>) {
    let store = Arc::new(Store::default());
    let (concerned, changed) = tokio::sync::mpsc::unbounded_channel();
    let settings = Settings {
        sync_period: Duration::from_hours(1),
        synced: CancellationToken::new(),
        wanted: Wanted::default(),
        heartbeat: Heartbeat::default(),
    };
    let client = scripted::client(script);
    let collector = Collector::new(Kind::Deployment, client, Arc::clone(&store), changed, settings);
    (collector, store, concerned)
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

#[tokio::test(start_paused = true)]
async fn a_list_ends_when_the_sources_of_its_workloads_are_known() {
    let (collector, store, concerned) = collector(|query| {
        let is_watch = query.contains("watch=true");
        if is_watch { Answer::empty() } else { scripted::list(&[with_config_map("web")], "") }
    });
    let test = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(!store.is_listed(Kind::Deployment));
        assert_eq!(store.sources().unread(SourceKind::ConfigMap), [refs()]);
        for user in store.sources().put(&refs(), read(1, "vault:secret/data/a#k")) {
            concerned.send(user).unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(store.is_listed(Kind::Deployment));
        assert_eq!(store.len(), (1, 1));
    };
    tokio::select! {
        () = collector.run(CancellationToken::new()) => panic!("it ended"),
        () = test => {}
    }
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
        for user in store.sources().put(&refs(), found) {
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
    assert_eq!(change(&mut collector, read(3, "plain")), (0, 0));
    assert_eq!(change(&mut collector, read(4, "vault:secret/data/a#k")), (1, 1));
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
    let (collector, store, concerned) = collector(move |query| {
        if query.contains("watch=true") {
            return Answer::empty();
        }
        counter.fetch_add(1, Ordering::Relaxed);
        let mut long = with_config_map("long");
        long["metadata"]["annotations"] = json!({ RECORD: "x".repeat(LONGEST_KEPT) });
        scripted::list(&[long, with_config_map("web")], "")
    });
    let change = |found| {
        for user in store.sources().put(&refs(), found) {
            concerned.send(user).unwrap();
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
        assert_eq!(store.len(), (2, 1));
    };
    tokio::select! {
        () = collector.run(CancellationToken::new()) => panic!("it ended"),
        () = test => {}
    }
}
