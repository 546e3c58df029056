//! Tests of the loop against a fake Vault and a fake cluster, for sequences of calls that a real
//! server cannot be made to produce at will.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard};

use jiff::{SignedDuration, Timestamp};

use super::super::ports::WriteError;
use super::*;
use crate::decide::clock::ServerClock;
use crate::decide::observation::{BELIEVED_AFTER, Observation, PollResult};
use crate::decide::plan::{Reload, Revision};
use crate::election::leadership::{Candidate, Claim, election_channel};
use crate::engine::settings::SharedSettings;
use crate::events::event::Held;
use crate::events::sink::Sink;
use crate::index::findings::Finding;
use crate::index::quota::Quota;
use crate::model::annotation::{MARK, OptIn};
use crate::model::fixtures::{second, secret, version};
use crate::model::kind::Kind;
use crate::model::record::{Record, Versions};
use crate::model::reload_policy::ReloadPolicy;
use crate::model::secret::{DEFAULT_CONNECTION, Version};
use crate::model::strategy::Rollout;
use crate::model::time_rules::TimeRules;
use crate::model::workload::{Workload, WorkloadId};
use crate::references::environment::{Container, EnvFrom, EnvVar, SourceKind, SourceName};
use crate::references::manifest::Manifest;
use crate::references::path_rules::{PathRules, Rule, RuleText};
use crate::references::servers::Servers;
use crate::references::source::ReadableSources;
use crate::rollouts::admission::RolloutRules;

mod api_server_outage;
mod dry_run;
mod injector;
mod leading;
mod reloads;
mod rounds;
mod settling;
mod stuck;
mod time_rules;
mod told;
mod waves;

/// The state that both fakes share with the test.
#[derive(Default)]
struct World {
    /// The live version of each path. A path without one is unknown, and its failure may pass.
    live: BTreeMap<String, Version>,
    /// What the owners of paths say.
    policies: BTreeMap<String, ReloadPolicy>,
    /// The paths of secrets that were deleted.
    gone: BTreeSet<String>,
    /// Whether Vault cannot be reached at all.
    is_out: bool,
    /// The paths that a poll has no time to read.
    are_late: BTreeSet<String>,
    /// The paths that the last poll requested.
    asked: Vec<String>,
    /// The workloads as the API server has them.
    objects: BTreeMap<String, Manifest>,
    /// The faults of the next PATCHes, before or after the PATCH is applied.
    faults: VecDeque<Fault>,
    /// Whether the API server fails all PATCHes and reads of workloads.
    is_down: bool,
    /// The workloads whose PATCHes hang until the API server gives up, and fail.
    hanging: BTreeSet<String>,
    /// The workloads whose PATCHes an admission policy refuses.
    refused: BTreeSet<String>,
    /// The workloads that were PATCHed, in order.
    patched: Vec<String>,
    patches: u32,
    gets: u32,
    lookups: u32,
    /// How often Vault's time was read, and the clock that notes this time, with the time that
    /// Vault shows.
    clock_reads: u32,
    on_clock: Option<(Arc<ServerClock>, Timestamp)>,
    /// The clock that notes `Date` headers of the API server, which agree with the controller's
    /// clock.
    cluster_clock: Option<Arc<ServerClock>>,
    rests: u32,
    /// When each revision was created. By default, long after all rotations.
    revised: Option<Timestamp>,
    /// When the revisions after the next look-up were created, if they differ.
    revised_next: Option<Timestamp>,
    /// Whether there are no revisions at all.
    without_revisions: bool,
    /// The number of PATCHes before each look-up of a last writer.
    patches_before_writers: Vec<u32>,
    /// The reports that an operator sees.
    told: Vec<String>,
    /// How often the reloader reported that nothing is to be reloaded.
    idle: u32,
    token: Option<CancellationToken>,
}

/// How long a PATCH hangs before it fails.
const HANGS_FOR: Duration = Duration::from_secs(10);

enum Fault {
    /// An admission policy refuses the PATCH.
    Refused,
    /// The PATCH is applied, and the answer is lost.
    AnswerLost,
    /// Another client writes first, in this way.
    WrittenBefore(fn(&mut Manifest)),
    /// The process is told to end while this PATCH is under way.
    Shutdown,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<World>>);

impl Fake {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    fn rotate(&self, path: &str, number: u64) {
        let version = version(number, 1_000_000 + i64::try_from(number).unwrap());
        self.world().live.insert(path.to_owned(), version);
    }

    fn delete(&self, path: &str) {
        let mut world = self.world();
        world.live.remove(path);
        world.gone.insert(path.to_owned());
    }

    /// Returns the number of PATCHes and of GETs.
    fn requests(&self) -> (u32, u32) {
        let world = self.world();
        (world.patches, world.gets)
    }

    fn count(&self, name: &str) -> u64 {
        let world = self.world();
        let annotations = &world.objects[name].annotations;
        annotations.get(OptIn::Current.count_key()).map_or(0, |count| count.parse().unwrap())
    }
}

impl Vault for Fake {
    async fn poll(&mut self, requests: &[ReadRequest]) -> PollResult {
        let mut world = self.world();
        world.asked = requests.iter().map(|request| request.secret.path.to_string()).collect();
        world.asked.sort();
        let mut polled = PollResult::default();
        if world.is_out {
            polled.failed = requests.iter().map(|request| Arc::clone(&request.secret)).collect();
            polled.retry_in = Some(Duration::from_secs(1));
            return polled;
        }
        for request in requests {
            let live = world.live.get(&*request.secret.path);
            let is_gone = world.gone.contains(&*request.secret.path);
            let missing = if is_gone { Observation::Gone } else { Observation::Unknown };
            let is_late = world.are_late.contains(&*request.secret.path);
            let live = live.filter(|_| !is_late);
            let observation = live.map_or(missing, |v| Observation::Live(*v));
            if let Some(policy) = world.policies.get(&*request.secret.path) {
                polled.policies.insert(Arc::clone(&request.secret), *policy);
            }
            if is_late {
                polled.late.insert(Arc::clone(&request.secret));
            }
            polled.observations.insert(Arc::clone(&request.secret), observation);
            if live.is_none() && !is_gone {
                polled.failed.push(Arc::clone(&request.secret));
                polled.retry_in = Some(Duration::from_secs(1));
            }
        }
        polled
    }

    fn notices(&self) -> HashMap<Arc<SecretId>, Finding> {
        let notice = |path: &String| {
            let message = format!("secret/data/{path} is deleted");
            (secret(path), Finding { reason: "Deleted", is_warning: true, message })
        };
        self.world().gone.iter().map(notice).collect()
    }

    async fn read_clock(&mut self) {
        let mut world = self.world();
        world.clock_reads += 1;
        if let Some((clock, own_time)) = &world.on_clock {
            let now = *own_time - SignedDuration::from_hours(1);
            clock.observe_own_time(*own_time, now, now);
        }
    }

    async fn rest(&mut self) {
        self.world().rests += 1;
    }

    fn forget(&mut self, _: impl Fn(&SecretId) -> bool + Send) {}

    async fn close(&mut self) {}
}

impl Cluster for Fake {
    async fn revisions(&self, workloads: &[Arc<Workload>]) -> HashMap<Box<str>, Revision> {
        let mut world = self.world();
        world.lookups += 1;
        if let Some(clock) = &world.cluster_clock {
            let noon: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
            clock.observe_date("Sun, 22 Nov 2026 12:00:00 GMT", noon, noon);
        }
        if world.without_revisions {
            return HashMap::new();
        }
        let created = world.revised.unwrap_or(second(2_000_000));
        world.revised = world.revised_next.take().or(world.revised);
        let revision = Revision { created, copies: Arc::new([]) };
        workloads
            .iter()
            .map(|workload| (Box::<str>::from(&*workload.uid), revision.clone()))
            .collect()
    }

    async fn patch(&self, workload: &Workload, reload: &Reload) -> Result<Manifest, WriteError> {
        let name = workload.id.name.to_string();
        let (is_down, is_hanging) = {
            let mut world = self.world();
            world.patches += 1;
            world.patched.push(name.clone());
            (world.is_down, world.hanging.contains(&name))
        };
        if is_hanging {
            sleep(HANGS_FOR).await;
        }
        if is_down || is_hanging {
            return Err(WriteError::Failed("no answer".to_owned()));
        }
        let mut world = self.world();
        if world.refused.contains(&name) {
            return Err(WriteError::Refused("by a policy".to_owned()));
        }
        let fault = world.faults.pop_front();
        let token = world.token.clone();
        let object = world.objects.get_mut(&*workload.id.name).ok_or(WriteError::NotFound)?;
        match fault {
            Some(Fault::Refused) => return Err(WriteError::Refused("by a policy".to_owned())),
            Some(Fault::WrittenBefore(write)) => {
                write(object);
                touch(object);
            }
            Some(Fault::Shutdown) => token.unwrap().cancel(),
            Some(Fault::AnswerLost) | None => {}
        }
        if *object.resource_version != *workload.resource_version {
            return Err(WriteError::Conflict);
        }
        object.annotations = [
            (workload.opt_in.key(), "true".to_owned()),
            (workload.opt_in.count_key(), reload.count.to_string()),
            (MARK, reload.record.mark.clone()),
        ]
        .into_iter()
        .collect();
        object.record = Some(reload.record.encode());
        object.template += 1;
        // The pods are not replaced yet.
        object.status.updated = 0;
        touch(object);
        match fault {
            Some(Fault::AnswerLost) => Err(WriteError::Failed("no answer".to_owned())),
            _ => Ok(object.clone()),
        }
    }

    async fn get(&self, id: &WorkloadId) -> Result<Manifest, WriteError> {
        let mut world = self.world();
        world.gets += 1;
        if world.is_down {
            return Err(WriteError::Failed("no answer".to_owned()));
        }
        world.objects.get(&*id.name).cloned().ok_or(WriteError::NotFound)
    }

    async fn last_writer(&self, _: &WorkloadId) -> Option<String> {
        let mut world = self.world();
        let patches = world.patches;
        world.patches_before_writers.push(patches);
        Some("somebody".to_owned())
    }
}

impl Sink for Fake {
    fn on(&self, event: &Event<'_>) {
        let told = match *event {
            Event::NothingToReload => {
                self.world().idle += 1;
                return;
            }
            Event::TakenBack { workload, secrets, again: false, .. } if !secrets.is_empty() => {
                let paths: Vec<_> = secrets.iter().map(|secret| &*secret.path).collect();
                format!("{} was reverted for {}", workload.name, paths.join(" and "))
            }
            Event::Reloaded { workload, rollout, .. } if rollout != Rollout::Automatic => {
                format!("{} was reloaded: {rollout:?}", workload.name)
            }
            Event::Held { workload, hold: Held::For(hold), .. } => {
                format!("{} is held: {hold:?}", workload.name)
            }
            Event::Held { workload, hold: Held::Stripped { by, .. }, .. } => {
                format!("{} is stripped by {}", workload.name, by.unwrap_or("whom?"))
            }
            Event::WaitingForRevision { workload, is_long: true } => {
                format!("{} waits", workload.name)
            }
            _ => return,
        };
        self.world().told.push(told);
    }
}

/// Returns a time after the first version of each secret, and before the second.
fn between_the_versions() -> Timestamp {
    second(1_000_001) + SignedDuration::from_millis(500)
}

fn touch(object: &mut Manifest) {
    let number: u64 = object.resource_version.parse().unwrap();
    object.resource_version = (number + 1).to_string();
}

/// A reloader with a complete index. Each workload refers to some paths.
struct Bench {
    fake: Fake,
    index: Arc<Index>,
    reloader: Reloader<Fake, Fake>,
    shutdown: CancellationToken,
}

impl Bench {
    fn new(workloads: &[(&str, &[&str])]) -> Self {
        Self::with(Servers::default(), workloads)
    }

    /// Like [`Self::new`], with servers and rules about their paths.
    fn with(servers: Servers, workloads: &[(&str, &[&str])]) -> Self {
        Self::with_index(Index::new(servers, ReadableSources::default()), workloads)
    }

    /// Like [`Self::new`], with the workloads in a given index, which is still empty.
    fn with_index(index: Index, workloads: &[(&str, &[&str])]) -> Self {
        let (fake, index) = (Fake::default(), Arc::new(index));
        let shutdown = CancellationToken::new();
        fake.world().token = Some(shutdown.clone());
        for (name, paths) in workloads {
            let variables = paths.iter().enumerate().map(|(number, path)| {
                EnvVar::literal(format!("X{number}"), format!("vault:{path}#x"))
            });
            let container = Container { variables: variables.collect(), ..Container::default() };
            let manifest = Manifest {
                namespace: "shop".to_owned(),
                name: (*name).to_owned(),
                uid: format!("uid-of-{name}"),
                resource_version: "1".to_owned(),
                created: second(1_000_000),
                template: 100,
                annotations: [(OptIn::Current.key(), "true")].into_iter().collect(),
                containers: vec![container],
                ..Manifest::default()
            };
            fake.world().objects.insert((*name).to_owned(), manifest);
            for path in *paths {
                fake.rotate(path, 1);
            }
        }
        let settings = Settings {
            server: DEFAULT_CONNECTION.into(),
            ignore_missing: false,
            shared: SharedSettings {
                period: Duration::from_mins(1),
                settle: SignedDuration::ZERO,
                ignore_versions_before: None,
                dry_run: false,
                rollouts: RolloutRules::default(),
                heeds_owners: true,
                time_rules: TimeRules::default(),
                start_within: Duration::ZERO,
            },
        };
        let clocks = Clocks::default();
        let [vault, cluster] = std::array::from_fn(|_| fake.clone());
        let events = Events::new(vec![Box::new(fake.clone())]);
        let budget = Budget::new(100, 100);
        let reloader =
            Reloader::new(Arc::clone(&index), vault, cluster, events, clocks, settings, budget);
        let bench = Self { fake, index, reloader, shutdown };
        bench.watch();
        bench
    }

    /// Like [`Self::new`], with this number of workloads, which all refer to the same path.
    fn of(count: usize) -> Self {
        let names: Vec<String> = (0..count).map(|number| format!("web-{number}")).collect();
        Self::new(&names.iter().map(|name| (name.as_str(), &["a"][..])).collect::<Vec<_>>())
    }

    /// Returns the number of reloads of all workloads.
    fn reloads(&self) -> u64 {
        let names: Vec<String> = self.fake.world().objects.keys().cloned().collect();
        names.iter().map(|name| self.fake.count(name)).sum()
    }

    /// Lets the index see the present objects.
    fn watch(&self) {
        for object in self.fake.world().objects.values() {
            self.index.apply(object.clone(), Kind::DEPLOYMENT);
        }
    }

    /// Lets the index see an object that names a ConfigMap which was not read yet.
    fn name_a_config_map(&self, name: &str) {
        let mut object = self.fake.world().objects[name].clone();
        let source = SourceName { kind: SourceKind::ConfigMap, name: "m".to_owned() };
        let from = EnvFrom { prefix: String::new(), source, optional: false };
        object.containers[0].from.push(from);
        self.index.apply(object, Kind::DEPLOYMENT);
    }

    /// Lets another client change an object.
    fn write(&self, name: &str, write: impl FnOnce(&mut Manifest)) {
        let mut world = self.fake.world();
        let object = world.objects.get_mut(name).unwrap();
        write(object);
        touch(object);
        drop(world);
        self.watch();
    }

    /// Lets the owner of an object put its template back. The record remains.
    fn put_template_back(&self, name: &str) {
        self.fake.world().revised = Some(between_the_versions());
        self.write(name, |object| {
            object.template = 100;
            object.annotations = [(OptIn::Current.key(), "true")].into_iter().collect();
        });
    }

    /// Lets another controller roll out a version.
    fn reload_by_another(&self, name: &str, path: &str, number: u64) {
        self.write(name, |object| {
            let created = 1_000_000 + i64::try_from(number).unwrap();
            let versions =
                [(secret(path).hash64(), version(number, created))].into_iter().collect();
            let (uid, mark) = (object.uid.clone(), "theirs".to_owned());
            object.annotations =
                [(OptIn::Current.key(), "true"), (MARK, "theirs")].into_iter().collect();
            object.record = Some(
                Record { uid, mark, at: None, streak: 0, was_unhealthy: false, versions }.encode(),
            );
            object.template += 1;
        });
    }

    /// Polls, and returns the reports.
    async fn told(&mut self) -> Vec<String> {
        self.poll().await;
        std::mem::take(&mut self.fake.world().told)
    }

    async fn poll(&mut self) -> Remaining {
        self.reloader.tick(PollScope::All, &self.shutdown).await
    }
}
