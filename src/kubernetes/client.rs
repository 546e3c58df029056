//! The client of the API server: time-outs, no hidden retries, limits, and the server's clock.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderValue, USER_AGENT};
use kube::Config;
use kube::client::ClientBuilder;
use kube::config::KubeConfigOptions;

pub use kube::Client;

use super::bounds::BoundsLayer;
use super::clocked::ClockedLayer;
use super::counted::CountedLayer;
use crate::decide::clock::ServerClock;
use crate::events::sink::Events;
use crate::model::text::shorten;

/// The time-out of a single request. A healthy API server answers in milliseconds. A page of a list
/// may take seconds under load.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest silence on a connection. The server ends a watch after at most 290 s, so this
/// time-out only ends connections to a lost server.
const READ_TIMEOUT: Duration = Duration::from_mins(5);

/// The client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No cluster is configured.
    #[error(
        "no Kubernetes cluster is configured: set KUBECONFIG, or run in a pod with a service account ({0})"
    )]
    Config(String),
    /// The configuration cannot be used.
    #[error("the configuration of the Kubernetes client cannot be used: {0}")]
    Client(String),
}

/// A request that failed or was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// The API server refused, or could not be reached.
    #[error("{}", said(.0))]
    Kube(#[from] kube::Error),
    /// The API server did not answer in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
}

impl RequestError {
    /// Returns the HTTP status of the answer, or 0 if there was no answer.
    pub(super) fn code(&self) -> u16 {
        match self {
            Self::Kube(kube::Error::Api(status)) => status.code,
            Self::Kube(_) | Self::Timeout(_) => 0,
        }
    }

    /// Whether the API server answered 401 or 403: it does not know the service account, or refuses
    /// it.
    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self.code(), 401 | 403)
    }
}

/// Returns the message of the API server, without the dump of the status that `kube` appends.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => {
            format!("{} (status {})", shorten(&status.message), status.code)
        }
        error => shorten(&error.to_string()),
    }
}

/// Awaits a single request, up to [`REQUEST_TIMEOUT`].
pub(super) async fn in_time<T>(
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, RequestError> {
    in_time_of(REQUEST_TIMEOUT, request).await
}

/// Awaits a single request, up to `limit`.
pub(super) async fn in_time_of<T>(
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, RequestError> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(RequestError::Timeout(limit)),
    }
}

/// Makes a client from `KUBECONFIG`, `~/.kube/config` or the pod's service account. The `Date`
/// header of each answer goes to `clock`. Each request is reported to `events`.
pub async fn connect(clock: Arc<ServerClock>, events: Events) -> Result<Client, ConnectError> {
    connect_by(None, clock, events).await
}

/// As [`connect`]. With `context`, only a kubeconfig counts, with this context in place of its
/// current one.
pub(super) async fn connect_by(
    context: Option<&str>,
    clock: Arc<ServerClock>,
    events: Events,
) -> Result<Client, ConnectError> {
    let mut config = match context {
        None => Config::infer().await.map_err(|error| ConnectError::Config(error.to_string()))?,
        Some(context) => {
            let context = Some(context.to_owned());
            let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
            let config = Config::from_kubeconfig(&options).await;
            config.map_err(|error| ConnectError::Client(error.to_string()))?
        }
    };
    // A hidden retry is a delay that cannot be explained. The caller decides about retries.
    config.default_retry = false;
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    let agent =
        HeaderValue::from_static(concat!("vault-secrets-reloader/", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, agent));
    let builder = ClientBuilder::try_from(config);
    let builder = builder.map_err(|error| ConnectError::Client(error.to_string()))?;
    let builder = builder.with_layer(&ClockedLayer(clock)).with_layer(&CountedLayer(events));
    Ok(builder.with_layer(&BoundsLayer).build())
}
