//! The requests of a poll, and their order.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::decide::observation::ReadRequest;
use crate::model::reload_policy::ReloadPolicy;
use crate::model::secret::{SecretId, Version};
use crate::vault::lock::lock;
use crate::vault::mounts::KvLocation;
use crate::vault::read_error::ReadError;

/// The outcome of a read.
pub(in crate::vault) type Outcome = (Arc<SecretId>, Result<(Version, ReloadPolicy), ReadError>);

/// The order in which secrets are read.
#[derive(Clone, Copy)]
pub(in crate::vault) struct Turns<'a> {
    /// Secrets for which there was no time before. They come first.
    pub(in crate::vault) late: &'a HashSet<Arc<SecretId>>,
    /// Secrets that had their turn, and do not wait for it if reads are spread.
    pub(in crate::vault) had: &'a HashSet<Arc<SecretId>>,
    /// Secrets that failed in the last poll. They come last.
    pub(in crate::vault) failed: &'a HashSet<Arc<SecretId>>,
}

/// A secret to read.
pub(super) struct Read<'a> {
    pub(super) ask: &'a ReadRequest,
    pub(super) place: KvLocation,
}

/// A queue of work that several tasks share.
pub(super) struct Queue<T>(Mutex<std::vec::IntoIter<T>>);

/// The kind of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// The mount of a path.
    Mount,
    /// A folder. The request is optional: a failure says nothing about the server or the token, and
    /// the secrets can be read one by one.
    Folder,
    /// A single secret.
    Secret,
    /// A single secret that is read again.
    Again,
}

/// A request.
#[derive(Clone, Copy)]
pub(super) struct Request<'q> {
    pub(super) about: RequestKind,
    pub(super) namespace: Option<&'q Arc<str>>,
    pub(super) path: &'q str,
    pub(super) query: &'q [(&'q str, &'q str)],
    /// The request is not sent after this time.
    pub(super) until: Instant,
    /// Whether the answer must be no older than the latest of the earlier answers.
    pub(super) is_consistent: bool,
}

impl<'q> Request<'q> {
    pub(super) fn about(
        about: RequestKind,
        namespace: Option<&'q Arc<str>>,
        path: &'q str,
        until: Instant,
    ) -> Self {
        Self { about, namespace, path, query: &[], until, is_consistent: false }
    }
}

impl<T> Queue<T> {
    pub(super) fn new(items: Vec<T>) -> Self {
        Self(Mutex::new(items.into_iter()))
    }

    pub(super) fn next(&self) -> Option<T> {
        lock(&self.0).next()
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.0).len()
    }
}
