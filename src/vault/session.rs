//! The session: one token for a connection. The session gets the token before a poll, renews or
//! replaces it in time, and revokes it when it is no longer needed.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, Notify};
use tokio::time::{sleep_until, timeout};
use tracing::{debug, info, warn};

use super::backoff::{Backoff, Failed};
use super::client::Server;
use super::denials::{Denials, Remedy, TokenDoubt};
use super::failure::Failure;
use super::login::{self, Login, LoginError, Method};
use super::token::{Grant, Step, Terms, TokenLifetime, Uses};

/// The value of the log key `worker`.
const WORKER: &str = "reloader";

/// How often credential files are read while a login waits for its back-off. Reading a file costs
/// no request.
const LOOK_AT_FILES: Duration = Duration::from_secs(30);

/// The time-out of a request that revokes a token.
const REVOKE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long tokens may be revoked after a poll, before the controller acts on the result of the
/// poll.
const LONGEST_REVOKING: Duration = Duration::from_secs(1);

/// The most tokens that wait to be revoked. Any further token lets the oldest one expire by itself.
const MOST_RETIRED: usize = 1000;

/// The shortest pause between two attempts to renew a given token. A token with more time left
/// waits for a third of the time left.
const RENEW_AGAIN: Duration = Duration::from_secs(1);

/// How long a pending login may still take when the session ends.
const LAST_LOGIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A token that is handed out for requests.
#[derive(Clone)]
pub(super) struct TokenLease {
    pub(super) token: SecretString,
    /// The number of the token, counted from 1.
    pub(super) number: u64,
    /// How many requests the token still allows. Each request takes one.
    pub(super) uses: Uses,
}

/// What to do after a request was denied.
pub(super) enum AfterDenial {
    /// Send the request again with another token.
    Retry(TokenLease),
    /// Send the request again after a moment with the same token: a standby may not know a token
    /// this new.
    AskAgain,
    /// Accept the denial.
    Accept,
}

impl AfterDenial {
    fn with(lease: Option<TokenLease>) -> Self {
        lease.map_or(Self::Accept, Self::Retry)
    }
}

/// No token is available at present.
#[derive(Clone, Debug)]
pub(super) struct NoToken {
    pub(super) error: LoginError,
    /// How long until the next attempt makes sense. `None` if the server is out of reach: then the
    /// poller decides when to try again.
    pub(super) retry_in: Option<Duration>,
}

/// Keeps the token of one connection.
pub(super) struct Session {
    server: Arc<Server>,
    method: Method,
    terms: Terms,
    /// Hashes credentials with random keys, so that nobody else can compare the fingerprints.
    fingerprints: RandomState,
    state: Mutex<State>,
    /// Notified when the token was replaced.
    is_replaced: Notify,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    number: u64,
    backoff: Backoff,
    not_before: Option<Instant>,
    last_error: Option<LoginError>,
    /// The fingerprint of the credentials of the last login; `None` if they could not be read.
    tried: Option<u64>,
    /// A login that has begun and not ended. The login continues when its poll is cancelled: a
    /// login that is cut off leaves a token behind that nobody knows and nobody revokes.
    pending_login: Option<BoxFuture<'static, Result<Login, LoginError>>>,
    denials: Denials,
    /// Whether the warning about tokens with few uses was logged.
    has_warned_of_few_uses: bool,
    /// Whether the warning was logged that a given token ends soon and cannot be renewed.
    has_warned_of_end: bool,
    /// Tokens that the controller logged in for, that were replaced, and that still have to be
    /// revoked.
    retired: Vec<SecretString>,
    /// Whether the warning was logged that Vault denies the revocation of tokens.
    has_warned_of_revocation: bool,
}

struct Held {
    token: SecretString,
    uses: Uses,
    lifetime: TokenLifetime,
    since: Instant,
    ours: bool,
    revocable: bool,
    /// When a given token is renewed, unless a poll renews it before.
    renew_at: Option<Instant>,
}

impl Session {
    /// Creates a session for polls every `period`. The session renews its token once no more than
    /// `threshold` of its lifetime is left.
    pub(super) fn new(
        server: Arc<Server>,
        method: Method,
        threshold: Duration,
        period: Duration,
    ) -> Self {
        let terms = Terms { threshold, period };
        let fingerprints = RandomState::new();
        let (state, is_replaced) = (Mutex::default(), Notify::new());
        Self { server, method, terms, fingerprints, state, is_replaced }
    }

    /// Returns the token for a poll that begins now.
    pub(super) async fn before_poll(&self) -> Result<TokenLease, NoToken> {
        let mut state = self.state.lock().await;
        if let Some(token) = self.method.reread(self.server.files()).await
            && state.held.as_ref().is_some_and(|h| h.token.expose_secret() != token.expose_secret())
        {
            debug!(worker = WORKER, "The token file was replaced");
            state.held = None;
            state.not_before = None;
        }
        let now = Instant::now();
        let step = state.held.as_ref().map_or(Step::Login, |held| {
            let step = held.lifetime.step(now, &self.terms);
            if held.uses.are_over() {
                Step::Login
            } else if step == Step::Login && !held.ours && !held.lifetime.has_ended(now) {
                // A given token cannot be replaced, and nothing more can be learned about it.
                Step::Use
            } else {
                step
            }
        });
        let renewed = match step {
            Step::Use => Ok(()),
            Step::Renew => self.renew(&mut state).await,
            Step::Login => self.login(&mut state).await,
        };
        // While the token is valid, a refused login does not stop the poll. A server that is out of
        // reach does.
        if let Err(refused) = renewed
            && (refused.retry_in.is_none()
                || state.held.as_ref().is_none_or(|held| held.lifetime.has_ended(Instant::now())))
        {
            return Err(refused);
        }
        self.warn_if_token_ends(&mut state);
        state
            .token_lease()
            .ok_or_else(|| state.refusal(LoginError::GivenTokenEnded, Failed::Unknown))
    }

    /// Keeps a given token alive while there is nothing to poll. Errors are reported when the token
    /// is needed.
    pub(super) async fn without_poll(&self) {
        if self.method.is_given() {
            drop(self.before_poll().await);
        }
    }

    /// Renews a given token between polls whenever it would end before the next poll, because no
    /// login can replace a given token. Runs until the future is dropped. Waits while there is no
    /// token, for example while this process does not lead.
    pub(super) async fn keep_alive(&self) {
        loop {
            let renew_at = self.renew_at(self.state.lock().await.held.as_ref());
            let Some(time) = renew_at else {
                self.is_replaced.notified().await;
                continue;
            };
            tokio::select! {
                () = sleep_until(time.into()) => self.renew_given().await,
                () = self.is_replaced.notified() => {}
            }
        }
    }

    /// Returns when a token is renewed between polls. If the server wants no requests, the renewal
    /// waits, unless the token would end first.
    fn renew_at(&self, held: Option<&Held>) -> Option<Instant> {
        let held = held?;
        let time = held.renew_at?;
        let resumes_at = self.server.resumes_at().map(tokio::time::Instant::into_std);
        let outlived = resumes_at.filter(|then| !held.lifetime.has_ended(*then));
        Some(outlived.map_or(time, |then| time.max(then)))
    }

    /// Renews a given token if its renewal is due.
    async fn renew_given(&self) {
        let mut state = self.state.lock().await;
        let is_due = self.renew_at(state.held.as_ref()).is_some_and(|time| time <= Instant::now());
        let Some(held) = state.held.as_mut().filter(|_| is_due) else { return };
        let outcome = if held.uses.take() {
            login::renew_now(&self.server, &held.token).await
        } else {
            Err(Failure::Denied)
        };
        let now = Instant::now();
        match outcome {
            Ok(grant) => {
                debug!(worker = WORKER, "Renewed the given token for {} s", grant.ttl.as_secs());
                held.renewed(grant, now, &self.terms);
            }
            Err(failure @ (Failure::TokenEnded | Failure::Denied | Failure::Refused { .. })) => {
                debug!(worker = WORKER, "The given token cannot be renewed: Vault {failure}");
                held.renew_at = None;
            }
            Err(failure) => {
                debug!(
                    worker = WORKER,
                    "Renewing the given token failed; retrying later: Vault {failure}"
                );
                held.renew_at = held.lifetime.renew_again_at(now, RENEW_AGAIN);
            }
        }
        self.warn_if_token_ends(&mut state);
    }

    /// Returns how long the token is still valid, if the controller can neither renew nor replace
    /// it.
    pub(super) async fn given_token_left(&self) -> Option<Duration> {
        let state = self.state.lock().await;
        let held = state.held.as_ref().filter(|held| !held.ours && held.renew_at.is_none())?;
        held.lifetime.ends_within(Duration::MAX, Instant::now())
    }

    /// Warns once that a given token ends before the next poll and that the controller cannot renew
    /// it.
    fn warn_if_token_ends(&self, state: &mut State) {
        let Some(held) = state.held.as_ref().filter(|held| !held.ours && held.renew_at.is_none())
        else {
            return;
        };
        let Some(left) = held.lifetime.ends_within(self.terms.period, Instant::now()) else {
            return;
        };
        if std::mem::replace(&mut state.has_warned_of_end, true) {
            return;
        }
        let remedy = match self.method {
            Method::TokenFile(_) => "Write another token to the file before then",
            _ => "Provide a token that can be renewed or has a longer TTL",
        };
        warn!(
            worker = WORKER,
            "The given token ends in {} s, before the next poll, and cannot be renewed. {remedy}",
            left.as_secs()
        );
    }

    /// Returns what to do after a request with the token `number` was denied.
    pub(super) async fn after_denial(&self, number: u64, doubt: TokenDoubt) -> AfterDenial {
        let mut state = self.state.lock().await;
        if state.number != number {
            // Another request was denied before, and its login has already replaced the token.
            return AfterDenial::with(state.token_lease());
        }
        // A given token cannot be replaced, but the content of its file may have changed.
        if matches!(self.method, Method::Token(_) | Method::None) {
            return AfterDenial::Accept;
        }
        let age = state.held.as_ref().map_or(Duration::MAX, |held| held.since.elapsed());
        match state.denials.remedy(doubt, age, self.terms.period) {
            Remedy::LogIn => {}
            Remedy::AskAgain => return AfterDenial::AskAgain,
            Remedy::Accept => return AfterDenial::Accept,
        }
        debug!(worker = WORKER, "Vault denied a request; logging in again, once");
        if self.login(&mut state).await.is_ok() {
            state.denials.has_logged_in(doubt);
            return AfterDenial::with(state.token_lease());
        }
        if doubt == TokenDoubt::Ended {
            // The token is useless, and the next poll reports why there is no other. The token is
            // still revoked, in case the token is valid after all.
            if let Some(held) = state.held.take_if(|held| held.ours) {
                state.retire(held);
            }
            state.held = None;
        }
        AfterDenial::Accept
    }

    /// Returns the token that follows the token `number`, which allows no more requests.
    pub(super) async fn after_last_use(&self, number: u64) -> Result<TokenLease, NoToken> {
        let mut state = self.state.lock().await;
        if state.number == number {
            self.login(&mut state).await?;
        }
        state
            .token_lease()
            .ok_or_else(|| state.refusal(LoginError::GivenTokenEnded, Failed::Unknown))
    }

    /// Ends a poll. If the server has answered, tokens that were replaced are revoked.
    pub(super) async fn after_poll(&self, has_answered: bool) {
        let mut state = self.state.lock().await;
        state.denials.after_poll();
        if has_answered {
            self.revoke_unless_paused(&mut state).await;
        }
    }

    /// Revokes a token that would end within the period, because nothing is requested until then.
    pub(super) async fn rest(&self) {
        let mut state = self.state.lock().await;
        let period = self.terms.period;
        if let Some(held) = state.held.take_if(|it| it.ours && it.lifetime.outlived_by(period)) {
            state.retire(held);
            self.revoke_unless_paused(&mut state).await;
        }
    }

    /// Ends the session. A token that the controller logged in for is revoked; a given token is
    /// not.
    pub(super) async fn close(&self) {
        let mut state = self.state.lock().await;
        if let Some(login) = state.pending_login.take() {
            match timeout(LAST_LOGIN_TIMEOUT, login).await {
                Ok(Ok(login)) => {
                    if let Some(before) = state.hold(login, &self.terms) {
                        state.retire(before);
                    }
                }
                Ok(_) => {}
                Err(_) => warn!(
                    worker = WORKER,
                    "A login was cancelled at the end of the session: Vault does not answer"
                ),
            }
        }
        if let Some(held) = state.held.take()
            && held.ours
        {
            state.retire(held);
        }
        self.revoke_retired(&mut state).await;
        if let left @ 1.. = state.retired.len() {
            warn!(
                worker = WORKER,
                "Vault does not answer; tokens that are left to their end: {left}"
            );
        }
    }

    async fn renew(&self, state: &mut State) -> Result<(), NoToken> {
        let Some(held) = state.held.as_mut().filter(|held| held.uses.take()) else {
            return self.login(state).await;
        };
        match login::renew(&self.server, &held.token).await {
            Ok(grant) => {
                held.renewed(grant, Instant::now(), &self.terms);
                debug!(worker = WORKER, "Renewed the Vault token for {} s", grant.ttl.as_secs());
                // The renewal may have granted too little time for the next polls.
                if held.ours && held.lifetime.is_last(Instant::now(), &self.terms) {
                    return self.login(state).await;
                }
                Ok(())
            }
            Err(failure @ (Failure::TokenEnded | Failure::Denied | Failure::Refused { .. })) => {
                debug!(worker = WORKER, "The Vault token cannot be renewed: Vault {failure}");
                self.login(state).await
            }
            Err(failure @ Failure::Unreachable(_)) => {
                Err(NoToken { error: LoginError::Server(failure), retry_in: None })
            }
            Err(failure) => {
                // The token is still valid, and reads may work although the renewal failed.
                debug!(
                    worker = WORKER,
                    "Renewing the Vault token failed; retrying later: Vault {failure}"
                );
                Ok(())
            }
        }
    }

    async fn login(&self, state: &mut State) -> Result<(), NoToken> {
        if let (Some(time), Some(error)) = (state.not_before, &state.last_error)
            && Instant::now() < time
        {
            let present = self.fingerprint().await;
            if present.is_none() || present == state.tried || state.backoff.is_nearly_locked() {
                let retry_in = time.saturating_duration_since(Instant::now());
                let retry_in =
                    if present.is_some() { retry_in.min(LOOK_AT_FILES) } else { retry_in };
                return Err(NoToken { error: error.clone(), retry_in: Some(retry_in) });
            }
            debug!(worker = WORKER, "The credentials for Vault were replaced");
        }
        match self.log_in(state).await {
            Ok(login) => {
                let before = state.hold(login, &self.terms);
                self.is_replaced.notify_one();
                if let Some(before) = before {
                    let is_used_up = before.uses.are_over();
                    state.retire(before);
                    // Until the poll is over, requests with a used-up token may still be in flight.
                    if !is_used_up {
                        self.revoke_unless_paused(state).await;
                    }
                }
                Ok(())
            }
            Err(error) => {
                let failed =
                    if self.is_counted(&error) { Failed::Counted } else { Failed::Unknown };
                let mut refused = state.refusal(error, failed);
                if state.tried.is_some() {
                    refused.retry_in = refused.retry_in.map(|time| time.min(LOOK_AT_FILES));
                }
                Err(refused)
            }
        }
    }

    /// Returns whether the server counts a failed login towards locking out the role or user.
    fn is_counted(&self, error: &LoginError) -> bool {
        let is_wrong = |failure: &Failure| match failure {
            Failure::Denied => true,
            Failure::Refused { status, .. } => *status == 400,
            _ => false,
        };
        self.method.can_be_locked()
            && matches!(error, LoginError::Refused { failure, .. } if is_wrong(failure))
    }

    /// Returns a fingerprint that changes when credentials in files change; `None` if the
    /// credentials cannot be read or are not in files.
    async fn fingerprint(&self) -> Option<u64> {
        let credentials = self.method.credentials(self.server.files()).await?;
        let parts: Vec<&str> = credentials.iter().map(ExposeSecret::expose_secret).collect();
        Some(self.fingerprints.hash_one(parts))
    }

    /// Begins a login, or continues the login that a cancelled poll has left behind.
    async fn log_in(&self, state: &mut State) -> Result<Login, LoginError> {
        if state.pending_login.is_none() {
            state.tried = self.fingerprint().await;
        }
        let login = state.pending_login.get_or_insert_with(|| {
            let (server, method) = (Arc::clone(&self.server), self.method.clone());
            Box::pin(async move { method.login(&server).await })
        });
        let outcome = login.await;
        state.pending_login = None;
        outcome
    }

    /// Revokes replaced tokens, unless the server wants no requests.
    async fn revoke_unless_paused(&self, state: &mut State) {
        if self.server.resumes_at().is_none() {
            self.revoke_retired(state).await;
        }
    }

    /// Revokes as many replaced tokens as time allows. A revocation that fails temporarily is tried
    /// again later.
    async fn revoke_retired(&self, state: &mut State) {
        let began = Instant::now();
        while began.elapsed() < LONGEST_REVOKING
            && let Some(token) = state.retired.last()
        {
            let revoked = timeout(REVOKE_TIMEOUT, login::revoke(&self.server, token)).await;
            match revoked {
                Ok(Ok(())) => debug!(worker = WORKER, "Revoked the Vault token"),
                Ok(Err(Failure::Denied)) => {
                    if !std::mem::replace(&mut state.has_warned_of_revocation, true) {
                        warn!(
                            worker = WORKER,
                            "Vault denies the revocation of tokens, so each token stays valid until \
                             it expires. Give the role the policy default, or add to the policy: \
                             path \"auth/token/revoke-self\" {{ capabilities = [\"update\"] }}"
                        );
                    }
                }
                // The token has already ended.
                Ok(Err(Failure::TokenEnded | Failure::Refused { .. })) => {}
                Ok(Err(failure)) => {
                    debug!(
                        worker = WORKER,
                        "Revoking the Vault token failed; retrying later: Vault {failure}"
                    );
                    return;
                }
                Err(_) => {
                    debug!(
                        worker = WORKER,
                        "Revoking the Vault token failed; retrying later: no answer"
                    );
                    return;
                }
            }
            // The token is removed only now, so that a cancelled revocation is repeated later.
            state.retired.pop();
        }
    }
}

impl Held {
    /// Applies the grant of a renewal.
    fn renewed(&mut self, grant: Grant, now: Instant, terms: &Terms) {
        self.lifetime = self.lifetime.renewed(grant, now);
        self.renew_at = self.lifetime.renew_at(terms).filter(|_| !self.ours);
    }
}

impl State {
    fn token_lease(&self) -> Option<TokenLease> {
        self.held.as_ref().map(|held| TokenLease {
            token: held.token.clone(),
            number: self.number,
            uses: held.uses.clone(),
        })
    }

    /// Stores a new token, and returns the previous one.
    fn hold(&mut self, login: Login, terms: &Terms) -> Option<Held> {
        let Login { token, grant, ours, revocable } = login;
        let now = Instant::now();
        let (uses, lifetime) = (Uses::of(grant), TokenLifetime::new(grant, now));
        let renew_at = lifetime.renew_at(terms).filter(|_| !ours);
        let held = Held { token, uses, lifetime, since: now, ours, revocable, renew_at };
        let before = self.held.replace(held);
        self.number += 1;
        self.backoff.reset();
        self.not_before = None;
        self.last_error = None;
        let is_first_warning =
            grant.uses.is_some() && !std::mem::replace(&mut self.has_warned_of_few_uses, true);
        match grant.uses {
            Some(_) if !is_first_warning => {}
            Some(uses) => warn!(
                worker = WORKER,
                "Vault gives a token for {uses} requests only, so a poll of more secrets logs in more \
                 than once. Set num_uses, or token_num_uses of the role, to 0"
            ),
            None if ours => {
                let ttl = grant.ttl.as_secs();
                info!(worker = WORKER, "Logged in to Vault; the token lives for {ttl} s");
            }
            None => {}
        }
        before
    }

    /// Queues a token for revocation, if the controller may revoke it.
    fn retire(&mut self, held: Held) {
        let Held { token, revocable: true, .. } = held else { return };
        if self.retired.len() >= MOST_RETIRED {
            // The oldest token ends first.
            self.retired.remove(0);
        }
        self.retired.push(token);
    }

    /// Records a failed attempt, and draws the time of the next one.
    fn refusal(&mut self, error: LoginError, failed: Failed) -> NoToken {
        let retry_in = self.backoff.after(failed, fastrand::f64());
        self.not_before = Some(Instant::now() + retry_in);
        self.last_error = Some(error.clone());
        NoToken { error, retry_in: Some(retry_in) }
    }
}
