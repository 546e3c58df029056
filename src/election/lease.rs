//! The lease by which one of several replicas leads: the holder, the expiry, and the next step.
//!
//! Times in the lease are written for people, and never compared with the own clock. Each replica
//! measures the lease by its own clock, from the moment it saw the lease change.
//!
//! Architecture Invariant: a claim ends by itself, before another replica may take the lease. The
//! claim is measured from before the sending of the request that was answered. No message is needed
//! to end it.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A lease that is not renewed counts for this time at most, or for the own duration if that is
/// longer. An absurd duration in the lease must not block all replicas for years.
const LONGEST: Duration = Duration::from_mins(1);

/// After this many retry periods of silence a working watch is suspect: each holder renews once per
/// period.
const SILENT_PERIODS: u32 = 2;

/// A request may take this fraction of the renew deadline, so that two more attempts fit.
const REQUESTS_A_DEADLINE: u32 = 3;

/// The durations of the election. Each is longer than the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long other replicas leave a lease alone that is not renewed, in whole seconds.
    pub duration: Duration,
    /// How long a holder that cannot renew goes on leading.
    pub renew_deadline: Duration,
    /// The pause between two attempts to renew or take the lease, or to read it without a working
    /// watch.
    pub retry_period: Duration,
}

impl Terms {
    /// Returns the time limit of one request.
    #[must_use]
    pub fn longest_request(&self) -> Duration {
        self.renew_deadline / REQUESTS_A_DEADLINE
    }
}

/// The content of a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The holder. Empty if nobody holds the lease.
    pub holder: Box<str>,
    /// How long the lease lasts without a renewal, in seconds.
    pub duration: Option<i64>,
    /// When the holder acquired the lease.
    pub acquired: Option<Box<str>>,
    /// When the lease was last renewed.
    pub renewed: Option<Box<str>>,
    /// How often the holder changed.
    pub transitions: i64,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Do nothing before this time, unless the lease changes.
    Wait(Instant),
    /// Read the lease.
    Look,
    /// Create the missing lease.
    Create,
    /// Take the lease, which nobody holds.
    Take,
    /// Renew the own lease.
    Renew,
}

/// A replica that contends for the lease.
#[derive(Debug)]
pub struct Contender {
    identity: Box<str>,
    terms: Terms,
    stand_back: Duration,
    known: Option<Known>,
    /// Whether another replica is known to have written the lease since.
    is_outdated: bool,
    /// When the last attempt to read the lease began.
    looked: Option<Instant>,
    /// When the last attempt to write the lease began.
    wrote: Option<Instant>,
    /// Until when this replica leads.
    until: Option<Instant>,
}

/// The lease as it was last seen.
#[derive(Debug)]
struct Known {
    /// The object's resource version and its content. `None` if the object does not exist.
    lease: Option<(Box<str>, Record)>,
    /// When this content was first seen.
    since: Instant,
    /// When this content was last seen.
    seen: Instant,
}

impl Contender {
    /// Makes a contender that knows nothing yet. The contender waits for `stand_back` before it
    /// takes a free lease, so that not all replicas write at the same moment.
    #[must_use]
    pub fn new(identity: &str, terms: Terms, stand_back: Duration) -> Self {
        Self {
            identity: identity.into(),
            terms,
            stand_back,
            known: None,
            is_outdated: false,
            looked: None,
            wrote: None,
            until: None,
        }
    }

    /// Returns the next step. `is_watched` tells whether the watch of the lease works.
    #[must_use]
    pub fn step(&self, now: Instant, is_watched: bool) -> Step {
        let retry = self.terms.retry_period;
        let at = |time: Option<Instant>, step: Step| match time {
            Some(time) if time > now => Step::Wait(time),
            _ => step,
        };
        let next_look = self.looked.map(|time| time + retry);
        let next_write = self.wrote.map(|time| time + retry);
        let Some(known) = self.known.as_ref().filter(|_| !self.is_outdated) else {
            return at(next_look, Step::Look);
        };
        let Some((_, record)) = &known.lease else {
            return at(next_write, Step::Create);
        };
        if record.holder == self.identity {
            return at(next_write, Step::Renew);
        }
        let free = self.free_at(record, known.since);
        if record.holder.is_empty() || known.seen >= free {
            return at(next_write.max(Some(free)), Step::Take);
        }
        if now >= free {
            // The lease is read once more before it is taken: the watch may have missed a renewal.
            return at(next_look.filter(|_| self.looked >= Some(free)), Step::Look);
        }
        let silence = known.seen + retry * if is_watched { SILENT_PERIODS } else { 1 };
        at(next_look.max(Some(silence)).min(Some(free)), Step::Look)
    }

    /// Returns the time from which the lease may be taken.
    fn free_at(&self, record: &Record, since: Instant) -> Instant {
        let own = self.terms.duration;
        let lives = match record.duration {
            _ if record.holder.is_empty() => Duration::ZERO,
            Some(seconds @ 1..) => {
                Duration::from_secs(seconds.unsigned_abs()).min(own.max(LONGEST))
            }
            _ => own,
        };
        since + lives + self.stand_back
    }

    /// Notes that an attempt to read the lease begins.
    pub fn looks(&mut self, now: Instant) {
        self.looked = Some(now);
    }

    /// Notes that an attempt to write the lease begins.
    pub fn writes(&mut self, now: Instant) {
        self.wrote = Some(now);
    }

    /// Takes in the lease with its resource version. Returns whether this state is new: a late
    /// event of a watch is not.
    pub fn saw(&mut self, version: &str, record: Record, now: Instant) -> bool {
        if self.is_older(version) {
            return false;
        }
        if record.holder != self.identity {
            self.until = None;
        }
        self.set(Some((version.into(), record)), now);
        true
    }

    /// Notes that the lease does not exist, or that the lease of resource version `deleted` was
    /// deleted. Returns whether this state is new.
    pub fn saw_none(&mut self, deleted: Option<&str>, now: Instant) -> bool {
        if deleted.is_some_and(|version| self.is_older(version)) {
            return false;
        }
        self.set(None, now);
        true
    }

    /// Notes that the own write, sent at `sent`, was answered. From `sent` on, other replicas leave
    /// the lease alone.
    pub fn has_written(&mut self, version: &str, record: Record, sent: Instant, now: Instant) {
        self.until = (record.holder == self.identity).then_some(sent + self.terms.renew_deadline);
        self.set(Some((version.into(), record)), now);
    }

    /// Notes that the own write met a conflict.
    pub fn met_conflict(&mut self) {
        self.is_outdated = true;
    }

    fn set(&mut self, lease: Option<(Box<str>, Record)>, now: Instant) {
        fn said(lease: Option<&(Box<str>, Record)>) -> Option<&Record> {
            lease.map(|(_, record)| record)
        }
        let before = self.known.as_ref();
        let same = before.filter(|known| said(known.lease.as_ref()) == said(lease.as_ref()));
        let since = same.map_or(now, |known| known.since);
        self.known = Some(Known { lease, since, seen: now });
        self.is_outdated = false;
    }

    /// Whether the lease was seen in a later state than this one.
    fn is_older(&self, version: &str) -> bool {
        let lease = self.known.as_ref().and_then(|known| known.lease.as_ref());
        match (version.parse::<u64>(), lease.map(|(known, _)| known.parse::<u64>())) {
            (Ok(version), Some(Ok(known))) => version < known,
            // API servers count resource versions up as numbers. Any other text cannot be compared.
            _ => false,
        }
    }

    /// Returns until when this replica leads, if it leads.
    #[must_use]
    pub fn leads_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| now < *until)
    }

    /// Returns the other replica that holds the lease, as far as is known.
    #[must_use]
    pub fn other_holder(&self) -> Option<&str> {
        self.record()
            .map(|record| &*record.holder)
            .filter(|h| !h.is_empty() && **h != *self.identity)
    }

    /// Whether this replica holds the lease, as far as is known, also if its claim has ended.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.record().is_some_and(|record| record.holder == self.identity)
    }

    /// Returns the record that takes or renews the lease.
    #[must_use]
    pub fn claim(&self, now: Timestamp) -> Record {
        let time = || Some(written(now));
        let seconds = i64::try_from(self.terms.duration.as_secs()).unwrap_or(i64::MAX);
        let (acquired, transitions) = match self.record() {
            None => (time(), 0),
            Some(record) if record.holder == self.identity => {
                (record.acquired.clone().or_else(time), record.transitions)
            }
            Some(record) => (time(), transitions_after(record.transitions)),
        };
        Record {
            holder: self.identity.clone(),
            duration: Some(seconds),
            acquired,
            renewed: time(),
            transitions,
        }
    }

    /// Returns the record that releases the lease: no holder, and a duration of one second.
    #[must_use]
    pub fn release(&self, now: Timestamp) -> Record {
        Record {
            holder: "".into(),
            duration: Some(1),
            acquired: Some(written(now)),
            renewed: Some(written(now)),
            transitions: self.record().map_or(0, |record| record.transitions),
        }
    }

    fn record(&self) -> Option<&Record> {
        self.known.as_ref()?.lease.as_ref().map(|(_, record)| record)
    }
}

/// The object has 32 bits for this number, which must not be negative.
fn transitions_after(before: i64) -> i64 {
    before.saturating_add(1).clamp(0, i64::from(i32::MAX))
}

/// Returns a time in the format of leases, to the microsecond.
fn written(time: Timestamp) -> Box<str> {
    format!("{time:.6}").into()
}

#[cfg(test)]
mod tests;
