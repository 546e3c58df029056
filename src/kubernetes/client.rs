//! The client of the API server: time-outs, no hidden retries, bounds, and the server's clock.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderValue, USER_AGENT};
use kube::Config;
use kube::client::ClientBuilder;

pub use kube::Client;

use super::bounds::BoundsLayer;
use super::clocked::ClockedLayer;
use crate::decide::clock::ServerClock;
use crate::model::text::shorten;

/// How long a single request may take. A healthy API server answers in milliseconds; a page of a
/// list may take seconds under load.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest silence on a connection. A watch is ended by the server after at most 290 s, so this
/// only ends connections whose server is gone.
const READ_TIMEOUT: Duration = Duration::from_mins(5);

/// The client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no configuration of a cluster.
    #[error(
        "no Kubernetes cluster is configured: set KUBECONFIG, or run in a pod with a service account ({0})"
    )]
    Config(String),
    /// The configuration cannot be used.
    #[error("the configuration of the Kubernetes client cannot be used: {0}")]
    Client(String),
}

/// A request that brought no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// The API server refused, or could not be reached.
    #[error("{}", said(.0))]
    Kube(#[from] kube::Error),
    /// It did not answer in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
}

impl RequestError {
    /// The status of the answer; 0 if there was none.
    pub(super) fn code(&self) -> u16 {
        match self {
            Self::Kube(kube::Error::Api(status)) => status.code,
            Self::Kube(_) | Self::Timeout(_) => 0,
        }
    }

    /// Whether the service account may not, or the API server does not know it.
    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self.code(), 401 | 403)
    }
}

/// What the API server said, without the dump of the status that `kube` puts behind it.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => {
            format!("{} (status {})", shorten(&status.message), status.code)
        }
        error => shorten(&error.to_string()),
    }
}

/// Awaits a single request, but not for ever.
pub(super) async fn in_time<T>(
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, RequestError> {
    in_time_of(REQUEST_TIMEOUT, request).await
}

/// As [`in_time`], for so long at most.
pub(super) async fn in_time_of<T>(
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, RequestError> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(RequestError::Timeout(limit)),
    }
}

/// Makes a client from `KUBECONFIG`, `~/.kube/config` or the pod's service account. The `Date` of
/// each answer goes to `clock`.
pub async fn connect(clock: Arc<ServerClock>) -> Result<Client, ConnectError> {
    let mut config =
        Config::infer().await.map_err(|error| ConnectError::Config(error.to_string()))?;
    // A retry that is not seen is a delay that cannot be explained: whoever asks decides.
    config.default_retry = false;
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    let agent =
        HeaderValue::from_static(concat!("vault-secrets-reloader/", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, agent));
    let builder = ClientBuilder::try_from(config);
    let builder = builder.map_err(|error| ConnectError::Client(error.to_string()))?;
    Ok(builder.with_layer(&ClockedLayer(clock)).with_layer(&BoundsLayer).build())
}
