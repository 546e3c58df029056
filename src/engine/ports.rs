//! The traits through which the reloader uses Vault and the cluster. `vault/` and `kubernetes/`
//! implement them. Neither implementation knows the other, and the reloader knows neither.

use std::collections::HashMap;
use std::sync::Arc;

use crate::decide::observation::{PollResult, ReadRequest};
use crate::decide::plan::{Reload, Revision};
use crate::index::findings::Finding;
use crate::model::secret::SecretId;
use crate::model::workload::{Workload, WorkloadId};
use crate::references::manifest::Manifest;

/// A server of the Vault API, as the reloader uses it.
pub trait Vault: Send {
    /// Reads each of the requested secrets once.
    fn poll(&mut self, requests: &[ReadRequest]) -> impl Future<Output = PollResult> + Send;

    /// Returns the present findings about secrets that cannot be watched.
    fn notices(&self) -> HashMap<Arc<SecretId>, Finding> {
        HashMap::new()
    }

    /// Reads the server's time for the clock that this value was created with.
    fn read_clock(&mut self) -> impl Future<Output = ()> + Send;

    /// Tells that no request follows until the next full poll. Gives back whatever does not last
    /// until then.
    fn rest(&mut self) -> impl Future<Output = ()> + Send;

    /// Forgets secrets that are not used any more.
    fn forget(&mut self, is_used: impl Fn(&SecretId) -> bool + Send);

    /// Ends the session. Gives back whatever must not be left behind.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// The cluster, as the reloader uses it.
pub trait Cluster: Send + Sync {
    /// Returns the present revisions of workloads, by uid. A revision that cannot be read is left
    /// out.
    fn revisions(
        &self,
        workloads: &[Arc<Workload>],
    ) -> impl Future<Output = HashMap<Box<str>, Revision>> + Send;

    /// Reloads a workload, if the object is still the one that was evaluated. Returns the workload
    /// as it is afterwards.
    fn patch(
        &self,
        workload: &Workload,
        reload: &Reload,
    ) -> impl Future<Output = Result<Manifest, WriteError>> + Send;

    /// Reads a workload.
    fn get(&self, id: &WorkloadId) -> impl Future<Output = Result<Manifest, WriteError>> + Send;

    /// Returns the last writer of a workload other than this controller.
    fn last_writer(&self, id: &WorkloadId) -> impl Future<Output = Option<String>> + Send;
}

/// Why a workload could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The object is not the one any more that was evaluated.
    #[error("it was changed by somebody else")]
    Conflict,
    /// The object does not exist any more.
    #[error("it was deleted")]
    NotFound,
    /// The service account lacks a permission, or an admission policy refused the request.
    #[error("refused: {0}")]
    Refused(String),
    /// The API server did not answer, or it failed.
    #[error("the API server failed: {0}")]
    Failed(String),
}

impl WriteError {
    /// Returns a short name of the kind of error.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::NotFound => "not_found",
            Self::Refused(_) => "refused",
            Self::Failed(_) => "failed",
        }
    }
}
