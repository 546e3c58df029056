//! Notes on time rules that cannot be used.

use crate::model::time_rules::{TimeError, TimeRules};
use crate::references::place::{Note, Origin};
use crate::references::reason::Reason;
use crate::rollouts::calendar;

/// Returns what is wrong with the first text that cannot be read.
#[must_use]
pub fn first_error(rules: &TimeRules) -> Option<TimeError> {
    calendar::errors(rules).next()
}

/// Returns a note for each text that cannot be read. Whether a freeze ends too far ahead depends on
/// the time, and is not noted.
pub fn notes(rules: &TimeRules) -> impl Iterator<Item = Note> {
    calendar::errors(rules).map(|error| {
        let (name, reason) = match error {
            TimeError::NoTime | TimeError::TooFar => ("freeze-until", Reason::InvalidFreeze),
            TimeError::TooLong
            | TimeError::NoKind
            | TimeError::Fields
            | TimeError::Cron
            | TimeError::Duration
            | TimeError::Zone => ("reload-windows", Reason::InvalidWindow),
        };
        Note { origin: Origin::Annotation(name), reason }
    })
}
