//! The clocks of servers: how far each clock is ahead of the controller's own.
//!
//! Vault tells its time in the body of `sys/health`. The API server tells its time in the `Date`
//! header of each answer, as does a Vault server whose health endpoint is closed. All of these
//! times are whole seconds. So one answer determines the difference of the clocks to within half a
//! second plus half of the round trip. The settle time ([`crate::decide::plan::Rules::settle`])
//! covers the half seconds.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};

/// The average part of a second that a time in whole seconds leaves out.
const HALF_A_SECOND: SignedDuration = SignedDuration::from_millis(500);

/// How far a proxy's `Date` may be from Vault's own time. A larger difference has other reasons
/// than whole seconds and a slow answer.
const PROXY_TOLERANCE: SignedDuration = SignedDuration::from_secs(5);

/// The longest sum of two servers' round trips for which their clocks may count as equal.
const QUICK: SignedDuration = SignedDuration::from_millis(500);

/// A server's clock, compared with the controller's own.
#[derive(Debug, Default)]
pub struct ServerClock(Mutex<Known>);

/// The known state of a server's clock.
#[derive(Debug, Default)]
struct Known {
    /// How far the clock is ahead, by one answer. `None` before the first answer.
    ahead: Option<Ahead>,
    /// Whether the server told its own time. From then on `Date` headers are ignored, since a proxy
    /// may write them.
    is_own_time: bool,
}

/// How far a clock is ahead of the controller's clock, by one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ahead {
    by: SignedDuration,
    /// The time from the request to the answer.
    round_trip: SignedDuration,
}

impl ServerClock {
    /// Takes in the `Date` header of an answer. `sent` and `received` are times of the controller's
    /// clock. A header that is no date is ignored.
    pub fn observe_date(&self, date: &str, sent: Timestamp, received: Timestamp) {
        let Some(date) = parse_date(date) else { return };
        let mut known = self.lock();
        if !known.is_own_time {
            known.take_in(Ahead::of(date, sent, received));
        }
    }

    /// Takes in the time that the server itself tells. From then on its `Date` headers are ignored.
    pub fn observe_own_time(&self, time: Timestamp, sent: Timestamp, received: Timestamp) {
        let mut known = self.lock();
        if !known.is_own_time {
            *known = Known { ahead: None, is_own_time: true };
        }
        known.take_in(Ahead::of(time, sent, received));
    }

    /// Returns the present by the server's clock. `now` is the present by the controller's clock.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> Timestamp {
        let ahead = self.lock().ahead;
        ahead.and_then(|ahead| now.checked_add(ahead.by).ok()).unwrap_or(now)
    }

    /// As [`Self::at`], but at the earliest: the uncertainty of the clock is subtracted.
    #[must_use]
    pub fn at_least(&self, now: Timestamp) -> Timestamp {
        let ahead = self.lock().ahead;
        let least = ahead.map(|ahead| ahead.by.saturating_sub(ahead.error()));
        least.and_then(|ahead| now.checked_add(ahead).ok()).unwrap_or(now)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Takes in an answer. A quicker answer is kept until another answer contradicts it.
    fn take_in(&mut self, answer: Ahead) {
        let keeps = |known: Ahead| known.round_trip < answer.round_trip && known.agrees(answer);
        if !self.ahead.is_some_and(keeps) {
            self.ahead = Some(answer);
        }
    }
}

impl Ahead {
    fn of(time: Timestamp, sent: Timestamp, received: Timestamp) -> Self {
        let round_trip = received.duration_since(sent).max(SignedDuration::ZERO);
        let by = time.duration_since(sent).saturating_add(HALF_A_SECOND);
        Self { by: by.saturating_sub(round_trip / 2), round_trip }
    }

    /// Returns how far `by` can be from the truth.
    fn error(self) -> SignedDuration {
        HALF_A_SECOND.saturating_add(self.round_trip / 2)
    }

    /// Whether one clock can have given both answers.
    fn agrees(self, other: Self) -> bool {
        let difference = self.by.saturating_sub(other.by);
        difference.unsigned_abs() <= self.error().saturating_add(other.error()).unsigned_abs()
    }
}

/// Returns the time to add to a time of `from` to get the clock of `to`. Zero if the two clocks may
/// agree, or if one of them is unknown.
///
/// The result is too low by at most 2.5 seconds, which the settle time covers. Two clocks that may
/// agree are up to two seconds and both round trips apart, and only quick answers count as
/// agreement. If the clocks differ, half of each round trip is added, and the result is too low by
/// at most a second.
#[must_use]
pub fn skew(from: &ServerClock, to: &ServerClock) -> SignedDuration {
    let (Some(from), Some(to)) = (from.lock().ahead, to.lock().ahead) else {
        return SignedDuration::ZERO;
    };
    let round_trips = from.round_trip.saturating_add(to.round_trip);
    if from.agrees(to) && round_trips <= QUICK {
        return SignedDuration::ZERO;
    }
    to.by.saturating_sub(from.by).saturating_add(round_trips / 2)
}

/// Whether the `Date` of an answer contradicts the server's own time in the same answer.
#[must_use]
pub fn contradicts(date: &str, own_time: Timestamp) -> bool {
    parse_date(date).is_some_and(|date| {
        date.duration_since(own_time).unsigned_abs() > PROXY_TOLERANCE.unsigned_abs()
    })
}

pub(crate) fn parse_date(date: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(date).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "2026-11-22T12:00:00Z";
    const DATE_OF_NOON: &str = "Sun, 22 Nov 2026 12:00:00 GMT";
    const DATE_OF_ONE: &str = "Sun, 22 Nov 2026 13:00:00 GMT";

    fn after_noon(millis: i64) -> Timestamp {
        NOON.parse::<Timestamp>().unwrap() + SignedDuration::from_millis(millis)
    }

    /// Returns a clock with one answer: sent at noon, received `round_trip` milliseconds later.
    fn clock(date: &str, round_trip: i64) -> ServerClock {
        let clock = ServerClock::default();
        clock.observe_date(date, after_noon(0), after_noon(round_trip));
        clock
    }

    #[test]
    fn clocks_that_may_agree_do() {
        let same = clock(DATE_OF_NOON, 0);
        let second = clock("Sun, 22 Nov 2026 11:59:59 GMT", 0);
        assert_eq!(skew(&same, &second), SignedDuration::ZERO);
        assert_eq!(skew(&second, &same), SignedDuration::ZERO);
    }

    #[test]
    fn the_skew_is_hardly_too_low_however_long_answers_take() {
        // The true difference of the clocks, the phase of each within a second, and the round
        // trips.
        for difference in [0, 300, 900, 1_500, 2_500, 7_300, 3_600_000] {
            for (phase, phase_of_other) in [(0, 0), (0, 999), (999, 0), (500, 250)] {
                for (trip, trip_of_other) in [(0, 0), (20, 700), (5_000, 5_000), (0, 9_000)] {
                    for late in [0, 1] {
                        let ask = |ahead: i64, phase: i64, trip: i64| {
                            let clock = ServerClock::default();
                            let sent = after_noon(phase);
                            // The server reads its clock when the request arrives: at once, or
                            // late.
                            let read = sent + SignedDuration::from_millis(trip * late + ahead);
                            let date = Timestamp::from_second(read.as_second()).unwrap();
                            let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
                            clock.observe_date(&date, sent, after_noon(phase + trip));
                            clock
                        };
                        let from = ask(0, phase, trip);
                        let to = ask(difference, phase_of_other, trip_of_other);
                        let skew = i64::try_from(skew(&from, &to).as_millis()).unwrap();
                        let seen = (difference, phase, phase_of_other, trip, trip_of_other, late);
                        let too_low = if skew == 0 { 2_500 } else { 1_000 };
                        assert!(skew >= difference - too_low, "{skew}: {seen:?}");
                        assert!(
                            skew <= difference + 1_000 + trip + trip_of_other,
                            "{skew}: {seen:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_quick_answer_is_kept_until_it_is_contradicted() {
        let noon = clock(DATE_OF_NOON, 0);
        let clock = clock(DATE_OF_ONE, 10);
        // A slow answer, which may be half a minute off.
        clock.observe_date(DATE_OF_ONE, after_noon(-30_000), after_noon(30_000));
        assert_eq!(clock.at(after_noon(0)), after_noon(3_600_495));
        // The clock was set back.
        clock.observe_date(DATE_OF_NOON, after_noon(0), after_noon(500));
        assert_eq!(clock.at(after_noon(0)), after_noon(250));
        assert_eq!(skew(&clock, &noon), SignedDuration::ZERO);
    }

    #[test]
    fn a_server_that_tells_its_own_time_is_believed_before_a_proxy() {
        let clock = clock(DATE_OF_ONE, 0);
        clock.observe_own_time(after_noon(0), after_noon(0), after_noon(20));
        clock.observe_date(DATE_OF_ONE, after_noon(0), after_noon(0));
        assert_eq!(clock.at(after_noon(0)), after_noon(490));
        assert!(contradicts(DATE_OF_ONE, after_noon(0)));
        assert!(!contradicts(DATE_OF_NOON, after_noon(4_000)));
        assert!(!contradicts("no date", after_noon(0)));
    }

    #[test]
    fn what_is_not_known_is_no_difference() {
        let hour = clock(DATE_OF_ONE, 0);
        for date in ["", "yesterday", "2026-11-22T12:00:00Z"] {
            assert_eq!(skew(&clock(date, 0), &hour), SignedDuration::ZERO, "{date:?}");
        }
    }
}
