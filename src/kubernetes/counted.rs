//! Reports each request to the API server to the sinks of events.
//!
//! Architecture Invariant: verb and resource are from closed sets, whatever the path says.

use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response, Uri};
use tower::{Layer, Service};

use crate::events::event::Event;
use crate::events::sink::Events;
use crate::model::kind::Kind;
use crate::model::request_end::{PendingRequest, RequestEnd};

/// The resources that the controller requests beside the kinds of workloads.
const RESOURCES: [&str; 14] = [
    "configmaps",
    "controllerrevisions",
    "endpointslices",
    "events",
    "leases",
    "mutatingwebhookconfigurations",
    "namespaces",
    "pods",
    "replicasets",
    "secrets",
    "selfsubjectaccessreviews",
    SERVICE_ACCOUNT_TOKENS,
    "subjectaccessreviews",
    "tokenreviews",
];

/// The subresource of ServiceAccounts that gives a token.
const SERVICE_ACCOUNT_TOKENS: &str = "serviceaccounts/token";

/// The label of everything else.
const OTHER: &str = "other";

/// Wraps a client in [`Counted`].
#[derive(Clone, Debug)]
pub(super) struct CountedLayer(pub(super) Events);

impl<S> Layer<S> for CountedLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, events: self.0.clone() }
    }
}

/// A client that reports its requests.
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    inner: S,
    events: Events,
}

impl<S, A, B> Service<Request<A>> for Counted<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (verb, resource) = verb_and_resource(request.method(), request.uri());
        let events = self.events.clone();
        // The time-out of a request drops its future.
        let pending = PendingRequest::new(move |end| {
            events.emit(&Event::ApiRequest { verb, resource, end });
        });
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await;
            pending.ended(match &answer {
                Ok(answer) => RequestEnd::Answered(answer.status().as_u16()),
                Err(_) => RequestEnd::Failed,
            });
            answer
        }
        .boxed()
    }
}

/// Returns the verb and the resource of a request, as RBAC rules name them.
fn verb_and_resource(method: &Method, uri: &Uri) -> (&'static str, &'static str) {
    // The address of the API server may have a path of its own.
    let mut parts = uri.path().split('/').skip_while(|part| !["api", "apis"].contains(part));
    // The version stands behind `api`, group and version behind `apis`.
    let to_resource = if parts.next() == Some("apis") { 2 } else { 1 };
    let mut parts = parts.skip(to_resource);
    let (mut resource, mut name) = (parts.next(), parts.next());
    if resource == Some("namespaces")
        && let Some(within) = parts.next()
    {
        (resource, name) = (Some(within), parts.next());
    }
    if resource == Some("serviceaccounts") && parts.next() == Some("token") {
        resource = Some(SERVICE_ACCOUNT_TOKENS);
    }
    let mut parameters = uri.query().unwrap_or_default().split('&');
    let is_watch = parameters.any(|parameter| parameter == "watch=true");
    let verb = match (method.as_str(), name) {
        ("GET", _) if is_watch => "watch",
        ("GET", Some(_)) => "get",
        ("GET", None) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", _) => "delete",
        _ => OTHER,
    };
    let mut known = Kind::ALL.into_iter().map(Kind::plural).chain(RESOURCES);
    (verb, known.find(|known| resource == Some(*known)).unwrap_or(OTHER))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tower::{BoxError, service_fn};

    use super::*;
    use crate::events::sink::Sink;

    #[test]
    fn paths_have_a_verb_and_a_resource() {
        let shop = "/apis/apps/v1/namespaces/shop";
        for (method, path, expected) in [
            (
                Method::GET,
                "/apis/apps/v1/deployments?limit=250".to_owned(),
                ("list", "deployments"),
            ),
            (
                Method::GET,
                "/apis/apps/v1/daemonsets?&watch=true&resourceVersion=1".to_owned(),
                ("watch", "daemonsets"),
            ),
            (Method::GET, format!("{shop}/statefulsets/db"), ("get", "statefulsets")),
            (Method::PATCH, format!("{shop}/deployments/web?"), ("patch", "deployments")),
            (Method::GET, format!("{shop}/replicasets?limit=1"), ("list", "replicasets")),
            (
                Method::POST,
                "/apis/events.k8s.io/v1/namespaces/shop/events".to_owned(),
                ("create", "events"),
            ),
            (
                Method::PUT,
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/b".to_owned(),
                ("update", "leases"),
            ),
            (
                Method::POST,
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".to_owned(),
                ("create", "selfsubjectaccessreviews"),
            ),
            (Method::GET, "/api/v1/configmaps".to_owned(), ("list", "configmaps")),
            (Method::GET, "/api/v1/namespaces/a/secrets/b".to_owned(), ("get", "secrets")),
            (Method::GET, "/api/v1/namespaces/a".to_owned(), ("get", "namespaces")),
            (Method::GET, "/api/v1/namespaces?&watch=true".to_owned(), ("watch", "namespaces")),
            (
                Method::GET,
                "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices?".to_owned(),
                ("list", "endpointslices"),
            ),
            (
                Method::POST,
                "/apis/authentication.k8s.io/v1/tokenreviews".to_owned(),
                ("create", "tokenreviews"),
            ),
            (
                Method::POST,
                "/api/v1/namespaces/a/serviceaccounts/b/token".to_owned(),
                ("create", "serviceaccounts/token"),
            ),
            (Method::GET, "/api/v1/namespaces/a/serviceaccounts/token".to_owned(), ("get", OTHER)),
            (Method::GET, "/api/v1/nodes/a".to_owned(), ("get", OTHER)),
            // An object may have the name of a resource.
            (Method::GET, format!("{shop}/deployments/secrets"), ("get", "deployments")),
            // The API server may be behind a gateway.
            (
                Method::GET,
                "/k8s/clusters/c-1/api/v1/namespaces/a/secrets/b".to_owned(),
                ("get", "secrets"),
            ),
            (Method::GET, "/version".to_owned(), ("list", OTHER)),
            (Method::OPTIONS, "/".to_owned(), (OTHER, OTHER)),
        ] {
            let uri: Uri = path.parse().unwrap();
            assert_eq!(verb_and_resource(&method, &uri), expected, "{method} {path}");
        }
    }

    /// Keeps the ends of requests.
    #[derive(Default)]
    struct Ends(Mutex<Vec<(&'static str, &'static str, RequestEnd)>>);

    impl Sink for Ends {
        fn on(&self, event: &Event<'_>) {
            if let Event::ApiRequest { verb, resource, end } = *event {
                self.0.lock().unwrap().push((verb, resource, end));
            }
        }
    }

    #[tokio::test]
    async fn each_request_is_reported_with_its_end() {
        let server = service_fn(|request: Request<()>| async move {
            match request.method().as_str() {
                "GET" => Ok(Response::builder().status(403).body(()).unwrap()),
                "PATCH" => Err(BoxError::from("the connection is closed")),
                _ => std::future::pending().await,
            }
        });
        let ends = Arc::new(Ends::default());
        let sinks: Vec<Box<dyn Sink>> = vec![Box::new(Arc::clone(&ends))];
        let mut client = CountedLayer(Events::new(sinks)).layer(server);
        let path = "/apis/apps/v1/namespaces/shop/deployments/web";
        let request = |method| Request::builder().method(method).uri(path).body(()).unwrap();
        assert!(client.call(request(Method::GET)).await.is_ok());
        assert!(client.call(request(Method::PATCH)).await.is_err());
        // It is given up.
        assert!(client.call(request(Method::PUT)).now_or_never().is_none());
        let expected = [
            ("get", "deployments", RequestEnd::Answered(403)),
            ("patch", "deployments", RequestEnd::Failed),
            ("update", "deployments", RequestEnd::TimedOut),
        ];
        assert_eq!(*ends.0.lock().unwrap(), expected);
    }
}
