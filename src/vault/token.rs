//! When a token is used, renewed, or replaced by a new login: a pure state machine.
//!
//! The end of a token is computed from what the server granted, never looked up, so an unchanged
//! poll costs no request for the token.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a login or a renewal granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// How long the token lives from now on; zero is for ever.
    pub ttl: Duration,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// How many requests it is good for; `None` is any number.
    pub uses: Option<NonZeroU64>,
}

impl Grant {
    /// What was granted, as the API says it: a TTL in seconds, and a number of uses, of which zero is
    /// any number.
    #[must_use]
    pub fn new(ttl: u64, renewable: bool, uses: u64) -> Self {
        Self { ttl: Duration::from_secs(ttl), renewable, uses: NonZeroU64::new(uses) }
    }
}

/// The requests that a token is still good for, counted by all who use it.
///
/// The last is kept for revoking it: servers count what they let in, and we what we send, so a token
/// that seems used up here may still live there.
#[derive(Clone, Debug)]
pub struct Uses(Option<Arc<AtomicU64>>);

impl Uses {
    /// Those that were granted.
    #[must_use]
    pub fn of(grant: Grant) -> Self {
        Self(grant.uses.map(|uses| Arc::new(AtomicU64::new(uses.get().saturating_sub(1).max(1)))))
    }

    /// Takes one. Answers whether there was one left.
    #[must_use]
    pub fn take(&self) -> bool {
        let less = |left: u64| left.checked_sub(1);
        let Some(left) = &self.0 else { return true };
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Whether all are taken.
    #[must_use]
    pub fn are_over(&self) -> bool {
        self.0.as_ref().is_some_and(|left| left.load(Ordering::Relaxed) == 0)
    }
}

/// What the polls ask of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// It is renewed, or replaced, once no more of its time is left than this.
    pub threshold: Duration,
    /// The time from one poll of everything to the next. What such a poll cannot finish is asked for by
    /// others in between.
    pub period: Duration,
}

/// A token's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLifetime {
    /// When it was granted.
    since: Instant,
    /// What the login granted: a renewal that grants less is truncated.
    full: Duration,
    /// When it ends; `None` is never.
    ends: Option<Instant>,
    renewable: bool,
}

/// What is to be done about the token before a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Enough is left.
    Use,
    /// Renew it, then use it.
    Renew,
    /// Log in anew: there is none, it has ended, or it is about to and cannot be renewed.
    Login,
}

impl TokenLifetime {
    /// The time of a new token.
    #[must_use]
    pub fn new(grant: Grant, now: Instant) -> Self {
        // A time that no clock will show is never, too.
        let ends =
            Some(grant.ttl).filter(|ttl| !ttl.is_zero()).and_then(|ttl| now.checked_add(ttl));
        Self { since: now, full: grant.ttl, ends, renewable: grant.renewable }
    }

    /// The time after a renewal. One that granted less than the login did has met the token's
    /// longest life, and is the last.
    #[must_use]
    pub fn renewed(&self, grant: Grant, now: Instant) -> Self {
        let truncated = !grant.ttl.is_zero() && grant.ttl < self.full;
        Self { full: self.full, renewable: grant.renewable && !truncated, ..Self::new(grant, now) }
    }

    /// What to do before a poll at `now`.
    #[must_use]
    pub fn step(&self, now: Instant, terms: &Terms) -> Step {
        let Some(ends) = self.ends else {
            return Step::Use;
        };
        let left = ends.saturating_duration_since(now);
        let age = now.saturating_duration_since(self.since);
        // Granted for the last poll of everything, of which this finishes the rest.
        let is_fresh = age < terms.period / 2 && age < left;
        if left.is_zero() {
            Step::Login
        } else if left > terms.threshold || is_fresh {
            Step::Use
        } else if self.renewable {
            Step::Renew
        } else {
            Step::Login
        }
    }

    /// Whether no renewal will follow, and the next poll would find less left than it asks for.
    #[must_use]
    pub fn is_last(&self, now: Instant, terms: &Terms) -> bool {
        let is_short = |ends: Instant| ends.saturating_duration_since(now) <= terms.threshold;
        !self.renewable && self.ends.is_some_and(is_short)
    }

    /// When it is renewed at the latest, whether there is a poll or not: with a third of its time left, or
    /// half of what would have a poll renew it, if that is less. `None` where it never ends, or cannot be
    /// renewed.
    #[must_use]
    pub fn renew_at(&self, terms: &Terms) -> Option<Instant> {
        let ends = self.ends.filter(|_| self.renewable)?;
        let lives = ends.saturating_duration_since(self.since);
        ends.checked_sub((lives / 3).min(terms.threshold.max(terms.period) / 2))
    }

    /// When it is renewed after an attempt failed: when a third of what is left has passed, but not sooner
    /// than after `least`. `None` where it will have ended by then.
    #[must_use]
    pub fn renew_again_at(&self, now: Instant, least: Duration) -> Option<Instant> {
        let ends = self.ends?;
        let pause = (ends.saturating_duration_since(now) / 3).max(least);
        now.checked_add(pause).filter(|time| *time < ends)
    }

    /// How long it still lives, if it ends within `period`.
    #[must_use]
    pub fn ends_within(&self, period: Duration, now: Instant) -> Option<Duration> {
        let left = self.ends?.saturating_duration_since(now);
        (left <= period).then_some(left)
    }

    /// Whether its time is over.
    #[must_use]
    pub fn has_ended(&self, now: Instant) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }

    /// Whether the token will have ended `period` from `now`, renewed or not: it is of no use to the
    /// next poll, and is better revoked than left behind.
    #[must_use]
    pub fn outlived_by(&self, period: Duration) -> bool {
        self.ends.is_some() && self.full <= period
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TERMS: Terms = Terms { threshold: Duration::from_secs(3), period: SECOND };

    fn grant(ttl: u32, renewable: bool) -> Grant {
        Grant::new(ttl.into(), renewable, 0)
    }

    /// The table of transitions: what was granted, how old it is, what follows.
    #[test]
    fn before_a_poll() {
        let start = Instant::now();
        let table = [
            (grant(60, true), 0, Step::Use),
            (grant(60, true), 56, Step::Use),
            (grant(60, true), 57, Step::Renew),
            (grant(60, true), 59, Step::Renew),
            (grant(60, true), 60, Step::Login),
            (grant(60, true), 99, Step::Login),
            (grant(60, false), 56, Step::Use),
            (grant(60, false), 57, Step::Login),
            // Shorter than the threshold: renewed at each poll, once.
            (grant(2, true), 1, Step::Renew),
            (grant(2, false), 1, Step::Login),
            // Root and others that never end.
            (grant(0, false), 1_000_000, Step::Use),
        ];
        for (grant, age, expected) in table {
            let step = TokenLifetime::new(grant, start).step(start + SECOND * age, &TERMS);
            assert_eq!(step, expected, "{grant:?} after {age} s");
        }
    }

    #[test]
    fn a_token_that_outlives_all_clocks_never_ends() {
        let now = Instant::now();
        let lease = TokenLifetime::new(Grant { ttl: Duration::MAX, ..grant(1, true) }, now);
        assert_eq!(lease.step(now + SECOND * 1_000_000, &TERMS), Step::Use);
        assert!(!lease.outlived_by(SECOND));
    }

    #[test]
    fn a_token_of_sixty_polls_is_renewed_each_fifty_seventh() {
        let mut now = Instant::now();
        let mut lease = TokenLifetime::new(grant(60, true), now);
        let mut renewed_at = Vec::new();
        for poll in 0..=171 {
            match lease.step(now, &TERMS) {
                Step::Use => {}
                Step::Renew => {
                    renewed_at.push(poll);
                    lease = lease.renewed(grant(60, true), now);
                }
                Step::Login => panic!("the token had ended before poll {poll}"),
            }
            now += SECOND;
        }
        assert_eq!(renewed_at, [57, 114, 171]);
    }

    #[test]
    fn a_truncated_renewal_is_the_last() {
        let start = Instant::now();
        let lease = TokenLifetime::new(grant(60, true), start)
            .renewed(grant(20, true), start + SECOND * 57);
        assert_eq!(lease.step(start + SECOND * 58, &TERMS), Step::Use);
        assert!(!lease.is_last(start + SECOND * 58, &TERMS));
        assert!(lease.is_last(start + SECOND * 74, &TERMS));
        assert_eq!(lease.step(start + SECOND * 74, &TERMS), Step::Login);
        // A renewal may also say that there will be no other.
        let lease = TokenLifetime::new(grant(60, true), start).renewed(grant(60, false), start);
        assert_eq!(lease.step(start + SECOND * 58, &TERMS), Step::Login);
    }

    /// Polls in between, of what the last poll of everything could not finish, cost nothing either.
    #[test]
    fn a_token_shorter_than_the_threshold_is_renewed_or_replaced_once_a_period() {
        let start = Instant::now();
        let terms = Terms { threshold: SECOND * 180, period: SECOND * 60 };
        let table = [
            (grant(120, true), [(0, Step::Use), (29, Step::Use), (60, Step::Renew)]),
            (grant(120, false), [(0, Step::Use), (29, Step::Use), (60, Step::Login)]),
            // It would hardly last for another poll.
            (grant(30, true), [(0, Step::Use), (14, Step::Use), (15, Step::Renew)]),
            (grant(30, false), [(14, Step::Use), (15, Step::Login), (30, Step::Login)]),
        ];
        for (grant, steps) in table {
            for (age, expected) in steps {
                let step = TokenLifetime::new(grant, start).step(start + SECOND * age, &terms);
                assert_eq!(step, expected, "{grant:?} after {age} s");
            }
        }
    }

    #[test]
    fn a_given_token_is_renewed_between_polls_where_these_would_come_too_late() {
        let now = Instant::now();
        let hour = SECOND * 3600;
        let terms = Terms { threshold: hour * 3, period: hour };
        for (grant, expected) in [
            (grant(3600, true), Some(hour * 2 / 3)),
            (grant(60, true), Some(SECOND * 40)),
            // The polls renew it with three hours left.
            (grant(86_400, true), Some(hour * 45 / 2)),
            (grant(3600, false), None),
            (grant(0, true), None),
        ] {
            let lease = TokenLifetime::new(grant, now);
            assert_eq!(lease.renew_at(&terms), expected.map(|time| now + time), "{grant:?}");
        }
    }

    #[test]
    fn a_renewal_that_fails_is_tried_again_a_bounded_number_of_times() {
        let mut now = Instant::now();
        let lease = TokenLifetime::new(grant(3600, true), now);
        let mut tries = 0;
        while let Some(next) = lease.renew_again_at(now, SECOND) {
            assert!(next >= now + SECOND);
            (now, tries) = (next, tries + 1);
        }
        assert!((10..30).contains(&tries), "{tries}");
        assert!(!lease.has_ended(now) && lease.has_ended(now + SECOND * 2));
    }

    #[test]
    fn whether_a_token_ends_before_the_next_poll() {
        let now = Instant::now();
        let lease = TokenLifetime::new(grant(60, false), now);
        assert_eq!(lease.ends_within(SECOND * 60, now), Some(SECOND * 60));
        assert_eq!(lease.ends_within(SECOND * 59, now), None);
        assert_eq!(TokenLifetime::new(grant(0, false), now).ends_within(SECOND * 60, now), None);
    }

    #[test]
    fn a_token_shorter_than_the_period_is_of_no_use_to_the_next_poll() {
        let now = Instant::now();
        assert!(TokenLifetime::new(grant(30, true), now).outlived_by(SECOND * 30));
        assert!(!TokenLifetime::new(grant(31, true), now).outlived_by(SECOND * 30));
        assert!(!TokenLifetime::new(grant(0, false), now).outlived_by(SECOND * 30));
    }

    #[test]
    fn a_token_of_few_uses_keeps_the_last_for_its_revocation() {
        let taken = |uses: u64| {
            let uses = Uses::of(Grant::new(60, true, uses));
            let taken = (0..100).filter(|_| uses.take()).count();
            (taken, uses.are_over())
        };
        assert_eq!(taken(0), (100, false), "as many as one likes");
        assert_eq!(taken(10), (9, true));
        assert_eq!(taken(2), (1, true));
        assert_eq!(taken(1), (1, true), "one that could only be revoked is of no use");
    }
}
