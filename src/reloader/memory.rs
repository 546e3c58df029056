//! What is remembered of workloads while this process runs. All of it may be lost: the records on the
//! workloads say what matters.

use std::sync::Arc;

use crate::core::plan::{Hold, Past, Revision};
use crate::core::secret::SecretId;

use super::ports::WriteError;

/// What is remembered of a workload while this process runs.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) past: Past,
    pub(super) failures: u32,
    /// The revision that the template had.
    pub(super) revision: Option<(u64, Revision)>,
    /// What was said of it.
    pub(super) said: Said,
}

/// What was said of a workload, so that it is said once a change.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) hold: Option<Hold>,
    pub(super) reverted: Vec<Arc<SecretId>>,
    pub(super) error: Option<WriteError>,
}
