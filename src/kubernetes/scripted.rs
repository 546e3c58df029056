//! An API server that answers by a script, for tests.

use axum::body::Body as Answer;
use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};
use tower::{BoxError, Layer, service_fn};

use super::bounds::BoundsLayer;
use super::client::Client;

/// Returns a client whose server answers each request by a script, after one second. The script
/// gets the query.
pub(super) fn client(script: impl Fn(&str) -> Answer + Clone + Send + Sync + 'static) -> Client {
    client_of(move |request| Response::new(script(request.uri().query().unwrap_or_default())))
}

/// As [`client`], but the script gets the whole request.
pub(super) fn client_of(
    script: impl Fn(&Request<Body>) -> Response<Answer> + Clone + Send + Sync + 'static,
) -> Client {
    client_after(Duration::from_secs(1), script)
}

/// As [`client_of`], but the server takes `time` for each request.
pub(super) fn client_after(
    time: Duration,
    script: impl Fn(&Request<Body>) -> Response<Answer> + Clone + Send + Sync + 'static,
) -> Client {
    let server = service_fn(move |request: Request<Body>| {
        let script = script.clone();
        async move {
            sleep(time).await;
            Ok::<_, BoxError>(script(&request))
        }
    });
    Client::new(BoundsLayer.layer(server), "default")
}

/// Returns a page of a list of workloads that opted in and refer to one secret.
pub(super) fn page(objects: &[&str], next: &str) -> Answer {
    let object = |name: &&str| {
        let annotation = "secrets-reloader.security.bank-vaults.io/reload-on-secret-change";
        let env = json!([{ "name": "A", "value": "vault:secret/data/a#k" }]);
        json!({
            "metadata": { "namespace": "shop", "name": name, "uid": name },
            "spec": { "template": {
                "metadata": { "annotations": { annotation: "true" } },
                "spec": { "containers": [{ "name": "app", "env": env }] },
            } },
        })
    };
    list(&objects.iter().map(object).collect::<Vec<_>>(), next)
}

/// Returns a page of a list.
pub(super) fn list(items: &[Value], next: &str) -> Answer {
    let metadata = json!({ "resourceVersion": "1", "continue": next });
    Answer::from(json!({ "metadata": metadata, "items": items }).to_string())
}

/// Returns a refusal.
pub(super) fn status(code: u16) -> Response<Answer> {
    let reason = if code == 404 { "NotFound" } else { "" };
    let status = json!({
        "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "so it is",
    });
    let mut response = Response::new(Answer::from(status.to_string()));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response
}
