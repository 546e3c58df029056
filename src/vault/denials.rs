//! When a denial is worth a login: a pure state machine.
//!
//! A path that stays forbidden, or a server that forgets each token at once, must not cost a login a
//! poll; a token that was revoked, or whose role has got another policy, must be replaced.

use std::time::Duration;

/// Why a token is thought to be of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenDoubt {
    /// The server does not know it.
    Ended,
    /// A policy forbids what was asked.
    Forbidden,
}

/// A token that a policy forbids something to is replaced only if it is older than this, and than
/// four periods, doubled with each login in a row that did not help.
const FORBIDDEN: Duration = Duration::from_mins(15);

/// A token that the server does not know is replaced at once; after a login that did not help, only if
/// it is older than this, doubled with each other in a row, up to [`FORBIDDEN`].
const ENDED: Duration = Duration::from_secs(5);

/// A token is made by one node of a cluster, and a standby that lags does not know it at once. What the
/// server does not know of a token that is younger than this is asked for again.
const YOUNG: Duration = Duration::from_secs(2);

/// What to do about a request that was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Log in, and ask with the new token.
    LogIn,
    /// Ask again after a moment, with the same token.
    AskAgain,
    /// Nothing: take the denial as the answer.
    Accept,
}

/// What denials have led to of late.
#[derive(Debug, Default)]
pub(super) struct Denials {
    ended: Row,
    forbidden: Row,
}

/// Logins in a row for the same reason.
#[derive(Debug, Default)]
struct Row {
    logins: u32,
    /// Whether the reason was met during this poll.
    is_met: bool,
}

impl Denials {
    /// What to do about a request that was denied, whose token is so old. Logins that fail, and are
    /// paced otherwise, are not counted: see [`Self::has_logged_in`].
    pub(super) fn remedy(&mut self, doubt: TokenDoubt, age: Duration, period: Duration) -> Remedy {
        let (row, least) = match doubt {
            TokenDoubt::Forbidden => {
                let doubled = FORBIDDEN * (1 << self.forbidden.logins.min(7));
                (&mut self.forbidden, doubled.max(period * 4))
            }
            TokenDoubt::Ended => {
                let doubled = match self.ended.logins {
                    0 => Duration::ZERO,
                    logins => ENDED * (1 << (logins - 1).min(8)),
                };
                (&mut self.ended, doubled.min(FORBIDDEN))
            }
        };
        row.is_met = true;
        if doubt == TokenDoubt::Ended && age < YOUNG {
            Remedy::AskAgain
        } else if age >= least {
            Remedy::LogIn
        } else {
            Remedy::Accept
        }
    }

    /// A login that was worth it has succeeded.
    pub(super) fn has_logged_in(&mut self, doubt: TokenDoubt) {
        let row = match doubt {
            TokenDoubt::Ended => &mut self.ended,
            TokenDoubt::Forbidden => &mut self.forbidden,
        };
        row.logins = row.logins.saturating_add(1);
    }

    /// A poll is over: a reason that it did not meet is no more.
    pub(super) fn after_poll(&mut self) {
        for row in [&mut self.ended, &mut self.forbidden] {
            if !std::mem::take(&mut row.is_met) {
                row.logins = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const HOUR: Duration = Duration::from_hours(1);

    /// The ages at which tokens are replaced, each poll being denied.
    fn ages(doubt: TokenDoubt, period: Duration, polls: u32) -> Vec<u64> {
        let mut denials = Denials::default();
        let (mut age, mut ages) = (Duration::ZERO, Vec::new());
        for _ in 0..polls {
            age += period;
            if denials.remedy(doubt, age, period) == Remedy::LogIn {
                denials.has_logged_in(doubt);
                ages.push(age.as_secs());
                age = Duration::ZERO;
            }
            // Others of the same poll are denied as well, by then with the new token.
            if age.is_zero() {
                assert_ne!(denials.remedy(doubt, age, period), Remedy::LogIn);
            }
            denials.after_poll();
        }
        ages
    }

    #[test]
    fn a_token_that_the_server_does_not_know_is_replaced_less_and_less_often() {
        let second = Duration::from_secs(1);
        let ages_of = ages(TokenDoubt::Ended, second, 7200);
        assert_eq!(ages_of, [2, 5, 10, 20, 40, 80, 160, 320, 640, 900, 900, 900, 900, 900, 900]);
        assert_eq!(ages(TokenDoubt::Ended, MINUTE, 10)[..3], [60, 60, 60]);
    }

    #[test]
    fn a_standby_has_a_moment_to_learn_of_a_new_token() {
        let mut denials = Denials::default();
        let just_before = YOUNG.saturating_sub(Duration::from_millis(1));
        assert_eq!(denials.remedy(TokenDoubt::Ended, Duration::ZERO, MINUTE), Remedy::AskAgain);
        assert_eq!(denials.remedy(TokenDoubt::Ended, just_before, MINUTE), Remedy::AskAgain);
        assert_eq!(denials.remedy(TokenDoubt::Ended, YOUNG, MINUTE), Remedy::LogIn);
        // What a policy forbids, no standby will allow.
        assert_eq!(denials.remedy(TokenDoubt::Forbidden, Duration::ZERO, MINUTE), Remedy::Accept);
    }

    #[test]
    fn a_path_that_stays_forbidden_costs_ever_fewer_logins() {
        let minutes = |ages: Vec<u64>| ages.into_iter().map(|age| age / 60).collect::<Vec<_>>();
        assert_eq!(minutes(ages(TokenDoubt::Forbidden, MINUTE, 500)), [15, 30, 60, 120, 240]);
        // Whoever polls seldom does not log in at each poll either.
        assert_eq!(minutes(ages(TokenDoubt::Forbidden, HOUR, 13)), [240, 240, 240]);
    }

    #[test]
    fn a_login_that_fails_does_not_put_off_the_next() {
        let mut denials = Denials::default();
        for _ in 0..20 {
            assert_eq!(denials.remedy(TokenDoubt::Ended, YOUNG, MINUTE), Remedy::LogIn);
            denials.after_poll();
        }
    }

    #[test]
    fn a_poll_without_a_denial_begins_anew() {
        for (doubt, least) in [(TokenDoubt::Ended, YOUNG), (TokenDoubt::Forbidden, FORBIDDEN)] {
            let mut denials = Denials::default();
            let old = Duration::from_hours(9);
            assert_eq!(denials.remedy(doubt, old, MINUTE), Remedy::LogIn);
            denials.has_logged_in(doubt);
            denials.after_poll();
            assert_eq!(denials.remedy(doubt, least, MINUTE), Remedy::Accept);
            denials.after_poll();
            denials.after_poll();
            assert_eq!(denials.remedy(doubt, least, MINUTE), Remedy::LogIn, "{doubt:?}");
        }
    }
}
