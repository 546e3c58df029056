//! The board: the last observation of each secret, the last decision about each workload, and the
//! last polls of each server. It is a sink of events.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::decide::observation::Observation;
use crate::decide::plan::Decision;
use crate::events::event::Event;
use crate::events::sink::Sink;
use crate::index::Index;
use crate::index::entries::IndexedWorkload;
use crate::model::poll::PollNumber;
use crate::model::secret::SecretId;
use crate::model::workload::WorkloadId;
use crate::rollouts::rotation::{KnownSecret, Standing};

/// The number of secrets without a reference, and of workloads that are gone, that may be kept. They
/// are forgotten when there are more.
const MOST_UNUSED: usize = 1_000;

/// What the events told.
#[derive(Debug)]
pub struct Board {
    index: Arc<Index>,
    now: fn() -> Timestamp,
    /// The number of changes so far that may change the state of a rotation.
    changes: AtomicU64,
    state: Mutex<State>,
}

/// What is known of each secret.
pub type KnownSecrets = HashMap<Arc<SecretId>, KnownSecret>;

/// The last decision about each workload.
pub type Standings = HashMap<WorkloadId, Standing>;

/// The content of the board.
///
/// Reports share both maps, and hold no lock while they are made. An event that comes meanwhile
/// copies the map that it changes. That is rare, since a report takes milliseconds.
#[derive(Debug, Default)]
pub struct State {
    /// What is known of each secret.
    pub secrets: Arc<KnownSecrets>,
    /// The last decision about each workload.
    pub standings: Arc<Standings>,
    /// The last polls of each server.
    pub polls: BTreeMap<Box<str>, Polls>,
    /// The last poll that saw a version, or the loss of one, first.
    last_news: PollNumber,
}

/// The last polls of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polls {
    /// When the present or last poll began.
    pub began: Option<Timestamp>,
    /// When the last poll ended.
    pub last: Option<Timestamp>,
    /// When the last poll ended that the server answered.
    pub last_answered: Option<Timestamp>,
}

impl Board {
    /// Returns an empty board. `now` returns the present by the controller's clock.
    #[must_use]
    pub fn new(index: Arc<Index>, now: fn() -> Timestamp) -> Self {
        Self { index, now, changes: AtomicU64::default(), state: Mutex::default() }
    }

    /// The number of changes so far that may change the state of a rotation. A poll that finds
    /// nothing new makes none.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Counts a change. The caller holds the lock, so who reads the content later has the change.
    fn has_changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Takes in what a poll saw of a secret.
    fn observe(&self, secret: &Arc<SecretId>, observation: Observation, poll: PollNumber) {
        let mut state = self.state();
        let State { secrets, polls, last_news, .. } = &mut *state;
        let began = polls.get(&*secret.connection).and_then(|polls| polls.began);
        let secrets = Arc::make_mut(secrets);
        let known = secrets.entry(Arc::clone(secret)).or_insert(KnownSecret::UNREAD);
        let seen = |known: &KnownSecret| (known.reading, known.version, known.first_poll);
        let before = seen(known);
        known.observe(poll, began, observation);
        if before != seen(known) {
            if known.first_poll == poll {
                *last_news = poll.max(*last_news);
            }
            self.has_changed();
        }
    }

    /// Takes in a decision about a workload.
    fn decide(&self, decided: &IndexedWorkload, poll: PollNumber, decision: &Decision) {
        let id = &decided.workload.id;
        let mut standing = Standing::of(poll, decided.template_first_poll, decision);
        let mut state = self.state();
        let State { standings, last_news, .. } = &mut *state;
        let standings = Arc::make_mut(standings);
        let Some(known) = standings.get_mut(id) else {
            standings.insert(id.clone(), standing);
            self.has_changed();
            return;
        };
        // A PATCH that failed is tried again after a pause. Another hold, or none, ends that.
        if decision.action.is_tried()
            && let (Some(open), Some(before)) = (&mut standing.open, &mut known.open)
            && open.changed == before.changed
        {
            open.error = before.error.take();
        }
        let is_same = known.open == standing.open
            && known.template_first_poll == standing.template_first_poll;
        // The first decision after a new version counts, also if it is the same as before.
        if !is_same || known.poll < *last_news {
            self.has_changed();
        }
        *known = standing;
    }

    /// Returns the content of the board.
    pub fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock ends the process.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Board {
    fn on(&self, event: &Event<'_>) {
        match *event {
            Event::PollingBegan { server } => {
                // Another replica led meanwhile, and may have seen other versions.
                let mut state = self.state();
                Arc::make_mut(&mut state.secrets).retain(|secret, _| *secret.connection != *server);
                state.polls.remove(server);
                self.has_changed();
            }
            Event::PollStarted { server } => {
                let now = (self.now)();
                self.state().polls.entry(server.into()).or_default().began = Some(now);
            }
            Event::PollEnded { server, is_answered, .. } => {
                let now = (self.now)();
                let mut state = self.state();
                let polls = state.polls.entry(server.into()).or_default();
                polls.last = Some(now);
                if is_answered {
                    polls.last_answered = Some(now);
                }
                let (workloads, used) = self.index.len();
                if state.secrets.len() > used + MOST_UNUSED {
                    Arc::make_mut(&mut state.secrets)
                        .retain(|secret, _| self.index.refers_to(secret));
                }
                if state.standings.len() > workloads + MOST_UNUSED {
                    Arc::make_mut(&mut state.standings)
                        .retain(|id, _| self.index.uid(id).is_some());
                }
            }
            Event::Observed { secret, observation, poll } => {
                self.observe(secret, observation, poll);
            }
            Event::Decided { decided, poll, decision } => self.decide(decided, poll, decision),
            Event::ReloadFailed { workload, error, .. } => {
                let mut state = self.state();
                if let Some(standing) = Arc::make_mut(&mut state.standings).get_mut(workload)
                    && let Some(open) = &mut standing.open
                {
                    open.error = Some(error.into());
                    self.has_changed();
                }
            }
            Event::Reloaded { workload, .. } | Event::Removed { workload } => {
                // Until the next decision, the record of a reloaded workload tells.
                let mut state = self.state();
                Arc::make_mut(&mut state.standings).remove(workload);
                self.has_changed();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::decide::hold::Hold;
    use crate::decide::plan::{Action, Cause};
    use crate::model::fixtures::{second, secret, version, workload};
    use crate::model::strategy::Rollout;

    fn board() -> Board {
        Board::new(Arc::default(), || second(7))
    }

    fn decision(action: Action) -> Decision {
        Decision { changed: vec![secret("a")], ..Decision::of(action) }
    }

    #[test]
    fn an_error_stays_until_the_reload_succeeds_or_is_not_needed() {
        let board = board();
        let decided = IndexedWorkload {
            workload: Arc::new(workload("web", &["a"])),
            template_first_poll: 1,
            has_rolled_out: true,
        };
        let id = &decided.workload.id;
        let (cause, rollout, delay) = (Cause::Witnessed, Rollout::Automatic, None);
        let decide = |action| {
            let decision = decision(action);
            board.on(&Event::Decided { decided: &decided, poll: 2, decision: &decision });
        };
        let error = || {
            let state = board.state();
            let open = state.standings.get(id).and_then(|standing| standing.open.as_deref());
            open.and_then(|open| open.error.as_deref()).map(str::to_owned)
        };
        decide(Action::Roll(cause));
        board.on(&Event::ReloadFailed { workload: id, cause, error: "refused", again: false });
        assert_eq!(error().as_deref(), Some("refused"));
        decide(Action::Hold(Hold::BackOff));
        assert_eq!(error().as_deref(), Some("refused"));
        decide(Action::Hold(Hold::SecretGone));
        assert_eq!(error(), None, "another hold explains more");
        board.on(&Event::ReloadFailed { workload: id, cause, error: "refused", again: false });
        board.on(&Event::Reloaded { workload: id, count: 1, cause, rollout, changes: &[], delay });
        assert_eq!(board.state().standings.len(), 0);
        decide(Action::Leave);
        board.on(&Event::Removed { workload: id });
        assert_eq!(board.state().standings.len(), 0);
    }

    #[test]
    fn a_poll_that_finds_nothing_new_makes_no_change() {
        let board = board();
        let decided = IndexedWorkload {
            workload: Arc::new(workload("web", &["a"])),
            template_first_poll: 1,
            has_rolled_out: true,
        };
        let (secret, server) = (&secret("a"), "default");
        let poll = |poll, number, action| {
            let before = board.changes();
            let observation = Observation::Live(version(number, 1));
            board.on(&Event::PollStarted { server });
            board.on(&Event::Observed { secret, observation, poll });
            let took = Duration::ZERO;
            board.on(&Event::PollEnded { server, is_answered: true, took });
            let after_reads = board.changes();
            let decision = Decision::of(action);
            board.on(&Event::Decided { decided: &decided, poll, decision: &decision });
            (after_reads > before, board.changes() > after_reads)
        };
        assert_eq!(poll(1, 1, Action::Leave), (true, true));
        assert_eq!(poll(2, 1, Action::Leave), (false, false));
        assert_eq!(
            poll(3, 2, Action::Leave),
            (true, true),
            "the same decision, about another version"
        );
        assert_eq!(poll(4, 2, Action::Leave), (false, false));
        assert_eq!(poll(5, 2, Action::Hold(Hold::SecretGone)), (false, true));
        assert_eq!(poll(6, 2, Action::Hold(Hold::SecretGone)), (false, false));
    }

    #[test]
    fn an_event_copies_what_a_report_still_shares_and_nothing_else() {
        let board = board();
        let observe = |path: &str| {
            let (secret, observation) = (&secret(path), Observation::Live(version(1, 1)));
            board.on(&Event::Observed { secret, observation, poll: 1 });
        };
        let place = || Arc::as_ptr(&board.state().secrets);
        observe("a");
        let before = place();
        observe("b");
        assert_eq!(place(), before);
        let shared = Arc::clone(&board.state().secrets);
        observe("c");
        assert_eq!((shared.len(), board.state().secrets.len()), (2, 3));
    }

    #[test]
    fn polls_and_secrets_are_kept_and_unused_secrets_are_forgotten() {
        let board = board();
        let took = Duration::ZERO;
        for number in 0..=MOST_UNUSED {
            let secret = &secret(&format!("s{number}"));
            let observation = Observation::Live(version(1, 1));
            board.on(&Event::Observed { secret, observation, poll: 1 });
        }
        assert_eq!(board.state().secrets.len(), MOST_UNUSED + 1);
        board.on(&Event::PollEnded { server: "default", is_answered: false, took });
        assert_eq!(board.state().secrets.len(), 0);
        let polls = |board: &Board| board.state().polls.get("default").copied();
        let (last, last_answered) = (Some(second(7)), None);
        assert_eq!(polls(&board), Some(Polls { began: None, last, last_answered }));
        board.on(&Event::PollEnded { server: "default", is_answered: true, took });
        assert_eq!(polls(&board), Some(Polls { began: None, last, last_answered: last }));
        let (secret, observation) = (&secret("a"), Observation::Live(version(1, 1)));
        board.on(&Event::Observed { secret, observation, poll: 1 });
        board.on(&Event::PollingBegan { server: "other" });
        let known = |board: &Board| board.state().secrets.len();
        assert_eq!(known(&board), 1);
        assert!(polls(&board).is_some());
        board.on(&Event::PollingBegan { server: "default" });
        assert_eq!(known(&board), 0, "a new term");
        assert_eq!(polls(&board), None);
    }
}
