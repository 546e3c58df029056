//! Sends requests until there is an answer: which failures are retried, and how often.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::HeaderValue;
use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};

use super::evidence::Evidence;
use super::request::{Request, RequestKind};
use super::sender::Sender;
use crate::vault::answer::Answer;
use crate::vault::denials::TokenDoubt;
use crate::vault::failure::Failure;
use crate::vault::lock::lock;
use crate::vault::read_error::ReadError;

/// How often a request is sent again: after a rate limit, which names a time; and after a denial, if
/// there is another token or a standby may not know the token yet. The settings of the server say how
/// often after an error, and whether after a rate limit at all.
const RATE_LIMIT_RETRIES: u32 = 6;
const ERROR_PAUSE: Duration = Duration::from_millis(250);
const DENIAL_RETRIES: u32 = 6;

/// The longest random addition to the wait after a rate limit, so that requests do not return all
/// at once.
const RATE_LIMIT_SPREAD: Duration = Duration::from_millis(500);

/// Sends the requests of a poll.
pub(super) struct Asker<'a> {
    pub(super) sender: Sender<'a>,
    pub(super) evidence: Evidence,
    /// The state of the storage that the latest answer was read from.
    pub(super) index: Mutex<Option<HeaderValue>>,
    /// Whether the server has limited the rate of requests in this poll.
    has_limited: AtomicBool,
}

impl<'a> Asker<'a> {
    pub(super) fn new(sender: Sender<'a>, evidence: Evidence, index: Option<HeaderValue>) -> Self {
        let index = Mutex::new(index);
        Self { sender, evidence, index, has_limited: AtomicBool::new(false) }
    }

    /// Sends a request until `understand` can read an answer, or until further attempts are
    /// useless.
    pub(super) async fn ask<T>(
        &self,
        request: Request<'_>,
        understand: impl Fn(&Answer, Timestamp) -> Result<T, Failure>,
    ) -> Result<T, ReadError> {
        let Request { mut about, namespace, path, query, until, is_consistent } = request;
        let server = self.sender.server;
        let is_optional = about == RequestKind::Folder;
        let error_retries = server.retries();
        let rate_limit_retries = if error_retries == 0 { 0 } else { RATE_LIMIT_RETRIES };
        let (mut rate_limits, mut errors, mut denials) = (0, 0, 0);
        loop {
            if let Some(failure) = self.evidence.outage(namespace) {
                return Err(ReadError::Out { failure, is_own: false });
            }
            if let Some(turn) = self.sender.turn(about, until) {
                sleep_until(turn.min(until)).await;
            }
            if about == RequestKind::Secret {
                // The secret has used its turn, even if the request must be repeated.
                about = RequestKind::Again;
            }
            while let Some(time) = server.resumes_at()
                && Instant::now() < until
            {
                sleep_until(time.min(until)).await;
            }
            if Instant::now() >= until {
                let is_limited = self.has_limited.load(Ordering::Relaxed);
                return Err(if is_limited { ReadError::Limited } else { ReadError::Late });
            }
            let lease = self.sender.pass_for_one().await?;
            let index = if is_consistent { lock(&self.index).clone() } else { None };
            let name = namespace.map(|name| &**name);
            let received = server.get(path, query, name, &lease.token, index.as_ref()).await;
            let now = server.clock().at(Timestamp::now());
            let understood = received.and_then(|answer| {
                let understood = understand(&answer, now)?;
                if answer.index.is_some() && !is_consistent {
                    *lock(&self.index) = answer.index;
                }
                Ok(understood)
            });
            let failure = match understood {
                Ok(understood) => {
                    self.sender.has_answered.store(true, Ordering::Relaxed);
                    return Ok(understood);
                }
                Err(failure) => failure,
            };
            if let Some(doubt) = doubt_of(&failure)
                && (doubt == TokenDoubt::Ended || !is_optional)
                && denials < DENIAL_RETRIES
                && let Some(pause) = self.sender.replace_pass(&lease, doubt).await
            {
                denials += 1;
                sleep(pause).await;
                continue;
            }
            match failure {
                Failure::RateLimited if rate_limits < rate_limit_retries => {
                    rate_limits += 1;
                    self.has_limited.store(true, Ordering::Relaxed);
                    sleep(RATE_LIMIT_SPREAD.mul_f64(fastrand::f64())).await;
                }
                failure
                @ (Failure::Unreachable(_) | Failure::Sealed | Failure::NamespaceLocked) => {
                    return Err(self.evidence.trouble(&self.sender, request, failure).await);
                }
                failure if is_optional => return Err(ReadError::Failed(failure)),
                Failure::RateLimited => return Err(ReadError::Limited),
                Failure::Server(_) | Failure::BadAnswer(_) if errors < error_retries => {
                    errors += 1;
                    sleep(ERROR_PAUSE).await;
                }
                failure => {
                    return Err(self.evidence.trouble(&self.sender, request, failure).await);
                }
            }
        }
    }
}

/// Returns whether a failure casts doubt on the token.
fn doubt_of(failure: &Failure) -> Option<TokenDoubt> {
    match failure {
        Failure::TokenEnded => Some(TokenDoubt::Ended),
        Failure::Denied | Failure::NoMount => Some(TokenDoubt::Forbidden),
        _ => None,
    }
}
