//! The events that happen while the controller runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::decide::hold::Hold;
use crate::decide::observation::Observation;
use crate::decide::plan::{Cause, Decision};
use crate::index::entries::IndexedWorkload;
use crate::model::kind::Kind;
use crate::model::poll::PollNumber;
use crate::model::progress::RolloutFailure;
use crate::model::record::RecordError;
use crate::model::request_end::RequestEnd;
use crate::model::scope::ListScope;
use crate::model::secret::{SecretId, Version};
use crate::model::strategy::Rollout;
use crate::model::workload::WorkloadId;
use crate::references::place::Note;
use crate::rollouts::rotation::RotationState;

/// Something that happened. Unless its description says otherwise, an event is emitted once, when its
/// state begins.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The first list of a kind ended.
    FirstListEnded {
        /// The kind.
        kind: Kind,
        /// The number of workloads of all kinds that refer to secrets so far.
        workloads: usize,
        /// The number of secrets that they refer to.
        secrets: usize,
        /// The number of workloads of this kind that wait for their ConfigMaps or Secrets to be
        /// read.
        waiting: usize,
    },
    /// Polls do not wait any longer for workloads that could not be listed.
    KindOverdue {
        /// The workloads.
        scope: &'a ListScope,
        /// How long polls waited for them.
        waited: Duration,
    },
    /// A source of a workload changed, and the manifest of the workload is too long to be kept. Its
    /// kind is listed again.
    ListAgain {
        /// The workload.
        workload: &'a WorkloadId,
    },
    /// A workload is new, or refers to other secrets than before.
    Collected {
        /// The workload.
        workload: &'a WorkloadId,
        /// Whether the first list of its kind has shown the workload.
        is_of_first_list: bool,
    },
    /// The rollout of a reload ended, or failed.
    RolloutEnded {
        /// The workload.
        workload: &'a WorkloadId,
        /// Why the rollout failed; `None` if all pods run with the new template.
        failure: Option<RolloutFailure>,
    },
    /// A workload is no longer watched.
    Removed {
        /// The workload.
        workload: &'a WorkloadId,
    },
    /// The notes on the references of a workload changed.
    Noted {
        /// The workload.
        workload: &'a WorkloadId,
        /// The notes on references that are not watched or look odd; empty if none is left.
        notes: &'a [Note],
        /// Why the record of the workload could not be read.
        record_error: Option<&'a RecordError>,
    },
    /// Polls of a server begin, at the start or when the replica leads again. What was known before
    /// may have changed.
    PollingBegan {
        /// The name of the server.
        server: &'a str,
    },
    /// A poll of a server begins.
    PollStarted {
        /// The name of the server.
        server: &'a str,
    },
    /// A poll of a server ended.
    PollEnded {
        /// The name of the server.
        server: &'a str,
        /// Whether Vault answered for at least one secret, or no secret was requested.
        is_answered: bool,
        /// How long Vault took to answer.
        took: Duration,
    },
    /// A poll used a token. Emitted in each poll.
    TokenUsed {
        /// The name of the server.
        server: &'a str,
        /// How long the token is still valid, if the controller can neither renew nor replace it.
        left: Option<Duration>,
    },
    /// A poll read a secret. Emitted in each poll.
    Observed {
        /// The secret.
        secret: &'a Arc<SecretId>,
        /// The observation, as far as it is believed.
        observation: Observation,
        /// The number of the poll.
        poll: PollNumber,
    },
    /// A poll decided about a workload. Emitted in each poll.
    Decided {
        /// The workload.
        decided: &'a IndexedWorkload,
        /// The number of the poll.
        poll: PollNumber,
        /// The decision. A reload that may not start yet is held.
        decision: &'a Decision,
    },
    /// Vault answered, and no workload is to be reloaded. Emitted once a period.
    NothingToReload,
    /// The workloads of a namespace refer to more secrets than its quota.
    NamespaceOverQuota {
        /// The namespace.
        namespace: &'a str,
        /// The number of its workloads that are not watched.
        workloads: usize,
        /// The number of secrets that the workloads of a namespace may refer to.
        quota: usize,
    },
    /// All workloads of a namespace are watched again.
    NamespaceWithinQuota {
        /// The namespace.
        namespace: &'a str,
    },
    /// Workloads wait for the rate limit of reloads for changes while no controller watched.
    BudgetSpent {
        /// The number of workloads that wait.
        workloads: usize,
        /// The number of reloads that may start a minute.
        per_minute: u32,
    },
    /// No workload waits for the rate limit any more.
    BudgetFree,
    /// Workloads begin to wait until others have made room, or until time has passed.
    ReloadsWait {
        /// What they wait for.
        hold: Hold,
        /// The number of workloads that wait.
        workloads: usize,
    },
    /// No workload waits for this any more.
    NoReloadWaits {
        /// What they waited for.
        hold: Hold,
    },
    /// The API server does not work: neither a PATCH nor a read after it got an answer.
    ApiServerFailed {
        /// The error.
        error: &'a str,
    },
    /// The API server works again.
    ApiServerRecovered,
    /// A reload begins.
    Reloading {
        /// The workload.
        workload: &'a WorkloadId,
        /// The secrets that changed.
        changed: &'a [Arc<SecretId>],
        /// Why the secrets count as changed.
        cause: Cause,
    },
    /// The PATCH of a reload was answered.
    Reloaded {
        /// The workload.
        workload: &'a WorkloadId,
        /// The reload count that the PATCH wrote.
        count: u64,
        /// Why its secrets counted as changed.
        cause: Cause,
        /// How the workload's controller rolls out the new template.
        rollout: Rollout,
        /// The secrets that changed, with their versions.
        changes: &'a [Change],
        /// The time since the oldest of the versions was created. `None` if Vault's clock tells
        /// none.
        delay: Option<Duration>,
    },
    /// A workload was read again after a conflict, and needs no reload any more.
    NotNeeded {
        /// The workload.
        workload: &'a WorkloadId,
    },
    /// The PATCH of a reload failed, and is tried again.
    ReloadFailed {
        /// The workload.
        workload: &'a WorkloadId,
        /// Why its secrets counted as changed.
        cause: Cause,
        /// Why the PATCH failed.
        error: &'a str,
        /// Whether the same failure was emitted before.
        again: bool,
    },
    /// A secret changed, and the reload is held.
    Held {
        /// The workload.
        workload: &'a WorkloadId,
        /// Why the reload is held.
        hold: Held<'a>,
        /// The secrets that changed.
        changed: &'a [Arc<SecretId>],
        /// The secrets that are gone.
        gone: &'a [Arc<SecretId>],
    },
    /// A reload is no longer held.
    Released {
        /// The workload.
        workload: &'a WorkloadId,
    },
    /// A reload was taken back: an older revision was restored.
    TakenBack {
        /// The workload.
        workload: &'a WorkloadId,
        /// The secrets of the reload; empty if the reload no longer counts as taken back.
        secrets: &'a [Arc<SecretId>],
        /// Whether the same was emitted before for all these secrets.
        again: bool,
        /// The controller that owns the workload.
        owner: Option<&'a str>,
    },
    /// A secret may have changed, and the workload's controller has not yet made the revision that
    /// decides.
    WaitingForRevision {
        /// The workload.
        workload: &'a WorkloadId,
        /// Whether the workload has waited so long that somebody should look.
        is_long: bool,
    },
    /// A rotation changed its state. Only the leader sees this.
    RotationChanged {
        /// The secret.
        secret: &'a SecretId,
        /// The live version, or the last one of a secret that is missing. `None` if there was none.
        version: Option<Version>,
        /// The state before. `None` if this process sees the rotation for the first time.
        from: Option<RotationState>,
        /// The state now.
        to: RotationState,
        /// The time from the creation of the version to now, by Vault's clock. `None` unless the
        /// rotation is complete, and was not complete for this version before.
        took: Option<Duration>,
        /// The number of workloads that refer to the secret, by the names of their states.
        users: &'a BTreeMap<&'static str, u64>,
    },
    /// A request to Vault ended. Emitted for each request.
    VaultRequest {
        /// The name of the server.
        server: &'a Arc<str>,
        /// What was requested.
        operation: &'static str,
        /// How the request ended.
        end: RequestEnd,
    },
    /// A login to Vault ended.
    VaultLogin {
        /// The name of the server.
        server: &'a Arc<str>,
        /// The auth method.
        method: &'static str,
        /// Whether Vault gave a token.
        is_success: bool,
    },
    /// A request to the API server was answered, or failed. Emitted for each request. A watch is one
    /// request.
    ApiRequest {
        /// The verb as in RBAC rules.
        verb: &'static str,
        /// The resource as in RBAC rules.
        resource: &'static str,
        /// How the request ended.
        end: RequestEnd,
    },
    /// A Kubernetes Event was written on a workload, or could not be written.
    EventWritten {
        /// The reason of the Event.
        reason: &'static str,
        /// Whether the type of the Event is Warning.
        is_warning: bool,
        /// Whether the API server accepted the Event.
        is_success: bool,
    },
}

/// A secret for which a workload was reloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The secret.
    pub secret: Arc<SecretId>,
    /// The version in the record before. `None` if there was none.
    pub from: Option<Version>,
    /// The version in the record since. `None` if there is none, as for a former secret.
    pub to: Option<Version>,
}

/// Why a reload is held.
#[derive(Clone, Copy, Debug)]
pub enum Held<'a> {
    /// Another controller removes the reload annotations again and again.
    Stripped {
        /// The time until the next attempt, in hours.
        hours: i64,
        /// The field manager that wrote the workload last.
        by: Option<&'a str>,
        /// The controller that owns the workload.
        owner: Option<&'a str>,
    },
    /// New pods lack the webhook that injects secrets. The text says what they lack, and what to do.
    Injector(&'a str),
    /// Another hold.
    For(Hold),
}
