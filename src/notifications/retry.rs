//! When a message is sent again. The rule is pure.

use std::time::Duration;

use super::client::SendError;

/// The longest wait that the webhook can ask for by `Retry-After`. Messages behind this one wait, too.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(2);

/// The limits of the attempts to send one message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    /// The longest pause after the first failure. It doubles with each failure.
    pub(super) first: Duration,
    /// The longest pause at all.
    pub(super) longest: Duration,
    /// No attempt begins after this time.
    pub(super) give_up_after: Duration,
    /// The most attempts.
    pub(super) attempts: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_mins(1),
            give_up_after: Duration::from_mins(5),
            attempts: 8,
        }
    }
}

impl Retry {
    /// Returns the pause before the next attempt. `None` if the message is given up. `failures` counts
    /// the attempts, `spent` is the time since the first one, and `chance` is a random number from 0
    /// to 1.
    pub(super) fn pause(
        &self,
        error: &SendError,
        failures: u32,
        spent: Duration,
        chance: f64,
    ) -> Option<Duration> {
        if !error.is_temporary() || failures >= self.attempts || spent >= self.give_up_after {
            return None;
        }
        let doublings = failures.saturating_sub(1).min(16);
        let most = self.first.saturating_mul(1 << doublings).min(self.longest);
        let asked_for = error.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
        Some(asked_for + most.mul_f64(chance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> SendError {
        let retry_after = retry_after.map(Duration::from_secs);
        SendError::Status { origin: String::new(), status, retry_after }
    }

    fn unreachable() -> SendError {
        SendError::Unreachable { origin: String::new(), cause: String::new() }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let timeout = SendError::Timeout { origin: String::new() };
        let (flag, message) = ("--notification-url-file", String::new());
        let file = SendError::File { flag, message };
        let setting = SendError::Setting { flag, problem: String::new() };
        let redirect = SendError::Redirect { origin: String::new(), status: 302 };
        let table = [
            (unreachable(), true),
            (timeout, true),
            (file, true),
            (setting, false),
            (redirect, false),
            (status(408, None), true),
            (status(429, None), true),
            (status(500, None), true),
            (status(503, None), true),
            (status(400, None), false),
            (status(404, None), false),
        ];
        for (error, expected) in table {
            let pause = Retry::default().pause(&error, 1, Duration::ZERO, 1.0);
            assert_eq!(pause.is_some(), expected, "{error:?}");
        }
    }

    #[test]
    fn the_back_off_doubles_up_to_a_limit_with_full_jitter() {
        let pause = |failures, chance| {
            Retry::default().pause(&unreachable(), failures, Duration::ZERO, chance)
        };
        let pauses: Vec<_> = (1..8).filter_map(|failures| pause(failures, 1.0)).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60].map(Duration::from_secs));
        assert_eq!(pause(3, 0.0), Some(Duration::ZERO));
        assert_eq!(pause(3, 0.5), Some(Duration::from_secs(2)));
        assert_eq!(pause(8, 0.5), None, "given up");
        let late = Duration::from_mins(5);
        assert_eq!(Retry::default().pause(&unreachable(), 1, late, 0.5), None, "too late");
        let most = u32::MAX;
        let endless = Retry { attempts: most, ..Retry::default() };
        let pause = endless.pause(&unreachable(), most - 1, Duration::ZERO, 1.0);
        assert_eq!(pause, Some(Duration::from_mins(1)));
    }

    #[test]
    fn retry_after_is_kept_and_bounded() {
        let pause = |error| Retry::default().pause(&error, 1, Duration::ZERO, 0.0);
        assert_eq!(pause(status(429, Some(7))), Some(Duration::from_secs(7)));
        assert_eq!(pause(status(503, Some(7))), Some(Duration::from_secs(7)));
        assert_eq!(pause(status(429, Some(86_400))), Some(LONGEST_RETRY_AFTER));
        assert_eq!(pause(status(500, Some(7))), Some(Duration::ZERO));
    }
}
