//! The time of the simulated world: tokio's clock, which is paused and leaps to the next event.

use std::cell::Cell;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Duration, Instant};

thread_local! {
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    static OWN_SKEW: Cell<SignedDuration> = const { Cell::new(SignedDuration::ZERO) };
}

/// The start of all histories: 2026-11-22T12:00:00Z, and a fraction.
const EPOCH: SignedDuration = SignedDuration::from_millis(1_795_348_800_217);

/// Begins a history.
pub(crate) fn begin(own_skew_ms: i64) {
    BEGAN.set(Some(Instant::now()));
    OWN_SKEW.set(SignedDuration::from_millis(own_skew_ms));
}

/// Returns the time since the history began.
pub(crate) fn elapsed() -> Duration {
    BEGAN.get().map_or(Duration::ZERO, |began| began.elapsed())
}

/// Returns the present time by the API server's clock, which is right.
pub(crate) fn now() -> Timestamp {
    let elapsed = SignedDuration::try_from(elapsed()).unwrap_or_default();
    Timestamp::UNIX_EPOCH + EPOCH + elapsed
}

/// Returns the present time by the clock of the controller's processes.
pub(crate) fn own() -> Timestamp {
    now() + OWN_SKEW.get()
}

/// Rounds a time down to the whole seconds of objects and `Date` headers.
pub(crate) fn floor(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
