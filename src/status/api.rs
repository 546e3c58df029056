//! The JSON types of the API at `/v1`. `docs/openapi.yaml` describes them, and a test compares both.
//!
//! Names are in camel case, as in the Kubernetes API. A field is never removed or renamed within
//! `/v1`; new fields may come.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The names of all states of a workload, the worst first: see [`Progress::state`].
pub const WORKLOAD_STATES: [&str; 8] =
    ["failed", "takenBack", "held", "pending", "running", "unknown", "silent", "complete"];

/// The reason codes of all states of a workload: see [`Progress::reason`].
pub const REASONS: [&str; 30] = [
    "FailedCreate",
    "ProgressDeadlineExceeded",
    "RolloutTimedOut",
    "TakenBack",
    "SecretMissing",
    "AnnotationsRemoved",
    "InjectorAway",
    "InjectorMissing",
    "RateLimited",
    "WaitsForTurn",
    "RotationStopped",
    "TooManyRollouts",
    "ReloadedRecently",
    "HeldBySecretOwner",
    "DryRun",
    "Frozen",
    "OutsideWindow",
    "InvalidTimeRule",
    "ReloadFailed",
    "Deleting",
    "NextPoll",
    "Settling",
    "WaitingForRevision",
    "Due",
    "RolloutRunning",
    "NoAnswer",
    "NoReplicas",
    "Paused",
    "OnDelete",
    "Partition",
];

/// The codes of failures: see [`Failure::code`].
pub const FAILURE_CODES: [&str; 9] = [
    "badRequest",
    "unauthorized",
    "forbidden",
    "notFound",
    "tooManyRequests",
    "notChecked",
    "notLeader",
    "leaderUnreachable",
    "notReady",
];

/// The answer of `/v1/overview`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// The time of this answer, by the controller's clock.
    pub now: Timestamp,
    /// The version of the controller.
    pub version: String,
    /// The name of the replica that answers. It is the leader.
    pub leader: String,
    /// The Vault servers, in order of their names.
    pub servers: Vec<Server>,
    /// The number of rotations by state. Each secret has one rotation: to its live version.
    pub rotations: BTreeMap<String, u64>,
    /// The number of workloads by the worst state of their secrets: see [`Workload::state`].
    pub workloads: BTreeMap<String, u64>,
    /// The number of workloads by kind.
    pub workloads_by_kind: BTreeMap<String, u64>,
    /// The number of workloads with findings, by reason code: references that are not watched or
    /// look odd.
    pub findings: BTreeMap<String, u64>,
}

/// A Vault server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// The name of the server; `default` for the configured server.
    pub name: String,
    /// The number of secrets that workloads refer to on this server.
    pub secrets: u64,
    /// When the last poll ended, by the controller's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_poll: Option<Timestamp>,
    /// When the last poll ended that the server answered, by the controller's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_successful_poll: Option<Timestamp>,
}

/// A secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secret {
    /// The name of the Vault server.
    pub server: String,
    /// The Vault namespace; absent for the root namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The API path, such as `secret/data/mysql`.
    pub path: String,
}

impl Secret {
    /// Returns the key by which lists of secrets are in order.
    #[must_use]
    pub fn key(&self) -> String {
        // No part contains a NUL.
        let namespace = self.namespace.as_deref().unwrap_or("");
        [&self.server, namespace, &self.path].join("\u{1}")
    }
}

/// A version of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// The number of the version.
    pub number: u64,
    /// When Vault created the version, by Vault's clock.
    pub created: Timestamp,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// The number of all items of the list.
    pub total: u64,
    /// The value of `continue` for the next page. Absent on the last page.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Returns the page with each item changed.
    #[must_use]
    pub fn map<U>(self, change: impl Fn(T) -> U) -> Page<U> {
        let items = self.items.into_iter().map(change).collect();
        Page { items, total: self.total, next: self.next }
    }
}

/// A rotation: a secret, its live version, and how many workloads run with this version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// The secret.
    pub secret: Secret,
    /// The version that Vault showed last. Absent if Vault has shown none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// When the last poll began that read the secret, by the controller's clock. A change of the
    /// secret before this time is known. Absent if no poll has read the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_at: Option<Timestamp>,
    /// `complete`, `running`, `stopped`, `held`, `missing` or `unknown`.
    pub state: String,
    /// Whether no pod can use an earlier version any more: the state is `complete`, and each silent
    /// workload has no pods.
    pub revocable: bool,
    /// The number of workloads by state.
    pub workloads: BTreeMap<String, u64>,
}

/// The answer of `/v1/secret`: a rotation with all its workloads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretStatus {
    /// The time of this answer, by the controller's clock.
    pub now: Timestamp,
    /// The rotation.
    #[serde(flatten)]
    pub rotation: Rotation,
    /// The workloads that refer to the secret, in order of their names.
    pub users: Page<User>,
}

/// A workload that refers to a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The workload, as `namespace/Kind/name`.
    pub workload: String,
    /// How far the workload is with the version.
    #[serde(flatten)]
    pub progress: Progress,
}

impl User {
    /// Returns the key by which people are shown users: the worst state first. Pages are in order of
    /// the names, which never change.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.progress.rank(), self.workload)
    }
}

/// How far a workload is with a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// `complete`, `running`, `failed`, `silent`, `pending`, `held`, `takenBack` or `unknown`.
    pub state: String,
    /// The reason code. Absent for `complete`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A sentence for people: what is the case, and what to do.
    pub message: String,
    /// Since when: the time of the reload by the API server's clock, or while the workload is not
    /// reloaded, when the version was created. Absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

impl Progress {
    /// Returns the place of the state in [`WORKLOAD_STATES`].
    #[must_use]
    pub fn rank(&self) -> usize {
        rank(&self.state)
    }
}

/// Returns the place of a state in [`WORKLOAD_STATES`].
#[must_use]
pub fn rank(state: &str) -> usize {
    WORKLOAD_STATES.iter().position(|name| *name == state).unwrap_or(WORKLOAD_STATES.len())
}

/// A workload in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// The workload, as `namespace/Kind/name`.
    pub workload: String,
    /// The number of secrets that it refers to.
    pub secrets: u64,
    /// The worst state of its secrets: see [`Progress::state`].
    pub state: String,
}

/// The answer of `/v1/workload`: a workload with all its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// The workload, as `namespace/Kind/name`.
    pub workload: String,
    /// The reload count on its pod template.
    pub reloads: u64,
    /// When the controller reloaded it last. Absent if it was never reloaded, or by a release
    /// before 1.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<Timestamp>,
    /// The secrets that it refers to, those that it lacks first.
    pub secrets: Vec<UsedSecret>,
    /// Its references that are not watched or look odd.
    pub findings: Vec<Finding>,
}

/// A secret that a workload refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsedSecret {
    /// The secret.
    pub secret: Secret,
    /// The version that Vault showed last. Absent if Vault has shown none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// How far the workload is with this version.
    #[serde(flatten)]
    pub progress: Progress,
}

/// Why a reference is not watched, or what looks odd about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The reason code.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// The answer to a request that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// One of [`FAILURE_CODES`].
    pub code: String,
    /// What is wrong, and what to do.
    pub message: String,
}
