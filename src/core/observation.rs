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
    pub fn observe(
        &mut self,
        poll: Poll,
        secret: &Arc<SecretId>,
        observation: Observation,
    ) -> Sighting {
        let Observation::Live(version) = observation else {
            let other_seen = self.secrets.get(secret).map_or(0, |seen| seen.other);
            return Sighting { observation, other_seen };
        };
        let seen = self.secrets.entry(Arc::clone(secret)).or_insert(Seen {
            version,
            last: poll,
            other: 0,
        });
        if seen.version != version {
            *seen = Seen { version, last: poll, other: seen.last };
        }
        seen.last = poll;
        Sighting { observation, other_seen: seen.other }
    }

    /// The version that was last seen live.
    #[must_use]
    pub fn last_seen(&self, secret: &SecretId) -> Option<Version> {
        self.secrets.get(secret).map(|seen| seen.version)
    }

    /// Forgets the secrets that nobody refers to any more.
    pub fn retain(&mut self, is_used: impl Fn(&Arc<SecretId>) -> bool) {
        self.secrets.retain(|secret, _| is_used(secret));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> Observation {
        let created = Timestamp::from_second(i64::try_from(number).unwrap()).unwrap();
        Observation::Live(Version { number, created })
    }

    #[test]
    fn the_last_poll_with_another_version_is_kept() {
        let secret = Arc::new(SecretId {
            connection: "default".into(),
            namespace: None,
            path: "secret/data/a".into(),
        });
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
                history.observe(poll, &secret, observation),
                Sighting { observation, other_seen },
                "poll {poll}"
            );
        }
        assert_eq!(history.last_seen(&secret).map(|version| version.number), Some(2));
        history.retain(|_| false);
        assert_eq!(history.observe(9, &secret, version(4)).other_seen, 0);
    }
}
