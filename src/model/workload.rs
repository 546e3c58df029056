//! Workloads: the stored state of a Deployment, DaemonSet or StatefulSet that opted in.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::model::annotation::OptIn;
use crate::model::kind::Kind;
use crate::model::progress::Progress;
use crate::model::record::Recorded;
use crate::model::secret::SecretId;
use crate::model::strategy::Rollout;
use crate::model::time_rules::TimeRules;

/// The name of a workload within the cluster. Its display form is `namespace/Kind/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadId {
    /// The kind.
    pub kind: Kind,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.kind, self.name)
    }
}

/// The most secrets that are watched for one workload. Each secret costs Vault a request per poll.
/// In the record it costs 30 bytes. All annotations of an object share 256 KiB.
pub const MOST_SECRETS: usize = 1000;

/// The stored state of a workload that opted in and refers to at least one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent facts of one object")]
pub struct Workload {
    /// The name of the workload.
    pub id: WorkloadId,
    /// The uid: a workload that was deleted and made again has another one. What is kept of a workload
    /// beside the index shares it.
    pub uid: Arc<str>,
    /// The version of the object that was read, the precondition of a PATCH.
    pub resource_version: Box<str>,
    /// When the workload was created, by the API server's clock.
    pub created: Timestamp,
    /// Whether the workload is being deleted.
    pub deleting: bool,
    /// Whether the workload is never reloaded, only reported.
    pub dry_run: bool,
    /// The place among the workloads of its namespace that are due: the lowest number starts first.
    pub reload_order: i16,
    /// The reload count of a failed reload after which rotations go on.
    pub continue_after: Option<u64>,
    /// Whether a rollout adds new pods before it takes old ones away.
    pub rolls_gradually: bool,
    /// The time rules of its own annotations. Few workloads have any, so they are boxed.
    pub time_rules: Option<Box<TimeRules>>,
    /// The controller that owns the workload, as `Kind/name`. Mostly a resource of an operator.
    pub owner: Option<Box<str>>,
    /// How the controller of the workload treats a new template.
    pub rollout: Rollout,
    /// Whether the controller of the workload has seen the current template.
    pub observed: bool,
    /// How far the rollout of the current template is.
    pub progress: Progress,
    /// A digest that differs between pod templates.
    pub template: u64,
    /// The number of changes of the spec.
    pub generation: u64,
    /// The generation of annotations that the workload opted in with.
    pub opt_in: OptIn,
    /// The reload count on the template. Any text but a number counts as zero.
    pub count: u64,
    /// The mark on the template, if the workload was ever reloaded.
    pub mark: Option<Box<str>>,
    /// Whether the workload allows secrets to be missing.
    pub ignore_missing: bool,
    /// The ControllerRevision that a StatefulSet is moving to.
    pub update_revision: Option<Box<str>>,
    /// The content of the workload's own record, if there is one.
    pub recorded: Option<Recorded>,
    /// The secrets that the workload refers to, each once, in order.
    pub secrets: Box<[Arc<SecretId>]>,
    /// The secrets that the workload referred to before a ConfigMap or Secret changed under its
    /// present template. Its pods may run with them until the template changes.
    pub former_secrets: Box<[Arc<SecretId>]>,
}

impl Workload {
    /// Returns all secrets whose changes reload the workload.
    pub fn watched(&self) -> impl Iterator<Item = &Arc<SecretId>> {
        self.secrets.iter().chain(&self.former_secrets)
    }

    /// Takes over the secrets of an earlier state with the same template. The present secrets come
    /// before the former ones. Together they stay within [`MOST_SECRETS`].
    pub fn take_over_secrets(&mut self, earlier: &Self) {
        if earlier.former_secrets.is_empty() && earlier.secrets == self.secrets {
            return;
        }
        // All secrets are on one server, which the present secrets determine.
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

    /// Whether the secrets are on the server of this name.
    #[must_use]
    pub fn is_of(&self, server: &str) -> bool {
        // All secrets are on one server.
        self.watched().next().is_some_and(|secret| *secret.connection == *server)
    }

    /// Whether the workload certainly kept its template until it was read again as `later`. Changes
    /// in between may have gone unseen.
    ///
    /// Equal templates do not suffice: a reload that was taken back at once leaves the template
    /// from before. Such a change takes two changes of the spec, which the generation counts.
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
