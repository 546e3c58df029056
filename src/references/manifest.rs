//! Turns a decoded object of the API server into a workload.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::model::annotation::{Annotations, MARK, OptIn, Webhook};
use crate::model::kind::Kind;
use crate::model::progress::{Progress, RolloutStatus};
use crate::model::record::{Record, RecordError, Recorded};
use crate::model::scheme::Scheme;
use crate::model::secret::SecretId;
use crate::model::strategy::Rollout;
use crate::model::text::parse_bool;
use crate::model::time_rules::TimeRules;
use crate::model::workload::{MOST_SECRETS, Workload, WorkloadId};
use crate::references::environment::{Container, EnvValue, SourceName};
use crate::references::extraction;
use crate::references::grammar::Reading;
use crate::references::place::{Note, Origin};
use crate::references::reason::Reason;
use crate::references::servers::{Servers, VaultServer};
use crate::references::settings::{self, Destination, Setting};
use crate::references::source::SourceState;
use crate::references::time_rules;

/// The decoded fields of a Deployment, DaemonSet or StatefulSet. All other fields are dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.resourceVersion`
    pub resource_version: String,
    /// `metadata.generation`
    pub generation: u64,
    /// `metadata.creationTimestamp`
    pub created: Timestamp,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// Kind and name of the controller among `metadata.ownerReferences`, as `Kind/name`.
    pub owner: Option<String>,
    /// Derived from `spec.paused` and `spec.updateStrategy`.
    pub rollout: Rollout,
    /// The record among `metadata.annotations`.
    pub record: Option<String>,
    /// Whether the annotations of the workload forbid reloads: [`crate::model::annotation::DRY_RUN`].
    pub dry_run: bool,
    /// [`crate::model::annotation::RELOAD_ORDER`] of the workload. Any text but a number counts as 0.
    pub reload_order: i16,
    /// [`crate::model::annotation::CONTINUE_AFTER_FAILURE`] of the workload.
    pub continue_after: Option<u64>,
    /// Whether `spec.strategy` of a Deployment replaces all pods at once.
    pub recreates: bool,
    /// The time rules among `metadata.annotations`.
    pub time_rules: Option<Box<TimeRules>>,
    /// `status.observedGeneration`
    pub observed_generation: u64,
    /// The fields that tell how far the rollout of the template is.
    pub status: RolloutStatus,
    /// `status.updateRevision`, of a StatefulSet.
    pub update_revision: Option<String>,
    /// A digest of `spec.template`.
    pub template: u64,
    /// The annotations of the template that the controller reads.
    pub annotations: Annotations,
    /// The containers of all lists, as far as their environment may hold references.
    pub containers: Vec<Container>,
}

/// The meaning of a manifest for the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The name of the workload.
    pub id: WorkloadId,
    /// The workload, if it opted in. The workload may have no secrets. It is `None` if it has no
    /// secrets and a source or key is missing.
    pub workload: Option<Workload>,
    /// References that are not watched or look odd. Empty if the workload did not opt in.
    pub notes: Vec<Note>,
    /// Whether sources of the workload are not known yet. The other fields may be incomplete then.
    pub is_waiting: bool,
    /// Why the record could not be read, if there is one.
    pub record_error: Option<RecordError>,
}

/// The target of the references of a scheme.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// The server.
    pub server: &'a VaultServer,
    /// The Vault namespace.
    pub namespace: Option<Arc<str>>,
}

impl Target<'_> {
    /// Returns the secret at a path.
    #[must_use]
    pub fn secret(&self, path: &str) -> SecretId {
        let (connection, namespace) = (Arc::clone(&self.server.name), self.namespace.clone());
        SecretId { connection, namespace, path: path.into() }
    }
}

/// A path, with the injector that reads it and the destination of that injector.
type Path<'a> = (Scheme, Destination<'a>, String);

/// The targets of references, all on one server.
#[derive(Clone, Debug, Default)]
pub struct Targets<'a> {
    /// The targets by scheme and by the settings of containers. References without a target are not
    /// watched.
    pub known: BTreeMap<(Scheme, Destination<'a>), Target<'a>>,
    /// Why a target is missing, or what looks odd about one.
    pub notes: Vec<Note>,
}

impl Manifest {
    /// Returns the name of the workload within the cluster.
    #[must_use]
    pub fn id(&self, kind: Kind) -> WorkloadId {
        let (namespace, name) = (self.namespace.as_str().into(), self.name.as_str().into());
        WorkloadId { kind, namespace, name }
    }

    /// Returns the length of the texts that tenants wrote, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let record = self.record.as_ref().map_or(0, String::len);
        let time_rules = self.time_rules.as_deref().map_or(0, TimeRules::weight);
        let containers: usize = self.containers.iter().map(Container::weight).sum();
        record + time_rules + self.annotations.weight() + containers
    }

    /// Returns the sources that the workload names and that are read. Empty if the workload did not
    /// opt in.
    #[must_use]
    pub fn sources(&self) -> BTreeSet<&SourceName> {
        let containers: &[Container] =
            if self.annotations.opt_in().is_some() { &self.containers } else { &[] };
        extraction::sources_of(&self.annotations, containers).0
    }

    /// Reads a manifest. `servers` are the servers that it may mean. `look_up` returns the state of
    /// a source in a namespace.
    #[must_use]
    pub fn read(
        &self,
        kind: Kind,
        servers: &Servers,
        look_up: impl Fn(&Arc<str>, &SourceName) -> SourceState,
    ) -> Read {
        let id = self.id(kind);
        let Some(opt_in) = self.annotations.opt_in() else {
            let notes = Vec::new();
            return Read { id, workload: None, notes, is_waiting: false, record_error: None };
        };
        let look_up = |named: &SourceName| look_up(&id.namespace, named);
        let mut found = extraction::extract(&self.annotations, &self.containers, look_up);
        let in_use: BTreeSet<_> =
            found.paths.iter().map(|(scheme, to, _)| (*scheme, *to)).collect();
        let Targets { known, notes } = self.targets(&in_use, servers);
        found.notes.extend(notes);
        found.notes.extend(self.time_rules.as_deref().into_iter().flat_map(time_rules::notes));
        // Both schemes, and several containers, may refer to the same secret.
        let (mut secrets, mut refused) = (BTreeSet::new(), BTreeSet::new());
        for path in found.paths {
            let Some(target) = known.get(&(path.0, path.1)) else { continue };
            let secret = target.secret(&path.2);
            // A refused secret never enters the index, so nothing ever asks for it.
            if servers.path_rules().allow(&id.namespace, &secret) {
                secrets.insert(Arc::new(secret));
            } else {
                refused.insert(path);
            }
        }
        if !refused.is_empty() {
            self.note_refused(&refused, look_up, &mut found.notes);
        }
        if let Some(first_beyond) = secrets.iter().nth(MOST_SECRETS).cloned() {
            secrets.split_off(&first_beyond);
            found.notes.push(Note { origin: Origin::Workload, reason: Reason::TooManySecrets });
        }
        let secrets: Box<[_]> = secrets.into_iter().collect();
        let mark = self.annotations.get(MARK);
        let (mut recorded, record_error) = match self.record.as_deref().map(Record::parse) {
            None => (None, None),
            Some(Ok(record)) => (record.of(&self.uid, mark), None),
            Some(Err(error)) => (None, Some(error)),
        };
        if let Some(recorded) = &mut recorded {
            // Anybody who may edit a workload can write tens of thousands of entries. This
            // controller does not. Entries without a reference may belong to former secrets.
            if recorded.versions.len() > MOST_SECRETS {
                recorded.versions.retain(secrets.iter().map(|secret| secret.hash64()));
            }
        }
        let schemes: BTreeSet<Scheme> = in_use.iter().map(|(scheme, _)| *scheme).collect();
        // If a source is missing, a reload would make pods that do not start.
        let is_missing =
            |note: &Note| matches!(note.reason, Reason::SourceMissing | Reason::KeyMissing);
        let workload = (!secrets.is_empty() || !found.notes.iter().any(is_missing))
            .then(|| self.workload(&id, opt_in, &schemes, recorded, secrets));
        Read { id, workload, notes: found.notes, is_waiting: found.is_waiting, record_error }
    }

    /// Notes for each reference to a refused path that it is refused, and nothing else.
    fn note_refused(
        &self,
        refused: &BTreeSet<Path>,
        look_up: impl Fn(&SourceName) -> SourceState,
        notes: &mut Vec<Note>,
    ) {
        let (mut said, mut odd_refused, mut odd_allowed) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        extraction::each(&self.annotations, &self.containers, look_up, |place, to, reading| {
            let (scheme, path, odd) = match reading {
                Reading::Watch(scheme, path) => (scheme, path, None),
                Reading::WatchOdd(scheme, path, odd) => (scheme, path, Some(odd)),
                Reading::Skip(_) => return,
            };
            let origin = Origin::from(place);
            let is_refused = refused.contains(&(scheme, to.of(scheme), path));
            let odd = odd.map(|reason| Note { origin: origin.clone(), reason });
            (if is_refused { &mut odd_refused } else { &mut odd_allowed }).extend(odd);
            if is_refused {
                said.insert(Note { origin, reason: Reason::PathRefused });
            }
        });
        // Notes about oddities say how a reference is watched, so they are dropped for refused
        // references.
        notes.retain(|note| !odd_refused.contains(note) || odd_allowed.contains(note));
        notes.extend(said);
    }

    fn workload(
        &self,
        id: &WorkloadId,
        opt_in: OptIn,
        schemes: &BTreeSet<Scheme>,
        recorded: Option<Recorded>,
        secrets: Box<[Arc<SecretId>]>,
    ) -> Workload {
        let count = self.annotations.get(opt_in.count_key()).and_then(|count| count.parse().ok());
        let observed = self.observed_generation >= self.generation;
        // The counters are of an earlier template until the controller has seen this one.
        let progress =
            if observed { id.kind.progress(&self.status, self.rollout) } else { Progress::Running };
        Workload {
            id: id.clone(),
            uid: self.uid.as_str().into(),
            resource_version: self.resource_version.as_str().into(),
            created: self.created,
            deleting: self.deleting,
            dry_run: self.dry_run,
            reload_order: self.reload_order,
            continue_after: self.continue_after,
            rolls_gradually: id.kind == Kind::DEPLOYMENT
                && !self.recreates
                && self.status.replicas_in_spec.unwrap_or(1) > 1,
            time_rules: self.time_rules.clone(),
            owner: self.owner.as_deref().map(Into::into),
            rollout: self.rollout,
            observed,
            progress,
            template: self.template,
            generation: self.generation,
            opt_in,
            count: count.unwrap_or(0),
            mark: self.annotations.get(MARK).map(Into::into),
            ignore_missing: self.ignores_missing(schemes),
            update_revision: self.update_revision.as_deref().map(Into::into),
            recorded,
            secrets,
            former_secrets: Box::default(),
        }
    }

    /// Whether missing secrets are no error for references of these schemes.
    fn ignores_missing<'s>(&self, schemes: impl IntoIterator<Item = &'s Scheme>) -> bool {
        let of_container = |container: &Container, scheme| {
            let mut names = Setting::IgnoreMissingSecrets.names(scheme).iter();
            match names.find_map(|name| container.variable(name)).map(|variable| &variable.value) {
                Some(EnvValue::Literal(text)) => parse_bool(text) == Some(true),
                _ => false,
            }
        };
        schemes.into_iter().all(|scheme| {
            if self.annotations.is_left_alone() {
                let mut injected =
                    self.containers.iter().filter(|container| container.starts_injector);
                return injected.all(|container| of_container(container, *scheme));
            }
            let value = self.annotations.webhook(Webhook::IgnoreMissingSecrets(*scheme));
            // The webhook reads any other text as false, too.
            value.and_then(parse_bool) == Some(true)
        })
    }

    /// Returns the targets of each scheme in use, by the settings of the containers.
    #[must_use]
    pub fn targets<'a>(
        &'a self,
        in_use: &BTreeSet<(Scheme, Destination<'a>)>,
        servers: &'a Servers,
    ) -> Targets<'a> {
        let mut targets = Targets::default();
        let mut notes = BTreeSet::new();
        for (scheme, to) in in_use {
            // The webhook does not see the settings of a container that starts its own injector.
            let (server, doubt) = match to.container {
                Some(_) => servers.at(to.address),
                None => servers.meant_by(&self.annotations, *scheme),
            };
            let origin = || match to.container {
                Some(container) => Origin::Env {
                    container: container.to_owned(),
                    name: Setting::Address.names(*scheme)[0].to_owned(),
                },
                None => Origin::Address(*scheme),
            };
            notes.extend(doubt.map(|reason| Note { origin: origin(), reason }));
            if matches!(doubt, Some(Reason::AddressRefused | Reason::AddressNotAllowed)) {
                continue;
            }
            let named = to.namespace.or_else(|| self.named_namespace(*scheme, *to));
            let is_bad = named.is_some_and(|name| !settings::is_namespace(name));
            // Without the bad namespace, the same paths of another namespace would be read. A bad
            // namespace in a variable is noted where the variable is read.
            if is_bad && to.namespace.is_none() {
                let origin = Origin::Namespace(*scheme);
                notes.insert(Note { origin, reason: Reason::BadNamespace });
            }
            // All known targets use the server of the first.
            let first = targets.known.values().next();
            let is_other = first.is_some_and(|target| target.server.name != server.name);
            if is_other {
                notes.insert(Note { origin: origin(), reason: Reason::TwoServers });
            }
            if !is_bad && !is_other {
                let namespace = named.map_or_else(|| server.namespace.clone(), |n| Some(n.into()));
                targets.known.insert((*scheme, *to), Target { server, namespace });
            }
        }
        targets.notes = notes.into_iter().collect();
        targets
    }

    /// Returns the Vault namespace that the webhook names for a scheme.
    fn named_namespace(&self, scheme: Scheme, to: Destination) -> Option<&str> {
        settings::annotated_namespace(&self.annotations, scheme).filter(|_| to.container.is_none())
    }
}

#[cfg(test)]
mod tests;
