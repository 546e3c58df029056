//! The client of a server of the Vault API: time-outs, bounded answers, no redirects, and errors
//! that never hold a token.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use http::header::{DATE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use jiff::Timestamp;
use reqwest::{Certificate, Identity, Proxy, Url, redirect};
use rustify::endpoint::Endpoint;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use vaultrs::api::EndpointMiddleware;

use super::answer::{Answer, failure_of, retry_after};
use crate::core::clock::ServerClock;
use crate::core::words::in_short;

/// The longest answer that is read. Metadata of a secret with 10,000 versions is about 1.5 MB, and
/// nobody keeps five times as many.
const LONGEST_ANSWER: usize = 8 << 20;

/// Answers that are longer than this, and so none of a secret that anybody keeps, are read one at a
/// time: all requests under way together never hold more than one of the longest.
const LONG_ANSWER: usize = 2 << 20;

/// The longest time to set up a connection, where the time-out of a request is not shorter still.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Answered by an HA server; sent back, it makes a standby answer no older than it.
const INDEX: &str = "x-vault-index";

/// Where a server is, and how its certificate is checked.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// `http` or `https`, host and port, without a path.
    pub address: Url,
    /// The Vault namespace of the login; `None` is the root namespace.
    pub namespace: Option<Arc<str>>,
    /// How long a request may take.
    pub timeout: Duration,
    /// A proxy for all requests.
    pub proxy: Option<Url>,
    /// TLS.
    pub tls: Tls,
}

/// How the server's certificate is checked, and what we show of ourselves.
#[derive(Clone, Default)]
pub struct Tls {
    /// CA certificates in PEM; where there are none, those of the system count.
    pub ca: Option<Vec<u8>>,
    /// Our certificate and its key in PEM, one behind the other.
    pub identity: Option<Vec<u8>>,
    /// Whether any certificate will do.
    pub skip_verify: bool,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("ca", &self.ca.as_ref().map(Vec::len))
            .field("identity", &self.identity.is_some())
            .field("skip_verify", &self.skip_verify)
            .finish()
    }
}

/// The client cannot be made from its settings.
#[derive(Debug, thiserror::Error)]
pub enum ClientSetupError {
    /// The CA is no PEM.
    #[error("the CA certificates for Vault are not in PEM")]
    Ca,
    /// Our certificate or its key is no PEM, or they do not belong together.
    #[error(
        "the client certificate or its key for Vault is not in PEM, or they do not fit together"
    )]
    Identity,
    /// The proxy cannot be used.
    #[error("the proxy for Vault cannot be used: {0}")]
    Proxy(String),
    /// Anything else.
    #[error("the client for Vault cannot be made: {0}")]
    Other(String),
}

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
    /// Another 4xx, with what the server says of it.
    #[error("refuses (status {status}): {message}")]
    Refused {
        /// The status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// A redirect, which is not followed: the token would go along.
    #[error("redirects to {0}, which is not followed; configure that address if it is right")]
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
            Self::Denied => "denied",
            Self::Refused { .. } => "refused",
            Self::Redirected(_) => "redirected",
            Self::Unaskable(_) => "unaskable",
            Self::BadAnswer(_) => "bad_answer",
            Self::Endless => "endless",
        }
    }
}

/// A server of the Vault API.
pub struct Server {
    http: reqwest::Client,
    settings: ServerSettings,
    clock: Arc<ServerClock>,
    /// The turn to read a long answer.
    long_answers: Arc<Semaphore>,
}

impl Server {
    /// Makes the client; no request is sent. The `Date` of each answer goes to `clock`.
    pub fn new(
        settings: ServerSettings,
        clock: Arc<ServerClock>,
    ) -> Result<Self, ClientSetupError> {
        let mut http = reqwest::Client::builder()
            .timeout(settings.timeout)
            .connect_timeout(CONNECT_TIMEOUT.min(settings.timeout))
            .redirect(redirect::Policy::none())
            .user_agent(concat!("vault-secrets-reloader/", env!("CARGO_PKG_VERSION")))
            .tls_danger_accept_invalid_certs(settings.tls.skip_verify);
        if settings.address.scheme() == "http" {
            // Without this, a client for plain HTTP fails where the system has no CA files.
            http = http.tls_certs_only([]);
        } else if let Some(ca) = &settings.tls.ca {
            let certificates =
                Certificate::from_pem_bundle(ca).map_err(|_| ClientSetupError::Ca)?;
            if certificates.is_empty() {
                return Err(ClientSetupError::Ca);
            }
            http = http.tls_certs_only(certificates);
        }
        if let Some(identity) = &settings.tls.identity {
            http = http
                .identity(Identity::from_pem(identity).map_err(|_| ClientSetupError::Identity)?);
        }
        if let Some(proxy) = &settings.proxy {
            let proxy =
                Proxy::all(proxy.clone()).map_err(|e| ClientSetupError::Proxy(cause_of(&e)))?;
            http = http.proxy(proxy);
        }
        let http = http.build().map_err(|e| ClientSetupError::Other(cause_of(&e)))?;
        Ok(Self { http, settings, clock, long_answers: Arc::new(Semaphore::new(1)) })
    }

    /// The address, for log lines.
    #[must_use]
    pub fn address(&self) -> &str {
        self.settings.address.as_str().trim_end_matches('/')
    }

    /// The server's clock.
    #[must_use]
    pub fn clock(&self) -> &ServerClock {
        &self.clock
    }

    /// Reads an API path, without its `v1/`. `index` asks for an answer no older than that.
    pub async fn get(
        &self,
        path: &str,
        query: &[(&str, &str)],
        namespace: Option<&str>,
        token: &SecretString,
        index: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let mut url = self.settings.address.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().push("v1").extend(path.split('/'));
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-vault-request", HeaderValue::from_static("true"));
        let secret = |text: &str| {
            let mut value = HeaderValue::from_str(text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        headers.extend(secret(token.expose_secret()).map(|t| (header("x-vault-token"), t)));
        if let Some(namespace) = namespace {
            // Left out, the same path of another namespace would be read.
            let value = HeaderValue::from_str(namespace).map_err(|_| {
                Failure::Unaskable("the namespace is no text of a header".to_owned())
            })?;
            headers.insert("x-vault-namespace", value);
        }
        if let Some(index) = index {
            headers.insert(INDEX, index.clone());
            headers.insert("x-vault-inconsistent", HeaderValue::from_static("forward-active-node"));
        }
        let sent = Timestamp::now();
        let answer = self.http.get(url).headers(headers).send().await;
        self.read(answer.map_err(|error| transport(&error))?, sent).await
    }

    /// Has the server answer, for the date of its answer: by a request that needs no token, and that no
    /// audit device sees.
    pub async fn look(&self) {
        let mut url = self.settings.address.clone();
        url.set_path("/v1/sys/health");
        let sent = Timestamp::now();
        if let Ok(answer) = self.http.get(url).send().await {
            drop(self.read(answer, sent).await);
        }
    }

    /// Sends a request of `vaultrs`, with a token that [`super::login::is_token`], or an empty one
    /// for none. The answer is a success.
    ///
    /// The client of `vaultrs` is not used: it reads an answer of any length.
    pub(super) async fn execute(
        &self,
        endpoint: impl Endpoint,
        token: &str,
    ) -> Result<Answer, Failure> {
        let middleware = EndpointMiddleware {
            token: token.to_owned(),
            version: "v1".to_owned(),
            wrap: None,
            namespace: self.settings.namespace.as_deref().map(str::to_owned),
        };
        let request = endpoint.with_middleware(&middleware).request(self.settings.address.as_str());
        let request = request.map_err(|_| {
            Failure::Unaskable("the request cannot be made of its parts".to_owned())
        })?;
        let mut request = reqwest::Request::try_from(request).map_err(|error| transport(&error))?;
        if let Some(token) = request.headers_mut().get_mut("x-vault-token") {
            token.set_sensitive(true);
        }
        let sent = Timestamp::now();
        let answer = self.http.execute(request).await;
        let answer = self.read(answer.map_err(|error| transport(&error))?, sent).await?;
        match failure_of(answer.status, &answer.body) {
            Some(failure) => Err(failure),
            None => Ok(answer),
        }
    }

    async fn read(
        &self,
        mut response: reqwest::Response,
        sent: Timestamp,
    ) -> Result<Answer, Failure> {
        let status = response.status();
        let headers = response.headers();
        let text = |name: http::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(date) = text(DATE) {
            self.clock.observe(date, sent, Timestamp::now());
        }
        if status.is_redirection() {
            return Err(Failure::Redirected(in_short(text(LOCATION).unwrap_or("nowhere"))));
        }
        let mut answer = Answer::new(status.as_u16(), Vec::new());
        answer.retry_after = text(RETRY_AFTER).and_then(retry_after);
        answer.index = headers.get(INDEX).cloned();
        while let Some(chunk) = response.chunk().await.map_err(|error| cut_short(&error))? {
            let length = answer.body.len() + chunk.len();
            if length > LONGEST_ANSWER {
                return Err(Failure::Endless);
            }
            if length > LONG_ANSWER && answer.turn.is_none() {
                let turn = Arc::clone(&self.long_answers).acquire_owned();
                let turn = timeout(self.settings.timeout, turn).await;
                answer.turn = turn.map_err(|_| Failure::Endless)?.ok();
            }
            answer.body.extend_from_slice(&chunk);
        }
        Ok(answer)
    }
}

fn header(name: &'static str) -> http::HeaderName {
    http::HeaderName::from_static(name)
}

/// Maps an error of the HTTP client. Its text can hold the address, never a header.
fn transport(error: &reqwest::Error) -> Failure {
    if error.is_timeout() {
        Failure::Timeout
    } else if error.is_builder() {
        Failure::Unaskable(cause_of(error))
    } else {
        Failure::Unreachable(cause_of(error))
    }
}

/// Maps an error while an answer is read. The server is there: it has begun to answer.
fn cut_short(error: &reqwest::Error) -> Failure {
    if error.is_timeout() {
        Failure::Endless
    } else {
        Failure::BadAnswer(format!("it was cut short: {}", cause_of(error)))
    }
}

/// The innermost cause: "connection refused" rather than "error sending request".
fn cause_of(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(std::error::Error::source) {
        cause = Some(inner);
    }
    cause.map_or_else(|| "the connection failed".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_key() {
        let tls = Tls { identity: Some(b"PRIVATE".to_vec()), ..Tls::default() };
        assert!(!format!("{tls:?}").contains("PRIVATE"));
        assert!(!format!("{tls:?}").contains("80, 82, 73"));
    }
}
