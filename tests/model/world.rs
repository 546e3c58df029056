//! The truth of the model: the secrets in Vault, the objects in the API server, and the versions
//! that pods really run with. The world judges whether a PATCH was right, whatever its sender
//! believed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use vault_secrets_reloader::decide::plan::Reload;
use vault_secrets_reloader::index::namespaces::NamespaceRules;
use vault_secrets_reloader::model::kind::Kind;
use vault_secrets_reloader::model::record::{Record, Versions};
use vault_secrets_reloader::model::reload_policy::ReloadPolicy;
use vault_secrets_reloader::model::secret::Version;
use vault_secrets_reloader::model::strategy::Rollout;
use vault_secrets_reloader::model::time_rules::TimeRules;
use vault_secrets_reloader::model::workload::{Workload, WorkloadId};
use vault_secrets_reloader::references::manifest::Manifest;

use crate::history::{PROCESSES, PatchFault, SOURCES, Setup};
use crate::time;
pub(crate) use names::{process_of, server_name, servers};
use rollouts::{LastReload, PodsState};
use rules::Basis;
pub(crate) use sources::source_id;
use sources::{Former, Source};

mod controllers;
mod events;
mod judge;
mod names;
mod objects;
mod requests;
mod rollouts;
mod rules;
mod secrets;
mod sources;

/// The settle time of all processes.
pub(crate) const SETTLE: SignedDuration = SignedDuration::from_secs(3);

/// The state of a secret at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Missing,
    Live(Version),
    Deleted(Version),
    Destroyed(Version),
}

impl State {
    fn number(self) -> u64 {
        match self {
            Self::Missing => 0,
            Self::Live(version) | Self::Deleted(version) | Self::Destroyed(version) => {
                version.number
            }
        }
    }

    fn live(self) -> Option<Version> {
        if let Self::Live(version) = self { Some(version) } else { None }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Secret {
    pub(crate) state: State,
    /// The state before `since`.
    before: State,
    since: Instant,
}

/// A pod template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Template {
    /// The part that the owner wrote.
    content: u64,
    opted_in: bool,
    /// The server of its secrets.
    server: usize,
    /// The secrets of that server that the template names itself.
    refs: Vec<usize>,
    /// The ConfigMap that the template takes variables from.
    source: Option<usize>,
    count: u64,
    mark: Option<String>,
}

#[derive(Clone, Debug)]
struct Rev {
    template: Template,
    created: Timestamp,
    number: u64,
    /// The copy of the workload's record.
    record: Option<Arc<StoredRecord>>,
}

/// The annotation of a record: its text, and its content.
#[derive(Debug)]
struct StoredRecord {
    text: String,
    content: Record,
}

#[derive(Clone, Debug)]
struct Pods {
    template: Template,
    /// The secrets that the pods referred to when they were made.
    uses: BTreeSet<usize>,
    have: BTreeMap<usize, Version>,
}

/// How the owner of a workload reacts to the next reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaction {
    None,
    Revert,
    Strip,
}

/// A workload in the API server.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    kind: Kind,
    namespace: Arc<str>,
    name: String,
    uid: String,
    resource_version: u64,
    generation: u64,
    observed: u64,
    created: Timestamp,
    deleting: bool,
    record: Option<Arc<StoredRecord>>,
    pub(crate) template: Template,
    /// The end of a freeze, which may be over.
    freeze: Option<Timestamp>,
    /// The time of the present template: in the precision of objects, and exactly.
    deployed: Timestamp,
    deployed_at: Instant,
    revisions: Vec<Rev>,
    pods: Pods,
    reaction: Reaction,
    /// Whether somebody put back an older template, or removed annotations of the controller.
    was_tampered_with: bool,
    /// The versions that applied PATCHes have recorded since they became live.
    covered: HashSet<(usize, u64, Timestamp)>,
    /// Whether the workload was to be watched for its whole life.
    is_stayer: bool,
    /// The secrets that a ConfigMap named before, under the present template.
    former: BTreeMap<usize, Former>,
    /// The secrets that a process may take for former secrets of this template, because it read the
    /// last edit of a ConfigMap later than the template.
    may_seem_former: BTreeSet<usize>,
    /// The former object of the same name.
    predecessor: Option<String>,
    /// The last answered reload: its time, the life of the process that sent it, and its versions.
    reloaded: Option<(Instant, u64, Versions)>,
    /// How the controller of the workload treats a new template.
    rollout: Rollout,
    /// The reload count after which rotations go on.
    continue_after: Option<u64>,
    pods_state: PodsState,
    /// The reload that made the present template.
    last_reload: Option<LastReload>,
}

/// A job that the cluster does by itself.
#[derive(Clone, Debug)]
enum Job {
    MakeRevision(usize, String),
    StartPods(usize, String),
    React(usize, String, Reaction),
    /// The pods of a workload become available, or they never will. The last number is the
    /// generation.
    EndRollout(usize, String, u64),
    Heal(usize, String),
    Late(Box<(Workload, Reload, Sent)>),
}

/// How a PATCH was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// The life of the process that sent the PATCH.
    pub(crate) life: u64,
    /// Whether the PATCH was right when it was sent. Much can happen until it arrives.
    pub(crate) was_right: bool,
    /// Whether the sender gets the answer.
    pub(crate) is_answered: bool,
    /// Whether the PATCH arrives after its sender gave up.
    pub(crate) is_late: bool,
    /// The decision that the PATCH rests on. `None` if the rules for rollouts are not judged.
    pub(crate) basis: Option<Basis>,
}

/// An event of a watch.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Applied(Box<Manifest>, Kind),
    Deleted(WorkloadId),
    /// A ConfigMap changed.
    Source(usize),
    /// The namespace has these rules.
    Namespace(NamespaceRules),
}

/// The present faults, and when each ends.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) patches: Vec<PatchFault>,
    /// The secrets that are rotated just before the next poll of their server.
    rotations: Vec<usize>,
    unreadable: BTreeMap<usize, Instant>,
    /// By server.
    vault: BTreeMap<usize, Instant>,
    api: Option<Instant>,
    revisions: Option<Instant>,
    standby: Option<(Instant, Duration)>,
    pods_lag: Option<(Instant, Duration)>,
    /// The pairs of process and server whose next poll is answered by a standby, and the pairs
    /// whose last poll was.
    on_standby: BTreeSet<(usize, usize)>,
    were_on_standby: BTreeSet<(usize, usize)>,
    controllers: Option<Instant>,
    watches: BTreeMap<usize, (Instant, Duration)>,
}

impl Faults {
    /// Whether a standby answers this poll of a server by a process. A standby never answers two
    /// polls in a row, because no process could tell that from a restored storage.
    pub(crate) fn takes_standby(&mut self, process: usize, server: usize) -> bool {
        let poll = (process, server);
        let was = self.were_on_standby.remove(&poll);
        let is = self.on_standby.remove(&poll) && !was;
        if is {
            self.were_on_standby.insert(poll);
        }
        is
    }

    /// The time in milliseconds that the next PATCH takes to arrive, if it meets that fault.
    pub(crate) fn take_slow(&mut self) -> u64 {
        let slow = self.patches.pop_if(|fault| matches!(fault, PatchFault::Slow(_)));
        if let Some(PatchFault::Slow(ms)) = slow { ms } else { 0 }
    }
}

/// The whole world of a history.
pub(crate) struct World {
    pub(crate) setup: Setup,
    /// The secrets of all servers: first those of the first server, then those of the second.
    pub(crate) secrets: Vec<Secret>,
    sources: [Source; SOURCES],
    pub(crate) objects: Vec<Option<Object>>,
    /// The rules of the namespace of all workloads.
    pub(crate) namespace: NamespaceRules,
    pub(crate) faults: Faults,
    /// The violations: events that must never happen.
    pub(crate) wrong: Vec<String>,
    /// A log of all events, if the test keeps one.
    pub(crate) journal: Option<Vec<String>>,
    /// The senders of events to the watches of the processes.
    pub(crate) watches: BTreeMap<usize, mpsc::UnboundedSender<(Instant, Seen)>>,
    /// The processes to kill at once.
    pub(crate) kills: Vec<usize>,
    pub(crate) killer: Arc<Notify>,
    jobs: BTreeMap<(Instant, u64), Job>,
    pub(crate) job_added: Arc<Notify>,
    /// The answers to the latest polls of each process: the answered state, the true state, and the
    /// time.
    pub(crate) told: [BTreeMap<usize, (State, State, Instant)>; PROCESSES],
    /// The time at which each life of a process last read each version.
    reads_of: BTreeMap<(u64, usize), BTreeMap<Version, Instant>>,
    /// The time at which each life of a process last read that a secret is gone.
    gone_reads: BTreeMap<(u64, usize), Instant>,
    /// The lives that got an outdated state of a secret, with that secret.
    misled: BTreeSet<(u64, usize)>,
    /// The lives that have not ended.
    pub(crate) living: BTreeSet<u64>,
    /// The time since which each life knows all workloads.
    pub(crate) synced: BTreeMap<u64, Instant>,
    /// The longest delay of a standby so far, in milliseconds.
    standby_ms: u64,
    /// `SecretId::hash64` of each secret.
    hashes: Vec<u64>,
    /// What the owner of each secret says at present, and what each life of a process read last.
    policies: Vec<ReloadPolicy>,
    policies_read: BTreeMap<(u64, usize), ReloadPolicy>,
    /// The secrets whose reloads were ever held by their owners.
    ever_on_hold: BTreeSet<usize>,
    /// The versions with which the pods of some workloads never become available. The bits name the
    /// workloads.
    bad: Vec<(usize, Version, u16)>,
    /// Whether rollouts may fail without a cause.
    fails_by_chance: bool,
    /// The last decision of each life of a process to reload a workload.
    decisions: BTreeMap<(u64, WorkloadId), Basis>,
    /// The lives that did not lead for a while.
    pub(crate) demoted: BTreeSet<u64>,
    /// When somebody else than the controller last changed what counts for a rotation: a template, a
    /// record, a ConfigMap, or which workloads exist.
    churned: Option<Instant>,
    /// The longest delay of a watch so far.
    slowest_watch: Duration,
    /// The versions that a workload was healthy with after a reload.
    proven: BTreeSet<(usize, Version)>,
    snapshot: Option<Vec<State>>,
    was_restored: bool,
    chance: u64,
    counter: u64,
    reads: u64,
}

impl World {
    pub(crate) fn new(setup: &Setup, is_told: bool) -> Self {
        let mut world = Self {
            setup: setup.clone(),
            secrets: Vec::new(),
            sources: setup.sources.map(Source::new),
            objects: Vec::new(),
            namespace: NamespaceRules::default(),
            faults: Faults::default(),
            wrong: Vec::new(),
            journal: is_told.then(Vec::new),
            watches: BTreeMap::new(),
            kills: Vec::new(),
            killer: Arc::default(),
            jobs: BTreeMap::new(),
            job_added: Arc::default(),
            told: Default::default(),
            reads_of: BTreeMap::new(),
            gone_reads: BTreeMap::new(),
            misled: BTreeSet::new(),
            living: BTreeSet::new(),
            synced: BTreeMap::new(),
            standby_ms: 0,
            hashes: Vec::new(),
            policies: Vec::new(),
            policies_read: BTreeMap::new(),
            ever_on_hold: BTreeSet::new(),
            bad: Vec::new(),
            fails_by_chance: true,
            decisions: BTreeMap::new(),
            demoted: BTreeSet::new(),
            churned: None,
            slowest_watch: Duration::from_millis(setup.watch_ms),
            proven: BTreeSet::new(),
            snapshot: None,
            was_restored: false,
            chance: setup.chance,
            counter: 0,
            reads: 0,
        };
        for secret in 0..setup.secrets * setup.servers {
            // A secret was written an hour or a month before the workloads.
            let ago = if secret == 0 { 24 * 30 } else { 1 };
            let created =
                world.vault_time(world.server_of(secret)) - SignedDuration::from_hours(ago);
            let state = State::Live(Version { number: 1, created });
            world.secrets.push(Secret { state, before: state, since: Instant::now() });
            world.policies.push(ReloadPolicy::NONE);
            world.hashes.push(setup.secret_id(secret).hash64());
        }
        for slot in 0..setup.workloads.len() {
            let object = world.fresh(slot, None);
            world.objects.push(Some(object));
        }
        world
    }

    /// Returns a random number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        // SplitMix64, so that a history is the same each time.
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }

    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(journal) = &mut self.journal {
            journal.push(format!("{:>11.3}  {}", time::elapsed().as_secs_f64(), what()));
        }
    }

    fn is_wrong(&mut self, what: String) {
        self.say(|| format!("WRONG: {what}"));
        self.wrong.push(what);
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// The time by which a server's clock is ahead of the API server's.
    pub(crate) fn skew(&self, server: usize) -> SignedDuration {
        let skew = SignedDuration::from_millis(self.setup.skew_ms);
        if server == 0 { skew } else { -skew }
    }

    /// The present time by a server's clock. No two calls return the same time.
    fn vault_time(&mut self, server: usize) -> Timestamp {
        let unique = SignedDuration::from_nanos(i64::try_from(self.next()).unwrap());
        time::now() + self.skew(server) + unique
    }

    /// The creation time of a version by the API server's clock.
    fn created(&self, secret: usize, version: Version) -> Timestamp {
        version.created - self.skew(self.server_of(secret))
    }

    fn slot(&self, workload: usize) -> usize {
        workload % self.objects.len()
    }

    /// Notes that an object was written, and sends the event to all watches.
    fn written(&mut self, slot: usize) {
        let number = self.next();
        let Some(object) = &mut self.objects[slot] else { return };
        object.resource_version = number;
        let seen = Seen::Applied(Box::new(object.manifest()), object.kind);
        self.tell(&seen);
        self.note_proven(slot);
    }

    fn tell(&mut self, seen: &Seen) {
        for watch in self.watches.values() {
            // A process that was just killed receives no events any more.
            let _ = watch.send((Instant::now(), seen.clone()));
        }
    }

    /// Changes the template and all state that depends on it.
    fn deploy(&mut self, slot: usize, change: impl FnOnce(&mut Template)) {
        let Some(object) = &mut self.objects[slot] else { return };
        let before = object.template.clone();
        change(&mut object.template);
        if object.template == before {
            return;
        }
        object.former.clear();
        object.last_reload = None;
        object.pods_state.begin();
        object.generation += 1;
        self.churned = Some(Instant::now());
        object.deployed = time::floor(time::now());
        object.deployed_at = Instant::now();
        let (uid, after) = (object.uid.clone(), object.template.clone());
        let is_watched = after.opted_in && !self.uses(&after).is_empty();
        // The engine of the other server knows nothing of earlier polls.
        let is_stayer = is_watched && after.server == before.server;
        let may_seem_former = self.may_seem_to_use(&after);
        if let Some(object) = &mut self.objects[slot] {
            object.may_seem_former = may_seem_former;
            object.is_stayer &= is_stayer;
        }
        self.written(slot);
        let delay = self.below(self.setup.controller_ms);
        self.later(delay, Job::MakeRevision(slot, uid));
    }

    /// The present delay of a watch.
    pub(crate) fn watch_delay(&self, process: usize) -> Duration {
        let slow = self.faults.watches.get(&process).filter(|(until, _)| Instant::now() < *until);
        slow.map_or(Duration::from_millis(self.setup.watch_ms), |(_, delay)| *delay)
    }

    /// Whether an earlier storage was restored.
    pub(crate) fn was_restored(&self) -> bool {
        self.was_restored
    }

    /// Whether somebody put back an older template or removed annotations of the controller; `None`
    /// if the object does not exist.
    pub(crate) fn was_tampered_with(&self, id: &WorkloadId) -> Option<bool> {
        let object = self.objects[self.find(id)?].as_ref()?;
        Some(object.was_tampered_with)
    }

    /// Returns the identity of a workload, and whether it was to be watched for its whole life.
    pub(crate) fn identity(&self, id: &WorkloadId) -> Option<(String, bool)> {
        let object = self.objects[self.find(id)?].as_ref()?;
        Some((object.uid.clone(), object.is_stayer && object.predecessor.is_none()))
    }

    pub(crate) fn id(&self, slot: usize) -> Option<WorkloadId> {
        self.objects[slot].as_ref().map(Object::id)
    }

    /// Ends all faults. In some histories, rollouts that failed stay as they are.
    pub(crate) fn mend(&mut self) {
        self.faults = Faults::default();
        self.say(|| "all faults end".to_owned());
        self.mend_rollouts();
    }
}

/// Returns the time rules of a freeze.
fn frozen_until(end: Option<Timestamp>) -> TimeRules {
    TimeRules::new(end.map(|end| end.to_string()).as_deref(), None)
}
