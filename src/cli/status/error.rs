//! The errors of `status`. Each text names the remedy.

use std::io;

use crate::config::ConfigError;

/// A request without a usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    /// No connection, or a connection that ended too early.
    #[error(
        "cannot reach the controller at {address}: {cause}. Is the controller running there \
         (--address)? For a pod: kubectl port-forward -n NAMESPACE POD 9180"
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
         --address"
    )]
    OtherServer {
        /// The address of the request.
        address: String,
        /// The HTTP status.
        status: u16,
    },
    /// The body of the answer is too long.
    #[error("the answer is longer than 16 MiB. Check --address")]
    TooLong,
    /// The body of the answer cannot be parsed.
    #[error("the answer is not an answer of this version of the controller: {0}. Check --address")]
    Malformed(String),
}

impl RequestError {
    /// Whether the same request may succeed later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut(_) => true,
            // The replica does not lead, or is not ready.
            Self::Refused { status, .. } | Self::OtherServer { status, .. } => *status >= 500,
            Self::TooLong | Self::Malformed(_) => false,
        }
    }
}

/// Returns what the command can add to a message of the API.
fn remedy(code: &str) -> &'static str {
    match code {
        "unauthorized" => ". Give a token with --token-file",
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
    /// The output cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
}
