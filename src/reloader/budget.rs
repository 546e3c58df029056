//! The budget for reloads that nothing but the clock speaks for: a start after a long absence must
//! not roll the whole cluster at once.

use std::time::Duration;

use tokio::time::Instant;

/// A token bucket for the reloads that nothing but the clock speaks for.
pub(super) struct Budget {
    burst: u32,
    /// The time in which one more may start.
    refill: Duration,
    pub(super) tokens: u32,
    /// When the last token came.
    since: Instant,
}

impl Budget {
    pub(super) fn new(burst: u32, per_minute: u32) -> Self {
        // A budget that is never refilled would hold a change for ever.
        let (burst, per_minute) = (burst.max(1), per_minute.max(1));
        Self {
            burst,
            refill: Duration::from_mins(1) / per_minute,
            tokens: burst,
            since: Instant::now(),
        }
    }

    /// Adds what has become due since the last time.
    pub(super) fn refill(&mut self) {
        while self.tokens < self.burst && self.since.elapsed() >= self.refill {
            self.tokens += 1;
            self.since += self.refill;
        }
        if self.tokens == self.burst {
            self.since = Instant::now();
        }
    }

    /// The time in which it is full again.
    pub(super) fn pause(&self) -> Duration {
        self.refill.saturating_mul(self.burst)
    }

    pub(super) fn take(&mut self) {
        self.tokens = self.tokens.saturating_sub(1);
    }

    /// One that was to start has not.
    pub(super) fn give_back(&mut self) {
        self.tokens = self.tokens.saturating_add(1).min(self.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_so_many_a_minute() {
        let mut budget = Budget::new(2, 60);
        let advance = tokio::time::advance;
        let mut spend = |expected: u32| {
            budget.refill();
            assert_eq!(budget.tokens, expected);
            for _ in 0..expected {
                budget.take();
            }
            assert_eq!(budget.tokens, 0);
        };
        spend(2);
        spend(0);
        advance(Duration::from_millis(999)).await;
        spend(0);
        advance(Duration::from_millis(1)).await;
        spend(1);
        advance(Duration::from_hours(1)).await;
        spend(2);
        for _ in 0..3 {
            budget.give_back();
        }
        assert_eq!(budget.tokens, 2);
        assert_eq!(budget.pause(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_of_nothing_would_hold_a_change_for_ever() {
        assert_eq!(Budget::new(0, 0).tokens, 1);
    }
}
