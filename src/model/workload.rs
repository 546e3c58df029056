//! Workloads: what is kept of a Deployment, DaemonSet or StatefulSet that opted in.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::model::annotation::OptIn;
use crate::model::kind::Kind;
use crate::model::record::Recorded;
use crate::model::secret::SecretId;
use crate::model::strategy::Rollout;

/// The name of a workload within the cluster. It prints as `namespace/Kind/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadId {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.kind, self.name)
    }
}

/// The most secrets that are watched for one workload. Each costs Vault a request a poll, and the record an
/// entry of 30 bytes, of the 256 KiB that all annotations of an object share.
pub const MOST_SECRETS: usize = 1000;

/// What is kept of a workload that opted in and refers to at least one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its name.
    pub id: WorkloadId,
    /// Its uid: a workload that was deleted and made anew is another one.
    pub uid: Box<str>,
    /// The version of the object that this was read from, the precondition of a PATCH.
    pub resource_version: Box<str>,
    /// When it was created, by the API server's clock.
    pub created: Timestamp,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// The controller that owns it, as `Kind/name`: an operator's resource, mostly.
    pub owner: Option<Box<str>>,
    /// What its controller does with a new template.
    pub rollout: Rollout,
    /// Whether its controller has seen its current template.
    pub observed: bool,
    /// Tells one pod template from another.
    pub template: u64,
    /// Counts the changes of its spec.
    pub generation: u64,
    /// The generation of annotations that it opted in with.
    pub opt_in: OptIn,
    /// The reload count on its template; what is not a number counts as zero.
    pub count: u64,
    /// The mark on its template, if it was ever reloaded.
    pub mark: Option<Box<str>>,
    /// Whether the workload says that missing secrets are no error.
    pub ignore_missing: bool,
    /// The ControllerRevision that a StatefulSet is moving to.
    pub update_revision: Option<Box<str>>,
    /// What its own record says, if it has one that is its own.
    pub recorded: Option<Recorded>,
    /// The secrets that it refers to, each once, in order.
    pub secrets: Box<[Arc<SecretId>]>,
    /// The secrets that it referred to before, since a ConfigMap or Secret changed under its present
    /// template: its pods may run with them until the template changes.
    pub former_secrets: Box<[Arc<SecretId>]>,
}

impl Workload {
    /// All secrets whose changes its pods are to be reloaded for.
    pub fn watched(&self) -> impl Iterator<Item = &Arc<SecretId>> {
        self.secrets.iter().chain(&self.former_secrets)
    }

    /// Takes over the secrets of an earlier sight of it, which had the same template. The present ones
    /// count before the former ones, of which no more are kept than may be watched in all.
    pub fn take_over_secrets(&mut self, earlier: &Self) {
        if earlier.former_secrets.is_empty() && earlier.secrets == self.secrets {
            return;
        }
        // All are on one server, and the present ones say on which.
        let Some(connection) = self.secrets.iter().chain(earlier.watched()).next() else {
            return;
        };
        let connection = &connection.connection;
        let is_former = |secret: &&Arc<SecretId>| {
            secret.connection == *connection && self.secrets.binary_search(secret).is_err()
        };
        let room = MOST_SECRETS.saturating_sub(self.secrets.len());
        self.former_secrets = earlier.watched().filter(is_former).take(room).cloned().collect();
    }

    /// Whether its secrets are on the server of this name.
    #[must_use]
    pub fn is_of(&self, server: &str) -> bool {
        // All are on one.
        self.watched().next().is_some_and(|secret| *secret.connection == *server)
    }

    /// Whether it surely still had the present template when it was read again as `later`, by
    /// somebody who may not have seen all that happened in between.
    ///
    /// Equal templates do not suffice: a reload that was taken back at once leaves the one from
    /// before. That takes two changes of the spec, which its generation counts.
    #[must_use]
    pub fn kept_its_template(&self, later: &Self) -> bool {
        self.has_template_of(later) && later.generation.saturating_sub(self.generation) < 2
    }

    /// Whether both are the same workload with the same template.
    #[must_use]
    pub fn has_template_of(&self, other: &Self) -> bool {
        self.uid == other.uid && self.template == other.template
    }
}
