//! What is news: a hold ends only if it was told, and a version is complete only once.

use std::collections::{HashMap, HashSet};

use crate::events::event::Event;
use crate::model::secret::{SecretId, Version};
use crate::model::workload::WorkloadId;
use crate::rollouts::rotation::RotationState;

/// The most held workloads that are remembered. The end of the holds of others is not told.
const MOST_HELD: usize = 10_000;

/// The most rotations that are remembered, 3 MB. They are forgotten when there are more, and the end
/// of a rotation can then be told twice.
const MOST_ROTATIONS: usize = 50_000;

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    held: HashSet<WorkloadId>,
    /// The version of each secret whose rotation was complete, by [`SecretId::hash64`].
    complete: HashMap<u64, Version>,
}

impl Told {
    /// Whether an event with a message is news. Takes the event in.
    pub(super) fn is_news(&mut self, event: &Event<'_>) -> bool {
        match *event {
            Event::RotationChanged { secret, version, from, to, took, .. } => {
                let is_first = took.is_some();
                version.is_some_and(|version| self.is_news_of(secret, version, from, to, is_first))
            }
            Event::Held { workload, .. } => {
                if self.held.len() < MOST_HELD {
                    self.held.insert(workload.clone());
                }
                true
            }
            Event::Released { workload } => self.held.remove(workload),
            _ => true,
        }
    }

    /// Forgets the hold of a workload that was reloaded or removed.
    pub(super) fn forget(&mut self, workload: &WorkloadId) {
        self.held.remove(workload);
    }

    /// Whether a state of a rotation is news. After a restart, all rotations of the past are
    /// complete at first, which is no news. Once a version was complete, later rollouts of its
    /// workloads are rollouts of others, such as a deployment of the tenant. `is_first` tells whether
    /// the rotation was not complete for this version before, also before the last restart.
    fn is_news_of(
        &mut self,
        secret: &SecretId,
        version: Version,
        from: Option<RotationState>,
        to: RotationState,
        is_first: bool,
    ) -> bool {
        let key = secret.hash64();
        let was_complete = self.complete.get(&key) == Some(&version);
        match to {
            RotationState::Complete => {
                if self.complete.len() >= MOST_ROTATIONS {
                    self.complete.clear();
                }
                self.complete.insert(key, version);
                let was_open = matches!(
                    from,
                    Some(RotationState::Running | RotationState::Stopped | RotationState::Held)
                );
                was_open && is_first && !was_complete
            }
            RotationState::Stopped | RotationState::Held => !was_complete,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::decide::hold::Hold;
    use crate::events::event::Held;
    use crate::model::fixtures::{secret, version, workload};

    #[test]
    fn the_end_of_a_rotation_is_news_once_and_never_after_a_restart() {
        use RotationState::{Complete, Held, Missing, Running, Stopped, Unknown};
        let users = BTreeMap::new();
        let mut told = Told::default();
        let mut is_news = |number: u64, from: Option<RotationState>, to, took| {
            let (version, secret) = (Some(version(number, 1)), secret("a"));
            let secret = &*secret;
            let users = &users;
            told.is_news(&Event::RotationChanged { secret, version, from, to, took, users })
        };
        let took = Some(Duration::from_secs(90));
        let table = [
            (1, None, Complete, false),
            (1, Some(Complete), Running, false),
            // A tenant deployed something.
            (1, Some(Running), Stopped, false),
            (1, Some(Stopped), Complete, false),
            (2, Some(Complete), Running, false),
            (2, Some(Running), Stopped, true),
            (2, Some(Stopped), Running, false),
            (2, Some(Running), Held, true),
            (2, Some(Held), Complete, true),
            (2, Some(Complete), Unknown, false),
            (2, Some(Unknown), Complete, false),
            (2, Some(Complete), Missing, false),
            (3, None, Unknown, false),
            (3, Some(Unknown), Complete, false),
            (4, None, Stopped, true),
            (4, None, Held, true),
        ];
        for (number, from, to, expected) in table {
            assert_eq!(is_news(number, from, to, took), expected, "{number} {from:?} {to:?}");
        }
        // The version was complete before the restart, and a reload was taken back since.
        assert!(!is_news(5, Some(Stopped), Complete, None));
    }

    #[test]
    fn only_a_hold_that_was_told_is_released() {
        let web = workload("web", &["a"]).id;
        let mut told = Told::default();
        let released = Event::Released { workload: &web };
        assert!(!told.is_news(&released));
        let hold = Held::For(Hold::SecretGone);
        assert!(told.is_news(&Event::Held { workload: &web, hold, changed: &[], gone: &[] }));
        assert!(told.is_news(&released));
        assert!(!told.is_news(&released));
        assert!(told.is_news(&Event::Held { workload: &web, hold, changed: &[], gone: &[] }));
        told.forget(&web);
        assert!(!told.is_news(&released));
    }
}
