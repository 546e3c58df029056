//! The answers of the API, from the index and the board.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::api;
use super::board::{Board, Polls};
use super::rotations::{SeenRotation, Tally};
use super::table::{RotationRow, Table, WorkloadRow, api_secret, api_version};
use super::words;
use crate::decide::clock::ServerClock;
use crate::decide::hold::Hold;
use crate::index::Index;
use crate::index::entries::IndexedWorkload;
use crate::model::kind::Kind;
use crate::model::progress::RolloutFailure;
use crate::model::secret::{SecretId, Version};
use crate::model::workload::{Workload, WorkloadId};
use crate::rollouts::injector::Injector;
use crate::rollouts::rollout::{Deadline, RolloutState, rollout_state};
use crate::rollouts::rotation::{
    KnownSecret, RotationState, Standing, User, UserState, is_revocable, rotation_of,
    rotation_state, user_state,
};

/// What reports are made from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The workloads and their secrets.
    pub index: Arc<Index>,
    /// The last decisions.
    pub board: Arc<Board>,
    /// The clock of the API server.
    pub clock: Arc<ServerClock>,
    /// Returns the present by the controller's clock.
    pub now: fn() -> Timestamp,
    /// The injector, which knows why reloads wait for it.
    pub injector: Arc<Injector>,
    /// How long the rollout of a reload may take.
    pub rollout_timeout: Duration,
    /// The names of all Vault servers.
    pub servers: Arc<[Arc<str>]>,
    /// The name of this replica.
    pub replica: Arc<str>,
}

/// The state of all workloads and secrets at one moment.
#[derive(Debug)]
pub struct Report {
    sources: Sources,
    workloads: Vec<IndexedWorkload>,
    secrets: HashMap<Arc<SecretId>, KnownSecret>,
    standings: HashMap<WorkloadId, Standing>,
    polls: BTreeMap<Box<str>, Polls>,
    deadline: Deadline,
    /// The time of the report, by the controller's clock.
    pub now: Timestamp,
}

/// The number of things with the same labels, by the family of the metric.
pub type Census = BTreeMap<&'static str, BTreeMap<Vec<(&'static str, String)>, u64>>;

/// The workloads that refer to a secret, each with its state.
type Users<'a> = Vec<(&'a IndexedWorkload, UserState)>;

impl Sources {
    /// Returns the present state.
    #[must_use]
    pub fn report(&self) -> Report {
        let workloads = self.index.workloads();
        let state = self.board.state();
        let (secrets, standings) = (state.secrets.clone(), state.standings.clone());
        let polls = state.polls.clone();
        drop(state);
        let now = (self.now)();
        let deadline = Deadline { now: self.clock.at(now), timeout: self.rollout_timeout };
        Report { sources: self.clone(), workloads, secrets, standings, polls, deadline, now }
    }

    /// Returns the secrets that workloads of a Kubernetes namespace refer to.
    #[must_use]
    pub fn secrets_of(&self, namespace: &str) -> HashSet<Arc<SecretId>> {
        let workloads = self.index.workloads();
        let of_namespace =
            workloads.iter().filter(|stored| *stored.workload.id.namespace == *namespace);
        of_namespace.flat_map(|stored| stored.workload.watched().cloned()).collect()
    }
}

impl Report {
    /// Returns the rows of all rotations and all workloads, with the overview.
    #[must_use]
    pub fn table(&self) -> Table {
        let mut rotations: BTreeMap<&Arc<SecretId>, RotationRow> = BTreeMap::new();
        let mut workloads = Vec::with_capacity(self.workloads.len());
        // A tenant can make millions of pairs, so nothing is kept of each pair.
        for stored in &self.workloads {
            let mut row = WorkloadRow::new(&stored.workload.id);
            for secret in stored.workload.watched() {
                let state = self.user_state(stored, secret);
                let name = words::name(&state);
                row.add(name);
                let rotation = rotations
                    .entry(secret)
                    .or_insert_with(|| RotationRow::new(secret, self.known(secret)));
                rotation.add(&state, name);
            }
            workloads.push(row);
        }
        workloads.sort_unstable_by(|one, other| one.name().cmp(other.name()));
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for row in &workloads {
            *counts.entry(row.state().to_owned()).or_default() += 1;
        }
        let overview = self.overview(counts);
        Table { overview, rotations: rotations.into_values().collect(), workloads }
    }

    /// Returns the overview. `workloads` is the number of workloads by state.
    fn overview(&self, workloads: BTreeMap<String, u64>) -> api::Overview {
        let census = self.census();
        // Each of these families has one label.
        let counts = |family| -> BTreeMap<String, u64> {
            let counted = census.get(family).into_iter().flatten();
            let count = |(labels, count): (&Vec<(_, String)>, &u64)| {
                labels.first().map(|(_, name)| (name.clone(), *count))
            };
            counted.filter_map(count).collect()
        };
        let server = |(name, secrets): (String, u64)| {
            let polls = self.polls.get(&*name).copied().unwrap_or_default();
            api::Server {
                name,
                secrets,
                last_poll: polls.last,
                last_successful_poll: polls.last_answered,
            }
        };
        let findings = self.sources.index.findings().counts();
        api::Overview {
            now: self.now,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            leader: self.sources.replica.as_ref().to_owned(),
            servers: counts("secrets_watched").into_iter().map(server).collect(),
            rotations: counts("rotations"),
            workloads,
            workloads_by_kind: counts("workloads_watched"),
            findings: findings.into_iter().map(|(code, n)| (code.to_owned(), n)).collect(),
        }
    }

    /// Returns the number of workloads by kind, of secrets by server, of rotations by state, and of
    /// references by state and reason.
    #[must_use]
    pub fn census(&self) -> Census {
        let mut census = Census::new();
        let mut count = |family, labels: &[(&'static str, &str)], number| {
            let labels = labels.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
            *census.entry(family).or_default().entry(labels).or_default() += number;
        };
        // States without a rotation are shown, too, so that an alert sees them.
        for state in RotationState::ALL {
            count("rotations", &[("state", state.name())], 0);
        }
        for kind in Kind::ALL {
            count("workloads_watched", &[("kind", kind.name())], 0);
        }
        for server in &*self.sources.servers {
            count("secrets_watched", &[("server", server)], 0);
        }
        for stored in &self.workloads {
            count("workloads_watched", &[("kind", stored.workload.id.kind.name())], 1);
        }
        let mut references: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        let tallies = self.tallies(|state| {
            let reason = words::code(state).unwrap_or_default();
            *references.entry((words::name(state), reason)).or_default() += 1;
        });
        for ((state, reason), number) in references {
            count("references", &[("state", state), ("reason", reason)], number);
        }
        for (secret, tally) in tallies {
            let state = rotation_of(&self.known(secret), tally.worst);
            count("secrets_watched", &[("server", &secret.connection)], 1);
            count("rotations", &[("state", state.name())], 1);
        }
        census
    }

    /// Returns the workloads whose rollout takes too long, each with the mark of its reload.
    #[must_use]
    pub fn overdue(&self) -> Vec<(Box<str>, WorkloadId)> {
        let timed_out = RolloutState::Failed(RolloutFailure::TimedOut);
        let is_overdue = |stored: &&IndexedWorkload| {
            rollout_state(&stored.workload, stored.has_rolled_out, self.deadline) == timed_out
        };
        let named = |stored: &IndexedWorkload| {
            Some((stored.workload.mark.clone()?, stored.workload.id.clone()))
        };
        self.workloads.iter().filter(is_overdue).filter_map(named).collect()
    }

    /// Returns the state of each rotation. A secret that no poll has read since a time, by the
    /// controller's clock, is unknown.
    #[must_use]
    pub fn seen_rotations(&self, since: Timestamp) -> Vec<SeenRotation> {
        let seen = |(secret, tally): (&Arc<SecretId>, Tally)| {
            let known = self.known(secret);
            let state = if known.read_at.is_some_and(|time| time >= since) {
                rotation_of(&known, tally.worst)
            } else {
                RotationState::Unknown
            };
            SeenRotation { secret: Arc::clone(secret), version: known.version, state, tally }
        };
        self.tallies(|_| {}).into_iter().map(seen).collect()
    }

    /// Counts the workloads of each secret. Each pair of a workload and a secret goes to `pair`. A
    /// tenant can make millions of pairs, so nothing is kept of each.
    fn tallies(&self, mut pair: impl FnMut(&UserState)) -> HashMap<&Arc<SecretId>, Tally> {
        let mut tallies: HashMap<_, Tally> = HashMap::new();
        for stored in &self.workloads {
            for secret in stored.workload.watched() {
                let state = self.user_state(stored, secret);
                tallies.entry(secret).or_default().add(&state, &stored.workload);
                pair(&state);
            }
        }
        tallies
    }

    /// Returns the rotations whose secret has this path, each with all workloads that refer to the
    /// secret. With `server` and `namespace`, only of that server and Vault namespace; an empty
    /// namespace is the root namespace.
    #[must_use]
    pub fn secrets(
        &self,
        path: &str,
        server: Option<&str>,
        namespace: Option<&str>,
    ) -> Vec<(api::Rotation, Vec<api::User>)> {
        let is_wanted = |secret: &SecretId| {
            *secret.path == *path
                && server.is_none_or(|server| *secret.connection == *server)
                && namespace.is_none_or(|name| secret.namespace.as_deref().unwrap_or("") == name)
        };
        let mut found: BTreeMap<&Arc<SecretId>, Users<'_>> = BTreeMap::new();
        for stored in &self.workloads {
            for secret in stored.workload.watched().filter(|secret| is_wanted(secret)) {
                found.entry(secret).or_default().push((stored, self.user_state(stored, secret)));
            }
        }
        found.into_iter().map(|(secret, users)| self.secret(secret, users)).collect()
    }

    /// Returns one workload. `None` if it is not watched and has no findings.
    #[must_use]
    pub fn workload(&self, id: &WorkloadId) -> Option<api::WorkloadStatus> {
        let stored = self.workloads.iter().find(|stored| stored.workload.id == *id);
        let findings: Vec<_> = self
            .sources
            .index
            .findings()
            .of(id)
            .into_iter()
            .map(|finding| api::Finding {
                reason: finding.reason.to_owned(),
                message: finding.message,
            })
            .collect();
        if stored.is_none() && findings.is_empty() {
            return None;
        }
        let secret = |stored: &IndexedWorkload, secret: &Arc<SecretId>| {
            let version = self.known(secret).version;
            let state = self.user_state(stored, secret);
            api::UsedSecret {
                secret: api_secret(secret),
                version: version.map(api_version),
                progress: self.progress(&state, version, &stored.workload),
            }
        };
        let mut secrets: Vec<_> = stored
            .into_iter()
            .flat_map(|stored| stored.workload.watched().map(|used| secret(stored, used)))
            .collect();
        secrets.sort_by(|one, other| {
            let ranks = one.progress.rank().cmp(&other.progress.rank());
            ranks.then_with(|| one.secret.cmp(&other.secret))
        });
        let workload = stored.map(|stored| &stored.workload);
        let recorded = workload.and_then(|workload| workload.recorded.as_ref());
        Some(api::WorkloadStatus {
            workload: id.to_string(),
            reloads: workload.map_or(0, |workload| workload.count),
            last_reload: recorded.and_then(|recorded| recorded.at),
            secrets,
            findings,
        })
    }

    fn known(&self, secret: &SecretId) -> KnownSecret {
        self.secrets.get(secret).copied().unwrap_or(KnownSecret::UNREAD)
    }

    fn user_state(&self, stored: &IndexedWorkload, secret: &SecretId) -> UserState {
        let IndexedWorkload { workload, template_first_poll, has_rolled_out } = stored;
        let (template_first_poll, has_rolled_out) = (*template_first_poll, *has_rolled_out);
        let standing = self.standings.get(&workload.id);
        let user = User { workload, template_first_poll, has_rolled_out, standing };
        user_state(&user, secret, &self.known(secret), self.deadline)
    }

    /// Returns a state as the API shows it. The injector says what new pods lack at present.
    fn progress(
        &self,
        state: &UserState,
        version: Option<Version>,
        workload: &Workload,
    ) -> api::Progress {
        let mut progress = words::progress(state, version, workload);
        if let UserState::Held(Hold::InjectorAway | Hold::InjectorMissing) = state
            && let Some(lack) = self.sources.injector.advice(&workload.id.namespace)
        {
            progress.message = words::held_by_injector(&lack);
        }
        progress
    }

    fn state_of(&self, secret: &SecretId, users: &Users<'_>) -> RotationState {
        rotation_state(&self.known(secret), users.iter().map(|(_, state)| state))
    }

    fn rotation(
        &self,
        secret: &SecretId,
        state: RotationState,
        users: &Users<'_>,
    ) -> api::Rotation {
        let mut workloads: BTreeMap<String, u64> = BTreeMap::new();
        for (_, state) in users {
            *workloads.entry(words::name(state).to_owned()).or_default() += 1;
        }
        let known = self.known(secret);
        api::Rotation {
            secret: api_secret(secret),
            version: known.version.map(api_version),
            read_at: known.read_at,
            state: state.name().to_owned(),
            revocable: is_revocable(state, users.iter().map(|(_, state)| state)),
            workloads,
        }
    }

    fn secret(&self, secret: &SecretId, users: Users<'_>) -> (api::Rotation, Vec<api::User>) {
        let rotation = self.rotation(secret, self.state_of(secret, &users), &users);
        let version = self.known(secret).version;
        let user = |(stored, state): (&IndexedWorkload, UserState)| api::User {
            workload: stored.workload.id.to_string(),
            progress: self.progress(&state, version, &stored.workload),
        };
        let mut users: Vec<_> = users.into_iter().map(user).collect();
        users.sort_by_cached_key(api::User::key);
        (rotation, users)
    }
}
