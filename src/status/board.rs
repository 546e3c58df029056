//! The board: the last observation of each secret, the last decision about each workload, and the
//! last polls of each server. It is a sink of events.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::events::event::Event;
use crate::events::sink::Sink;
use crate::index::Index;
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
    state: Mutex<State>,
}

/// The content of the board.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// What is known of each secret.
    pub secrets: HashMap<Arc<SecretId>, KnownSecret>,
    /// The last decision about each workload.
    pub standings: HashMap<WorkloadId, Standing>,
    /// The last polls of each server.
    pub polls: BTreeMap<Box<str>, Polls>,
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
        Self { index, now, state: Mutex::default() }
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
                state.secrets.retain(|secret, _| *secret.connection != *server);
                state.polls.remove(server);
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
                    state.secrets.retain(|secret, _| self.index.refers_to(secret));
                }
                if state.standings.len() > workloads + MOST_UNUSED {
                    state.standings.retain(|id, _| self.index.uid(id).is_some());
                }
            }
            Event::Observed { secret, observation, poll } => {
                let mut state = self.state();
                let polls = state.polls.get(&*secret.connection);
                let began = polls.and_then(|polls| polls.began);
                if let Some(known) = state.secrets.get_mut(secret) {
                    known.observe(poll, began, observation);
                } else {
                    let mut known = KnownSecret::UNREAD;
                    known.observe(poll, began, observation);
                    state.secrets.insert(Arc::clone(secret), known);
                }
            }
            Event::Decided { decided, poll, decision } => {
                let id = &decided.workload.id;
                let mut standing = Standing::of(poll, decided.template_first_poll, decision);
                let mut state = self.state();
                match state.standings.get_mut(id) {
                    Some(known) => {
                        // A PATCH that failed is tried again after a pause. Another hold, or none,
                        // ends that.
                        if decision.action.is_tried()
                            && let (Some(open), Some(before)) =
                                (&mut standing.open, &mut known.open)
                            && open.changed == before.changed
                        {
                            open.error = before.error.take();
                        }
                        *known = standing;
                    }
                    None => drop(state.standings.insert(id.clone(), standing)),
                }
            }
            Event::ReloadFailed { workload, error, .. } => {
                if let Some(standing) = self.state().standings.get_mut(workload)
                    && let Some(open) = &mut standing.open
                {
                    open.error = Some(error.into());
                }
            }
            Event::Reloaded { workload, .. } | Event::Removed { workload } => {
                // Until the next decision, the record of a reloaded workload tells.
                self.state().standings.remove(workload);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::decide::observation::Observation;
    use crate::decide::plan::{Action, Cause, Decision, Hold};
    use crate::index::entries::IndexedWorkload;
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
