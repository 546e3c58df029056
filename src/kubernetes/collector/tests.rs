//! The collector against servers that answer by a script, and what it keeps and says.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::body::Body as Answer;
use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tower::{BoxError, Layer, service_fn};

use super::super::bounds::BoundsLayer;
use super::*;
use crate::core::reference::{Origin, Reason};

/// A collector whose server answers each request by a script, after a second.
fn collector(
    script: impl Fn(&str) -> Answer + Clone + Send + Sync + 'static,
) -> (Collector, Arc<Store>) {
    let server = service_fn(move |request: Request<Body>| {
        let script = script.clone();
        async move {
            sleep(Duration::from_secs(1)).await;
            let query = request.uri().query().unwrap_or_default();
            Ok::<_, BoxError>(Response::new(script(query)))
        }
    });
    let client = Client::new(BoundsLayer.layer(server), "default");
    let store = Arc::new(Store::default());
    let synced = Arc::new(Notify::new());
    let period = Duration::from_hours(1);
    let collector =
        Collector::new(Kind::Deployment, client, Arc::clone(&store), synced, None, period);
    (collector, store)
}

fn page(objects: &[&str], next: &str) -> Answer {
    let object = |name: &&str| {
        let annotation = "secrets-reloader.security.bank-vaults.io/reload-on-secret-change";
        let env = json!([{ "name": "A", "value": "vault:secret/data/a#k" }]);
        json!({
            "metadata": { "namespace": "shop", "name": name, "uid": name },
            "spec": { "template": {
                "metadata": { "annotations": { annotation: "true" } },
                "spec": { "containers": [{ "name": "app", "env": env }] },
            } },
        })
    };
    let items: Vec<Value> = objects.iter().map(object).collect();
    let metadata = json!({ "resourceVersion": "1", "continue": next });
    Answer::from(json!({ "metadata": metadata, "items": items }).to_string())
}

#[tokio::test(start_paused = true)]
async fn a_list_whose_pages_go_on_for_ever_is_given_up() {
    let token = Arc::new(AtomicU32::new(0));
    let endless = move |_: &str| page(&["web"], &token.fetch_add(1, Ordering::Relaxed).to_string());
    let (mut collector, store) = collector(endless);
    let began = Instant::now();
    collector.list_and_watch().await;
    let took = began.elapsed();
    assert!(took >= LONGEST_LIST && took < LONGEST_LIST * 2, "{took:?}");
    assert!(collector.is_failing);
    assert_eq!((store.len().0, store.is_listed(Kind::Deployment)), (1, false));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_too_long_is_asked_for_in_parts() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let (mut collector, store) = collector(move |query| {
        let parameter = |name: &str| {
            let mut parameters = query.split('&').filter_map(|p| p.split_once('='));
            parameters.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let Some(limit) = parameter("limit").and_then(|limit| limit.parse::<u32>().ok()) else {
            return Answer::empty();
        };
        seen.lock().unwrap().push(limit);
        match (limit, parameter("continue")) {
            (2.., _) => Answer::from("x".repeat(17 << 20)),
            (_, None) => page(&["a"], "next"),
            (_, Some(_)) => page(&["b"], ""),
        }
    });
    while !store.is_listed(Kind::Deployment) {
        let listing = collector.list_and_watch();
        let _ = tokio::time::timeout(Duration::from_secs(10), listing).await;
    }
    assert_eq!(store.len().0, 2);
    assert_eq!(*asked.lock().unwrap(), [250, 62, 15, 3, 1, 1]);
    assert_eq!(collector.page, 4, "the next list is tried with more");
    assert!(!collector.is_failing);
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_at_once_are_not_begun_without_a_pause() {
    let watches = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&watches);
    let (mut collector, _) = collector(move |query| {
        if query.contains("watch=true") {
            counter.fetch_add(1, Ordering::Relaxed);
            return Answer::empty();
        }
        page(&[], "")
    });
    let minute = Duration::from_mins(1);
    let _ = tokio::time::timeout(minute, collector.list_and_watch()).await;
    // A second for the answer, and one until it is over.
    let watches = watches.load(Ordering::Relaxed);
    assert!((25..=31).contains(&watches), "{watches} watches in a minute");
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
    let (mut collector, store) = collector(|_| Answer::empty());
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
