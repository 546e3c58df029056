//! What was observed of secrets, poll by poll, and what this process has witnessed itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::secret::{SecretId, Version};

/// The number of a poll, counted from 1 by the store. 0 is "never".
pub type Poll = u64;

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
pub struct Sighting {
    /// What the present poll learned.
    pub observation: Observation,
    /// The last poll that saw another version than the present one live. Whoever has a pod template
    /// since before that poll has pods that may run with that other version.
    pub other_seen: Poll,
}

impl Sighting {
    /// What is said of a secret that no poll has asked for.
    pub const UNKNOWN: Self = Self { observation: Observation::Unknown, other_seen: 0 };
}

/// A secret to ask for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Which.
    pub secret: Arc<SecretId>,
    /// When the latest version that was ever seen or recorded had been created: an answer with an
    /// earlier one may be stale.
    pub not_before: Option<Timestamp>,
    /// The version that is believed although it is earlier. See [`History::observe`].
    pub believed: Option<Version>,
    /// Whether all workloads that use it say that it may be missing.
    pub may_be_missing: bool,
}

impl Ask {
    /// Whether an answer with this version may come from a standby that lags behind.
    #[must_use]
    pub fn may_be_stale(&self, version: Version) -> bool {
        self.not_before.is_some_and(|time| version.created < time) && self.believed != Some(version)
    }
}

/// What a poll brought.
#[derive(Debug, Default)]
pub struct Polled {
    /// What was observed of each secret that was asked for.
    pub observations: HashMap<Arc<SecretId>, Observation>,
    /// Those that are unknown because something failed that may pass, or there was no time.
    pub failed: Vec<Arc<SecretId>>,
    /// Those of them that there was no time to ask for.
    pub late: HashSet<Arc<SecretId>>,
    /// When to ask for these again, if earlier than for all.
    pub retry_in: Option<Duration>,
}

/// What this process has seen of each secret since it began. Lost with the process, and not missed:
/// the records say the rest.
#[derive(Debug, Default)]
pub struct History {
    secrets: HashMap<Arc<SecretId>, Seen>,
    /// Versions older than what was known, which one poll has seen.
    suspects: HashMap<Arc<SecretId>, Version>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// The version that was last seen live.
    version: Version,
    /// The last poll that saw it.
    last: Poll,
    /// The last poll that saw another one before it.
    other: Poll,
    /// What the latest answer with it was measured by: whatever is created later is news to it.
    over: Option<Timestamp>,
}

impl History {
    /// Takes in what a poll observed, and says what that means beside what was seen before.
    ///
    /// A version that [may be stale](Ask::may_be_stale) is believed when two polls in a row have seen
    /// it. Until then the answer may come from a standby that lags behind, and the secret is unknown;
    /// afterwards an earlier storage was restored. That it is what was seen last says nothing, where
    /// another controller has recorded a later one since.
    pub fn observe(&mut self, poll: Poll, ask: &Ask, observation: Observation) -> Sighting {
        let secret = &ask.secret;
        let before = self.secrets.get(secret).copied();
        let other_seen = before.map_or(0, |seen| seen.other);
        let Observation::Live(version) = observation else {
            return Sighting { observation, other_seen };
        };
        let suspect = self.suspects.remove(secret);
        if ask.may_be_stale(version) && suspect != Some(version) {
            self.suspects.insert(Arc::clone(secret), version);
            return Sighting { observation: Observation::Unknown, other_seen };
        }
        let other = match before {
            Some(seen) if seen.version == version => seen.other,
            Some(seen) => seen.last,
            None => 0,
        };
        let seen = Seen { version, last: poll, other, over: ask.not_before };
        self.secrets.insert(Arc::clone(secret), seen);
        Sighting { observation, other_seen: other }
    }

    /// The version that is believed although one was recorded that was created at `not_before`.
    #[must_use]
    pub fn believed(&self, secret: &SecretId, not_before: Option<Timestamp>) -> Option<Version> {
        let seen = self.secrets.get(secret).filter(|seen| seen.over >= not_before);
        seen.map(|seen| seen.version)
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fixtures::secret;

    fn version(number: u64) -> Observation {
        let created = Timestamp::from_second(i64::try_from(number).unwrap()).unwrap();
        Observation::Live(Version { number, created })
    }

    /// Observes as the reloader does, beside what is recorded.
    fn observe(
        history: &mut History,
        poll: Poll,
        observation: Observation,
        recorded: Option<i64>,
    ) -> Sighting {
        let secret = secret("a");
        let recorded = recorded.map(|second| Timestamp::from_second(second).unwrap());
        let last = history.last_seen(&secret).map(|version| version.created);
        let not_before = recorded.max(last);
        let believed = history.believed(&secret, not_before);
        let ask = Ask { secret, not_before, believed, may_be_missing: false };
        history.observe(poll, &ask, observation)
    }

    #[test]
    fn the_last_poll_with_another_version_is_kept() {
        let secret = secret("a");
        let mut history = History::default();
        let table = [
            (1, version(1), 0),
            (2, version(1), 0),
            (3, Observation::Unknown, 0),
            (4, version(2), 2),
            (5, version(2), 2),
            (6, Observation::Gone, 2),
            (7, version(3), 5),
        ];
        for (poll, observation, other_seen) in table {
            assert_eq!(
                observe(&mut history, poll, observation, None),
                Sighting { observation, other_seen },
                "poll {poll}"
            );
        }
        // A storage that was restored is one more change, once it is believed.
        assert_eq!(observe(&mut history, 8, version(2), None).observation, Observation::Unknown);
        assert_eq!(observe(&mut history, 9, version(2), None).other_seen, 7);
        assert_eq!(history.last_seen(&secret).map(|version| version.number), Some(2));
        history.retain(|_| false);
        assert_eq!(observe(&mut history, 10, version(4), None).other_seen, 0);
    }

    #[test]
    fn an_older_version_is_believed_when_two_polls_in_a_row_have_seen_it() {
        let secret = secret("a");
        let mut history = History::default();
        // What is known was created at second 3; that is what an answer is measured by.
        let unknown = Observation::Unknown;
        let table = [
            (1, version(3), version(3), 0),
            (2, version(2), unknown, 0),
            // Another standby, another lag.
            (3, version(1), unknown, 0),
            // Nothing is known of it in between, which says nothing.
            (4, Observation::Unknown, unknown, 0),
            (5, version(1), version(1), 1),
            // Believed is believed.
            (6, version(1), version(1), 1),
            // It was a standby after all, or the storage was restored once more.
            (7, version(3), version(3), 6),
            (8, version(2), unknown, 6),
            // Two in a row, or it starts anew.
            (9, version(3), version(3), 6),
            (10, version(2), unknown, 6),
        ];
        for (poll, seen, observation, other_seen) in table {
            assert_eq!(
                observe(&mut history, poll, seen, Some(3)),
                Sighting { observation, other_seen },
                "poll {poll}"
            );
            assert_eq!(history.suspects(&secret), seen != observation || poll == 4, "poll {poll}");
        }
        history.retain(|_| false);
        assert!(!history.suspects(&secret));
    }

    #[test]
    fn what_was_seen_last_may_be_stale_once_another_has_recorded_a_later_one() {
        let mut history = History::default();
        let unknown = Observation::Unknown;
        let table = [
            (1, version(1), None, version(1)),
            // Another controller has read, and rolled out, what a standby does not know yet.
            (2, version(1), Some(2), unknown),
            (3, version(2), Some(2), version(2)),
            // Restored, which is believed whatever is recorded by then, up to that.
            (4, version(1), Some(2), unknown),
            (5, version(1), Some(2), version(1)),
            (6, version(1), Some(2), version(1)),
            (7, version(1), Some(3), unknown),
        ];
        for (poll, seen, recorded, observation) in table {
            let sighting = observe(&mut history, poll, seen, recorded);
            assert_eq!(sighting.observation, observation, "poll {poll}");
        }
    }
}
