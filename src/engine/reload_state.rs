//! What is remembered of workloads while this process runs. All of it may be lost: the records on the
//! workloads say what matters.

use std::sync::Arc;

use crate::decide::plan::{Hold, ReloadHistory};
use crate::model::secret::SecretId;

use crate::engine::ports::WriteError;

/// What is remembered of a workload while this process runs.
#[derive(Default)]
pub(super) struct ReloadState {
    pub(super) past: ReloadHistory,
    pub(super) failures: u32,
    /// How often in a row it waited for its controller.
    pub(super) waits: u32,
    /// What was said of it.
    pub(super) reported: Reported,
}

/// What was said of a workload, so that it is said once a change.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) hold: Option<Hold>,
    pub(super) reverted: Vec<Arc<SecretId>>,
    pub(super) error: Option<WriteError>,
}
