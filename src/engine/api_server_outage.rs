//! Whether the API server works.

use crate::engine::ports::WriteError;
use crate::events::event::Event;
use crate::events::sink::Events;

/// Whether the API server itself does not work: neither a PATCH nor a read after it got an answer.
/// Said once, when it begins, and once when it is over.
#[derive(Debug, Default)]
pub(super) struct ApiServerOutage {
    pub(super) is_known: bool,
}

impl ApiServerOutage {
    /// Takes in whether a request got an answer, of whatever kind.
    pub(super) fn see(&mut self, answer: &Result<(), WriteError>, events: &Events) {
        match (self.is_known, answer) {
            (false, Err(error)) => {
                events.emit(&Event::ApiServerFailed { error: &error.to_string() });
            }
            (true, Ok(())) => events.emit(&Event::ApiServerRecovered),
            (true, Err(_)) | (false, Ok(())) => {}
        }
        self.is_known = answer.is_err();
    }
}
