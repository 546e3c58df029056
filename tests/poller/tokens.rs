//! Logins, and tokens that end, that are renewed, and that are revoked.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, Response};
use axum::routing::any;
use secrecy::SecretString;
use serde_json::json;
use tokio::sync::{Barrier, Notify};
use tokio::task::JoinSet;
use vault_secrets_reloader::decide::clock::ServerClock;
use vault_secrets_reloader::decide::observation::{PollResult, ReadRequest};
use vault_secrets_reloader::engine::ports::Vault as _;
use vault_secrets_reloader::vault::client::Server;
use vault_secrets_reloader::vault::login::Method;
use vault_secrets_reloader::vault::pace::Pace;
use vault_secrets_reloader::vault::poller::Poller;

use super::{
    Fake, answer, asks_for, at, count, granted, granted_for, json_of, jwt, lives_for, poller_of,
    serve,
};

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
