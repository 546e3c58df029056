//! How long to wait after failures.

use std::time::Duration;

/// Between two attempts on workloads that wait or failed: doubled from the first to the last.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

/// The delay after so many failures.
pub(super) fn backoff(failures: u32) -> Duration {
    let (first, last) = RETRY;
    first.saturating_mul(1 << failures.min(9)).min(last)
}
