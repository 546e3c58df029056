//! The lease by which one of several processes leads: who holds it, until when, and what to do next.
//!
//! Times in the lease are written for people and never compared with ours: others measure its life
//! by their own clocks, from the moment they saw it change, and so do we.
//!
//! Architecture Invariant: a claim ends by itself, before anybody else may take the lease. It is
//! measured from before the request that was answered was sent, and needs nobody to tell it.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A lease that is not renewed is believed for so long at most, or for our own duration if that is
/// longer: what an absurd one says must not stop everybody for years.
const LONGEST: Duration = Duration::from_mins(1);

/// How many retry periods of silence on a watch that works are odd: each holder renews once in one.
const SILENT_PERIODS: u32 = 2;

/// A request may take this part of the renew deadline: two more attempts have to fit.
const REQUESTS_A_DEADLINE: u32 = 3;

/// How long things take. Each is longer than the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long a lease that is not renewed keeps others from it, in whole seconds.
    pub duration: Duration,
    /// How long a holder that cannot renew goes on leading.
    pub renew_deadline: Duration,
    /// Between two attempts to renew, to take, or to look where no watch works.
    pub retry_period: Duration,
}

impl Terms {
    /// How long one request may take.
    #[must_use]
    pub fn longest_request(&self) -> Duration {
        self.renew_deadline / REQUESTS_A_DEADLINE
    }
}

/// What a lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty if nobody does.
    pub holder: Box<str>,
    /// How long it lives without being renewed, in seconds.
    pub duration: Option<i64>,
    /// When its holder came to it.
    pub acquired: Option<Box<str>>,
    /// When it was last renewed.
    pub renewed: Option<Box<str>>,
    /// How often it came to another holder.
    pub transitions: i64,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this time, unless the lease is seen to change.
    Wait(Instant),
    /// Read the lease.
    Look,
    /// Make the lease, of which there is none.
    Create,
    /// Take the lease, which nobody holds.
    Take,
    /// Renew the lease, which is ours.
    Renew,
}

/// One of those who want to lead.
#[derive(Debug)]
pub struct Contender {
    identity: Box<str>,
    terms: Terms,
    stand_back: Duration,
    known: Option<Known>,
    /// Whether somebody else is known to have written since.
    is_outdated: bool,
    /// When an attempt to read it last began.
    looked: Option<Instant>,
    /// When an attempt to write it last began.
    wrote: Option<Instant>,
    /// Until when this one leads.
    until: Option<Instant>,
}

/// The lease as it was last seen.
#[derive(Debug)]
struct Known {
    /// The object's resource version and what it says; `None` if there is no such object.
    lease: Option<(Box<str>, Record)>,
    /// When it was first seen to say this.
    since: Instant,
    /// When it was last seen to say this.
    seen: Instant,
}

impl Contender {
    /// One that knows nothing yet. It stands back for a while from a lease that comes free, so that
    /// not all who wait for it write in the same moment.
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

    /// What to do now. `is_watched` tells whether changes of the lease are being told.
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
            // Seen once more before it is taken: the watch may have missed that it was renewed.
            return at(next_look.filter(|_| self.looked >= Some(free)), Step::Look);
        }
        let silence = known.seen + retry * if is_watched { SILENT_PERIODS } else { 1 };
        at(next_look.max(Some(silence)).min(Some(free)), Step::Look)
    }

    /// From when on the lease may be taken.
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

    /// An attempt to read the lease begins.
    pub fn looks(&mut self, now: Instant) {
        self.looked = Some(now);
    }

    /// An attempt to write the lease begins.
    pub fn writes(&mut self, now: Instant) {
        self.wrote = Some(now);
    }

    /// The lease was seen: its resource version, and what it says. Answers whether that is news;
    /// what a watch tells late is not.
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

    /// There is no lease, or none any more: the one of this resource version was deleted. Answers
    /// whether that is news.
    pub fn saw_none(&mut self, deleted: Option<&str>, now: Instant) -> bool {
        if deleted.is_some_and(|version| self.is_older(version)) {
            return false;
        }
        self.set(None, now);
        true
    }

    /// Our own write was answered, which was sent at `sent`: from then on, others leave it alone.
    pub fn has_written(&mut self, version: &str, record: Record, sent: Instant, now: Instant) {
        self.until = (record.holder == self.identity).then_some(sent + self.terms.renew_deadline);
        self.set(Some((version.into(), record)), now);
    }

    /// Our own write met that of somebody else.
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
            // Numbers that count up are what API servers give. Anything else cannot be compared.
            _ => false,
        }
    }

    /// Until when this one leads, if it does.
    #[must_use]
    pub fn leads_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| now < *until)
    }

    /// Who else holds the lease, as far as is known.
    #[must_use]
    pub fn other_holder(&self) -> Option<&str> {
        self.record()
            .map(|record| &*record.holder)
            .filter(|h| !h.is_empty() && **h != *self.identity)
    }

    /// Whether the lease is ours, as far as is known, also if our claim has ended.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.record().is_some_and(|record| record.holder == self.identity)
    }

    /// What to write to take the lease, or to renew it.
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

    /// What to write to give the lease back: nobody holds it, and it has all but ended.
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

/// The object holds 32 bits, and none below zero.
fn transitions_after(before: i64) -> i64 {
    before.saturating_add(1).clamp(0, i64::from(i32::MAX))
}

/// A time as leases have it: to the microsecond.
fn written(time: Timestamp) -> Box<str> {
    format!("{time:.6}").into()
}

#[cfg(test)]
mod tests;
