//! The one token: taken before a poll, renewed or replaced when its time says so, and revoked when
//! it is of no more use.

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

/// The worker that log lines name.
const WORKER: &str = "reloader";

/// How often files with credentials are looked at while a login waits, which costs no request.
const LOOK_AT_FILES: Duration = Duration::from_secs(30);

/// How long the last request, which revokes the token, may take.
const REVOKE_TIMEOUT: Duration = Duration::from_millis(500);

/// For how long tokens are revoked behind a poll, before it is acted on what was seen.
const LONGEST_REVOKING: Duration = Duration::from_secs(1);

/// The most tokens that wait for it. Whoever cannot revoke that many has them end by themselves.
const MOST_RETIRED: usize = 1000;

/// Between two attempts to renew a given token, at least; where more of its time is left, a third of that.
const RENEW_AGAIN: Duration = Duration::from_secs(1);

/// How long a login may still take when the session ends.
const LAST_LOGIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A token as it is handed out for requests.
#[derive(Clone)]
pub(super) struct TokenLease {
    pub(super) token: SecretString,
    /// Which token it is, counted from 1.
    pub(super) number: u64,
    /// The requests that it is still good for: one is taken for each.
    pub(super) uses: Uses,
}

/// What to try after a request was denied.
pub(super) enum AfterDenial {
    /// The request with another token.
    Retry(TokenLease),
    /// The same after a moment: the token is so new that a standby need not know it.
    AskAgain,
    /// Nothing.
    Accept,
}

impl AfterDenial {
    fn with(pass: Option<TokenLease>) -> Self {
        pass.map_or(Self::Accept, Self::Retry)
    }
}

/// No token is to be had for now.
#[derive(Clone, Debug)]
pub(super) struct NoToken {
    pub(super) error: LoginError,
    /// How long until the next attempt makes sense; `None` where the server is out of reach, and it is
    /// for the polls to say when to come back.
    pub(super) retry_in: Option<Duration>,
}

/// Keeps the token of one connection.
pub(super) struct Session {
    server: Arc<Server>,
    method: Method,
    terms: Terms,
    /// Makes fingerprints of credentials that nobody else can compare.
    fingerprints: RandomState,
    state: Mutex<State>,
    /// Told when there is another token.
    is_replaced: Notify,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    number: u64,
    backoff: Backoff,
    not_before: Option<Instant>,
    last_error: Option<LoginError>,
    /// The fingerprint of the credentials that were tried last; `None` where they could not be read.
    tried: Option<u64>,
    /// A login that began and has not ended. It outlives a poll that is given up meanwhile: a login
    /// that is cut off leaves a token behind that nobody knows, and so nobody revokes.
    under_way: Option<BoxFuture<'static, Result<Login, LoginError>>>,
    denials: Denials,
    /// Whether tokens of few uses were met before, which is said once.
    is_of_few: bool,
    /// Whether it was said that a given token ends before long, and nothing can be done about it.
    is_said_to_end: bool,
    /// Tokens of ours that others have replaced, and that are yet to be revoked.
    retired: Vec<SecretString>,
    /// Whether it was said that tokens are left to their end.
    is_left: bool,
}

struct Held {
    token: SecretString,
    uses: Uses,
    lease: TokenLifetime,
    since: Instant,
    ours: bool,
    revocable: bool,
    /// When a given token is renewed, if no poll has renewed it before.
    renew_at: Option<Instant>,
}

impl Session {
    /// A session that renews its token once no more than `threshold` of its time is left, and is
    /// asked for it each `period`.
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

    /// The token for a poll that begins now.
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
            let step = held.lease.step(now, &self.terms);
            if held.uses.are_over() {
                Step::Login
            } else if step == Step::Login && !held.ours && !held.lease.has_ended(now) {
                // There is no other, and nothing to be learnt of this one.
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
        // While the token lives, a login that is refused is no reason not to poll; that the server is out
        // of reach is one.
        if let Err(refused) = renewed
            && (refused.retry_in.is_none()
                || state.held.as_ref().is_none_or(|held| held.lease.has_ended(Instant::now())))
        {
            return Err(refused);
        }
        self.say_if_it_ends(&mut state);
        state.pass().ok_or_else(|| state.refusal(LoginError::GivenTokenEnded, Failed::Unknown))
    }

    /// Nothing is to be polled at present: a given token is looked up all the same, so that it is kept alive
    /// until there is. What is wrong with it is said when it is needed.
    pub(super) async fn without_poll(&self) {
        if self.method.is_given() {
            drop(self.before_poll().await);
        }
    }

    /// Renews a given token between polls, whenever it would end before the next one, until this is
    /// dropped: no login could replace it. Without a token, and so while this process does not lead, it
    /// waits for one.
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

    /// When a token is renewed between polls. A server that wants to be left alone is, while the token
    /// outlives that.
    fn renew_at(&self, held: Option<&Held>) -> Option<Instant> {
        let held = held?;
        let time = held.renew_at?;
        let resumes_at = self.server.resumes_at().map(tokio::time::Instant::into_std);
        let outlived = resumes_at.filter(|then| !held.lease.has_ended(*then));
        Some(outlived.map_or(time, |then| time.max(then)))
    }

    /// Renews a given token, if it is time.
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
                debug!(worker = WORKER, "The given token is renewed later: Vault {failure}");
                held.renew_at = held.lease.renew_again_at(now, RENEW_AGAIN);
            }
        }
        self.say_if_it_ends(&mut state);
    }

    /// Says once that a given token ends before the next poll, and that nothing here can change that.
    fn say_if_it_ends(&self, state: &mut State) {
        let Some(held) = state.held.as_ref().filter(|held| !held.ours && held.renew_at.is_none())
        else {
            return;
        };
        let Some(left) = held.lease.ends_within(self.terms.period, Instant::now()) else { return };
        if std::mem::replace(&mut state.is_said_to_end, true) {
            return;
        }
        let remedy = match self.method {
            Method::TokenFile(_) => "Another token must be in its file by then",
            _ => "Give one that can be renewed, or lives for longer",
        };
        warn!(
            worker = WORKER,
            "The given token ends in {} s, before the next poll, and cannot be renewed. {remedy}",
            left.as_secs()
        );
    }

    /// A request with the token `number` was denied. Returns what to try instead.
    pub(super) async fn after_denial(&self, number: u64, doubt: TokenDoubt) -> AfterDenial {
        let mut state = self.state.lock().await;
        if state.number != number {
            // Somebody else's request was denied as well, and has logged in meanwhile.
            return AfterDenial::with(state.pass());
        }
        // A given token cannot be replaced, but its file may have been.
        if matches!(self.method, Method::Token(_) | Method::None) {
            return AfterDenial::Accept;
        }
        let age = state.held.as_ref().map_or(Duration::MAX, |held| held.since.elapsed());
        match state.denials.remedy(doubt, age, self.terms.period) {
            Remedy::LogIn => {}
            Remedy::AskAgain => return AfterDenial::AskAgain,
            Remedy::Accept => return AfterDenial::Accept,
        }
        debug!(worker = WORKER, "Vault denied a request; logging in anew, once");
        if self.login(&mut state).await.is_ok() {
            state.denials.has_logged_in(doubt);
            return AfterDenial::with(state.pass());
        }
        if doubt == TokenDoubt::Ended {
            // It is of no use; the next poll says why there is no other. Should it live after all, it is
            // not left behind.
            if let Some(held) = state.held.take_if(|held| held.ours) {
                state.retire(held);
            }
            state.held = None;
        }
        AfterDenial::Accept
    }

    /// The token `number` has been used as often as it may be. Answers the one that follows it.
    pub(super) async fn after_last_use(&self, number: u64) -> Result<TokenLease, NoToken> {
        let mut state = self.state.lock().await;
        if state.number == number {
            self.login(&mut state).await?;
        }
        state.pass().ok_or_else(|| state.refusal(LoginError::GivenTokenEnded, Failed::Unknown))
    }

    /// A poll is over. Where the server has answered, the tokens that others have replaced are revoked.
    pub(super) async fn after_poll(&self, has_answered: bool) {
        let mut state = self.state.lock().await;
        state.denials.after_poll();
        if has_answered {
            self.revoke_unless_paused(&mut state).await;
        }
    }

    /// Nothing is asked for a period: revokes a token that will have ended by then.
    pub(super) async fn rest(&self) {
        let mut state = self.state.lock().await;
        let period = self.terms.period;
        if let Some(held) = state.held.take_if(|it| it.ours && it.lease.outlived_by(period)) {
            state.retire(held);
            self.revoke_unless_paused(&mut state).await;
        }
    }

    /// Ends the session: a token that we logged in for is revoked, a given one is not.
    pub(super) async fn close(&self) {
        let mut state = self.state.lock().await;
        if let Some(login) = state.under_way.take() {
            match timeout(LAST_LOGIN_TIMEOUT, login).await {
                Ok(Ok(login)) => {
                    if let Some(before) = state.hold(login, &self.terms) {
                        state.retire(before);
                    }
                }
                Ok(_) => {}
                Err(_) => warn!(worker = WORKER, "A login is given up: Vault does not answer"),
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
                // What was granted may already be too little for the polls to come.
                if held.ours && held.lease.is_last(Instant::now(), &self.terms) {
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
                // It lives on for a while, and reads may work where this does not.
                debug!(worker = WORKER, "The Vault token is renewed later: Vault {failure}");
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
                    // Requests with one that was used up may still be under way, until the poll is over.
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

    /// Whether a login failed in a way that the server counts, and locks whoever it is of.
    fn is_counted(&self, error: &LoginError) -> bool {
        let is_wrong = |failure: &Failure| match failure {
            Failure::Denied => true,
            Failure::Refused { status, .. } => *status == 400,
            _ => false,
        };
        self.method.can_be_locked()
            && matches!(error, LoginError::Refused { failure, .. } if is_wrong(failure))
    }

    /// Tells credentials in files from those that were there before; `None` where they cannot be read,
    /// or are in no file.
    async fn fingerprint(&self) -> Option<u64> {
        let credentials = self.method.credentials(self.server.files()).await?;
        let parts: Vec<&str> = credentials.iter().map(ExposeSecret::expose_secret).collect();
        Some(self.fingerprints.hash_one(parts))
    }

    /// Begins a login, or goes on with one that a poll has left behind.
    async fn log_in(&self, state: &mut State) -> Result<Login, LoginError> {
        if state.under_way.is_none() {
            state.tried = self.fingerprint().await;
        }
        let login = state.under_way.get_or_insert_with(|| {
            let (server, method) = (Arc::clone(&self.server), self.method.clone());
            Box::pin(async move { method.login(&server).await })
        });
        let outcome = login.await;
        state.under_way = None;
        outcome
    }

    /// Revokes tokens, unless the server wants to be left alone.
    async fn revoke_unless_paused(&self, state: &mut State) {
        if self.server.resumes_at().is_none() {
            self.revoke_retired(state).await;
        }
    }

    /// Revokes tokens, as many as there is time for. What fails for the moment is done later.
    async fn revoke_retired(&self, state: &mut State) {
        let began = Instant::now();
        while began.elapsed() < LONGEST_REVOKING
            && let Some(token) = state.retired.last()
        {
            let revoked = timeout(REVOKE_TIMEOUT, login::revoke(&self.server, token)).await;
            match revoked {
                Ok(Ok(())) => debug!(worker = WORKER, "Revoked the Vault token"),
                Ok(Err(Failure::Denied)) => {
                    if !std::mem::replace(&mut state.is_left, true) {
                        warn!(
                            worker = WORKER,
                            "Vault denies that its token is revoked, so each is left to its end. Let the \
                             role give the policy default, or add to the policy: \
                             path \"auth/token/revoke-self\" {{ capabilities = [\"update\"] }}"
                        );
                    }
                }
                // It has ended already.
                Ok(Err(Failure::TokenEnded | Failure::Refused { .. })) => {}
                Ok(Err(failure)) => {
                    debug!(worker = WORKER, "The Vault token is revoked later: Vault {failure}");
                    return;
                }
                Err(_) => {
                    debug!(worker = WORKER, "The Vault token is revoked later: no answer");
                    return;
                }
            }
            // Not before: a revocation that is given up under way is done again at the end.
            state.retired.pop();
        }
    }
}

impl Held {
    /// Takes in what a renewal granted.
    fn renewed(&mut self, grant: Grant, now: Instant, terms: &Terms) {
        self.lease = self.lease.renewed(grant, now);
        self.renew_at = self.lease.renew_at(terms).filter(|_| !self.ours);
    }
}

impl State {
    fn pass(&self) -> Option<TokenLease> {
        self.held.as_ref().map(|held| TokenLease {
            token: held.token.clone(),
            number: self.number,
            uses: held.uses.clone(),
        })
    }

    /// Keeps a new token. Answers the one before.
    fn hold(&mut self, login: Login, terms: &Terms) -> Option<Held> {
        let Login { token, grant, ours, revocable } = login;
        let now = Instant::now();
        let (uses, lease) = (Uses::of(grant), TokenLifetime::new(grant, now));
        let renew_at = lease.renew_at(terms).filter(|_| !ours);
        let held = Held { token, uses, lease, since: now, ours, revocable, renew_at };
        let before = self.held.replace(held);
        self.number += 1;
        self.backoff.reset();
        self.not_before = None;
        self.last_error = None;
        let is_first_of_few = grant.uses.is_some() && !std::mem::replace(&mut self.is_of_few, true);
        match grant.uses {
            Some(_) if !is_first_of_few => {}
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

    /// Takes a token to be revoked, if it is ours and can be.
    fn retire(&mut self, held: Held) {
        let Held { token, revocable: true, .. } = held else { return };
        if self.retired.len() >= MOST_RETIRED {
            // The oldest, which will have ended first.
            self.retired.remove(0);
        }
        self.retired.push(token);
    }

    /// Notes a failed attempt, and draws when the next one may be.
    fn refusal(&mut self, error: LoginError, failed: Failed) -> NoToken {
        let retry_in = self.backoff.after(failed, fastrand::f64());
        self.not_before = Some(Instant::now() + retry_in);
        self.last_error = Some(error.clone());
        NoToken { error, retry_in: Some(retry_in) }
    }
}
