//! Clocks of servers: how far apart they are, by the `Date` headers of their answers.

use std::sync::Mutex;
use std::sync::PoisonError;

use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};

/// `Date` has whole seconds, so two clocks that agree can seem up to a second apart, and a
/// difference below this is none.
const NOTICEABLE: SignedDuration = SignedDuration::from_secs(2);

/// How far a server's clock is ahead of ours, by its last answer.
#[derive(Debug, Default)]
pub struct ServerClock(Mutex<Option<SignedDuration>>);

impl ServerClock {
    /// Takes in the `Date` header of an answer that arrived at `now`. What is no date is ignored.
    pub fn observe(&self, date: &str, now: Timestamp) {
        if let Some(time) = parse_date(date) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(time.duration_since(now));
        }
    }

    /// How far the server's clock is ahead of ours; `None` before its first answer.
    #[must_use]
    pub fn ahead(&self) -> Option<SignedDuration> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present by the server's clock, given ours.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> Timestamp {
        self.ahead().and_then(|ahead| now.checked_add(ahead).ok()).unwrap_or(now)
    }
}

/// What to add to a time of `from` to have it on the clock of `to`: zero where they do not differ
/// noticeably, or where one of them is not known yet.
#[must_use]
pub fn skew(from: &ServerClock, to: &ServerClock) -> SignedDuration {
    match (from.ahead(), to.ahead()) {
        (Some(from), Some(to)) if (to - from).abs() >= NOTICEABLE => to - from,
        _ => SignedDuration::ZERO,
    }
}

fn parse_date(date: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(date).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(date: &str) -> ServerClock {
        let clock = ServerClock::default();
        clock.observe(date, "2026-11-22T12:00:00Z".parse().unwrap());
        clock
    }

    #[test]
    fn clocks_are_brought_together_where_they_differ_noticeably() {
        let same = clock("Sun, 22 Nov 2026 12:00:00 GMT");
        let second = clock("Sun, 22 Nov 2026 11:59:59 GMT");
        let hour = clock("Sun, 22 Nov 2026 13:00:00 GMT");
        assert_eq!(skew(&same, &second), SignedDuration::ZERO);
        assert_eq!(skew(&hour, &same), SignedDuration::from_hours(-1));
        assert_eq!(skew(&same, &hour), SignedDuration::from_hours(1));
    }

    #[test]
    fn what_is_not_known_is_no_difference() {
        let hour = clock("Sun, 22 Nov 2026 13:00:00 GMT");
        for date in ["", "yesterday", "2026-11-22T12:00:00Z"] {
            assert_eq!(skew(&clock(date), &hour), SignedDuration::ZERO, "{date:?}");
        }
    }
}
