//! The ports of a controller process: Vault and the cluster of the model, and the reports of the
//! process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use jiff::fmt::rfc2822::DateTimePrinter;
use tokio::time::{Instant, sleep};
use vault_secrets_reloader::decide::clock::ServerClock;
use vault_secrets_reloader::decide::hold::Hold;
use vault_secrets_reloader::decide::observation::{Observation, PollResult, ReadRequest};
use vault_secrets_reloader::decide::plan::{Action, Reload, Revision};
use vault_secrets_reloader::engine::ports::{Cluster, Vault, WriteError};
use vault_secrets_reloader::events::event::{Event, Held};
use vault_secrets_reloader::events::sink::Sink;
use vault_secrets_reloader::index::Index;
use vault_secrets_reloader::model::secret::SecretId;
use vault_secrets_reloader::model::workload::{Workload, WorkloadId};
use vault_secrets_reloader::references::manifest::Manifest;

use crate::history::PatchFault;
use crate::time;
use crate::world::{Sent, State, World, process_of};

pub(crate) type Shared = Arc<Mutex<World>>;

pub(crate) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ports of one life of a process, for one server.
#[derive(Clone)]
pub(crate) struct Ports {
    pub(crate) world: Shared,
    pub(crate) index: Arc<Index>,
    /// The number of the life. Its remainder by the number of processes is the process.
    pub(crate) life: u64,
    /// The server that is polled.
    pub(crate) server: usize,
    pub(crate) vault_clock: Arc<ServerClock>,
    pub(crate) cluster_clock: Arc<ServerClock>,
}

impl Ports {
    /// Waits while a request or its answer is under way.
    async fn travel(&self) {
        let delay = {
            let mut world = lock(&self.world);
            let limit = if world.below(8) == 0 { 1_500 } else { 25 };
            world.below(limit)
        };
        sleep(Duration::from_millis(delay)).await;
    }

    fn process(&self) -> usize {
        process_of(self.life)
    }

    /// Sends a request to the API server. The answer has a `Date`.
    async fn ask<T>(&self, answer: impl FnOnce(&mut World) -> T) -> T {
        let sent = time::own();
        self.travel().await;
        let answer = answer(&mut lock(&self.world));
        let date = date(time::now());
        self.travel().await;
        self.cluster_clock.observe_date(&date, sent, time::own());
        answer
    }
}

/// The longest time for which an answer to a poll may count for the polls that finish it.
const LONGEST_ROUND: Duration = Duration::from_secs(125);

/// Formats a time as in a `Date` header.
pub(crate) fn date(time: jiff::Timestamp) -> String {
    DateTimePrinter::new().timestamp_to_rfc9110_string(&time).unwrap_or_default()
}

impl Vault for Ports {
    async fn poll(&mut self, asks: &[ReadRequest]) -> PollResult {
        let mut polled = PollResult::default();
        let is_on_standby = {
            let mut world = lock(&self.world);
            // A poll may use the answers of the polls before it for a short time.
            let is_fresh = |(_, _, at): &(State, State, Instant)| at.elapsed() < LONGEST_ROUND;
            world.told[self.process()].retain(|_, told| is_fresh(told));
            world.rotate_at_poll(self.server);
            world.faults.takes_standby(self.process(), self.server)
        };
        for ask in asks {
            let secret = &ask.secret;
            let number = lock(&self.world).setup.secret_of(secret);
            let mut observation = Observation::Unknown;
            // As in the poller: a secret is read again if its version is older than the known one.
            for _ in 0..4 {
                let sent = time::own();
                self.travel().await;
                let (state, date) = {
                    let mut world = lock(&self.world);
                    // A proxy writes the `Date`.
                    let proxy_skew = SignedDuration::from_millis(world.setup.proxy_skew_ms);
                    let skew = world.skew(self.server) + proxy_skew;
                    let state = world.read(self.life, number, is_on_standby);
                    (state, date(time::now() + skew))
                };
                self.travel().await;
                let Some(state) = state else { break };
                self.vault_clock.observe_date(&date, sent, time::own());
                observation = match state {
                    State::Live(version) => Observation::Live(version),
                    State::Missing | State::Deleted(_) | State::Destroyed(_) => Observation::Gone,
                };
                match state {
                    State::Live(version) if ask.may_be_stale(version) => {
                        sleep(Duration::from_millis(150)).await;
                    }
                    _ => break,
                }
            }
            if observation == Observation::Unknown {
                polled.failed.push(Arc::clone(secret));
                let mut world = lock(&self.world);
                polled.retry_in = Some(Duration::from_secs(1 + world.below(60)));
                // Otherwise the poll had no time for the secret.
                if world.below(2) == 0 {
                    polled.late.insert(Arc::clone(secret));
                }
            }
            if let Observation::Live(_) = observation {
                let policy = lock(&self.world).read_policy(self.life, number);
                if !policy.is_empty() {
                    polled.policies.insert(Arc::clone(secret), policy);
                }
            }
            polled.observations.insert(Arc::clone(secret), observation);
        }
        polled
    }

    async fn read_clock(&mut self) {
        let sent = time::own();
        self.travel().await;
        let (skew, answers) = {
            let world = lock(&self.world);
            (world.skew(self.server), world.vault_answers(self.server))
        };
        let own_time = time::floor(time::now() + skew);
        self.travel().await;
        // A server that does not report its own time has no proxy, or its time could not be known.
        if answers && lock(&self.world).setup.tells_time {
            self.vault_clock.observe_own_time(own_time, sent, time::own());
        }
    }

    async fn rest(&mut self) {
        self.travel().await;
    }

    fn forget(&mut self, _: impl Fn(&SecretId) -> bool + Send) {}

    async fn close(&mut self) {
        self.travel().await;
    }
}

impl Cluster for Ports {
    async fn revisions(&self, workloads: &[Arc<Workload>]) -> HashMap<Box<str>, Revision> {
        self.ask(|world| {
            if !world.api_answers() {
                return HashMap::new();
            }
            let found = workloads.iter().filter_map(|workload| {
                Some((Box::<str>::from(&*workload.uid), world.revision(workload)?))
            });
            found.collect()
        })
        .await
    }

    async fn patch(&self, workload: &Workload, reload: &Reload) -> Result<Manifest, WriteError> {
        let lost = || WriteError::Failed("no answer".to_owned());
        let life = self.life;
        let known = self.index.namespaces().of(&workload.id.namespace);
        lock(&self.world).sends(&workload.id, life, known.as_deref());
        let (was_right, basis) = {
            let world = lock(&self.world);
            (world.is_right_now(&workload.id, life), world.basis(life, &workload.id))
        };
        let mut sent = Sent { life, was_right, is_answered: true, is_late: false, basis };
        let slow = lock(&self.world).faults.take_slow();
        sleep(Duration::from_millis(slow)).await;
        let mut is_killed = false;
        let answer = self
            .ask(|world| {
                if !world.api_answers() {
                    return Err(lost());
                }
                let fault = world.faults.patches.pop();
                if fault.is_some() {
                    world.say(|| format!("{}: its PATCH meets {fault:?}", workload.id));
                }
                match fault {
                    // The delay of a slow PATCH has passed already.
                    None | Some(PatchFault::Slow(_)) => {}
                    Some(PatchFault::Refused) => {
                        return Err(WriteError::Refused("by a policy".to_owned()));
                    }
                    Some(PatchFault::Lost) => return Err(lost()),
                    Some(PatchFault::AnswerLost) => sent.is_answered = false,
                    Some(PatchFault::Late(ms)) => {
                        (sent.is_answered, sent.is_late) = (false, true);
                        world.write_late(workload.clone(), reload.clone(), sent, ms);
                        return Err(lost());
                    }
                    Some(PatchFault::Conflict) => world.interfere(&workload.id, false),
                    Some(PatchFault::Redeployed) => world.interfere(&workload.id, true),
                    Some(PatchFault::Killed) => {
                        is_killed = true;
                        sent.is_answered = false;
                    }
                }
                let answer = world.write(workload, reload, sent);
                if is_killed {
                    world.kills.push(self.process());
                    world.killer.notify_one();
                }
                answer
            })
            .await;
        if sent.is_answered { answer } else { Err(lost()) }
    }

    async fn get(&self, id: &WorkloadId) -> Result<Manifest, WriteError> {
        self.ask(|world| {
            if world.api_answers() {
                world.get(id)
            } else {
                Err(WriteError::Failed("no answer".to_owned()))
            }
        })
        .await
    }

    async fn last_writer(&self, _: &WorkloadId) -> Option<String> {
        self.ask(|world| world.api_answers().then(|| "somebody".to_owned())).await
    }
}

/// The present reports about a workload.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    /// The uid of the workload.
    pub(crate) uid: Option<String>,
    pub(crate) hold: Option<Hold>,
    pub(crate) reverted: Vec<usize>,
}

/// Keeps the reports of one life of a process.
#[derive(Clone)]
pub(crate) struct Recorder {
    pub(crate) world: Shared,
    pub(crate) life: u64,
    pub(crate) standings: Arc<Mutex<BTreeMap<WorkloadId, Standing>>>,
}

impl Sink for Recorder {
    fn on(&self, event: &Event<'_>) {
        if let Event::Decided { decided, decision, .. } = *event
            && let Action::Roll(_) = decision.action
        {
            lock(&self.world).note_decision(self.life, &decided.workload.id);
        }
        let (Event::Held { workload: id, .. }
        | Event::Released { workload: id }
        | Event::TakenBack { workload: id, .. }
        | Event::Reloading { workload: id, .. }
        | Event::Reloaded { workload: id, .. }
        | Event::NotNeeded { workload: id }
        | Event::ReloadFailed { workload: id, .. }
        | Event::WaitingForRevision { workload: id, .. }) = *event
        else {
            return;
        };
        let mut standings = lock(&self.standings);
        let mut world = lock(&self.world);
        let standing = standings.entry(id.clone()).or_default();
        let (uid, is_stayer) = world.identity(id).unzip();
        if standing.uid != uid {
            *standing = Standing { uid, ..Standing::default() };
        }
        let before = standing.clone();
        match *event {
            Event::Held { hold: Held::For(hold), .. } => standing.hold = Some(hold),
            Event::Held { hold: Held::Stripped { .. }, .. } => {
                standing.hold = Some(Hold::Stripped);
            }
            Event::Released { .. } => standing.hold = None,
            Event::TakenBack { secrets, .. } => {
                standing.reverted =
                    secrets.iter().map(|secret| world.setup.secret_of(secret)).collect();
            }
            _ => {}
        }
        world.say(|| format!("{id}: process {} reports {event:?}", self.life));
        let is_again = match *event {
            Event::Held { hold: Held::For(hold), .. } => before.hold == Some(hold),
            Event::TakenBack { .. } => before.reverted == standing.reverted,
            _ => false,
        };
        // A report about a workload that left and came back may be repeated or not.
        if is_again && is_stayer == Some(true) {
            world.wrong.push(format!("{id}: process {} repeats {event:?}", self.life));
        }
    }
}
