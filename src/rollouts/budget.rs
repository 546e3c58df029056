//! The budget for reloads that only the clock speaks for. A start after a long absence must not
//! roll out the whole cluster at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A token bucket for the reloads that only the clock speaks for. All clones share one bucket.
#[derive(Clone, Debug)]
pub struct Budget {
    burst: u32,
    per_minute: u32,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    tokens: u32,
    /// When the last token was added. `None` before the first [`Budget::refill`].
    since: Option<Instant>,
}

impl Budget {
    /// Creates a full bucket: `burst` reloads may start at once, and `per_minute` more each minute.
    #[must_use]
    pub fn new(burst: u32, per_minute: u32) -> Self {
        // A budget that is never refilled would hold a change for ever.
        let (burst, per_minute) = (burst.max(1), per_minute.max(1));
        let state = State { tokens: burst, since: None };
        Self { burst, per_minute, state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn per_minute(&self) -> u32 {
        self.per_minute
    }

    #[cfg(test)]
    pub(crate) fn tokens(&self) -> u32 {
        self.state().tokens
    }

    /// Returns the time after which one more reload may start.
    fn interval(&self) -> Duration {
        Duration::from_mins(1) / self.per_minute
    }

    /// Adds the tokens that became due since the last call, until `now`.
    pub(crate) fn refill(&self, now: Instant) {
        let interval = self.interval();
        let mut state = self.state();
        let mut since = state.since.unwrap_or(now);
        while state.tokens < self.burst && now.saturating_duration_since(since) >= interval {
            state.tokens += 1;
            since += interval;
        }
        state.since = Some(if state.tokens == self.burst { now } else { since });
    }

    /// Returns the time in which an empty bucket is full again.
    pub(crate) fn pause(&self) -> Duration {
        self.interval().saturating_mul(self.burst)
    }

    /// Takes a token for a reload that starts now. Returns whether there was one.
    pub(crate) fn try_take(&self) -> bool {
        let mut state = self.state();
        let remaining = state.tokens.checked_sub(1);
        state.tokens = remaining.unwrap_or(0);
        remaining.is_some()
    }

    /// Returns the token of a reload that did not start.
    pub(crate) fn give_back(&self) {
        let mut state = self.state();
        state.tokens = state.tokens.saturating_add(1).min(self.burst);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held ends the process.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_so_many_a_minute() {
        let budget = Budget::new(2, 60);
        let mut now = Instant::now();
        let mut spend = |after: Duration, expected: u32| {
            now += after;
            budget.refill(now);
            assert_eq!(budget.tokens(), expected);
            for _ in 0..expected {
                assert!(budget.try_take());
            }
            assert!(!budget.try_take());
        };
        spend(Duration::ZERO, 2);
        spend(Duration::ZERO, 0);
        spend(Duration::from_millis(999), 0);
        spend(Duration::from_millis(1), 1);
        spend(Duration::from_hours(1), 2);
        for _ in 0..3 {
            budget.give_back();
        }
        assert_eq!(budget.tokens(), 2);
        assert_eq!(budget.pause(), Duration::from_secs(2));
    }

    #[test]
    fn a_budget_of_nothing_would_hold_a_change_for_ever() {
        assert_eq!(Budget::new(0, 0).tokens(), 1);
    }
}
