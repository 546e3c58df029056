//! Finds out whether a failure concerns one path, a Vault namespace, or the server as a whole.
//!
//! Architecture Invariant: failed requests for one path never put another path out of reach.
//! Anybody who may write a manifest can name a path on which a gateway closes the connection. An
//! outage requires a second failure: of the path of a secret that was answered before, of the
//! server's own status, or of several paths in a row.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join;
use tokio::time::{Instant, sleep_until};

use super::request::{Read, Request, RequestKind};
use super::sender::Sender;
use crate::model::secret::SecretId;
use crate::vault::answer::failure_of;
use crate::vault::failure::Failure;
use crate::vault::lock::lock;
use crate::vault::read_error::ReadError;

/// How many paths of a Vault namespace must fail in a row before the namespace counts as out of
/// reach, if none of its paths was answered before. One comparison also serves this many failures.
const IN_A_ROW: usize = 8;

/// The same number for failures that a sealed namespace or a standby gives for each of its paths. A
/// gateway may give them for a single path, too.
const ALIKE_IN_A_ROW: usize = 3;

/// How many paths are kept for comparison. The path that failed cannot be compared with itself.
const MOST_WITNESSES: usize = 2;

/// A Vault namespace.
type Namespace = Option<Arc<str>>;

/// Paths that are compared with each other. Requests about mounts are a group of their own, because
/// a gateway may admit requests about the server itself and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Group {
    namespace: Namespace,
    /// Whether the paths are requests for mounts, and not for secrets.
    are_mounts: bool,
}

/// What is out of reach, with the failure that showed it.
#[derive(Default)]
struct Outages {
    server: Option<Failure>,
    namespaces: HashMap<Namespace, Failure>,
    /// Failures in a row.
    rows: HashMap<Group, Row>,
}

#[derive(Default)]
struct Row {
    /// The paths that failed since the last answer.
    paths: HashSet<Box<str>>,
    /// How many more failures are accepted before the next comparison.
    left: usize,
}

/// API paths that were answered. When another path fails, they show whether the server fails, too.
#[derive(Default)]
pub(in crate::vault) struct Witnesses {
    /// Paths that were answered in this poll.
    fresh: HashMap<Group, Vec<Witness>>,
    /// Paths that were answered in earlier polls.
    older: HashMap<Group, Vec<Witness>>,
}

struct Witness {
    /// The secret that the path was requested for.
    secret: Arc<SecretId>,
    path: Arc<str>,
}

impl Witnesses {
    /// Begins a poll.
    fn begin(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        self.older.extend(fresh);
    }

    /// Forgets secrets that are no longer used.
    pub(in crate::vault) fn retain(&mut self, is_used: impl Fn(&SecretId) -> bool) {
        for witnesses in [&mut self.fresh, &mut self.older] {
            witnesses.retain(|_, of_group| {
                of_group.retain(|witness| is_used(&witness.secret));
                !of_group.is_empty()
            });
        }
    }

    fn add(&mut self, group: Group, secret: &Arc<SecretId>, path: impl FnOnce() -> String) {
        let fresh = self.fresh.entry(group).or_default();
        if fresh.len() < MOST_WITNESSES {
            fresh.push(Witness { secret: Arc::clone(secret), path: path().into() });
        }
    }

    /// Returns a witness whose path is not the failed path.
    fn pick(&self, group: &Group, failed: &str) -> Option<Arc<str>> {
        let all = [&self.fresh, &self.older].into_iter().filter_map(|all| all.get(group));
        let mut paths = all.flatten().map(|witness| &witness.path);
        paths.find(|path| ***path != *failed).cloned()
    }

    fn remove(&mut self, group: &Group, path: &str) {
        for witnesses in [&mut self.fresh, &mut self.older] {
            if let Some(of_group) = witnesses.get_mut(group) {
                of_group.retain(|witness| *witness.path != *path);
            }
        }
    }
}

/// What the answers and failures of one poll show about outages.
pub(super) struct Evidence {
    outages: Mutex<Outages>,
    witnesses: Mutex<Witnesses>,
    /// The permit to compare paths.
    comparison: tokio::sync::Mutex<()>,
}

impl Evidence {
    /// Begins a poll with the witnesses of earlier polls.
    pub(super) fn new(mut witnesses: Witnesses) -> Self {
        witnesses.begin();
        Self {
            outages: Mutex::default(),
            witnesses: Mutex::new(witnesses),
            comparison: tokio::sync::Mutex::default(),
        }
    }

    /// Returns the witnesses for the next polls.
    pub(super) fn into_witnesses(self) -> Witnesses {
        self.witnesses.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns why no request for a Vault namespace can succeed.
    pub(super) fn outage(&self, namespace: Option<&Arc<str>>) -> Option<Failure> {
        let outages = lock(&self.outages);
        outages.server.clone().or_else(|| outages.namespaces.get(&namespace.cloned()).cloned())
    }

    /// Records that the server returned a secret.
    pub(super) fn was_answered(&self, read: &Read<'_>) {
        let secret = &read.ask.secret;
        let group = Group { namespace: secret.namespace.clone(), are_mounts: false };
        lock(&self.outages).rows.remove(&group);
        lock(&self.witnesses).add(group, secret, || read.place.metadata());
    }

    /// Records that the server returned the mount of a secret for this API path.
    pub(super) fn was_told_of_mount(&self, secret: &Arc<SecretId>, path: &str) {
        let group = Group { namespace: secret.namespace.clone(), are_mounts: true };
        lock(&self.outages).rows.remove(&group);
        lock(&self.witnesses).add(group, secret, || path.to_owned());
    }

    /// Returns what a failure means, and what it concerns.
    pub(super) async fn trouble(
        &self,
        sender: &Sender<'_>,
        request: Request<'_>,
        failure: Failure,
    ) -> ReadError {
        let Request { about, namespace, path, .. } = request;
        match failure {
            Failure::Denied | Failure::NoMount => {
                sender.has_answered.store(true, Ordering::Relaxed);
                let metadata = path.to_owned();
                if failure == Failure::Denied {
                    ReadError::Denied { metadata }
                } else {
                    ReadError::NoMount { metadata }
                }
            }
            Failure::Refused { .. } | Failure::RateLimited | Failure::Unaskable(_) => {
                ReadError::Failed(failure)
            }
            failure => {
                let namespace = namespace.cloned();
                let group = Group { namespace, are_mounts: about == RequestKind::Mount };
                // Boxed, because this future is rare and larger than the rest of a request.
                Box::pin(self.compare(sender, group, path, failure)).await
            }
        }
    }

    /// Requests another path, to learn whether that fails, too.
    async fn compare(
        &self,
        sender: &Sender<'_>,
        group: Group,
        path: &str,
        failure: Failure,
    ) -> ReadError {
        // Failures are compared one by one, so that concurrent failures share the first result.
        let _turn = self.comparison.lock().await;
        if let Some(failure) = self.outage(group.namespace.as_ref()) {
            return ReadError::Out { failure, is_own: true };
        }
        let failed_paths = {
            let mut outages = lock(&self.outages);
            let row = outages.rows.entry(group.clone()).or_default();
            row.paths.insert(path.into());
            if let Some(left) = row.left.checked_sub(1) {
                row.left = left;
                return of_path(path, failure);
            }
            row.paths.len()
        };
        let (witness, status) =
            if sender.server.resumes_at().is_some() || Instant::now() >= sender.deadline {
                (None, None)
            } else if failure == Failure::TokenEnded {
                // The request for the status needs no token.
                (self.ask_witness(sender, &group, path).await, None)
            } else {
                join(self.ask_witness(sender, &group, path), ask_status(sender)).await
            };
        let mut outages = lock(&self.outages);
        if witness == Some(true) {
            let row = Row { paths: HashSet::new(), left: IN_A_ROW - 1 };
            outages.rows.insert(group, row);
            return of_path(path, failure);
        }
        let has_answered = sender.has_answered.load(Ordering::Relaxed);
        if let Some((down, _)) = status.filter(|(_, is_certain)| *is_certain || !has_answered) {
            outages.server = Some(down.clone());
            return ReadError::Out { failure: down, is_own: true };
        }
        let is_paused = sender.server.resumes_at().is_some();
        let needed = failures_needed(&failure, group.namespace.is_some(), is_paused);
        if witness == Some(false) || failed_paths >= needed {
            outages.namespaces.insert(group.namespace, failure.clone());
            return ReadError::Out { failure, is_own: true };
        }
        of_path(path, failure)
    }

    /// Returns whether a path that was answered before still is; `None` if there is no such path.
    async fn ask_witness(&self, sender: &Sender<'_>, group: &Group, failed: &str) -> Option<bool> {
        let path = lock(&self.witnesses).pick(group, failed)?;
        if let Some(turn) = sender.turn(RequestKind::Again, sender.deadline) {
            sleep_until(turn.min(sender.deadline)).await;
        }
        let lease = sender.pass_for_one().await.ok()?;
        let namespace = group.namespace.as_deref();
        let received = sender.server.get(&path, &[], namespace, &lease.token, None).await;
        let failure = received.map_or_else(Some, |answer| failure_of(answer.status, &answer.body));
        let is_answered = match failure {
            None => true,
            Some(failure) => !may_be_outage(&failure),
        };
        if is_answered {
            sender.has_answered.store(true, Ordering::Relaxed);
        } else {
            lock(&self.witnesses).remove(group, &path);
        }
        Some(is_answered)
    }
}

/// Returns how many paths of a Vault namespace must fail before the namespace counts as out of reach.
/// One is enough only if Vault's own words concern more than the path: that the token has ended, that
/// the namespace is locked, or that the server wants no requests. The root namespace cannot be
/// locked, so there the words concern a child namespace that the path leads to.
fn failures_needed(failure: &Failure, is_named: bool, is_paused: bool) -> usize {
    match failure {
        Failure::TokenEnded => 1,
        Failure::NamespaceLocked if is_named => 1,
        Failure::Sealed if is_paused => 1,
        Failure::Sealed | Failure::NamespaceLocked | Failure::Redirected { .. } => ALIKE_IN_A_ROW,
        _ => IN_A_ROW,
    }
}

/// Returns why the server as a whole does not answer, and whether that is certain. An uncertain
/// result may come from a proxy that does not admit this request.
async fn ask_status(sender: &Sender<'_>) -> Option<(Failure, bool)> {
    match sender.server.is_sealed().await {
        Ok(false) => None,
        Ok(true) => Some((Failure::Sealed, true)),
        Err(failure @ (Failure::Sealed | Failure::Unreachable(_) | Failure::Timeout)) => {
            Some((failure, true))
        }
        Err(failure) => may_be_outage(&failure).then_some((failure, false)),
    }
}

/// Returns what a failure means when other paths are answered.
fn of_path(path: &str, failure: Failure) -> ReadError {
    if failure == Failure::TokenEnded {
        // The token is valid, because other paths are answered.
        ReadError::Denied { metadata: path.to_owned() }
    } else {
        ReadError::Failed(failure)
    }
}

/// Returns whether a failure may concern more than the requested path.
fn may_be_outage(failure: &Failure) -> bool {
    match failure {
        Failure::Denied
        | Failure::NoMount
        | Failure::Refused { .. }
        | Failure::RateLimited
        | Failure::Unaskable(_) => false,
        Failure::Unreachable(_)
        | Failure::Timeout
        | Failure::Sealed
        | Failure::NamespaceLocked
        | Failure::Server(_)
        | Failure::TokenEnded
        | Failure::Redirected { .. }
        | Failure::BadAnswer(_)
        | Failure::Endless => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_says_nothing_of_its_namespace_unless_vault_says_so() {
        let target = "http://elsewhere.invalid/".to_owned();
        let elsewhere = Failure::Redirected { target, advice: "" };
        for (failure, is_named, is_paused, expected) in [
            (Failure::Sealed, true, false, ALIKE_IN_A_ROW),
            (Failure::Sealed, false, true, 1),
            (elsewhere, true, true, ALIKE_IN_A_ROW),
            (Failure::TokenEnded, false, false, 1),
            (Failure::NamespaceLocked, true, false, 1),
            (Failure::NamespaceLocked, false, false, ALIKE_IN_A_ROW),
            (Failure::Server(500), true, false, IN_A_ROW),
        ] {
            let needed = failures_needed(&failure, is_named, is_paused);
            assert_eq!(needed, expected, "{failure:?} {is_named} {is_paused}");
        }
    }
}
