//! What was observed of secrets, poll by poll, and what this process has witnessed itself.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::model::poll::PollNumber;
use crate::model::secret::{SecretId, Version};

/// What one poll learned of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// Its latest version can be read.
    Live(Version),
    /// It is missing, or its latest version is deleted or destroyed.
    Gone,
    /// Anything else: an error, or an answer that cannot be trusted. It changes nothing.
    Unknown,
}

/// An observation, with what this process knows of the versions before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedVersion {
    /// What the present poll learned.
    pub observation: Observation,
    /// The poll that learned it: an earlier one, where the secret had its turn then.
    pub seen: PollNumber,
    /// The last poll that saw another version than the present one live. Whoever has a pod template
    /// since before that poll has pods that may run with that other version.
    pub last_poll_with_other_version: PollNumber,
    /// When that other version had been created.
    pub other_version_created: Option<Timestamp>,
    /// A poll of [`BELIEVED_AFTER`] ago or earlier that saw the present version live, and since which
    /// no other one was; 0 where there is none.
    pub settled_since: PollNumber,
    /// The last poll that found the secret gone. Pods of a workload that ignores missing secrets may
    /// have started without it then.
    pub last_poll_gone: PollNumber,
}

impl ObservedVersion {
    /// What is said of a secret that no poll has asked for.
    pub const UNKNOWN: Self = Self::of(Observation::Unknown);

    /// An observation by a process that has seen nothing before.
    #[must_use]
    pub const fn of(observation: Observation) -> Self {
        Self {
            observation,
            seen: 0,
            last_poll_with_other_version: 0,
            other_version_created: None,
            settled_since: 0,
            last_poll_gone: 0,
        }
    }
}

/// A secret to ask for.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// Which.
    pub secret: Arc<SecretId>,
    /// When the version that this process saw last had been created: an answer with an earlier one
    /// may be stale. What workloads have on record has no say in it, since tenants can write records.
    pub not_before: Option<Timestamp>,
    /// Whether all workloads that use it say that it may be missing.
    pub may_be_missing: bool,
}

impl ReadRequest {
    /// Whether an answer with this version may come from a standby that lags behind.
    #[must_use]
    pub fn may_be_stale(&self, version: Version) -> bool {
        self.not_before.is_some_and(|time| version.created < time)
    }
}

/// What a poll brought.
#[derive(Debug, Default)]
pub struct PollResult {
    /// What was observed of each secret that was asked for.
    pub observations: HashMap<Arc<SecretId>, Observation>,
    /// Those that are unknown because something failed that may pass, or there was no time.
    pub failed: Vec<Arc<SecretId>>,
    /// Those of them that there was no time to ask for.
    pub late: HashSet<Arc<SecretId>>,
    /// When to ask for these again, if earlier than for all.
    pub retry_in: Option<Duration>,
}

/// How long nothing but an older version must have been seen before it is believed: until then it may
/// come from a standby that lags behind, afterwards an earlier storage was restored.
pub const BELIEVED_AFTER: Duration = Duration::from_secs(30);

/// Polls that began within this time count as one.
const TIMES_APART: Duration = Duration::from_secs(1);

/// What this process has seen of each secret since it began. Lost with the process, and not missed:
/// the records say the rest.
#[derive(Debug, Default)]
pub struct ObservationHistory {
    secrets: HashMap<Arc<SecretId>, Seen>,
    /// The last poll that found each secret gone.
    gone: HashMap<Arc<SecretId>, PollNumber>,
    /// Versions older than what was known, and the first of the polls in a row that have seen each.
    suspects: HashMap<Arc<SecretId>, (Version, PollNumber)>,
    /// When polls of the last [`BELIEVED_AFTER`] began, the latest last. Those that are close to each
    /// other are one entry, with the latest of them.
    times: VecDeque<Began>,
    /// The latest poll that began [`BELIEVED_AFTER`] ago.
    settled: PollNumber,
    /// The first poll after a time in which this process did not poll; 0 until it has begun.
    resumed: PollNumber,
}

/// Polls that began at about the same time.
#[derive(Clone, Copy, Debug)]
struct Began {
    /// When the first of them did.
    first: Duration,
    /// The last of them, and when it did.
    poll: PollNumber,
    time: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// The version that was last seen live.
    version: Version,
    /// The last poll that saw it.
    last: PollNumber,
    /// The last poll that saw another one before it, and when that one had been created.
    other: PollNumber,
    other_version_created: Option<Timestamp>,
    /// A poll that saw it, to become `long` when it began [`BELIEVED_AFTER`] ago.
    since: PollNumber,
    /// A poll that saw it [`BELIEVED_AFTER`] ago or earlier; 0 where there is none.
    long: PollNumber,
}

impl ObservationHistory {
    /// From now on there are polls again. Meanwhile others may have seen other versions.
    pub fn resume(&mut self) {
        self.suspects.clear();
        self.times.clear();
        self.resumed = 0;
    }

    /// A poll begins, so long after this process has.
    pub fn begin(&mut self, poll: PollNumber, now: Duration) {
        if self.resumed == 0 {
            self.resumed = poll;
        }
        let since = |time: Duration| now.saturating_sub(time);
        while let Some(began) = self.times.pop_front_if(|began| since(began.time) >= BELIEVED_AFTER)
        {
            self.settled = began.poll;
        }
        match self.times.back_mut() {
            Some(last) if since(last.first) < TIMES_APART => {
                (last.poll, last.time) = (poll, now);
            }
            _ => self.times.push_back(Began { first: now, poll, time: now }),
        }
    }

    /// Takes in what a poll observed, and says what that means beside what was seen before.
    ///
    /// A version that [may be stale](Ask::may_be_stale) is believed when nothing else was seen for
    /// [`BELIEVED_AFTER`]. Until then the secret is unknown.
    pub fn observe(
        &mut self,
        poll: PollNumber,
        ask: &ReadRequest,
        observation: Observation,
    ) -> ObservedVersion {
        let secret = &ask.secret;
        let before = self.secrets.get(secret).copied();
        let last_poll_with_other_version = before.map_or(0, |seen| seen.other);
        let other_version_created = before.and_then(|seen| seen.other_version_created);
        if observation == Observation::Gone {
            self.gone.insert(Arc::clone(secret), poll);
        }
        let last_poll_gone = self.gone.get(secret).copied().unwrap_or_default();
        let unknown = ObservedVersion {
            seen: poll,
            last_poll_with_other_version,
            other_version_created,
            last_poll_gone,
            ..ObservedVersion::UNKNOWN
        };
        let Observation::Live(version) = observation else {
            return ObservedVersion { observation, ..unknown };
        };
        let suspect = self.suspects.remove(secret).filter(|(suspect, _)| *suspect == version);
        let mut long = 0;
        if ask.may_be_stale(version) {
            let first = suspect.map_or(poll, |(_, first)| first);
            if first > self.settled {
                self.suspects.insert(Arc::clone(secret), (version, first));
                return unknown;
            }
            long = first;
        }
        let seen = match before {
            Some(seen) if seen.version == version => {
                let mut seen = Seen { last: poll, ..seen };
                if seen.since < self.resumed {
                    (seen.long, seen.since) = (0, poll);
                } else if seen.since <= self.settled {
                    (seen.long, seen.since) = (seen.since, poll);
                }
                seen
            }
            Some(seen) => {
                let other_version_created = Some(seen.version.created);
                Seen {
                    version,
                    last: poll,
                    other: seen.last,
                    other_version_created,
                    since: poll,
                    long,
                }
            }
            None => Seen {
                version,
                last: poll,
                other: 0,
                other_version_created: None,
                since: poll,
                long,
            },
        };
        self.secrets.insert(Arc::clone(secret), seen);
        let Seen { other, other_version_created, long, .. } = seen;
        let (last_poll_with_other_version, settled_since) = (other, long);
        ObservedVersion {
            observation,
            seen: poll,
            last_poll_with_other_version,
            other_version_created,
            settled_since,
            last_poll_gone,
        }
    }

    /// Whether the latest answer was older than what is known, and is yet to be believed.
    #[must_use]
    pub fn suspects(&self, secret: &SecretId) -> bool {
        self.suspects.contains_key(secret)
    }

    /// The version that was last seen live.
    #[must_use]
    pub fn last_seen(&self, secret: &SecretId) -> Option<Version> {
        self.secrets.get(secret).map(|seen| seen.version)
    }

    /// Forgets the secrets that nobody refers to any more.
    pub fn retain(&mut self, is_used: impl Fn(&Arc<SecretId>) -> bool) {
        self.secrets.retain(|secret, _| is_used(secret));
        self.suspects.retain(|secret, _| is_used(secret));
        self.gone.retain(|secret, _| is_used(secret));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::secret;

    fn version(number: u64) -> Observation {
        let created = Timestamp::from_second(i64::try_from(number).unwrap()).unwrap();
        Observation::Live(Version { number, created })
    }

    /// A history, and the time at which the present poll began.
    struct Bench {
        history: ObservationHistory,
        now: Duration,
    }

    impl Bench {
        fn new() -> Self {
            Self { history: ObservationHistory::default(), now: Duration::ZERO }
        }

        /// A poll so many seconds after the last one.
        fn poll(
            &mut self,
            poll: PollNumber,
            seconds: u64,
            observation: Observation,
        ) -> ObservedVersion {
            self.now += Duration::from_secs(seconds);
            self.history.begin(poll, self.now);
            let secret = secret("a");
            let not_before = self.history.last_seen(&secret).map(|version| version.created);
            let ask = ReadRequest { secret, not_before, may_be_missing: false };
            self.history.observe(poll, &ask, observation)
        }
    }

    #[test]
    fn the_last_poll_with_another_version_is_kept() {
        let mut bench = Bench::new();
        let table = [
            (1, version(1), 0, 0),
            (2, version(1), 0, 1),
            (3, Observation::Unknown, 0, 0),
            (4, version(2), 2, 0),
            (5, version(2), 2, 4),
            (6, Observation::Gone, 2, 0),
            (7, version(3), 5, 0),
        ];
        for (poll, observation, last_poll_with_other_version, settled_since) in table {
            let observed = bench.poll(poll, 60, observation);
            assert_eq!(observed.observation, observation, "poll {poll}");
            assert_eq!(
                (observed.last_poll_with_other_version, observed.settled_since),
                (last_poll_with_other_version, settled_since)
            );
            assert_eq!(
                observed.other_version_created.is_some(),
                last_poll_with_other_version > 0,
                "poll {poll}"
            );
        }
        // A storage that was restored is one more change, once it is believed.
        assert_eq!(bench.poll(8, 60, version(2)).observation, Observation::Unknown);
        assert_eq!(bench.poll(9, 60, version(2)).last_poll_with_other_version, 7);
        assert_eq!(bench.history.last_seen(&secret("a")).map(|version| version.number), Some(2));
        bench.history.retain(|_| false);
        assert_eq!(bench.poll(10, 60, version(4)).last_poll_with_other_version, 0);
    }

    #[test]
    fn an_older_version_is_believed_when_nothing_else_was_seen_for_a_while() {
        let mut bench = Bench::new();
        let unknown = Observation::Unknown;
        let table = [
            (1, 0, version(3), version(3), 0),
            (2, 1, version(2), unknown, 0),
            (3, 14, version(2), unknown, 0),
            // Another standby, another lag.
            (4, 14, version(1), unknown, 0),
            // Nothing is known of it in between, which says nothing.
            (5, 15, unknown, unknown, 0),
            (6, 14, version(1), unknown, 0),
            (7, 1, version(1), version(1), 1),
            // Believed is believed.
            (8, 1, version(1), version(1), 1),
            // It was a standby after all, or the storage was restored once more.
            (9, 1, version(3), version(3), 8),
            (10, 20, version(2), unknown, 8),
            // It begins anew with each answer that is up to date.
            (11, 9, version(3), version(3), 8),
            (12, 1, version(2), unknown, 8),
            (13, 29, version(2), unknown, 8),
            (14, 1, version(2), version(2), 11),
        ];
        for (poll, seconds, seen, observation, last_poll_with_other_version) in table {
            let observed = bench.poll(poll, seconds, seen);
            assert_eq!(
                (observed.observation, observed.last_poll_with_other_version),
                (observation, last_poll_with_other_version),
                "poll {poll}"
            );
            let is_suspect = seen != observation || poll == 5;
            assert_eq!(bench.history.suspects(&secret("a")), is_suspect, "poll {poll}");
        }
        bench.history.retain(|_| false);
        assert!(!bench.history.suspects(&secret("a")));
    }

    #[test]
    fn a_version_is_long_seen_by_polls_that_have_seen_it_and_not_over_a_time_without_polls() {
        let mut bench = Bench::new();
        assert_eq!(bench.poll(1, 0, version(2)).settled_since, 0);
        assert_eq!(bench.poll(2, 29, version(2)).settled_since, 0);
        assert_eq!(bench.poll(3, 1, version(2)).settled_since, 1);
        // Polls that learn nothing of it do not count.
        for poll in 4..10 {
            bench.poll(poll, 60, Observation::Unknown);
        }
        assert_eq!(bench.poll(10, 1, version(2)).settled_since, 3);
        assert_eq!(bench.poll(11, 29, version(2)).settled_since, 3);
        assert_eq!(bench.poll(12, 1, version(2)).settled_since, 10);
        assert_eq!(bench.poll(13, 1, version(1)).observation, Observation::Unknown);
        bench.history.resume();
        assert_eq!(bench.poll(14, 60, version(2)).settled_since, 0);
        assert_eq!(bench.poll(15, 29, version(2)).settled_since, 0);
        assert_eq!(bench.poll(16, 30, version(2)).settled_since, 14);
        assert_eq!(bench.poll(17, 1, version(1)).observation, Observation::Unknown);
    }

    #[test]
    fn polls_close_to_each_other_take_no_room() {
        let mut history = ObservationHistory::default();
        let mut now = Duration::ZERO;
        for poll in 1..10_000 {
            history.begin(poll, now);
            now += Duration::from_millis(10);
        }
        assert!(history.times.len() <= 31, "{}", history.times.len());
        assert!((6_800..=7_000).contains(&history.settled), "{}", history.settled);
    }
}
