//! Plays a history: runs the world and the controller's processes, and judges the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use vault_secrets_reloader::decide::hold::Hold;
use vault_secrets_reloader::election::leadership::{Candidate, Claim, election_channel};
use vault_secrets_reloader::engine::reloader::Reloader;
use vault_secrets_reloader::engine::settings::{Clocks, Settings, SharedSettings};
use vault_secrets_reloader::engine::wake::Wake;
use vault_secrets_reloader::events::sink::Events;
use vault_secrets_reloader::index::Index;
use vault_secrets_reloader::index::entries::IndexedWorkload;
use vault_secrets_reloader::model::secret::SecretId;
use vault_secrets_reloader::model::time_rules::TimeRules;
use vault_secrets_reloader::model::workload::WorkloadId;
use vault_secrets_reloader::references::source::ReadableSources;
use vault_secrets_reloader::rollouts::budget::Budget;
use vault_secrets_reloader::rollouts::rollout::{Deadline, rollout_state};
use vault_secrets_reloader::rollouts::rotation::{KnownSecret, User, UserState, user_state};
use vault_secrets_reloader::status::board::Board;

use crate::collector::Collector;
use crate::history::{Event, ObservationHistory, PROCESSES, Setup};
use crate::ports::{Ports, Recorder, Shared, Standing, lock};
use crate::time;
use crate::world::{SETTLE, World, process_of, server_name, servers};

/// The period of polls.
const PERIOD: Duration = Duration::from_mins(1);

/// The time after the last step and the end of all faults: some polls, and the longest back-off.
const QUIET: Duration = Duration::from_mins(12);

/// How often the model gives reloads more time that wait for others or rest, and for how long at
/// least.
const MOST_PAUSES: u32 = 30;
const PAUSE: Duration = Duration::from_mins(1);

/// The time after which a killed process starts again.
const RESTART: Duration = Duration::from_secs(3);

/// One life of a process.
struct Process {
    recorder: Recorder,
    index: Arc<Index>,
    board: Arc<Board>,
    candidacy: Arc<Candidate>,
    shutdown: CancellationToken,
    watch: AbortHandle,
    /// One reloader for each server.
    reloaders: Vec<AbortHandle>,
}

struct Play {
    world: Shared,
    tasks: JoinSet<()>,
    processes: BTreeMap<usize, Process>,
    lives: u64,
    /// Whether the first controllers have started.
    has_begun: bool,
}

/// Plays a history. Returns the violations, and the journal of events if `is_told`.
pub(crate) async fn play(
    history: &ObservationHistory,
    is_told: bool,
) -> (Vec<String>, Vec<String>) {
    time::begin(history.setup.own_skew_ms);
    let world: Shared = Arc::new(std::sync::Mutex::new(World::new(&history.setup, is_told)));
    let mut play = Play {
        world: Arc::clone(&world),
        tasks: JoinSet::new(),
        processes: BTreeMap::new(),
        lives: 0,
        has_begun: false,
    };
    play.tasks.spawn(run_cluster(Arc::clone(&world)));
    play.wait(Duration::from_millis(history.setup.start_ms)).await;
    let Setup { processes, unseen_steps, unseen_pause_ms, .. } = history.setup;
    let unseen_steps = unseen_steps.min(history.steps.len());
    for (place, step) in history.steps.iter().enumerate() {
        if place == unseen_steps {
            play.begin(processes);
        } else if place + 1 == unseen_steps {
            play.wait(Duration::from_millis(unseen_pause_ms)).await;
        }
        play.wait(Duration::from_millis(step.after_ms)).await;
        match step.event {
            _ if !play.has_begun => lock(&world).happen(&step.event),
            Event::Kill(process) => play.kill(process % processes),
            Event::KillAll => (0..processes).for_each(|process| play.kill(process)),
            Event::Stop(process) => play.stop(process % processes),
            Event::Start(process) => play.start(process % processes),
            Event::Demote(process, ms) => play.demote(process % processes, ms),
            _ => lock(&world).happen(&step.event),
        }
    }
    lock(&world).mend();
    play.begin(processes);
    play.wait(QUIET).await;
    play.wait_for_rollouts().await;
    play.judge();
    play.tasks.shutdown().await;
    let mut world = lock(&world);
    (std::mem::take(&mut world.wrong), world.journal.take().unwrap_or_default())
}

impl Process {
    /// Returns how far a workload is with a secret, as the status of the process shows it.
    fn shown(&self, id: &WorkloadId, secret: &SecretId) -> Option<UserState> {
        let IndexedWorkload { workload, template_first_poll, has_rolled_out } =
            self.index.get(id)?;
        let state = self.board.state();
        let known = state.secrets.get(secret).copied().unwrap_or(KnownSecret::UNREAD);
        let standing = state.standings.get(id);
        let deadline = Deadline { now: time::own(), timeout: QUIET };
        let rollout = rollout_state(&workload, has_rolled_out, deadline);
        let user = User { workload: &workload, template_first_poll, rollout, standing };
        Some(user_state(&user, secret, &known))
    }
}

impl Play {
    /// Lets time pass. A process that is to be killed meanwhile is killed at that very moment.
    async fn wait(&mut self, time: Duration) {
        let end = Instant::now() + time;
        let killer = Arc::clone(&lock(&self.world).killer);
        loop {
            tokio::select! {
                biased;
                () = killer.notified() => {
                    let kills = std::mem::take(&mut lock(&self.world).kills);
                    for process in kills {
                        self.kill(process);
                    }
                }
                () = sleep_until(end) => return,
            }
            // The model starts killed processes again, as Kubernetes would.
            let missing: Vec<usize> = (0..lock(&self.world).setup.processes)
                .filter(|process| self.has_begun && !self.processes.contains_key(process))
                .collect();
            if !missing.is_empty() && Instant::now() + RESTART < end {
                sleep(RESTART).await;
                for process in missing {
                    self.start(process);
                }
            }
        }
    }

    /// Lets time pass while reloads wait for others, or rest, and until those that began are done.
    async fn wait_for_rollouts(&mut self) {
        if !lock(&self.world).setup.rollouts.is_on {
            return;
        }
        for _ in 0..MOST_PAUSES {
            let was_waiting = self.is_waiting();
            let rest = lock(&self.world).longest_rest();
            self.wait(if was_waiting { PAUSE.max(rest) } else { PAUSE }).await;
            if !was_waiting && !self.is_waiting() {
                return;
            }
        }
    }

    /// Whether a process says that a reload waits, but for people.
    fn is_waiting(&self) -> bool {
        let world = lock(&self.world);
        let waits = |hold| {
            use Hold::{BackOff, Budget, Interval, RolloutLimit, Wave};
            matches!(hold, Some(Wave | RolloutLimit | Interval | Budget | BackOff))
        };
        self.processes.values().any(|process| {
            let standings = lock(&process.recorder.standings);
            standings.iter().any(|(id, standing)| waits(standing.hold) && world.may_be_reloaded(id))
        })
    }

    /// Starts each process that does not run.
    fn begin(&mut self, processes: usize) {
        self.has_begun = true;
        (0..processes).for_each(|process| self.start(process));
    }

    fn start(&mut self, process: usize) {
        if self.processes.contains_key(&process) {
            return;
        }
        self.lives += 1;
        let life = self.lives * PROCESSES as u64 + process as u64;
        let (count, may_be_missing, budget, rollouts) = {
            let setup = &lock(&self.world).setup;
            let budget = Budget::new(setup.burst, setup.burst * 4);
            (setup.servers, setup.may_be_missing, budget, setup.rollouts)
        };
        let wake = (rollouts.woken >> process & 1 == 1).then(Wake::default);
        let index = Arc::new(Index::new(servers(count), ReadableSources::default()));
        let board = Arc::new(Board::new(Arc::clone(&index), time::own));
        let synced = CancellationToken::new();
        let cluster_clock = Arc::default();
        let recorder = Recorder { world: Arc::clone(&self.world), life, standings: Arc::default() };
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut world = lock(&self.world);
        world.say(|| format!("process {life} starts"));
        world.watches.insert(process, sender);
        world.living.insert(life);
        drop(world);
        let shutdown = CancellationToken::new();
        let (candidacy, leadership) = election_channel();
        candidacy.say(Claim::Always);
        let reloaders = (0..count).map(|server| {
            let clocks =
                Clocks { now: time::own, cluster: Arc::clone(&cluster_clock), ..Clocks::default() };
            let ports = Ports {
                world: Arc::clone(&self.world),
                index: Arc::clone(&index),
                life,
                server,
                vault_clock: Arc::clone(&clocks.vault),
                cluster_clock: Arc::clone(&cluster_clock),
            };
            let settings = Settings {
                server: server_name(server),
                ignore_missing: may_be_missing,
                shared: SharedSettings {
                    period: PERIOD,
                    settle: SETTLE,
                    ignore_versions_before: None,
                    dry_run: false,
                    time_rules: TimeRules::default(),
                    rollouts: rollouts.rules,
                    heeds_owners: true,
                    start_within: Duration::ZERO,
                },
            };
            let (index, budget) = (Arc::clone(&index), budget.clone());
            let reloader = Reloader::new(
                index,
                ports.clone(),
                ports,
                Events::new(vec![Box::new(recorder.clone()), Box::new(Arc::clone(&board))]),
                clocks,
                settings,
                budget,
            );
            let reloader = match &wake {
                Some(wake) => reloader.with_wake(wake.receiver()),
                None => reloader,
            };
            reloader.run(synced.clone(), leadership.clone(), shutdown.clone())
        });
        let reloaders = reloaders.collect::<Vec<_>>();
        let reloaders = reloaders.into_iter().map(|run| self.tasks.spawn(run)).collect();
        let collector = Collector {
            world: Arc::clone(&self.world),
            life,
            index: Arc::clone(&index),
            cluster_clock,
            wake: wake.clone(),
            reads: BTreeMap::new(),
        };
        let watch = self.tasks.spawn(collector.run(synced, receiver));
        let candidacy = Arc::new(candidacy);
        let process_of_life =
            Process { recorder, index, board, candidacy, shutdown, watch, reloaders };
        self.processes.insert(process, process_of_life);
    }

    fn kill(&mut self, process: usize) {
        let Some(Process { watch, reloaders, .. }) = self.processes.remove(&process) else {
            return;
        };
        for task in reloaders.into_iter().chain([watch]) {
            task.abort();
        }
        let mut world = lock(&self.world);
        world.watches.remove(&process);
        world.living.retain(|life| process_of(*life) != process);
        world.say(|| format!("process {process} is killed"));
    }

    /// Ends a process in order. Its requests under way go on for a moment.
    fn stop(&mut self, process: usize) {
        let Some(Process { shutdown, watch, .. }) = self.processes.remove(&process) else {
            return;
        };
        shutdown.cancel();
        watch.abort();
        let mut world = lock(&self.world);
        world.watches.remove(&process);
        world.living.retain(|life| process_of(*life) != process);
        world.say(|| format!("process {process} is told to end"));
    }

    /// Takes the leadership from a process for a while.
    fn demote(&mut self, process: usize, ms: u64) {
        let Some(Process { candidacy, recorder, .. }) = self.processes.get(&process) else {
            return;
        };
        candidacy.say(Claim::No);
        let mut world = lock(&self.world);
        world.say(|| format!("process {process} does not lead for {ms} ms"));
        world.demoted.insert(recorder.life);
        drop(world);
        let candidacy = Arc::clone(candidacy);
        self.tasks.spawn(async move {
            sleep(Duration::from_millis(ms)).await;
            candidacy.say(Claim::Always);
        });
    }

    /// Judges the end of a history.
    fn judge(&self) {
        let mut world = lock(&self.world);
        for slot in 0..world.objects.len() {
            let (Some(id), Some((lacking, gone))) = (world.id(slot), world.lacking(slot)) else {
                continue;
            };
            let tampered = world.was_tampered_with(&id) == Some(true);
            let (mut complaints, mut untrue) = (Vec::new(), Vec::new());
            for process in self.processes.values() {
                let recorder = &process.recorder;
                // No process knows the time of a restore.
                for secret in lacking.iter().filter(|_| !world.was_restored()) {
                    let shown = process.shown(&id, &world.setup.secret_id(*secret));
                    if shown == Some(UserState::Complete) {
                        untrue.push(format!(
                            "{id}: process {} shows secret {secret} as complete, by {:?}",
                            recorder.life,
                            process.board.state()
                        ));
                    }
                }
                let standing = lock(&recorder.standings).get(&id).cloned();
                let uid = world.identity(&id).map(|(uid, _)| uid);
                let standing = standing.filter(|standing| standing.uid == uid).unwrap_or_default();
                let Standing { hold, reverted, .. } = &standing;
                let is_held = match hold {
                    Some(Hold::SecretGone) => !gone.is_empty(),
                    Some(Hold::Stripped) => tampered,
                    Some(Hold::RotationStopped) => world.is_stopped(slot),
                    Some(Hold::SecretOwner) => world.is_held_by_owner(slot),
                    // All other rollouts have ended by now, each workload has rested, and no freeze
                    // is left.
                    Some(
                        Hold::Deleting
                        | Hold::BackOff
                        | Hold::Budget
                        | Hold::DryRun
                        | Hold::Wave
                        | Hold::RolloutLimit
                        | Hold::Interval
                        | Hold::Frozen { .. }
                        | Hold::OutsideWindow { .. }
                        | Hold::InvalidTimeRule { .. }
                        | Hold::InjectorAway
                        | Hold::InjectorMissing,
                    )
                    | None => false,
                };
                let of_former = world.lacking_of_former(slot, recorder.life);
                let missed: Vec<_> = lacking
                    .iter()
                    .chain(&of_former)
                    .filter(|secret| !(is_held || tampered && reverted.contains(secret)))
                    .collect();
                // A reported hold must be true, also if no reload is missed. A workload that left
                // and came back is another workload to the reporter, but not to the recorder.
                let is_untrue = hold.is_some() && !is_held;
                let is_stayer = world.identity(&id).is_some_and(|(_, is_stayer)| is_stayer);
                if is_stayer && (is_untrue || !tampered && !reverted.is_empty()) {
                    untrue.push(format!("{id}: process {} says {standing:?}", recorder.life));
                }
                if !missed.is_empty() {
                    complaints.push(format!(
                        "{id}: secrets {missed:?} have not reached its pods, and process {} says \
                         {standing:?}",
                        recorder.life
                    ));
                }
            }
            // Only a witness can know of a restored storage, so one process without a complaint is
            // enough.
            if world.was_restored() && complaints.len() < self.processes.len() {
                complaints.clear();
            }
            for what in complaints.into_iter().chain(untrue) {
                world.say(|| format!("WRONG: {what}"));
                world.wrong.push(what);
            }
        }
    }
}

/// Runs the controllers of workloads, the kubelets, and the owners who take reloads back.
async fn run_cluster(world: Shared) {
    let added = Arc::clone(&lock(&world).job_added);
    loop {
        let next = lock(&world).next_job();
        let due = async {
            match next {
                Some(time) => sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => lock(&world).work(),
            () = added.notified() => {}
        }
    }
}
