//! The back-off after failures.

use std::time::Duration;

/// The first and the longest delay between two attempts on workloads that wait or failed. Each
/// delay doubles the one before.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

/// Returns the delay after a number of failures.
pub(super) fn backoff(failures: u32) -> Duration {
    let (first, last) = RETRY;
    first.saturating_mul(1 << failures.min(9)).min(last)
}
