use std::collections::BTreeMap;

use axum::body::Body;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
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
use crate::status::api::{Overview, Rotation, Workload, WorkloadStatus};
use crate::status::board::Board;

/// An API with its index and board, whose replica leads.
struct Bench {
    api: Api,
    candidate: Candidate,
}

impl Bench {
    fn new(token_file: Option<PathBuf>) -> Self {
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
        Self { api: Api::new(sources, led, token_file), candidate }
    }

    /// Returns the API with Deployments `web-0`, `web-1` and so on, which all refer to the secret
    /// `secret/data/a`. Each was decided about, and has its version.
    fn with_workloads(count: usize) -> Self {
        let bench = Self::new(None);
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
async fn the_worst_comes_first_and_a_state_selects() {
    let bench = Bench::with_workloads(3);
    let snapshot = bench.api.sources.index.begin_poll("default");
    let last = &snapshot.workloads[2];
    bench.decide(last, snapshot.poll, |decision| {
        decision.reverted = last.workload.secrets.to_vec();
    });
    let secret: SecretStatus = bench.read("/v1/secret?path=secret/data/a").await;
    assert_eq!(secret.rotation.state, "stopped");
    assert_eq!(secret.users.items[0].workload, "shop/Deployment/web-2");
    assert_eq!(secret.users.items[0].progress.reason.as_deref(), Some("TakenBack"));
    let stopped: Page<Rotation> = bench.read("/v1/rotations?state=stopped,held").await;
    assert_eq!(stopped.total, 1);
    let taken_back: Page<Workload> = bench.read("/v1/workloads?state=takenBack").await;
    assert_eq!(taken_back.items[0].workload, "shop/Deployment/web-2");
    assert_eq!(taken_back.total, 1);
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
    ] {
        let (found, found_code, message) = bench.refused(path).await;
        assert_eq!((found, found_code.as_str()), (status, code), "{path}: {message}");
        assert!(message.contains(part), "{path}: {message}");
    }
}

#[tokio::test]
async fn only_the_leader_answers_once_the_workloads_are_read() {
    let bench = Bench::new(None);
    assert_eq!(bench.refused("/v1/overview").await.1, "notReady");
    let bench = Bench::with_workloads(1);
    bench.candidate.say(Claim::No);
    assert_eq!(bench.refused("/v1/overview").await.1, "notLeader");
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
    bench.api.token_file = Some(file.clone());
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
