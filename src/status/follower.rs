//! Follows rotations while this replica leads, and emits an event for each that changes its state.
//!
//! Architecture Invariant: nothing is computed while neither a poll found something new nor a
//! workload changed, unless a rotation is running: its rollouts fail by time alone.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::report::{Look, Sources};
use super::rotations::{SeenRotation, Tracker, Transition};
use crate::decide::clock::ServerClock;
use crate::election::leadership::Leadership;
use crate::events::event::Event;
use crate::events::sink::Events;
use crate::model::progress::RolloutFailure;
use crate::rollouts::rotation::RotationState;

/// The pause between two looks at the counters of changes, which cost nothing.
const TICK: Duration = Duration::from_secs(1);

/// The shortest time between two computations of all rotations. With 10,000 workloads, one takes
/// about ten milliseconds.
const SHORTEST_PAUSE: Duration = Duration::from_secs(5);

/// The longest time between two computations while a rotation is running.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The clocks of all Vault servers, by the names of their connections.
pub type VaultClocks = BTreeMap<Arc<str>, Arc<ServerClock>>;

/// Follows all rotations.
#[derive(Debug)]
pub struct RotationFollower {
    sources: Sources,
    clocks: Arc<VaultClocks>,
    leadership: Leadership,
    events: Events,
}

/// What one term of leadership knows.
#[derive(Debug, Default)]
struct Term {
    tracker: Tracker,
    /// The numbers of changes of board and index at the last computation, and its time.
    last: Option<((u64, u64), Instant)>,
    /// The marks of the reloads whose rollouts took too long. Their controllers do not tell.
    overdue: HashSet<Box<str>>,
    /// Whether a rotation was running then, or a rollout in a rotation that has stopped.
    is_running: bool,
}

impl RotationFollower {
    /// Returns a follower of the rotations in `sources`, which tells `events`.
    #[must_use]
    pub fn new(
        sources: Sources,
        clocks: Arc<VaultClocks>,
        leadership: Leadership,
        events: Events,
    ) -> Self {
        Self { sources, clocks, leadership, events }
    }

    /// Follows rotations until `shutdown`. Each term of leadership begins with nothing known,
    /// because another replica may have led meanwhile.
    pub async fn run(self, shutdown: CancellationToken) {
        let terms = async {
            loop {
                // The board still has what an earlier term saw, until its secrets are read again.
                let began = (self.sources.now)();
                self.leadership.gained().await;
                tokio::select! {
                    () = self.follow(began) => {}
                    () = self.leadership.lost() => {}
                }
            }
        };
        tokio::select! {
            () = terms => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Follows rotations in one term, which began after a time.
    async fn follow(&self, began: Timestamp) {
        let mut term = Term::default();
        loop {
            let changes = (self.sources.board.changes(), self.sources.index.changes());
            if term.is_due(changes, Instant::now()) {
                self.look(&mut term, began, changes);
            }
            sleep(TICK).await;
        }
    }

    /// Computes all rotations, and emits what changed. `changes` was read before.
    fn look(&self, term: &mut Term, began: Timestamp, changes: (u64, u64)) {
        let report = self.sources.report();
        let workloads = self.sources.index.workloads();
        let Look { overdue, tallies } = report.look(&workloads);
        for (mark, workload) in &overdue {
            if !term.overdue.contains(mark) {
                let failure = Some(RolloutFailure::TimedOut);
                self.events.emit(&Event::RolloutEnded { workload, failure });
            }
        }
        term.overdue = overdue.into_iter().map(|(mark, _)| mark).collect();
        let mut is_running = false;
        let rotations = tallies.into_iter().map(|(secret, tally)| {
            let rotation = report.seen_rotation(secret, tally, began);
            is_running |= rotation.state == RotationState::Running || tally.has_rollout();
            rotation
        });
        let transitions = term.tracker.take_in(rotations);
        term.is_running = is_running;
        term.last = Some((changes, Instant::now()));
        for transition in transitions {
            self.emit(&transition);
        }
    }

    fn emit(&self, transition: &Transition) {
        let Transition { now: SeenRotation { secret, version, state, tally }, from, completes } =
            transition;
        let clock = self.clocks.get(&secret.connection).filter(|_| *completes);
        let took = clock.zip(*version).map(|(clock, version)| {
            let now = clock.at((self.sources.now)());
            // The clocks differ by a little.
            Duration::try_from(now.duration_since(version.created)).unwrap_or_default()
        });
        self.events.emit(&Event::RotationChanged {
            secret,
            version: *version,
            from: *from,
            to: *state,
            took,
            users: &tally.by_name(),
        });
    }
}

impl Term {
    /// Whether the rotations are to be computed.
    fn is_due(&self, changes: (u64, u64), now: Instant) -> bool {
        let Some((last_changes, last)) = self.last else { return true };
        let since = now.saturating_duration_since(last);
        let has_changed = changes != last_changes && since >= SHORTEST_PAUSE;
        has_changed || (self.is_running && since >= LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::decide::observation::Observation;
    use crate::decide::plan::{Action, Decision};
    use crate::election::leadership::{Claim, election_channel};
    use crate::events::sink::Sink;
    use crate::index::Index;
    use crate::model::annotation::OptIn;
    use crate::model::fixtures::{second, version};
    use crate::model::kind::Kind;
    use crate::model::poll::PollNumber;
    use crate::model::progress::RolloutStatus;
    use crate::model::secret::{DEFAULT_CONNECTION, SecretId};
    use crate::references::environment::{Container, EnvVar};
    use crate::references::manifest::Manifest;
    use crate::status::board::Board;

    #[test]
    fn nothing_is_computed_while_nothing_changes() {
        let now = Instant::now();
        let last = Some(((1, 1), now));
        let (quiet, running) =
            (Term { last, ..Term::default() }, Term { last, is_running: true, ..Term::default() });
        let seconds = |seconds| now + Duration::from_secs(seconds);
        assert!(Term::default().is_due((0, 0), now));
        assert!(!quiet.is_due((1, 1), seconds(9_999)));
        assert!(!quiet.is_due((1, 2), seconds(4)));
        assert!(quiet.is_due((1, 2), seconds(5)));
        assert!(!running.is_due((1, 1), seconds(14)));
        assert!(running.is_due((1, 1), seconds(15)));
    }

    /// Keeps the rotations that changed.
    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl Sink for Told {
        fn on(&self, event: &Event<'_>) {
            if let Event::RotationChanged { secret, version, to, took, users, .. } = *event {
                let number = version.map_or(0, |version| version.number);
                let took = took.map(|took| took.as_secs());
                let told = format!("{secret} {number} {} {took:?} {users:?}", to.name());
                self.0.lock().unwrap().push(told);
            }
        }
    }

    /// Returns an index with one workload that refers to one secret, and the secret.
    fn index() -> (Arc<Index>, Arc<SecretId>) {
        let mut manifest = Manifest {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: "u".to_owned(),
            ..Manifest::default()
        };
        manifest.annotations.push(OptIn::Current.key().to_owned(), "true".to_owned());
        let variables = vec![EnvVar::literal("A".to_owned(), "vault:secret/data/a#k".to_owned())];
        manifest.containers.push(Container { variables, ..Container::default() });
        manifest.status =
            RolloutStatus { replicas: 1, updated: 1, available: 1, ..RolloutStatus::default() };
        let index = Arc::new(Index::default());
        index.apply(manifest, Kind::DEPLOYMENT);
        let workloads = index.workloads();
        let secret = workloads[0].workload.watched().next().unwrap();
        let secret = Arc::clone(secret);
        (index, secret)
    }

    #[tokio::test(start_paused = true)]
    async fn each_term_starts_afresh_and_tells_what_it_saw_itself() {
        let (index, secret) = index();
        let board = Arc::new(Board::new(Arc::clone(&index), || second(100)));
        let poll = |number: PollNumber, version| {
            let (secret, observation) = (&secret, Observation::Live(version));
            board.on(&Event::PollStarted { server: DEFAULT_CONNECTION });
            board.on(&Event::Observed { secret, observation, poll: number });
            for decided in index.begin_poll(DEFAULT_CONNECTION).workloads {
                // Whether the pods were replaced does not matter here.
                let decision = &Decision::of(Action::Leave);
                board.on(&Event::Decided { decided: &decided, poll: number, decision });
            }
        };
        let sources = Sources {
            index: Arc::clone(&index),
            board: Arc::clone(&board),
            clock: Arc::default(),
            now: || second(100),
            injector: Arc::default(),
            rollout_timeout: Duration::from_mins(10),
            servers: Arc::default(),
            replica: "one".into(),
        };
        let told = Arc::new(Told::default());
        let sinks: Vec<Box<dyn Sink>> = vec![Box::new(Arc::clone(&told))];
        let (candidate, leadership) = election_channel();
        let connection = Arc::clone(&secret.connection);
        let clocks = Arc::new(VaultClocks::from([(connection, Arc::default())]));
        let events = Events::new(sinks);
        let follower = RotationFollower::new(sources, clocks, leadership, events);
        let end = CancellationToken::new();
        let claim = || Claim::Until(Instant::now() + Duration::from_mins(10));
        let steps = async {
            poll(1, version(1, 10));
            candidate.say(claim());
            sleep(SHORTEST_PAUSE * 2).await;
            poll(2, version(2, 70));
            sleep(SHORTEST_PAUSE * 2).await;
            candidate.say(Claim::No);
            sleep(SHORTEST_PAUSE).await;
            poll(3, version(3, 80));
            candidate.say(claim());
            sleep(SHORTEST_PAUSE * 2).await;
            end.cancel();
        };
        tokio::join!(follower.run(end.clone()), steps);
        let expected = ["secret/data/a 2 complete Some(30) {\"complete\": 1}"];
        assert_eq!(*told.0.lock().unwrap(), expected);
    }
}
