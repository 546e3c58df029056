//! When a request of a poll may be sent, and with which token.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::Instant;

use super::request::RequestKind;
use crate::vault::client::Server;
use crate::vault::denials::TokenDoubt;
use crate::vault::lock::lock;
use crate::vault::pace::Pace;
use crate::vault::read_error::ReadError;
use crate::vault::session::{AfterDenial, Session, TokenLease};

/// The divisor for a part of a poll's time. Folders may be listed during the first such part. The
/// rest of the poll is reserved for secrets that no list returns.
const LISTING_PART: u32 = 3;

/// The pause before a request is sent again because a standby may not know a new token yet.
const UNKNOWN_TOKEN_PAUSE: Duration = Duration::from_millis(500);

/// The server, and the state that all requests of one poll share.
pub(super) struct Sender<'a> {
    pub(super) server: &'a Server,
    session: &'a Session,
    lease: Mutex<TokenLease>,
    pub(super) pace: Pace,
    /// When the next request may be sent, and when the next secret may be read alone.
    next: Mutex<Next>,
    /// Whether the server has given any useful answer in this poll.
    pub(super) has_answered: AtomicBool,
    pub(super) deadline: Instant,
    /// No list of a folder begins after this time. The remaining secrets still have to be read.
    pub(super) listing_deadline: Instant,
}

/// When requests may be sent, if they are paced.
struct Next {
    any: Instant,
    alone: Instant,
}

impl<'a> Sender<'a> {
    /// Begins a poll.
    pub(super) fn new(
        server: &'a Server,
        session: &'a Session,
        lease: TokenLease,
        pace: Pace,
    ) -> Self {
        let now = Instant::now();
        Self {
            server,
            session,
            lease: Mutex::new(lease),
            pace,
            next: Mutex::new(Next {
                any: now,
                alone: pace.spread_from.map_or(now, Instant::from_std),
            }),
            has_answered: AtomicBool::new(false),
            deadline: now + pace.longest_poll,
            listing_deadline: now + pace.longest_poll / LISTING_PART,
        }
    }

    /// Until when requests about mounts may be sent, if they begin now.
    pub(super) fn placing_deadline(&self) -> Instant {
        (Instant::now() + self.pace.longest_poll / LISTING_PART).min(self.deadline)
    }

    /// When the next secret may be read alone, if reads are spread.
    pub(super) fn next_alone(&self) -> Instant {
        lock(&self.next).alone
    }

    /// Takes a turn, and returns when the request may be sent; `None` if requests are not paced. A
    /// turn after the deadline is not taken. The pace and the rate limit of the server both hold, so
    /// the stricter one counts.
    pub(super) fn turn(&self, about: RequestKind, deadline: Instant) -> Option<Instant> {
        let paced = self.paced_turn(about, deadline);
        if paced.is_some_and(|turn| turn >= deadline) {
            return paced;
        }
        paced.max(self.server.turn(deadline))
    }

    fn paced_turn(&self, about: RequestKind, deadline: Instant) -> Option<Instant> {
        let Pace { interval, spread, .. } = self.pace;
        let mut next = lock(&self.next);
        let (time, interval) = if about == RequestKind::Secret && !spread.is_zero() {
            (&mut next.alone, spread)
        } else {
            (&mut next.any, interval)
        };
        if interval.is_zero() {
            return None;
        }
        let turn = (*time).max(Instant::now());
        if turn < deadline {
            *time = turn + interval;
        }
        Some(turn)
    }

    /// Returns the token for one request.
    pub(super) async fn pass_for_one(&self) -> Result<TokenLease, ReadError> {
        loop {
            let lease = lock(&self.lease).clone();
            if lease.uses.take() {
                return Ok(lease);
            }
            let replacement = self.session.after_last_use(lease.number).await;
            *lock(&self.lease) =
                replacement.map_err(|refused| ReadError::NoToken(refused.error))?;
        }
    }

    /// Replaces a denied token, if there is another. Returns how long to wait before the request is
    /// sent again; `None` if a new attempt is useless.
    pub(super) async fn replace_pass(
        &self,
        denied: &TokenLease,
        doubt: TokenDoubt,
    ) -> Option<Duration> {
        match self.session.after_denial(denied.number, doubt).await {
            AfterDenial::Retry(lease) => {
                *lock(&self.lease) = lease;
                Some(Duration::ZERO)
            }
            AfterDenial::AskAgain => Some(UNKNOWN_TOKEN_PAUSE),
            AfterDenial::Accept => None,
        }
    }
}
