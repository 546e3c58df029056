//! Who may read the API: this machine, whoever has the token of a file, or whoever the cluster allows.
//!
//! Architecture Invariant: no token is logged or repeated in an answer.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::answer::{Refusal, refuse};
use super::reviews::{Reviews, Unreviewed};
use crate::status::ports::{Callers, Review};

/// The longest token that is read from the file, in bytes.
const LONGEST_TOKEN: u64 = 4_096;

/// The longest time to read the file of the token.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// Who may read the API.
#[derive(Clone, Default)]
pub struct Access {
    token_file: Option<PathBuf>,
    cluster: Option<Arc<ClusterAccess>>,
}

/// Callers whose tokens the cluster knows.
struct ClusterAccess {
    reviews: Reviews,
    audience: String,
}

impl Access {
    /// Lets in whoever reaches a loopback address.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::default()
    }

    /// Lets in callers who send the content of this file as a bearer token.
    #[must_use]
    pub fn with_token_file(mut self, file: Option<PathBuf>) -> Self {
        self.token_file = file;
        self
    }

    /// Lets in callers who send a token of the cluster for this audience, if the cluster allows them
    /// to read the path.
    #[must_use]
    pub fn with_cluster(mut self, callers: Arc<dyn Callers>, audience: String) -> Self {
        self.cluster = Some(Arc::new(ClusterAccess { reviews: Reviews::new(callers), audience }));
        self
    }

    /// Checks the sender of a request for a path.
    pub(super) async fn check(
        &self,
        headers: &HeaderMap,
        path: &'static str,
    ) -> Result<(), Refusal> {
        let token = bearer_token(headers);
        match (&self.token_file, &self.cluster) {
            (None, None) => check_host(headers),
            (Some(file), None) => check_token(file, token).await.map_err(unauthorized),
            (None, Some(cluster)) => cluster.check(token, path).await,
            (Some(file), Some(cluster)) => match check_token(file, token).await {
                Ok(()) => Ok(()),
                Err(_) => cluster.check(token, path).await,
            },
        }
    }
}

impl ClusterAccess {
    async fn check(&self, token: &[u8], path: &'static str) -> Result<(), Refusal> {
        // A token of the cluster is ASCII.
        let token = std::str::from_utf8(token).unwrap_or_default();
        match self.reviews.review(token, path).await {
            Ok(Review::Allowed) => Ok(()),
            Ok(Review::Unknown) => {
                let audience = &self.audience;
                Err(unauthorized(format!(
                    "send a token of the cluster for the audience {audience} as Authorization: \
                     Bearer; kubectl create token SERVICEACCOUNT --audience {audience} makes one"
                )))
            }
            Ok(Review::Denied { user }) => {
                let message = format!(
                    "{user} may not get {path}. Bind a ClusterRole with the nonResourceURLs /v1/* \
                     and the verb get to this user; the chart has one, whose name ends in \
                     -status-reader"
                );
                Err(refuse(StatusCode::FORBIDDEN, "forbidden", message))
            }
            Err(Unreviewed::TooMany) => {
                let message =
                    "too many callers are being checked; try again in a second".to_owned();
                let status = StatusCode::TOO_MANY_REQUESTS;
                Err(refuse(status, "tooManyRequests", message).for_now())
            }
            Err(Unreviewed::Failed(error)) => {
                let message = format!("the caller cannot be checked: {error}");
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Err(refuse(status, "notChecked", message).for_now())
            }
        }
    }
}

fn unauthorized(message: String) -> Refusal {
    refuse(StatusCode::UNAUTHORIZED, "unauthorized", message).with(WWW_AUTHENTICATE, "Bearer")
}

/// Returns the bearer token of a request; empty if there is none.
fn bearer_token(headers: &HeaderMap) -> &[u8] {
    let sent = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    sent.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default().trim_ascii()
}

/// Checks that a token is the content of the file. Returns what is wrong.
async fn check_token(file: &Path, sent: &[u8]) -> Result<(), String> {
    let read = async {
        let mut content = Vec::new();
        let file = tokio::fs::File::open(file).await?;
        file.take(LONGEST_TOKEN).read_to_end(&mut content).await?;
        std::io::Result::Ok(content)
    };
    let Ok(Ok(content)) = timeout(READ_WITHIN, read).await else {
        return Err("--status-token-file cannot be read by the controller".to_owned());
    };
    let expected = content.trim_ascii();
    if !expected.is_empty() && are_equal(expected, sent) {
        Ok(())
    } else {
        Err("send the token of --status-token-file as Authorization: Bearer".to_owned())
    }
}

/// Compares two texts in a time that depends on their lengths only.
fn are_equal(one: &[u8], other: &[u8]) -> bool {
    let differences = one.iter().zip(other).fold(0, |found, (one, other)| found | (one ^ other));
    one.len() == other.len() && std::hint::black_box(differences) == 0
}

/// Checks that the caller names an address of this machine. A page in a browser could otherwise
/// reach the API by a name of its own that leads here.
fn check_host(headers: &HeaderMap) -> Result<(), Refusal> {
    if is_of_this_machine(headers) {
        Ok(())
    } else {
        let message = "reach the API by localhost or an IP address".to_owned();
        Err(refuse(StatusCode::BAD_REQUEST, "badRequest", message))
    }
}

/// Whether a request names `localhost` or an IP address as its host.
pub(super) fn is_of_this_machine(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
    });
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || address.is_ok()
}
