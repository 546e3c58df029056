//! What was observed of secrets, poll by poll, and what this process has witnessed itself.

use std::collections::HashMap;
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
    /// The version that was last seen live.
    pub known: Option<Version>,
    /// When the latest version that was ever seen or recorded had been created: an answer with an
    /// earlier one may be stale.
    pub not_before: Option<Timestamp>,
    /// Whether all workloads that use it say that it may be missing.
    pub may_be_missing: bool,
}

/// What a poll brought.
#[derive(Debug, Default)]
pub struct Polled {
    /// What was observed of each secret that was asked for.
    pub observations: HashMap<Arc<SecretId>, Observation>,
    /// Those that are unknown because something failed that may pass.
    pub failed: Vec<Arc<SecretId>>,
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
}

impl History {
    /// Takes in what a poll observed, and says what that means beside what was seen before.
    ///
    /// A version that was created before `not_before`, when the latest that was ever seen or
    /// recorded had been, is believed when two polls in a row have seen it. Until then the answer
    /// may come from a standby that lags behind, and the secret is unknown; afterwards an earlier
    /// storage was restored.
    pub fn observe(
        &mut self,
        poll: Poll,
        secret: &Arc<SecretId>,
        observation: Observation,
        not_before: Option<Timestamp>,
    ) -> Sighting {
        let before = self.secrets.get(secret).copied();
        let other_seen = before.map_or(0, |seen| seen.other);
        let Observation::Live(version) = observation else {
            return Sighting { observation, other_seen };
        };
        let is_known = before.is_some_and(|seen| seen.version == version);
        let suspect = self.suspects.remove(secret);
        if !is_known
            && not_before.is_some_and(|time| version.created < time)
            && suspect != Some(version)
        {
            self.suspects.insert(Arc::clone(secret), version);
            return Sighting { observation: Observation::Unknown, other_seen };
        }
        let seen = match before {
            Some(seen) if is_known => Seen { last: poll, ..seen },
            Some(seen) => Seen { version, last: poll, other: seen.last },
            None => Seen { version, last: poll, other: 0 },
        };
        self.secrets.insert(Arc::clone(secret), seen);
        Sighting { observation, other_seen: seen.other }
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

    fn version(number: u64) -> Observation {
        let created = Timestamp::from_second(i64::try_from(number).unwrap()).unwrap();
        Observation::Live(Version { number, created })
    }

    fn secret() -> Arc<SecretId> {
        Arc::new(SecretId {
            connection: "default".into(),
            namespace: None,
            path: "secret/data/a".into(),
        })
    }

    #[test]
    fn the_last_poll_with_another_version_is_kept() {
        let secret = secret();
        let mut history = History::default();
        let table = [
            (1, version(1), 0),
            (2, version(1), 0),
            (3, Observation::Unknown, 0),
            (4, version(2), 2),
            (5, version(2), 2),
            (6, Observation::Gone, 2),
            (7, version(3), 5),
            // A storage that was restored is one more change.
            (8, version(2), 7),
        ];
        for (poll, observation, other_seen) in table {
            assert_eq!(
                history.observe(poll, &secret, observation, None),
                Sighting { observation, other_seen },
                "poll {poll}"
            );
        }
        assert_eq!(history.last_seen(&secret).map(|version| version.number), Some(2));
        history.retain(|_| false);
        assert_eq!(history.observe(9, &secret, version(4), None).other_seen, 0);
    }

    #[test]
    fn an_older_version_is_believed_when_two_polls_in_a_row_have_seen_it() {
        let secret = secret();
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
            let not_before = Some(Timestamp::from_second(3).unwrap());
            assert_eq!(
                history.observe(poll, &secret, seen, not_before),
                Sighting { observation, other_seen },
                "poll {poll}"
            );
            assert_eq!(history.suspects(&secret), seen != observation || poll == 4, "poll {poll}");
        }
        history.retain(|_| false);
        assert!(!history.suspects(&secret));
    }
}
