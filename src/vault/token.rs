//! Decides when a token is used, renewed, or replaced by a new login: a pure state machine.
//!
//! The end of a token is computed from the granted TTL and never looked up, so a poll without
//! changes costs no request for the token.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The grant of a login or a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// How long the token is valid from now on; zero means without end.
    pub ttl: Duration,
    /// Whether the token can be renewed.
    pub renewable: bool,
    /// How many requests the token allows; `None` means any number.
    pub uses: Option<NonZeroU64>,
}

impl Grant {
    /// Creates a grant from the values of the API: a TTL in seconds, and a number of uses, where
    /// zero means any number.
    #[must_use]
    pub fn new(ttl: u64, renewable: bool, uses: u64) -> Self {
        Self { ttl: Duration::from_secs(ttl), renewable, uses: NonZeroU64::new(uses) }
    }
}

/// The number of requests that a token still allows, shared by all users of the token.
///
///
/// The last use is reserved for the revocation. Servers count the requests that they admit, and the
/// controller counts the requests that it sends, so a token that seems used up here may still be
/// valid on the server. A token with a single use is an exception: its use is not reserved.
#[derive(Clone, Debug)]
pub struct Uses(Option<Arc<AtomicU64>>);

impl Uses {
    /// The uses of a grant.
    #[must_use]
    pub fn of(grant: Grant) -> Self {
        Self(grant.uses.map(|uses| Arc::new(AtomicU64::new(uses.get().saturating_sub(1).max(1)))))
    }

    /// Takes one use. Returns whether there was one left.
    #[must_use]
    pub fn take(&self) -> bool {
        let less = |left: u64| left.checked_sub(1);
        let Some(left) = &self.0 else { return true };
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Returns whether no use is left.
    #[must_use]
    pub fn are_over(&self) -> bool {
        self.0.as_ref().is_some_and(|left| left.load(Ordering::Relaxed) == 0)
    }
}

/// What the polls need from a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The token is renewed or replaced once no more than this time is left.
    pub threshold: Duration,
    /// The time from one poll of all secrets to the next. Polls in between read what such a poll
    /// could not finish.
    pub period: Duration,
}

/// The lifetime of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLifetime {
    /// When the token was granted.
    since: Instant,
    /// The lifetime that the login granted. A renewal that grants less is truncated.
    full: Duration,
    /// When the token ends; `None` means never.
    ends: Option<Instant>,
    renewable: bool,
}

/// What to do with the token before a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Use the token: enough time is left.
    Use,
    /// Renew the token, then use it.
    Renew,
    /// Log in again: there is no token, or it has ended, or it ends soon and cannot be renewed.
    Login,
}

impl TokenLifetime {
    /// The lifetime of a new token.
    #[must_use]
    pub fn new(grant: Grant, now: Instant) -> Self {
        // An end that no clock can represent also means never.
        let ends =
            Some(grant.ttl).filter(|ttl| !ttl.is_zero()).and_then(|ttl| now.checked_add(ttl));
        Self { since: now, full: grant.ttl, ends, renewable: grant.renewable }
    }

    /// The lifetime after a renewal. A renewal that grants less than the login has reached the
    /// maximum TTL of the token, and is the last one.
    #[must_use]
    pub fn renewed(&self, grant: Grant, now: Instant) -> Self {
        let truncated = !grant.ttl.is_zero() && grant.ttl < self.full;
        Self { full: self.full, renewable: grant.renewable && !truncated, ..Self::new(grant, now) }
    }

    /// Returns what to do before a poll at `now`.
    #[must_use]
    pub fn step(&self, now: Instant, terms: &Terms) -> Step {
        let Some(ends) = self.ends else {
            return Step::Use;
        };
        let left = ends.saturating_duration_since(now);
        let age = now.saturating_duration_since(self.since);
        // The token was granted for the last poll of all secrets, and this poll finishes the rest
        // of that poll.
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

    /// Returns whether the token cannot be renewed again and has too little time left for the next
    /// poll.
    #[must_use]
    pub fn is_last(&self, now: Instant, terms: &Terms) -> bool {
        let is_short = |ends: Instant| ends.saturating_duration_since(now) <= terms.threshold;
        !self.renewable && self.ends.is_some_and(is_short)
    }

    /// Returns when the token is renewed at the latest, with or without a poll. That is when a
    /// third of its lifetime is left, or half of the time left at which a poll would renew it,
    /// whichever is less. Returns `None` if the token never ends or cannot be renewed.
    #[must_use]
    pub fn renew_at(&self, terms: &Terms) -> Option<Instant> {
        let ends = self.ends.filter(|_| self.renewable)?;
        let lives = ends.saturating_duration_since(self.since);
        ends.checked_sub((lives / 3).min(terms.threshold.max(terms.period) / 2))
    }

    /// Returns when to renew the token after a failed attempt: after a third of the time left, but
    /// not before `least` has passed. Returns `None` if the token will have ended by then.
    #[must_use]
    pub fn renew_again_at(&self, now: Instant, least: Duration) -> Option<Instant> {
        let ends = self.ends?;
        let pause = (ends.saturating_duration_since(now) / 3).max(least);
        now.checked_add(pause).filter(|time| *time < ends)
    }

    /// Returns how long the token is still valid, if it ends within `period`.
    #[must_use]
    pub fn ends_within(&self, period: Duration, now: Instant) -> Option<Duration> {
        let left = self.ends?.saturating_duration_since(now);
        (left <= period).then_some(left)
    }

    /// Returns whether the token has ended.
    #[must_use]
    pub fn has_ended(&self, now: Instant) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }

    /// Returns whether the token ends within `period` from now even if it is renewed. The next poll
    /// cannot use such a token, so it is better revoked than left behind.
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

    /// The table of transitions: the grant, the age of the token, the next step.
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
            // Shorter than the threshold: renewed once at each poll.
            (grant(2, true), 1, Step::Renew),
            (grant(2, false), 1, Step::Login),
            // Root tokens and others that never end.
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
        let lifetime = TokenLifetime::new(Grant { ttl: Duration::MAX, ..grant(1, true) }, now);
        assert_eq!(lifetime.step(now + SECOND * 1_000_000, &TERMS), Step::Use);
        assert!(!lifetime.outlived_by(SECOND));
    }

    #[test]
    fn a_token_of_sixty_polls_is_renewed_each_fifty_seventh() {
        let mut now = Instant::now();
        let mut lifetime = TokenLifetime::new(grant(60, true), now);
        let mut renewed_at = Vec::new();
        for poll in 0..=171 {
            match lifetime.step(now, &TERMS) {
                Step::Use => {}
                Step::Renew => {
                    renewed_at.push(poll);
                    lifetime = lifetime.renewed(grant(60, true), now);
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
        let lifetime = TokenLifetime::new(grant(60, true), start)
            .renewed(grant(20, true), start + SECOND * 57);
        assert_eq!(lifetime.step(start + SECOND * 58, &TERMS), Step::Use);
        assert!(!lifetime.is_last(start + SECOND * 58, &TERMS));
        assert!(lifetime.is_last(start + SECOND * 74, &TERMS));
        assert_eq!(lifetime.step(start + SECOND * 74, &TERMS), Step::Login);
        // A renewal may also grant a token that cannot be renewed again.
        let lifetime = TokenLifetime::new(grant(60, true), start).renewed(grant(60, false), start);
        assert_eq!(lifetime.step(start + SECOND * 58, &TERMS), Step::Login);
    }

    /// Polls in between, which finish the last poll of all secrets, cost nothing either.
    #[test]
    fn a_token_shorter_than_the_threshold_is_renewed_or_replaced_once_a_period() {
        let start = Instant::now();
        let terms = Terms { threshold: SECOND * 180, period: SECOND * 60 };
        let table = [
            (grant(120, true), [(0, Step::Use), (29, Step::Use), (60, Step::Renew)]),
            (grant(120, false), [(0, Step::Use), (29, Step::Use), (60, Step::Login)]),
            // The token would hardly last for another poll.
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
            // The polls renew the token with three hours left.
            (grant(86_400, true), Some(hour * 45 / 2)),
            (grant(3600, false), None),
            (grant(0, true), None),
        ] {
            let lifetime = TokenLifetime::new(grant, now);
            assert_eq!(lifetime.renew_at(&terms), expected.map(|time| now + time), "{grant:?}");
        }
    }

    #[test]
    fn a_renewal_that_fails_is_tried_again_a_bounded_number_of_times() {
        let mut now = Instant::now();
        let lifetime = TokenLifetime::new(grant(3600, true), now);
        let mut tries = 0;
        while let Some(next) = lifetime.renew_again_at(now, SECOND) {
            assert!(next >= now + SECOND);
            (now, tries) = (next, tries + 1);
        }
        assert!((10..30).contains(&tries), "{tries}");
        assert!(!lifetime.has_ended(now) && lifetime.has_ended(now + SECOND * 2));
    }

    #[test]
    fn whether_a_token_ends_before_the_next_poll() {
        let now = Instant::now();
        let lifetime = TokenLifetime::new(grant(60, false), now);
        assert_eq!(lifetime.ends_within(SECOND * 60, now), Some(SECOND * 60));
        assert_eq!(lifetime.ends_within(SECOND * 59, now), None);
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
