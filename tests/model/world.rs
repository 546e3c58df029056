//! The truth: secrets in Vault, objects in the API server, and what the pods of workloads really run
//! with. Here it is seen whether a PATCH was right, whatever whoever sent it believed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use vault_secrets_reloader::decide::plan::{Copied, Reload, Revision};
use vault_secrets_reloader::engine::ports::WriteError;
use vault_secrets_reloader::model::annotation::{MARK, OptIn};
use vault_secrets_reloader::model::kind::Kind;
use vault_secrets_reloader::model::record::{Record, Versions};
use vault_secrets_reloader::model::secret::{DEFAULT_CONNECTION, SecretId, Version};
use vault_secrets_reloader::model::workload::{Workload, WorkloadId};
use vault_secrets_reloader::references::environment::{
    Container, EnvFrom, EnvVar, SourceKind, SourceName,
};
use vault_secrets_reloader::references::manifest::Manifest;
use vault_secrets_reloader::references::servers::{
    Address, Servers, UndeclaredAddress, VaultServer,
};

use crate::history::{PROCESSES, PatchFault, SOURCES, Setup};
use crate::time;
pub(crate) use sources::source_id;
use sources::{Former, Source, source_name};

mod controllers;
mod events;
mod judge;
mod requests;
mod sources;

/// The settle time of all processes.
pub(crate) const SETTLE: SignedDuration = SignedDuration::from_secs(3);

/// What a secret is at one moment.
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
    /// What it was before, and until when.
    before: State,
    since: Instant,
}

/// A pod template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Template {
    /// What its owner wrote.
    content: u64,
    opted_in: bool,
    /// Whose secrets are meant.
    server: usize,
    /// The secrets of that server that it names itself.
    refs: Vec<usize>,
    /// The ConfigMap that it takes variables from.
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
    record: Option<String>,
}

#[derive(Clone, Debug)]
struct Pods {
    template: Template,
    /// The secrets that they referred to when they were made.
    uses: BTreeSet<usize>,
    have: BTreeMap<usize, Version>,
}

/// What its owner does to the next reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaction {
    None,
    Revert,
    Strip,
}

/// A workload as the API server has it.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    kind: Kind,
    name: String,
    uid: String,
    resource_version: u64,
    generation: u64,
    observed: u64,
    created: Timestamp,
    deleting: bool,
    record: Option<String>,
    pub(crate) template: Template,
    /// Since when it has this template, as objects have it and exactly.
    deployed: Timestamp,
    deployed_at: Instant,
    revisions: Vec<Rev>,
    pods: Pods,
    reaction: Reaction,
    /// Whether somebody put back an older template, or removed what we wrote.
    was_tampered_with: bool,
    /// The versions that applied PATCHes have recorded since they became live.
    covered: HashSet<(usize, u64, Timestamp)>,
    /// Whether it was to be watched as long as it was there.
    is_stayer: bool,
    /// The secrets that a ConfigMap named before, under the present template.
    former: BTreeMap<usize, Former>,
    /// The secrets that a process may take for former ones of this template, since it read the last edit
    /// of a ConfigMap later than the template.
    may_seem_former: BTreeSet<usize>,
    /// The one whose name it has taken.
    predecessor: Option<String>,
    /// When, by which life of a process and with what it was last reloaded, if that got an answer.
    reloaded: Option<(Instant, u64, Versions)>,
}

/// What is to happen in the cluster by itself.
#[derive(Clone, Debug)]
enum Job {
    MakeRevision(usize, String),
    StartPods(usize, String),
    React(usize, String, Reaction),
    Late(Box<(Workload, Reload, Sent)>),
}

/// How a PATCH was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// By which life of a process.
    pub(crate) life: u64,
    /// Whether it was right when it was sent. Much can happen until it arrives.
    pub(crate) was_right: bool,
    /// Whether whoever sent it hears of it.
    pub(crate) is_answered: bool,
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Applied(Box<Manifest>, Kind),
    Deleted(WorkloadId),
    /// A ConfigMap is another.
    Source(usize),
}

/// What fails at present, and until when.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) patches: Vec<PatchFault>,
    unreadable: BTreeMap<usize, Instant>,
    /// By server.
    vault: BTreeMap<usize, Instant>,
    api: Option<Instant>,
    revisions: Option<Instant>,
    standby: Option<(Instant, Duration)>,
    pods_lag: Option<(Instant, Duration)>,
    /// The processes whose next poll of a server is answered by a standby, and those whose last one was.
    on_standby: BTreeSet<(usize, usize)>,
    were_on_standby: BTreeSet<(usize, usize)>,
    controllers: Option<Instant>,
    watches: BTreeMap<usize, (Instant, Duration)>,
}

impl Faults {
    /// Whether a poll of a process, of a server, is answered by a standby; never two in a row, which
    /// nobody could tell from a restored storage.
    pub(crate) fn takes_standby(&mut self, process: usize, server: usize) -> bool {
        let poll = (process, server);
        let was = self.were_on_standby.remove(&poll);
        let is = self.on_standby.remove(&poll) && !was;
        if is {
            self.were_on_standby.insert(poll);
        }
        is
    }

    /// How many milliseconds the next PATCH takes to arrive, if that is what it meets.
    pub(crate) fn take_slow(&mut self) -> u64 {
        let slow = self.patches.pop_if(|fault| matches!(fault, PatchFault::Slow(_)));
        if let Some(PatchFault::Slow(ms)) = slow { ms } else { 0 }
    }
}

/// All there is.
pub(crate) struct World {
    pub(crate) setup: Setup,
    /// Of all servers: those of the first, and then those of the second.
    pub(crate) secrets: Vec<Secret>,
    sources: [Source; SOURCES],
    pub(crate) objects: Vec<Option<Object>>,
    pub(crate) faults: Faults,
    /// What must never happen, and did.
    pub(crate) wrong: Vec<String>,
    /// What happened, where somebody wants to read it.
    pub(crate) journal: Option<Vec<String>>,
    /// Where the watches of the processes get their events from.
    pub(crate) watches: BTreeMap<usize, mpsc::UnboundedSender<(Instant, Seen)>>,
    /// Processes that are to be killed at once.
    pub(crate) kills: Vec<usize>,
    pub(crate) killer: Arc<Notify>,
    jobs: BTreeMap<(Instant, u64), Job>,
    pub(crate) job_added: Arc<Notify>,
    /// What the latest polls of each process were told, what was so then, and when that was.
    pub(crate) told: [BTreeMap<usize, (State, State, Instant)>; PROCESSES],
    /// When each life of a process last read each version.
    reads_of: BTreeMap<(u64, usize), BTreeMap<Version, Instant>>,
    /// When each life of a process last read that a secret is gone.
    gone_reads: BTreeMap<(u64, usize), Instant>,
    /// The lives that were told of a secret what had not been so for long.
    misled: BTreeSet<(u64, usize)>,
    /// The lives that have not ended.
    pub(crate) living: BTreeSet<u64>,
    /// Since when each life knows all workloads.
    pub(crate) synced: BTreeMap<u64, Instant>,
    /// How far a standby was behind at most.
    standby_ms: u64,
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
            snapshot: None,
            was_restored: false,
            chance: setup.chance,
            counter: 0,
            reads: 0,
        };
        for secret in 0..setup.secrets * setup.servers {
            // Written an hour before the workloads, or a month.
            let ago = if secret == 0 { 24 * 30 } else { 1 };
            let created =
                world.vault_time(world.server_of(secret)) - SignedDuration::from_hours(ago);
            let state = State::Live(Version { number: 1, created });
            world.secrets.push(Secret { state, before: state, since: Instant::now() });
        }
        for slot in 0..setup.workloads.len() {
            let object = world.fresh(slot, None);
            world.objects.push(Some(object));
        }
        world
    }

    /// A number below `limit`, by chance.
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

    /// How far the clock of a server is ahead of the API server's.
    pub(crate) fn skew(&self, server: usize) -> SignedDuration {
        let skew = SignedDuration::from_millis(self.setup.skew_ms);
        if server == 0 { skew } else { -skew }
    }

    /// The present by the clock of a server, never the same twice.
    fn vault_time(&mut self, server: usize) -> Timestamp {
        let unique = SignedDuration::from_nanos(i64::try_from(self.next()).unwrap());
        time::now() + self.skew(server) + unique
    }

    /// When a version of a secret was created, by the API server's clock.
    fn created(&self, secret: usize, version: Version) -> Timestamp {
        version.created - self.skew(self.server_of(secret))
    }

    // Secrets.

    fn secret(&self, secret: usize) -> usize {
        secret % self.secrets.len()
    }

    /// The server that has a secret.
    pub(crate) fn server_of(&self, secret: usize) -> usize {
        secret / self.setup.secrets
    }

    fn set(&mut self, secret: usize, state: State) {
        let old = self.secrets[secret].state;
        if old == state {
            return;
        }
        self.secrets[secret] = Secret { state, before: old, since: Instant::now() };
        if let Some(live) = state.live() {
            // It is live once more, and whoever was reloaded for it before may have had another since.
            for object in self.objects.iter_mut().flatten() {
                object.covered.remove(&(secret, live.number, live.created));
            }
        }
        self.say(|| format!("secret {secret}: {old:?} -> {state:?}"));
    }

    /// Whether a server answers at all.
    pub(crate) fn vault_answers(&self, server: usize) -> bool {
        self.faults.vault.get(&server).is_none_or(|until| Instant::now() >= *until)
    }

    /// What a read of a secret answers to a life of a process: `None` for an error.
    pub(crate) fn read(&mut self, life: u64, secret: usize, is_on_standby: bool) -> Option<State> {
        let now = Instant::now();
        let is_out = self.faults.unreadable.get(&secret).is_some_and(|until| now < *until);
        if is_out || !self.vault_answers(self.server_of(secret)) {
            return None;
        }
        self.reads += 1;
        let Secret { state, before, since } = self.secrets[secret];
        // It has restored its storage, as all have.
        let is_on_standby = is_on_standby
            && before
                .live()
                .zip(state.live())
                .is_some_and(|(then, now)| then.created < now.created);
        if is_on_standby {
            self.misled.insert((life, secret));
        }
        let lag = self.faults.standby.filter(|(until, _)| now < *until).map(|(_, lag)| lag);
        let is_behind = is_on_standby
            || self.reads.is_multiple_of(2) && lag.is_some_and(|lag| now < since + lag);
        let answer = if is_behind { before } else { state };
        self.told[process_of(life)].insert(secret, (answer, state, Instant::now()));
        if let Some(version) = answer.live() {
            self.reads_of.entry((life, secret)).or_default().insert(version, now);
        } else {
            self.gone_reads.insert((life, secret), now);
        }
        Some(answer)
    }

    // Objects.

    fn slot(&self, workload: usize) -> usize {
        workload % self.objects.len()
    }

    fn fresh(&mut self, slot: usize, of: Option<&Object>) -> Object {
        let bits = self.setup.workloads[slot];
        let refs = (0..self.setup.secrets).filter(|s| bits >> s & 1 == 1).collect();
        // One in four.
        let source = (bits >> 3 & 3 == 3).then_some(usize::from(bits >> 5 & 1) % SOURCES);
        let server = usize::from(bits >> 6 & 1) % self.setup.servers;
        let number = self.next();
        let now = time::floor(time::now());
        let mut template = Template {
            content: number,
            opted_in: true,
            server,
            refs,
            source,
            count: 0,
            mark: None,
        };
        let mut record = None;
        if let Some(original) = of {
            template = original.template.clone();
            record.clone_from(&original.record);
        }
        let uses = self.uses(&template);
        let have = self.live_of(&uses);
        let mut pods = Pods { template: template.clone(), uses, have };
        let uid = format!("uid-{number}");
        if pods.have.len() < pods.uses.len() && !self.setup.may_be_missing {
            // They fail, and are tried again: until then there are none of this template.
            pods.template.content = self.next();
            self.later(7_000, Job::StartPods(slot, uid.clone()));
        }
        Object {
            kind: if slot == 1 { Kind::STATEFUL_SET } else { Kind::DEPLOYMENT },
            name: format!("w{slot}"),
            uid,
            resource_version: number,
            generation: 1,
            observed: 1,
            created: now,
            deployed: now,
            deployed_at: Instant::now(),
            deleting: false,
            revisions: vec![Rev {
                template: template.clone(),
                created: now,
                number: 1,
                record: record.clone(),
            }],
            record,
            template,
            pods,
            reaction: Reaction::None,
            was_tampered_with: false,
            covered: HashSet::new(),
            is_stayer: true,
            former: BTreeMap::new(),
            may_seem_former: BTreeSet::new(),
            predecessor: None,
            reloaded: None,
        }
    }

    /// The live versions of some secrets.
    fn live_of(&self, secrets: &BTreeSet<usize>) -> BTreeMap<usize, Version> {
        let live = |secret: &usize| Some((*secret, self.secrets[*secret].state.live()?));
        secrets.iter().filter_map(live).collect()
    }

    /// What pods that start read of their secrets at this moment.
    fn read_by_pods(&self, secrets: &BTreeSet<usize>) -> BTreeMap<usize, Version> {
        let now = Instant::now();
        let lag = self.faults.pods_lag.filter(|(until, _)| now < *until).map(|(_, lag)| lag);
        let read = |secret: &usize| {
            let Secret { state, before, since } = self.secrets[*secret];
            // A storage that was restored is everywhere.
            let is_behind = lag.is_some_and(|lag| now < since + lag)
                && before
                    .live()
                    .zip(state.live())
                    .is_some_and(|(then, now)| then.created < now.created);
            let state = if is_behind { before } else { state };
            Some((*secret, state.live()?))
        };
        secrets.iter().filter_map(read).collect()
    }

    /// Notes that an object was written, and lets everybody know.
    fn written(&mut self, slot: usize) {
        let number = self.next();
        let Some(object) = &mut self.objects[slot] else { return };
        object.resource_version = number;
        let seen = Seen::Applied(Box::new(object.manifest()), object.kind);
        self.tell(&seen);
    }

    fn tell(&mut self, seen: &Seen) {
        for watch in self.watches.values() {
            // A process that has just been killed does not listen any more.
            let _ = watch.send((Instant::now(), seen.clone()));
        }
    }

    /// Changes the template, and what follows from that.
    fn deploy(&mut self, slot: usize, change: impl FnOnce(&mut Template)) {
        let Some(object) = &mut self.objects[slot] else { return };
        let before = object.template.clone();
        change(&mut object.template);
        if object.template == before {
            return;
        }
        object.former.clear();
        object.generation += 1;
        object.deployed = time::floor(time::now());
        object.deployed_at = Instant::now();
        let (uid, after) = (object.uid.clone(), object.template.clone());
        let is_watched = after.opted_in && !self.uses(&after).is_empty();
        // A process that begins with the other server knows nothing of what was seen before.
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

    /// How late a watch is at present.
    pub(crate) fn watch_delay(&self, process: usize) -> Duration {
        let slow = self.faults.watches.get(&process).filter(|(until, _)| Instant::now() < *until);
        slow.map_or(Duration::from_millis(self.setup.watch_ms), |(_, delay)| *delay)
    }

    /// Whether an earlier storage was restored.
    pub(crate) fn was_restored(&self) -> bool {
        self.was_restored
    }

    /// Whether somebody has put back, or removed, what we or others wrote.
    pub(crate) fn was_tampered_with(&self, id: &WorkloadId) -> Option<bool> {
        let object = self.objects[self.find(id)?].as_ref()?;
        Some(object.was_tampered_with)
    }

    /// Which workload it is, and whether it was there, and to be watched, all the time.
    pub(crate) fn identity(&self, id: &WorkloadId) -> Option<(String, bool)> {
        let object = self.objects[self.find(id)?].as_ref()?;
        Some((object.uid.clone(), object.is_stayer && object.predecessor.is_none()))
    }

    pub(crate) fn id(&self, slot: usize) -> Option<WorkloadId> {
        self.objects[slot].as_ref().map(Object::id)
    }

    /// Ends all faults.
    pub(crate) fn mend(&mut self) {
        self.faults = Faults::default();
        self.say(|| "all faults end".to_owned());
    }
}

impl Rev {
    fn versions(&self, uid: &str) -> Option<Versions> {
        let record = Record::parse(self.record.as_deref()?).ok()?;
        (record.uid == uid).then_some(record.versions)
    }
}

impl Object {
    fn id(&self) -> WorkloadId {
        WorkloadId { kind: self.kind, namespace: "shop".into(), name: self.name.as_str().into() }
    }

    /// What its own record says of a secret.
    fn entry(&self, secret: &SecretId) -> Option<Version> {
        let record = Record::parse(self.record.as_deref()?).ok()?;
        let versions = (record.uid == self.uid).then_some(record.versions)?;
        versions.get(secret.hash64())
    }

    fn manifest(&self) -> Manifest {
        let Template { opted_in, server, refs, source, count, mark, .. } = &self.template;
        let mut hasher = DefaultHasher::new();
        self.template.hash(&mut hasher);
        let mut annotations = Vec::new();
        if *opted_in {
            annotations.push((OptIn::Current.key(), "true".to_owned()));
        }
        if *count > 0 {
            annotations.push((OptIn::Current.count_key(), count.to_string()));
        }
        annotations.extend(mark.clone().map(|mark| (MARK, mark)));
        if *server > 0 {
            annotations.push((ADDRESS, address(*server)));
        }
        let variables = refs.iter().map(|secret| {
            let path = path(*secret);
            EnvVar::literal(format!("X{path}"), format!("vault:{path}#x"))
        });
        let from = source.map(|source| EnvFrom {
            prefix: String::new(),
            source: SourceName { kind: SourceKind::ConfigMap, name: source_name(source) },
            optional: false,
        });
        let container = Container {
            variables: variables.collect(),
            from: from.into_iter().collect(),
            ..Container::default()
        };
        Manifest {
            namespace: "shop".to_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            resource_version: self.resource_version.to_string(),
            generation: self.generation,
            created: self.created,
            deleting: self.deleting,
            record: self.record.clone(),
            observed_generation: self.observed,
            template: hasher.finish(),
            annotations: annotations.into_iter().collect(),
            containers: vec![container],
            ..Manifest::default()
        }
    }
}

/// How a workload names its server.
const ADDRESS: &str = "secrets-webhook.security.bank-vaults.io/vault-addr";

fn address(server: usize) -> String {
    format!("https://vault-{server}:8200")
}

/// The name of a server, as the controller knows it.
pub(crate) fn server_name(server: usize) -> Arc<str> {
    if server == 0 { DEFAULT_CONNECTION.into() } else { format!("vault-{server}").into() }
}

/// All servers that are declared.
pub(crate) fn servers(count: usize) -> Servers {
    let declared = |server| VaultServer {
        name: server_name(server),
        addresses: Address::parse(&address(server)).into_iter().collect(),
        namespace: None,
    };
    Servers::new((0..count).map(declared).collect(), UndeclaredAddress::Default).unwrap()
}

/// The path of a secret on its server.
fn path(secret: usize) -> String {
    format!("secret/data/{secret}")
}

impl Setup {
    /// The name of a secret, as the controller knows it.
    pub(crate) fn secret_id(&self, secret: usize) -> SecretId {
        let (server, local) = (secret / self.secrets, secret % self.secrets);
        SecretId { connection: server_name(server), namespace: None, path: path(local).into() }
    }

    /// The secret of a name.
    pub(crate) fn secret_of(&self, id: &SecretId) -> usize {
        let number = |text: &str, separator| {
            let last = text.rsplit(separator).next();
            last.and_then(|number| number.parse::<usize>().ok()).unwrap_or_default()
        };
        number(&id.connection, '-') * self.secrets + number(&id.path, '/')
    }
}

/// The process of a life.
pub(crate) fn process_of(life: u64) -> usize {
    usize::try_from(life).unwrap_or(0) % PROCESSES
}
