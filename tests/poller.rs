//! The poller against a server that answers by a script: what no real server does at will.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, Request, Response};
use axum::routing::any;
use futures::StreamExt as _;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::json;
use tokio::sync::{Barrier, Notify};
use tokio::task::JoinSet;
use vault_secrets_reloader::decide::clock::ServerClock;
use vault_secrets_reloader::decide::observation::{Observation, PollResult, ReadRequest};
use vault_secrets_reloader::engine::ports::Vault as _;
use vault_secrets_reloader::model::secret::{SecretId, Version};
use vault_secrets_reloader::vault::client::Server;
use vault_secrets_reloader::vault::connection::ServerSettings;
use vault_secrets_reloader::vault::limiter::RateLimit;
use vault_secrets_reloader::vault::login::Method;
use vault_secrets_reloader::vault::login::jwt::{JwtLogin, JwtSource};
use vault_secrets_reloader::vault::pace::Pace;
use vault_secrets_reloader::vault::poller::Poller;

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

/// How many LISTs were asked for.
fn lists(bench: &Bench) -> usize {
    count_in(&bench.fake, "/detailed-metadata/")
}

#[tokio::test]
async fn a_server_that_cannot_list_is_asked_to_once_however_many_folders_there_are() {
    let mut bench = Bench::new(|_, _| None).await;
    let paths = || (0..60).map(|number| format!("secret/data/{}/{number}", number % 20));
    let polled = bench.poll_paths(paths(), None).await;
    assert_eq!(count(&polled), HashMap::from([("live", 60)]));
    assert_eq!((lists(&bench), bench.asked()), (1, 62));
    bench.poll_paths(paths(), None).await;
    assert_eq!((lists(&bench), bench.asked()), (0, 60));
    bench.poller.close().await;
}

/// A page with these keys, of which each is at version 7.
fn page_of(keys: impl Iterator<Item = String>) -> Response<Body> {
    let keys: Vec<String> = keys.collect();
    let versions = json!({ "7": { "created_time": "2026-11-22T06:00:00Z" } });
    let info = json!({ "current_version": 7, "versions": versions });
    let info: HashMap<_, _> = keys.iter().map(|key| (key, &info)).collect();
    json_of(200, &json!({ "data": { "keys": keys, "key_info": info } }))
}

#[tokio::test]
async fn what_goes_first_is_no_secret_that_its_folder_shows() {
    let mut bench = Bench::new(|_, path| {
        let is_list = path == "secret/detailed-metadata/";
        is_list.then(|| page_of((0..3).map(|number| number.to_string())))
    })
    .await;
    let paths = || ["0", "1", "2", "other/3"].into_iter().map(|key| format!("secret/data/{key}"));
    bench.poll_paths(paths(), None).await;
    for _ in 0..5 {
        let polled = bench.poll_paths(paths(), None).await;
        assert_eq!(count(&polled), HashMap::from([("live", 4)]));
        let asked = bench.fake.asked.lock().unwrap().clone();
        assert_eq!(asked, ["secret/metadata/other/3", "secret/detailed-metadata/"]);
    }
    bench.poller.close().await;
}

/// How the script of a server limits the rate of LISTs.
fn limited(path: &str) -> Option<Response<Body>> {
    path.contains("/detailed-metadata/").then(|| {
        let answer = Response::builder().status(429).header("Retry-After", "0");
        answer.body(Body::from(r#"{"errors":[]}"#)).unwrap()
    })
}

#[tokio::test]
async fn a_list_that_stays_limited_is_given_up_and_what_it_holds_read_alone() {
    let mut bench = Bench::new(|_, path| limited(path)).await;
    let paths = || (0..60).map(|number| format!("secret/data/{}/{number}", number % 20));
    let polled = bench.poll_paths(paths(), None).await;
    assert_eq!(count(&polled), HashMap::from([("live", 60)]));
    assert_eq!(lists(&bench), 7, "as often as a GET, and no other folder");
    let polled = bench.poll_paths(paths(), None).await;
    assert_eq!(count(&polled), HashMap::from([("live", 60)]));
    assert_eq!(lists(&bench), 0);
    bench.poller.close().await;
}

#[tokio::test]
async fn a_list_that_is_limited_once_is_asked_for_again_and_not_replaced_by_many_gets() {
    let mut bench = Bench::new(|number, path| {
        if number == 3 {
            return limited(path);
        }
        let is_list = path.contains("/detailed-metadata/");
        is_list.then(|| page_of((0..60).map(|key| key.to_string())))
    })
    .await;
    let paths = || (0..60).map(|number| format!("secret/data/a/{number}"));
    for expected in [4, 2] {
        let polled = bench.poll_paths(paths(), None).await;
        assert_eq!(count(&polled), HashMap::from([("live", 60)]));
        assert_eq!(bench.asked(), expected);
    }
    bench.poller.close().await;
}

#[tokio::test]
async fn a_redirect_is_followed_to_a_server_that_is_configured_and_to_no_other() {
    let token = || Method::Token(SecretString::from("token"));
    let fake = Fake::new(|_, _| None);
    let (node, _tasks) = serve(Router::new().fallback(answer).with_state(fake.clone())).await;
    let (front, _front) = serve_redirects(&node).await;
    let asks = asks_for((0..3).map(|number| format!("secret/data/{number}")), None);
    let timeout = Duration::from_secs(5);

    let mut alone = poller_at(&front, &[], token(), timeout, Pace::default());
    let polled = vault_secrets_reloader::engine::ports::Vault::poll(&mut alone, &asks).await;
    assert_eq!(polled.failed.len(), 3);
    assert!(fake.asked.lock().unwrap().is_empty(), "no token went there");
    let mut poller = poller_at(&front, &[&node], token(), timeout, Pace::default());
    let polled = vault_secrets_reloader::engine::ports::Vault::poll(&mut poller, &asks).await;
    assert_eq!(count(&polled), HashMap::from([("live", 3)]));
    poller.close().await;
}

/// A server that redirects all that it is asked to another.
async fn serve_redirects(target: &str) -> (String, JoinSet<()>) {
    let target = target.to_owned();
    let redirect = any(move |request: Request<Body>| async move {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let answer = Response::builder().status(307).header("location", target + &path);
        answer.body(Body::empty()).unwrap()
    });
    serve(Router::new().fallback(redirect)).await
}

#[tokio::test]
async fn a_login_shows_its_credentials_to_servers_that_are_configured_alone() {
    let shown: Arc<Mutex<Vec<serde_json::Value>>> = Arc::default();
    let login = {
        let shown = Arc::clone(&shown);
        move |body: String| async move {
            shown.lock().unwrap().push(serde_json::from_str(&body).unwrap());
            granted("fresh")
        }
    };
    let revoke = async || Response::builder().status(204).body(Body::empty()).unwrap();
    let router = Router::new()
        .route("/v1/auth/kubernetes/login", any(login))
        .route("/v1/auth/token/revoke-self", any(revoke))
        .fallback(answer)
        .with_state(Fake::new(|_, _| None));
    let (node, _tasks) = serve(router).await;
    let (front, _front) = serve_redirects(&node).await;
    let asks = asks_for((0..3).map(|number| format!("secret/data/{number}")), None);
    let timeout = Duration::from_secs(5);

    let (method, _jwt) = jwt();
    let mut alone = poller_at(&front, &[], method, timeout, Pace::default());
    assert!(alone.poll(&asks).await.observations.is_empty());
    assert!(shown.lock().unwrap().is_empty(), "no JWT went there");
    let (method, _jwt) = jwt();
    let mut poller = poller_at(&front, &[&node], method, timeout, Pace::default());
    assert_eq!(count(&poller.poll(&asks).await), HashMap::from([("live", 3)]));
    assert_eq!(*shown.lock().unwrap(), [json!({ "jwt": "jwt", "role": "r" })]);
    poller.close().await;
}

#[tokio::test]
async fn a_proxy_is_asked_in_place_of_the_server() {
    let fake = Fake::new(|_, _| None);
    let hosts: Arc<Mutex<HashSet<String>>> = Arc::default();
    let requests = {
        let (fake, hosts) = (fake.clone(), Arc::clone(&hosts));
        move |request: Request<Body>| {
            hosts.lock().unwrap().insert(request.uri().to_string());
            answer(State(fake), request)
        }
    };
    let (proxy, _tasks) = serve(Router::new().fallback(requests)).await;
    let proxy = Some(proxy.parse().unwrap());
    let settings = ServerSettings { proxy, ..at("http://vault.invalid:8200") };
    let method = Method::Token(SecretString::from("token"));
    let mut poller = poller_with(settings, method, Pace::default());
    let asks = asks_for((0..3).map(|number| format!("secret/data/{number}")), None);
    assert_eq!(count(&poller.poll(&asks).await), HashMap::from([("live", 3)]));
    let hosts = hosts.lock().unwrap().clone();
    assert!(hosts.iter().all(|url| url.starts_with("http://vault.invalid:8200/v1/")), "{hosts:?}");
    poller.close().await;
}

#[tokio::test]
async fn a_server_out_of_reach_costs_one_attempt_a_poll() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let attempts = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let counter = Arc::clone(&attempts);
    tasks.spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            drop(connection);
        }
    });
    let method = Method::Token(SecretString::from("token"));
    let mut poller = poller_at(&address, &[], method, Duration::from_secs(5), Pace::default());
    // Of several mounts, of which nothing is known yet.
    let asks = asks_for((0..200).map(|number| format!("{}/data/{number}", number % 5)), None);
    for polls in 1..=3 {
        let polled = poller.poll(&asks).await;
        assert_eq!(polled.failed.len(), 200);
        let attempts = attempts.load(Ordering::Relaxed);
        assert!((1..=polls).contains(&attempts), "{attempts} attempts in {polls} polls");
    }
}

#[tokio::test]
async fn a_path_whose_requests_end_without_an_answer_is_no_outage_and_comes_last() {
    let broken: Script = |_, path| path.contains("share$$").then(closed);
    // Where all others are listed, it is the one that would be asked for alone, before all else.
    let listed: Script = |_, path| match path {
        "secret/detailed-metadata/" => Some(page_of((0..40).map(|key| key.to_string()))),
        _ => path.contains("share$$").then(closed),
    };
    for script in [broken, listed] {
        let mut bench = Bench::new(script).await;
        for polls in 0..6 {
            let others = (0..40).map(|number| format!("secret/data/{number}"));
            let paths = others.chain(["secret/data/share$$/app".to_owned()]);
            let polled = bench.poll_paths(paths, None).await;
            assert_eq!(count(&polled), HashMap::from([("live", 40), ("unknown", 1)]));
            assert_eq!(polled.failed.len(), 1, "it is asked for again");
            let asked = bench.fake.asked.lock().unwrap();
            let reads: Vec<_> = asked.iter().filter(|path| !path.starts_with("sys/")).collect();
            let at = reads.iter().position(|path| path.contains("share$$")).unwrap();
            // Eight are under way at once, and one is asked for once more, for comparison.
            assert!(polls == 0 || at + 9 >= reads.len(), "{at} of {}", reads.len());
        }
        bench.poller.close().await;
    }
}

#[tokio::test]
async fn a_list_whose_requests_end_without_an_answer_is_no_outage() {
    // As OpenBao 2.2 does for a folder with folders in it.
    let mut bench = Bench::new(|_, path| path.contains("/detailed-metadata/").then(closed)).await;
    for _ in 0..4 {
        let paths = (0..40).map(|number| format!("secret/data/{}/{number}", number % 4));
        let polled = bench.poll_paths(paths, None).await;
        assert_eq!(count(&polled), HashMap::from([("live", 40)]));
    }
    bench.poller.close().await;
}

#[tokio::test]
async fn whatever_one_path_is_answered_says_nothing_of_the_others() {
    let scripts: [Script; 4] = [
        |_, path| path.ends_with("/odd").then(|| json_of(503, &json!({ "errors": ["no"] }))),
        |_, path| {
            let denied = json!({ "errors": ["permission denied"] });
            path.ends_with("/odd").then(|| json_of(403, &denied))
        },
        |_, path| {
            let elsewhere =
                Response::builder().status(301).header("location", "http://elsewhere.invalid/");
            path.ends_with("/odd").then(|| elsewhere.body(Body::empty()).unwrap())
        },
        |_, path| path.ends_with("/odd").then(|| json_of(500, &json!({ "errors": ["no"] }))),
    ];
    for (number, script) in scripts.into_iter().enumerate() {
        let mut bench = Bench::new(script).await;
        let paths = || (0..9).map(|n| format!("secret/data/{n}"));
        let all = || paths().chain(["secret/data/x/odd".to_owned()]);
        bench.poll_paths(all(), None).await;
        for _ in 0..4 {
            let polled = bench.poll_paths(all(), None).await;
            let expected = HashMap::from([("live", 9), ("unknown", 1)]);
            assert_eq!(count(&polled), expected, "script {number}");
        }
    }
}

#[tokio::test]
async fn a_server_that_goes_away_costs_a_few_requests_a_poll_whatever_of_it_still_answers() {
    let dead: Script = |_, _| Some(closed());
    let without_reads: Script = |_, path| path.contains("metadata/").then(closed);
    let failing: Script =
        |_, path| path.contains("metadata/").then(|| json_of(500, &json!({ "errors": ["boom"] })));
    for (script, first, then) in [(dead, 2, 3), (without_reads, 40, 40), (failing, 70, 70)] {
        // A server that has never answered, and one that did.
        let mut bench = Bench::new(script).await;
        for knows in [false, true] {
            if knows {
                bench.follow(|_, _| None);
                assert_eq!(count(&bench.poll(500, None).await), HashMap::from([("live", 500)]));
                bench.follow(script);
            }
            for _ in 0..3 {
                let polled = bench.poll(500, None).await;
                assert_eq!(polled.failed.len(), 500);
                let most = if knows { then } else { first };
                assert!(bench.asked() <= most, "{} requests, {knows}", bench.asked());
            }
        }
    }
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
async fn a_sealed_server_costs_one_request_a_poll_however_many_vault_namespaces_there_are() {
    let mut bench = Bench::new(|_, path| match path {
        "sys/seal-status" => Some(json_of(200, &json!({ "sealed": true }))),
        _ => Some(json_of(503, &json!({ "errors": ["Vault is sealed"] }))),
    })
    .await;
    let asks: Vec<ReadRequest> = (0..12)
        .map(|number| {
            let namespace = Some(Arc::from(format!("team-{}", number % 4)));
            let path = format!("secret/data/{number}").into();
            let secret = SecretId { connection: "default".into(), namespace, path };
            ReadRequest { secret: secret.into(), not_before: None, may_be_missing: false }
        })
        .collect();
    for requests in [2, 1, 1] {
        bench.fake.asked.lock().unwrap().clear();
        let polled = bench.poller.poll(&asks).await;
        assert_eq!((polled.failed.len(), bench.asked()), (12, requests));
    }
    bench.poller.close().await;
}

#[tokio::test]
async fn a_poll_that_is_spread_lists_first_and_goes_on_where_it_stopped() {
    // A folder with three keys, of which one may be read alone, and three secrets of others.
    let lists: Script = |_, path| {
        let is_list = path == "secret/detailed-metadata/all/";
        is_list.then(|| page_of(["a", "b", "c"].map(str::to_owned).into_iter()))
    };
    let pace =
        Pace { is_spread: true, longest_poll: Duration::from_millis(1500), ..Pace::default() };
    let fake = Fake::new(lists);
    let (address, _tasks) = serve(Router::new().fallback(answer).with_state(fake.clone())).await;
    let server = Arc::new(Server::new(at(&address), Arc::<ServerClock>::default()).unwrap());
    let method = Method::Token(SecretString::from("token"));
    // A minute for six: one each 8 seconds.
    let period = Duration::from_mins(1);
    let mut poller = Poller::new(server, method, period, period, pace, false);
    let paths = ["all/a", "all/b", "all/c", "x/1", "y/2", "z/3"];
    let asks = asks_for(paths.iter().map(|path| format!("secret/data/{path}")), None);
    let polled = poller.poll(&asks).await;
    let lists = count_in(&fake, "/detailed-metadata/all/");
    assert_eq!((lists, count_in(&fake, "secret/metadata/")), (1, 1));
    assert_eq!(polled.failed.len() + count(&polled)["live"], 6);
    // What follows at once waits for the turn that the first left open.
    let (left, had): (Vec<_>, Vec<_>) =
        asks.into_iter().partition(|ask| polled.failed.contains(&ask.secret));
    fake.asked.lock().unwrap().clear();
    let polled = poller.poll(&left).await;
    assert_eq!(polled.failed.len(), left.len());
    assert!(fake.asked.lock().unwrap().iter().all(|path| !path.contains("secret/metadata/")));
    // Whoever was answered and is asked for again does not wait, whether alone or in a folder.
    let polled = poller.poll(&had).await;
    assert_eq!(count(&polled), HashMap::from([("live", had.len())]));
    // The next poll of everything does not wait for the end of this round, folders least of all.
    poller.rest().await;
    fake.asked.lock().unwrap().clear();
    poller.poll(&had).await;
    assert_eq!(count_in(&fake, "/detailed-metadata/all/"), 1);
    poller.close().await;
}

#[tokio::test]
async fn a_token_that_ended_is_not_used_while_there_is_no_other_and_that_is_said() {
    let logins = Arc::new(AtomicUsize::new(0));
    let login = {
        let logins = Arc::clone(&logins);
        move || async move {
            match logins.fetch_add(1, Ordering::Relaxed) {
                0 => granted("first"),
                _ => json_of(403, &json!({ "errors": ["the role is no more"] })),
            }
        }
    };
    let reads = Arc::new(AtomicUsize::new(0));
    let read = {
        let reads = Arc::clone(&reads);
        move || async move {
            reads.fetch_add(1, Ordering::Relaxed);
            json_of(403, &json!({ "errors": ["permission denied"] }))
        }
    };
    let router = Router::new().route("/v1/auth/kubernetes/login", any(login)).fallback(read);
    let (method, _jwt) = jwt();
    let (mut poller, _tasks) = poller_of(router, method, Duration::from_secs(5)).await;
    let asks = asks_for((0..5).map(|number| format!("secret/data/{number}")), None);
    poller.poll(&asks).await;
    assert_eq!(logins.load(Ordering::Relaxed), 2);
    // One read, sent again while the token was so new that a standby need not have known it.
    let denied = reads.load(Ordering::Relaxed);
    assert!((2..=6).contains(&denied), "{denied}");
    // The next login waits for its turn, and no read is sent meanwhile.
    let polled = poller.poll(&asks).await;
    assert_eq!(polled.failed.len(), 5);
    assert_eq!(reads.load(Ordering::Relaxed), denied);
    poller.close().await;
}

#[tokio::test]
async fn a_standby_that_does_not_know_a_new_token_yet_costs_no_login() {
    let (logins, reads) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let login = {
        let logins = Arc::clone(&logins);
        move || async move { granted(&format!("token-{}", logins.fetch_add(1, Ordering::Relaxed) + 1)) }
    };
    let fake = Fake::new(|_, _| None);
    let read = {
        let reads = Arc::clone(&reads);
        move |request: Request<Body>| {
            let (fake, number) = (fake.clone(), reads.fetch_add(1, Ordering::Relaxed));
            async move {
                if number < 2 {
                    return json_of(403, &json!({ "errors": ["permission denied"] }));
                }
                answer(State(fake), request).await
            }
        }
    };
    let router = Router::new().route("/v1/auth/kubernetes/login", any(login)).fallback(read);
    let (method, _jwt) = jwt();
    let (mut poller, _tasks) = poller_of(router, method, Duration::from_secs(5)).await;
    let asks = asks_for((0..5).map(|number| format!("secret/data/{number}")), None);
    let polled = poller.poll(&asks).await;
    assert_eq!(count(&polled), HashMap::from([("live", 5)]));
    assert_eq!(logins.load(Ordering::Relaxed), 1);
    poller.close().await;
}

/// A poller of a server that behaves in this way, with a token that is to be renewed before each poll, but
/// for those that follow at once.
struct Renewing {
    poller: Poller,
    asks: Vec<ReadRequest>,
    period: Duration,
    is_sealed: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    _jwt: tempfile::NamedTempFile,
    _tasks: JoinSet<()>,
}

impl Renewing {
    /// Once it `is_sealed`, the server fails where this says so.
    async fn new(fails: fn(&str) -> bool) -> Self {
        let is_sealed = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicUsize::new(0));
        let requests = {
            let (fake, is_sealed) = (Fake::new(|_, _| None), Arc::clone(&is_sealed));
            let asked = Arc::clone(&asked);
            move |request: Request<Body>| {
                let (fake, is_sealed) = (fake.clone(), is_sealed.load(Ordering::Relaxed));
                asked.fetch_add(1, Ordering::Relaxed);
                async move {
                    match request.uri().path() {
                        path if is_sealed && fails(path) => {
                            json_of(503, &json!({ "errors": ["Vault is sealed"] }))
                        }
                        "/v1/auth/kubernetes/login" => granted("token"),
                        _ => answer(State(fake), request).await,
                    }
                }
            }
        };
        let (address, tasks) = serve(Router::new().fallback(requests)).await;
        let server = Arc::new(Server::new(at(&address), Arc::<ServerClock>::default()).unwrap());
        let (method, jwt) = jwt();
        let (threshold, period) = (Duration::from_hours(2), Duration::from_millis(20));
        let poller = Poller::new(server, method, threshold, period, Pace::default(), false);
        let asks = asks_for((0..5).map(|number| format!("secret/data/{number}")), None);
        Self { poller, asks, period, is_sealed, asked, _jwt: jwt, _tasks: tasks }
    }

    /// A poll a period after the last, and how many requests it took.
    async fn poll(&mut self) -> (PollResult, usize) {
        tokio::time::sleep(self.period).await;
        self.asked.store(0, Ordering::Relaxed);
        let polled = self.poller.poll(&self.asks).await;
        (polled, self.asked.load(Ordering::Relaxed))
    }
}

#[tokio::test]
async fn a_sealed_server_costs_one_request_a_poll_though_the_token_is_to_be_renewed() {
    let mut bench = Renewing::new(|_| true).await;
    bench.poll().await;
    bench.is_sealed.store(true, Ordering::Relaxed);
    // The first finds out: it renews, it reads, since reads may work where renewals do not, and it compares
    // that with another read and with the status of the server.
    for requests in [4, 1, 1] {
        let (polled, asked) = bench.poll().await;
        assert_eq!((polled.failed.len(), asked), (5, requests));
    }
    bench.is_sealed.store(false, Ordering::Relaxed);
    let (polled, _) = bench.poll().await;
    assert_eq!(count(&polled), HashMap::from([("live", 5)]));
}

#[tokio::test]
async fn secrets_are_read_where_nothing_but_the_renewal_of_the_token_fails() {
    let mut bench = Renewing::new(|path| path.starts_with("/v1/auth/")).await;
    bench.poll().await;
    bench.is_sealed.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let (polled, asked) = bench.poll().await;
        assert_eq!((count(&polled), asked), (HashMap::from([("live", 5)]), 6));
    }
}

#[tokio::test]
async fn a_given_token_that_would_end_while_the_server_wants_to_be_left_alone_is_renewed() {
    let lookup = || async { lives_for(2, true) };
    let renewals = Arc::new(AtomicUsize::new(0));
    let renew = {
        let renewals = Arc::clone(&renewals);
        move || async move {
            renewals.fetch_add(1, Ordering::Relaxed);
            granted("given")
        }
    };
    let limited = || async {
        let answer = Response::builder().status(429).header("Retry-After", "60");
        answer.body(Body::from(r#"{"errors":[]}"#)).unwrap()
    };
    let router = Router::new()
        .route("/v1/auth/token/lookup-self", any(lookup))
        .route("/v1/auth/token/renew-self", any(renew))
        .fallback(limited);
    let (address, _tasks) = serve(router).await;
    let server = Arc::new(Server::new(at(&address), Arc::<ServerClock>::default()).unwrap());
    let method = Method::Token(SecretString::from("given"));
    let pace = Pace { longest_poll: Duration::from_millis(200), ..Pace::default() };
    let (threshold, period) = (Duration::from_secs(10), Duration::from_mins(1));
    let mut poller = Poller::new(server, method, threshold, period, pace, false);
    let asks = asks_for(["secret/data/a".to_owned()].into_iter(), None);
    poller.poll(&asks).await;
    assert_eq!(renewals.load(Ordering::Relaxed), 0);
    keep_alive_for(Duration::from_secs(2), &poller).await;
    assert_eq!(poller.poll(&asks).await.failed.len(), 1);
    assert_eq!(renewals.load(Ordering::Relaxed), 1, "once, and then it lives for long enough");
}

/// What goes on between polls.
async fn keep_alive_for(time: Duration, poller: &Poller) {
    let forever = tokio::time::timeout(time, poller.keep_alive()).await;
    assert!(forever.is_err());
}

/// A server with one token, which ends unless it is renewed, and how often it was.
async fn server_of_a_token(lives: Duration) -> (Poller, Arc<AtomicUsize>, JoinSet<()>) {
    let ends = Arc::new(Mutex::new(Instant::now() + lives));
    let renewals = Arc::new(AtomicUsize::new(0));
    let requests = {
        let (fake, renewals) = (Fake::new(|_, _| None), Arc::clone(&renewals));
        move |request: Request<Body>| {
            let (fake, renewals, ends) = (fake.clone(), Arc::clone(&renewals), Arc::clone(&ends));
            async move {
                if *ends.lock().unwrap() < Instant::now() {
                    return json_of(
                        403,
                        &json!({ "errors": ["permission denied", "invalid token"] }),
                    );
                }
                match request.uri().path() {
                    "/v1/auth/token/lookup-self" => lives_for(lives.as_secs(), true),
                    "/v1/auth/token/renew-self" => {
                        renewals.fetch_add(1, Ordering::Relaxed);
                        *ends.lock().unwrap() = Instant::now() + lives;
                        granted_for("given", lives.as_secs())
                    }
                    _ => answer(State(fake), request).await,
                }
            }
        }
    };
    let (address, tasks) = serve(Router::new().fallback(requests)).await;
    let server = Arc::new(Server::new(at(&address), Arc::<ServerClock>::default()).unwrap());
    let method = Method::Token(SecretString::from("given"));
    let (threshold, period) = (Duration::from_hours(3), Duration::from_hours(1));
    let poller = Poller::new(server, method, threshold, period, Pace::default(), false);
    (poller, renewals, tasks)
}

#[tokio::test]
async fn a_given_token_that_is_shorter_than_the_period_is_kept_alive_between_polls() {
    let (mut poller, renewals, _tasks) = server_of_a_token(Duration::from_secs(2)).await;
    let asks = asks_for(["secret/data/a".to_owned()].into_iter(), None);
    assert_eq!(count(&poller.poll(&asks).await), HashMap::from([("live", 1)]));
    keep_alive_for(Duration::from_millis(3500), &poller).await;
    assert_eq!(count(&poller.poll(&asks).await), HashMap::from([("live", 1)]));
    let renewed = renewals.load(Ordering::Relaxed);
    assert!((2..=3).contains(&renewed), "{renewed} times");
    // Whoever does not lead any more asks nothing.
    poller.close().await;
    keep_alive_for(Duration::from_secs(2), &poller).await;
    assert_eq!(renewals.load(Ordering::Relaxed), renewed);
}

#[tokio::test]
async fn a_given_token_is_kept_alive_while_no_workload_refers_to_a_secret() {
    let (mut poller, _renewals, _tasks) = server_of_a_token(Duration::from_secs(2)).await;
    assert_eq!(poller.poll(&[]).await.failed.len(), 0);
    keep_alive_for(Duration::from_millis(3500), &poller).await;
    let asks = asks_for(["secret/data/a".to_owned()].into_iter(), None);
    assert_eq!(count(&poller.poll(&asks).await), HashMap::from([("live", 1)]));
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_given_token_that_ends_before_the_next_poll_and_cannot_be_renewed_is_said_once() {
    async fn warnings(
        lookup: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static,
    ) -> usize {
        let kept = Kept::default();
        let writer = kept.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(log);
        let router = Router::new()
            .route("/v1/auth/token/lookup-self", any(async move || lookup()))
            .fallback(answer)
            .with_state(Fake::new(|_, _| None));
        let method = Method::Token(SecretString::from("given"));
        // It polls once a minute.
        let (mut poller, _tasks) = poller_of(router, method, Duration::from_secs(5)).await;
        for _ in 0..2 {
            assert_eq!(
                count(
                    &poller.poll(&asks_for(["secret/data/a".to_owned()].into_iter(), None)).await
                ),
                HashMap::from([("live", 1)])
            );
        }
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        text.matches("The given token ends in").count()
    }
    assert_eq!(warnings(|| lives_for(50, false)).await, 1);
    assert_eq!(warnings(|| lives_for(50, true)).await, 0);
    assert_eq!(warnings(|| lives_for(500, false)).await, 0);
    assert_eq!(warnings(|| lives_for(0, false)).await, 0);
}

#[tokio::test]
async fn a_rate_that_is_set_is_not_exceeded() {
    let pace = Pace { interval: Duration::from_millis(20), ..Pace::default() };
    let mut bench = Bench::with_pace(|_, _| None, pace).await;
    let began = Instant::now();
    let polled = bench.poll(20, None).await;
    assert_eq!(count(&polled), HashMap::from([("live", 20)]));
    // Of 22 requests, all but the first waited for their turn.
    assert!(began.elapsed() >= pace.interval * 21, "{:?}", began.elapsed());
    bench.poller.close().await;
}

/// Polls three secrets of a server that answers so, and returns how often the second one was asked for.
async fn attempts(script: Script, retries: u32) -> usize {
    let fake = Fake::new(script);
    let (address, _tasks) = serve(Router::new().fallback(answer).with_state(fake.clone())).await;
    let settings = ServerSettings { retries, ..at(&address) };
    let mut poller =
        poller_with(settings, Method::Token(SecretString::from("token")), Pace::default());
    let asks = asks_for((0..3).map(|number| format!("secret/data/{number}")), None);
    let polled = poller.poll(&asks).await;
    assert_eq!(count(&polled), HashMap::from([("live", 2), ("unknown", 1)]));
    poller.close().await;
    let asked = fake.asked.lock().unwrap();
    asked.iter().filter(|path| path.ends_with("/metadata/1")).count()
}

#[tokio::test]
async fn a_request_that_fails_is_sent_again_as_often_as_is_set() {
    let boom: Script = |_, path| {
        path.ends_with("/metadata/1").then(|| json_of(500, &json!({ "errors": ["boom"] })))
    };
    for retries in [0, 1, 2, 4] {
        assert_eq!(attempts(boom, retries).await, retries as usize + 1, "{retries} retries");
    }
    let limited: Script = |_, path| {
        path.ends_with("/metadata/1").then(|| json_of(429, &json!({ "errors": ["slowly"] })))
    };
    assert_eq!(attempts(limited, 0).await, 1);
}

#[tokio::test]
async fn a_rate_limit_of_the_server_holds_after_a_burst() {
    let fake = Fake::new(|_, _| None);
    let (address, _tasks) = serve(Router::new().fallback(answer).with_state(fake.clone())).await;
    let limit = RateLimit { interval: Duration::from_millis(20), burst: 5 };
    let settings = ServerSettings { rate: Some(limit), ..at(&address) };
    let mut poller =
        poller_with(settings, Method::Token(SecretString::from("token")), Pace::default());
    let asks = asks_for((0..20).map(|number| format!("secret/data/{number}")), None);
    let began = Instant::now();
    assert_eq!(count(&poller.poll(&asks).await), HashMap::from([("live", 20)]));
    // Of 22 requests of the poll, all but the burst waited for their turn.
    assert!(began.elapsed() >= limit.interval * 17, "{:?}", began.elapsed());
    poller.close().await;
}

#[tokio::test]
async fn a_short_page_is_not_the_end_and_what_no_page_shows_is_read_alone() {
    let mut bench = Bench::new(|number, path| {
        if !path.contains("/detailed-metadata/") {
            return None;
        }
        // After the mount and the first secret.
        let keys = match number {
            3 => &["00", "01"][..],
            4 => &["02", "03", "04"],
            _ => return Some(json_of(404, &json!({ "errors": [] }))),
        };
        Some(page_of(keys.iter().map(|key| (*key).to_owned())))
    })
    .await;
    let polled = bench.poll_paths((0..10).map(|n| format!("secret/data/{n:02}")), None).await;
    assert_eq!(count(&polled), HashMap::from([("live", 10)]));
    assert_eq!(lists(&bench), 3);
    let listed = polled
        .observations
        .values()
        .filter(|observation| matches!(observation, Observation::Live(Version { number: 7, .. })));
    // The first secret, whichever it is, is read alone.
    assert!((4..=5).contains(&listed.count()));
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
    assert_eq!(bench.asked(), 53, "one was asked again");
}

#[tokio::test]
async fn a_server_that_is_out_of_service_is_left_alone_for_as_long_as_it_says() {
    let mut bench = Bench::new(|number, path| {
        (number == 1 && path.contains("metadata/")).then(|| {
            let answer = Response::builder().status(503).header("Retry-After", "1");
            answer.body(Body::from(r#"{"errors":[]}"#)).unwrap()
        })
    })
    .await;
    bench.poll(9, None).await;
    let began = Instant::now();
    let polled = bench.poll(9, None).await;
    assert_eq!((count(&polled), bench.asked()), (HashMap::from([("unknown", 9)]), 1));
    // Neither the next poll asks, nor the one after it.
    let mut polls = 0;
    loop {
        let polled = bench.poll(9, None).await;
        if bench.asked() > 0 {
            break;
        }
        assert_eq!((polled.failed.len(), polled.observations.len()), (9, 0));
        let wait = polled.retry_in.unwrap();
        assert!(wait <= Duration::from_millis(1200), "{wait:?}");
        tokio::time::sleep(wait / 2).await;
        polls += 1;
    }
    assert!(polls > 1 && began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_limit_that_lasts_leaves_secrets_for_the_next_poll_and_is_an_outage() {
    let pace = Pace { longest_poll: Duration::from_millis(300), ..Pace::default() };
    let mut bench = Bench::with_pace(
        |_, path| {
            path.contains("metadata/").then(|| {
                let answer = Response::builder().status(429).header("Retry-After", "60");
                answer.body(Body::from(r#"{"errors":[]}"#)).unwrap()
            })
        },
        pace,
    )
    .await;
    let polled = bench.poll(9, None).await;
    assert_eq!(count(&polled), HashMap::from([("unknown", 9)]));
    assert_eq!((polled.failed.len(), bench.asked()), (9, 2), "what the mount is, and one secret");
    let polled = bench.poll(9, None).await;
    assert_eq!((polled.failed.len(), bench.asked()), (9, 0));
    let wait = polled.retry_in.unwrap();
    // With a random part of up to a fifth.
    assert!((50..=72).contains(&wait.as_secs()), "{wait:?}");
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

#[tokio::test]
async fn a_login_that_a_poll_leaves_behind_is_waited_for_and_its_token_revoked() {
    let (arrived, released) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let revoked: Arc<Mutex<Vec<String>>> = Arc::default();
    let login = {
        let (arrived, released) = (Arc::clone(&arrived), Arc::clone(&released));
        move || async move {
            arrived.notify_one();
            released.notified().await;
            granted("fresh")
        }
    };
    let revoke = {
        let revoked = Arc::clone(&revoked);
        move |headers: HeaderMap| async move {
            let token = headers["x-vault-token"].to_str().unwrap().to_owned();
            revoked.lock().unwrap().push(token);
            Response::builder().status(204).body(Body::empty()).unwrap()
        }
    };
    let router = Router::new()
        .route("/v1/auth/kubernetes/login", any(login))
        .route("/v1/auth/token/revoke-self", any(revoke));
    let (method, _jwt) = jwt();
    let (mut poller, _tasks) = poller_of(router, method, Duration::from_secs(5)).await;

    let asks = asks_for(["secret/data/a".to_owned()].into_iter(), None);
    tokio::select! {
        _ = poller.poll(&asks) => panic!("the login has not been answered"),
        () = arrived.notified() => {}
    }
    released.notify_one();
    poller.close().await;
    assert_eq!(*revoked.lock().unwrap(), ["fresh"]);
}

#[tokio::test]
async fn requests_in_flight_that_are_all_denied_are_one_login() {
    let logins = Arc::new(AtomicUsize::new(0));
    let login = {
        let logins = Arc::clone(&logins);
        move || async move { granted(&format!("token-{}", logins.fetch_add(1, Ordering::Relaxed) + 1)) }
    };
    // All that are under way wait for each other, behind the first, which is sent alone.
    let (fake, all) = (Fake::new(|_, _| None), Arc::new(Barrier::new(Pace::default().at_once)));
    let first = Arc::new(AtomicBool::new(true));
    let secrets = move |headers: HeaderMap, request: Request<Body>| {
        let (fake, all, first) = (fake.clone(), Arc::clone(&all), Arc::clone(&first));
        async move {
            let is_secret = request.uri().path().contains("/secret/metadata/");
            let is_ended = headers["x-vault-token"] == "token-1";
            if is_secret && is_ended && !first.swap(false, Ordering::Relaxed) {
                all.wait().await;
                return json_of(403, &json!({ "errors": ["permission denied"] }));
            }
            answer(State(fake), request).await
        }
    };
    let revoke = async || Response::builder().status(204).body(Body::empty()).unwrap();
    let router = Router::new()
        .route("/v1/auth/kubernetes/login", any(login))
        .route("/v1/auth/token/revoke-self", any(revoke))
        .fallback(secrets);
    let (method, _jwt) = jwt();
    let (mut poller, _tasks) = poller_of(router, method, Duration::from_secs(5)).await;
    let asks = asks_for((0..50).map(|number| format!("secret/data/{number}")), None);
    let polled = vault_secrets_reloader::engine::ports::Vault::poll(&mut poller, &asks).await;
    assert_eq!(count(&polled), HashMap::from([("live", 50)]));
    assert_eq!(logins.load(Ordering::Relaxed), 2);
    poller.close().await;
}

#[tokio::test]
async fn no_more_requests_are_under_way_at_once_than_may_be_on_connections_that_are_reused() {
    let (fake, under_way) = (Fake::new(|_, _| None), Arc::new(AtomicUsize::new(0)));
    let most = Arc::new(AtomicUsize::new(0));
    let most_about_mounts = Arc::new(AtomicUsize::new(0));
    let connections: Arc<Mutex<HashSet<SocketAddr>>> = Arc::default();
    let secrets = {
        let (most, connections) = (Arc::clone(&most), Arc::clone(&connections));
        let most_about_mounts = Arc::clone(&most_about_mounts);
        move |ConnectInfo(from): ConnectInfo<SocketAddr>, request: Request<Body>| {
            let (fake, under_way, most) = (fake.clone(), Arc::clone(&under_way), Arc::clone(&most));
            connections.lock().unwrap().insert(from);
            let is_about_mounts = request.uri().path().contains("/mounts/");
            let most = if is_about_mounts { Arc::clone(&most_about_mounts) } else { most };
            async move {
                most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Long enough for all others that may come to be here as well.
                for _ in 0..200 {
                    tokio::task::yield_now().await;
                }
                under_way.fetch_sub(1, Ordering::SeqCst);
                answer(State(fake), request).await
            }
        }
    };
    let service =
        Router::new().fallback(secrets).into_make_service_with_connect_info::<SocketAddr>();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, service).await.unwrap() });
    let pace = Pace { at_once: 3, ..Pace::default() };
    let method = Method::Token(SecretString::from("token"));
    let mut poller = poller_at(&address, &[], method, Duration::from_secs(5), pace);
    for _ in 0..3 {
        let paths = (0..60).map(|number| format!("secret/data/{number}"));
        let asks =
            asks_for(paths.chain((0..30).map(|number| format!("none-{number}/data/a"))), None);
        let polled = vault_secrets_reloader::engine::ports::Vault::poll(&mut poller, &asks).await;
        assert_eq!(count(&polled), HashMap::from([("live", 60), ("unknown", 30)]));
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert_eq!(most_about_mounts.load(Ordering::SeqCst), 3);
    assert_eq!(connections.lock().unwrap().len(), 3);
    poller.close().await;
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
