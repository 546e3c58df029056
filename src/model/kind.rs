//! The table of workload kinds. A new kind needs a row here, and its rule in the functions that use
//! the columns of a row.

use std::fmt;

use crate::model::progress::{self, Progress, RolloutStatus};
use crate::model::strategy::Rollout;

/// A row of the table.
#[derive(Debug)]
struct Row {
    /// The spelling in manifests.
    name: &'static str,
    /// The spelling in API paths and RBAC rules.
    plural: &'static str,
    group: &'static str,
    version: &'static str,
    revisions: Revisions,
    progress: fn(&RolloutStatus, Rollout) -> Progress,
}

/// The objects of the cluster that are the revisions of a workload, made by its controller from the
/// pod template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revisions {
    /// ReplicaSets, numbered by an annotation.
    ReplicaSets,
    /// ControllerRevisions, numbered by a field.
    ControllerRevisions,
    /// ControllerRevisions, of which `status.updateRevision` names the present one.
    NamedControllerRevisions,
}

/// All kinds.
static ROWS: [Row; Kind::ALL.len()] = [
    Row {
        name: "Deployment",
        plural: "deployments",
        group: "apps",
        version: "v1",
        revisions: Revisions::ReplicaSets,
        progress: progress::of_deployment,
    },
    Row {
        name: "DaemonSet",
        plural: "daemonsets",
        group: "apps",
        version: "v1",
        revisions: Revisions::ControllerRevisions,
        progress: progress::of_daemon_set,
    },
    Row {
        name: "StatefulSet",
        plural: "statefulsets",
        group: "apps",
        version: "v1",
        revisions: Revisions::NamedControllerRevisions,
        progress: progress::of_stateful_set,
    },
];

/// A kind of workloads: its place in the table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind(u8);

impl Kind {
    /// The `apps/v1` Deployment.
    pub const DEPLOYMENT: Self = Self(0);
    /// The `apps/v1` DaemonSet.
    pub const DAEMON_SET: Self = Self(1);
    /// The `apps/v1` StatefulSet.
    pub const STATEFUL_SET: Self = Self(2);

    /// All kinds, in the order of the table.
    pub const ALL: [Self; 3] = [Self::DEPLOYMENT, Self::DAEMON_SET, Self::STATEFUL_SET];

    /// Returns the kind as manifests spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Returns the resource as API paths and RBAC rules spell it.
    #[must_use]
    pub fn plural(self) -> &'static str {
        self.row().plural
    }

    /// Returns the API group.
    #[must_use]
    pub fn group(self) -> &'static str {
        self.row().group
    }

    /// Returns the version of the API group.
    #[must_use]
    pub fn version(self) -> &'static str {
        self.row().version
    }

    /// Returns the group and version as in `apiVersion` of a manifest.
    #[must_use]
    pub fn api_version(self) -> String {
        format!("{}/{}", self.group(), self.version())
    }

    /// Returns the objects that are the revisions of a workload of this kind.
    #[must_use]
    pub fn revisions(self) -> Revisions {
        self.row().revisions
    }

    /// Returns the progress of a rollout of this kind.
    #[must_use]
    pub fn progress(self, status: &RolloutStatus, rollout: Rollout) -> Progress {
        (self.row().progress)(status, rollout)
    }

    /// Returns the place in the table, for arrays with one element per kind.
    #[must_use]
    pub fn place(self) -> usize {
        usize::from(self.0)
    }

    fn row(self) -> &'static Row {
        &ROWS[self.place()]
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_its_own_row() {
        let names = Kind::ALL.map(Kind::name);
        assert_eq!(names, ["Deployment", "DaemonSet", "StatefulSet"]);
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind.place(), place);
            assert_eq!(kind.plural(), format!("{}s", kind.name().to_lowercase()));
            assert_eq!(kind.api_version(), "apps/v1");
        }
    }
}
