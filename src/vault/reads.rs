//! The requests of one poll: how many, in which order, and when the poll stops.
//!
//! Architecture Invariant: a poll ends by its deadline, and answers of one Vault namespace never
//! delay another.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use http::header::HeaderValue;
use tokio::time::{Instant, sleep};

use super::client::Server;
use super::failure::Failure;
use super::folders::Folders;
use super::metadata;
use super::mounts::Mounts;
use super::pace::Pace;
use super::read_error::ReadError;
use super::session::{Session, TokenLease};
use crate::decide::observation::ReadRequest;
use crate::model::reload_policy::ReloadPolicy;
use crate::model::secret::{SecretId, Version};

mod asking;
mod bulk;
mod evidence;
mod placing;
mod request;
mod sender;

use asking::Asker;
use evidence::Evidence;
pub(super) use evidence::Witnesses;
pub(super) use request::{Outcome, Turns};
use request::{Queue, Read, Request, RequestKind};
use sender::Sender;

/// How often an outdated answer is requested again, and the pause before each attempt. A standby
/// lags by up to about 90 ms. If the answer is still outdated, [`ObservationHistory`] decides.
///
/// [`ObservationHistory`]: crate::decide::observation::ObservationHistory
const STALE_RETRIES: u32 = 3;
const STALE_PAUSE: Duration = Duration::from_millis(150);

/// One poll.
pub(super) struct PollRun<'a> {
    asker: Asker<'a>,
    turns: Turns<'a>,
}

impl<'a> PollRun<'a> {
    pub(super) fn new(
        server: &'a Server,
        session: &'a Session,
        lease: TokenLease,
        pace: Pace,
        index: Option<HeaderValue>,
        witnesses: Witnesses,
        turns: Turns<'a>,
    ) -> Self {
        let sender = Sender::new(server, session, lease, pace);
        Self { asker: Asker::new(sender, Evidence::new(witnesses), index), turns }
    }

    /// Reads each secret once. Secrets with a known mount come first. Tenants can name any number
    /// of paths without a mount, and such paths must not take time from the other secrets.
    pub(super) async fn read_all(
        &self,
        mounts: &mut Mounts,
        folders: &mut Folders,
        asks: &[ReadRequest],
    ) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(asks.len());
        let (known, unknown): (Vec<_>, Vec<_>) = asks.iter().partition(|ask| {
            let SecretId { namespace, path, .. } = &*ask.secret;
            mounts.classify(namespace.as_deref(), path).is_some()
        });
        // Mounts expire only now, so that secrets of an expired mount stay in the first group.
        mounts.expire(std::time::Instant::now());
        for asks in [known, unknown] {
            self.read_some(mounts, folders, asks, &mut outcomes).await;
        }
        for (secret, outcome) in &outcomes {
            if let Err(ReadError::Failed(Failure::Refused { .. })) = outcome {
                // No KV v2 engine answers so: the mount may have been replaced.
                mounts.forget(secret.namespace.as_deref(), &secret.path);
            }
        }
        outcomes
    }

    async fn read_some(
        &self,
        mounts: &mut Mounts,
        folders: &mut Folders,
        asks: Vec<&ReadRequest>,
        outcomes: &mut Vec<Outcome>,
    ) {
        let mut readable = self.asker.place(mounts, asks, self.turns, outcomes).await;
        // If a rate limit admits only some secrets, they are different ones in each poll.
        fastrand::shuffle(&mut readable);
        // Reverse order, because secrets are taken from the end.
        readable.sort_by_key(|read| std::cmp::Reverse(self.order(read)));
        let has_failed = |read: &Read<'_>| self.turns.failed.contains(&read.ask.secret);
        bulk::put_lone_last(folders, &mut readable, |read| !has_failed(read));
        // The first secret is read alone: if the server is out of reach, one request shows it. If
        // this secret has to wait for its turn, the folders do not wait for it.
        if let Some(first) = readable.pop_if(|first| !self.has_to_wait(first)) {
            outcomes.push((Arc::clone(&first.ask.secret), self.read(&first).await));
        }
        let mut alone = self.asker.list_some(folders, readable, outcomes).await;
        alone.sort_by_key(|read| self.order(read));
        let queue = Queue::new(alone);
        let readers =
            (0..self.asker.sender.pace.at_once.min(queue.len())).map(|_| self.read_from(&queue));
        outcomes.extend(join_all(readers).await.into_iter().flatten());
    }

    /// The order of reads. Late secrets come first, so that each secret has its turn. Failed
    /// secrets come last, so that they take no time from the others.
    fn order(&self, read: &Read<'_>) -> u8 {
        let Turns { late, failed, .. } = self.turns;
        let secret = &read.ask.secret;
        if failed.contains(secret) { 2 } else { u8::from(!late.contains(secret)) }
    }

    /// Whether the server has given any useful answer in this poll.
    pub(super) fn has_answered(&self) -> bool {
        self.asker.sender.has_answered.load(Ordering::Relaxed)
    }

    /// When the next secret may be read alone, if reads are spread.
    pub(super) fn goes_on_at(&self) -> std::time::Instant {
        self.asker.sender.next_alone().into_std()
    }

    /// Returns the latest known state of the storage, and the secrets that were answered.
    pub(super) fn into_parts(self) -> (Option<HeaderValue>, Witnesses) {
        let Asker { index, evidence, .. } = self.asker;
        let index = index.into_inner().unwrap_or_else(PoisonError::into_inner);
        (index, evidence.into_witnesses())
    }

    /// Reads secrets from a queue until the queue is empty.
    async fn read_from(&self, queue: &Queue<Read<'_>>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while let Some(read) = queue.next() {
            outcomes.push((Arc::clone(&read.ask.secret), self.read(&read).await));
        }
        outcomes
    }

    async fn read(&self, read: &Read<'_>) -> Result<(Version, ReloadPolicy), ReadError> {
        let secret = &read.ask.secret;
        let path = read.place.metadata();
        for attempt in 0..=STALE_RETRIES {
            let is_again = attempt > 0 || self.turns.had.contains(secret);
            let about = if is_again { RequestKind::Again } else { RequestKind::Secret };
            let request = Request {
                is_consistent: attempt > 0,
                ..Request::about(
                    about,
                    secret.namespace.as_ref(),
                    &path,
                    self.asker.sender.deadline,
                )
            };
            let metadata = self.asker.ask(request, metadata::read).await?;
            self.asker.evidence.was_answered(read);
            let live = metadata.live()?;
            if !read.ask.may_be_stale(live.0) || attempt == STALE_RETRIES {
                return Ok(live);
            }
            sleep(STALE_PAUSE).await;
        }
        Err(ReadError::Late)
    }

    /// Returns whether a secret must wait for its turn because reads are spread.
    fn has_to_wait(&self, read: &Read<'_>) -> bool {
        !self.turns.had.contains(&read.ask.secret)
            && Instant::now() < self.asker.sender.next_alone()
    }
}
