//! How fast a poll sends its requests: a pure choice, with the clock as an argument.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::secret::SecretId;

/// The part of a period over which the requests of a poll are spread. The rest is a reserve for
/// requests that take longer than planned.
const SPREAD_OVER: f64 = 0.8;

/// The default for the longest poll.
const LONGEST_POLL: Duration = Duration::from_mins(1);

/// How fast requests may be sent to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How many requests may be in flight at once.
    pub at_once: usize,
    /// The shortest time between two requests.
    pub interval: Duration,
    /// The shortest time between two secrets that are read alone. Folders are few, and do not wait
    /// for each other.
    pub spread: Duration,
    /// When the first secret may be read alone.
    pub spread_from: Option<Instant>,
    /// Whether the requests of a poll are spread evenly over the period, instead of sent as fast as
    /// allowed.
    pub is_spread: bool,
    /// How long a poll may take. The controller then acts on the secrets that were read, and the
    /// next poll continues with the rest.
    pub longest_poll: Duration,
}

impl Default for Pace {
    /// Fast enough to read thousands of secrets in a second, and without a burst of requests.
    fn default() -> Self {
        Self {
            at_once: 8,
            interval: Duration::ZERO,
            spread: Duration::ZERO,
            spread_from: None,
            is_spread: false,
            longest_poll: LONGEST_POLL,
        }
    }
}

/// Spreads requests over periods. A round covers all secrets once. If a poll ends before all
/// secrets were read, the next polls continue the same round.
#[derive(Debug)]
pub struct Spread {
    pace: Pace,
    period: Duration,
    round: Option<Round>,
    /// The secrets that had their turn in this round. They are read again without waiting: they are
    /// few, and a decision waits for the answer.
    had: HashSet<Arc<SecretId>>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    ends: Instant,
    /// The planned time from one request to the next, fixed at the beginning of the round.
    interval: Duration,
    /// When the next request may be sent.
    next: Option<Instant>,
}

impl Spread {
    /// Creates the state for a poll every `period`.
    #[must_use]
    pub fn new(pace: Pace, period: Duration) -> Self {
        Self { pace, period, round: None, had: HashSet::new() }
    }

    /// Whether requests are spread.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.pace.is_spread
    }

    /// The secrets that had their turn in this round.
    #[must_use]
    pub fn had(&self) -> &HashSet<Arc<SecretId>> {
        &self.had
    }

    /// Returns the pace of a poll that begins now. `secrets` is the number of secrets that have not
    /// had their turn.
    pub fn pace(&mut self, secrets: usize, now: Instant) -> Pace {
        if !self.pace.is_spread {
            return self.pace;
        }
        let secrets = u32::try_from(secrets).unwrap_or(u32::MAX).max(1);
        let round = *self.round.get_or_insert_with(|| {
            let takes = self.period.mul_f64(SPREAD_OVER);
            Round { ends: now + takes, interval: takes / secrets, next: None }
        });
        // A round that is behind goes faster, and a few remaining secrets go no slower than
        // planned. After the end of the planned time, the rest continues at the planned pace within
        // what is left of the period.
        let left = round.ends.saturating_duration_since(now) / secrets;
        let spread = if left.is_zero() { round.interval } else { left.min(round.interval) };
        let spread = spread.max(self.pace.interval);
        Pace { spread, spread_from: round.next.map(|next| next.min(now + spread)), ..self.pace }
    }

    /// Ends a poll. `next` is the earliest time of the next request.
    pub fn goes_on(&mut self, next: Instant) {
        if let Some(round) = &mut self.round {
            round.next = Some(next);
        }
    }

    /// Records that a secret had its turn.
    pub fn served(&mut self, secret: &Arc<SecretId>) {
        if self.round.is_some() {
            self.had.insert(Arc::clone(secret));
        }
    }

    /// Ends the round: the next poll begins another.
    pub fn end_round(&mut self) {
        self.round = None;
        self.had.clear();
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
        let interval = spread.pace(2_880, start).spread;
        assert_eq!(interval, Duration::from_secs(1));
        // A minute later, the remaining secrets continue at the same pace.
        let interval = spread.pace(2_820, start + Duration::from_mins(1)).spread;
        assert_eq!(interval, Duration::from_secs(1));
        // A round that is behind goes faster, and the next round is planned again.
        let interval = spread.pace(2_400, start + Duration::from_mins(28)).spread;
        assert_eq!(interval, Duration::from_millis(500));
        // A poll after the planned time does not plan a round that the next one would wait for.
        assert_eq!(spread.pace(10, start + Duration::from_mins(50)).spread, Duration::from_secs(1));
        spread.end_round();
        assert_eq!(spread.pace(1_440, start + HOUR).spread, Duration::from_secs(2));
    }

    #[test]
    fn a_poll_that_goes_on_waits_for_what_the_one_before_has_sent() {
        let (mut spread, start) = (spread(Duration::ZERO), Instant::now());
        assert_eq!(spread.pace(10, start).spread_from, None);
        let next = start + Duration::from_secs(288);
        spread.goes_on(next);
        let pace = spread.pace(9, start + Duration::from_mins(1));
        assert_eq!((pace.spread, pace.spread_from), (Duration::from_secs(288), Some(next)));
        // No longer than the wait between two requests of its own.
        let pace = spread.pace(2_880, start + Duration::from_mins(1));
        assert!(pace.spread_from < Some(start + Duration::from_secs(62)));
        spread.end_round();
        assert_eq!(spread.pace(10, start + HOUR).spread_from, None);
    }

    #[test]
    fn the_few_that_are_asked_again_wait_no_longer_than_all_did() {
        let (mut spread, start) = (spread(Duration::ZERO), Instant::now());
        spread.pace(2_880, start);
        let again = spread.pace(3, start + Duration::from_mins(1)).spread;
        assert_eq!(again, Duration::from_secs(1));
    }

    #[test]
    fn whoever_has_had_its_turn_is_known_until_the_round_is_over() {
        let secret = Arc::new(SecretId {
            connection: "default".into(),
            namespace: None,
            path: "secret/data/a".into(),
        });
        let mut spread = spread(Duration::ZERO);
        spread.served(&secret);
        assert!(spread.had().is_empty(), "no round has begun");
        spread.pace(10, Instant::now());
        spread.served(&secret);
        assert!(spread.had().contains(&secret));
        spread.end_round();
        assert!(spread.had().is_empty());
    }

    #[test]
    fn a_rate_holds_whatever_is_spread() {
        let mut spread = spread(Duration::from_millis(100));
        let pace = spread.pace(1_000_000, Instant::now());
        assert_eq!((pace.spread, pace.interval), (pace.interval, Duration::from_millis(100)));
        assert_eq!(spread.pace(0, Instant::now()).at_once, 8);
    }
}
