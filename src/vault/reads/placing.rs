//! Finds the mounts of secrets. A poll sends each request about a mount once.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::join_all;
use tokio::time::Instant;

use super::asking::Asker;
use super::request::{Outcome, Queue, Read, Request, RequestKind, Turns};
use crate::decide::observation::ReadRequest;
use crate::model::secret::SecretId;
use crate::vault::failure::Failure;
use crate::vault::mounts::{Classified, Engine, Lookup, Mounts};
use crate::vault::read_error::ReadError;

/// A path to ask about, and the secrets that may be on its mount.
struct Unknown<'a> {
    namespace: Option<&'a Arc<str>>,
    path: Box<str>,
    asks: Vec<&'a ReadRequest>,
}

/// The mount that the server returned for a path.
type Told = Result<(String, Engine), ReadError>;

impl Asker<'_> {
    /// Returns the locations of secrets on KV v2 mounts. All other secrets get an outcome in
    /// `outcomes`.
    ///
    ///
    /// A part of the poll is reserved for reading secrets, however many mounts tenants name.
    pub(super) async fn place<'r>(
        &self,
        mounts: &mut Mounts,
        asks: Vec<&'r ReadRequest>,
        turns: Turns<'_>,
        outcomes: &mut Vec<Outcome>,
    ) -> Vec<Read<'r>> {
        let until = self.sender.placing_deadline();
        let mut placed = Vec::with_capacity(asks.len());
        let mut left = asks;
        // Each iteration answers one request for each remaining secret. A secret needs at most two.
        while !left.is_empty() {
            let mut unknown = sort(mounts, std::mem::take(&mut left), &mut placed, outcomes);
            unknown.sort_by_key(|Unknown { asks, .. }| {
                let is_late = asks.iter().any(|ask| turns.late.contains(&ask.secret));
                (asks.iter().all(|ask| turns.failed.contains(&ask.secret)), !is_late)
            });
            // The first request is sent alone: if the server is out of reach, one request shows it.
            let rest = unknown.split_off(unknown.len().min(1));
            for queue in [unknown, rest].map(Queue::new) {
                let askers = (0..self.sender.pace.at_once.min(queue.len()))
                    .map(|_| self.ask_about_mounts(&queue, until));
                for (unknown, told) in join_all(askers).await.into_iter().flatten() {
                    left.extend(learn(mounts, unknown, told, outcomes));
                }
            }
        }
        placed
    }

    /// Sends requests from a queue until the queue is empty.
    async fn ask_about_mounts<'r>(
        &self,
        queue: &Queue<Unknown<'r>>,
        until: Instant,
    ) -> Vec<(Unknown<'r>, Told)> {
        let mut told = Vec::new();
        while let Some(unknown) = queue.next() {
            let path = Mounts::question(&unknown.path);
            let request = Request {
                until,
                ..Request::about(RequestKind::Mount, unknown.namespace, &path, self.sender.deadline)
            };
            let answer = self.ask(request, Mounts::read).await;
            if let (Ok(_), Some(ask)) = (&answer, unknown.asks.first()) {
                self.evidence.was_told_of_mount(&ask.secret, &path);
            }
            told.push((unknown, answer));
        }
        told
    }
}

/// Sorts secrets by what is known of their mounts. Returns the requests that the rest need.
fn sort<'a>(
    mounts: &Mounts,
    asks: Vec<&'a ReadRequest>,
    placed: &mut Vec<Read<'a>>,
    outcomes: &mut Vec<Outcome>,
) -> Vec<Unknown<'a>> {
    let mut unknown: HashMap<(_, Box<str>), Vec<&'a ReadRequest>> = HashMap::new();
    for ask in asks {
        let SecretId { namespace, path, .. } = &*ask.secret;
        let error = match mounts.look_up(namespace.as_deref(), path) {
            Lookup::Known(Classified::Secret(place)) => {
                placed.push(Read { ask, place });
                continue;
            }
            Lookup::Unknown(guess) => {
                unknown.entry((namespace.as_ref(), guess)).or_default().push(ask);
                continue;
            }
            Lookup::Known(Classified::NoDataPrefix { correct }) => {
                ReadError::NoDataPrefix { correct }
            }
            Lookup::Known(Classified::NotKvV2(engine)) => ReadError::NotKvV2(engine),
            Lookup::Refused(failure) => refused(&failure, path),
        };
        outcomes.push((Arc::clone(&ask.secret), Err(error)));
    }
    let unknown = unknown.into_iter();
    unknown.map(|((namespace, path), asks)| Unknown { namespace, path, asks }).collect()
}

/// Stores the answer about a mount. Returns the secrets about whose mount more is known now.
fn learn<'a>(
    mounts: &mut Mounts,
    unknown: Unknown<'a>,
    told: Told,
    outcomes: &mut Vec<Outcome>,
) -> Vec<&'a ReadRequest> {
    let Unknown { namespace, path, asks } = unknown;
    let namespace = namespace.map(|name| &**name);
    let now = std::time::Instant::now();
    let failure = match told {
        Ok(answer) => {
            mounts.learn(namespace, &path, answer, now);
            return asks;
        }
        Err(ReadError::Denied { .. }) => Some(Failure::Denied),
        Err(ReadError::NoMount { .. }) => Some(Failure::NoMount),
        Err(ReadError::Failed(ref failure)) => Some(failure.clone()),
        Err(_) => None,
    };
    if failure.as_ref().is_some_and(|it| mounts.learn_refusal(namespace, &path, it, now)) {
        return asks;
    }
    let Err(error) = told else { return asks };
    outcomes.extend(asks.into_iter().map(|ask| {
        let error = match &failure {
            Some(failure) => refused(failure, &ask.secret.path),
            None => error.clone(),
        };
        (Arc::clone(&ask.secret), Err(error))
    }));
    Vec::new()
}

/// Returns what a refusal to name the mount of a secret means for that secret.
fn refused(failure: &Failure, path: &str) -> ReadError {
    let metadata = || path.replacen("/data/", "/metadata/", 1);
    match failure {
        Failure::Denied => ReadError::Denied { metadata: metadata() },
        Failure::NoMount => ReadError::NoMount { metadata: metadata() },
        failure => ReadError::Failed(failure.clone()),
    }
}
