use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, HOST, RETRY_AFTER, WWW_AUTHENTICATE};
use futures::future::{BoxFuture, FutureExt as _};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use super::*;
use crate::decide::observation::Observation;
use crate::decide::plan::{Action, Decision};
use crate::election::leadership::{Candidate, Claim, election_channel};
use crate::events::event::Event;
use crate::events::sink::Sink as _;
use crate::index::Index;
use crate::index::entries::IndexedWorkload;
use crate::model::annotation::OptIn;
use crate::model::fixtures::version;
use crate::model::progress::RolloutStatus;
use crate::references::environment::{Container, EnvValue, EnvVar};
use crate::references::manifest::Manifest;
use crate::status::api::{Failure, Overview, Rotation, Workload, WorkloadStatus};
use crate::status::board::Board;
use crate::status::ports::{Callers, LeaderPodError, LeaderPods, Review, ReviewError};

/// An API with its index and board, whose replica leads.
struct Bench {
    api: Api,
    candidate: Candidate,
}

impl Bench {
    fn new() -> Self {
        let index = Arc::new(Index::default());
        let now = || Timestamp::UNIX_EPOCH;
        let board = Arc::new(Board::new(Arc::clone(&index), now));
        let sources = Sources {
            index,
            board,
            clock: Arc::default(),
            now,
            injector: Arc::default(),
            rollout_timeout: Duration::from_mins(10),
            servers: ["default".into()].into(),
            replica: "a".into(),
        };
        let (candidate, leadership) = election_channel();
        candidate.say(Claim::Always);
        let led = Arc::new(OnceLock::new());
        assert!(led.set(leadership).is_ok());
        let standby = Standby::new("a".to_owned(), "v".to_owned(), 9180);
        Self { api: Api::new(sources, led, Access::of_this_machine(), standby), candidate }
    }

    /// Returns the API with Deployments `web-0`, `web-1` and so on, which all refer to the secret
    /// `secret/data/a`. Each was decided about, and has its version.
    fn with_workloads(count: usize) -> Self {
        let bench = Self::new();
        let Sources { index, board, .. } = &bench.api.sources;
        for kind in Kind::ALL {
            index.begin_list(kind);
            index.end_list(kind);
        }
        for number in 0..count {
            index.apply(manifest(&format!("web-{number}")), Kind::DEPLOYMENT);
        }
        let snapshot = index.begin_poll("default");
        for stored in &snapshot.workloads {
            for secret in stored.workload.watched() {
                let (observation, poll) = (Observation::Live(version(2, 9)), snapshot.poll);
                board.on(&Event::Observed { secret, observation, poll });
            }
        }
        for stored in &snapshot.workloads {
            bench.decide(stored, snapshot.poll, |_| ());
        }
        bench
    }

    fn decide(&self, decided: &IndexedWorkload, poll: u64, change: impl Fn(&mut Decision)) {
        let mut decision = Decision::of(Action::Leave);
        change(&mut decision);
        self.api.sources.board.on(&Event::Decided { decided, poll, decision: &decision });
    }

    async fn get(&self, path: &str) -> (u16, Vec<u8>) {
        self.send(Request::get(path).header(HOST, "127.0.0.1:9180")).await
    }

    async fn send(&self, request: axum::http::request::Builder) -> (u16, Vec<u8>) {
        let request = request.body(Body::empty()).unwrap();
        let answer = router(self.api.clone()).oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        (status, axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap().to_vec())
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    /// Returns status, code and message of an answer to a request that is refused.
    async fn refused(&self, path: &str) -> (u16, String, String) {
        let (status, body) = self.get(path).await;
        let Failure { code, message } = serde_json::from_slice(&body).unwrap();
        (status, code, message)
    }
}

fn manifest(name: &str) -> Manifest {
    let mut manifest = Manifest {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        resource_version: "1".to_owned(),
        ..Manifest::default()
    };
    manifest.annotations.push(OptIn::Current.key().to_owned(), "true".to_owned());
    let value = EnvValue::Literal("vault:secret/data/a#k".to_owned());
    let variables = vec![EnvVar { name: "A".to_owned(), value }];
    manifest.containers.push(Container { variables, ..Container::default() });
    manifest.status =
        RolloutStatus { replicas: 1, updated: 1, ready: 1, available: 1, ..manifest.status };
    manifest
}

#[tokio::test]
async fn each_path_answers() {
    let bench = Bench::with_workloads(3);
    let overview: Overview = bench.read("/v1/overview").await;
    assert_eq!((overview.leader.as_str(), overview.rotations["complete"]), ("a", 1));
    assert_eq!(overview.workloads_by_kind["Deployment"], 3);
    assert_eq!((overview.servers[0].name.as_str(), overview.servers[0].secrets), ("default", 1));
    let rotations: Page<Rotation> = bench.read("/v1/rotations").await;
    assert_eq!((rotations.total, rotations.items[0].state.as_str()), (1, "complete"));
    assert_eq!(rotations.items[0].workloads, BTreeMap::from([("complete".to_owned(), 3)]));
    let none: Page<Rotation> = bench.read("/v1/rotations?state=stopped,held").await;
    assert_eq!(none.total, 0);
    let secret: SecretStatus = bench.read("/v1/secret?path=secret/data/a").await;
    assert_eq!(secret.users.items.len(), 3);
    assert_eq!(secret.users.items[0].workload, "shop/Deployment/web-0");
    let workloads: Page<Workload> = bench.read("/v1/workloads?namespace=shop").await;
    assert_eq!((workloads.total, workloads.items[0].state.as_str()), (3, "complete"));
    let workload: WorkloadStatus = bench.read("/v1/workload?name=shop/deployment/web-1").await;
    assert_eq!(workload.secrets[0].secret.path, "secret/data/a");
    assert_eq!(workload.secrets[0].progress.state, "complete");
}

#[tokio::test]
async fn a_state_selects_and_never_moves_an_item_to_another_page() {
    let bench = Bench::with_workloads(3);
    let snapshot = bench.api.sources.index.begin_poll("default");
    let last = &snapshot.workloads[2];
    bench.decide(last, snapshot.poll, |decision| {
        decision.reverted = last.workload.secrets.to_vec();
    });
    let secret: SecretStatus = bench.read("/v1/secret?path=secret/data/a").await;
    assert_eq!(secret.rotation.state, "stopped");
    assert_eq!(secret.users.items[2].workload, "shop/Deployment/web-2");
    assert_eq!(secret.users.items[2].progress.reason.as_deref(), Some("TakenBack"));
    // A client that reads a page before the state changes, and one after it, misses nothing.
    let path = "/v1/secret?path=secret/data/a&limit=1";
    let first: SecretStatus = bench.read(path).await;
    bench.decide(last, snapshot.poll, |_| ());
    let mut names = vec![first.users.items[0].workload.clone()];
    let mut next = first.users.next;
    while let Some(after) = next {
        let page: SecretStatus = bench.read(&format!("{path}&continue={after}")).await;
        names.extend(page.users.items.into_iter().map(|user| user.workload));
        next = page.users.next;
    }
    assert_eq!(names, ["web-0", "web-1", "web-2"].map(|name| format!("shop/Deployment/{name}")));
    bench.decide(last, snapshot.poll, |decision| {
        decision.reverted = last.workload.secrets.to_vec();
    });
    let stopped: Page<Rotation> = bench.read("/v1/rotations?state=stopped,held").await;
    assert_eq!(stopped.total, 1);
    let taken_back: Page<Workload> = bench.read("/v1/workloads?state=takenBack").await;
    assert_eq!(taken_back.items[0].workload, "shop/Deployment/web-2");
    assert_eq!(taken_back.total, 1);
}

#[tokio::test]
async fn names_and_namespaces_select() {
    let bench = Bench::with_workloads(3);
    for (path, expected) in [
        ("/v1/rotations?search=", 1),
        ("/v1/rotations?search=DATA", 1),
        ("/v1/rotations?search=default+secret/data/a", 1),
        ("/v1/rotations?search=data+other", 0),
        ("/v1/rotations?workloadNamespace=shop", 1),
        ("/v1/rotations?workloadNamespace=sho", 0),
        ("/v1/workloads?search=web-1", 1),
        ("/v1/workloads?search=deployment%20WEB", 3),
        ("/v1/workloads?search=web-1&state=failed", 0),
        ("/v1/workloads?namespace=sho", 0),
    ] {
        let page: Page<serde_json::Value> = bench.read(path).await;
        assert_eq!(
            (page.total, page.items.len()),
            (expected, usize::try_from(expected).unwrap()),
            "{path}"
        );
    }
    let overview: Overview = bench.read("/v1/overview").await;
    assert_eq!(overview.workloads, BTreeMap::from([("complete".to_owned(), 3)]));
    let long = format!("/v1/workloads?search={}", "a".repeat(LONGEST_SEARCH + 1));
    let (status, code, message) = bench.refused(&long).await;
    assert_eq!((status, code.as_str()), (400, "badRequest"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn the_lists_of_all_viewers_are_computed_once_a_second() {
    let bench = Bench::with_workloads(2);
    let state = async || {
        let page: Page<Rotation> = bench.read("/v1/rotations").await;
        page.items[0].state.clone()
    };
    assert_eq!(state().await, "complete");
    let snapshot = bench.api.sources.index.begin_poll("default");
    let changed = &snapshot.workloads[0];
    bench.decide(changed, snapshot.poll, |decision| {
        decision.reverted = changed.workload.secrets.to_vec();
    });
    assert_eq!(state().await, "complete");
    // A single secret or workload is shown as it is.
    let secret: SecretStatus = bench.read("/v1/secret?path=secret/data/a").await;
    assert_eq!(secret.rotation.state, "stopped");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(state().await, "stopped");
}

#[tokio::test]
async fn the_page_is_there_while_the_replica_does_not_lead() {
    let bench = Bench::new();
    for (path, expected) in [("/ui", 200), ("/ui/page.js", 200), ("/v1/overview", 503)] {
        let router = router(bench.api.clone()).merge(crate::web::page::router(false));
        let request = Request::get(path).header(HOST, "localhost").body(Body::empty()).unwrap();
        assert_eq!(router.oneshot(request).await.unwrap().status(), expected, "{path}");
    }
}

#[tokio::test]
async fn pages_show_each_item_once() {
    let bench = Bench::with_workloads(7);
    for list in ["/v1/workloads?", "/v1/secret?path=secret/data/a&"] {
        let (mut seen, mut next) = (Vec::new(), String::new());
        for _ in 0..4 {
            let (_, body) = bench.get(&format!("{list}limit=2{next}")).await;
            let mut page: serde_json::Value = serde_json::from_slice(&body).unwrap();
            if page["users"].is_object() {
                page = page["users"].take();
            }
            assert_eq!(page["total"], 7);
            let items = page["items"].as_array().unwrap();
            seen.extend(items.iter().map(|item| item["workload"].as_str().unwrap().to_owned()));
            let after = page["continue"].as_str().unwrap_or_default();
            let after: String = form_urlencoded::byte_serialize(after.as_bytes()).collect();
            next = format!("&continue={after}");
        }
        let all: Vec<_> = (0..7).map(|number| format!("shop/Deployment/web-{number}")).collect();
        assert_eq!(seen, all, "{list}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said() {
    let bench = Bench::with_workloads(1);
    for (path, status, code, part) in [
        ("/v1/rotations?state=fine", 400, "badRequest", "complete, running"),
        ("/v1/workloads?state=fine", 400, "badRequest", "failed, takenBack"),
        ("/v1/rotations?limit=0", 400, "badRequest", "from 1 to 1000"),
        ("/v1/rotations?limit=1001", 400, "badRequest", "from 1 to 1000"),
        ("/v1/rotations?colour=red", 400, "badRequest", "state, limit, continue"),
        ("/v1/rotations?limit=1&limit=2", 400, "badRequest", "given twice"),
        ("/v1/secret", 400, "badRequest", "\"path\" is missing"),
        ("/v1/secret?path=other", 404, "notFound", "no watched workload"),
        ("/v1/workload?name=web", 400, "badRequest", "NAMESPACE/KIND/NAME"),
        ("/v1/workload?name=shop/Pod/web", 400, "badRequest", "Deployment, DaemonSet"),
        ("/v1/workload?name=shop/Deployment/other", 404, "notFound", "is not watched"),
        ("/v2/overview", 404, "notFound", "/v1/overview"),
        // The page is off unless a flag switches it on.
        ("/ui", 404, "notFound", "/v1/overview"),
    ] {
        let (found, found_code, message) = bench.refused(path).await;
        assert_eq!((found, found_code.as_str()), (status, code), "{path}: {message}");
        assert!(message.contains(part), "{path}: {message}");
    }
}

#[tokio::test]
async fn only_the_leader_answers_once_the_workloads_are_read() {
    let bench = Bench::new();
    assert_eq!(bench.refused("/v1/overview").await.1, "notReady");
    let bench = Bench::with_workloads(1);
    bench.candidate.say(Claim::No);
    for (holder, expected) in [
        (None, "knows no other one that does"),
        (Some("b-1_x"), "kubectl --namespace v port-forward pod/b-1 9180:9180"),
        (Some("Laptop_x"), "the leader \"Laptop_x\" is not a pod"),
    ] {
        bench.candidate.name_holder(holder);
        let (status, code, message) = bench.refused("/v1/overview").await;
        assert_eq!((status, code.as_str()), (503, "notLeader"), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    // What does not depend on the leader is answered.
    assert_eq!(bench.refused("/v2/overview").await.0, 404);
    assert_eq!(bench.send(Request::post("/v1/overview").header(HOST, "[::1]")).await.0, 405);
    bench.candidate.say(Claim::Always);
    assert_eq!(bench.get("/v1/overview").await.0, 200);
}

#[tokio::test]
async fn a_page_in_a_browser_cannot_reach_it_by_a_name_of_its_own() {
    let bench = Bench::with_workloads(1);
    for (host, expected) in [
        ("localhost:9180", 200),
        ("localhost", 200),
        ("127.0.0.1", 200),
        ("[::1]:9180", 200),
        ("evil.example:9180", 400),
        ("localhost.evil.example", 400),
        ("", 400),
    ] {
        let (status, _) = bench.send(Request::get("/v1/overview").header(HOST, host)).await;
        assert_eq!(status, expected, "{host}");
    }
    assert_eq!(bench.send(Request::get("/v1/overview")).await.0, 400);
}

#[tokio::test]
async fn with_a_token_file_only_its_token_is_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let mut bench = Bench::with_workloads(1);
    bench.api.access = Access::of_this_machine().with_token_file(Some(file.clone()));
    let get = |token: Option<&'static str>| {
        let request = Request::get("/v1/overview").header(HOST, "reloader.example");
        token.map_or_else(
            || Request::get("/v1/overview"),
            |token| request.header(AUTHORIZATION, token),
        )
    };
    assert_eq!(bench.send(get(Some("Bearer "))).await.0, 401, "there is no file");
    for (content, sent, expected) in [
        ("", Some("Bearer "), 401),
        ("s3cret\n", Some("Bearer s3cret"), 200),
        ("s3cret\n", Some("Bearer s3cre"), 401),
        ("s3cret\n", Some("Bearer s3cretx"), 401),
        ("s3cret\n", Some("Bearer S3cret"), 401),
        ("s3cret\n", Some("Basic s3cret"), 401),
        ("s3cret\n", None, 401),
        // The file is read for each request.
        ("other", Some("Bearer other"), 200),
    ] {
        std::fs::write(&file, content).unwrap();
        let (status, body) = bench.send(get(sent)).await;
        assert_eq!(status, expected, "{content:?} {sent:?}");
        assert!(!String::from_utf8_lossy(&body).contains("s3cret"));
    }
}

/// A cluster that knows some callers.
struct Cluster;

impl Callers for Cluster {
    fn review<'a>(
        &'a self,
        token: &'a str,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Review, ReviewError>> {
        let answer = match token {
            "all" => Ok(Review::Allowed),
            "overview" if path == "/v1/overview" => Ok(Review::Allowed),
            "none" | "overview" => Ok(Review::Denied { user: "ci".into() }),
            "failed" => Err(ReviewError::TimedOut),
            _ => Ok(Review::Unknown),
        };
        async move { answer }.boxed()
    }
}

#[tokio::test]
async fn the_cluster_lets_in_whom_it_allows() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "s3cret").unwrap();
    let mut bench = Bench::with_workloads(1);
    let access = Access::of_this_machine().with_cluster(Arc::new(Cluster), "ours".to_owned());
    bench.api.access = access.clone();
    for (path, token, status, part) in [
        ("/v1/overview", "all", 200, ""),
        ("/v1/overview", "overview", 200, ""),
        ("/v1/workloads", "overview", 403, "ci may not get /v1/workloads"),
        ("/v1/overview", "none", 403, "-status-reader"),
        ("/v1/overview", "other", 401, "kubectl create token SERVICEACCOUNT --audience ours"),
        ("/v1/overview", "s3cret", 401, "for the audience ours"),
        ("/v1/overview", "", 401, "for the audience ours"),
        ("/v1/overview", "failed", 503, "did not answer in time"),
        ("/v2", "all", 404, "/v1/overview"),
        ("/v2", "none", 403, "ci may not get /v1/"),
    ] {
        let request = Request::get(path).header(AUTHORIZATION, format!("Bearer {token}"));
        let (found, body) = bench.send(request).await;
        let body = String::from_utf8(body).unwrap();
        assert_eq!(found, status, "{path} {token}: {body}");
        assert!(body.contains(part) && !body.contains("s3cret"), "{path} {token}: {body}");
    }
    assert_eq!(bench.send(Request::get("/v1/overview")).await.0, 401);
    // With both, either is enough.
    bench.api.access = access.with_token_file(Some(file));
    for (token, status) in [("s3cret", 200), ("all", 200), ("other", 401)] {
        let request = Request::get("/v1/overview").header(AUTHORIZATION, format!("Bearer {token}"));
        assert_eq!(bench.send(request).await.0, status, "{token}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_tokens_is_refused_for_now() {
    let mut bench = Bench::with_workloads(1);
    let access = Access::of_this_machine().with_cluster(Arc::new(Cluster), "ours".to_owned());
    bench.api.access = access;
    let mut answers = Vec::new();
    for number in 0..40 {
        let request = Request::get("/v1/overview");
        let request = request.header(AUTHORIZATION, format!("Bearer {number}"));
        let request = request.body(Body::empty()).unwrap();
        answers.push(router(bench.api.clone()).oneshot(request).await.unwrap());
    }
    let (first, last) = (answers.first().unwrap(), answers.last().unwrap());
    assert_eq!(first.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(first.headers()[WWW_AUTHENTICATE], "Bearer");
    assert_eq!(last.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(last.headers()[RETRY_AFTER], "1");
}

/// Pods of which each has the same address.
struct Pods {
    address: Result<IpAddr, LeaderPodError>,
    asked: AtomicUsize,
}

impl Pods {
    fn at(address: Result<IpAddr, LeaderPodError>) -> Arc<Self> {
        Arc::new(Self { address, asked: AtomicUsize::new(0) })
    }
}

impl LeaderPods for Pods {
    fn address<'a>(&'a self, pod: &'a str) -> BoxFuture<'a, Result<IpAddr, LeaderPodError>> {
        assert_eq!(pod, "b-1");
        self.asked.fetch_add(1, Ordering::Relaxed);
        let address = self.address.clone();
        async move { address }.boxed()
    }
}

/// Returns a replica that does not lead, and forwards requests to the leader's port.
fn forwarding(pods: &Arc<Pods>, port: u16) -> Bench {
    let mut bench = Bench::with_workloads(1);
    bench.candidate.say(Claim::No);
    bench.candidate.name_holder(Some("b-1_x"));
    let standby = Standby::new("a".to_owned(), "v".to_owned(), port);
    let pods: Arc<dyn LeaderPods> = Arc::<Pods>::clone(pods);
    bench.api.standby = Arc::new(standby.with_route(pods, true));
    bench
}

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[tokio::test]
async fn a_replica_that_does_not_lead_answers_as_the_leader_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "s3cret").unwrap();
    let access = Access::of_this_machine().with_token_file(Some(file));
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut leader = Bench::with_workloads(3);
    leader.api.access = access.clone();
    let pods = Pods::at(Ok(LOCALHOST));
    let mut other = forwarding(&pods, port);
    other.api.access = access;
    let with_token =
        |path: &str| Request::get(path).header(AUTHORIZATION, "Bearer s3cret").header(HOST, "x");
    let test = async {
        for path in [
            "/v1/workloads?limit=2",
            "/v1/secret?path=secret%2Fdata%2Fa",
            "/v1/workload?name=shop/Deployment/web-2",
            "/v1/workload?name=shop/Deployment/other",
            "/v1/rotations?limit=0",
        ] {
            let (status, body) = leader.send(with_token(path)).await;
            let (found, forwarded) = other.send(with_token(path)).await;
            assert_eq!(found, status, "{path}: {}", String::from_utf8_lossy(&forwarded));
            assert_eq!(forwarded, body, "{path}");
        }
        assert_eq!(pods.asked.load(Ordering::Relaxed), 1);
        // Callers are checked before anything is forwarded.
        let request = Request::get("/v1/overview").header(HOST, "127.0.0.1");
        assert_eq!(other.send(request).await.0, 401);
        // A request is forwarded once.
        let request = with_token("/v1/overview").header("x-forwarded-by-replica", "c");
        let (status, body) = other.send(request).await;
        let body = String::from_utf8(body).unwrap();
        assert!(status == 503 && body.contains("does not lead any more"), "{status} {body}");
        // The leader has lost the lease, and the other replica does not know yet.
        leader.candidate.say(Claim::No);
        let (status, body) = other.send(with_token("/v1/overview")).await;
        let body = String::from_utf8(body).unwrap();
        assert!(status == 503 && body.contains("notLeader"), "{status} {body}");
    };
    let server = axum::serve(listener, router(leader.api.clone()));
    tokio::select! {
        result = async { server.await } => panic!("{result:?}"),
        () = test => {}
    }
}

#[tokio::test]
async fn why_the_leader_cannot_be_reached_is_said() {
    // Nobody listens on a port that was just given back.
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    for (address, expected) in [
        (Ok(LOCALHOST), "Is a NetworkPolicy in the way"),
        (Ok("10.0.0.7".parse().unwrap()), "to which this replica forwards nothing"),
        (Err(LeaderPodError::Missing("v/b-1".to_owned())), "the pod v/b-1 does not exist"),
    ] {
        let pods = Pods::at(address);
        let bench = forwarding(&pods, port);
        for _ in 0..10 {
            let (status, code, message) = bench.refused("/v1/overview").await;
            assert_eq!((status, code.as_str()), (503, "leaderUnreachable"));
            assert!(message.contains(expected), "{message}");
            assert!(message.contains("port-forward pod/b-1"), "{message}");
        }
        // The pod is not read for each request.
        assert!(pods.asked.load(Ordering::Relaxed) < 5);
    }
}
