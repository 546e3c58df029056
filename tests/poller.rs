//! The poller against a server that answers by a script: what no real server does at will.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response};
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::json;
use tokio::task::JoinSet;
use vault_secrets_reloader::core::clock::ServerClock;
use vault_secrets_reloader::core::observation::{Ask, Observation, Polled};
use vault_secrets_reloader::core::secret::{SecretId, Version};
use vault_secrets_reloader::reloader::Vault as _;
use vault_secrets_reloader::vault::client::{Server, ServerSettings, Tls};
use vault_secrets_reloader::vault::login::Method;
use vault_secrets_reloader::vault::poller::Poller;

/// Answers the request with this number (from 1) for this API path; `None` as a good server would.
type Script = fn(usize, &str) -> Option<Response<Body>>;

#[derive(Clone)]
struct Fake {
    script: Script,
    /// The API paths that were asked for; those about the token left out.
    asked: Arc<Mutex<Vec<String>>>,
    /// When the live version of all secrets was created.
    created: Arc<Mutex<String>>,
}

/// A server, the poller that asks it, and its tasks.
struct Bench {
    fake: Fake,
    poller: Poller,
    _tasks: JoinSet<()>,
}

impl Bench {
    async fn new(script: Script) -> Self {
        let fake = Fake {
            script,
            asked: Arc::default(),
            created: Arc::new(Mutex::new("2026-11-22T06:00:00Z".to_owned())),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(fake.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let settings = ServerSettings {
            address: address.parse().unwrap(),
            namespace: None,
            timeout: Duration::from_secs(5),
            proxy: None,
            tls: Tls::default(),
        };
        let server = Arc::new(Server::new(settings, Arc::<ServerClock>::default()).unwrap());
        let method = Method::Token(SecretString::from("token"));
        let period = Duration::from_mins(1);
        let poller = Poller::new(server, method, period, period, false);
        Self { fake, poller, _tasks: tasks }
    }

    async fn poll(&mut self, secrets: usize, known: Option<Version>) -> Polled {
        let asks: Vec<Ask> = (0..secrets)
            .map(|number| Ask {
                secret: Arc::new(SecretId {
                    connection: "default".into(),
                    namespace: None,
                    path: format!("secret/data/{number}").into(),
                }),
                known,
                not_before: known.map(|version| version.created),
                may_be_missing: false,
            })
            .collect();
        self.fake.asked.lock().unwrap().clear();
        vault_secrets_reloader::reloader::Vault::poll(&mut self.poller, &asks).await
    }

    fn asked(&self) -> usize {
        self.fake.asked.lock().unwrap().len()
    }
}

async fn answer(State(fake): State<Fake>, request: Request<Body>) -> Response<Body> {
    let path = request.uri().path().trim_start_matches("/v1/").to_owned();
    if path == "auth/token/lookup-self" {
        return json_of(
            200,
            &json!({
                "request_id": "", "lease_id": "", "renewable": false, "lease_duration": 0,
                "data": {
                    "accessor": "", "creation_time": 0, "creation_ttl": 0, "display_name": "",
                    "entity_id": "", "explicit_max_ttl": 0, "id": "", "num_uses": 0, "orphan": true,
                    "path": "", "policies": [], "ttl": 0,
                },
            }),
        );
    }
    let number = {
        let mut asked = fake.asked.lock().unwrap();
        asked.push(path.clone());
        asked.len()
    };
    if let Some(answer) = (fake.script)(number, &path) {
        return answer;
    }
    if path.starts_with("sys/internal/ui/mounts/") {
        let data = json!({ "path": "secret/", "type": "kv", "options": { "version": "2" } });
        return json_of(200, &json!({ "data": data }));
    }
    let created = fake.created.lock().unwrap().clone();
    let versions =
        json!({ "1": { "created_time": created, "deletion_time": "", "destroyed": false } });
    json_of(200, &json!({ "data": { "current_version": 1, "versions": versions } }))
}

fn json_of(status: u16, body: &serde_json::Value) -> Response<Body> {
    Response::builder().status(status).body(Body::from(body.to_string())).unwrap()
}

fn count(polled: &Polled) -> HashMap<&'static str, usize> {
    let mut counts = HashMap::new();
    for observation in polled.observations.values() {
        let name = match observation {
            Observation::Live(_) => "live",
            Observation::Gone => "gone",
            Observation::Unknown => "unknown",
        };
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}

#[tokio::test]
async fn a_good_server_is_asked_once_for_each_secret_and_once_for_the_mount() {
    let mut bench = Bench::new(|_, _| None).await;
    let polled = bench.poll(20, None).await;
    assert_eq!(count(&polled), HashMap::from([("live", 20)]));
    assert_eq!((bench.asked(), polled.retry_in), (21, None));
    bench.poll(20, None).await;
    assert_eq!(bench.asked(), 20, "the mount is known");
    bench.poller.close().await;
}

#[tokio::test]
async fn a_load_balancer_without_a_server_costs_a_few_requests_and_not_thousands() {
    let mut bench = Bench::new(|_, _| Some(json_of(502, &json!("bad gateway")))).await;
    let polled = bench.poll(500, None).await;
    assert_eq!(count(&polled), HashMap::from([("unknown", 500)]));
    assert_eq!(polled.failed.len(), 500);
    assert!(bench.asked() <= 6, "{} requests", bench.asked());
    assert!(polled.retry_in.is_some());
}

#[tokio::test]
async fn one_secret_that_fails_is_unknown_and_the_others_are_not() {
    let mut bench = Bench::new(|_, path| {
        path.ends_with("metadata/1").then(|| json_of(500, &json!({ "errors": ["boom"] })))
    })
    .await;
    // Also when the mount is known, and the one that fails happens to be read first.
    for _ in 0..8 {
        let polled = bench.poll(2, None).await;
        assert_eq!(count(&polled), HashMap::from([("live", 1), ("unknown", 1)]));
        assert_eq!(polled.failed.len(), 1);
    }
}

#[tokio::test]
async fn a_rate_limit_is_waited_for_as_the_server_says() {
    let mut bench = Bench::new(|number, _| {
        (number == 5).then(|| {
            let answer = Response::builder().status(429).header("Retry-After", "1");
            answer.body(Body::from(r#"{"errors":[]}"#)).unwrap()
        })
    })
    .await;
    let began = Instant::now();
    let polled = bench.poll(50, None).await;
    assert_eq!(count(&polled), HashMap::from([("live", 50)]));
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(bench.asked(), 52, "one was asked again");
}

#[tokio::test]
async fn an_older_version_is_asked_for_again_in_case_it_came_from_a_standby() {
    let mut bench = Bench::new(|_, _| None).await;
    let newer = Version { number: 2, created: "2026-11-22T07:00:00Z".parse().unwrap() };
    let polled = bench.poll(1, Some(newer)).await;
    let created: Timestamp = "2026-11-22T06:00:00Z".parse().unwrap();
    let seen = polled.observations.values().next().copied();
    assert_eq!(seen, Some(Observation::Live(Version { number: 1, created })));
    assert_eq!(bench.asked(), 1 + 4, "the mount, and the secret four times");
    // A standby that has caught up.
    "2026-11-22T07:00:00Z".clone_into(&mut bench.fake.created.lock().unwrap());
    let polled = bench.poll(1, Some(newer)).await;
    assert_eq!(count(&polled), HashMap::from([("live", 1)]));
    assert_eq!(bench.asked(), 1);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_an_answer_has_an_end() {
    let redirect: Script = |_, _| {
        let answer = Response::builder().status(307).header("Location", "http://127.0.0.1:9/v1/x");
        Some(answer.body(Body::empty()).unwrap())
    };
    let endless: Script = |_, path| {
        path.contains("/metadata/").then(|| Response::new(Body::from(vec![b'x'; 9 << 20])))
    };
    for script in [redirect, endless] {
        let mut bench = Bench::new(script).await;
        let polled = bench.poll(3, None).await;
        assert_eq!(count(&polled), HashMap::from([("unknown", 3)]));
    }
}
