//! The probes and the metrics. They call nothing: they tell the last known state.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
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
        .route("/metrics", get(metrics))
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

/// What is counted, in the text format of Prometheus. The names of reasons need no escapes.
async fn metrics(State(health): State<Health>) -> ([(HeaderName, &'static str); 1], String) {
    let mut text = String::from(
        "# HELP vault_secrets_reloader_notices_total References that are not watched or look odd, by \
         reason: counted once a workload and change.\n\
         # TYPE vault_secrets_reloader_notices_total counter\n",
    );
    for (reason, count) in health.store.notices().counts() {
        let _ =
            writeln!(text, "vault_secrets_reloader_notices_total{{reason=\"{reason}\"}} {count}");
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;
    use crate::core::notice::{Notice, Part};
    use crate::core::workload::{Kind, WorkloadId};

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
        assert_eq!(status(&health, "/metrics").await, 200);
        assert_eq!(status(&health, "/elsewhere").await, 404);
    }

    #[tokio::test]
    async fn notices_are_counted_by_reason() {
        let store = Arc::new(Store::default());
        let id =
            WorkloadId { kind: Kind::Deployment, namespace: "shop".into(), name: "web".into() };
        let notice = |reason| Notice { reason, is_warning: true, message: String::new() };
        let notices = vec![notice("NoKey"), notice("Pinned")];
        store.notices().set(&id, "u", Part::Manifest, notices);
        let (headers, text) = metrics(State(Health::new(store))).await;
        assert!(headers[0].1.starts_with("text/plain; version=0.0.4"));
        assert!(
            text.contains("\nvault_secrets_reloader_notices_total{reason=\"NoKey\"} 1\n"),
            "{text}"
        );
        assert!(text.ends_with("{reason=\"Pinned\"} 1\n"), "{text}");
    }
}
