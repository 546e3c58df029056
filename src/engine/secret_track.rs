//! What the engine knows of each secret: one track per secret.
//!
//! A round is a full poll with the polls that finish it. After a poll that is cut short, the next
//! polls must not request answered secrets again, and a missing secret must stay known. A workload
//! must not be reloaded once for each of its secrets.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::decide::observation::{
    Observation, ObservedVersion, PollTimes, ReadRequest, SecretHistory,
};
use crate::engine::poll_scope::PollScope;
use crate::index::entries::IndexedWorkload;
use crate::model::poll::PollNumber;
use crate::model::reload_policy::ReloadPolicy;
use crate::model::secret::{SecretId, Version};

/// An observation older than this is repeated before it reloads a workload. The time is that of two
/// of the longest polls, so a server with more secrets than one poll can read still makes progress.
const FRESH: Duration = Duration::from_mins(2);

/// All that the engine knows of one secret.
#[derive(Debug, Default)]
struct SecretTrack {
    /// The observations of this process since its start.
    history: SecretHistory,
    /// The observation of this round, with its time.
    observed: Option<(ObservedVersion, Instant)>,
    /// The observation of the last round that observed the secret, if the secret was gone. It
    /// counts while the secret is late. Few secrets are gone, so the observation is boxed.
    gone_before: Option<Box<(ObservedVersion, Instant)>>,
    /// Whether this round had no time yet to read the secret.
    is_late: bool,
    /// What the owner of the secret said when the secret was last seen live.
    policy: ReloadPolicy,
}

impl SecretTrack {
    /// Forgets the observation of this round, unless the secret was gone.
    fn forget(&mut self) {
        self.observed.take_if(|(observed, _)| observed.observation != Observation::Gone);
    }

    fn known(&self) -> Option<(ObservedVersion, Instant)> {
        self.observed.or_else(|| self.gone_before.as_deref().copied().filter(|_| self.is_late))
    }

    fn next_round(&mut self) {
        if let Some(observed) = self.observed.take() {
            // Only a missing secret is kept: a version that was live may be older than what a
            // record holds by now.
            let is_gone = observed.0.observation == Observation::Gone;
            self.gone_before = is_gone.then(|| Box::new(observed));
        }
        self.is_late = false;
    }
}

/// The tracks of all secrets of one server.
#[derive(Debug, Default)]
pub(super) struct SecretTracks {
    /// A map that grows holds both its old and its new places for a moment, and half of the new ones
    /// are empty. So the tracks are boxed.
    tracks: HashMap<Arc<SecretId>, Box<SecretTrack>>,
    times: PollTimes,
}

impl SecretTracks {
    /// Resumes polling after a pause, during which other versions may have been live.
    pub(super) fn resume(&mut self) {
        self.times.resume();
        for track in self.tracks.values_mut() {
            track.history.resume();
        }
    }

    /// Begins a poll. `now` is the time since the start of the engine.
    pub(super) fn begin(&mut self, poll: PollNumber, now: Duration) {
        self.times.begin(poll, now);
    }

    /// Begins the next round.
    pub(super) fn next_round(&mut self) {
        for track in self.tracks.values_mut() {
            track.next_round();
        }
    }

    /// Lets the owner of a secret say something.
    #[cfg(test)]
    pub(super) fn set_policy(&mut self, secret: &Arc<SecretId>, policy: ReloadPolicy) {
        self.tracks.entry(Arc::clone(secret)).or_default().policy = policy;
    }

    /// Forgets the secrets without a reference.
    pub(super) fn retain(&mut self, is_used: impl Fn(&SecretId) -> bool) {
        self.tracks.retain(|secret, _| is_used(secret));
    }

    /// Returns the version of a secret that was last seen live.
    pub(super) fn last_seen(&self, secret: &SecretId) -> Option<Version> {
        self.tracks.get(secret)?.history.last_seen()
    }

    /// Returns what is known of a secret at present.
    pub(super) fn observation(&self, secret: &SecretId) -> Observation {
        self.known(secret).map_or(Observation::Unknown, |(observed, _)| observed.observation)
    }

    /// Removes the requests for secrets that this round has observed, if the poll finishes a round.
    /// Secrets and workloads to retry keep their requests.
    pub(super) fn narrow(
        &self,
        requests: &mut Vec<ReadRequest>,
        scope: &PollScope,
        workloads: &[IndexedWorkload],
    ) {
        let PollScope::Remaining { workloads: retried, secrets, .. } = scope else { return };
        // The other workloads wait for room, and need no answer before there is some.
        let (mut all, mut unobserved) = (HashSet::new(), HashSet::new());
        for IndexedWorkload { workload, .. } in workloads {
            if retried.contains(&workload.id) {
                all.extend(workload.watched());
            } else if workload.watched().any(|secret| secrets.contains(secret)) {
                unobserved.extend(workload.watched());
            }
        }
        requests.retain(|request| {
            let secret = &request.secret;
            let is_observed = self.tracks.get(secret).is_some_and(|track| track.observed.is_some());
            secrets.contains(secret)
                || all.contains(secret)
                || (!is_observed && unobserved.contains(secret))
        });
    }

    /// Takes in the observation of a secret. Returns whether its version is older than the known
    /// version, and must be seen for longer.
    pub(super) fn take_in(
        &mut self,
        poll: PollNumber,
        request: &ReadRequest,
        observation: Observation,
        policy: ReloadPolicy,
    ) -> bool {
        let track = self.tracks.entry(Arc::clone(&request.secret)).or_default();
        match observation {
            Observation::Live(_) => track.policy = policy,
            Observation::Gone => track.policy = ReloadPolicy::NONE,
            Observation::Unknown => {}
        }
        let observed = ObservedVersion {
            policy: track.policy,
            ..track.history.observe(&self.times, poll, request, observation)
        };
        track.is_late = false;
        if observed.observation == Observation::Unknown {
            track.forget();
        } else {
            track.observed = Some((observed, Instant::now()));
        }
        track.history.is_suspect()
    }

    /// Takes in that the poll had no time to read a secret.
    pub(super) fn is_late(&mut self, secret: &Arc<SecretId>) {
        let track = self.tracks.entry(Arc::clone(secret)).or_default();
        // The secret was to be read again, so its observation of this round is in doubt.
        track.forget();
        track.is_late |= track.observed.is_none();
    }

    /// Takes in that the request for a secret had no result.
    pub(super) fn forget(&mut self, secret: &SecretId) {
        if let Some(track) = self.tracks.get_mut(secret) {
            track.forget();
        }
    }

    /// Whether this round had no time yet to read one of a workload's secrets.
    pub(super) fn has_late(&self, stored: &IndexedWorkload) -> bool {
        let is_late = |secret: &Arc<SecretId>| self.tracks.get(secret).is_some_and(|t| t.is_late);
        stored.workload.watched().any(is_late)
    }

    /// Returns the secrets of a workload that were observed too long ago.
    pub(super) fn seen_long_ago<'s>(
        &'s self,
        stored: &'s IndexedWorkload,
    ) -> impl Iterator<Item = &'s Arc<SecretId>> {
        self.seen_before(stored, FRESH)
    }

    /// Returns the secrets of a workload that were observed longer ago than this.
    pub(super) fn seen_before<'s>(
        &'s self,
        stored: &'s IndexedWorkload,
        age: Duration,
    ) -> impl Iterator<Item = &'s Arc<SecretId>> {
        let now = Instant::now();
        let is_old = move |at| now.saturating_duration_since(at) > age;
        let secrets = stored.workload.watched();
        secrets.filter(move |secret| self.known(secret).is_some_and(|(_, at)| is_old(at)))
    }

    /// Returns what is known of the secrets of workloads, however old the observations are. What the
    /// owner of a secret said counts on while the secret cannot be read.
    pub(super) fn observed_versions(
        &self,
        workloads: &[IndexedWorkload],
    ) -> HashMap<Arc<SecretId>, ObservedVersion> {
        let secrets = workloads.iter().flat_map(|stored| stored.workload.watched());
        let mut versions = HashMap::with_capacity(self.tracks.len().min(workloads.len()));
        for secret in secrets {
            if let Some(track) = self.tracks.get(secret) {
                versions.entry(Arc::clone(secret)).or_insert_with(|| {
                    let unknown =
                        ObservedVersion { policy: track.policy, ..ObservedVersion::UNKNOWN };
                    track.known().map_or(unknown, |(observed, _)| observed)
                });
            }
        }
        versions
    }

    fn known(&self, secret: &SecretId) -> Option<(ObservedVersion, Instant)> {
        self.tracks.get(secret)?.known()
    }
}

/// Returns a function that looks up the observed version of a secret.
pub(super) fn seen(
    observed_versions: &HashMap<Arc<SecretId>, ObservedVersion>,
) -> impl Fn(&Arc<SecretId>) -> ObservedVersion + '_ {
    |secret| observed_versions.get(secret).copied().unwrap_or(ObservedVersion::UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::{secret, version};

    fn take_in(tracks: &mut SecretTracks, secret: &Arc<SecretId>, observation: Observation) {
        let secret = Arc::clone(secret);
        let request = ReadRequest { secret, not_before: None, may_be_missing: false };
        tracks.take_in(1, &request, observation, ReloadPolicy::NONE);
    }

    #[tokio::test]
    async fn what_was_gone_counts_for_a_late_secret_until_it_was_seen_live() {
        let a = secret("a");
        let known_if_late = |tracks: &mut SecretTracks| {
            tracks.is_late(&a);
            tracks.known(&a).map(|(observed, _)| observed.observation)
        };
        let mut tracks = SecretTracks::default();
        take_in(&mut tracks, &a, Observation::Gone);
        tracks.next_round();
        assert_eq!(known_if_late(&mut tracks), Some(Observation::Gone));
        // The secret is late again.
        tracks.next_round();
        assert_eq!(tracks.known(&a), None, "it need not be late");
        assert_eq!(known_if_late(&mut tracks), Some(Observation::Gone));
        take_in(&mut tracks, &a, Observation::Live(version(1, 1)));
        tracks.next_round();
        assert_eq!(known_if_late(&mut tracks), None);
    }

    #[test]
    fn a_track_is_small() {
        // There is one track for each of tens of thousands of secrets.
        assert!(size_of::<SecretTrack>() <= 256, "{}", size_of::<SecretTrack>());
    }
}
