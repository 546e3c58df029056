//! A webhook for tests: it keeps what it receives, and answers as it was told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// A part of the path, which must be in no error.
pub(super) const SECRET: &str = "T0-B0-key";

/// An answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// This status.
    Status(u16),
    /// A redirect to a path of the listener.
    Redirect,
    /// The status 429 with `Retry-After: 7`.
    Wait,
    /// No answer.
    Hang,
}

/// A request that the webhook received.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

#[derive(Debug, Default)]
struct Shared {
    answers: Mutex<VecDeque<Answer>>,
    received: Mutex<Vec<Received>>,
    arrived: Notify,
}

/// The webhook.
#[derive(Debug)]
pub(super) struct Listener {
    shared: Arc<Shared>,
    origin: String,
    url: String,
}

impl Listener {
    /// Returns a webhook, and its server. After these answers, it answers 200.
    pub(super) async fn start(
        answers: impl IntoIterator<Item = Answer>,
    ) -> (Self, impl Future<Output = ()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let answers = Mutex::new(answers.into_iter().collect());
        let shared = Arc::new(Shared { answers, ..Shared::default() });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let url = format!("{origin}/services/{SECRET}?key={SECRET}");
        let server = async move {
            axum::serve(listener, router).await.unwrap();
        };
        (Self { shared, origin, url }, server)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    pub(super) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// Waits until so many requests were received.
    pub(super) async fn wait_for(&self, count: usize) {
        while self.received().len() < count {
            self.shared.arrived.notified().await;
        }
    }

    /// Serves until some work is done. Then the webhook is gone.
    pub(super) async fn during<T>(
        &self,
        server: impl Future<Output = ()>,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::select! {
            () = server => panic!("the webhook ended"),
            result = work => result,
        }
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    shared.received.lock().unwrap().push(Received {
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    });
    shared.arrived.notify_one();
    let next = shared.answers.lock().unwrap().pop_front();
    match next.unwrap_or(Answer::Status(200)) {
        Answer::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Answer::Redirect => (StatusCode::FOUND, [(LOCATION, "/other")]).into_response(),
        Answer::Wait => (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "7")]).into_response(),
        Answer::Hang => std::future::pending().await,
    }
}
