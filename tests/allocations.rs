//! What is read often must cost little: by the count of an allocator.

use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use jiff::Timestamp;
use vault_secrets_reloader::decide::observation::Observation;
use vault_secrets_reloader::decide::plan::{Action, Decision};
use vault_secrets_reloader::events::event::Event;
use vault_secrets_reloader::events::sink::Sink as _;
use vault_secrets_reloader::index::Index;
use vault_secrets_reloader::model::annotation::{Annotations, OptIn};
use vault_secrets_reloader::model::kind::Kind;
use vault_secrets_reloader::model::secret::{DEFAULT_CONNECTION, Version};
use vault_secrets_reloader::model::workload::WorkloadId;
use vault_secrets_reloader::references::environment::{
    Container, EnvFrom, EnvVar, SourceKind, SourceName,
};
use vault_secrets_reloader::references::extraction::{extract, read_value};
use vault_secrets_reloader::references::grammar::may_hold_reference;
use vault_secrets_reloader::references::manifest::Manifest;
use vault_secrets_reloader::references::source::{Content, SourceState};
use vault_secrets_reloader::status::board::Board;
use vault_secrets_reloader::status::report::Sources;
use vault_secrets_reloader::vault::answer::Answer;
use vault_secrets_reloader::vault::metadata::{self, Metadata};

#[test]
fn a_value_without_a_reference_is_read_without_an_allocation() {
    let long = "https://shop.svc:8443/a?b=c#d ".repeat(10_000);
    for value in ["", "plain", "https://a:8443", "default:", "bao", "${VAR}", "}}}", &long] {
        let used = measure(|| {
            assert!(!may_hold_reference(value));
            assert!(read_value("VARIABLE", value).is_empty());
        });
        assert_eq!(used.count_total, 0, "{value:.40}");
    }
    // It does count.
    assert_ne!(measure(|| drop(read_value("VARIABLE", "vault:a#b"))).count_total, 0);
}

#[test]
fn metadata_with_ten_thousand_versions_are_read_without_keeping_them() {
    let version = |number: u32| {
        format!(
            "\"{number}\":{{\"created_time\":\"2026-11-22T06:00:00.{number:09}Z\",\"deletion_time\":\"\",\"destroyed\":false}}"
        )
    };
    let versions: Vec<String> = (1..=10_000).map(version).collect();
    let body = format!(
        "{{\"data\":{{\"current_version\":10000,\"versions\":{{{}}}}}}}",
        versions.join(",")
    );
    let answer = Answer::new(200, body.into_bytes());
    let now = "2026-11-28T00:00:00Z".parse().unwrap_or_default();
    let mut read = None;
    let used = measure(|| read = metadata::read(&answer, now).ok());
    assert!(
        matches!(read, Some(Metadata::Live(version, _)) if version.number == 10_000),
        "{read:?}"
    );
    assert!(used.bytes_max < 16 << 10, "{} bytes beside {}", used.bytes_max, answer.body.len());
}

#[test]
fn a_source_that_is_named_a_thousand_times_costs_no_product() {
    const KEYS: usize = 10_000;
    let keys: Vec<String> = (0..KEYS).map(|key| format!("K{key}")).collect();
    let value = |key: &String| format!("vault:secret/data/{key}#k");
    let values: Vec<String> = keys.iter().map(value).collect();
    let data = keys.iter().zip(&values).map(|(key, value)| (key.as_str(), value.as_bytes()));
    let known = SourceState::Read(Arc::new(Content::new(data)));
    let source = SourceName { kind: SourceKind::ConfigMap, name: "big".to_owned() };
    let from =
        |number| EnvFrom { prefix: format!("P{number}_"), source: source.clone(), optional: false };
    let from = (0..1_000).map(from).collect();
    let app = [Container { name: "app".to_owned(), from, ..Container::default() }];
    let mut paths = 0;
    let used = measure(|| {
        let annotations = Annotations::default();
        paths = extract(&annotations, &app, |_| known.clone()).paths.len();
    });
    assert_eq!(paths, KEYS);
    // Some for each of the 50,000 variables that are told apart, and none for the millions beyond.
    assert!(used.count_total < 1_000_000, "{used:?}");
    assert!(used.bytes_max < 64 << 20, "{used:?}");
}

const WORKLOADS: usize = 2_000;
const SECRETS: usize = 1_000;

/// Returns a Deployment that refers to one secret.
fn manifest(number: usize) -> Manifest {
    let mut manifest = Manifest {
        namespace: "shop".to_owned(),
        name: format!("web-{number}"),
        uid: format!("uid-of-{number}"),
        ..Manifest::default()
    };
    manifest.annotations.push(OptIn::Current.key().to_owned(), "true".to_owned());
    let path = number % SECRETS;
    let variables = vec![EnvVar::literal("A", format!("vault:secret/data/{path}#k"))];
    manifest.containers.push(Container { variables, ..Container::default() });
    manifest
}

/// Returns what reports are made from, after one poll.
fn polled() -> Sources {
    let index = Arc::new(Index::default());
    let now = || Timestamp::UNIX_EPOCH;
    let board = Arc::new(Board::new(Arc::clone(&index), now));
    for number in 0..WORKLOADS {
        index.apply(manifest(number), Kind::DEPLOYMENT);
    }
    let snapshot = index.begin_poll(DEFAULT_CONNECTION);
    let (poll, server) = (snapshot.poll, DEFAULT_CONNECTION);
    board.on(&Event::PollStarted { server });
    for decided in &snapshot.workloads {
        for secret in decided.workload.watched() {
            let observation = Observation::Live(Version { number: 1, created: now() });
            board.on(&Event::Observed { secret, observation, poll });
        }
        let decision = Decision::of(Action::Leave);
        board.on(&Event::Decided { decided, poll, decision: &decision });
    }
    Sources {
        index,
        board,
        clock: Arc::default(),
        now,
        injector: Arc::default(),
        rollout_timeout: Duration::from_mins(10),
        servers: [DEFAULT_CONNECTION.into()].into(),
        replica: "a".into(),
    }
}

#[test]
fn the_status_copies_neither_board_nor_index() {
    let sources = polled();
    let within = |what: &str, limit: u64, run: &dyn Fn()| {
        let used = measure(run);
        assert!(used.bytes_max <= limit, "{what}: {} bytes, not {limit}", used.bytes_max);
    };
    let workloads = u64::try_from(WORKLOADS).unwrap();
    within("a table", workloads * 200, &|| {
        let table = sources.report().table();
        assert_eq!((table.rotations.len(), table.workloads.len()), (SECRETS, WORKLOADS));
    });
    within("a look of the follower", workloads * 100, &|| {
        let workloads = sources.index.workloads();
        assert_eq!(sources.report().look(&workloads).tallies.len(), SECRETS);
    });
    within("the metrics", workloads * 80, &|| drop(sources.report().census()));
    // One secret or one workload costs the same beside any number of others.
    within("a secret", 4_096, &|| {
        let found = sources.report().secrets("secret/data/7", None, None);
        assert_eq!(found.iter().map(|found| found.users.len()).collect::<Vec<_>>(), [2]);
    });
    let (kind, namespace, name) = (Kind::DEPLOYMENT, "shop".into(), "web-7".into());
    let id = WorkloadId { kind, namespace, name };
    within("a workload", 4_096, &|| assert!(sources.report().workload(&id).is_some()));
}
