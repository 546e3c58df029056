//! The address of the leader's pod, for replicas that forward requests to the leader.

use std::net::IpAddr;

use futures::future::{BoxFuture, FutureExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};
use serde_json::Value;

use super::client::{RequestError, in_time};
use crate::status::ports::{LeaderPodError, LeaderPods};

/// Reads pods in the namespace of the Lease.
pub struct LeaderPodReader {
    api: Api<DynamicObject>,
    namespace: String,
}

impl LeaderPodReader {
    /// Reads pods in this namespace.
    #[must_use]
    pub fn new(client: Client, namespace: String) -> Self {
        let api = Api::namespaced_with(client, &namespace, &ApiResource::erase::<Pod>(&()));
        Self { api, namespace }
    }

    async fn read(&self, name: &str) -> Result<IpAddr, LeaderPodError> {
        let pod = format!("{}/{name}", self.namespace);
        match in_time(self.api.get_opt(name)).await {
            Ok(Some(object)) => address_of(&object).ok_or(LeaderPodError::NotRunning(pod)),
            Ok(None) => Err(LeaderPodError::Missing(pod)),
            Err(error) => Err(failed(&error, pod)),
        }
    }
}

impl LeaderPods for LeaderPodReader {
    fn address<'a>(&'a self, pod: &'a str) -> BoxFuture<'a, Result<IpAddr, LeaderPodError>> {
        self.read(pod).boxed()
    }
}

/// Returns the address of a running pod. A pod that has ended, or is being deleted, shows an address
/// that another pod may have by now.
fn address_of(pod: &DynamicObject) -> Option<IpAddr> {
    let text = |pointer: &str| pod.data.pointer(pointer).and_then(Value::as_str);
    let is_running = text("/status/phase") == Some("Running");
    let is_ending = pod.metadata.deletion_timestamp.is_some();
    text("/status/podIP").filter(|_| is_running && !is_ending)?.parse().ok()
}

fn failed(error: &RequestError, pod: String) -> LeaderPodError {
    if error.is_forbidden() {
        LeaderPodError::Forbidden(pod)
    } else {
        LeaderPodError::Failed { pod, cause: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body as Answer;
    use http::Response;
    use serde_json::json;

    use super::super::scripted::{client_of, status};
    use super::*;

    async fn read(
        answer: impl Fn() -> Response<Answer> + Clone + Send + Sync + 'static,
    ) -> Result<IpAddr, LeaderPodError> {
        let client = client_of(move |request| {
            assert_eq!(request.uri().path(), "/api/v1/namespaces/v/pods/web-1");
            answer()
        });
        LeaderPodReader::new(client, "v".to_owned()).address("web-1").await
    }

    #[tokio::test(start_paused = true)]
    async fn the_address_is_that_of_a_running_pod() {
        let pod = |status: Value, deleted: Option<&str>| {
            let object = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": "web-1", "deletionTimestamp": deleted },
                "status": status,
            });
            move || Response::new(Answer::from(object.to_string()))
        };
        for (address, expected) in
            [("10.0.0.7", Some("10.0.0.7")), ("fd00::7", Some("fd00::7")), ("host", None)]
        {
            let status = json!({ "phase": "Running", "podIP": address });
            let found = read(pod(status, None)).await.ok();
            assert_eq!(
                found,
                expected.map(|address| address.parse::<IpAddr>().unwrap()),
                "{address}"
            );
        }
        let gone = Err(LeaderPodError::NotRunning("v/web-1".to_owned()));
        let status = json!({ "phase": "Failed", "podIP": "10.0.0.7" });
        assert_eq!(read(pod(status, None)).await, gone);
        let status = json!({ "phase": "Running", "podIP": "10.0.0.7" });
        assert_eq!(read(pod(status, Some("2026-01-31T12:00:00Z"))).await, gone);
        assert_eq!(read(pod(Value::Null, None)).await, gone);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_names_the_pod() {
        let name = || "v/web-1".to_owned();
        assert_eq!(read(|| status(403)).await, Err(LeaderPodError::Forbidden(name())));
        assert_eq!(read(|| status(404)).await, Err(LeaderPodError::Missing(name())));
        let failed = read(|| status(500)).await;
        assert!(matches!(failed, Err(LeaderPodError::Failed { .. })), "{failed:?}");
    }
}
