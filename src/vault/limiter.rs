//! A limit on the rate of requests to a server, as the official client has it: a bucket of turns
//! that fills again over time.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::lock::lock;

/// How fast requests may be sent to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// The time after which one more request may be sent.
    pub interval: Duration,
    /// How many requests may be sent at once after a pause.
    pub burst: u32,
}

/// Counts the requests to a server.
#[derive(Debug)]
pub(super) struct Limiter {
    limit: Option<RateLimit>,
    /// When all turns are there again. `None` means now.
    full_at: Mutex<Option<Instant>>,
}

impl Limiter {
    /// Creates a limiter with all turns. Without a limit, no request waits.
    pub(super) fn new(limit: Option<RateLimit>) -> Self {
        Self { limit, full_at: Mutex::default() }
    }

    /// Takes a turn, and returns when its request may be sent; `None` if the rate is not limited. A
    /// turn after the deadline is not taken.
    pub(super) fn turn(&self, now: Instant, deadline: Instant) -> Option<Instant> {
        let RateLimit { interval, burst } = self.limit?;
        let mut full_at = lock(&self.full_at);
        let full = full_at.map_or(now, |time| time.max(now));
        let reserve = interval.saturating_mul(burst.saturating_sub(1));
        let turn = full.checked_sub(reserve).map_or(now, |time| time.max(now));
        if turn < deadline {
            *full_at = Some(full + interval);
        }
        Some(turn)
    }

    /// Takes a turn for a request that does not wait. The requests after it wait longer, by one interval
    /// at most: otherwise logins and renewals alone could use up all turns of a low rate, and no secret
    /// would be read.
    pub(super) fn count(&self, now: Instant) {
        let Some(RateLimit { interval, burst }) = self.limit else { return };
        let mut full_at = lock(&self.full_at);
        let full = full_at.map_or(now, |time| time.max(now));
        let most = now + interval.saturating_mul(burst.saturating_add(1));
        *full_at = Some((full + interval).min(most.max(full)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_is_sent_at_once_and_the_rest_at_the_rate() {
        let limiter = Limiter::new(Some(RateLimit { interval: SECOND / 2, burst: 3 }));
        let (now, deadline) = (Instant::now(), Instant::now() + SECOND * 60);
        let waits = |at: Instant, count: usize| -> Vec<Duration> {
            (0..count).filter_map(|_| limiter.turn(at, deadline)).map(|turn| turn - at).collect()
        };
        let zero = Duration::ZERO;
        assert_eq!(waits(now, 5), [zero, zero, zero, SECOND / 2, SECOND]);
        // Two of the five intervals are still owed.
        assert_eq!(waits(now + SECOND * 3 / 2, 2), [zero, SECOND / 2]);
        // After a pause there is one burst, however long the pause was.
        assert_eq!(waits(now + SECOND * 30, 4), [zero, zero, zero, SECOND / 2]);
    }

    #[test]
    fn a_turn_after_the_deadline_is_not_taken() {
        let limiter = Limiter::new(Some(RateLimit { interval: SECOND, burst: 1 }));
        let now = Instant::now();
        assert_eq!(limiter.turn(now, now + SECOND), Some(now));
        for _ in 0..3 {
            assert_eq!(limiter.turn(now, now + SECOND), Some(now + SECOND));
        }
        assert_eq!(limiter.turn(now, now + SECOND * 2), Some(now + SECOND));
    }

    #[test]
    fn a_request_that_does_not_wait_counts() {
        let limiter = Limiter::new(Some(RateLimit { interval: SECOND, burst: 1 }));
        let now = Instant::now();
        limiter.count(now);
        limiter.count(now);
        assert_eq!(limiter.turn(now, now + SECOND * 5), Some(now + SECOND * 2));
    }

    #[test]
    fn requests_that_do_not_wait_leave_turns_for_the_others() {
        let limiter = Limiter::new(Some(RateLimit { interval: SECOND, burst: 3 }));
        let now = Instant::now();
        for _ in 0..100 {
            limiter.count(now);
        }
        assert_eq!(limiter.turn(now, now + SECOND * 60), Some(now + SECOND * 2));
        // What waits already keeps its place.
        for seconds in 3..10 {
            assert_eq!(limiter.turn(now, now + SECOND * 60), Some(now + SECOND * seconds));
        }
        limiter.count(now);
        assert_eq!(limiter.turn(now, now + SECOND * 60), Some(now + SECOND * 10));
    }

    #[test]
    fn without_a_limit_no_request_waits() {
        let limiter = Limiter::new(None);
        limiter.count(Instant::now());
        assert_eq!(limiter.turn(Instant::now(), Instant::now() + SECOND), None);
    }
}
