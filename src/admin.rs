//! The probes. They call nothing: they tell the last known state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use crate::core::store::Store;

/// What the probes tell.
#[derive(Clone)]
pub struct Health {
    store: Arc<Store>,
    ending: Arc<AtomicBool>,
}

impl Health {
    /// Of a process that is alive until [`Health::ends`].
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, ending: Arc::default() }
    }

    /// From now on, the process is about to end.
    pub fn ends(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }
}

/// The routes of the probes.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/", get(async || "ok"))
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .with_state(health)
}

/// Whether all tasks are alive: the process ends with the first that is not, so answering is the
/// answer until then.
async fn live(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.ending.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "ending")
    } else {
        (StatusCode::OK, "ok")
    }
}

/// Whether the store knows all workloads. An outage of Vault does not matter here: nobody could
/// serve better.
async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.ending.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "ending")
    } else if health.store.is_synced() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the workloads are being read")
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;
    use crate::core::workload::Kind;

    async fn status(health: &Health, path: &str) -> u16 {
        let request = Request::get(path).body(Body::empty()).unwrap();
        router(health.clone()).oneshot(request).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn ready_means_that_the_store_has_synced() {
        let store = Arc::new(Store::default());
        let health = Health::new(Arc::clone(&store));
        assert_eq!(status(&health, "/").await, 200);
        assert_eq!(status(&health, "/healthz").await, 200);
        assert_eq!(status(&health, "/readyz").await, 503);
        for kind in Kind::ALL {
            store.begin_list(kind);
            store.end_list(kind);
        }
        assert_eq!(status(&health, "/readyz").await, 200);
        health.ends();
        assert_eq!(status(&health, "/healthz").await, 503);
        assert_eq!(status(&health, "/readyz").await, 503);
        assert_eq!(status(&health, "/metrics").await, 404);
    }
}
