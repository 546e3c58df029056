//! The effects of a change of the index, for the log and for the readers of the cluster.

use crate::model::kind::Kind;
use crate::model::progress::RolloutFailure;
use crate::model::record::RecordError;
use crate::model::workload::WorkloadId;
use crate::references::place::Note;

/// An effect of a change of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Workloads name ConfigMaps or Secrets that were not read yet: see
    /// [`take_unread_sources`](super::Index::take_unread_sources).
    ReadSources,
    /// A source of this workload changed, and the manifest of the workload is too long to be kept.
    /// Its kind must be listed again.
    ListAgain(WorkloadId),
    /// A workload is new, or refers to other secrets than before.
    Collected {
        /// The workload.
        id: WorkloadId,
        /// Whether the first list of its kind has shown the workload.
        is_of_first_list: bool,
    },
    /// A workload is no longer watched: it was deleted, opted out, or refers to no secret.
    Removed(WorkloadId),
    /// The rollout of a reload ended, or failed.
    RolloutEnded {
        /// The workload.
        id: WorkloadId,
        /// Why the rollout failed; `None` if all pods run with the new template.
        failure: Option<RolloutFailure>,
    },
    /// The notes on the references of a workload changed. Nothing is left to note if `notes` is
    /// empty and there is no `record_error`.
    Noted {
        /// The workload.
        id: WorkloadId,
        /// `metadata.uid`
        uid: Box<str>,
        /// The notes on references that are not watched or look odd.
        notes: Vec<Note>,
        /// Why the record of the workload could not be read.
        record_error: Option<RecordError>,
    },
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
}
