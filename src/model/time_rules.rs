//! Time rules: the freezes and windows that hold reloads for a time, as they are written. The
//! operator, a namespace and a workload may each have some.
//!
//! The texts are kept as they are, up to a length. [`crate::rollouts::calendar`] reads them.

use std::sync::Arc;

/// The longest text of a freeze, in bytes.
pub const LONGEST_FREEZE: usize = 64;

/// The most windows of one text.
pub const MOST_WINDOWS: usize = 16;

/// The longest window, in bytes.
pub const LONGEST_WINDOW: usize = 128;

/// The longest text of windows, in bytes: the most windows, with their separators and line breaks.
pub const LONGEST_WINDOWS: usize = MOST_WINDOWS * (LONGEST_WINDOW + 2);

/// The time rules of the operator, a namespace or a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeRules {
    /// The text of `freeze-until`.
    pub freeze_until: Option<Arc<str>>,
    /// The text of `reload-windows`.
    pub windows: Option<Arc<str>>,
}

impl TimeRules {
    /// Returns the rules of two texts. A text without content counts as none. A text that is too
    /// long is cut, and is still too long.
    #[must_use]
    pub fn new(freeze_until: Option<&str>, windows: Option<&str>) -> Self {
        Self {
            freeze_until: freeze_until.and_then(|text| kept(text, LONGEST_FREEZE)),
            windows: windows.and_then(|text| kept(text, LONGEST_WINDOWS)),
        }
    }

    /// Returns the length of the texts, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        [&self.freeze_until, &self.windows].into_iter().flatten().map(|text| text.len()).sum()
    }

    /// Whether there are no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the rules in a box, or `None` if there are none.
    #[must_use]
    pub fn boxed(self) -> Option<Box<Self>> {
        (!self.is_empty()).then(|| Box::new(self))
    }
}

/// Returns a text without the space around it, up to a few bytes more than `longest`.
fn kept(text: &str, longest: usize) -> Option<Arc<str>> {
    let text = text.trim();
    let text = &text[..text.floor_char_boundary(longest + char::MAX.len_utf8())];
    (!text.is_empty()).then(|| text.into())
}

/// Who set a time rule. All three must let a reload start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetBy {
    /// A flag of the controller.
    Operator,
    /// An annotation of the workload's namespace.
    Namespace,
    /// An annotation of the workload.
    Workload,
}

impl SetBy {
    /// Returns where the freeze is written, for a sentence.
    #[must_use]
    pub fn freeze(self) -> &'static str {
        match self {
            Self::Operator => "--freeze-until",
            Self::Namespace => "the annotation freeze-until of its namespace",
            Self::Workload => "the workload's annotation freeze-until",
        }
    }

    /// Returns where the windows are written, for a sentence.
    #[must_use]
    pub fn windows(self) -> &'static str {
        match self {
            Self::Operator => "--reload-windows",
            Self::Namespace => "the annotation reload-windows of its namespace",
            Self::Workload => "the workload's annotation reload-windows",
        }
    }
}

/// Why a time rule cannot be used. Its text says what to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum TimeError {
    /// The freeze is no time.
    #[error("is not a time; write 2026-12-24T00:00:00Z, or a date, 2026-12-24")]
    NoTime,
    /// The freeze ends too far ahead.
    #[error("ends more than 90 days ahead; write an earlier end, and a later one when it is near")]
    TooFar,
    /// There are too many windows, or the text is too long.
    #[error("has more than 16 windows, or one of more than 128 bytes; write fewer or shorter ones")]
    TooLong,
    /// A window begins with another word.
    #[error("has a window that begins with neither allow nor deny; write allow 0 22 * * 1-5 8h")]
    NoKind,
    /// A window has too few or too many fields.
    #[error(
        "has a window without all its fields; write allow or deny, the five fields of cron, a \
         duration, and a time zone if it is not UTC: allow 0 22 * * 1-5 8h Europe/Berlin"
    )]
    Fields,
    /// The cron fields of a window cannot be read, or name no day that comes.
    #[error(
        "has a window whose cron fields cannot be read or never match; write them as 0 22 * * 1-5"
    )]
    Cron,
    /// The duration of a window cannot be read, or is too short or too long.
    #[error("has a window whose duration is not one from 1m to 7d; write 30m, 8h or 1d12h")]
    Duration,
    /// The time zone of a window does not exist.
    #[error("has a window with an unknown time zone; write a name such as Europe/Berlin, or UTC")]
    Zone,
}

impl TimeError {
    /// Returns where the text is written, for a sentence.
    #[must_use]
    pub fn place(self, by: SetBy) -> &'static str {
        match self {
            Self::NoTime | Self::TooFar => by.freeze(),
            Self::TooLong
            | Self::NoKind
            | Self::Fields
            | Self::Cron
            | Self::Duration
            | Self::Zone => by.windows(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_up_to_a_length_and_stays_too_long() {
        let rules = TimeRules::new(Some(" 2026-12-24\n"), Some("  "));
        assert_eq!(rules.freeze_until.as_deref(), Some("2026-12-24"));
        assert_eq!(rules.windows, None);
        assert_eq!(TimeRules::new(None, Some("")).boxed(), None);
        for long in ["x".repeat(1 << 20), "€".repeat(1 << 20)] {
            let rules = TimeRules::new(Some(&long), Some(&long));
            let lengths = [rules.freeze_until, rules.windows].map(|text| text.unwrap().len());
            for (length, longest) in lengths.into_iter().zip([LONGEST_FREEZE, LONGEST_WINDOWS]) {
                assert!(length > longest && length <= longest + 4, "{length}");
            }
        }
    }
}
