//! Tests of the revisions of workloads, and of their times.

use serde_json::{Value, json};

use super::*;
use crate::model::annotation::RECORD;
use crate::model::fixtures::{secret, version, workload};

fn revision_of(workload: &Workload, objects: &[Value]) -> Option<Revision> {
    let mut candidate = Candidate::of(workload);
    for object in objects {
        candidate.take(serde_json::from_value(object.clone()).unwrap());
    }
    candidate.into_revision()
}

fn replica_set(number: &str, created: &str, record: &str) -> Value {
    json!({ "metadata": {
        "name": format!("web-{number}"),
        "creationTimestamp": created,
        "annotations": { "deployment.kubernetes.io/revision": number, RECORD: record, "a": "b" },
    } })
}

fn controller_revision(name: &str, number: i64, created: &str) -> Value {
    json!({ "metadata": { "name": name, "creationTimestamp": created }, "revision": number })
}

const EARLY: &str = "2026-11-22T05:00:00Z";
const LATE: &str = "2026-11-22T06:00:00Z";

#[test]
fn the_highest_number_is_the_present_replica_set() {
    let web = workload("web", &["a"]);
    // After `rollout undo` the older object has the higher number.
    let objects = [replica_set("9", LATE, ""), replica_set("10", EARLY, "")];
    let revision = revision_of(&web, &objects).unwrap();
    assert_eq!(revision.created, EARLY.parse().unwrap());
    assert_eq!(revision_of(&web, &[]), None);
    assert_eq!(revision_of(&web, &[replica_set("1", "no time", "")]), None);
}

#[test]
fn in_which_order_they_are_listed_does_not_matter() {
    let web = workload("web", &["a"]);
    let highest_without_a_time = [replica_set("2", "no time", ""), replica_set("1", EARLY, "")];
    let twice = [replica_set("2", LATE, ""), replica_set("2", EARLY, "")];
    for (mut objects, expected) in
        [(highest_without_a_time, None), (twice, Some(EARLY.parse().unwrap()))]
    {
        for _ in 0..2 {
            let created = revision_of(&web, &objects).map(|revision| revision.created);
            assert_eq!(created, expected, "{objects:?}");
            objects.reverse();
        }
    }
}

#[test]
fn a_stateful_set_says_itself_what_it_moves_to() {
    let objects = [controller_revision("db-a", 3, LATE), controller_revision("db-b", 2, EARLY)];
    let kind = |kind, update_revision: Option<&str>| {
        let mut db = workload("db", &["a"]);
        db.id.kind = kind;
        db.update_revision = update_revision.map(Into::into);
        revision_of(&db, &objects).unwrap().created
    };
    assert_eq!(kind(Kind::STATEFUL_SET, Some("db-b")), EARLY.parse().unwrap());
    assert_eq!(kind(Kind::STATEFUL_SET, None), LATE.parse().unwrap());
    assert_eq!(kind(Kind::DAEMON_SET, None), LATE.parse().unwrap());
}

#[test]
fn who_will_never_have_a_revision_has_pods_as_old_as_itself_at_most() {
    let created_of = |kind, objects: &[Value]| {
        let mut db = workload("db", &["a"]);
        db.id.kind = kind;
        db.update_revision = Some("db-of-another".into());
        db.created = EARLY.parse().unwrap();
        revision_of(&db, objects).map(|revision| revision.created.to_string())
    };
    for kind in [Kind::DAEMON_SET, Kind::STATEFUL_SET] {
        assert_eq!(created_of(kind, &[]).as_deref(), Some(EARLY));
        // The workload's own revision cannot be older than the workload.
        let own = [controller_revision("db-a", 1, LATE)];
        assert_eq!(created_of(kind, &own).as_deref(), Some(LATE));
        assert_eq!(created_of(kind, &[controller_revision("db-a", 1, "no time")]), None);
    }
    // A paused Deployment may have neither a ReplicaSet nor pods.
    assert_eq!(created_of(Kind::DEPLOYMENT, &[]), None);
}

#[test]
fn copies_of_the_record_count_if_they_are_its_own_and_of_its_secrets() {
    let web = workload("web", &["a"]);
    let record = |uid: &str| {
        let versions =
            [(secret("a").hash64(), version(1, 1)), (secret("z").hash64(), version(2, 2))];
        let versions = versions.into_iter().collect();
        Record {
            uid: uid.to_owned(),
            mark: "m".to_owned(),
            at: None,
            streak: 0,
            was_unhealthy: false,
            versions,
        }
        .encode()
    };
    let objects = [
        replica_set("1", EARLY, &record("uid-of-web")),
        replica_set("2", EARLY, &record("uid-of-web")),
        replica_set("3", LATE, &record("uid-of-another")),
        replica_set("4", LATE, "nonsense"),
    ];
    let revision = revision_of(&web, &objects).unwrap();
    let copy = Copied { secret: secret("a").hash64(), version: version(1, 1), is_later: false };
    assert_eq!(*revision.copies, [copy]);
    // A template that was put back is the template of an earlier revision.
    let objects = [
        replica_set("9", EARLY, ""),
        replica_set("8", LATE, &record("uid-of-web")),
        replica_set("7", EARLY, &record("uid-of-web")),
    ];
    let revision = revision_of(&web, &objects).unwrap();
    assert_eq!(*revision.copies, [copy, Copied { is_later: true, ..copy }]);
}

/// Makes a look-up whose server answers each request by a script after one second.
fn revisions_from(
    script: impl Fn(&str) -> axum::body::Body + Clone + Send + Sync + 'static,
) -> Revisions {
    let server = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let script = script.clone();
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let query = request.uri().query().unwrap_or_default();
            Ok::<_, tower::BoxError>(http::Response::new(script(query)))
        }
    });
    let server = tower::Layer::layer(&super::super::bounds::BoundsLayer, server);
    Revisions::new(Client::new(server, "default"))
}

fn page(next: &str, objects: &[Value]) -> axum::body::Body {
    let owned = objects.iter().map(|object| owned(object, "shop", &[]));
    let items: Vec<Value> = owned.collect();
    json!({ "metadata": { "continue": next }, "items": items }).to_string().into()
}

/// Returns a revision in a namespace, owned by the Deployment `web` except for the fields of
/// `but`.
fn owned(object: &Value, namespace: &str, but: &[(&str, Value)]) -> Value {
    let mut owner = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "web",
        "uid": "uid-of-web",
        "controller": true,
    });
    for (field, value) in but {
        owner[*field] = value.clone();
    }
    let mut object = object.clone();
    object["metadata"]["namespace"] = namespace.into();
    object["metadata"]["ownerReferences"] = json!([owner]);
    object
}

#[test]
fn a_revision_counts_only_where_its_owner_can_be_the_workload() {
    let web = workload("web", &["a"]);
    let own = owned(&replica_set("1", EARLY, ""), "shop", &[]);
    let forged = replica_set("999", LATE, "");
    let others = [
        owned(&forged, "of-another-tenant", &[]),
        owned(&forged, "shop", &[("name", json!("web-2"))]),
        owned(&forged, "shop", &[("kind", json!("StatefulSet"))]),
        owned(&forged, "shop", &[("apiVersion", json!("example.com/v1"))]),
        owned(&forged, "shop", &[("controller", json!(false))]),
        owned(&forged, "shop", &[("uid", json!("uid-of-another"))]),
        forged,
    ];
    for other in others {
        let mut candidates = Candidates::new([&web]);
        let items = [own.clone(), other.clone()];
        candidates.take(serde_json::from_value(json!({ "items": items })).unwrap());
        let created = candidates.into_revisions().remove(0).1.created;
        assert_eq!(created, EARLY.parse().unwrap(), "{other}");
    }
    let mut candidates = Candidates::new([&web]);
    let items = [own, owned(&replica_set("2", LATE, ""), "shop", &[])];
    candidates.take(serde_json::from_value(json!({ "items": items })).unwrap());
    assert_eq!(candidates.into_revisions()[0].1.created, LATE.parse().unwrap());
}

#[test]
fn of_a_list_that_was_cut_short_the_namespaces_before_the_last_one_count() {
    let found = |namespaces: &[&str]| {
        let workloads: Vec<_> = ["a", "a-b", "b"]
            .map(|namespace| {
                let mut web = workload("web", &["a"]);
                (web.id.namespace, web.uid) = (namespace.into(), namespace.into());
                web
            })
            .into();
        let mut candidates = Candidates::new(&workloads);
        let object = |namespace: &&str| {
            owned(&replica_set("1", EARLY, ""), namespace, &[("uid", json!(namespace))])
        };
        let items: Vec<_> = namespaces.iter().map(object).collect();
        candidates.take(serde_json::from_value(json!({ "items": items })).unwrap());
        let mut found: Vec<_> = candidates
            .into_complete_revisions()
            .into_iter()
            .map(|(uid, _)| uid.to_string())
            .collect();
        found.sort();
        found.join(" ")
    };
    // The key `a-b/web` comes before `a/web`.
    assert_eq!(found(&["a-b", "a", "b"]), "a a-b");
    assert_eq!(found(&["a-b", "a-b"]), "");
    assert_eq!(found(&["a", "b"]), "a", "one without a revision is not known of");
    // A server that lists in another order may still show more objects of each namespace.
    assert_eq!(found(&["a", "a-b", "b"]), "");
    assert_eq!(found(&[]), "");
}

#[tokio::test(start_paused = true)]
async fn a_list_without_an_end_is_given_up_and_known_of_nobody() {
    let endless = revisions_from(|_| page("more", &[replica_set("1", EARLY, "")]));
    for kind in [Kind::DEPLOYMENT, Kind::DAEMON_SET] {
        let mut web = workload("web", &["a"]);
        web.id.kind = kind;
        let began = Instant::now();
        assert!(endless.of(&[Arc::new(web)]).await.is_empty());
        assert_eq!(began.elapsed(), LONGEST);
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_too_long_is_asked_for_in_parts() {
    let server = revisions_from(|query| {
        if query.contains("limit=250") || query.contains("limit=62&continue=next") {
            return "x".repeat(17 << 20).into();
        }
        let next = if query.contains("continue") { "" } else { "next" };
        page(next, &[replica_set("1", EARLY, "")])
    });
    let found = server.of(&[Arc::new(workload("web", &["a"]))]).await;
    assert_eq!(found.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn pages_that_arrived_count_where_a_later_one_fails() {
    let of = |name: &str, namespace: &str| {
        let mut workload = workload(name, &["a"]);
        workload.id.namespace = namespace.into();
        Arc::new(workload)
    };
    // With so many namespaces, one list covers all of them.
    let names: Vec<String> = (10..30).map(|number| format!("n{number}")).collect();
    let workloads: Vec<_> = names.iter().map(|name| of("web", name)).collect();
    let fails = Arc::new(std::sync::atomic::AtomicU32::new(u32::MAX));
    let failing = Arc::clone(&fails);
    let server = revisions_from(move |query| {
        let objects = |names: std::ops::Range<u32>| -> Vec<Value> {
            names
                .map(|number| {
                    let namespace = format!("n{number}");
                    let mut object = owned(&replica_set("1", EARLY, ""), &namespace, &[]);
                    let uid = format!("uid-{namespace}");
                    object["metadata"]["ownerReferences"][0]["uid"] = uid.into();
                    object
                })
                .collect()
        };
        if !query.contains("continue") {
            let metadata = json!({ "continue": "next" });
            return json!({ "metadata": metadata, "items": objects(10..20) }).to_string().into();
        }
        if failing.load(Ordering::Relaxed) > 0 {
            failing.fetch_sub(1, Ordering::Relaxed);
            return "no JSON".into();
        }
        json!({ "items": objects(19..30) }).to_string().into()
    });
    let workloads: Vec<_> = workloads
        .into_iter()
        .map(|workload| {
            let uid = format!("uid-{}", workload.id.namespace).into();
            Arc::new(Workload { uid, ..(*workload).clone() })
        })
        .collect();
    // The missing page may show more revisions of the last namespace that was seen.
    assert_eq!(server.of(&workloads).await.len(), 9);
    // A passing error does not matter.
    fails.store(2, Ordering::Relaxed);
    assert_eq!(server.of(&workloads).await.len(), 20);
}

#[test]
fn copies_of_the_record_have_an_end() {
    let web = workload("web", &["a"]);
    let objects: Vec<Value> = (0..10_500)
        .map(|number| {
            let versions = [(secret("a").hash64(), version(number, 1))].into_iter().collect();
            let record = Record {
                streak: 0,
                was_unhealthy: false,
                uid: "uid-of-web".to_owned(),
                mark: "m".to_owned(),
                at: None,
                versions,
            };
            replica_set("1", EARLY, &record.encode())
        })
        .collect();
    assert_eq!(revision_of(&web, &objects).unwrap().copies.len(), MOST_COPIES);
}
