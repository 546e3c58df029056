//! The errors of requests to the server.

/// Why a request to the server returned no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no connection.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The server did not answer in time.
    #[error("does not answer in time")]
    Timeout,
    /// 503: sealed, not initialised, or a standby without a leader.
    #[error("is sealed or not ready (503)")]
    Sealed,
    /// 503 in Vault's own words: a Vault namespace is locked or sealed, and not the server.
    #[error("does not serve the Vault namespace: the namespace is locked or sealed (503)")]
    NamespaceLocked,
    /// 429.
    #[error("limits the rate of requests (429)")]
    RateLimited,
    /// Another 5xx.
    #[error("fails (status {0})")]
    Server(u16),
    /// 403 because the server does not know the token, or no longer knows it.
    #[error("does not accept the token: it has ended or was revoked (403)")]
    TokenEnded,
    /// 403 by policy.
    #[error("denies permission (403)")]
    Denied,
    /// 403 to a request about a mount. The mount does not exist or the policy grants nothing on it;
    /// the server does not say which.
    #[error("reports no such mount (403, preflight capability check)")]
    NoMount,
    /// Another 4xx, with the server's message.
    #[error("refuses (status {status}): {message}")]
    Refused {
        /// The status.
        status: u16,
        /// The server's message.
        message: String,
    },
    /// A redirect, which is not followed, because it would send the token to another address.
    #[error("redirects to {target}; the redirect is not followed. {advice}")]
    Redirected {
        /// The target.
        target: String,
        /// What to do.
        advice: &'static str,
    },
    /// The request cannot be created. This says nothing about the server.
    #[error("is not asked, because the request is invalid: {0}")]
    Unaskable(String),
    /// An answer that is not from this API.
    #[error("gave an answer that cannot be read: {0}")]
    BadAnswer(String),
    /// An answer that did not end in time, or is longer than any valid answer.
    #[error("gives an answer that does not end")]
    Endless,
}

impl Failure {
    /// The short name of the kind of failure.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Sealed | Self::NamespaceLocked => "sealed",
            Self::RateLimited => "rate_limited",
            Self::Server(_) => "server_error",
            Self::TokenEnded => "token_ended",
            Self::Denied | Self::NoMount => "denied",
            Self::Refused { .. } => "refused",
            Self::Redirected { .. } => "redirected",
            Self::Unaskable(_) => "unaskable",
            Self::BadAnswer(_) => "bad_answer",
            Self::Endless => "endless",
        }
    }

    /// The request is incomplete. No checked configuration causes this failure.
    pub(super) fn incomplete_request() -> Self {
        Self::Unaskable("the request is not complete".to_owned())
    }

    /// The answer does not have the expected form. The error of the decoder is omitted, because it
    /// can contain a part of the answer, and so a token.
    pub(super) fn unreadable_answer() -> Self {
        Self::BadAnswer("not of the expected form".to_owned())
    }
}
