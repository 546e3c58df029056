//! Whether the API server works.

use tracing::{info, warn};

use crate::engine::ports::WriteError;
use crate::events::report::WORKER;

/// Whether the API server itself does not work: neither a PATCH nor a read after it got an answer.
/// Said once, when it begins, and once when it is over.
#[derive(Debug, Default)]
pub(super) struct Outage {
    pub(super) is_known: bool,
}

impl Outage {
    /// Takes in whether a request got an answer, of whatever kind.
    pub(super) fn see(&mut self, answer: &Result<(), WriteError>) {
        match (self.is_known, answer) {
            (false, Err(error)) => warn!(
                worker = WORKER,
                "The API server does not work at present: {error}. Workloads that are due are \
                 reloaded once it does"
            ),
            (true, Ok(())) => info!(worker = WORKER, "The API server works again"),
            (true, Err(_)) | (false, Ok(())) => {}
        }
        self.is_known = answer.is_err();
    }
}
