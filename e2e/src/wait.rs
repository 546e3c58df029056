//! Waits for a condition with a deadline. Tests do this instead of sleeping.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout_at};

/// The pause after the first look at a condition. It is short, so that a test is not slower than
/// the tested code.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest pause between two looks. Many scenarios wait at once, and each look costs a server
/// some work.
const LONGEST_PAUSE: Duration = Duration::from_millis(160);

/// Calls `look` until it finds a value, and returns the value.
///
/// An error of `look` counts as "not yet", since servers are stopped and paused under tests. The
/// last error is part of the returned one. `what` completes the sentence "waited 5s for ...".
///
/// # Errors
/// When no value was found `within` the time.
pub async fn eventually<T, Look, Found>(what: &str, within: Duration, mut look: Look) -> Result<T>
where
    Look: FnMut() -> Found,
    Found: Future<Output = Result<Option<T>>>,
{
    let deadline = Instant::now() + within;
    let mut last = None;
    let mut pause = FIRST_PAUSE;
    loop {
        match timeout_at(deadline, look()).await {
            Ok(Ok(Some(found))) => return Ok(found),
            Ok(Ok(None)) => last = None,
            Ok(Err(error)) => last = Some(error),
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            let cause = last.map_or_else(String::new, |error| format!("; last error: {error:#}"));
            return Err(anyhow!("waited {within:?} for {what}{cause}"));
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Locks a mutex, also after a panic of another holder. The data that beds keep under locks stays
/// usable.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
