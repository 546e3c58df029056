//! What follows from a change of the index: for the log, and for those that read the cluster.

use crate::model::kind::Kind;
use crate::model::record::RecordError;
use crate::model::workload::WorkloadId;
use crate::references::place::Note;

/// What follows from a change of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Workloads name ConfigMaps or Secrets that were not read yet: see
    /// [`take_unread_sources`](super::Index::take_unread_sources).
    ReadSources,
    /// A source of this workload changed, and its manifest is too long to be kept: its kind is to be listed
    /// again.
    ListAgain(WorkloadId),
    /// A workload is new, or refers to other secrets than before.
    Collected {
        /// Which.
        id: WorkloadId,
        /// Whether it is one of those that the first list of its kind has shown.
        is_of_first_list: bool,
    },
    /// A workload is not watched any more: it was deleted, opted out, or refers to nothing.
    Removed(WorkloadId),
    /// What there is to say of the references of a workload changed. Nothing is left to say where both fields
    /// are empty.
    Noted {
        /// Which.
        id: WorkloadId,
        /// `metadata.uid`
        uid: Box<str>,
        /// References that are not watched, or look odd.
        notes: Vec<Note>,
        /// Why its record could not be read.
        record_error: Option<RecordError>,
    },
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
}
