//! The time of the simulated world: tokio's clock, which is paused and leaps to the next event.

use std::cell::Cell;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Duration, Instant};

thread_local! {
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    static OWN_SKEW: Cell<SignedDuration> = const { Cell::new(SignedDuration::ZERO) };
}

/// When histories take place: 2026-11-22T12:00:00Z, and a fraction.
const EPOCH: SignedDuration = SignedDuration::from_millis(1_795_348_800_217);

/// A history begins.
pub(crate) fn begin(own_skew_ms: i64) {
    BEGAN.set(Some(Instant::now()));
    OWN_SKEW.set(SignedDuration::from_millis(own_skew_ms));
}

/// How long ago it began.
pub(crate) fn elapsed() -> Duration {
    BEGAN.get().map_or(Duration::ZERO, |began| began.elapsed())
}

/// The present by the API server's clock, which is right.
pub(crate) fn now() -> Timestamp {
    let elapsed = SignedDuration::try_from(elapsed()).unwrap_or_default();
    Timestamp::UNIX_EPOCH + EPOCH + elapsed
}

/// The present by the clock of our own processes.
pub(crate) fn own() -> Timestamp {
    now() + OWN_SKEW.get()
}

/// A time as objects and `Date` headers have it.
pub(crate) fn floor(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
