//! The poller: asks the server once for each secret, and says what was observed.
//!
//! Architecture Invariant: whatever the server answers, the poll ends, and what is not certain is
//! unknown. A server that is sealed or out of reach costs one request a poll, not one a secret.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use http::header::HeaderValue;
use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use super::client::{Answer, Failure, Server};
use super::login::Method;
use super::metadata::{self, Metadata};
use super::mounts::{Classified, Engine, Mounts};
use super::session::{Doubt, Pass, Session};
use crate::core::observation::{Ask, Observation, Polled};
use crate::core::secret::{SecretId, Version};
use crate::reloader::Vault;

/// The worker that log lines name.
const WORKER: &str = "reloader";

/// Requests under way at once: enough to read thousands of secrets in a second, and few enough to
/// be no burst to a server.
const CONCURRENCY: usize = 8;

/// How often a read is asked again: after a rate limit, which says when, after an error, and after a
/// denial for which there is another token.
const RATE_LIMIT_RETRIES: u32 = 6;
const ERROR_RETRIES: u32 = 2;
const DENIAL_RETRIES: u32 = 2;
const ERROR_PAUSE: Duration = Duration::from_millis(250);

/// The longest that a server may make us wait by `Retry-After`, and the wait where it says nothing.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(1);
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(1);

/// A standby lags behind by up to about 90 ms: an answer that is older than what is known is asked
/// for again so often, with this pause, before it is believed.
const STALE_RETRIES: u32 = 3;
const STALE_PAUSE: Duration = Duration::from_millis(150);

/// After a poll in which something failed: a random time up to the first, doubled up to the last.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

/// Polls one server.
pub struct Poller {
    server: Arc<Server>,
    session: Session,
    mounts: Mounts,
    /// What is wrong with each secret, said once a change.
    troubles: HashMap<Arc<SecretId>, Trouble>,
    /// Why the server as a whole is out of reach, said once a change.
    outage: Option<String>,
    failed_polls: u32,
    ignore_missing: bool,
}

/// What is wrong with a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    Missing,
    Deleted,
    Destroyed,
    Denied { metadata: String },
    NoDataPrefix { correct: String },
    NotKvV2(Engine),
    Failed(Failure),
}

/// What is shared by the reads of one poll.
struct Reads<'a> {
    server: &'a Server,
    session: &'a Session,
    pass: Mutex<Pass>,
    /// All requests wait until then, after a rate limit.
    resume_at: Mutex<Option<Instant>>,
    /// Set by the first failure that concerns the whole server.
    outage: Mutex<Option<Failure>>,
}

/// One secret to read.
struct Read<'a> {
    ask: &'a Ask,
    metadata: String,
}

impl Poller {
    /// A poller of one server, which is asked each `period`; its token is renewed once no more than
    /// `threshold` of its time is left. `ignore_missing` makes a missing secret a warning.
    #[must_use]
    pub fn new(
        server: Arc<Server>,
        method: Method,
        threshold: Duration,
        period: Duration,
        ignore_missing: bool,
    ) -> Self {
        let session = Session::new(Arc::clone(&server), method, threshold, period);
        Self {
            server,
            session,
            mounts: Mounts::default(),
            troubles: HashMap::new(),
            outage: None,
            failed_polls: 0,
            ignore_missing,
        }
    }

    async fn poll(&mut self, asks: &[Ask]) -> Polled {
        if asks.is_empty() {
            return Polled::default();
        }
        let pass = match self.session.before_poll().await {
            Ok(pass) => pass,
            Err(refused) => {
                self.report_outage(&refused.error.to_string());
                return Polled {
                    observations: HashMap::new(),
                    failed: asks.iter().map(|ask| Arc::clone(&ask.secret)).collect(),
                    retry_in: Some(refused.retry_in),
                };
            }
        };
        let results = self.read_all(pass, asks).await;
        self.session.after_poll().await;
        self.conclude(asks, results)
    }

    async fn read_all(
        &mut self,
        pass: Pass,
        asks: &[Ask],
    ) -> Vec<(Arc<SecretId>, Result<Version, Trouble>)> {
        let mut mounts = std::mem::take(&mut self.mounts);
        let reads = Reads {
            server: &self.server,
            session: &self.session,
            pass: Mutex::new(pass),
            resume_at: Mutex::default(),
            outage: Mutex::default(),
        };
        let mut results = Vec::with_capacity(asks.len());
        let mut readable = Vec::with_capacity(asks.len());
        mounts.expire();
        for ask in asks {
            match reads.classify(&mut mounts, ask).await {
                Ok(metadata) => readable.push(Read { ask, metadata }),
                Err(trouble) => results.push((Arc::clone(&ask.secret), Err(trouble))),
            }
        }
        // Where a limit lets only a part of them through, it is another part each time.
        fastrand::shuffle(&mut readable);
        // The first goes alone: if the server is out of reach, one request is enough to know.
        if let Some(first) = readable.pop() {
            results.push((Arc::clone(&first.ask.secret), reads.read(&first).await));
        }
        let queue = Mutex::new(readable.into_iter());
        let workers: Vec<_> = (0..CONCURRENCY).map(|_| reads.work(&queue)).collect();
        let read = join_all(workers).await.into_iter().flatten();
        results.extend(read);
        for (secret, result) in &results {
            if let Err(Trouble::Failed(Failure::Refused { .. })) = result {
                // As no KV v2 engine answers: the mount may have been replaced.
                mounts.forget(secret.namespace.as_deref(), &secret.path);
            }
        }
        self.mounts = mounts;
        results
    }

    /// Turns results into observations, and says what changed for the worse or the better.
    fn conclude(
        &mut self,
        asks: &[Ask],
        results: Vec<(Arc<SecretId>, Result<Version, Trouble>)>,
    ) -> Polled {
        let may_be_missing: HashMap<&SecretId, bool> =
            asks.iter().map(|ask| (&*ask.secret, ask.may_be_missing)).collect();
        let mut polled = Polled::default();
        let mut outage = None;
        for (secret, result) in results {
            let observation = match &result {
                Ok(version) => Observation::Live(*version),
                Err(Trouble::Missing | Trouble::Deleted | Trouble::Destroyed) => Observation::Gone,
                Err(Trouble::Failed(failure)) => {
                    if failure.is_outage() {
                        outage = Some(failure.to_string());
                    }
                    polled.failed.push(Arc::clone(&secret));
                    Observation::Unknown
                }
                Err(_) => Observation::Unknown,
            };
            let missing_is_fine = may_be_missing.get(&*secret).copied().unwrap_or_default();
            self.report(&secret, result.err(), missing_is_fine);
            polled.observations.insert(secret, observation);
        }
        match outage {
            Some(outage) => self.report_outage(&format!("Vault {outage}")),
            None if self.outage.take().is_some() => {
                info!(worker = WORKER, "Vault at {} answers again", self.server.address());
            }
            None => {}
        }
        if polled.failed.is_empty() {
            self.failed_polls = 0;
        } else {
            let (first, last) = RETRY;
            let most = first.saturating_mul(1 << self.failed_polls.min(9)).min(last);
            self.failed_polls = self.failed_polls.saturating_add(1);
            polled.retry_in = Some(most.mul_f64(fastrand::f64()).max(Duration::from_millis(200)));
        }
        polled
    }

    fn report_outage(&mut self, why: &str) {
        if self.outage.as_deref() != Some(why) {
            error!(
                worker = WORKER,
                "failed to get secret version: {}: {why}. Nothing is lost; retrying",
                self.server.address()
            );
            self.outage = Some(why.to_owned());
        }
    }

    fn report(&mut self, secret: &Arc<SecretId>, trouble: Option<Trouble>, missing_is_fine: bool) {
        let Some(trouble) = trouble else {
            if self.troubles.remove(secret).is_some() {
                info!(worker = WORKER, "Vault secret path {secret} can be read again");
            }
            return;
        };
        if let Trouble::Failed(failure) = &trouble {
            // Said of the server as a whole; what was said of the secret still stands.
            if failure.is_outage() {
                return;
            }
        }
        if self.troubles.get(secret) == Some(&trouble) {
            return;
        }
        match &trouble {
            Trouble::Missing | Trouble::Deleted | Trouble::Destroyed => {
                let why = match trouble {
                    Trouble::Deleted => ": its latest version is deleted",
                    Trouble::Destroyed => ": its latest version is destroyed",
                    _ => "",
                };
                if self.ignore_missing || missing_is_fine {
                    warn!(
                        worker = WORKER,
                        "Vault secret path {secret} not found{why}; it may be missing"
                    );
                } else {
                    error!(worker = WORKER, "Vault secret path {secret} not found{why}");
                }
            }
            Trouble::Denied { metadata } => error!(
                worker = WORKER,
                "failed to get secret version: {secret}: permission denied. Add to the policy: \
                 path \"{metadata}\" {{ capabilities = [\"read\"] }}"
            ),
            Trouble::NoDataPrefix { correct } => warn!(
                worker = WORKER,
                "{secret} is not watched: on a KV v2 mount, write it as {correct}"
            ),
            Trouble::NotKvV2(Engine::Other(engine)) => warn!(
                worker = WORKER,
                "{secret} is not watched: it belongs to an engine that has no versions ({engine}), and \
                 is never called, since a read of some engines makes a new secret"
            ),
            Trouble::NotKvV2(_) => {
                warn!(worker = WORKER, "{secret} is not watched: KV v1 has no versions");
            }
            Trouble::Failed(failure) => {
                error!(worker = WORKER, "failed to get secret version: {secret}: Vault {failure}");
            }
        }
        self.troubles.insert(Arc::clone(secret), trouble);
    }
}

impl Vault for Poller {
    async fn poll(&mut self, asks: &[Ask]) -> Polled {
        self.poll(asks).await
    }

    fn forget(&mut self, is_used: impl Fn(&SecretId) -> bool) {
        self.troubles.retain(|secret, _| is_used(secret));
    }

    async fn close(&mut self) {
        self.session.close().await;
    }
}

impl Reads<'_> {
    /// The path of a secret's metadata, once its mount is known to be KV v2.
    async fn classify(&self, mounts: &mut Mounts, ask: &Ask) -> Result<String, Trouble> {
        let SecretId { namespace, path, .. } = &*ask.secret;
        let namespace = namespace.as_deref();
        if mounts.classify(namespace, path).is_none() {
            if let Some(failure) = self.outage() {
                return Err(Trouble::Failed(failure));
            }
            let pass = self.pass();
            let mut asked = mounts.ask(self.server, &pass.token, namespace, path).await;
            if let Some(doubt) = asked.as_ref().err().and_then(doubt_of)
                && let Some(anew) = self.session.after_denial(pass.number, doubt).await
            {
                asked = mounts.ask(self.server, &anew.token, namespace, path).await;
                *lock(&self.pass) = anew;
            }
            match asked {
                Ok(()) => {}
                Err(Failure::Denied) => {
                    return Err(Trouble::Denied {
                        metadata: path.replacen("/data/", "/metadata/", 1),
                    });
                }
                Err(failure) => {
                    // Before the first read this is the probe: without mounts nothing can be read.
                    self.note_outage(&failure);
                    return Err(Trouble::Failed(failure));
                }
            }
        }
        match mounts.classify(namespace, path) {
            Some(Classified::Metadata(path)) => Ok(path),
            Some(Classified::NoDataPrefix { correct }) => Err(Trouble::NoDataPrefix { correct }),
            Some(Classified::NotKvV2(engine)) => Err(Trouble::NotKvV2(engine)),
            // Auth methods and the like, which the server reports by other paths.
            None => Err(Trouble::NotKvV2(Engine::Other("unknown".to_owned()))),
        }
    }

    /// Reads one secret after the other, until there is none left.
    async fn work(
        &self,
        queue: &Mutex<std::vec::IntoIter<Read<'_>>>,
    ) -> Vec<(Arc<SecretId>, Result<Version, Trouble>)> {
        let mut results = Vec::new();
        loop {
            let next = lock(queue).next();
            let Some(read) = next else { return results };
            results.push((Arc::clone(&read.ask.secret), self.read(&read).await));
        }
    }

    async fn read(&self, read: &Read<'_>) -> Result<Version, Trouble> {
        let mut stale_retries = 0;
        let mut index = None;
        loop {
            let (answer, seen) = self.answer(read, index.as_ref()).await?;
            let version = match seen {
                Metadata::Live(version) => version,
                Metadata::Missing => return Err(Trouble::Missing),
                Metadata::Deleted => return Err(Trouble::Deleted),
                Metadata::Destroyed => return Err(Trouble::Destroyed),
            };
            let is_old = read.ask.known != Some(version)
                && read.ask.not_before.is_some_and(|time| version.created < time);
            if !is_old || stale_retries == STALE_RETRIES {
                return Ok(version);
            }
            stale_retries += 1;
            index = answer.index;
            sleep(STALE_PAUSE).await;
        }
    }

    /// Asks until there is an answer that says something of the secret, or no more sense in asking.
    async fn answer(
        &self,
        read: &Read<'_>,
        index: Option<&HeaderValue>,
    ) -> Result<(Answer, Metadata), Trouble> {
        let (mut rate_limits, mut errors, mut denials) = (0, 0, 0);
        loop {
            if let Some(failure) = self.outage() {
                return Err(Trouble::Failed(failure));
            }
            let resume_at = *lock(&self.resume_at);
            if let Some(time) = resume_at {
                sleep_until(time).await;
            }
            let pass = self.pass();
            let namespace = read.ask.secret.namespace.as_deref();
            let got = self.server.get(&read.metadata, namespace, &pass.token, index).await;
            let retry_after = got.as_ref().ok().and_then(|answer| answer.retry_after);
            let now = self.server.clock().at(Timestamp::now());
            let failure = match got.and_then(|answer| Ok((metadata::read(&answer, now)?, answer))) {
                Ok((seen, answer)) => return Ok((answer, seen)),
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
                Failure::Denied => {
                    return Err(Trouble::Denied { metadata: read.metadata.clone() });
                }
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
                failure => {
                    self.note_outage(&failure);
                    return Err(Trouble::Failed(failure));
                }
            }
        }
    }

    fn pass(&self) -> Pass {
        lock(&self.pass).clone()
    }

    fn outage(&self) -> Option<Failure> {
        lock(&self.outage).clone()
    }

    fn note_outage(&self, failure: &Failure) {
        if failure.is_outage() {
            lock(&self.outage).get_or_insert_with(|| failure.clone());
        }
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
