//! Rates, retries, and a server that asks for a pause.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{Request, Response};
use secrecy::SecretString;
use serde_json::json;
use tokio::task::JoinSet;
use vault_secrets_reloader::engine::ports::Vault as _;
use vault_secrets_reloader::vault::connection::ServerSettings;
use vault_secrets_reloader::vault::limiter::RateLimit;
use vault_secrets_reloader::vault::login::Method;
use vault_secrets_reloader::vault::pace::Pace;

use super::{
    Bench, Fake, Script, answer, asks_for, at, count, json_of, poller_at, poller_with, serve,
};

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
