//! How hard a server is pressed: a pure choice, with the clock as an argument.

use std::time::{Duration, Instant};

/// The part of a period over which the requests of a poll are spread: what takes longer than planned has
/// the rest.
const SPREAD_OVER: f64 = 0.8;

/// The longest poll, unless said otherwise.
const LONGEST_POLL: Duration = Duration::from_mins(1);

/// How hard a server may be pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How many requests may be under way at once.
    pub at_once: usize,
    /// From one request to the next, at least.
    pub interval: Duration,
    /// Whether the requests of a poll come evenly over the period, and not as fast as they may.
    pub is_spread: bool,
    /// How long a poll may take. What was not asked for by then is asked for next, and what was seen is
    /// acted on first.
    pub longest_poll: Duration,
}

impl Default for Pace {
    /// Enough to read thousands of secrets in a second, and few enough to be no burst to a server.
    fn default() -> Self {
        Self { at_once: 8, interval: Duration::ZERO, is_spread: false, longest_poll: LONGEST_POLL }
    }
}

/// Spreads requests over periods. A round is one time around all secrets; a poll that ends before all
/// were asked for is followed by others of the same round.
#[derive(Debug)]
pub struct Spread {
    pace: Pace,
    period: Duration,
    round: Option<Round>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    ends: Instant,
    /// From one request to the next, as planned at its beginning.
    interval: Duration,
}

impl Spread {
    /// Of polls each `period`.
    #[must_use]
    pub fn new(pace: Pace, period: Duration) -> Self {
        Self { pace, period, round: None }
    }

    /// Whether requests are spread at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.pace.is_spread
    }

    /// The pace of a poll that begins now and asks for so many secrets.
    pub fn pace(&mut self, secrets: usize, now: Instant) -> Pace {
        if !self.pace.is_spread {
            return self.pace;
        }
        let secrets = u32::try_from(secrets).unwrap_or(u32::MAX).max(1);
        let present = self.round.filter(|round| now < round.ends);
        let round = present.unwrap_or_else(|| {
            let takes = self.period.mul_f64(SPREAD_OVER);
            Round { ends: now + takes, interval: takes / secrets }
        });
        self.round = Some(round);
        // A few that are asked again do not wait for longer than all did.
        let left = round.ends.saturating_duration_since(now) / secrets;
        Pace { interval: left.min(round.interval).max(self.pace.interval), ..self.pace }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn spread(interval: Duration) -> Spread {
        Spread::new(Pace { interval, is_spread: true, ..Pace::default() }, HOUR)
    }

    #[test]
    fn unless_it_is_asked_for_nothing_is_spread() {
        let pace = Pace { interval: Duration::from_millis(5), ..Pace::default() };
        assert_eq!(Spread::new(pace, HOUR).pace(10_000, Instant::now()), pace);
    }

    #[test]
    fn the_requests_of_a_round_take_four_fifths_of_a_period() {
        let (mut spread, start) = (spread(Duration::ZERO), Instant::now());
        let interval = spread.pace(2_880, start).interval;
        assert_eq!(interval, Duration::from_secs(1));
        // A minute later those that are left go on as the others did.
        let interval = spread.pace(2_820, start + Duration::from_mins(1)).interval;
        assert_eq!(interval, Duration::from_secs(1));
        // Whoever is behind goes faster, and the next round is planned anew.
        let interval = spread.pace(2_400, start + Duration::from_mins(28)).interval;
        assert_eq!(interval, Duration::from_millis(500));
        assert_eq!(spread.pace(2_880, start + HOUR).interval, Duration::from_secs(1));
    }

    #[test]
    fn the_few_that_are_asked_again_wait_no_longer_than_all_did() {
        let (mut spread, start) = (spread(Duration::ZERO), Instant::now());
        spread.pace(2_880, start);
        let again = spread.pace(3, start + Duration::from_mins(1)).interval;
        assert_eq!(again, Duration::from_secs(1));
    }

    #[test]
    fn a_rate_holds_whatever_is_spread() {
        let mut spread = spread(Duration::from_millis(100));
        assert_eq!(spread.pace(1_000_000, Instant::now()).interval, Duration::from_millis(100));
        assert_eq!(spread.pace(0, Instant::now()).at_once, 8);
    }
}
