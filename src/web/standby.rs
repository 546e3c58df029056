//! What a replica that does not lead answers: the answer of the leader, or where the leader is.
//!
//! Architecture Invariant: a request is forwarded once, and only after its sender was checked. It goes
//! to the address that the API server shows for the running pod that holds the Lease, and nowhere
//! else: the caller's token goes along.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT,
    WWW_AUTHENTICATE,
};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Request, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout};

use super::answer::{Refusal, refuse};
use crate::election::holder;
use crate::model::text::shorten;
use crate::status::exchange::{ExchangeError, exchange};
use crate::status::ports::{LeaderPodError, LeaderPods};

/// The header of a forwarded request, with the name of the replica that forwards it.
const FORWARDED_BY: &str = "x-forwarded-by-replica";

/// The user agent of forwarded requests.
const AGENT: &str = concat!("vault-secrets-reloader/", env!("CARGO_PKG_VERSION"));

/// The longest time of a forwarded request, from the look for the pod to the end of the answer. The
/// command `status` waits for ten seconds.
const WITHIN: Duration = Duration::from_secs(7);

/// The longest time of a connection attempt, within a cluster.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How long the address of a pod is used before the pod is read again. The address of a pod that is
/// gone may be that of another pod soon.
const ADDRESS_FOR: Duration = Duration::from_secs(10);

/// How long a failed look for the pod, or an address without a connection, is not tried again.
const FAILURE_FOR: Duration = Duration::from_secs(1);

/// The longest answer of the leader, in bytes. A page of a thousand items has less than one MiB, and
/// a workload with a thousand secrets three.
const LONGEST: usize = 8 << 20;

/// The number of requests that are forwarded at once. Their answers are held in memory.
const AT_ONCE: usize = 8;

/// A replica while it does not lead.
pub struct Standby {
    /// The name of this replica.
    replica: String,
    /// The namespace of the Lease, and so of the pods.
    namespace: String,
    /// The port of the API, which is the same in all replicas.
    port: u16,
    route: Option<Route>,
}

/// The way to the leader.
struct Route {
    pods: Arc<dyn LeaderPods>,
    /// Whether this replica listens on a loopback address. The leader is then looked for on the same
    /// machine, and otherwise nowhere on this machine.
    is_loopback: bool,
    known: Mutex<Option<Known>>,
    at_once: Semaphore,
}

/// What was found about the pod of a holder.
struct Known {
    holder: Box<str>,
    until: Instant,
    address: Result<IpAddr, LeaderPodError>,
}

/// Why the leader gave no answer.
#[derive(Debug, thiserror::Error)]
enum RouteError {
    #[error("{0}")]
    Pod(LeaderPodError),
    #[error(
        "the leader's pod has the address {0}, to which this replica forwards nothing. A replica \
         that listens on a loopback address reaches others there, and no others"
    )]
    Address(IpAddr),
    #[error(
        "the leader cannot be reached at {address}: {cause}. Is a NetworkPolicy in the way, or does \
         the leader have another --status-address?"
    )]
    Unreachable { address: SocketAddr, cause: String },
    #[error("the answer of the leader is longer than {} MiB", LONGEST >> 20)]
    TooLong,
    #[error("the leader did not answer within {} seconds", WITHIN.as_secs())]
    Silent,
}

impl Standby {
    /// Tells callers where the leader is. The API has this port in all replicas.
    #[must_use]
    pub fn new(replica: String, namespace: String, port: u16) -> Self {
        Self { replica, namespace, port, route: None }
    }

    /// Forwards requests to the leader. `is_loopback` tells whether this replica listens on a
    /// loopback address.
    #[must_use]
    pub fn with_route(mut self, pods: Arc<dyn LeaderPods>, is_loopback: bool) -> Self {
        let (known, at_once) = (Mutex::default(), Semaphore::new(AT_ONCE));
        self.route = Some(Route { pods, is_loopback, known, at_once });
        self
    }

    /// Answers a request whose sender was checked. `holder` is the identity of the leader.
    pub(super) async fn answer(&self, request: &Parts, holder: Option<&str>) -> Response {
        match self.try_answer(request, holder).await {
            Ok(response) => response,
            Err(refusal) => refusal.for_now().into_response(),
        }
    }

    async fn try_answer(&self, request: &Parts, holder: Option<&str>) -> Result<Response, Refusal> {
        let Some(holder) = holder else {
            let message = "this replica does not lead, and knows no other one that does; try again \
                           in a moment";
            return Err(not_leader(message.to_owned()));
        };
        let Some(pod) = holder::pod(holder) else {
            return Err(not_leader(format!(
                "this replica does not lead, and the leader {:?} is not a pod. Does the controller \
                 run outside the cluster? Then ask the leader at its --status-address",
                shorten(holder)
            )));
        };
        if request.headers.contains_key(FORWARDED_BY) {
            let message = "this replica does not lead any more; try again in a moment";
            return Err(not_leader(message.to_owned()));
        }
        let Some(route) = &self.route else { return Err(not_leader(self.where_it_is(pod))) };
        let forwarded = timeout(WITHIN, route.forward(self, request, holder, pod)).await;
        forwarded.unwrap_or(Err(RouteError::Silent)).map_err(|error| {
            let place = self.where_it_is(pod);
            let message = format!("{place}. The request cannot be forwarded: {error}");
            refuse(StatusCode::SERVICE_UNAVAILABLE, "leaderUnreachable", message)
        })
    }

    fn where_it_is(&self, pod: &str) -> String {
        let Self { namespace, port, .. } = self;
        format!(
            "this replica does not lead; the leader is the pod {namespace}/{pod}: kubectl \
             --namespace {namespace} port-forward pod/{pod} {port}:{port}"
        )
    }
}

fn not_leader(message: String) -> Refusal {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "notLeader", message)
}

impl Route {
    /// Sends a request to the leader, and returns the leader's answer.
    async fn forward(
        &self,
        standby: &Standby,
        request: &Parts,
        holder: &str,
        pod: &str,
    ) -> Result<Response, RouteError> {
        // The semaphore is never closed.
        let _permit = self.at_once.acquire().await;
        let ip = self.find(holder, pod).await.map_err(RouteError::Pod)?;
        if !may_be_contacted(ip, self.is_loopback) {
            return Err(RouteError::Address(ip));
        }
        let address = SocketAddr::new(ip, standby.port);
        let stream = match timeout(CONNECT_WITHIN, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.unreachable(address, error.to_string()).await),
            Err(_) => return Err(self.unreachable(address, "no connection".to_owned()).await),
        };
        match exchange(stream, request_to(address, request, &standby.replica), LONGEST).await {
            Ok(answer) => Ok(passed_on(answer)),
            Err(ExchangeError::TooLong) => Err(RouteError::TooLong),
            Err(ExchangeError::Http(error)) => {
                Err(self.unreachable(address, error.to_string()).await)
            }
        }
    }

    /// Returns the address of the leader's pod. Requests at the same time share one look for it.
    async fn find(&self, holder: &str, pod: &str) -> Result<IpAddr, LeaderPodError> {
        let mut known = self.known.lock().await;
        let found =
            known.as_ref().filter(|known| *known.holder == *holder && Instant::now() < known.until);
        if let Some(found) = found {
            return found.address.clone();
        }
        let address = self.pods.address(pod).await;
        let lasts = if address.is_ok() { ADDRESS_FOR } else { FAILURE_FOR };
        let until = Instant::now() + lasts;
        *known = Some(Known { holder: holder.into(), until, address: address.clone() });
        address
    }

    /// Has the pod read again soon.
    async fn unreachable(&self, address: SocketAddr, cause: String) -> RouteError {
        if let Some(known) = self.known.lock().await.as_mut() {
            known.until = known.until.min(Instant::now() + FAILURE_FOR);
        }
        RouteError::Unreachable { address, cause: shorten(&cause) }
    }
}

/// Whether a pod of the leader can have this address. A replica that listens on a loopback address
/// reaches other replicas there, and all other replicas reach none there.
fn may_be_contacted(address: IpAddr, is_loopback: bool) -> bool {
    let address = address.to_canonical();
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let is_special = address.is_unspecified() || address.is_multicast() || is_link_local;
    !is_special && address.is_loopback() == is_loopback
}

/// Returns the request for the leader: the path, the query and the token of the caller's request.
fn request_to(address: SocketAddr, request: &Parts, replica: &str) -> Request<String> {
    let mut forwarded = Request::new(String::new());
    if let Some(target) = request.uri.path_and_query() {
        *forwarded.uri_mut() = Uri::from(target.clone());
    }
    let headers = forwarded.headers_mut();
    let text = |text: &str| {
        HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("replica"))
    };
    headers.insert(HOST, text(&address.to_string()));
    headers.insert(FORWARDED_BY, text(replica));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some(token) = request.headers.get(AUTHORIZATION) {
        let mut token = token.clone();
        token.set_sensitive(true);
        headers.insert(AUTHORIZATION, token);
    }
    forwarded
}

/// Returns the answer of the leader with the headers that concern the caller.
fn passed_on(answer: Response<Vec<u8>>) -> Response {
    let (head, body) = answer.into_parts();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = head.status;
    for name in [CONTENT_TYPE, CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE] {
        if let Some(value) = head.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_a_pod_can_have_are_contacted() {
        for (address, in_cluster, on_machine) in [
            ("10.0.0.7", true, false),
            ("fd00::7", true, false),
            ("2001:db8::7", true, false),
            ("::ffff:10.0.0.7", true, false),
            ("127.0.0.2", false, true),
            ("::1", false, true),
            ("::ffff:127.0.0.1", false, true),
            ("0.0.0.0", false, false),
            ("::", false, false),
            ("169.254.169.254", false, false),
            ("fe80::1", false, false),
            ("224.0.0.1", false, false),
            ("ff02::1", false, false),
            ("255.255.255.255", false, false),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(may_be_contacted(address, false), in_cluster, "{address}");
            assert_eq!(may_be_contacted(address, true), on_machine, "{address}");
        }
    }

    #[test]
    fn a_forwarded_request_has_the_token_and_no_other_header() {
        let request = Request::get("/v1/secret?path=a%20b")
            .header(AUTHORIZATION, "Bearer abc")
            .header(HOST, "reloader.example")
            .header("x-other", "1")
            .body(())
            .unwrap();
        let (request, ()) = request.into_parts();
        for (address, host) in [("10.0.0.7:9180", "10.0.0.7:9180"), ("[fd00::7]:1", "[fd00::7]:1")]
        {
            let forwarded = request_to(address.parse().unwrap(), &request, "two");
            assert_eq!(forwarded.uri().to_string(), "/v1/secret?path=a%20b");
            assert_eq!(forwarded.headers()[HOST], host);
            assert_eq!(forwarded.headers()[AUTHORIZATION], "Bearer abc");
            assert_eq!(forwarded.headers()[FORWARDED_BY], "two");
            assert!(!forwarded.headers().contains_key("x-other"));
        }
    }
}
