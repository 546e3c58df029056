//! The errors of requests to the server.

/// Why a request to the server brought no answer that helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no connection.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("does not answer in time")]
    Timeout,
    /// 503: sealed, not initialised, or a standby without a leader.
    #[error("is sealed or not ready (503)")]
    Sealed,
    /// 429.
    #[error("limits the rate of requests (429)")]
    RateLimited,
    /// Another 5xx.
    #[error("fails (status {0})")]
    Server(u16),
    /// 403 to a token that the server does not know (any more).
    #[error("does not accept the token: it has ended or was revoked (403)")]
    TokenEnded,
    /// 403 by policy.
    #[error("denies permission (403)")]
    Denied,
    /// 403 to a question about a mount that does not exist, or of which the policy grants nothing: the
    /// server does not say which.
    #[error("does not tell of such a mount (403, preflight capability check)")]
    NoMount,
    /// Another 4xx, with what the server says of it.
    #[error("refuses (status {status}): {message}")]
    Refused {
        /// The status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// A redirect, which is not followed: the token would go along.
    #[error(
        "redirects to {0}, which is not followed; add it to VAULT_REDIRECT_ADDRS if it is right"
    )]
    Redirected(String),
    /// The request cannot even be made: it says nothing of the server.
    #[error("cannot be asked for this: {0}")]
    Unaskable(String),
    /// An answer that is none of this API.
    #[error("gave an answer that cannot be read: {0}")]
    BadAnswer(String),
    /// An answer that began, and was not over in time or after more bytes than any has.
    #[error("gives an answer that does not end")]
    Endless,
}

impl Failure {
    /// A short name of its kind.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Sealed => "sealed",
            Self::RateLimited => "rate_limited",
            Self::Server(_) => "server_error",
            Self::TokenEnded => "token_ended",
            Self::Denied | Self::NoMount => "denied",
            Self::Refused { .. } => "refused",
            Self::Redirected(_) => "redirected",
            Self::Unaskable(_) => "unaskable",
            Self::BadAnswer(_) => "bad_answer",
            Self::Endless => "endless",
        }
    }

    /// The request is not complete, which no configuration that was checked can make it.
    pub(super) fn incomplete_request() -> Self {
        Self::Unaskable("the request is not complete".to_owned())
    }

    /// The answer does not have its form. The error of the decoder is left out: it can hold a part of
    /// the answer, and so a token.
    pub(super) fn unreadable_answer() -> Self {
        Self::BadAnswer("not of the expected form".to_owned())
    }
}
