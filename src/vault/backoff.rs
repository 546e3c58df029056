//! The back-off between failed logins: a pure state machine.

use std::time::Duration;

/// The back-off after a failed login: a random time up to the first value, which doubles up to the
/// second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

/// The shortest wait.
const SHORTEST: Duration = Duration::from_millis(100);

/// The shortest and longest wait after the first login with wrong credentials. During a setup, the
/// credentials may be corrected a moment later.
const AFTER_FIRST_WRONG: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(45));

/// The shortest and longest wait after each further login with wrong credentials. Servers lock out
/// a role or user after five wrong logins in a row, and forget them after 15 minutes without one.
/// Two wrong logins in a row are harmless even if this process restarts in between.
const AFTER_WRONG: (Duration, Duration) = (Duration::from_mins(16), Duration::from_mins(20));

/// The recent failed logins.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    wrong: u32,
}

/// Why a login failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// The server was out of reach, or could not decide.
    Unknown,
    /// The credentials are wrong. The server counts such logins, and locks out the role or user.
    Counted,
}

impl Backoff {
    /// Records a failed login, and returns how long to wait. `chance` is a random number from 0 to
    /// 1, so that replicas that failed together do not retry together.
    pub(super) fn after(&mut self, failed: Failed, chance: f64) -> Duration {
        if failed == Failed::Counted {
            let (least, most) = if self.wrong == 0 { AFTER_FIRST_WRONG } else { AFTER_WRONG };
            self.wrong = self.wrong.saturating_add(1);
            return least + most.saturating_sub(least).mul_f64(chance);
        }
        let (first, last) = RETRY;
        let most = first.saturating_mul(1 << self.failures.min(9)).min(last);
        self.failures = self.failures.saturating_add(1);
        most.mul_f64(chance).max(SHORTEST)
    }

    /// Returns whether so many logins with wrong credentials have failed that even new credentials
    /// must wait. Two wrong logins in a row, and two more after a restart, do not lock out anybody.
    pub(super) fn is_nearly_locked(&self) -> bool {
        self.wrong >= 2
    }

    /// Records a successful login.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    /// The times of the logins within an hour if each login fails.
    fn logins(failed: Failed, chance: impl Fn() -> f64) -> Vec<Duration> {
        let mut backoff = Backoff::default();
        let mut times = vec![Duration::ZERO];
        loop {
            let next = times[times.len() - 1] + backoff.after(failed, chance());
            if next > HOUR {
                return times;
            }
            times.push(next);
        }
    }

    fn waits(times: &[Duration]) -> Vec<Duration> {
        times.windows(2).map(|two| two[1].saturating_sub(two[0])).collect()
    }

    #[test]
    fn a_server_that_is_not_to_be_had_is_asked_less_and_less() {
        let longest = waits(&logins(Failed::Unknown, || 1.0));
        let longest: Vec<u64> = longest.iter().map(Duration::as_secs).collect();
        assert_eq!(&longest[..11], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        for _ in 0..100 {
            let times = logins(Failed::Unknown, fastrand::f64);
            assert!((12..80).contains(&times.len()), "{} logins in an hour", times.len());
            assert!(waits(&times).iter().all(|wait| *wait <= RETRY.1));
        }
        let shortest = waits(&logins(Failed::Unknown, || 0.0));
        assert!(shortest.iter().all(|wait| *wait == SHORTEST));
    }

    #[test]
    fn replicas_that_failed_together_do_not_come_back_together() {
        let thirds: Vec<Duration> =
            (0..100).map(|_| logins(Failed::Unknown, fastrand::f64)[6]).collect();
        let in_second = |second: u64| thirds.iter().filter(|time| time.as_secs() == second).count();
        let most = (0..64).map(in_second).max().unwrap_or_default();
        assert!(most < 20, "{most} of 100 in the same second");
    }

    /// Counts as servers do: five wrong logins in a row lock out, and 15 minutes without one reset
    /// the count.
    #[test]
    fn wrong_credentials_never_lock_a_role() {
        for round in 0..100 {
            let mut times = logins(Failed::Counted, fastrand::f64);
            // The process restarts in the middle.
            let restarted = times[round % 2] + Duration::from_secs(1);
            times.retain(|time| *time < restarted);
            let again = logins(Failed::Counted, fastrand::f64);
            times.extend(again.into_iter().map(|time| restarted + time));
            let (mut counted, mut last) = (0, Duration::ZERO);
            for time in times {
                counted = if time.saturating_sub(last) >= Duration::from_mins(15) {
                    1
                } else {
                    counted + 1
                };
                last = time;
                assert!(counted < 5, "locked after {time:?}");
            }
        }
        assert!((4..=5).contains(&logins(Failed::Counted, fastrand::f64).len()));
    }

    #[test]
    fn after_a_success_it_begins_anew() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.after(Failed::Counted, 1.0);
        }
        backoff.reset();
        assert_eq!(backoff.after(Failed::Counted, 1.0), AFTER_FIRST_WRONG.1);
        assert_eq!(backoff.after(Failed::Unknown, 1.0), RETRY.0);
    }
}
