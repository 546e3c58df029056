//! The requests of one poll: how many, in which order, and when to stop asking.
//!
//! Architecture Invariant: a poll ends by its deadline, and what one Vault namespace answers never
//! stands in the way of another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use http::header::HeaderValue;
use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};

use super::answer::Answer;
use super::client::{Failure, Server};
use super::metadata::{self, Metadata};
use super::mounts::{Classified, Engine, Mounts};
use super::session::{Doubt, Pass, Session};
use crate::core::observation::Ask;
use crate::core::secret::{SecretId, Version};

/// Requests under way at once: enough to read thousands of secrets in a second, and few enough to
/// be no burst to a server.
const CONCURRENCY: usize = 8;

/// The longest poll. What was not asked for by then is asked for next, and what was seen is acted on
/// first.
const LONGEST_POLL: Duration = Duration::from_mins(1);

/// How often a request is sent again: after a rate limit, which says when, after an error, and after
/// a denial for which there is another token.
const RATE_LIMIT_RETRIES: u32 = 6;
const ERROR_RETRIES: u32 = 2;
const ERROR_PAUSE: Duration = Duration::from_millis(250);
const DENIAL_RETRIES: u32 = 2;

/// The longest that a server may make us wait by `Retry-After`, and the wait where it says nothing.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(1);
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(1);

/// A standby lags behind by up to about 90 ms: an answer that is older than what is known is asked
/// for again so often, with this pause. What is older still is for [`History`] to judge.
///
/// [`History`]: crate::core::observation::History
const STALE_RETRIES: u32 = 3;
const STALE_PAUSE: Duration = Duration::from_millis(150);

/// Why nothing is known of a secret, or why a new pod could not read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Missing,
    Deleted,
    Destroyed,
    Denied {
        metadata: String,
    },
    NoDataPrefix {
        correct: String,
    },
    NotKvV2(Engine),
    /// It concerns this secret alone.
    Failed(Failure),
    /// It concerns the server, or all of a Vault namespace.
    Out(Failure),
    /// There was no time left to ask.
    Late,
}

/// What a read brought.
pub(super) type Outcome = (Arc<SecretId>, Result<Version, Trouble>);

/// One poll.
pub(super) struct Reads<'a> {
    server: &'a Server,
    session: &'a Session,
    pass: Mutex<Pass>,
    /// The state of the storage that the latest answer was read from.
    index: Mutex<Option<HeaderValue>>,
    /// All requests wait until then, after a rate limit.
    resume_at: Mutex<Option<Instant>>,
    outages: Mutex<Outages>,
    /// Whether the server has answered anything sensible in this poll.
    has_answered: AtomicBool,
    /// How many secrets, or mounts, brought nothing but errors before that.
    errors: AtomicU32,
    deadline: Instant,
}

/// What is out of reach, by the first failure that said so.
#[derive(Default)]
struct Outages {
    server: Option<Failure>,
    namespaces: HashMap<Option<Arc<str>>, Failure>,
}

/// One secret to read.
struct Read<'a> {
    ask: &'a Ask,
    metadata: String,
}

impl<'a> Reads<'a> {
    pub(super) fn new(
        server: &'a Server,
        session: &'a Session,
        pass: Pass,
        index: Option<HeaderValue>,
    ) -> Self {
        Self {
            server,
            session,
            pass: Mutex::new(pass),
            index: Mutex::new(index),
            resume_at: Mutex::default(),
            outages: Mutex::default(),
            has_answered: AtomicBool::new(false),
            errors: AtomicU32::new(0),
            deadline: Instant::now() + LONGEST_POLL,
        }
    }

    /// Reads each secret once. Those whose mount is known come first: however many paths a tenant
    /// makes up that belong to no mount, they take no time from the others.
    pub(super) async fn read_all(&self, mounts: &mut Mounts, asks: &[Ask]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(asks.len());
        mounts.expire();
        let (known, unknown): (Vec<_>, Vec<_>) = asks.iter().partition(|ask| {
            let SecretId { namespace, path, .. } = &*ask.secret;
            mounts.classify(namespace.as_deref(), path).is_some()
        });
        for asks in [known, unknown] {
            self.read_some(mounts, asks, &mut outcomes).await;
        }
        for (secret, outcome) in &outcomes {
            if let Err(Trouble::Failed(Failure::Refused { .. })) = outcome {
                // As no KV v2 engine answers: the mount may have been replaced.
                mounts.forget(secret.namespace.as_deref(), &secret.path);
            }
        }
        outcomes
    }

    async fn read_some(&self, mounts: &mut Mounts, asks: Vec<&Ask>, outcomes: &mut Vec<Outcome>) {
        let mut readable = Vec::with_capacity(asks.len());
        for ask in asks {
            match self.classify(mounts, &ask.secret).await {
                Ok(metadata) => readable.push(Read { ask, metadata }),
                Err(trouble) => outcomes.push((Arc::clone(&ask.secret), Err(trouble))),
            }
        }
        // Where a limit lets only a part of them through, it is another part each time.
        fastrand::shuffle(&mut readable);
        // The first goes alone: if the server is out of reach, one request is enough to know.
        if let Some(first) = readable.pop() {
            outcomes.push((Arc::clone(&first.ask.secret), self.read(&first).await));
        }
        let queue = Mutex::new(readable.into_iter());
        let workers: Vec<_> = (0..CONCURRENCY).map(|_| self.work(&queue)).collect();
        outcomes.extend(join_all(workers).await.into_iter().flatten());
    }

    /// The state of the storage that was seen last.
    pub(super) fn into_index(self) -> Option<HeaderValue> {
        self.index.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The path of a secret's metadata, once its mount is known to be KV v2.
    async fn classify(&self, mounts: &mut Mounts, secret: &SecretId) -> Result<String, Trouble> {
        let SecretId { namespace, path, .. } = secret;
        if mounts.classify(namespace.as_deref(), path).is_none() {
            let question = Mounts::question(path);
            let asked = self.ask(namespace.as_ref(), &question, false, Mounts::read).await;
            match asked {
                Ok(answer) => mounts.learn(namespace.as_deref(), path, answer),
                Err(Trouble::Denied { .. }) => {
                    return Err(Trouble::Denied {
                        metadata: path.replacen("/data/", "/metadata/", 1),
                    });
                }
                Err(trouble) => return Err(trouble),
            }
        }
        match mounts.classify(namespace.as_deref(), path) {
            Some(Classified::Metadata(path)) => Ok(path),
            Some(Classified::NoDataPrefix { correct }) => Err(Trouble::NoDataPrefix { correct }),
            Some(Classified::NotKvV2(engine)) => Err(Trouble::NotKvV2(engine)),
            // Auth methods and the like, which the server reports by other paths.
            None => Err(Trouble::NotKvV2(Engine::Other("unknown".to_owned()))),
        }
    }

    /// Reads one secret after the other, until there is none left.
    async fn work(&self, queue: &Mutex<std::vec::IntoIter<Read<'_>>>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        loop {
            let next = lock(queue).next();
            let Some(read) = next else { return outcomes };
            outcomes.push((Arc::clone(&read.ask.secret), self.read(&read).await));
        }
    }

    async fn read(&self, read: &Read<'_>) -> Result<Version, Trouble> {
        let secret = &read.ask.secret;
        for attempt in 0..=STALE_RETRIES {
            let is_retry = attempt > 0;
            let seen = self
                .ask(secret.namespace.as_ref(), &read.metadata, is_retry, metadata::read)
                .await?;
            let version = match seen {
                Metadata::Live(version) => version,
                Metadata::Missing => return Err(Trouble::Missing),
                Metadata::Deleted => return Err(Trouble::Deleted),
                Metadata::Destroyed => return Err(Trouble::Destroyed),
            };
            if !read.ask.may_be_stale(version) || attempt == STALE_RETRIES {
                return Ok(version);
            }
            sleep(STALE_PAUSE).await;
        }
        Err(Trouble::Late)
    }

    /// Asks until there is an answer that `understand` can read, or no more sense in asking.
    /// `is_consistent` asks for an answer that is not older than the latest of the answers before.
    async fn ask<T>(
        &self,
        namespace: Option<&Arc<str>>,
        path: &str,
        is_consistent: bool,
        understand: impl Fn(&Answer, Timestamp) -> Result<T, Failure>,
    ) -> Result<T, Trouble> {
        let (mut rate_limits, mut errors, mut denials) = (0, 0, 0);
        loop {
            if let Some(failure) = self.outage(namespace) {
                return Err(Trouble::Out(failure));
            }
            let resume_at = *lock(&self.resume_at);
            if let Some(time) = resume_at {
                sleep_until(time.min(self.deadline)).await;
            }
            if Instant::now() >= self.deadline {
                return Err(Trouble::Late);
            }
            let pass = lock(&self.pass).clone();
            let index = if is_consistent { lock(&self.index).clone() } else { None };
            let name = namespace.map(|name| &**name);
            let got = self.server.get(path, name, &pass.token, index.as_ref()).await;
            let now = self.server.clock().at(Timestamp::now());
            let mut retry_after = None;
            let understood = got.and_then(|answer| {
                retry_after = answer.retry_after;
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
                    let pause = retry_after.unwrap_or(RATE_LIMIT_PAUSE).min(LONGEST_RETRY_AFTER);
                    // For all requests to this server, not just this one; spread a little, so that
                    // they do not come back as one.
                    *lock(&self.resume_at) = Some(Instant::now() + pause);
                    sleep(RATE_LIMIT_PAUSE.mul_f64(fastrand::f64() / 2.0)).await;
                }
                Failure::Server(_) | Failure::BadAnswer(_) if errors < ERROR_RETRIES => {
                    errors += 1;
                    sleep(ERROR_PAUSE).await;
                }
                failure => return Err(self.trouble(namespace, path, failure)),
            }
        }
    }

    /// What a failure means, and for whom.
    fn trouble(&self, namespace: Option<&Arc<str>>, path: &str, failure: Failure) -> Trouble {
        let mut outages = lock(&self.outages);
        match failure {
            Failure::Denied => {
                self.has_answered.store(true, Ordering::Relaxed);
                Trouble::Denied { metadata: path.to_owned() }
            }
            Failure::Unreachable(_) | Failure::Timeout => {
                outages.server.get_or_insert_with(|| failure.clone());
                Trouble::Out(failure)
            }
            // A namespace can be sealed or locked on its own.
            Failure::Sealed | Failure::TokenEnded | Failure::Redirected(_) => {
                outages.namespaces.entry(namespace.cloned()).or_insert_with(|| failure.clone());
                Trouble::Out(failure)
            }
            // A load balancer before a server that is gone answers so to everything. One alone may
            // be a secret that the server fails on.
            Failure::Server(_) | Failure::BadAnswer(_) | Failure::Endless
                if !self.has_answered.load(Ordering::Relaxed)
                    && self.errors.fetch_add(1, Ordering::Relaxed) > 0 =>
            {
                outages.namespaces.entry(namespace.cloned()).or_insert_with(|| failure.clone());
                Trouble::Out(failure)
            }
            failure => Trouble::Failed(failure),
        }
    }

    fn outage(&self, namespace: Option<&Arc<str>>) -> Option<Failure> {
        let outages = lock(&self.outages);
        outages.server.clone().or_else(|| outages.namespaces.get(&namespace.cloned()).cloned())
    }
}

/// Whether a failure casts doubt on the token.
fn doubt_of(failure: &Failure) -> Option<Doubt> {
    match failure {
        Failure::TokenEnded => Some(Doubt::Ended),
        Failure::Denied => Some(Doubt::Forbidden),
        _ => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
