//! Whether the API server works.

use crate::engine::ports::WriteError;
use crate::events::event::Event;
use crate::events::sink::Events;

/// An outage of the API server: neither a PATCH nor the read after it got an answer. The outage is
/// reported once when it begins, and once when it ends.
#[derive(Debug, Default)]
pub(super) struct ApiServerOutage {
    pub(super) is_known: bool,
}

impl ApiServerOutage {
    /// Takes in whether a request got an answer, of any kind.
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
