//! The observations of secrets, poll by poll, and the versions that this process has seen itself.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::model::poll::PollNumber;
use crate::model::reload_policy::ReloadPolicy;
use crate::model::secret::{SecretId, Version};

/// The result of one poll for one secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// The latest version can be read.
    Live(Version),
    /// The secret is missing, or its latest version is deleted or destroyed.
    Gone,
    /// Any other result: an error, or an answer that cannot be trusted. It changes nothing.
    Unknown,
}

/// An observation, with the earlier versions that this process knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedVersion {
    /// The observation of the present poll.
    pub observation: Observation,
    /// The poll of the observation. An earlier poll, if that poll read the secret in its turn.
    pub seen: PollNumber,
    /// The last poll that saw another version than the present one live. Pods may run with that
    /// other version if their template is older than that poll.
    pub last_poll_with_other_version: PollNumber,
    /// When that other version was created.
    pub other_version_created: Option<Timestamp>,
    /// A poll of at least [`BELIEVED_AFTER`] ago that saw the present version live, with no other
    /// version since. 0 if there is none.
    pub settled_since: PollNumber,
    /// The last poll that found the secret gone. Pods of a workload that ignores missing secrets
    /// may have started without the secret then.
    pub last_poll_gone: PollNumber,
    /// What the owner of the secret says about reloads. No verdict depends on it.
    pub policy: ReloadPolicy,
}

impl ObservedVersion {
    /// The state of a secret that no poll has read.
    pub const UNKNOWN: Self = Self::of(Observation::Unknown);

    /// Returns an observation by a process that has seen nothing before.
    #[must_use]
    pub const fn of(observation: Observation) -> Self {
        Self {
            observation,
            seen: 0,
            last_poll_with_other_version: 0,
            other_version_created: None,
            settled_since: 0,
            last_poll_gone: 0,
            policy: ReloadPolicy::NONE,
        }
    }
}

/// A secret to read.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// The secret.
    pub secret: Arc<SecretId>,
    /// When the version that this process saw last was created. An answer with an earlier version
    /// may be stale. Records of workloads do not count here, since tenants can write records.
    pub not_before: Option<Timestamp>,
    /// Whether all workloads that use the secret allow it to be missing.
    pub may_be_missing: bool,
}

impl ReadRequest {
    /// Whether an answer with this version may come from a standby that lags behind.
    #[must_use]
    pub fn may_be_stale(&self, version: Version) -> bool {
        self.not_before.is_some_and(|time| version.created < time)
    }
}

/// The result of a poll.
#[derive(Debug, Default)]
pub struct PollResult {
    /// The observation of each secret that was requested.
    pub observations: HashMap<Arc<SecretId>, Observation>,
    /// What the owners of live secrets say about reloads, as far as they say something.
    pub policies: HashMap<Arc<SecretId>, ReloadPolicy>,
    /// The secrets that are unknown because of a failure that may pass, or because time ran out.
    pub failed: Vec<Arc<SecretId>>,
    /// The failed secrets for which time ran out.
    pub late: HashSet<Arc<SecretId>>,
    /// When to read the failed secrets again, if earlier than the next poll.
    pub retry_in: Option<Duration>,
    /// How long the token is still valid, if the controller can neither renew nor replace it.
    pub token_left: Option<Duration>,
}

/// How long only an older version must be seen before it is believed. Until then the answer may
/// come from a standby that lags behind. Afterwards an earlier storage was restored.
pub const BELIEVED_AFTER: Duration = Duration::from_secs(30);

/// Polls that began within this time count as one.
const TIMES_APART: Duration = Duration::from_secs(1);

/// When the latest polls of a server began. An older version is believed by these times.
#[derive(Debug, Default)]
pub struct PollTimes {
    /// When the polls of the last [`BELIEVED_AFTER`] began, the latest last. Polls that are close
    /// to each other share an entry.
    times: VecDeque<Began>,
    /// The latest poll that began at least [`BELIEVED_AFTER`] ago.
    settled: PollNumber,
    /// The first poll after a pause of polling. 0 until that poll begins.
    resumed: PollNumber,
}

/// Polls that began at about the same time.
#[derive(Clone, Copy, Debug)]
struct Began {
    /// When the first of these polls began.
    first: Duration,
    /// The last of these polls, and when it began.
    poll: PollNumber,
    time: Duration,
}

/// The versions of one secret that this process has seen since its start. A restart loses them
/// without harm, since the records have the rest.
#[derive(Clone, Debug, Default)]
pub struct SecretHistory {
    seen: Option<Seen>,
    /// The last poll that found the secret gone. 0 if there is none.
    last_gone: PollNumber,
    /// A version older than the known one, with the first of the consecutive polls that saw it. Few
    /// secrets have one, so it is boxed.
    suspect: Option<Box<(Version, PollNumber)>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// The version that was last seen live.
    version: Version,
    /// The last poll that saw this version.
    last: PollNumber,
    /// The last poll that saw another version before, and when that version was created.
    other: PollNumber,
    other_version_created: Option<Timestamp>,
    /// A poll that saw this version. It becomes `believed_since` once it began [`BELIEVED_AFTER`]
    /// ago.
    since: PollNumber,
    /// A poll of at least [`BELIEVED_AFTER`] ago that saw this version. 0 if there is none.
    believed_since: PollNumber,
}

impl PollTimes {
    /// Resumes polling after a pause, during which other versions may have been live. Each history
    /// is told, too: see [`SecretHistory::resume`].
    pub fn resume(&mut self) {
        self.times.clear();
        self.resumed = 0;
    }

    /// Begins a poll. `now` is the time since the start of the process.
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
}

impl SecretHistory {
    /// Forgets a version that is not believed yet, after a pause of polling.
    pub fn resume(&mut self) {
        self.suspect = None;
    }

    /// Takes in an observation of a poll. Returns it together with the earlier observations.
    ///
    /// A version that [may be stale](ReadRequest::may_be_stale) is believed when nothing else was
    /// seen for [`BELIEVED_AFTER`]. Until then the secret is unknown.
    pub fn observe(
        &mut self,
        times: &PollTimes,
        poll: PollNumber,
        request: &ReadRequest,
        observation: Observation,
    ) -> ObservedVersion {
        if observation == Observation::Gone {
            self.last_gone = poll;
        }
        let unknown = ObservedVersion {
            seen: poll,
            last_poll_with_other_version: self.seen.map_or(0, |seen| seen.other),
            other_version_created: self.seen.and_then(|seen| seen.other_version_created),
            last_poll_gone: self.last_gone,
            ..ObservedVersion::UNKNOWN
        };
        let Observation::Live(version) = observation else {
            return ObservedVersion { observation, ..unknown };
        };
        let suspect = self.suspect.take().filter(|suspect| suspect.0 == version);
        let mut believed_since = 0;
        if request.may_be_stale(version) {
            let first = suspect.map_or(poll, |suspect| suspect.1);
            if first > times.settled {
                self.suspect = Some(Box::new((version, first)));
                return unknown;
            }
            believed_since = first;
        }
        let new = Seen {
            version,
            last: poll,
            other: 0,
            other_version_created: None,
            since: poll,
            believed_since,
        };
        let seen = match self.seen {
            Some(seen) if seen.version == version => {
                let mut seen = Seen { last: poll, ..seen };
                if seen.since < times.resumed {
                    (seen.believed_since, seen.since) = (0, poll);
                } else if seen.since <= times.settled {
                    (seen.believed_since, seen.since) = (seen.since, poll);
                }
                seen
            }
            Some(seen) => {
                let other_version_created = Some(seen.version.created);
                Seen { other: seen.last, other_version_created, ..new }
            }
            None => new,
        };
        self.seen = Some(seen);
        ObservedVersion {
            observation,
            last_poll_with_other_version: seen.other,
            other_version_created: seen.other_version_created,
            settled_since: seen.believed_since,
            ..unknown
        }
    }

    /// Whether the latest answer was older than the known version, and is not believed yet.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.suspect.is_some()
    }

    /// Returns the version that was last seen live.
    #[must_use]
    pub fn last_seen(&self) -> Option<Version> {
        self.seen.map(|seen| seen.version)
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
        times: PollTimes,
        history: SecretHistory,
        now: Duration,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                times: PollTimes::default(),
                history: SecretHistory::default(),
                now: Duration::ZERO,
            }
        }

        /// Runs a poll this many seconds after the last poll.
        fn poll(
            &mut self,
            poll: PollNumber,
            seconds: u64,
            observation: Observation,
        ) -> ObservedVersion {
            self.now += Duration::from_secs(seconds);
            self.times.begin(poll, self.now);
            let secret = secret("a");
            let not_before = self.history.last_seen().map(|version| version.created);
            let ask = ReadRequest { secret, not_before, may_be_missing: false };
            self.history.observe(&self.times, poll, &ask, observation)
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
        // A restored storage is one more change once the older version is believed.
        assert_eq!(bench.poll(8, 60, version(2)).observation, Observation::Unknown);
        assert_eq!(bench.poll(9, 60, version(2)).last_poll_with_other_version, 7);
        assert_eq!(bench.history.last_seen().map(|version| version.number), Some(2));
        bench.history = SecretHistory::default();
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
            // Another standby, with another lag.
            (4, 14, version(1), unknown, 0),
            // An unknown secret in between is no evidence.
            (5, 15, unknown, unknown, 0),
            (6, 14, version(1), unknown, 0),
            (7, 1, version(1), version(1), 1),
            // A believed version stays believed.
            (8, 1, version(1), version(1), 1),
            // The older version came from a standby after all, or the storage was restored once
            // more.
            (9, 1, version(3), version(3), 8),
            (10, 20, version(2), unknown, 8),
            // The wait begins again with each answer that is up to date.
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
            assert_eq!(bench.history.is_suspect(), is_suspect, "poll {poll}");
        }
        bench.history = SecretHistory::default();
        assert!(!bench.history.is_suspect());
    }

    #[test]
    fn a_version_is_long_seen_by_polls_that_have_seen_it_and_not_over_a_time_without_polls() {
        let mut bench = Bench::new();
        assert_eq!(bench.poll(1, 0, version(2)).settled_since, 0);
        assert_eq!(bench.poll(2, 29, version(2)).settled_since, 0);
        assert_eq!(bench.poll(3, 1, version(2)).settled_since, 1);
        // Polls without an observation of the secret do not count.
        for poll in 4..10 {
            bench.poll(poll, 60, Observation::Unknown);
        }
        assert_eq!(bench.poll(10, 1, version(2)).settled_since, 3);
        assert_eq!(bench.poll(11, 29, version(2)).settled_since, 3);
        assert_eq!(bench.poll(12, 1, version(2)).settled_since, 10);
        assert_eq!(bench.poll(13, 1, version(1)).observation, Observation::Unknown);
        bench.history.resume();
        bench.times.resume();
        assert_eq!(bench.poll(14, 60, version(2)).settled_since, 0);
        assert_eq!(bench.poll(15, 29, version(2)).settled_since, 0);
        assert_eq!(bench.poll(16, 30, version(2)).settled_since, 14);
        assert_eq!(bench.poll(17, 1, version(1)).observation, Observation::Unknown);
    }

    #[test]
    fn polls_close_to_each_other_take_no_room() {
        let mut times = PollTimes::default();
        let mut now = Duration::ZERO;
        for poll in 1..10_000 {
            times.begin(poll, now);
            now += Duration::from_millis(10);
        }
        assert!(times.times.len() <= 31, "{}", times.times.len());
        assert!((6_800..=7_000).contains(&times.settled), "{}", times.settled);
    }
}
