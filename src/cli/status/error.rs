//! The errors of `status`. Each text names the remedy.

use std::io;

use http::StatusCode;

use crate::config::ConfigError;
use crate::kubernetes::forward::ForwardError;
use crate::model::text::shorten;
use crate::status::api::Failure;

/// A request without a usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    /// No connection, or a connection that ended too early.
    #[error(
        "cannot reach the controller at {address}: {cause}. Is the controller running there? \
         Without --address, the leader's pod is found by the kubeconfig"
    )]
    Unreachable {
        /// The address of the request.
        address: String,
        /// The innermost cause.
        cause: String,
    },
    /// No complete answer within the time-out of a request.
    #[error(
        "{0} did not answer within 10 seconds. Is this the address of the controller (--address)?"
    )]
    TimedOut(String),
    /// The API refused the request.
    #[error("{}{}", .message.trim_end_matches('.'), remedy(.code))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The code of the API.
        code: String,
        /// The message of the API.
        message: String,
    },
    /// A status without an answer of the API.
    #[error(
        "{address} answered with status {status}, and not as the controller's API does. Check \
         --address or --port"
    )]
    OtherServer {
        /// The address of the request.
        address: String,
        /// The HTTP status.
        status: u16,
    },
    /// The body of the answer is too long.
    #[error("the answer is longer than 16 MiB. Check --address or --port")]
    TooLong,
    /// The body of the answer cannot be parsed.
    #[error(
        "the answer is not an answer of this version of the controller: {0}. Check --address or \
         --port"
    )]
    Malformed(String),
    /// The names on the command line do not fit into a request.
    #[error("the request cannot be sent: {0}. Check the names on the command line")]
    Unsendable(String),
    /// The leader cannot be reached by the kubeconfig.
    #[error("{0}")]
    Forward(#[from] ForwardError),
}

impl RequestError {
    /// Whether the same request may succeed later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut(_) => true,
            // The replica does not lead, is not ready, or checks too many callers.
            Self::Refused { status, .. } | Self::OtherServer { status, .. } => {
                *status >= 500 || *status == 429
            }
            Self::TooLong | Self::Malformed(_) | Self::Unsendable(_) => false,
            Self::Forward(error) => error.is_transient(),
        }
    }

    /// Returns the body of a successful answer, or the error that the API sent. `address` returns
    /// the address for messages.
    pub(super) fn check(
        status: StatusCode,
        body: Vec<u8>,
        address: impl FnOnce() -> String,
    ) -> Result<Vec<u8>, Self> {
        if status.is_success() {
            return Ok(body);
        }
        let status = status.as_u16();
        Err(match serde_json::from_slice::<Failure>(&body) {
            Ok(Failure { code, message }) => {
                Self::Refused { status, code, message: shorten(&message) }
            }
            Err(_) => Self::OtherServer { address: address(), status },
        })
    }
}

/// Returns what the command can add to a message of the API.
fn remedy(code: &str) -> &'static str {
    match code {
        "unauthorized" => ". Give a token with --token-file",
        "forbidden" => ". Or give another token with --token-file",
        _ => "",
    }
}

/// Why the command cannot answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum StatusError {
    /// A flag with a value that cannot be used.
    #[error("{0}")]
    Setting(#[from] ConfigError),
    /// A text that does not name a workload.
    #[error("{0:?} is not a workload; write NAMESPACE/KIND/NAME, as in shop/Deployment/web")]
    Workload(String),
    /// A kind that is not watched.
    #[error("{0:?} is not a kind of workload; write Deployment, DaemonSet or StatefulSet")]
    Kind(String),
    /// An empty path.
    #[error("the path is empty; write the API path of the secret, as in secret/data/mysql")]
    EmptyPath,
    /// An address that cannot be used.
    #[error("--address: not an address of an API; write http://HOST:PORT")]
    Address,
    /// Flags that contradict each other.
    #[error("--address says where the API is; leave out --context and --namespace")]
    AddressAndCluster,
    /// A token for a pod in any namespace.
    #[error(
        "--token-file: name the namespace of the controller with --namespace, so that the token \
         goes to no other pod"
    )]
    TokenForAnyNamespace,
    /// The file with the token cannot be read.
    #[error("--token-file={file:?} cannot be read: {error}")]
    TokenFile {
        /// The file.
        file: String,
        /// The error of the file system.
        error: io::Error,
    },
    /// The file does not hold a token.
    #[error("--token-file={0:?} does not hold a token; write one token on one line")]
    Token(String),
    /// The HTTP client or the runtime cannot be created.
    #[error("the HTTP client cannot be created: {0}")]
    Setup(String),
    /// A request failed.
    #[error("{0}")]
    Request(#[from] RequestError),
    /// The cluster of the kubeconfig cannot be used.
    #[error("{0}")]
    Forward(#[from] ForwardError),
    /// The output cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
}
