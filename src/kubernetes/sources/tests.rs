//! Tests the source reader against a server that answers by a script.

use std::collections::BTreeMap;
use std::sync::Mutex;

use axum::body::Body as Answer;
use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::super::scripted::{client_of, list, status};
use super::*;
use crate::events::event::Event;
use crate::events::sink::Events;
use crate::events::sink::Sink;
use crate::model::annotation::OptIn;
use crate::model::kind::Kind;
use crate::references::environment::{Container, EnvFrom, SourceName};
use crate::references::manifest::Manifest;
use crate::references::source::SourceState;

/// The ConfigMaps of the namespace `shop`: the value of the only key of each, or an HTTP status.
#[derive(Clone, Default)]
struct Cluster(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    config_maps: BTreeMap<&'static str, Result<(&'static str, u32), u16>>,
    /// The paths that were read, in order.
    read: Vec<String>,
    lists: u32,
    /// The lines of the watch in progress.
    events: Vec<String>,
}

impl Cluster {
    fn set(&self, name: &'static str, answer: Result<(&'static str, u32), u16>) {
        self.0.lock().unwrap().config_maps.insert(name, answer);
    }

    fn show(&self, kind: &str, name: &str, version: u32) {
        let event = json!({ "type": kind, "object": metadata(name, version) });
        self.0.lock().unwrap().events.push(format!("{event}\n"));
    }

    fn read(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().read)
    }

    fn answer(&self, request: &Request<Body>) -> Response<Answer> {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let mut world = self.0.lock().unwrap();
        if let Some(name) = path.strip_prefix("/api/v1/namespaces/shop/configmaps/") {
            world.read.push(name.to_owned());
            return match world.config_maps.get(name) {
                None => status(404),
                // A body that cannot be decoded.
                Some(Err(0)) => Response::new(Answer::from("no JSON")),
                Some(Err(code)) => status(*code),
                Some(Ok((value, version))) => {
                    let mut object = metadata(name, *version);
                    object["data"] = json!({ "A": value });
                    Response::new(Answer::from(object.to_string()))
                }
            };
        }
        // The list asks only for metadata.
        let accept = request.headers()["accept"].to_str().unwrap();
        assert!(accept.contains("as=PartialObjectMetadata"), "{accept}");
        if query.contains("watch=true") {
            // A watch that shows the pending events and ends.
            return Response::new(Answer::from(std::mem::take(&mut world.events).concat()));
        }
        world.lists += 1;
        let shown = world.config_maps.iter().map(|(name, answer)| {
            metadata(name, answer.as_ref().map_or(1, |(_, version)| *version))
        });
        Response::new(list(&shown.collect::<Vec<_>>(), ""))
    }
}

fn metadata(name: &str, version: u32) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "namespace": "shop", "name": name, "resourceVersion": version.to_string() },
    })
}

/// An index, and a sink that counts changes.
struct Bench {
    cluster: Cluster,
    index: Arc<Index>,
    effects: Effects,
    changes: Changes,
}

/// Counts the events about the workload.
#[derive(Clone, Default)]
struct Changes(Arc<Mutex<usize>>);

impl Sink for Changes {
    fn on(&self, event: &Event<'_>) {
        if matches!(event, Event::Collected { .. } | Event::Removed { .. } | Event::Noted { .. }) {
            *self.0.lock().unwrap() += 1;
        }
    }
}

impl Bench {
    /// Makes the workload `web` name some ConfigMaps.
    fn name(&self, names: &[&str]) {
        let from = |name: &&str| EnvFrom {
            prefix: String::new(),
            source: config_map(name),
            optional: false,
        };
        let container = Container {
            name: "app".to_owned(),
            from: names.iter().map(from).collect(),
            ..Container::default()
        };
        let manifest = Manifest {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: "u".to_owned(),
            annotations: [(OptIn::Current.key(), "true")].into_iter().collect(),
            containers: vec![container],
            ..Manifest::default()
        };
        self.effects.carry_out(&self.index.apply(manifest, Kind::DEPLOYMENT));
    }

    fn known(&self, name: &str) -> SourceState {
        self.index.look_up(&"shop".into(), &config_map(name))
    }

    /// Returns the path behind the key of a ConfigMap.
    fn path(&self, name: &str) -> Option<String> {
        let SourceState::Read(content) = self.known(name) else { return None };
        Some(format!("{:?}", content.get("A")?.1.first()?.reading_in("A")))
    }

    /// Returns the number of events about the workload since the last call.
    fn changes(&self) -> usize {
        std::mem::take(&mut *self.changes.0.lock().unwrap())
    }

    /// Whether there were events about the workload since the last call.
    fn is_changed(&self) -> bool {
        self.changes() > 0
    }
}

fn config_map(name: &str) -> SourceName {
    SourceName { kind: SourceKind::ConfigMap, name: name.to_owned() }
}

/// Runs a reader beside a test.
async fn run(test: impl AsyncFnOnce(Bench)) {
    let (bench, reader) = bench();
    tokio::select! {
        () = reader.run(CancellationToken::new()) => panic!("it ended"),
        () = test(bench) => {}
    }
}

/// Returns a reader that does not run, and its surroundings.
fn bench() -> (Bench, SourceReader<ConfigMap>) {
    let cluster = Cluster::default();
    let server = cluster.clone();
    let client = client_of(move |request| server.answer(request));
    let index = Arc::new(Index::default());
    let changes = Changes::default();
    let effects = Effects::new(Events::new(vec![Box::new(changes.clone())]));
    let settings = Settings { sync_period: Duration::from_mins(30), ..Settings::default() };
    let reader =
        SourceReader::<ConfigMap>::new(client, Arc::clone(&index), effects.clone(), settings);
    (Bench { cluster, index, effects, changes }, reader)
}

const A: &str = "Watch(Vault, \"secret/data/a\")";
const B: &str = "Watch(Vault, \"secret/data/b\")";

#[tokio::test(start_paused = true)]
async fn only_what_is_named_is_read_and_read_again_when_it_changes() {
    run(async |bench| {
        bench.cluster.set("m", Ok(("vault:secret/data/a#k", 1)));
        bench.cluster.set("other", Ok(("vault:secret/data/x#k", 1)));
        sleep(Duration::from_mins(1)).await;
        assert_eq!(bench.cluster.0.lock().unwrap().lists, 0, "nobody named any");
        bench.name(&["m"]);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(bench.path("m").as_deref(), Some(A));
        assert_eq!((bench.cluster.read(), bench.is_changed()), (vec!["m".to_owned()], true));

        bench.cluster.set("m", Ok(("vault:secret/data/b#k", 2)));
        bench.cluster.show("MODIFIED", "m", 2);
        bench.cluster.show("MODIFIED", "other", 2);
        bench.cluster.show("ADDED", "third", 2);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(bench.path("m").as_deref(), Some(B));
        assert_eq!((bench.cluster.read(), bench.is_changed()), (vec!["m".to_owned()], true));
        // An event with the known version causes no read.
        bench.cluster.show("MODIFIED", "m", 2);
        sleep(Duration::from_secs(10)).await;
        assert_eq!((bench.cluster.read().len(), bench.is_changed()), (0, false));

        bench.cluster.0.lock().unwrap().config_maps.remove("m");
        bench.cluster.show("DELETED", "m", 3);
        sleep(Duration::from_secs(10)).await;
        assert_eq!((bench.known("m"), bench.is_changed()), (SourceState::Missing, true));
        // A ConfigMap that is made later is found by its event.
        bench.cluster.set("m", Ok(("vault:secret/data/a#k", 4)));
        bench.cluster.show("ADDED", "m", 4);
        sleep(Duration::from_secs(10)).await;
        assert_eq!((bench.path("m").as_deref(), bench.is_changed()), (Some(A), true));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_saw_is_found_by_the_next_list() {
    run(async |bench| {
        bench.cluster.set("m", Ok(("vault:secret/data/a#k", 1)));
        bench.cluster.set("n", Ok(("vault:secret/data/a#k", 1)));
        bench.name(&["m", "n"]);
        sleep(Duration::from_secs(10)).await;
        assert_eq!((bench.path("m").as_deref(), bench.is_changed()), (Some(A), true));
        bench.cluster.set("m", Ok(("vault:secret/data/b#k", 2)));
        bench.cluster.0.lock().unwrap().config_maps.remove("n");
        sleep(Duration::from_mins(35)).await;
        assert_eq!((bench.path("m").as_deref(), bench.known("n")), (Some(B), SourceState::Missing));
        assert!(bench.is_changed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_read_is_said_and_read_once_it_may() {
    run(async |bench| {
        bench.cluster.set("m", Err(403));
        bench.cluster.set("n", Err(403));
        bench.name(&["m", "n"]);
        sleep(Duration::from_secs(10)).await;
        for name in ["m", "n"] {
            assert_eq!(bench.known(name), SourceState::Unreadable(Reason::SourceDenied));
        }
        assert!(bench.is_changed(), "nobody waits for them any longer");
        bench.cluster.read();
        sleep(Duration::from_mins(10)).await;
        let read = bench.cluster.read().len();
        assert!((9..=11).contains(&read), "one a minute, not {read}");
        bench.cluster.set("m", Ok(("vault:secret/data/a#k", 1)));
        bench.cluster.set("n", Ok(("vault:secret/data/b#k", 1)));
        sleep(Duration::from_mins(2)).await;
        assert_eq!((bench.path("m").as_deref(), bench.path("n").as_deref()), (Some(A), Some(B)));
        assert!(bench.is_changed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_the_server_fails_for_holds_up_nobody_for_long() {
    run(async |bench| {
        bench.cluster.set("broken", Err(500));
        bench.cluster.set("m", Ok(("vault:secret/data/a#k", 1)));
        bench.name(&["broken", "m"]);
        sleep(Duration::from_mins(1)).await;
        assert_eq!(bench.path("m").as_deref(), Some(A));
        assert_eq!(bench.known("broken"), SourceState::Unreadable(Reason::SourceFailed));
        assert!(bench.is_changed());
        // A ConfigMap that is named later does not wait for the broken one either.
        bench.cluster.set("n", Ok(("vault:secret/data/b#k", 1)));
        bench.cluster.show("ADDED", "n", 1);
        bench.name(&["broken", "m", "n"]);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(bench.path("n").as_deref(), Some(B));
        bench.cluster.set("broken", Ok(("vault:secret/data/a#k", 2)));
        sleep(Duration::from_mins(2)).await;
        assert_eq!(bench.path("broken").as_deref(), Some(A));
    })
    .await;
}

#[test]
fn what_the_webhook_has_resolved_is_told_by_its_annotations() {
    let of = |annotation: &str, value: &str| json!({ "metadata": { "annotations": { annotation: "x" } }, "data": { "K": value } });
    let role = "secrets-webhook.security.bank-vaults.io/vault-role";
    let is_resolved = |kind, object| content_of(kind, object).unwrap().is_resolved();
    assert!(is_resolved(SourceKind::ConfigMap, of(role, "s3cret")));
    assert!(!is_resolved(SourceKind::ConfigMap, of("other", "s3cret")));
    assert!(is_resolved(SourceKind::Secret, of(role, "czNjcmV0")));
    // `vault:a#k`
    assert!(!is_resolved(SourceKind::Secret, of(role, "dmF1bHQ6YSNr")));
}

#[tokio::test(start_paused = true)]
async fn what_the_watch_does_not_show_needs_no_request() {
    run(async |bench| {
        let names: Vec<_> = (0..100).map(|number| format!("none-{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        bench.name(&names);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(bench.cluster.read(), [""; 0]);
        assert!(names.iter().all(|name| bench.known(name) == SourceState::Missing));
        assert_eq!(bench.changes(), 1, "a workload is read again once, however much changed");
        // The same for a ConfigMap that is named after the list has ended.
        bench.name(&["later"]);
        sleep(Duration::from_secs(10)).await;
        assert_eq!((bench.cluster.read(), bench.known("later")), (vec![], SourceState::Missing));
        bench.cluster.set("later", Ok(("vault:secret/data/a#k", 2)));
        bench.cluster.show("ADDED", "later", 2);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(bench.path("later").as_deref(), Some(A));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_named_while_a_list_shows_it_is_read() {
    let (bench, mut reader) = bench();
    bench.cluster.set("m", Ok(("vault:secret/data/a#k", 1)));
    reader.handle(WatchEvent::Init);
    reader.handle(WatchEvent::InitApply(serde_json::from_value(metadata("m", 1)).unwrap()));
    bench.name(&["m"]);
    reader.take_requests();
    reader.handle(WatchEvent::InitDone);
    reader.begin_reads();
    let (id, answer) = reader.reads.next().await.expect("a read has begun");
    reader.take_in(id, answer);
    assert_eq!(bench.path("m").as_deref(), Some(A));
    assert!(reader.unseen.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_name_that_no_object_can_have_is_in_no_url() {
    run(async |bench| {
        bench.cluster.set("m", Ok(("vault:secret/data/a#k", 1)));
        bench.name(&["m", "../../bank/configmaps/refs", "m?watch=true", "", ".."]);
        sleep(Duration::from_mins(1)).await;
        assert_eq!(bench.cluster.read(), ["m"]);
        assert_eq!(bench.known("../../bank/configmaps/refs"), SourceState::Missing);
        assert!(bench.is_changed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_without_an_answer_is_given_up_and_tried_once_a_minute() {
    run(async |bench| {
        bench.cluster.set("broken", Err(0));
        bench.cluster.set("m", Ok(("vault:secret/data/a#k", 1)));
        bench.name(&["broken", "m"]);
        sleep(Duration::from_mins(1)).await;
        assert_eq!(bench.path("m").as_deref(), Some(A));
        assert_eq!(bench.known("broken"), SourceState::Unreadable(Reason::SourceFailed));
        bench.cluster.read();
        sleep(Duration::from_mins(10)).await;
        let read = bench.cluster.read().len();
        assert!((9..=11).contains(&read), "one a minute, not {read}");
        bench.cluster.set("broken", Ok(("vault:secret/data/a#k", 2)));
        sleep(Duration::from_mins(2)).await;
        assert_eq!(bench.path("broken").as_deref(), Some(A));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_one_namespace_takes_nothing_of_another() {
    let (bench, _) = bench();
    let of = |namespace: &str| {
        let server = bench.cluster.clone();
        let client = client_of(move |request| server.answer(request));
        let settings = Settings {
            sync_period: Duration::from_mins(30),
            namespace: Some(namespace.into()),
            readers: 2,
        };
        SourceReader::<ConfigMap>::new(
            client,
            Arc::clone(&bench.index),
            bench.effects.clone(),
            settings,
        )
    };
    let (shop, bank) = (of("shop"), of("bank"));
    bench.cluster.set("m", Ok(("vault:secret/data/a#k", 1)));
    bench.name(&["m"]);
    let of_bank = bank.run(CancellationToken::new());
    assert!(tokio::time::timeout(Duration::from_mins(1), of_bank).await.is_err(), "it ended");
    assert!(bench.cluster.read().is_empty());
    assert_eq!(bench.cluster.0.lock().unwrap().lists, 0);
    assert_eq!(bench.known("m"), SourceState::Unread);
    let of_shop = shop.run(CancellationToken::new());
    assert!(tokio::time::timeout(Duration::from_mins(1), of_shop).await.is_err(), "it ended");
    assert_eq!(bench.path("m").as_deref(), Some(A));
}
