//! What a round of polls has seen: a poll of everything, and those that finish what it could not.
//!
//! A poll that is cut short must not make its successors ask again for what was answered, nor forget
//! that a secret was gone, nor reload a workload once for each of its secrets.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::decide::observation::{Observation, ObservedVersion, ReadRequest};
use crate::engine::poll_scope::PollScope;
use crate::index::entries::IndexedWorkload;
use crate::model::secret::SecretId;
use crate::model::workload::WorkloadId;

/// What was seen longer ago than this is asked for again before a workload is reloaded for it: two of the
/// longest polls, so that whoever has more secrets than one of them can ask for gets its turn.
const FRESH: Duration = Duration::from_mins(2);

/// What is known of secrets since the round began.
#[derive(Default)]
pub(super) struct PollRound {
    seen: HashMap<Arc<SecretId>, (ObservedVersion, Instant)>,
    /// What the rounds before have seen to be gone, which counts for a secret that is late.
    before: HashMap<Arc<SecretId>, (ObservedVersion, Instant)>,
    /// The secrets that there was no time to ask for so far.
    late: HashSet<Arc<SecretId>>,
    /// The workloads that wait for those.
    waiting: HashSet<WorkloadId>,
    /// Those that have waited in the round before, and wait no more.
    overdue: HashSet<WorkloadId>,
}

impl PollRound {
    /// The round that follows.
    pub(super) fn next(self) -> Self {
        let Self { seen, mut before, waiting, .. } = self;
        // A version that was live then need not be the latest that anybody has recorded since. It is left out
        // before the map grows, since maps keep their size.
        before.retain(|secret, _| !seen.contains_key(secret));
        let is_gone = |observed: &ObservedVersion| observed.observation == Observation::Gone;
        before.extend(seen.into_iter().filter(|(_, (observed, _))| is_gone(observed)));
        Self { before, overdue: waiting, ..Self::default() }
    }

    /// Forgets secrets that are not used any more.
    pub(super) fn retain(&mut self, is_used: impl Fn(&SecretId) -> bool) {
        self.seen.retain(|secret, _| is_used(secret));
        self.before.retain(|secret, _| is_used(secret));
    }

    /// Leaves of what could be asked for about some workloads what is to be asked for.
    pub(super) fn narrow(
        &self,
        asks: &mut Vec<ReadRequest>,
        scope: &PollScope,
        workloads: &[IndexedWorkload],
    ) {
        let PollScope::Remaining { workloads: retried, secrets } = scope else { return };
        let retried = workloads.iter().filter(|stored| retried.contains(&stored.workload.id));
        let retried: HashSet<_> = retried.flat_map(|stored| stored.workload.watched()).collect();
        asks.retain(|ask| {
            let ReadRequest { secret, .. } = ask;
            !self.seen.contains_key(secret) || secrets.contains(secret) || retried.contains(secret)
        });
    }

    /// Takes in what was seen of a secret.
    pub(super) fn take_in(&mut self, secret: &Arc<SecretId>, observed: ObservedVersion) {
        self.late.remove(secret);
        if observed.observation == Observation::Unknown {
            self.forget(secret);
        } else {
            self.seen.insert(Arc::clone(secret), (observed, Instant::now()));
        }
    }

    /// Takes in that there was no time to ask for a secret.
    pub(super) fn is_late(&mut self, secret: &Arc<SecretId>) {
        // Was it seen, it is asked for again since that is in doubt.
        self.forget(secret);
        if !self.seen.contains_key(secret) {
            self.late.insert(Arc::clone(secret));
        }
    }

    /// Forgets what was seen of a secret, unless it was gone.
    pub(super) fn forget(&mut self, secret: &SecretId) {
        if self.seen.get(secret).is_some_and(|(it, _)| it.observation != Observation::Gone) {
            self.seen.remove(secret);
        }
    }

    /// What was seen of a secret, and when.
    fn known(&self, secret: &SecretId) -> Option<(ObservedVersion, Instant)> {
        let before = || self.before.get(secret).filter(|_| self.late.contains(secret));
        self.seen.get(secret).or_else(before).copied()
    }

    /// Whether it can be decided about a workload: all its secrets had their turn, or it has waited for
    /// that long enough. Whoever waits in each round is decided about in each but the first.
    pub(super) fn is_complete(&mut self, stored: &IndexedWorkload) -> bool {
        let workload = &stored.workload;
        if workload.watched().any(|secret| self.late.contains(secret)) {
            self.waiting.insert(workload.id.clone());
            return self.overdue.contains(&workload.id);
        }
        self.waiting.remove(&workload.id);
        true
    }

    /// Those of a workload's secrets that were seen too long ago.
    pub(super) fn seen_long_ago<'s>(
        &'s self,
        stored: &'s IndexedWorkload,
    ) -> impl Iterator<Item = &'s Arc<SecretId>> {
        let now = Instant::now();
        let is_old = move |at| now.saturating_duration_since(at) > FRESH;
        let secrets = stored.workload.watched();
        secrets.filter(move |secret| self.known(secret).is_some_and(|(_, at)| is_old(at)))
    }

    /// What is known of the secrets of some workloads, whenever it was seen.
    pub(super) fn observed_versions(
        &self,
        workloads: &[IndexedWorkload],
    ) -> HashMap<Arc<SecretId>, ObservedVersion> {
        let secrets = workloads.iter().flat_map(|stored| stored.workload.watched());
        let known = |secret: &Arc<SecretId>| Some((Arc::clone(secret), self.known(secret)?.0));
        secrets.filter_map(known).collect()
    }
}

/// What was seen of a secret in this round.
pub(super) fn seen(
    observed_versions: &HashMap<Arc<SecretId>, ObservedVersion>,
) -> impl Fn(&Arc<SecretId>) -> ObservedVersion + '_ {
    |secret| observed_versions.get(secret).copied().unwrap_or(ObservedVersion::UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::{secret, version};

    #[tokio::test]
    async fn what_was_gone_counts_for_a_late_secret_until_it_was_seen_live() {
        let a = secret("a");
        let gone = ObservedVersion::of(Observation::Gone);
        let live = ObservedVersion::of(Observation::Live(version(1, 1)));
        let known_if_late = |round: &mut PollRound| {
            round.is_late(&a);
            round.known(&a).map(|(observed, _)| observed)
        };
        let mut round = PollRound::default();
        round.take_in(&a, gone);
        round = round.next();
        assert_eq!(known_if_late(&mut round), Some(gone));
        // It is late once more.
        round = round.next();
        assert_eq!(known_if_late(&mut round), Some(gone));
        round.take_in(&a, live);
        round = round.next();
        assert_eq!(known_if_late(&mut round), None);
        assert_eq!(round.before.len(), 0);
    }

    #[tokio::test]
    async fn live_secrets_take_no_room_in_the_round_that_follows() {
        let mut round = PollRound::default();
        for number in 0..1000 {
            let live = ObservedVersion::of(Observation::Live(version(1, 1)));
            round.take_in(&secret(&number.to_string()), live);
        }
        round.take_in(&secret("gone"), ObservedVersion::of(Observation::Gone));
        let round = round.next();
        assert_eq!(round.before.len(), 1);
        assert!(round.before.capacity() < 10, "{}", round.before.capacity());
    }
}
