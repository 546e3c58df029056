//! The requests that a poll consists of, and whose turn they are.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::decide::observation::ReadRequest;
use crate::model::secret::{SecretId, Version};
use crate::vault::lock::lock;
use crate::vault::mounts::KvLocation;
use crate::vault::read_error::ReadError;

/// What a read brought.
pub(in crate::vault) type Outcome = (Arc<SecretId>, Result<Version, ReadError>);

/// Whose turn it is.
#[derive(Clone, Copy)]
pub(in crate::vault) struct Turns<'a> {
    /// Those for which there was no time before: they come first.
    pub(in crate::vault) late: &'a HashSet<Arc<SecretId>>,
    /// Those that have had theirs, and do not wait for it where reads are spread.
    pub(in crate::vault) had: &'a HashSet<Arc<SecretId>>,
    /// Those that failed the last time: they come last.
    pub(in crate::vault) failed: &'a HashSet<Arc<SecretId>>,
}

/// One secret to read.
pub(super) struct Read<'a> {
    pub(super) ask: &'a ReadRequest,
    pub(super) place: KvLocation,
}

/// What is yet to be done, for several who do it.
pub(super) struct Queue<T>(Mutex<std::vec::IntoIter<T>>);

/// What a request is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
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
pub(super) struct Request<'q> {
    pub(super) about: RequestKind,
    pub(super) namespace: Option<&'q Arc<str>>,
    pub(super) path: &'q str,
    pub(super) query: &'q [(&'q str, &'q str)],
    /// It is not begun after this.
    pub(super) until: Instant,
    /// Whether the answer must not be older than the latest of the answers before.
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
