//! The HTTP client for a Vault server. Requests have time-outs, answers have a size limit,
//! redirects are followed only to configured addresses, and errors never contain a token or the
//! value of a header.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::{DATE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use jiff::Timestamp;
use reqwest::Url;
use rustify::endpoint::Endpoint;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};
use vaultrs::api::EndpointMiddleware;

use super::answer::{Answer, failure_of, pause, retry_after};
use super::connection::{ClientSetupError, Connection, ServerSettings, cause_of, name_server};
use super::failure::Failure;
use super::limiter::Limiter;
use super::lock::lock;
use super::reporter::{Reporter, operation_of};
use crate::credentials::files::Files;
use crate::credentials::service_account::RequestToken;
use crate::decide::clock::{ServerClock, contradicts};
use crate::events::sink::Events;
use crate::model::text::shorten;

/// The value of the log key `worker`.
const WORKER: &str = "reloader";

/// The longest answer that is read, in bytes. The metadata of a secret with 10,000 versions take
/// about 1.5 MB, and no real secret has five times as many versions.
const LONGEST_ANSWER: usize = 8 << 20;

/// Answers longer than this, in bytes, are read one at a time. No metadata of a real secret are
/// that long. The limit bounds memory: concurrent requests never hold more than one of the longest
/// answers.
const LONG_ANSWER: usize = 2 << 20;

/// The time-out of a request for the server's clock. Nothing waits longer for the clock.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer about the server's clock that took longer than this tells little. The first request may
/// include the time to set up a connection.
const QUICK_CLOCK: Duration = Duration::from_millis(500);

/// The header that names the state of the storage that an HA server answered from. A request with
/// this header makes a standby return no older state.
const INDEX: &str = "x-vault-index";

/// A client for one Vault server.
pub struct Server {
    connection: Mutex<Connection>,
    settings: Arc<ServerSettings>,
    files: Files,
    clock: Arc<ServerClock>,
    /// The permit to read a long answer.
    long_answers: Arc<Semaphore>,
    /// The server asked for no requests until this time.
    resumes_at: Mutex<Option<Instant>>,
    /// Whether the `Date` of a proxy was found to contradict the server's own time.
    is_contradicted: AtomicBool,
    reporter: Reporter,
    /// The turns of the requests, if the operator limits their rate.
    limiter: Limiter,
    /// Requests tokens of ServiceAccounts, for logins.
    service_accounts: Option<Arc<dyn RequestToken>>,
}

impl Server {
    /// Creates the client without sending a request. The `Date` of each answer goes to `clock`.
    /// Blocks while it reads the files of the settings; [`Self::connect`] does not block.
    pub fn new(
        settings: ServerSettings,
        clock: Arc<ServerClock>,
    ) -> Result<Self, ClientSetupError> {
        let connection = Connection::new(&settings)?;
        Ok(Self {
            connection: Mutex::new(connection),
            limiter: Limiter::new(settings.rate),
            settings: Arc::new(settings),
            files: Files::default(),
            clock,
            long_answers: Arc::new(Semaphore::new(1)),
            resumes_at: Mutex::default(),
            is_contradicted: AtomicBool::new(false),
            reporter: Reporter::default(),
            service_accounts: None,
        })
    }

    /// Does the same as [`Self::new`] without blocking. All attempts must pass the same `files`.
    pub async fn connect(
        settings: ServerSettings,
        clock: Arc<ServerClock>,
        files: &Files,
    ) -> Result<Self, ClientSetupError> {
        let server = files.read(move || Self::new(settings, clock)).await??;
        Ok(Self { files: files.clone(), ..server })
    }

    /// Reports all requests and logins to `events`. `name` is the name of the connection.
    #[must_use]
    pub fn with_events(self, name: Arc<str>, events: Events) -> Self {
        Self { reporter: Reporter::new(name, events), ..self }
    }

    /// Lets logins use tokens of ServiceAccounts.
    #[must_use]
    pub fn with_service_accounts(self, service_accounts: Arc<dyn RequestToken>) -> Self {
        Self { service_accounts: Some(service_accounts), ..self }
    }

    /// The source of tokens of ServiceAccounts.
    pub(super) fn service_accounts(&self) -> Option<&dyn RequestToken> {
        self.service_accounts.as_deref()
    }

    /// The reporter of this server.
    pub(super) fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    /// The file reader of this server.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Reads the files of the settings again, and uses them from now on if they changed. If the new
    /// content cannot be used, the client keeps the previous content.
    pub async fn refresh(&self) {
        let settings = Arc::clone(&self.settings);
        let before = Arc::clone(&lock(&self.connection).content);
        let read = self.files.read(move || Connection::changed(&settings, &before)).await;
        let mut connection = lock(&self.connection);
        match read.map_err(ClientSetupError::from).flatten() {
            Ok(None) => connection.problem = None,
            Ok(Some(changed)) => {
                if changed.content.material != connection.content.material {
                    info!(worker = WORKER, "The certificates for Vault have changed, and are used");
                }
                if changed.content.headers != connection.content.headers {
                    info!(worker = WORKER, "The headers for Vault have changed, and are used");
                }
                *connection = changed;
            }
            Err(error) => {
                let is_headers = matches!(error, ClientSetupError::Headers(_));
                let what = if is_headers { "headers" } else { "certificates" };
                let problem = error.to_string();
                if connection.problem.as_ref() != Some(&problem) {
                    warn!(
                        worker = WORKER,
                        "The {what} for Vault cannot be read anew: {problem}. Those from before \
                         are used"
                    );
                    connection.problem = Some(problem);
                }
            }
        }
    }

    /// The address of the server, for log lines.
    #[must_use]
    pub fn address(&self) -> String {
        self.settings.shown_address().trim_end_matches('/').to_owned()
    }

    /// How often a request of a poll is sent again after an error.
    pub(super) fn retries(&self) -> u32 {
        self.settings.retries
    }

    /// Takes a turn for a request of a poll, and returns when the request may be sent; `None` if the
    /// rate is not limited. A turn after the deadline is not taken. All other requests count, but do
    /// not wait: a poll waits for them.
    pub(super) fn turn(&self, deadline: Instant) -> Option<Instant> {
        self.limiter.turn(Instant::now(), deadline)
    }

    /// The Vault namespace of the login.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.settings.namespace.as_deref()
    }

    /// The clock of the server.
    #[must_use]
    pub fn clock(&self) -> &ServerClock {
        &self.clock
    }

    /// Until when the server wants no requests of any kind; `None` if requests are welcome.
    #[must_use]
    pub fn resumes_at(&self) -> Option<Instant> {
        lock(&self.resumes_at).filter(|time| Instant::now() < *time)
    }

    /// Reads an API path, given without `v1/`. With `index`, the answer is no older than that
    /// state. The caller has taken a [`Self::turn`].
    pub async fn get(
        &self,
        path: &str,
        query: &[(&str, &str)],
        namespace: Option<&str>,
        token: &SecretString,
        index: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let mut url = self.settings.url(path);
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
        let token = Some(token.expose_secret()).filter(|token| !token.is_empty());
        headers.extend(token.and_then(secret).map(|token| (header("x-vault-token"), token)));
        if let Some(namespace) = namespace {
            // Without the header, the server would read the same path of another Vault namespace.
            let value = HeaderValue::from_str(namespace).map_err(|_| {
                Failure::Unaskable("the Vault namespace is not a valid header value".to_owned())
            })?;
            headers.insert("x-vault-namespace", value);
        }
        if let Some(index) = index {
            headers.insert(INDEX, index.clone());
            headers.insert("x-vault-inconsistent", HeaderValue::from_static("forward-active-node"));
        }
        let mut request = reqwest::Request::new(reqwest::Method::GET, url);
        *request.headers_mut() = headers;
        let answer = self.send(request).await?;
        self.record_pause(&answer);
        Ok(answer)
    }

    /// Asks the server for its time. The request needs no token, and no audit device logs it. If
    /// the server does not tell its time, only the `Date` of its answers is used.
    ///
    /// The longer an answer takes, the less it tells. So a slow answer is followed by one more request.
    pub(super) async fn read_clock(&self) {
        let begin = Instant::now();
        let read = async {
            self.read_clock_once().await;
            if begin.elapsed() > QUICK_CLOCK {
                self.read_clock_once().await;
            }
        };
        // What was read by then counts.
        let _ = timeout(CLOCK_TIMEOUT, read).await;
    }

    async fn read_clock_once(&self) {
        #[derive(Deserialize)]
        struct Health {
            server_time_utc: i64,
        }
        if self.resumes_at().is_some() {
            return;
        }
        let url = self.settings.url("sys/health");
        self.limiter.count(Instant::now());
        let sent = Timestamp::now();
        let answer = self.send(reqwest::Request::new(reqwest::Method::GET, url));
        // A standby answers 429, which is not a rate limit here. A sealed server answers 503.
        let Ok(answer) = answer.await else { return };
        let received = Timestamp::now();
        let Ok(health) = serde_json::from_slice::<Health>(&answer.body) else { return };
        let Ok(time) = Timestamp::from_second(health.server_time_utc) else { return };
        self.clock.observe_own_time(time, sent, received);
        let date = answer.date.as_ref().and_then(|date| date.to_str().ok());
        let is_contradicted = date.is_some_and(|date| contradicts(date, time));
        if is_contradicted && !self.is_contradicted.swap(true, Ordering::Relaxed) {
            warn!(
                worker = WORKER,
                "The Date header of {} differs from Vault's own time by more than 5 seconds. Vault's \
                 time is used: check the clocks of the proxy and of Vault",
                self.address()
            );
        }
    }

    /// Returns whether the server as a whole is sealed. The request needs no token, and no audit
    /// device logs it.
    pub(super) async fn is_sealed(&self) -> Result<bool, Failure> {
        #[derive(Deserialize)]
        struct Status {
            sealed: bool,
        }
        let url = self.settings.url("sys/seal-status");
        self.limiter.count(Instant::now());
        let answer = self.send(reqwest::Request::new(reqwest::Method::GET, url)).await?;
        self.record_pause(&answer);
        if let Some(failure) = failure_of(answer.status, &answer.body) {
            return Err(failure);
        }
        let status: Status = serde_json::from_slice(&answer.body)
            .map_err(|error| Failure::BadAnswer(shorten(&format!("seal-status: {error}"))))?;
        Ok(status.sealed)
    }

    /// Does the same as [`Self::execute_now`], but sends nothing while the server wants no
    /// requests.
    pub(super) async fn execute(
        &self,
        endpoint: impl Endpoint,
        token: &str,
    ) -> Result<Answer, Failure> {
        if self.resumes_at().is_some() {
            return Err(Failure::RateLimited);
        }
        self.execute_now(endpoint, token).await
    }

    /// Sends a request of `vaultrs`, and returns the answer if its status is a success. `token`
    /// must satisfy [`super::login::is_token`], or be empty for a request without a token.
    ///
    /// The client of `vaultrs` is not used, because it reads answers of any length.
    pub(super) async fn execute_now(
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
        // The middleware puts the version before the whole path, so the prefix is added afterwards.
        let mut base = self.settings.address.clone();
        base.set_path("");
        let request = endpoint.with_middleware(&middleware).request(base.as_str());
        let request =
            request.map_err(|_| Failure::Unaskable("the request cannot be created".to_owned()))?;
        let mut request =
            reqwest::Request::try_from(request).map_err(|error| transport_failure(&error))?;
        let prefix = self.settings.prefix();
        if !prefix.is_empty() {
            let path = format!("{prefix}{}", request.url().path());
            request.url_mut().set_path(&path);
        }
        if let Some(token) = request.headers_mut().get_mut("x-vault-token") {
            token.set_sensitive(true);
        }
        self.limiter.count(Instant::now());
        let answer = self.send(request).await?;
        self.record_pause(&answer);
        match failure_of(answer.status, &answer.body) {
            Some(failure) => Err(failure),
            None => Ok(answer),
        }
    }

    /// Records how long the server wants no requests. A random part is added, so that clients that
    /// were told the same time do not all return together.
    fn record_pause(&self, answer: &Answer) {
        if let Some(pause) = answer.pause {
            let pause = pause.mul_f64(1.0 + fastrand::f64() / 5.0);
            let mut resumes_at = lock(&self.resumes_at);
            *resumes_at = (*resumes_at).max(Some(Instant::now() + pause));
        }
    }

    /// Sends a request, and sends it once more if the server redirects to a configured address.
    async fn send(&self, mut request: reqwest::Request) -> Result<Answer, Failure> {
        let http = lock(&self.connection).http.clone();
        let operation = operation_of(request.url(), self.settings.prefix());
        let retry = request.try_clone();
        self.name_server(&mut request);
        let sent = Timestamp::now();
        let response = self.reporter.send(&http, operation, request).await;
        let response = response.map_err(|error| transport_failure(&error))?;
        if let Some(mut retry) = retry
            && let Some(target) = self.redirect_target(retry.url(), &response)
        {
            *retry.url_mut() = target;
            self.name_server(&mut retry);
            let sent = Timestamp::now();
            let response = self.reporter.send(&http, operation, retry).await;
            let response = response.map_err(|error| transport_failure(&error))?;
            return self.read(response, sent).await;
        }
        self.read(response, sent).await
    }

    fn name_server(&self, request: &mut reqwest::Request) {
        if let Some(name) = &self.settings.tls.server_name {
            name_server(request, name);
        }
    }

    /// Returns the target of a redirect if the target is a configured address.
    fn redirect_target(&self, from: &Url, response: &reqwest::Response) -> Option<Url> {
        if !matches!(response.status().as_u16(), 301 | 302 | 307 | 308) {
            return None;
        }
        let location = response.headers().get(LOCATION)?.to_str().ok()?;
        let target = from.join(location).ok()?;
        is_configured(&self.settings, &target).then_some(target)
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
            self.clock.observe_date(date, sent, Timestamp::now());
        }
        if status.is_redirection() {
            let target = shorten(text(LOCATION).unwrap_or("nowhere"));
            return Err(Failure::Redirected { target, advice: redirect_advice(&self.settings) });
        }
        let mut answer = Answer::new(status.as_u16(), Vec::new());
        answer.pause = pause(
            answer.status,
            text(RETRY_AFTER).and_then(|later| retry_after(later, text(DATE))),
        );
        answer.index = headers.get(INDEX).cloned();
        answer.date = headers.get(DATE).cloned();
        while let Some(chunk) = response.chunk().await.map_err(|error| read_failure(&error))? {
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

/// Returns whether a URL belongs to a configured server. Behind a path, another path of the same
/// host may be another service.
fn is_configured(settings: &ServerSettings, url: &Url) -> bool {
    let is_of = |address: &Url| {
        let below = url.path().strip_prefix(address.path().trim_end_matches('/'));
        address.origin() == url.origin() && below.is_some_and(|rest| rest.starts_with('/'))
    };
    let others = settings.redirects.as_ref();
    others.is_some_and(|others| is_of(&settings.address) || others.iter().any(is_of))
}

/// Returns what to do about a redirect that is not followed.
fn redirect_advice(settings: &ServerSettings) -> &'static str {
    if settings.socket.is_some() {
        "No redirect is followed from a Unix socket: let the server behind the socket forward requests, \
         or set VAULT_ADDR to the address of Vault instead"
    } else if settings.redirects.is_none() {
        "If it is right, remove VAULT_DISABLE_REDIRECTS and add it to VAULT_REDIRECT_ADDRS"
    } else {
        "If it is right, add it to VAULT_REDIRECT_ADDRS"
    }
}

fn header(name: &'static str) -> http::HeaderName {
    http::HeaderName::from_static(name)
}

/// Maps an error of the HTTP client. The text of the error can contain the address, but never a
/// header.
fn transport_failure(error: &reqwest::Error) -> Failure {
    if error.is_timeout() {
        Failure::Timeout
    } else if error.is_builder() {
        Failure::Unaskable(cause_of(error))
    } else {
        Failure::Unreachable(cause_of(error))
    }
}

/// Maps an error that occurs while an answer is read. The server is reachable: it has begun to
/// answer.
fn read_failure(error: &reqwest::Error) -> Failure {
    if error.is_timeout() {
        Failure::Endless
    } else {
        Failure::BadAnswer(format!("it was cut short: {}", cause_of(error)))
    }
}

#[cfg(test)]
mod tests;
