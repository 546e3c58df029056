//! Finds the pod of the leader by the Lease, and forwards a port of that pod, for people and
//! pipelines that ask the leader from outside the cluster.
//!
//! Architecture Invariant: the holder of a Lease is a text that others wrote. Only a text that can
//! be the name of a pod becomes a part of a request.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, ListParams, Portforwarder};
use kube::{Api, Client};
use serde_json::Value;
use tokio::io::DuplexStream;

use super::client::{ConnectError, RequestError, connect_by, in_time};
use crate::decide::clock::ServerClock;
use crate::election::holder;
use crate::events::sink::Events;
use crate::model::text::shorten;

/// Which leader to find, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderSettings {
    /// The context of the kubeconfig. `None` means the current context.
    pub context: Option<String>,
    /// The namespace of the controller. `None` means that all namespaces are searched.
    pub namespace: Option<String>,
    /// The name of the Lease.
    pub lease: String,
    /// The port of the pod.
    pub port: u16,
}

/// Why the leader cannot be reached. Each text names the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// There is no kubeconfig, or it cannot be used.
    #[error("the kubeconfig cannot be used: {0}. Set KUBECONFIG or --context, or give --address")]
    Config(String),
    /// The API server does not know the user.
    #[error(
        "the API server refuses the credential of the kubeconfig: {0}. Log in again, or choose \
         another one with --context"
    )]
    Unauthorized(String),
    /// The user may not list Leases in all namespaces.
    #[error(
        "searching all namespaces for the Lease is forbidden: {0}. Name the namespace of the \
         controller with --namespace"
    )]
    SearchForbidden(String),
    /// The user may not read the Lease.
    #[error(
        "reading the Lease {lease} is forbidden: {cause}. Ask for a Role with get on \
         leases.coordination.k8s.io"
    )]
    LeaseForbidden {
        /// The namespace and the name of the Lease.
        lease: String,
        /// The message of the API server.
        cause: String,
    },
    /// The user may not forward ports of the pod.
    #[error(
        "forwarding a port of the pod {pod} is forbidden: {cause}. Ask for a Role with get and \
         create on pods/portforward"
    )]
    PodForbidden {
        /// The namespace and the name of the pod.
        pod: String,
        /// The message of the API server.
        cause: String,
    },
    /// There is no such Lease.
    #[error(
        "there is no Lease {name} in {}. Check --namespace and --lease. Is leader election off? Then \
         use --address",
        place(.namespace.as_deref())
    )]
    NoLease {
        /// The namespace. `None` means that all namespaces were searched.
        namespace: Option<String>,
        /// The name of the Lease.
        name: String,
    },
    /// Several namespaces have a Lease of this name.
    #[error(
        "several namespaces have a Lease {name}: {}. Choose the namespace of the controller with \
         --namespace",
        listed(.namespaces)
    )]
    SeveralLeases {
        /// The name of the Leases.
        name: String,
        /// The namespaces, in order.
        namespaces: Vec<String>,
    },
    /// Nobody holds the Lease.
    #[error(
        "nobody holds the Lease {0}, so no replica leads. Check that the controller is running, or \
         try again in a moment"
    )]
    NoHolder(String),
    /// The holder of the Lease is not the name of a pod.
    #[error(
        "the holder of the Lease {lease} is not a pod: {holder:?}. Does the controller run outside \
         the cluster? Then use --address"
    )]
    NotAPod {
        /// The namespace and the name of the Lease.
        lease: String,
        /// The holder.
        holder: String,
    },
    /// The pod does not exist.
    #[error(
        "the leader's pod {0} does not exist. Another replica takes the lead within a minute: try \
         again. Does the controller run outside the cluster? Then use --address"
    )]
    PodMissing(String),
    /// The port of the pod cannot be reached, or the connection ended too early.
    #[error(
        "{port} cannot be reached: {cause}. Is the status served there (--port, and --status-address \
         of the controller)?"
    )]
    Unreachable {
        /// The port and the pod.
        port: String,
        /// The innermost cause.
        cause: String,
    },
    /// No complete answer came from the port of the pod in time.
    #[error(
        "{0} did not answer within 10 seconds. Is the status served there (--port, and \
         --status-address of the controller)?"
    )]
    Silent(String),
    /// The API server failed, or could not be reached.
    #[error("the API server cannot be asked for {what}: {cause}. Check the cluster and --context")]
    ApiServer {
        /// What was requested.
        what: String,
        /// The innermost cause.
        cause: String,
    },
}

impl ForwardError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoHolder(_)
            | Self::PodMissing(_)
            | Self::Unreachable { .. }
            | Self::Silent(_)
            | Self::ApiServer { .. } => true,
            Self::Config(_)
            | Self::Unauthorized(_)
            | Self::SearchForbidden(_)
            | Self::LeaseForbidden { .. }
            | Self::PodForbidden { .. }
            | Self::NoLease { .. }
            | Self::SeveralLeases { .. }
            | Self::NotAPod { .. } => false,
        }
    }
}

/// Returns where a Lease was searched.
fn place(namespace: Option<&str>) -> String {
    namespace.map_or_else(|| "any namespace".to_owned(), |name| format!("the namespace {name}"))
}

/// Returns names for a message.
fn listed(names: &[String]) -> String {
    shorten(&names.join(", "))
}

/// Finds the leader.
pub struct LeaderFinder {
    client: Client,
    settings: LeaderSettings,
}

impl LeaderFinder {
    /// Makes a client from the kubeconfig. Sends no request.
    pub async fn connect(settings: LeaderSettings) -> Result<Self, ForwardError> {
        let clock = Arc::new(ServerClock::default());
        match connect_by(settings.context.as_deref(), clock, Events::default()).await {
            Ok(client) => Ok(Self { client, settings }),
            Err(ConnectError::Config(cause) | ConnectError::Client(cause)) => {
                Err(ForwardError::Config(shorten(&cause)))
            }
        }
    }

    /// Reads the Lease, and forwards the port of its holder. Each request to the API server has a
    /// time-out.
    pub async fn open(&self) -> Result<LeaderPort, ForwardError> {
        let (namespace, lease) = self.find_lease().await?;
        let name = pod_of_holder(&namespace, &self.settings.lease, &lease.data)?;
        let port = self.settings.port;
        let pod = format!("{namespace}/{name}");
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let mut forwarder = match in_time(pods.portforward(&name, &[port])).await {
            Ok(forwarder) => Forwarding(forwarder),
            Err(error) => return Err(refused_pod(&error, pod)),
        };
        let shown = format!("port {port} of the pod {pod}");
        let error = forwarder.0.take_error(port).map(FutureExt::boxed);
        match (forwarder.0.take_stream(port), error) {
            (Some(stream), Some(error)) => {
                Ok(LeaderPort { shown, stream, error, _forwarding: forwarder })
            }
            // The stream of a port can be taken once.
            _ => Err(ForwardError::Unreachable { port: shown, cause: "no stream".to_owned() }),
        }
    }

    /// Returns the namespace of the Lease, and the Lease.
    async fn find_lease(&self) -> Result<(String, DynamicObject), ForwardError> {
        let LeaderSettings { context: _, namespace, lease: name, port: _ } = &self.settings;
        // The API server accepts times that the controller cannot parse, so only the text is read.
        let resource = ApiResource::erase::<Lease>(&());
        if let Some(namespace) = namespace {
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), namespace, &resource);
            return match in_time(api.get_opt(name)).await {
                Ok(Some(lease)) => Ok((namespace.clone(), lease)),
                Ok(None) => {
                    let (namespace, name) = (Some(namespace.clone()), name.clone());
                    Err(ForwardError::NoLease { namespace, name })
                }
                Err(error) => Err(refused_lease(&error, format!("{namespace}/{name}"))),
            };
        }
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let selector = ListParams::default().fields(&format!("metadata.name={name}"));
        match in_time(api.list(&selector)).await {
            Ok(list) => choose(name, list.items),
            Err(error) => Err(refused_search(&error)),
        }
    }
}

/// A forwarded port of the leader. The forwarding ends when this value is dropped.
pub struct LeaderPort {
    /// The port and the pod, for messages.
    shown: String,
    stream: DuplexStream,
    /// Resolves to the error of the kubelet, if there is one.
    error: BoxFuture<'static, Option<String>>,
    _forwarding: Forwarding,
}

impl LeaderPort {
    /// Returns the connection to the port.
    pub fn stream(&mut self) -> &mut DuplexStream {
        &mut self.stream
    }

    /// Returns the error of a connection that ended too early. The error of the kubelet, such as a
    /// refused connection, says more than `cause`.
    #[must_use]
    pub fn unreachable(self, cause: &(dyn Error + 'static)) -> ForwardError {
        let of_kubelet = self.error.now_or_never().flatten();
        let cause = of_kubelet.map_or_else(|| innermost(cause), |text| shorten(&text));
        ForwardError::Unreachable { port: self.shown, cause }
    }

    /// Returns the error of a connection without an answer.
    #[must_use]
    pub fn silent(self) -> ForwardError {
        match self.error.now_or_never().flatten() {
            Some(text) => ForwardError::Unreachable { port: self.shown, cause: shorten(&text) },
            None => ForwardError::Silent(self.shown),
        }
    }
}

/// Formats the port as in messages: `port 9180 of the pod NAMESPACE/NAME`.
impl fmt::Display for LeaderPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

/// The task of `kube` that moves the bytes. It would outlive its streams if the API server never
/// closed the connection.
struct Forwarding(Portforwarder);

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Returns the only Lease of a search, with its namespace. A Lease without a holder counts, too:
/// otherwise a Lease of a tenant would be chosen while no replica leads.
fn choose(name: &str, leases: Vec<DynamicObject>) -> Result<(String, DynamicObject), ForwardError> {
    let namespaced = |lease: DynamicObject| {
        let namespace = lease.metadata.namespace.clone().unwrap_or_default();
        // A server that ignores the selector returns Leases of other names.
        (lease.metadata.name.as_deref() == Some(name)).then_some((namespace, lease))
    };
    let mut found: Vec<_> = leases.into_iter().filter_map(namespaced).collect();
    let Some(last) = found.pop() else {
        return Err(ForwardError::NoLease { namespace: None, name: name.to_owned() });
    };
    if found.is_empty() {
        return Ok(last);
    }
    found.push(last);
    let mut namespaces: Vec<String> = found.into_iter().map(|(namespace, _)| namespace).collect();
    namespaces.sort();
    Err(ForwardError::SeveralLeases { name: name.to_owned(), namespaces })
}

/// Returns the name of the pod that holds a Lease.
fn pod_of_holder(namespace: &str, lease: &str, data: &Value) -> Result<String, ForwardError> {
    let lease = format!("{namespace}/{lease}");
    let holder = data.pointer("/spec/holderIdentity").and_then(Value::as_str).unwrap_or_default();
    if holder.is_empty() {
        return Err(ForwardError::NoHolder(lease));
    }
    match holder::pod(holder) {
        Some(name) => Ok(name.to_owned()),
        None => Err(ForwardError::NotAPod { lease, holder: shorten(holder) }),
    }
}

fn refused_search(error: &RequestError) -> ForwardError {
    let cause = cause_of(error);
    match error.code() {
        401 => ForwardError::Unauthorized(cause),
        403 => ForwardError::SearchForbidden(cause),
        _ => ForwardError::ApiServer { what: "the Leases".to_owned(), cause },
    }
}

fn refused_lease(error: &RequestError, lease: String) -> ForwardError {
    let cause = cause_of(error);
    match error.code() {
        401 => ForwardError::Unauthorized(cause),
        403 => ForwardError::LeaseForbidden { lease, cause },
        _ => ForwardError::ApiServer { what: format!("the Lease {lease}"), cause },
    }
}

fn refused_pod(error: &RequestError, pod: String) -> ForwardError {
    let cause = cause_of(error);
    match error.code() {
        401 => ForwardError::Unauthorized(cause),
        403 => ForwardError::PodForbidden { pod, cause },
        404 => ForwardError::PodMissing(pod),
        _ => ForwardError::ApiServer { what: format!("a port of the pod {pod}"), cause },
    }
}

/// Returns the message of the API server, or why there is none.
fn cause_of(error: &RequestError) -> String {
    match error {
        RequestError::Kube(kube::Error::Api(_)) | RequestError::Timeout(_) => error.to_string(),
        RequestError::Kube(error) => innermost(error),
    }
}

/// Returns the innermost cause: "connection refused" rather than "client error".
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    shorten(&innermost.to_string())
}

#[cfg(test)]
mod tests {
    use std::io;

    use axum::body::Body as Answer;
    use http::Response;
    use serde_json::json;

    use super::super::scripted::{client_of, list, status};
    use super::*;

    const NAME: &str = "vault-secrets-reloader";

    fn lease(namespace: &str, holder: &str) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "namespace": namespace, "name": NAME },
            "spec": { "holderIdentity": holder, "renewTime": "9999-12-31T23:59:59.999999Z" },
        })
    }

    fn objects(leases: &[Value]) -> Vec<DynamicObject> {
        leases.iter().map(|lease| serde_json::from_value(lease.clone()).unwrap()).collect()
    }

    #[test]
    fn the_pod_is_the_holder_without_its_uuid() {
        for (holder, expected) in [
            ("reloader-5d9c_0b7e3c2a-0000-4000-8000-000000000000", Ok("reloader-5d9c")),
            ("reloader-5d9c", Ok("reloader-5d9c")),
            ("node.example_x", Ok("node.example")),
            ("", Err("nobody holds the Lease v/vault-secrets-reloader, so no replica leads.")),
            ("_x", Err("the holder of the Lease v/vault-secrets-reloader is not a pod: \"_x\".")),
            ("../../secrets/a_x", Err("the holder of the Lease ")),
            ("..", Err("the holder of the Lease ")),
            ("a/b_x", Err("the holder of the Lease ")),
            ("a?b", Err("the holder of the Lease ")),
            ("Laptop_x", Err("the holder of the Lease ")),
        ] {
            let found = pod_of_holder("v", NAME, &lease("v", holder));
            match expected {
                Ok(name) => assert_eq!(found.unwrap(), name, "{holder}"),
                Err(text) => {
                    let error = found.unwrap_err().to_string();
                    assert!(error.starts_with(text), "{holder}: {error}");
                }
            }
        }
        let long = "x".repeat(1 << 20);
        let error = pod_of_holder("v", NAME, &lease("v", &long)).unwrap_err().to_string();
        assert!(error.len() < 1_000, "{} bytes", error.len());
        assert!(matches!(pod_of_holder("v", NAME, &json!(7)), Err(ForwardError::NoHolder(_))));
    }

    #[test]
    fn the_only_lease_of_a_search_is_chosen() {
        let (namespace, _) = choose(NAME, objects(&[lease("vault-system", "a_1")])).unwrap();
        assert_eq!(namespace, "vault-system");
        for (leases, expected) in [
            (
                vec![],
                "there is no Lease vault-secrets-reloader in any namespace. Check --namespace and \
                 --lease. Is leader election off? Then use --address",
            ),
            // A Lease without a holder counts, too.
            (
                vec![lease("vault-system", ""), lease("shop", "trap_1")],
                "several namespaces have a Lease vault-secrets-reloader: shop, vault-system. Choose \
                 the namespace of the controller with --namespace",
            ),
        ] {
            assert_eq!(choose(NAME, objects(&leases)).unwrap_err().to_string(), expected);
        }
        let other = choose("another", objects(&[lease("shop", "a_1")]));
        assert!(matches!(other, Err(ForwardError::NoLease { namespace: None, .. })));
    }

    #[test]
    fn the_innermost_cause_is_told() {
        let inner = io::Error::other("connection refused");
        let error = kube::Error::Service(Box::new(io::Error::other("x")));
        assert_eq!(innermost(&inner), "connection refused");
        assert_eq!(cause_of(&RequestError::Kube(error)), "x");
    }

    fn finder(
        namespace: Option<&str>,
        script: impl Fn(&str) -> Response<Answer> + Clone + Send + Sync + 'static,
    ) -> LeaderFinder {
        let client = client_of(move |request| script(request.uri().path()));
        let namespace = namespace.map(str::to_owned);
        let lease = NAME.to_owned();
        LeaderFinder {
            client,
            settings: LeaderSettings { context: None, namespace, lease, port: 9180 },
        }
    }

    /// Answers for Leases by one answer, and for pods by another one.
    async fn failure(
        namespace: Option<&str>,
        of_lease: fn() -> Response<Answer>,
        of_pod: fn() -> Response<Answer>,
    ) -> ForwardError {
        let is_pod = |path: &str| path == "/api/v1/namespaces/vault-system/pods/web-1/portforward";
        let script = move |path: &str| if is_pod(path) { of_pod() } else { of_lease() };
        finder(namespace, script).open().await.err().unwrap()
    }

    fn found() -> Response<Answer> {
        Response::new(Answer::from(lease("vault-system", "web-1_x").to_string()))
    }

    fn found_by_search() -> Response<Answer> {
        Response::new(list(&[lease("vault-system", "web-1_x")], ""))
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_names_the_remedy() {
        let here = Some("vault-system");
        for (error, expected, is_transient) in [
            (failure(None, || status(403), found).await, "with --namespace", false),
            (failure(None, || status(401), found).await, "with --context", false),
            (failure(None, || status(500), found).await, "Check the cluster", true),
            (failure(here, || status(404), found).await, "in the namespace vault-system.", false),
            (
                failure(here, || status(403), found).await,
                "a Role with get on leases.coordination.k8s.io",
                false,
            ),
            (
                failure(here, found, || status(403)).await,
                "a Role with get and create on pods/portforward",
                false,
            ),
            (failure(here, found, || status(404)).await, "pod vault-system/web-1 does not", true),
            (failure(None, found_by_search, || status(404)).await, "pod vault-system/web-1 ", true),
            (failure(here, found, || status(400)).await, "so it is (status 400)", true),
        ] {
            let text = error.to_string();
            assert!(text.contains(expected) && text.lines().count() == 1, "{text}");
            assert_eq!(error.is_transient(), is_transient, "{text}");
        }
    }
}
