//! The heartbeats, which tell whether each loop of the process still moves.
//!
//! Before each step, a loop reports that it works. Before each wait, it reports the end of the
//! wait, or that it waits for others. A loop is stuck if the reported time has passed by more than
//! the longest step. So a long period, a pause that a server asks for, or a replica that does not
//! lead causes no restart.
//!
//! Architecture Invariant: heartbeats decide nothing but whether the process is restarted, and
//! whether another replica leads.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The longest step whose requests each have a time-out. The longest such step requests the
/// revisions of all workloads, and takes minutes if each request takes as long as its time-out.
pub const LONGEST_STEP: Duration = Duration::from_mins(15);

/// The loops of a process.
#[derive(Clone, Debug, Default)]
pub struct Heartbeats(Arc<Mutex<Vec<Loop>>>);

#[derive(Debug)]
struct Loop {
    name: Box<str>,
    heartbeat: Heartbeat,
}

/// The reports of one loop. At first, a loop waits for others.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat {
    longest_step: Duration,
    /// The time at which the loop counts as stuck; `None` while it waits for others.
    due: Arc<Mutex<Option<Instant>>>,
}

/// A loop that no longer moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The name of the loop.
    pub name: Box<str>,
    /// The time since the loop should have moved.
    pub overdue: Duration,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the {} is stuck: it should have moved {} s ago",
            self.name,
            self.overdue.as_secs()
        )
    }
}

impl Heartbeats {
    /// Adds a loop and returns its heartbeat. A step of the loop takes `longest_step` at most.
    pub fn add(&self, name: impl Into<Box<str>>, longest_step: Duration) -> Heartbeat {
        let heartbeat = Heartbeat { longest_step, due: Arc::default() };
        lock(&self.0).push(Loop { name: name.into(), heartbeat: heartbeat.clone() });
        heartbeat
    }

    /// Returns the loop that has been stuck for the longest time, if any.
    #[must_use]
    pub fn stuck(&self) -> Option<Stuck> {
        let now = Instant::now();
        let loops = lock(&self.0);
        let stuck = loops.iter().filter_map(|Loop { name, heartbeat }| {
            let due = (*lock(&heartbeat.due))?;
            Some((name, now.checked_duration_since(due)?))
        });
        let (name, overdue) = stuck.max_by_key(|(_, overdue)| *overdue)?;
        Some(Stuck { name: name.clone(), overdue })
    }
}

impl Heartbeat {
    /// Reports that a step begins.
    pub fn works(&self) {
        self.waits_until(Instant::now());
    }

    /// Reports that the loop waits until `time` at the latest.
    pub fn waits_until(&self, time: Instant) {
        *lock(&self.due) = time.checked_add(self.longest_step);
    }

    /// Reports that the loop waits for other loops or replicas. This wait may be endless.
    pub fn waits_for_others(&self) {
        *lock(&self.due) = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const STEP: Duration = Duration::from_mins(1);
    const HOUR: Duration = Duration::from_hours(1);

    #[tokio::test(start_paused = true)]
    async fn a_loop_is_stuck_once_a_step_takes_too_long_and_not_while_it_waits() {
        let heartbeats = Heartbeats::default();
        let (one, other) = (heartbeats.add("one", STEP), heartbeats.add("other", STEP));
        let stuck = || heartbeats.stuck().map(|stuck| stuck.to_string());
        advance(HOUR).await;
        assert_eq!(stuck(), None, "neither has begun");
        one.works();
        other.waits_until(Instant::now() + HOUR);
        advance(Duration::from_secs(59)).await;
        assert_eq!(stuck(), None);
        one.works();
        advance(Duration::from_secs(65)).await;
        assert_eq!(stuck().unwrap(), "the one is stuck: it should have moved 5 s ago");
        advance(2 * HOUR).await;
        assert_eq!(&*heartbeats.stuck().unwrap().name, "one", "for longer than the other");
        one.waits_for_others();
        assert_eq!(&*heartbeats.stuck().unwrap().name, "other");
        other.works();
        assert_eq!(stuck(), None);
    }
}
