//! What the reloader needs of Vault and of the cluster: two traits, which `vault/` and `kubernetes/`
//! implement. Neither knows the other, and the loop knows neither.

use std::collections::HashMap;
use std::sync::Arc;

use crate::decide::observation::{PollResult, ReadRequest};
use crate::decide::plan::{Reload, Revision};
use crate::index::findings::Finding;
use crate::model::secret::SecretId;
use crate::model::workload::{Workload, WorkloadId};
use crate::references::manifest::Manifest;

/// What the reloader needs of a server of the Vault API.
pub trait Vault: Send {
    /// Asks for secrets, each once.
    fn poll(&mut self, asks: &[ReadRequest]) -> impl Future<Output = PollResult> + Send;

    /// What there is to say at present of secrets that cannot be watched.
    fn notices(&self) -> HashMap<Arc<SecretId>, Finding> {
        HashMap::new()
    }

    /// Asks the server for its time, for the clock that it was made with.
    fn read_clock(&mut self) -> impl Future<Output = ()> + Send;

    /// Nothing is asked for until the next poll of everything: gives back what that cannot use.
    fn rest(&mut self) -> impl Future<Output = ()> + Send;

    /// Forgets what concerns secrets that are not used any more.
    fn forget(&mut self, is_used: impl Fn(&SecretId) -> bool + Send);

    /// Ends it: gives back what must not be left behind.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// What the reloader needs of the cluster.
pub trait Cluster: Send + Sync {
    /// The present revisions of workloads, by uid; one that cannot be had is not among them.
    fn revisions(
        &self,
        workloads: &[Arc<Workload>],
    ) -> impl Future<Output = HashMap<Box<str>, Revision>> + Send;

    /// Reloads a workload, if it is still as it was decided about. Answers it as it is then.
    fn patch(
        &self,
        workload: &Workload,
        reload: &Reload,
    ) -> impl Future<Output = Result<Manifest, WriteError>> + Send;

    /// Reads a workload.
    fn get(&self, id: &WorkloadId) -> impl Future<Output = Result<Manifest, WriteError>> + Send;

    /// Who wrote a workload last, beside this controller.
    fn last_writer(&self, id: &WorkloadId) -> impl Future<Output = Option<String>> + Send;
}

/// Why a workload could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The object is not the one that was decided about any more.
    #[error("it was changed by somebody else")]
    Conflict,
    /// It does not exist any more.
    #[error("it was deleted")]
    NotFound,
    /// The service account may not, or an admission policy refused.
    #[error("refused: {0}")]
    Refused(String),
    /// No answer, or a failing server.
    #[error("the API server failed: {0}")]
    Failed(String),
}

impl WriteError {
    /// A short name of its kind.
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
