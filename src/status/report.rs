//! The answers of the API, from the index and the board.
//!
//! A report copies neither. It shares what the board knew at one moment, and takes from the index what
//! an answer is about.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::api;
use super::board::{Board, KnownSecrets, Polls, Standings};
use super::rotations::{SeenRotation, Tally};
use super::table::{RotationRow, Table, WorkloadRow, api_secret, api_version, by_name};
use super::words;
use crate::decide::clock::ServerClock;
use crate::decide::hold::Hold;
use crate::index::Index;
use crate::index::entries::IndexedWorkload;
use crate::index::findings::Finding;
use crate::model::kind::Kind;
use crate::model::progress::RolloutFailure;
use crate::model::secret::{SecretId, Version};
use crate::model::workload::{Workload, WorkloadId};
use crate::rollouts::injector::Injector;
use crate::rollouts::rollout::{Deadline, RolloutState, rollout_state};
use crate::rollouts::rotation::{
    KnownSecret, RotationState, Severity, User, UserState, rotation_of, severity, user_state,
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

/// What is known of all secrets and workloads at one moment.
#[derive(Debug)]
pub struct Report {
    sources: Sources,
    secrets: Arc<KnownSecrets>,
    standings: Arc<Standings>,
    polls: BTreeMap<Box<str>, Polls>,
    deadline: Deadline,
    /// The time of the report, by the controller's clock.
    pub now: Timestamp,
}

/// The number of things with the same labels, by the family of the metric.
pub type Census = BTreeMap<&'static str, Counts>;

/// Counts by their labels.
type Counts = BTreeMap<Vec<(&'static str, String)>, u64>;

/// A rotation, with the workloads that refer to the secret.
#[derive(Debug)]
pub struct SecretUsers {
    /// The rotation.
    pub row: RotationRow,
    /// The workloads, each with its state, in order of their names.
    pub users: Vec<(IndexedWorkload, UserState)>,
}

/// What one walk over all workloads finds for the follower of rotations.
#[derive(Debug)]
pub struct Look<'a> {
    /// The workloads whose rollout takes too long, each with the mark of its reload.
    pub overdue: Vec<(Box<str>, WorkloadId)>,
    /// The workloads of each secret, counted.
    pub tallies: HashMap<&'a Arc<SecretId>, Tally>,
}

impl Sources {
    /// Returns the present state.
    #[must_use]
    pub fn report(&self) -> Report {
        let state = self.board.state();
        let (secrets, standings) = (Arc::clone(&state.secrets), Arc::clone(&state.standings));
        let polls = state.polls.clone();
        drop(state);
        let now = (self.now)();
        let deadline = Deadline { now: self.clock.at(now), timeout: self.rollout_timeout };
        Report { sources: self.clone(), secrets, standings, polls, deadline, now }
    }

    /// Returns the secrets that workloads of a Kubernetes namespace refer to.
    #[must_use]
    pub fn secrets_of(&self, namespace: &str) -> HashSet<Arc<SecretId>> {
        self.index.secrets_of(namespace)
    }
}

impl Report {
    /// Returns the rows of all rotations and all workloads, with the overview.
    #[must_use]
    pub fn table(&self) -> Table {
        let all = self.sources.index.workloads();
        let most = self.secrets.len();
        let mut places: HashMap<&Arc<SecretId>, usize> = HashMap::with_capacity(most);
        let mut rotations: Vec<RotationRow> = Vec::with_capacity(most);
        let mut workloads = Vec::with_capacity(all.len());
        // A tenant can make millions of pairs, so nothing is kept of each pair.
        for stored in &all {
            let user = self.user(stored);
            let mut row = WorkloadRow::new(&stored.workload.id);
            for secret in stored.workload.watched() {
                let place = *places.entry(secret).or_insert_with(|| {
                    rotations.push(RotationRow::new(secret, self.known(secret)));
                    rotations.len() - 1
                });
                let Some(rotation) = rotations.get_mut(place) else { continue };
                let state = user_state(&user, secret, rotation.known());
                row.add(&state);
                rotation.add(&state);
            }
            workloads.push(row);
        }
        drop(places);
        rotations.shrink_to_fit();
        rotations.sort_unstable_by(|one, other| one.secret.cmp(&other.secret));
        workloads.sort_unstable_by(|one, other| by_name(one.id(), other.id()));
        Table { overview: self.overview(&rotations, &workloads), rotations, workloads }
    }

    fn overview(&self, rotations: &[RotationRow], workloads: &[WorkloadRow]) -> api::Overview {
        // States and kinds without an item are shown, too.
        let mut by_state = zeros(RotationState::ALL.map(RotationState::name));
        let mut by_server = zeros(self.sources.servers.iter().map(|server| &**server));
        let mut by_kind = zeros(Kind::ALL.map(Kind::name));
        let mut by_worst: BTreeMap<&str, u64> = BTreeMap::new();
        for row in rotations {
            *by_state.entry(row.state().name()).or_default() += 1;
            *by_server.entry(&*row.secret.connection).or_default() += 1;
        }
        for row in workloads {
            *by_kind.entry(row.id().kind.name()).or_default() += 1;
            *by_worst.entry(row.state()).or_default() += 1;
        }
        let server = |(name, secrets): (&str, u64)| {
            let polls = self.polls.get(name).copied().unwrap_or_default();
            api::Server {
                name: name.to_owned(),
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
            servers: by_server.into_iter().map(server).collect(),
            rotations: named(by_state),
            workloads: named(by_worst),
            workloads_by_kind: named(by_kind),
            findings: findings.into_iter().map(|(code, n)| (code.to_owned(), n)).collect(),
        }
    }

    /// Returns the number of workloads by kind, of secrets by server, of rotations by state, and of
    /// references by state and reason.
    #[must_use]
    pub fn census(&self) -> Census {
        // States, kinds and servers without an item are shown, too, so that an alert sees them.
        let mut by_state = zeros(RotationState::ALL.map(RotationState::name));
        let mut by_server = zeros(self.sources.servers.iter().map(|server| &**server));
        let mut by_kind = zeros(Kind::ALL.map(Kind::name));
        let all = self.sources.index.workloads();
        let mut references: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        let mut secrets: HashMap<&Arc<SecretId>, Severity> =
            HashMap::with_capacity(self.secrets.len());
        for stored in &all {
            *by_kind.entry(stored.workload.id.kind.name()).or_default() += 1;
            let user = self.user(stored);
            for secret in stored.workload.watched() {
                let state = user_state(&user, secret, &self.known(secret));
                let reason = words::code(&state).unwrap_or_default();
                *references.entry((words::name(&state), reason)).or_default() += 1;
                let worst = secrets.entry(secret).or_insert(Severity::Done);
                *worst = severity(&state).max(*worst);
            }
        }
        for (secret, worst) in secrets {
            let state = rotation_of(&self.known(secret), Some(worst));
            *by_server.entry(&*secret.connection).or_default() += 1;
            *by_state.entry(state.name()).or_default() += 1;
        }
        let reference = |((state, reason), count): ((&str, &str), u64)| {
            (vec![("state", state.to_owned()), ("reason", reason.to_owned())], count)
        };
        Census::from([
            ("rotations", labelled("state", by_state)),
            ("workloads_watched", labelled("kind", by_kind)),
            ("secrets_watched", labelled("server", by_server)),
            ("references", references.into_iter().map(reference).collect()),
        ])
    }

    /// Finds the workloads whose rollout takes too long, and counts the workloads of each secret. A
    /// tenant can make millions of pairs of a workload and a secret, so nothing is kept of each.
    #[must_use]
    pub fn look<'a>(&self, workloads: &'a [IndexedWorkload]) -> Look<'a> {
        let timed_out = RolloutState::Failed(RolloutFailure::TimedOut);
        let mut overdue = Vec::new();
        let mut tallies: HashMap<&Arc<SecretId>, Tally> =
            HashMap::with_capacity(self.secrets.len());
        for stored in workloads {
            let user = self.user(stored);
            if user.rollout == timed_out
                && let Some(mark) = &stored.workload.mark
            {
                overdue.push((mark.clone(), stored.workload.id.clone()));
            }
            for secret in stored.workload.watched() {
                let state = user_state(&user, secret, &self.known(secret));
                tallies.entry(secret).or_default().add(&state, &stored.workload);
            }
        }
        Look { overdue, tallies }
    }

    /// Returns the state of a rotation, by its counted workloads. A secret that no poll has read since
    /// a time, by the controller's clock, is unknown.
    #[must_use]
    pub fn seen_rotation(
        &self,
        secret: &Arc<SecretId>,
        tally: Tally,
        since: Timestamp,
    ) -> SeenRotation {
        let known = self.known(secret);
        let state = if known.read_at.is_some_and(|time| time >= since) {
            rotation_of(&known, tally.worst)
        } else {
            RotationState::Unknown
        };
        SeenRotation { secret: Arc::clone(secret), version: known.version, state, tally }
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
    ) -> Vec<SecretUsers> {
        let is_wanted = |secret: &SecretId| {
            *secret.path == *path
                && server.is_none_or(|server| *secret.connection == *server)
                && namespace.is_none_or(|name| secret.namespace.as_deref().unwrap_or("") == name)
        };
        let found = self.sources.index.users(is_wanted);
        found.into_iter().map(|(secret, users)| self.secret(&secret, users)).collect()
    }

    fn secret(&self, secret: &Arc<SecretId>, users: Vec<IndexedWorkload>) -> SecretUsers {
        let mut row = RotationRow::new(secret, self.known(secret));
        let with_state = |stored: IndexedWorkload| {
            let state = user_state(&self.user(&stored), secret, row.known());
            row.add(&state);
            (stored, state)
        };
        let mut users: Vec<_> = users.into_iter().map(with_state).collect();
        users
            .sort_unstable_by(|(one, _), (other, _)| by_name(&one.workload.id, &other.workload.id));
        SecretUsers { row, users }
    }

    /// Returns a workload that refers to the secret of a rotation as the API shows it.
    #[must_use]
    pub fn user_of_secret(
        &self,
        (stored, state): &(IndexedWorkload, UserState),
        rotation: &RotationRow,
    ) -> api::User {
        api::User {
            workload: stored.workload.id.to_string(),
            progress: self.progress(state, rotation.known().version, &stored.workload),
        }
    }

    /// Returns one workload. `None` if it is not watched and has no findings.
    #[must_use]
    pub fn workload(&self, id: &WorkloadId) -> Option<api::WorkloadStatus> {
        let index = &self.sources.index;
        let stored = index.get(id);
        let finding = |finding: Finding| api::Finding {
            reason: finding.reason.to_owned(),
            message: finding.message,
        };
        let findings: Vec<_> = index.findings().of(id).into_iter().map(finding).collect();
        if stored.is_none() && findings.is_empty() {
            return None;
        }
        let stored = stored.as_ref();
        let mut secrets: Vec<_> =
            stored.into_iter().flat_map(|stored| self.secrets_used_by(stored)).collect();
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

    fn secrets_used_by(&self, stored: &IndexedWorkload) -> Vec<api::UsedSecret> {
        let user = self.user(stored);
        let used = |secret: &Arc<SecretId>| {
            let known = self.known(secret);
            let state = user_state(&user, secret, &known);
            api::UsedSecret {
                secret: api_secret(secret),
                version: known.version.map(api_version),
                progress: self.progress(&state, known.version, &stored.workload),
            }
        };
        stored.workload.watched().map(used).collect()
    }

    fn known(&self, secret: &SecretId) -> KnownSecret {
        self.secrets.get(secret).copied().unwrap_or(KnownSecret::UNREAD)
    }

    /// Returns a workload with all that its states depend on.
    fn user<'a>(&'a self, stored: &'a IndexedWorkload) -> User<'a> {
        let IndexedWorkload { workload, template_first_poll, has_rolled_out } = stored;
        User {
            workload,
            template_first_poll: *template_first_poll,
            rollout: rollout_state(workload, *has_rolled_out, self.deadline),
            standing: self.standings.get(&workload.id),
        }
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
}

/// Returns a count of zero for each name.
fn zeros<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, u64> {
    names.into_iter().map(|name| (name, 0)).collect()
}

/// Returns counts as a metric with one label shows them.
fn labelled(label: &'static str, counts: BTreeMap<&str, u64>) -> Counts {
    counts.into_iter().map(|(name, count)| (vec![(label, name.to_owned())], count)).collect()
}

/// Returns counts as the API shows them.
fn named(counts: BTreeMap<&str, u64>) -> BTreeMap<String, u64> {
    counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}
