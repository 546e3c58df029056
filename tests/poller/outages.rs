//! Outages of a server, and failures that concern one path only.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::Response;
use secrecy::SecretString;
use serde_json::json;
use tokio::task::JoinSet;
use vault_secrets_reloader::decide::observation::ReadRequest;
use vault_secrets_reloader::engine::ports::Vault as _;
use vault_secrets_reloader::model::secret::SecretId;
use vault_secrets_reloader::vault::login::Method;
use vault_secrets_reloader::vault::pace::Pace;

use super::{Bench, Script, asks_for, closed, count, json_of, poller_at};
use crate::lists::page_of;

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
async fn a_load_balancer_without_a_server_costs_a_few_requests_and_not_thousands() {
    let mut bench = Bench::new(|_, _| Some(json_of(502, &json!("bad gateway")))).await;
    let polled = bench.poll(500, None).await;
    assert_eq!(count(&polled), HashMap::from([("unknown", 500)]));
    assert_eq!(polled.failed.len(), 500);
    assert!(bench.asked() <= 6, "{} requests", bench.asked());
    assert!(polled.retry_in.is_some());
}
