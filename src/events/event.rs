//! What happens while the controller runs.

use std::sync::Arc;
use std::time::Duration;

use crate::decide::plan::{Cause, Hold};
use crate::model::kind::Kind;
use crate::model::record::RecordError;
use crate::model::secret::SecretId;
use crate::model::strategy::Rollout;
use crate::model::workload::WorkloadId;
use crate::references::place::Note;

/// Something that happened. Each is emitted once, when it begins.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The first list of a kind ended.
    FirstListEnded {
        /// Which.
        kind: Kind,
        /// How many workloads of all kinds refer to secrets so far.
        workloads: usize,
        /// To how many secrets they refer.
        secrets: usize,
        /// How many workloads of this kind wait for their ConfigMaps or Secrets to be read.
        waiting: usize,
    },
    /// Polls do not wait any longer for a kind that could not be listed.
    KindOverdue {
        /// Which.
        kind: Kind,
        /// For how long they waited.
        waited: Duration,
    },
    /// A source of a workload changed whose manifest is too long to be kept, so that its kind is listed again.
    ListAgain {
        /// Which workload.
        workload: &'a WorkloadId,
    },
    /// A workload is new, or refers to other secrets than before.
    Collected {
        /// Which.
        workload: &'a WorkloadId,
        /// Whether it is one of those that the first list of its kind has shown.
        is_of_first_list: bool,
    },
    /// A workload is not watched any more.
    Removed {
        /// Which.
        workload: &'a WorkloadId,
    },
    /// What there is to say of the references of a workload changed.
    Noted {
        /// Which.
        workload: &'a WorkloadId,
        /// References that are not watched, or look odd; none where nothing is left to say.
        notes: &'a [Note],
        /// Why its record could not be read.
        record_error: Option<&'a RecordError>,
    },
    /// A poll of a server begins.
    PollStarted,
    /// A poll of a server ended.
    PollEnded {
        /// The name of the server.
        server: &'a str,
        /// Whether Vault answered for any secret, or none was asked for.
        is_answered: bool,
        /// How long Vault took to answer.
        took: Duration,
    },
    /// Vault answered, and nothing was to be reloaded. Once a period.
    NothingToReload,
    /// The workloads of a namespace refer to more secrets than its quota.
    NamespaceOverQuota {
        /// The namespace.
        namespace: &'a str,
        /// How many of its workloads are not watched.
        workloads: usize,
        /// How many secrets the workloads of a namespace may refer to.
        quota: usize,
    },
    /// All workloads of a namespace are watched again.
    NamespaceWithinQuota {
        /// The namespace.
        namespace: &'a str,
    },
    /// Workloads wait, since what changed while nobody watched is reloaded at a limited rate.
    BudgetSpent {
        /// How many.
        workloads: usize,
        /// How many reloads may start a minute.
        per_minute: u32,
    },
    /// No workload waits for that rate any more.
    BudgetFree,
    /// The API server does not work: neither a PATCH nor a read after it got an answer.
    ApiServerFailed {
        /// Why.
        error: &'a str,
    },
    /// It works again.
    ApiServerRecovered,
    /// A reload begins.
    Reloading {
        /// Of which workload.
        workload: &'a WorkloadId,
        /// The secrets that changed.
        changed: &'a [Arc<SecretId>],
        /// Why they are taken as changed.
        cause: Cause,
    },
    /// The PATCH of a reload was answered.
    Reloaded {
        /// Of which workload.
        workload: &'a WorkloadId,
        /// The reload count that it wrote.
        count: u64,
        /// Why its secrets were taken as changed.
        cause: Cause,
        /// What the workload's controller does with it.
        rollout: Rollout,
    },
    /// Read again after a conflict, there was nothing to reload any more.
    NotNeeded {
        /// For which workload.
        workload: &'a WorkloadId,
    },
    /// The PATCH of a reload failed, and is tried again.
    ReloadFailed {
        /// Of which workload.
        workload: &'a WorkloadId,
        /// Why its secrets were taken as changed.
        cause: Cause,
        /// Why it failed.
        error: &'a str,
        /// Whether the same was emitted before.
        again: bool,
    },
    /// Something changed, and this stands in the way of a reload.
    Held {
        /// Of which workload.
        workload: &'a WorkloadId,
        /// What stands in the way.
        hold: Held<'a>,
        /// The secrets that changed.
        changed: &'a [Arc<SecretId>],
        /// The secrets that are gone.
        gone: &'a [Arc<SecretId>],
    },
    /// What stood in the way of a reload does so no more.
    Released {
        /// Of which workload.
        workload: &'a WorkloadId,
    },
    /// A reload was taken back: an older revision was restored.
    TakenBack {
        /// Of which workload.
        workload: &'a WorkloadId,
        /// For these secrets; for none: not any more.
        secrets: &'a [Arc<SecretId>],
        /// Whether all of it was emitted before.
        again: bool,
        /// The controller that owns the workload.
        owner: Option<&'a str>,
    },
    /// A secret may have changed, and the workload's controller has yet to make a revision that tells.
    WaitingForRevision {
        /// Of which workload.
        workload: &'a WorkloadId,
        /// Whether it has waited for so long that somebody should look.
        is_long: bool,
    },
}

/// What stands in the way of a reload, with what there is to say of it.
#[derive(Clone, Copy, Debug)]
pub enum Held<'a> {
    /// What the controller writes is removed again and again.
    Stripped {
        /// How long until the next attempt, in hours.
        hours: i64,
        /// Who wrote the workload last.
        by: Option<&'a str>,
        /// The controller that owns the workload.
        owner: Option<&'a str>,
    },
    /// Another hold.
    For(Hold),
}
