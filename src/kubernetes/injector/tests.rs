//! Tests the watch of the injector against a server that answers by a script.

use std::sync::Mutex;

use axum::body::Body as Answer;
use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::scripted::{client_of, list, status};
use super::*;
use crate::decide::hold::Hold;
use crate::rollouts::injector::{DEFAULT_WEBHOOKS, InjectorSettings, NamePattern};

const NAME: &str = "pods.vault-secrets-webhook.admission.banzaicloud.com";

/// The objects of each resource, and the lines of the watches in progress.
#[derive(Clone, Default)]
struct Cluster(Arc<Mutex<BTreeMap<&'static str, Resources>>>);

#[derive(Default)]
struct Resources {
    objects: Vec<Value>,
    events: Vec<String>,
    lists: u32,
    is_denied: bool,
}

impl Cluster {
    fn change<T>(&self, resource: &'static str, change: impl FnOnce(&mut Resources) -> T) -> T {
        change(self.0.lock().unwrap().entry(resource).or_default())
    }

    fn show(&self, resource: &'static str, kind: &str, object: &Value) {
        let event = json!({ "type": kind, "object": object });
        self.change(resource, |resources| resources.events.push(format!("{event}\n")));
    }

    fn answer(&self, request: &Request<Body>) -> Response<Answer> {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let resource = match path {
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations" => CONFIGURATIONS,
            "/apis/discovery.k8s.io/v1/namespaces/vault/endpointslices" => {
                assert!(query.contains("labelSelector=kubernetes.io%2Fservice-name%3Dvswh"));
                ENDPOINT_SLICES
            }
            "/api/v1/namespaces" => {
                let accept = request.headers()["accept"].to_str().unwrap();
                assert!(accept.contains("as=PartialObjectMetadata"), "{accept}");
                NAMESPACES
            }
            _ => panic!("{path}"),
        };
        self.change(resource, |resources| {
            if resources.is_denied {
                return status(403);
            }
            if query.contains("watch=true") {
                return Response::new(Answer::from(std::mem::take(&mut resources.events).concat()));
            }
            resources.lists += 1;
            Response::new(list(&resources.objects, ""))
        })
    }
}

fn configuration(name: &str, webhook: &str, selector: &Value) -> Value {
    json!({
        "metadata": { "name": name, "resourceVersion": "1" },
        "webhooks": [{
            "name": webhook,
            "failurePolicy": "Ignore",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "clientConfig": { "service": { "namespace": "vault", "name": "vswh" } },
            "namespaceSelector": selector,
            "rules": [{
                "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE"],
                "resources": ["pods"], "scope": "*",
            }],
        }],
    })
}

/// A slice with an endpoint that is ready or not; without one for `None`.
fn slice(name: &str, ready: Option<Value>) -> Value {
    let endpoints =
        ready.map(|ready| json!([{ "addresses": ["10.0.0.1"], "conditions": { "ready": ready } }]));
    json!({
        "metadata": { "namespace": "vault", "name": name, "resourceVersion": "1" },
        "addressType": "IPv4",
        "endpoints": endpoints,
    })
}

fn namespace(name: &str, labels: &Value) -> Value {
    json!({ "metadata": { "name": name, "resourceVersion": "1", "labels": labels } })
}

/// The injector beside its watch.
struct Bench {
    cluster: Cluster,
    injector: Arc<Injector>,
    changes: watch::Receiver<()>,
}

impl Bench {
    /// Waits until reloads of `shop` are held, or not.
    async fn until(&mut self, hold: Option<Hold>) {
        let changed = async {
            while !self.injector.is_settled() || self.injector.hold("shop") != hold {
                self.changes.changed().await.unwrap();
            }
        };
        let is_so = timeout(Duration::from_mins(5), changed).await;
        assert!(is_so.is_ok(), "not {hold:?}: {:?}", self.injector.state());
    }
}

async fn beside_a_watch(check: InjectorCheck, test: impl AsyncFnOnce(Bench), cluster: Cluster) {
    let names = DEFAULT_WEBHOOKS.split(',').filter_map(NamePattern::parse);
    let settings = InjectorSettings { check, webhooks: WebhookNames(names.collect()) };
    let injector = Arc::new(Injector::new(settings));
    let (changed, changes) = watch::channel(());
    let of_script = cluster.clone();
    let client = client_of(move |request| of_script.answer(request));
    let period = Duration::from_hours(1);
    let watch = InjectorWatch::new(client, Arc::clone(&injector), changed, period);
    let shutdown = CancellationToken::new();
    let test = async {
        test(Bench { cluster, injector, changes }).await;
        shutdown.cancel();
    };
    tokio::join!(watch.run(shutdown.clone()), test);
}

const AWAY: Option<Hold> = Some(Hold::InjectorAway);

#[tokio::test(start_paused = true)]
async fn endpoints_come_and_go() {
    let cluster = Cluster::default();
    let webhook = configuration("release", NAME, &json!({}));
    let other = configuration("other", "pods.example.com", &json!({}));
    cluster.change(CONFIGURATIONS, |it| it.objects = vec![other, webhook.clone()]);
    let test = async |mut bench: Bench| {
        bench.until(AWAY).await;
        let cluster = bench.cluster.clone();
        for (kind, slice, hold) in [
            ("ADDED", slice("a", None), AWAY),
            ("MODIFIED", slice("a", Some(json!(false))), AWAY),
            ("MODIFIED", slice("a", Some(json!(true))), None),
            ("MODIFIED", slice("a", Some(json!(false))), AWAY),
            // An endpoint without a condition is ready.
            ("ADDED", slice("b", Some(Value::Null)), None),
            ("DELETED", slice("b", Some(Value::Null)), AWAY),
        ] {
            cluster.show(ENDPOINT_SLICES, kind, &slice);
            bench.until(hold).await;
        }
        // Reloads wait for nothing any more.
        cluster.show(CONFIGURATIONS, "DELETED", &webhook);
        bench.until(None).await;
        cluster.show(CONFIGURATIONS, "ADDED", &webhook);
        bench.until(AWAY).await;
        assert_eq!(cluster.change(NAMESPACES, |it| it.lists), 0, "no label counts");
    };
    beside_a_watch(InjectorCheck::Auto, test, cluster).await;
}

#[tokio::test(start_paused = true)]
async fn labels_of_namespaces_are_watched_if_a_webhook_selects_by_them() {
    let cluster = Cluster::default();
    let selector = json!({ "matchExpressions": [
        { "key": "inject", "operator": "In", "values": ["true"] },
        { "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["vault"] },
    ]});
    let webhook = configuration("release", NAME, &selector);
    cluster.change(CONFIGURATIONS, |it| it.objects = vec![webhook]);
    let selected = namespace("shop", &json!({ "inject": "true", "other": "x" }));
    cluster.change(NAMESPACES, |it| it.objects = vec![selected.clone()]);
    let test = async |mut bench: Bench| {
        bench.until(AWAY).await;
        let kept = bench.injector.state().namespaces.clone();
        let labels = Labels::from([("inject".into(), "true".into())]);
        assert_eq!(kept, Some([("shop".into(), labels)].into()), "no other label");
        let cluster = bench.cluster.clone();
        cluster.show(NAMESPACES, "MODIFIED", &namespace("shop", &json!({})));
        bench.until(None).await;
        cluster.show(NAMESPACES, "MODIFIED", &selected);
        bench.until(AWAY).await;
        cluster.show(NAMESPACES, "DELETED", &selected);
        bench.until(None).await;
    };
    beside_a_watch(InjectorCheck::Auto, test, cluster).await;
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_watched_delays_polls_for_a_while() {
    for (check, hold) in
        [(InjectorCheck::Auto, None), (InjectorCheck::Required, Some(Hold::InjectorMissing))]
    {
        let cluster = Cluster::default();
        cluster.change(CONFIGURATIONS, |it| it.is_denied = true);
        let test = async |mut bench: Bench| {
            let began = tokio::time::Instant::now();
            bench.until(hold).await;
            assert!(began.elapsed() >= LISTED_WITHIN, "{:?}", began.elapsed());
            // The permission comes later.
            let webhook = configuration("release", NAME, &json!({}));
            bench.cluster.change(CONFIGURATIONS, |it| {
                it.is_denied = false;
                it.objects.push(webhook);
            });
            bench.until(AWAY).await;
        };
        beside_a_watch(check, test, cluster).await;
    }
}

#[tokio::test(start_paused = true)]
async fn at_most_sixteen_webhooks_count() {
    let cluster = Cluster::default();
    let names = (0..MOST_WEBHOOKS + 4).map(|number| format!("release-{number:02}"));
    let many: Vec<Value> = names.map(|name| configuration(&name, NAME, &json!({}))).collect();
    cluster.change(CONFIGURATIONS, |it| it.objects = many);
    let test = async |mut bench: Bench| {
        bench.until(AWAY).await;
        let count = bench.injector.state().webhooks.as_ref().map(Vec::len);
        assert_eq!(count, Some(MOST_WEBHOOKS));
    };
    beside_a_watch(InjectorCheck::Auto, test, cluster).await;
}

#[test]
fn only_webhooks_that_get_new_pods_count() {
    let names = WebhookNames([NamePattern::Exact("release".into())].into());
    let read = |rules: Value| {
        let mut object = configuration("release", "a.example.com", &Value::Null);
        object["webhooks"][0]["rules"] = rules;
        webhooks_of(serde_json::from_value(object).unwrap(), &names).len()
    };
    let rule = |groups: &str, operation: &str, resource: &str, scope: &str| {
        json!([{
            "apiGroups": [groups], "apiVersions": ["v1"], "operations": ["DELETE", operation],
            "resources": ["secrets", resource], "scope": scope,
        }])
    };
    for (rules, count) in [
        (rule("", "CREATE", "pods", "*"), 1),
        (rule("*", "*", "*", "Namespaced"), 1),
        (rule("*", "*", "*/*", "*"), 1),
        (rule("apps", "CREATE", "pods", "*"), 0),
        (rule("", "UPDATE", "pods", "*"), 0),
        (rule("", "CREATE", "pods/log", "*"), 0),
        (rule("", "CREATE", "configmaps", "*"), 0),
        (rule("", "CREATE", "pods", "Cluster"), 0),
        (json!([]), 0),
        (Value::Null, 0),
    ] {
        assert_eq!(read(rules.clone()), count, "{rules}");
    }
}

#[test]
fn a_service_has_the_name_of_a_label() {
    assert!(is_label("vault-secrets-webhook"));
    for name in ["", "a/b", "a,b", "A", &"a".repeat(64)] {
        assert!(!is_label(name), "{name}");
    }
}
