//! The requests of one poll: how many, in which order, and when to stop asking.
//!
//! Architecture Invariant: a poll ends by its deadline, and what one Vault namespace answers never
//! stands in the way of another.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use http::header::HeaderValue;
use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};

use super::answer::Answer;
use super::client::{Failure, Server};
use super::denials::Doubt;
use super::folders::Folders;
use super::metadata::{self, Metadata};
use super::mounts::{Mounts, Place};
use super::pace::Pace;
use super::session::{Pass, Session};
use super::trouble::Trouble;
use crate::core::observation::Ask;
use crate::core::secret::{SecretId, Version};

mod bulk;
mod evidence;
mod placing;

use evidence::Outages;
pub(super) use evidence::Witnesses;

/// The part of a poll's time in which folders may be listed, so that the rest is left to read what no
/// list shows.
const LISTING_PART: u32 = 3;

/// How often a request is sent again: after a rate limit, which says when, after an error, and after
/// a denial for which there is another token.
const RATE_LIMIT_RETRIES: u32 = 6;
const ERROR_RETRIES: u32 = 2;
const ERROR_PAUSE: Duration = Duration::from_millis(250);
const DENIAL_RETRIES: u32 = 2;

/// Whoever met a rate limit waits longer by a random part of this, so that not all come back as one.
const RATE_LIMIT_SPREAD: Duration = Duration::from_millis(500);

/// A standby lags behind by up to about 90 ms: an answer that is older than what is known is asked
/// for again so often, with this pause. What is older still is for [`History`] to judge.
///
/// [`History`]: crate::core::observation::History
const STALE_RETRIES: u32 = 3;
const STALE_PAUSE: Duration = Duration::from_millis(150);

/// What a read brought.
pub(super) type Outcome = (Arc<SecretId>, Result<Version, Trouble>);

/// One poll.
pub(super) struct Reads<'a> {
    server: &'a Server,
    session: &'a Session,
    pass: Mutex<Pass>,
    pace: Pace,
    /// When the next request may be sent, and when the next secret may be read alone.
    next: Mutex<Next>,
    /// The state of the storage that the latest answer was read from.
    index: Mutex<Option<HeaderValue>>,
    outages: Mutex<Outages>,
    witnesses: Mutex<Witnesses>,
    /// The turn to find out whom a failure concerns.
    comparison: tokio::sync::Mutex<()>,
    /// Whether the server has answered anything sensible in this poll.
    has_answered: AtomicBool,
    /// Whether it has limited the rate of requests in this poll.
    has_limited: AtomicBool,
    turns: Turns<'a>,
    deadline: Instant,
    /// No folder is begun after this: what cannot be listed by then has yet to be read.
    listing_deadline: Instant,
}

/// Whose turn it is.
#[derive(Clone, Copy)]
pub(super) struct Turns<'a> {
    /// Those for which there was no time before: they come first.
    pub(super) late: &'a HashSet<Arc<SecretId>>,
    /// Those that have had theirs, and do not wait for it where reads are spread.
    pub(super) had: &'a HashSet<Arc<SecretId>>,
    /// Those that failed the last time: they come last.
    pub(super) failed: &'a HashSet<Arc<SecretId>>,
}

/// When what may be sent, where requests are not to come too fast.
struct Next {
    any: Instant,
    alone: Instant,
}

/// One secret to read.
struct Read<'a> {
    ask: &'a Ask,
    place: Place,
}

/// What is yet to be done, for several who do it.
struct Queue<T>(Mutex<std::vec::IntoIter<T>>);

/// What a request is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    /// What is mounted.
    Mount,
    /// A folder. Nothing hangs on the answer: where it fails, that says nothing of the server or the token,
    /// and another way is gone.
    Folder,
    /// A secret alone.
    Secret,
    /// A secret that is asked for once more.
    Again,
}

/// A request.
#[derive(Clone, Copy)]
struct Question<'q> {
    about: About,
    namespace: Option<&'q Arc<str>>,
    path: &'q str,
    query: &'q [(&'q str, &'q str)],
    /// It is not begun after this.
    until: Instant,
    /// Whether the answer must not be older than the latest of the answers before.
    is_consistent: bool,
}

impl<'a> Reads<'a> {
    pub(super) fn new(
        server: &'a Server,
        session: &'a Session,
        pass: Pass,
        pace: Pace,
        index: Option<HeaderValue>,
        mut witnesses: Witnesses,
        turns: Turns<'a>,
    ) -> Self {
        witnesses.begin();
        Self {
            server,
            session,
            pass: Mutex::new(pass),
            pace,
            next: Mutex::new(Next {
                any: Instant::now(),
                alone: pace.spread_from.map_or_else(Instant::now, Instant::from_std),
            }),
            index: Mutex::new(index),
            outages: Mutex::default(),
            witnesses: Mutex::new(witnesses),
            comparison: tokio::sync::Mutex::default(),
            has_answered: AtomicBool::new(false),
            has_limited: AtomicBool::new(false),
            turns,
            deadline: Instant::now() + pace.longest_poll,
            listing_deadline: Instant::now() + pace.longest_poll / LISTING_PART,
        }
    }

    /// Reads each secret once. Those whose mount is known come first: however many paths a tenant makes up
    /// that belong to no mount, they take no time from the others.
    pub(super) async fn read_all(
        &self,
        mounts: &mut Mounts,
        folders: &mut Folders,
        asks: &[Ask],
    ) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(asks.len());
        let (known, unknown): (Vec<_>, Vec<_>) = asks.iter().partition(|ask| {
            let SecretId { namespace, path, .. } = &*ask.secret;
            mounts.classify(namespace.as_deref(), path).is_some()
        });
        // Those of a mount that is asked about anew keep their place.
        mounts.expire(std::time::Instant::now());
        for asks in [known, unknown] {
            self.read_some(mounts, folders, asks, &mut outcomes).await;
        }
        for (secret, outcome) in &outcomes {
            if let Err(Trouble::Failed(Failure::Refused { .. })) = outcome {
                // As no KV v2 engine answers: the mount may have been replaced.
                mounts.forget(secret.namespace.as_deref(), &secret.path);
            }
        }
        outcomes
    }

    async fn read_some(
        &self,
        mounts: &mut Mounts,
        folders: &mut Folders,
        asks: Vec<&Ask>,
        outcomes: &mut Vec<Outcome>,
    ) {
        let mut readable = self.place(mounts, asks, outcomes).await;
        // Where a limit lets only a part of them through, it is another part each time.
        fastrand::shuffle(&mut readable);
        // From the end.
        readable.sort_by_key(|read| std::cmp::Reverse(self.order(read)));
        let has_failed = |read: &Read<'_>| self.turns.failed.contains(&read.ask.secret);
        bulk::put_lone_last(folders, &mut readable, |read| !has_failed(read));
        // The first goes alone: if the server is out of reach, one request is enough to know. Where it has to
        // wait for its turn, folders do not wait for it.
        if let Some(first) = readable.pop_if(|first| !self.has_to_wait(first)) {
            outcomes.push((Arc::clone(&first.ask.secret), self.read(&first).await));
        }
        let mut alone = self.list_some(folders, readable, outcomes).await;
        alone.sort_by_key(|read| self.order(read));
        let queue = Queue::new(alone);
        let readers = (0..self.pace.at_once.min(queue.len())).map(|_| self.read_from(&queue));
        outcomes.extend(join_all(readers).await.into_iter().flatten());
    }

    /// Who goes first: whoever was late, so that each has its turn; whoever failed goes last, and takes no
    /// time from the others.
    fn order(&self, read: &Read<'_>) -> u8 {
        let Turns { late, failed, .. } = self.turns;
        let secret = &read.ask.secret;
        if failed.contains(secret) { 2 } else { u8::from(!late.contains(secret)) }
    }

    /// Whether the server has answered anything sensible.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// When the next secret may be read alone, where that is spread.
    pub(super) fn goes_on_at(&self) -> std::time::Instant {
        lock(&self.next).alone.into_std()
    }

    /// The state of the storage that was seen last, and secrets that were answered.
    pub(super) fn into_parts(self) -> (Option<HeaderValue>, Witnesses) {
        let Self { index, witnesses, .. } = self;
        let index = index.into_inner().unwrap_or_else(PoisonError::into_inner);
        (index, witnesses.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads one secret after the other, until there is none left.
    async fn read_from(&self, queue: &Queue<Read<'_>>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while let Some(read) = queue.next() {
            outcomes.push((Arc::clone(&read.ask.secret), self.read(&read).await));
        }
        outcomes
    }

    async fn read(&self, read: &Read<'_>) -> Result<Version, Trouble> {
        let secret = &read.ask.secret;
        let path = read.place.metadata();
        for attempt in 0..=STALE_RETRIES {
            let is_again = attempt > 0 || self.turns.had.contains(secret);
            let about = if is_again { About::Again } else { About::Secret };
            let question = Question {
                is_consistent: attempt > 0,
                ..Question::about(about, secret.namespace.as_ref(), &path, self.deadline)
            };
            let metadata = self.ask(question, metadata::read).await?;
            self.was_answered(read);
            let version = metadata.live()?;
            if !read.ask.may_be_stale(version) || attempt == STALE_RETRIES {
                return Ok(version);
            }
            sleep(STALE_PAUSE).await;
        }
        Err(Trouble::Late)
    }

    /// Asks until there is an answer that `understand` can read, or no more sense in asking.
    async fn ask<T>(
        &self,
        question: Question<'_>,
        understand: impl Fn(&Answer, Timestamp) -> Result<T, Failure>,
    ) -> Result<T, Trouble> {
        let Question { mut about, namespace, path, query, until, is_consistent } = question;
        let is_optional = about == About::Folder;
        let (mut rate_limits, mut errors, mut denials) = (0, 0, 0);
        loop {
            if let Some(failure) = self.outage(namespace) {
                return Err(Trouble::Out { failure, is_own: false });
            }
            if let Some(turn) = self.turn(about, until) {
                sleep_until(turn.min(until)).await;
            }
            if about == About::Secret {
                // Its turn is taken, however often it takes to be answered.
                about = About::Again;
            }
            while let Some(time) = self.server.resumes_at()
                && Instant::now() < until
            {
                sleep_until(time.min(until)).await;
            }
            if Instant::now() >= until {
                let is_limited = self.has_limited.load(Ordering::Relaxed);
                return Err(if is_limited { Trouble::Limited } else { Trouble::Late });
            }
            let pass = self.pass_for_one().await?;
            let index = if is_consistent { lock(&self.index).clone() } else { None };
            let name = namespace.map(|name| &**name);
            let got = self.server.get(path, query, name, &pass.token, index.as_ref()).await;
            let now = self.server.clock().at(Timestamp::now());
            let understood = got.and_then(|answer| {
                let understood = understand(&answer, now)?;
                if answer.index.is_some() && !is_consistent {
                    *lock(&self.index) = answer.index;
                }
                Ok(understood)
            });
            let failure = match understood {
                Ok(understood) => {
                    self.has_answered.store(true, Ordering::Relaxed);
                    return Ok(understood);
                }
                Err(failure) => failure,
            };
            if let Some(doubt) = doubt_of(&failure)
                && (doubt == Doubt::Ended || !is_optional)
                && denials < DENIAL_RETRIES
                && let Some(anew) = self.session.after_denial(pass.number, doubt).await
            {
                denials += 1;
                *lock(&self.pass) = anew;
                continue;
            }
            match failure {
                Failure::RateLimited if rate_limits < RATE_LIMIT_RETRIES => {
                    rate_limits += 1;
                    self.has_limited.store(true, Ordering::Relaxed);
                    sleep(RATE_LIMIT_SPREAD.mul_f64(fastrand::f64())).await;
                }
                failure @ (Failure::Unreachable(_) | Failure::Sealed) => {
                    return Err(self.trouble(question, failure).await);
                }
                failure if is_optional => return Err(Trouble::Failed(failure)),
                Failure::RateLimited => return Err(Trouble::Limited),
                Failure::Server(_) | Failure::BadAnswer(_) if errors < ERROR_RETRIES => {
                    errors += 1;
                    sleep(ERROR_PAUSE).await;
                }
                failure => return Err(self.trouble(question, failure).await),
            }
        }
    }

    /// Whether a secret has to wait for its turn, since reads are spread.
    fn has_to_wait(&self, read: &Read<'_>) -> bool {
        !self.turns.had.contains(&read.ask.secret) && Instant::now() < lock(&self.next).alone
    }

    /// When the next request may be sent, where they are not to come too fast. A turn that would be behind
    /// the deadline is not taken.
    fn turn(&self, about: About, deadline: Instant) -> Option<Instant> {
        let Pace { interval, spread, .. } = self.pace;
        let mut next = lock(&self.next);
        let (time, interval) = if about == About::Secret && !spread.is_zero() {
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

    /// The token for one request.
    async fn pass_for_one(&self) -> Result<Pass, Trouble> {
        loop {
            let pass = lock(&self.pass).clone();
            if pass.uses.take() {
                return Ok(pass);
            }
            let anew = self.session.after_last_use(pass.number).await;
            *lock(&self.pass) = anew.map_err(|refused| Trouble::NoToken(refused.error))?;
        }
    }
}

impl<'q> Question<'q> {
    fn about(about: About, namespace: Option<&'q Arc<str>>, path: &'q str, until: Instant) -> Self {
        Self { about, namespace, path, query: &[], until, is_consistent: false }
    }
}

impl<T> Queue<T> {
    fn new(items: Vec<T>) -> Self {
        Self(Mutex::new(items.into_iter()))
    }

    fn next(&self) -> Option<T> {
        lock(&self.0).next()
    }

    fn len(&self) -> usize {
        lock(&self.0).len()
    }
}

impl Metadata {
    /// The version that is live, or why there is none.
    fn live(self) -> Result<Version, Trouble> {
        match self {
            Self::Live(version) => Ok(version),
            Self::Missing => Err(Trouble::Missing),
            Self::Deleted => Err(Trouble::Deleted),
            Self::Destroyed => Err(Trouble::Destroyed),
        }
    }
}

/// Whether a failure casts doubt on the token.
fn doubt_of(failure: &Failure) -> Option<Doubt> {
    match failure {
        Failure::TokenEnded => Some(Doubt::Ended),
        Failure::Denied | Failure::NoMount => Some(Doubt::Forbidden),
        _ => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
