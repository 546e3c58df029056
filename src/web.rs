//! The probes, the metrics and the API. They report the last known state. Only [`standby`] sends
//! requests, to the leader.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::routing::get;
use futures::stream::{FuturesUnordered, StreamExt as _};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::events::metrics::{self, Metrics};
use crate::heartbeat::Heartbeats;
use crate::index::Index;

pub mod access;
mod answer;
pub mod api;
pub mod page;
mod reviews;
pub mod standby;
mod tables;

/// The most open connections. Anybody in the cluster can open idle connections. At the limit, a new
/// connection closes the oldest one, so that a probe is always answered. A process may have 1,024
/// descriptors by default.
const MOST_CONNECTIONS: usize = 128;

/// The time in which a request must arrive, on a new connection and on a reused one.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// The longest time that a connection stays open, even if it is in use.
const LONGEST_CONNECTION: Duration = Duration::from_mins(2);

/// The longest time of a scrape, with the wait for its turn.
const LONGEST_SCRAPE: Duration = Duration::from_secs(5);

/// The pause after a connection could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The state that the probes report.
#[derive(Clone)]
pub struct Health {
    index: Arc<Index>,
    heartbeats: Heartbeats,
    metrics: Arc<Metrics>,
    /// The permit to compute the metrics.
    scrape: Arc<Semaphore>,
    ending: Arc<AtomicBool>,
}

impl Health {
    /// The state of a process that is alive until [`Health::ends`].
    #[must_use]
    pub fn new(index: Arc<Index>, heartbeats: Heartbeats, metrics: Arc<Metrics>) -> Self {
        let scrape = Arc::new(Semaphore::new(1));
        Self { index, heartbeats, metrics, scrape, ending: Arc::default() }
    }

    /// Marks the process as about to end.
    pub fn ends(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }
}

/// The routes of the probes and the metrics.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/", get(async || "ok"))
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

/// Serves requests at `listener` until `shutdown`, and then cuts open connections.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let mut connections = FuturesUnordered::new();
    let mut ends: VecDeque<CancellationToken> = VecDeque::new();
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(()) = connections.next() => {
                ends.retain(|end| !end.is_cancelled());
                continue;
            }
            () = shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                is_failing = false;
                if ends.len() >= MOST_CONNECTIONS
                    && let Some(oldest) = ends.pop_front()
                {
                    oldest.cancel();
                }
                let end = CancellationToken::new();
                ends.push_back(end.clone());
                connections.push(connection(stream, router.clone(), end));
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    warn!(
                        "A connection to the probes or the status failed: {error}. Accepting \
                         connections again"
                    );
                }
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Serves one connection, until `end` at the latest. Cancels `end` when the connection is closed.
async fn connection(stream: TcpStream, router: Router, end: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::select! {
        // An error of the connection concerns only the client.
        _ = timeout(LONGEST_CONNECTION, connection) => {}
        () = end.cancelled() => {}
    }
    end.cancel();
}

/// Whether all loops move. A task that ends early ends the process, so this probe need not report
/// it.
async fn live(State(health): State<Health>) -> (StatusCode, String) {
    if health.ending.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "ending".to_owned())
    } else if let Some(stuck) = health.heartbeats.stuck() {
        (StatusCode::SERVICE_UNAVAILABLE, stuck.to_string())
    } else {
        (StatusCode::OK, "ok".to_owned())
    }
}

/// Whether the index knows all workloads: see [`Index::is_ready`]. An outage of Vault does not matter
/// here, since no other replica could do better.
async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.ending.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "ending")
    } else if health.index.is_ready() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the workloads are being read")
    }
}

/// Returns the metrics. They are computed on a thread that may block, since some are read from
/// files. Scrapes take turns, so they hold one such thread at most.
async fn metrics(
    State(health): State<Health>,
) -> (StatusCode, [(HeaderName, &'static str); 1], String) {
    let Health { metrics: source, scrape, .. } = health;
    let computed = async {
        let turn = scrape.acquire_owned().await.ok()?;
        let text = spawn_blocking(move || {
            let text = source.text();
            drop(turn);
            text
        });
        text.await.ok()
    };
    match timeout(LONGEST_SCRAPE, computed).await {
        Ok(Some(text)) => (StatusCode::OK, [(CONTENT_TYPE, metrics::CONTENT_TYPE)], text),
        Ok(None) | Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            [(CONTENT_TYPE, "text/plain; charset=utf-8")],
            "the metrics could not be computed in time".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tower::ServiceExt as _;

    use super::*;
    use crate::model::kind::Kind;

    fn health(heartbeats: Heartbeats) -> (Health, Arc<Index>) {
        let index = Arc::new(Index::default());
        let metrics = Metrics::new(Arc::clone(&index), Arc::default(), || 0.0);
        (Health::new(Arc::clone(&index), heartbeats, Arc::new(metrics)), index)
    }

    async fn status(health: &Health, path: &str) -> u16 {
        let request = Request::get(path).body(Body::empty()).unwrap();
        router(health.clone()).oneshot(request).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn ready_means_that_the_store_has_synced() {
        let (health, index) = health(Heartbeats::default());
        assert_eq!(status(&health, "/").await, 200);
        assert_eq!(status(&health, "/healthz").await, 200);
        assert_eq!(status(&health, "/readyz").await, 503);
        for kind in Kind::ALL {
            index.begin_list(kind);
            index.end_list(kind);
        }
        assert_eq!(status(&health, "/readyz").await, 200);
        health.ends();
        assert_eq!(status(&health, "/healthz").await, 503);
        assert_eq!(status(&health, "/readyz").await, 503);
        assert_eq!(status(&health, "/metrics").await, 200);
        assert_eq!(status(&health, "/elsewhere").await, 404);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_is_stuck_is_named_and_no_reason_not_to_be_ready() {
        let heartbeats = Heartbeats::default();
        let (health, _) = health(heartbeats.clone());
        let collector = heartbeats.add("collector of deployments", Duration::from_mins(1));
        collector.works();
        assert_eq!(live(State(health.clone())).await, (StatusCode::OK, "ok".to_owned()));
        tokio::time::advance(Duration::from_mins(2)).await;
        let (status, said) = live(State(health)).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(said, "the collector of deployments is stuck: it should have moved 60 s ago");
    }

    /// Runs a test beside a server for the probes, on a port of its own.
    async fn beside_a_server(test: impl AsyncFnOnce(std::net::SocketAddr)) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let end = CancellationToken::new();
        let server = serve(listener, router(health(Heartbeats::default()).0), end.clone());
        tokio::join!(server, async {
            test(address).await;
            end.cancel();
        });
    }

    /// Sends a probe on a connection and returns the answer.
    async fn probe(stream: &mut TcpStream) -> std::io::Result<String> {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    #[tokio::test]
    async fn whoever_opens_connections_and_says_nothing_keeps_no_probe_waiting() {
        beside_a_server(async |address| {
            let mut silent = Vec::new();
            for number in 0..3 * MOST_CONNECTIONS {
                let mut stream = TcpStream::connect(address).await.unwrap();
                if number % 2 == 0 {
                    stream.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
                }
                silent.push(stream);
            }
            let mut stream = TcpStream::connect(address).await.unwrap();
            let answer = timeout(REQUEST_WITHIN, probe(&mut stream)).await.unwrap().unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            // The connection stays open for the next request. The oldest idle one is closed.
            let answer = probe(&mut stream).await.unwrap();
            assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
            assert_eq!(silent[0].read(&mut [0]).await.unwrap_or(0), 0);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_arrive_ends_its_connection() {
        beside_a_server(async |address| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
            let began = tokio::time::Instant::now();
            _ = stream.read_to_end(&mut Vec::new()).await;
            assert!((REQUEST_WITHIN..2 * REQUEST_WITHIN).contains(&began.elapsed()));
        })
        .await;
    }
}
