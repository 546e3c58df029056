//! The poller against a server that answers by a script: what no real server does at will.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response};
use futures::StreamExt as _;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::json;
use tokio::task::JoinSet;
use vault_secrets_reloader::decide::clock::ServerClock;
use vault_secrets_reloader::decide::observation::{Observation, PollResult, ReadRequest};
use vault_secrets_reloader::engine::ports::Vault as _;
use vault_secrets_reloader::model::secret::{SecretId, Version};
use vault_secrets_reloader::vault::client::Server;
use vault_secrets_reloader::vault::connection::ServerSettings;
use vault_secrets_reloader::vault::login::Method;
use vault_secrets_reloader::vault::login::jwt::{JwtLogin, JwtSource};
use vault_secrets_reloader::vault::pace::Pace;
use vault_secrets_reloader::vault::poller::Poller;

mod lists;
mod outages;
mod rates;
mod redirects;
mod tokens;

/// Answers the request with this number (from 1) for this API path; `None` as a good server would.
type Script = fn(usize, &str) -> Option<Response<Body>>;

#[derive(Clone)]
struct Fake {
    script: Arc<Mutex<Script>>,
    /// The API paths that were asked for; those about the token left out.
    asked: Arc<Mutex<Vec<String>>>,
    /// When the live version of all secrets was created.
    created: Arc<Mutex<String>>,
}

impl Fake {
    fn new(script: Script) -> Self {
        let created = Arc::new(Mutex::new("2026-11-22T06:00:00Z".to_owned()));
        Self { script: Arc::new(Mutex::new(script)), asked: Arc::default(), created }
    }
}

/// A server, the poller that asks it, and its tasks.
struct Bench {
    fake: Fake,
    poller: Poller,
    _tasks: JoinSet<()>,
}

impl Bench {
    async fn new(script: Script) -> Self {
        Self::with_timeout(script, Duration::from_secs(5)).await
    }

    async fn with_timeout(script: Script, timeout: Duration) -> Self {
        Self::with(script, timeout, Pace::default()).await
    }

    async fn with_pace(script: Script, pace: Pace) -> Self {
        Self::with(script, Duration::from_secs(5), pace).await
    }

    async fn with(script: Script, timeout: Duration, pace: Pace) -> Self {
        let fake = Fake::new(script);
        let router = Router::new().fallback(answer).with_state(fake.clone());
        let method = Method::Token(SecretString::from("token"));
        let (address, tasks) = serve(router).await;
        let poller = poller_at(&address, &[], method, timeout, pace);
        Self { fake, poller, _tasks: tasks }
    }

    async fn poll(&mut self, secrets: usize, known: Option<Version>) -> PollResult {
        self.poll_paths((0..secrets).map(|number| format!("secret/data/{number}")), known).await
    }

    async fn poll_paths(
        &mut self,
        paths: impl Iterator<Item = String>,
        known: Option<Version>,
    ) -> PollResult {
        let asks = asks_for(paths, known);
        self.fake.asked.lock().unwrap().clear();
        vault_secrets_reloader::engine::ports::Vault::poll(&mut self.poller, &asks).await
    }

    fn asked(&self) -> usize {
        self.fake.asked.lock().unwrap().len()
    }

    /// From now on, the server answers by another script.
    fn follow(&self, script: Script) {
        *self.fake.script.lock().unwrap() = script;
    }
}

fn asks_for(paths: impl Iterator<Item = String>, known: Option<Version>) -> Vec<ReadRequest> {
    paths
        .map(|path| ReadRequest {
            secret: Arc::new(SecretId {
                connection: "default".into(),
                namespace: None,
                path: path.into(),
            }),
            not_before: known.map(|version| version.created),
            may_be_missing: false,
        })
        .collect()
}

/// The address of a server that answers so, and its tasks.
async fn serve(router: Router) -> (String, JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, tasks)
}

/// A poller of a server that answers so, with the tasks of that.
async fn poller_of(router: Router, method: Method, timeout: Duration) -> (Poller, JoinSet<()>) {
    let (address, tasks) = serve(router).await;
    (poller_at(&address, &[], method, timeout, Pace::default()), tasks)
}

/// A poller of a server that may redirect to others.
fn poller_at(
    address: &str,
    redirects: &[&str],
    method: Method,
    timeout: Duration,
    pace: Pace,
) -> Poller {
    let redirects = redirects.iter().map(|address| address.parse().unwrap()).collect();
    poller_with(ServerSettings { timeout, redirects: Some(redirects), ..at(address) }, method, pace)
}

fn at(address: &str) -> ServerSettings {
    let defaults = ServerSettings::at(address.parse().unwrap());
    ServerSettings { redirects: None, timeout: Duration::from_secs(5), ..defaults }
}

fn poller_with(settings: ServerSettings, method: Method, pace: Pace) -> Poller {
    let server = Arc::new(Server::new(settings, Arc::<ServerClock>::default()).unwrap());
    let period = Duration::from_mins(1);
    Poller::new(server, method, period, period, pace, false)
}

async fn answer(State(fake): State<Fake>, request: Request<Body>) -> Response<Body> {
    let path = request.uri().path().trim_start_matches("/v1/").to_owned();
    if path == "auth/token/lookup-self" {
        return lives_for(0, false);
    }
    let number = {
        let mut asked = fake.asked.lock().unwrap();
        asked.push(path.clone());
        asked.len()
    };
    let script = *fake.script.lock().unwrap();
    if let Some(answer) = script(number, &path) {
        return answer;
    }
    if path == "sys/seal-status" {
        return json_of(200, &json!({ "sealed": false }));
    }
    if path.starts_with("sys/internal/ui/mounts/") {
        let data = json!({ "path": "secret/", "type": "kv", "options": { "version": "2" } });
        return json_of(200, &json!({ "data": data }));
    }
    if path.contains("/detailed-metadata/") {
        // As a server answers that has no LIST of them.
        return json_of(404, &json!({ "warnings": ["Invalid path"] }));
    }
    let created = fake.created.lock().unwrap().clone();
    let versions =
        json!({ "1": { "created_time": created, "deletion_time": "", "destroyed": false } });
    json_of(200, &json!({ "data": { "current_version": 1, "versions": versions } }))
}

/// No answer: the connection is closed in its place.
fn closed() -> Response<Body> {
    let broken = futures::stream::once(async { Err::<&str, _>(std::io::Error::other("closed")) });
    Response::new(Body::from_stream(broken))
}

/// What the server says of a path of no mount, or of a mount that the token may not know of.
fn no_mount(path: &str) -> Response<Body> {
    let said = format!(
        "preflight capability check returned 403, please ensure client's policies grant access to \
         path \"{path}/\""
    );
    json_of(403, &json!({ "errors": [said] }))
}

/// What is said of a token that was given.
fn lives_for(ttl: u64, renewable: bool) -> Response<Body> {
    let data = json!({
        "accessor": "", "creation_time": 0, "creation_ttl": 0, "display_name": "", "entity_id": "",
        "explicit_max_ttl": 0, "id": "", "num_uses": 0, "orphan": true, "path": "", "policies": [],
        "ttl": ttl, "renewable": renewable,
    });
    let body = json!({
        "request_id": "", "lease_id": "", "renewable": false, "lease_duration": 0, "data": data,
    });
    json_of(200, &body)
}

fn json_of(status: u16, body: &serde_json::Value) -> Response<Body> {
    Response::builder().status(status).body(Body::from(body.to_string())).unwrap()
}

fn count(polled: &PollResult) -> HashMap<&'static str, usize> {
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
async fn a_good_server_is_asked_once_for_each_secret_and_twice_for_the_mount() {
    let mut bench = Bench::new(|_, _| None).await;
    let polled = bench.poll(20, None).await;
    assert_eq!(count(&polled), HashMap::from([("live", 20)]));
    // What it is, and whether its folders can be listed.
    assert_eq!((bench.asked(), polled.retry_in), (22, None));
    bench.poll(20, None).await;
    assert_eq!(bench.asked(), 20, "the mount is known");
    bench.poller.close().await;
}

/// How many requests were for a path with this in it.
fn count_in(fake: &Fake, part: &str) -> usize {
    fake.asked.lock().unwrap().iter().filter(|path| path.contains(part)).count()
}

#[tokio::test]
async fn mounts_that_do_not_exist_are_asked_for_once_and_all_at_once() {
    let mut bench =
        Bench::new(|_, path| path.contains("/mounts/none").then(|| no_mount(path))).await;
    let of_one = (0..300).map(|number| format!("none/data/{number}"));
    let of_many = (0..300).map(|number| format!("none-{number}/data/a"));
    let paths: Vec<_> = of_one.chain(of_many).chain(["secret/data/a".to_owned()]).collect();
    for questions in [302, 0, 0] {
        let polled = bench.poll_paths(paths.iter().cloned(), None).await;
        assert_eq!(count(&polled), HashMap::from([("live", 1), ("unknown", 600)]));
        assert_eq!(count_in(&bench.fake, "/mounts/"), questions);
        assert_eq!(bench.asked(), questions + 1);
    }
    bench.poller.close().await;
}

#[tokio::test]
async fn a_secret_of_a_child_of_the_vault_namespace_is_read() {
    // As the server tells of it: by its path from the root.
    let mut bench = Bench::new(|_, path| {
        let data = json!({
            "path": "ns1/ns2/secret/", "type": "kv", "options": { "version": "2" },
        });
        path.contains("/mounts/ns2/secret").then(|| json_of(200, &json!({ "data": data })))
    })
    .await;
    let secret = SecretId {
        connection: "default".into(),
        namespace: Some("ns1".into()),
        path: "ns2/secret/data/foo".into(),
    };
    let asks = [ReadRequest { secret: secret.into(), not_before: None, may_be_missing: false }];
    let polled = bench.poller.poll(&asks).await;
    assert_eq!(count(&polled), HashMap::from([("live", 1)]));
    assert_eq!(count_in(&bench.fake, "ns2/secret/metadata/foo"), 1);
    bench.poller.close().await;
}

/// Lines of the log of this thread, for as long as the guard is there.
fn log_lines() -> (Arc<Mutex<Vec<u8>>>, tracing::subscriber::DefaultGuard) {
    #[derive(Clone)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Arc::<Mutex<Vec<u8>>>::default();
    let log = Log(Arc::clone(&lines));
    let subscriber = tracing_subscriber::fmt().with_writer(move || log.clone()).finish();
    (lines, tracing::subscriber::set_default(subscriber))
}

#[tokio::test]
async fn a_poll_says_a_bounded_number_of_things_and_the_next_ones_say_the_rest() {
    let (log, _guard) = log_lines();
    let mut bench = Bench::new(|_, path| {
        let number = path.strip_prefix("secret/metadata/")?.parse::<usize>().ok()?;
        (number < 250).then(|| json_of(404, &json!({ "errors": [] })))
    })
    .await;
    let mut said: HashSet<String> = HashSet::new();
    for (lines, left) in [(100, Some(150)), (100, Some(50)), (50, None), (0, None)] {
        bench.poll(300, None).await;
        let text = String::from_utf8(std::mem::take(&mut *log.lock().unwrap())).unwrap();
        let new: Vec<_> = text.lines().filter(|line| line.contains("not found")).collect();
        assert_eq!(new.len(), lines);
        let path = |line: &&str| line.split("secret/data/").nth(1).map(str::to_owned);
        said.extend(new.iter().filter_map(path));
        let more = left.map(|left| format!("{left} more secrets"));
        let is_said = more.is_none_or(|more| text.contains(&more));
        assert!(is_said && (left.is_some() || !text.contains("more secrets")), "{text}");
    }
    assert_eq!(said.len(), 250);
    bench.poller.close().await;
}

#[tokio::test]
async fn a_mount_that_is_not_to_be_seen_may_not_exist_and_both_are_said() {
    let (log, _guard) = log_lines();
    let mut bench = Bench::new(|_, path| path.contains("/mounts/").then(|| no_mount(path))).await;
    bench.poll_paths(["none/data/a".to_owned()].into_iter(), None).await;
    let text = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    for part in [
        "failed to get secret version: none/data/a: permission denied",
        "preflight capability check",
        "no such mount",
        "path \"none/metadata/a\" { capabilities = [\"read\"] }",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    bench.poller.close().await;
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
async fn whoever_was_late_is_first_in_the_next_poll() {
    // Time for two or three of twenty.
    let pace = Pace {
        interval: Duration::from_millis(50),
        longest_poll: Duration::from_millis(125),
        ..Pace::default()
    };
    let mut bench = Bench::with_pace(|_, _| None, pace).await;
    let mut unseen: HashSet<Arc<SecretId>> = HashSet::new();
    let mut polls = 0;
    loop {
        let polled = bench.poll(20, None).await;
        polls += 1;
        let (seen, late): (Vec<_>, Vec<_>) =
            polled.observations.into_iter().partition(|(_, seen)| *seen != Observation::Unknown);
        if polls == 1 {
            unseen.extend(late.into_iter().map(|(secret, _)| secret));
            assert!(unseen.len() > 9, "{} were late", unseen.len());
        } else {
            let before = unseen.len();
            for (secret, _) in &seen {
                unseen.remove(secret);
            }
            let expected = before.saturating_sub(seen.len());
            assert_eq!(unseen.len(), expected, "others were asked before those that were late");
        }
        if unseen.is_empty() {
            return;
        }
    }
}

#[tokio::test]
async fn whoever_was_late_stays_so_when_a_poll_asks_for_others() {
    let pace = Pace {
        // Long enough for a busy machine to answer one of nine.
        interval: Duration::from_millis(200),
        longest_poll: Duration::from_millis(500),
        ..Pace::default()
    };
    let mut bench = Bench::with_pace(|_, _| None, pace).await;
    let late = bench.poll(9, None).await.late;
    assert!((4..9).contains(&late.len()), "{} were late", late.len());
    bench.poll_paths(["secret/data/other".to_owned()].into_iter(), None).await;
    let polled = bench.poll(9, None).await;
    let seen = polled.observations.iter().filter(|(_, seen)| **seen != Observation::Unknown);
    assert!(seen.map(|(secret, _)| secret).all(|secret| late.contains(secret)));
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
async fn an_answer_has_an_end_however_right_it_is() {
    let mut bench = Bench::new(|_, path| {
        path.contains("/metadata/").then(|| {
            let length = if path.ends_with("/0") { 9 << 20 } else { 7 << 20 };
            let versions = json!({ "1": { "created_time": "2026-11-22T06:00:00Z" } });
            let filler = "x".repeat(length);
            let data = json!({ "current_version": 1, "versions": versions, "filler": filler });
            json_of(200, &json!({ "data": data }))
        })
    })
    .await;
    let polled = bench.poll(3, None).await;
    assert_eq!(count(&polled), HashMap::from([("unknown", 1), ("live", 2)]));
}

#[tokio::test]
async fn a_secret_with_ten_thousand_versions_is_read_as_any_other() {
    const LATEST: u64 = 10_000;
    let mut bench = Bench::new(|_, path| {
        path.ends_with("/metadata/0").then(|| {
            let version = |number: u64| {
                let created = Timestamp::from_second(1_700_000_000 + number.cast_signed()).unwrap();
                let created = created.to_string();
                (
                    number.to_string(),
                    json!({ "created_time": created, "deletion_time": "", "destroyed": false }),
                )
            };
            let versions: serde_json::Map<_, _> = (1..=LATEST).map(version).collect();
            json_of(200, &json!({ "data": { "current_version": LATEST, "versions": versions } }))
        })
    })
    .await;
    let polled = bench.poll(2, None).await;
    let live: HashSet<u64> = polled
        .observations
        .values()
        .filter_map(|observation| match observation {
            Observation::Live(version) => Some(version.number),
            Observation::Gone | Observation::Unknown => None,
        })
        .collect();
    assert_eq!(live, HashSet::from([1, LATEST]));
}

#[tokio::test]
async fn an_answer_that_does_not_end_concerns_one_secret_whenever_it_is_read() {
    let trickle: Script = |_, path| {
        let begin = futures::stream::iter([Ok::<_, std::convert::Infallible>("{")]);
        let body = Body::from_stream(begin.chain(futures::stream::pending()));
        path.ends_with("metadata/1").then(|| Response::new(body))
    };
    // Long enough for a busy machine to answer the others.
    expect_one_unknown(trickle, Duration::from_secs(3), 3).await;
}

#[tokio::test]
async fn an_answer_that_is_cut_concerns_one_secret_whenever_it_is_read() {
    let cut: Script = |_, path| {
        let begin = futures::stream::iter([Ok("{")]);
        // Later than the head of the answer, which would not be sent otherwise.
        let cut = futures::stream::once(async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Err(std::io::Error::other("cut"))
        });
        let body = Body::from_stream(begin.chain(cut));
        path.ends_with("metadata/1").then(|| Response::new(body))
    };
    expect_one_unknown(cut, Duration::from_secs(30), 4).await;
}

/// Polls three secrets again and again: one of them is unknown each time, and the others are not.
async fn expect_one_unknown(script: Script, timeout: Duration, polls: usize) {
    let mut bench = Bench::with_timeout(script, timeout).await;
    for _ in 0..polls {
        let polled = bench.poll(3, None).await;
        assert_eq!(count(&polled), HashMap::from([("live", 2), ("unknown", 1)]));
        assert_eq!(polled.failed.len(), 1, "it is asked for again");
    }
}

#[tokio::test]
async fn paths_of_no_mount_come_after_those_that_can_be_read() {
    let mut bench = Bench::new(|_, path| {
        path.contains("mounts/made-up").then(|| json_of(403, &json!({ "errors": ["no"] })))
    })
    .await;
    bench.poll(2, None).await;
    let made_up = (0..100).map(|number| format!("made-up/{number}"));
    let paths = made_up.chain(["secret/data/0".to_owned(), "secret/data/1".to_owned()]);
    let polled = bench.poll_paths(paths, None).await;
    assert_eq!(count(&polled), HashMap::from([("live", 2), ("unknown", 100)]));
    let asked = bench.fake.asked.lock().unwrap();
    assert!(asked[..2].iter().all(|path| path.contains("metadata")), "{:?}", &asked[..3]);
}

#[tokio::test]
async fn long_answers_take_turns_and_all_are_read() {
    let long: Script = |_, path| {
        let version = json!({ "created_time": "2026-11-22T06:00:00Z" });
        let data = json!({ "current_version": 1, "versions": { "1": version } });
        let answer = json!({ "data": data, "filler": "x".repeat(3 << 20) });
        path.contains("metadata").then(|| json_of(200, &answer))
    };
    let mut bench = Bench::with_timeout(long, Duration::from_secs(30)).await;
    let polled = bench.poll(12, None).await;
    assert_eq!(count(&polled), HashMap::from([("live", 12)]));
}

/// A login by a JWT, and the file of that.
fn jwt() -> (Method, tempfile::NamedTempFile) {
    let jwt = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(jwt.path(), "jwt").unwrap();
    let file = jwt.path().to_owned();
    let source = JwtSource::File(file);
    (Method::Jwt(JwtLogin { mount: "kubernetes".into(), role: "r".into(), source }), jwt)
}

/// The answer to a login.
fn granted(token: &str) -> Response<Body> {
    granted_for(token, 3600)
}

fn granted_for(token: &str, seconds: u64) -> Response<Body> {
    let auth = json!({
        "client_token": token, "accessor": "", "policies": [], "token_policies": [],
        "lease_duration": seconds, "renewable": true, "entity_id": "",
        "token_type": "service", "orphan": true, "metadata": null,
    });
    let body = json!({
        "request_id": "", "lease_id": "", "renewable": false, "lease_duration": 0, "auth": auth,
    });
    json_of(200, &body)
}
