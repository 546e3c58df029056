//! The client of a server of the Vault API: time-outs, bounded answers, no redirects, and errors
//! that never hold a token.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use http::header::{DATE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use jiff::Timestamp;
use reqwest::{Certificate, Identity, Proxy, Url, redirect};
use secrecy::{ExposeSecret, SecretString};
use vaultrs::api::EndpointMiddleware;
use vaultrs::client::{VaultClient, VaultClientSettingsBuilder};
use vaultrs::error::ClientError;

use crate::core::clock::ServerClock;

/// The longest answer that is read. Metadata of a secret with 10,000 versions is about 1.5 MB.
const LONGEST_ANSWER: usize = 8 << 20;

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
        }
    }
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
    /// The state of the storage that the answer was read from.
    pub index: Option<HeaderValue>,
}

/// A server of the Vault API.
pub struct Server {
    http: reqwest::Client,
    settings: ServerSettings,
    clock: Arc<ServerClock>,
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
        Ok(Self { http, settings, clock })
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
        namespace: Option<&str>,
        token: &SecretString,
        index: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let mut url = self.settings.address.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().push("v1").extend(path.split('/'));
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
            return Err(Failure::Redirected(text(LOCATION).unwrap_or("nowhere").to_owned()));
        }
        let retry_after =
            text(RETRY_AFTER).and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let index = headers.get(INDEX).cloned();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| transport(&error))? {
            if body.len() + chunk.len() > LONGEST_ANSWER {
                let limit = format!("longer than {LONGEST_ANSWER} bytes");
                return Err(Failure::BadAnswer(limit));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status: status.as_u16(), body, retry_after, index })
    }

    /// A client of `vaultrs` that uses our HTTP client, for logins and for the token itself. An empty
    /// token is none.
    pub(super) fn vaultrs(&self, token: &str) -> Result<VaultClient, Failure> {
        let namespace = self.settings.namespace.as_deref().map(str::to_owned);
        let mut settings = VaultClientSettingsBuilder::default();
        // All that it would otherwise take from the environment is set.
        settings
            .address(self.settings.address.as_str())
            .ca_certs(Vec::new())
            .identity(None)
            .timeout(Some(self.settings.timeout))
            .token(token)
            .verify(!self.settings.tls.skip_verify)
            .namespace(namespace.clone());
        let settings = settings.build().map_err(|_| {
            Failure::BadAnswer("the settings of the client do not fit together".to_owned())
        })?;
        Ok(VaultClient {
            http: rustify::clients::reqwest::Client::new(
                self.settings.address.as_str(),
                self.http.clone(),
            ),
            middle: EndpointMiddleware {
                token: token.to_owned(),
                version: "v1".to_owned(),
                wrap: None,
                namespace,
            },
            settings,
        })
    }
}

fn header(name: &'static str) -> http::HeaderName {
    http::HeaderName::from_static(name)
}

/// The failure that a status stands for; `None` where the answer is to be read.
pub(super) fn failure_of(status: u16, body: &[u8]) -> Option<Failure> {
    match status {
        200..=299 => None,
        403 => Some(denial_of(body)),
        429 => Some(Failure::RateLimited),
        // 472 and 473 are standbys of other kinds.
        472 | 473 | 503 => Some(Failure::Sealed),
        500.. => Some(Failure::Server(status)),
        _ => Some(Failure::Refused { status, message: said(body) }),
    }
}

/// A policy that forbids is reported as one of a list of errors, a token that the server does not
/// know by the bare words, or by name.
fn denial_of(body: &[u8]) -> Failure {
    let said = said(body);
    if said == "permission denied" || said.contains("invalid token") {
        Failure::TokenEnded
    } else {
        Failure::Denied
    }
}

/// What the server says in `errors` and `warnings`, on one line.
pub(super) fn said(body: &[u8]) -> String {
    #[derive(Default, serde::Deserialize)]
    struct Said {
        #[serde(default)]
        errors: Option<Vec<String>>,
        #[serde(default)]
        warnings: Option<Vec<String>>,
    }
    let Said { errors, warnings } = serde_json::from_slice(body).unwrap_or_default();
    let words: Vec<String> = [errors, warnings].into_iter().flatten().flatten().collect();
    words.join("; ").split_whitespace().collect::<Vec<_>>().join(" ")
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

/// The innermost cause: "connection refused" rather than "error sending request".
fn cause_of(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(std::error::Error::source) {
        cause = Some(inner);
    }
    cause.map_or_else(|| "the connection failed".to_owned(), ToString::to_string)
}

/// Maps an error of `vaultrs` at once: some of its forms print tokens.
pub(super) fn vaultrs_failure(error: &ClientError) -> Failure {
    use rustify::errors::ClientError as Rest;
    match error {
        ClientError::APIError { code, errors } => {
            let body = serde_json::json!({ "errors": errors }).to_string();
            failure_of(*code, body.as_bytes())
                .unwrap_or_else(|| Failure::BadAnswer(format!("status {code}")))
        }
        ClientError::RestClientError { source: Rest::ServerResponseError { code, .. } } => {
            failure_of(*code, &[]).unwrap_or_else(|| Failure::BadAnswer(format!("status {code}")))
        }
        ClientError::RestClientError { source: Rest::RequestError { source, .. } } => {
            match source.downcast_ref::<reqwest::Error>() {
                Some(error) => transport(error),
                None => Failure::Unreachable("the request failed".to_owned()),
            }
        }
        _ => Failure::BadAnswer("not of the expected form".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_meaning() {
        let table = [
            (200, None),
            (204, None),
            (403, Some("denied")),
            (400, Some("refused")),
            (404, Some("refused")),
            (429, Some("rate_limited")),
            (472, Some("sealed")),
            (503, Some("sealed")),
            (500, Some("server_error")),
            (502, Some("server_error")),
        ];
        for (status, reason) in table {
            assert_eq!(failure_of(status, b"").as_ref().map(Failure::reason), reason, "{status}");
        }
    }

    #[test]
    fn a_token_that_is_not_known_is_told_from_a_policy() {
        let table = [
            (r#"{"errors":["permission denied"]}"#, Failure::TokenEnded),
            (
                r#"{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}"#,
                Failure::TokenEnded,
            ),
            (r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#, Failure::Denied),
            ("", Failure::Denied),
        ];
        for (body, expected) in table {
            assert_eq!(failure_of(403, body.as_bytes()), Some(expected), "{body}");
        }
    }

    #[test]
    fn what_the_server_says_is_one_line() {
        let body = br#"{"errors":["1 error occurred:\n\t* bad path\n\n"],"warnings":["and so"]}"#;
        assert_eq!(said(body), "1 error occurred: * bad path ; and so");
        for body in ["", "<html>", "[]", r#"{"errors":null}"#] {
            assert_eq!(said(body.as_bytes()), "", "{body:?}");
        }
    }

    #[test]
    fn debug_output_holds_no_key() {
        let tls = Tls { identity: Some(b"PRIVATE".to_vec()), ..Tls::default() };
        assert!(!format!("{tls:?}").contains("PRIVATE"));
        assert!(!format!("{tls:?}").contains("80, 82, 73"));
    }
}
