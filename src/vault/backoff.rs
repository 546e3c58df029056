//! How long to wait between two logins that fail: a pure state machine.

use std::time::Duration;

/// After a failed login: a random time up to the first, doubled up to the last.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

/// The shortest wait.
const SHORTEST: Duration = Duration::from_millis(100);

/// How long to wait after the first wrong credentials, at least and at most: they may be made right a
/// moment later, where both are being set up.
const AFTER_FIRST_WRONG: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(45));

/// How long to wait after the next, and those that follow. Servers lock a role, or a user, for all after
/// five in a row, until none came for 15 minutes. Two in a row are harmless even with a restart of this
/// process in between.
const AFTER_WRONG: (Duration, Duration) = (Duration::from_mins(16), Duration::from_mins(20));

/// How logins have failed of late.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    wrong: u32,
}

/// What a login failed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// The server was not to be had, or could not say.
    Unknown,
    /// The credentials are wrong, which the server counts, and locks whoever they are of.
    Counted,
}

impl Backoff {
    /// A login failed: how long to wait. `chance` is a random number from 0 to 1, so that many that
    /// failed together do not come back together.
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

    /// Whether wrong credentials were given so often that those that follow are not tried at once either:
    /// two in a row, and two more behind a restart, lock nobody.
    pub(super) fn is_nearly_locked(&self) -> bool {
        self.wrong >= 2
    }

    /// A login succeeded.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    /// The times of the logins of an hour, each of which fails.
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

    /// As servers count: five in a row lock, and 15 minutes without one are forgiven.
    #[test]
    fn wrong_credentials_never_lock_a_role() {
        for round in 0..100 {
            let mut times = logins(Failed::Counted, fastrand::f64);
            // A restart of the process in the middle of it.
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
