//! Clocks of servers: how far apart they are, by the `Date` headers of their answers.
//!
//! A `Date` has whole seconds, so one answer says only within a second, and the time that it took,
//! how far a clock is ahead of ours. Each further answer narrows that down, since it comes at another
//! fraction of a second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};

/// What a `Date` leaves open.
const RESOLUTION: SignedDuration = SignedDuration::from_secs(1);

/// How far a server's clock is ahead of ours, by its answers.
#[derive(Debug, Default)]
pub struct ServerClock(Mutex<Option<Ahead>>);

/// How far a clock is ahead of ours: no less, and no more than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// At least so far.
    pub least: SignedDuration,
    /// At most so far.
    pub most: SignedDuration,
}

/// What to add to a time of one clock to have it on another: no less, and no more than this; nothing
/// while the two may agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skew {
    /// At least so much.
    pub least: SignedDuration,
    /// At most so much.
    pub most: SignedDuration,
}

impl ServerClock {
    /// Takes in the `Date` header of an answer, given when the request was sent and the answer
    /// received by our clock. What is no date is ignored.
    pub fn observe(&self, date: &str, sent: Timestamp, received: Timestamp) {
        let Some(date) = parse_date(date) else { return };
        let answer = Ahead {
            least: date.duration_since(received),
            most: date.duration_since(sent).saturating_add(RESOLUTION),
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(known.and_then(|known| known.with(answer)).unwrap_or(answer));
    }

    /// How far the server's clock is ahead of ours; `None` before its first answer.
    #[must_use]
    pub fn ahead(&self) -> Option<Ahead> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present by the server's clock, given ours.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> Timestamp {
        let ahead = self.ahead().map(|ahead| ahead.least + ahead.uncertainty() / 2);
        ahead.and_then(|ahead| now.checked_add(ahead).ok()).unwrap_or(now)
    }

    fn uncertainty(&self) -> SignedDuration {
        self.ahead().map_or(SignedDuration::MAX, Ahead::uncertainty)
    }

    /// How long from `time`, by our clock, until its second changes, as far as is known.
    fn until_its_next_second(&self, time: Timestamp) -> Duration {
        const SECOND: i128 = 1_000_000_000;
        let over = self.at(time).as_nanosecond().rem_euclid(SECOND);
        Duration::from_nanos(u64::try_from(SECOND - over).unwrap_or_default())
    }
}

impl Ahead {
    fn uncertainty(self) -> SignedDuration {
        self.most.saturating_sub(self.least)
    }

    /// What is known with one answer more. Where the answer contradicts what was known by less than a
    /// second, the clocks drift, or servers take turns whose clocks are a little apart: either may be
    /// right. Where by more, a clock was set anew: `None`.
    fn with(self, answer: Self) -> Option<Self> {
        let both = Self { least: self.least.max(answer.least), most: self.most.min(answer.most) };
        let gap = both.least.saturating_sub(both.most);
        if gap <= SignedDuration::ZERO {
            Some(both)
        } else if gap >= RESOLUTION {
            None
        } else if answer.least > self.most {
            Some(Self { most: answer.most, ..self })
        } else {
            Some(Self { least: answer.least, ..self })
        }
    }
}

/// What to add to a time of `from` to have it on the clock of `to`; nothing where one of them is not
/// known yet.
#[must_use]
pub fn skew(from: &ServerClock, to: &ServerClock) -> Skew {
    let (Some(from), Some(to)) = (from.ahead(), to.ahead()) else { return Skew::default() };
    let least = to.least.saturating_sub(from.most);
    let most = to.most.saturating_sub(from.least);
    let may_agree = least <= SignedDuration::ZERO && most >= SignedDuration::ZERO;
    if may_agree { Skew::default() } else { Skew { least, most } }
}

/// How long from `time`, by our clock, until an answer tells most: the second changes then, as far as is
/// known, on that one of two clocks of which less is known, and its uncertainty is halved.
#[must_use]
pub fn until_telling(first: &ServerClock, second: &ServerClock, time: Timestamp) -> Duration {
    let clock = if second.uncertainty() > first.uncertainty() { second } else { first };
    clock.until_its_next_second(time)
}

pub(crate) fn parse_date(date: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(date).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "2026-11-22T12:00:00Z";

    fn after_noon(millis: i64) -> Timestamp {
        NOON.parse::<Timestamp>().unwrap() + SignedDuration::from_millis(millis)
    }

    /// A clock whose answer to a request, sent and received at noon, says this.
    fn clock(date: &str) -> ServerClock {
        let clock = ServerClock::default();
        clock.observe(date, after_noon(0), after_noon(0));
        clock
    }

    #[test]
    fn clocks_that_may_agree_do() {
        let same = clock("Sun, 22 Nov 2026 12:00:00 GMT");
        let second = clock("Sun, 22 Nov 2026 11:59:59 GMT");
        assert_eq!(skew(&same, &second), Skew::default());
        assert_eq!(skew(&second, &same), Skew::default());
    }

    #[test]
    fn a_difference_is_known_to_within_a_second_for_each_clock() {
        let same = clock("Sun, 22 Nov 2026 12:00:00 GMT");
        let hour = clock("Sun, 22 Nov 2026 13:00:00 GMT");
        let [least, most] = [3599, 3601].map(SignedDuration::from_secs);
        assert_eq!(skew(&same, &hour), Skew { least, most });
        assert_eq!(skew(&hour, &same), Skew { least: -most, most: -least });
    }

    #[test]
    fn each_answer_narrows_it_down() {
        // Ahead by 700 ms: at .000 it shows .700 of the same second, at .300 the next second.
        let ahead = ServerClock::default();
        for (millis, second) in [(0, 0), (290, 0), (310, 1), (900, 1)] {
            let time = after_noon(millis);
            let date = format!("Sun, 22 Nov 2026 12:00:0{second} GMT");
            // It took 5 ms there and back.
            ahead.observe(&date, time - SignedDuration::from_millis(5), time);
        }
        let Ahead { least, most } = ahead.ahead().unwrap();
        assert_eq!((least.as_millis(), most.as_millis()), (690, 715));
        let exact = ServerClock::default();
        exact.observe("Sun, 22 Nov 2026 11:59:59 GMT", after_noon(-5), after_noon(-1));
        exact.observe("Sun, 22 Nov 2026 12:00:00 GMT", after_noon(1), after_noon(5));
        assert_eq!(skew(&ahead, &exact).most.as_millis(), -690 + 5);
    }

    #[test]
    fn a_clock_that_drifts_is_followed() {
        let clock = ServerClock::default();
        let knows = |sent: i64, date: &str| {
            clock.observe(date, after_noon(sent), after_noon(sent));
            let Ahead { least, most } = clock.ahead().unwrap();
            (least.as_millis(), most.as_millis())
        };
        // It agrees with ours to within 20 ms, and then is found to be 50 ms ahead, and 50 ms behind.
        knows(-10, "Sun, 22 Nov 2026 11:59:59 GMT");
        assert_eq!(knows(10, "Sun, 22 Nov 2026 12:00:00 GMT"), (-10, 10));
        assert_eq!(knows(-50, "Sun, 22 Nov 2026 12:00:00 GMT"), (-10, 1_050));
        assert_eq!(knows(-40, "Sun, 22 Nov 2026 11:59:59 GMT"), (-10, 40));
        assert_eq!(knows(50, "Sun, 22 Nov 2026 11:59:59 GMT"), (-1_050, 40));
    }

    #[test]
    fn a_clock_that_is_set_anew_is_believed() {
        let clock = clock("Sun, 22 Nov 2026 13:00:00 GMT");
        clock.observe("Sun, 22 Nov 2026 12:00:00 GMT", after_noon(0), after_noon(0));
        assert_eq!(clock.at(after_noon(0)), after_noon(500));
    }

    #[test]
    fn what_is_not_known_is_no_difference() {
        let hour = clock("Sun, 22 Nov 2026 13:00:00 GMT");
        for date in ["", "yesterday", "2026-11-22T12:00:00Z"] {
            assert_eq!(skew(&clock(date), &hour), Skew::default(), "{date:?}");
        }
    }

    #[test]
    fn an_answer_at_the_telling_moment_halves_what_is_open() {
        // Ours, and one that is 3.7 s behind ours.
        let clocks = [(ServerClock::default(), 0), (ServerClock::default(), -3_700)];
        let mut now = after_noon(123);
        let ask = |now: Timestamp| {
            for (clock, ahead) in &clocks {
                let time = now + SignedDuration::from_millis(*ahead);
                clock.observe(&time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string(), now, now);
            }
        };
        ask(now);
        let [(first, _), (second, _)] = &clocks;
        for _ in 0..12 {
            let wait = until_telling(first, second, now);
            assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
            now += SignedDuration::try_from(wait).unwrap();
            ask(now);
        }
        let Skew { least, most } = skew(second, first);
        assert!(least.as_millis() >= 3_650 && most.as_millis() <= 3_750, "{least:?} {most:?}");
        assert!(least.as_millis() <= 3_700 && most.as_millis() >= 3_700, "{least:?} {most:?}");
    }
}
