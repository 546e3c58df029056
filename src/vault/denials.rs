//! Decides when a denied request justifies a login: a pure state machine.
//!
//! A path that stays forbidden, or a server that forgets each token at once, must not cost a login
//! per poll. A token must be replaced if it was revoked or if the policies of its role changed.

use std::time::Duration;

/// Why a token may be useless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenDoubt {
    /// The server does not know the token.
    Ended,
    /// A policy forbids the request.
    Forbidden,
}

/// A token that a policy denies is replaced only if it is older than this time and than four
/// periods. The time doubles with each login in a row that did not help.
const FORBIDDEN: Duration = Duration::from_mins(15);

/// A token that the server does not know is replaced at once. After a login that did not help, the
/// token must be older than this time, which doubles with each further login up to [`FORBIDDEN`].
const ENDED: Duration = Duration::from_secs(5);

/// One node of a cluster creates a token, and a standby that lags does not know it at once. If the
/// server does not know a token younger than this, the request is sent again.
const YOUNG: Duration = Duration::from_secs(2);

/// What to do about a denied request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Log in, and send the request with the new token.
    LogIn,
    /// Send the request again after a moment, with the same token.
    AskAgain,
    /// Accept the denial as the answer.
    Accept,
}

/// The logins that recent denials have caused.
#[derive(Debug, Default)]
pub(super) struct Denials {
    ended: Row,
    forbidden: Row,
}

/// Logins in a row for the same reason.
#[derive(Debug, Default)]
struct Row {
    logins: u32,
    /// Whether the reason occurred during this poll.
    is_met: bool,
}

impl Denials {
    /// Returns what to do about a denied request. `age` is the age of its token. Failed logins are
    /// not counted here, because they have a back-off of their own: see [`Self::has_logged_in`].
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

    /// Records a successful login that a denial caused.
    pub(super) fn has_logged_in(&mut self, doubt: TokenDoubt) {
        let row = match doubt {
            TokenDoubt::Ended => &mut self.ended,
            TokenDoubt::Forbidden => &mut self.forbidden,
        };
        row.logins = row.logins.saturating_add(1);
    }

    /// Ends a poll. A reason that did not occur in the poll is reset.
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

    /// The ages at which tokens are replaced when each poll is denied.
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
            // Other requests of the same poll are denied as well, by then with the new token.
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
        // No standby will allow a request that a policy forbids.
        assert_eq!(denials.remedy(TokenDoubt::Forbidden, Duration::ZERO, MINUTE), Remedy::Accept);
    }

    #[test]
    fn a_path_that_stays_forbidden_costs_ever_fewer_logins() {
        let minutes = |ages: Vec<u64>| ages.into_iter().map(|age| age / 60).collect::<Vec<_>>();
        assert_eq!(minutes(ages(TokenDoubt::Forbidden, MINUTE, 500)), [15, 30, 60, 120, 240]);
        // A controller that polls rarely does not log in at each poll either.
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
