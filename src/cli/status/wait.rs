//! `--wait`: asks again until a rotation has ended.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};

use super::error::{RequestError, StatusError};
use super::request::{self, Fetch, SecretName};
use crate::status::api::{Rotation, SecretStatus};

/// The time between two requests.
const INTERVAL: Duration = Duration::from_secs(2);

/// What the command waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Goal {
    /// The number of the version. Any other version counts only if a poll shows it that began after
    /// the first answer: an earlier poll may have missed a rotation just before the command, and
    /// numbers begin again at 1 when a secret is removed and written again.
    pub(super) version: Option<u64>,
    /// Whether the old credential must be revocable, beyond a complete rotation.
    pub(super) revocable: bool,
}

impl Goal {
    /// Whether an answer tells of the version that is waited for. `since` is the time of the first
    /// answer, by the controller's clock.
    fn is_known(self, rotation: &Rotation, since: Timestamp) -> bool {
        let is_read = rotation.read_at.is_some_and(|read_at| read_at >= since);
        match (self.version, rotation.version.map(|version| version.number)) {
            (None, _) => is_read,
            (Some(wanted), Some(number)) => number == wanted || number > wanted && is_read,
            (Some(_), None) => false,
        }
    }

    /// Whether a rotation is where it is waited for to be.
    fn is_reached(self, rotation: &Rotation) -> bool {
        rotation.state == "complete" && (rotation.revocable || !self.revocable)
    }
}

/// What is worth a line while the command waits.
#[derive(Debug)]
pub(super) enum Note<'a> {
    /// The version, the state or the counts have changed.
    Changed(&'a Rotation),
    /// Requests fail since now, and are repeated.
    Failing(&'a RequestError),
}

/// How the wait ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WaitResult {
    /// The rotation is complete.
    Complete(SecretStatus),
    /// The rotation has stopped.
    Stopped(SecretStatus),
    /// The time-out has passed: the present state, or why there is none.
    TimedOut(Result<SecretStatus, RequestError>),
}

/// Waits until the rotation of a secret is complete or has stopped. An error that may pass is
/// noted once, until a request succeeds again. All other errors end the wait.
///
/// While the rotation runs, only its counts are requested. The workloads are requested at the end.
pub(super) async fn wait(
    api: &impl Fetch,
    secret: &SecretName,
    goal: Goal,
    timeout: Duration,
    mut note: impl FnMut(Note<'_>) -> io::Result<()>,
) -> Result<WaitResult, StatusError> {
    let deadline = Instant::now() + timeout;
    let mut last: Option<Rotation> = None;
    let mut is_failing = false;
    let mut since = None;
    loop {
        match attempt(api, secret, goal, &mut since).await {
            Ok(Attempt::Ended(result)) => return Ok(result),
            Ok(Attempt::Open(rotation)) => {
                is_failing = false;
                // Each poll reads the secret again, which is no change.
                let rotation = Rotation { read_at: None, ..rotation };
                if last.as_ref() != Some(&rotation) {
                    note(Note::Changed(&rotation))?;
                    last = Some(rotation);
                }
            }
            Err(error) if error.is_transient() => {
                if !is_failing {
                    note(Note::Failing(&error))?;
                }
                is_failing = true;
            }
            Err(error) => return Err(error.into()),
        }
        let now = Instant::now();
        if now >= deadline {
            break;
        }
        sleep_until((now + INTERVAL).min(deadline)).await;
    }
    match request::secret(api, secret).await {
        Ok(status) => Ok(WaitResult::of(status, goal, since)),
        Err(error) if error.is_transient() => Ok(WaitResult::TimedOut(Err(error))),
        Err(error) => Err(error.into()),
    }
}

impl WaitResult {
    /// Returns the result that an answer means at the end of the time-out. `since` is the time of
    /// the first answer.
    fn of(status: SecretStatus, goal: Goal, since: Option<Timestamp>) -> Self {
        let rotation = &status.rotation;
        if !since.is_some_and(|since| goal.is_known(rotation, since)) {
            Self::TimedOut(Ok(status))
        } else if goal.is_reached(rotation) {
            Self::Complete(status)
        } else if rotation.state == "stopped" {
            Self::Stopped(status)
        } else {
            Self::TimedOut(Ok(status))
        }
    }
}

/// What one round of requests showed.
enum Attempt {
    Ended(WaitResult),
    Open(Rotation),
}

async fn attempt(
    api: &impl Fetch,
    secret: &SecretName,
    goal: Goal,
    since: &mut Option<Timestamp>,
) -> Result<Attempt, RequestError> {
    let status = request::rotation(api, secret).await?;
    since.get_or_insert(status.now);
    if let WaitResult::TimedOut(Ok(status)) = WaitResult::of(status, goal, *since) {
        return Ok(Attempt::Open(status.rotation));
    }
    // The rotation may have changed between the two requests. The second one counts.
    let result = WaitResult::of(request::secret(api, secret).await?, goal, *since);
    Ok(match result {
        WaitResult::TimedOut(Ok(status)) => Attempt::Open(status.rotation),
        ended => Attempt::Ended(ended),
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;

    use super::super::request::Query;
    use super::*;
    use crate::model::fixtures::second;
    use crate::status::api::{Page, Secret, Version};

    const TIMEOUT: Duration = Duration::from_mins(1);

    /// An API that gives scripted answers. The last one stays.
    struct Scripted {
        answers: RefCell<VecDeque<Result<SecretStatus, RequestError>>>,
        requests: RefCell<usize>,
    }

    impl Fetch for Scripted {
        async fn fetch(&self, _: &Query) -> Result<Vec<u8>, RequestError> {
            *self.requests.borrow_mut() += 1;
            let mut answers = self.answers.borrow_mut();
            let next =
                if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
            next.unwrap().map(|status| serde_json::to_vec(&status).unwrap())
        }
    }

    fn scripted<const N: usize>(answers: [Result<SecretStatus, RequestError>; N]) -> Scripted {
        Scripted { answers: RefCell::new(answers.into()), requests: RefCell::default() }
    }

    fn status(state: &str, complete: u64) -> SecretStatus {
        let secret = Secret { server: "default".to_owned(), namespace: None, path: "a".to_owned() };
        let workloads = [("complete", complete), ("running", 5 - complete)];
        let workloads =
            workloads.into_iter().map(|(state, count)| (state.to_owned(), count)).collect();
        let version = Some(Version { number: 2, created: second(0) });
        let state = state.to_owned();
        let (read_at, revocable) = (Some(second(9)), false);
        let rotation = Rotation { secret, version, read_at, state, revocable, workloads };
        SecretStatus {
            now: second(9),
            rotation,
            users: Page { items: Vec::new(), total: 5, next: None },
        }
    }

    fn unreachable() -> RequestError {
        RequestError::Unreachable { address: "http://a".to_owned(), cause: "refused".to_owned() }
    }

    /// Waits, and returns the notes, the result and the seconds that passed.
    async fn run(api: &Scripted) -> (Vec<String>, Result<WaitResult, StatusError>, u64) {
        run_to(api, Goal::default()).await
    }

    async fn run_to(
        api: &Scripted,
        goal: Goal,
    ) -> (Vec<String>, Result<WaitResult, StatusError>, u64) {
        let start = Instant::now();
        let mut notes = Vec::new();
        let result = wait(api, &SecretName::default(), goal, TIMEOUT, |note| {
            notes.push(match note {
                Note::Changed(rotation) => {
                    format!("{} {}", rotation.state, rotation.workloads["complete"])
                }
                Note::Failing(_) => "failing".to_owned(),
            });
            Ok(())
        })
        .await;
        (notes, result, start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn each_change_is_noted_once_until_the_rotation_is_complete() {
        let api = scripted([
            Ok(status("running", 1)),
            Ok(status("running", 1)),
            Ok(status("running", 3)),
            Ok(status("complete", 5)),
        ]);
        let (notes, result, seconds) = run(&api).await;
        assert_eq!(notes, ["running 1", "running 3"]);
        assert_eq!(result.unwrap(), WaitResult::Complete(status("complete", 5)));
        assert_eq!((seconds, *api.requests.borrow()), (6, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_may_be_the_last() {
        for (state, expected) in [
            ("complete", WaitResult::Complete(status("complete", 5))),
            ("stopped", WaitResult::Stopped(status("stopped", 5))),
        ] {
            let (notes, result, seconds) = run(&scripted([Ok(status(state, 5))])).await;
            assert_eq!((notes.len(), seconds), (0, 0));
            assert_eq!(result.unwrap(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_with_all_workloads_counts() {
        let api = scripted([
            Ok(status("complete", 5)),
            Ok(status("running", 0)),
            Ok(status("running", 0)),
            Ok(status("stopped", 4)),
        ]);
        let (notes, result, _) = run(&api).await;
        assert_eq!(notes, ["running 0"]);
        assert_eq!(result.unwrap(), WaitResult::Stopped(status("stopped", 4)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_has_an_end() {
        let (notes, result, seconds) = run(&scripted([Ok(status("held", 2))])).await;
        assert_eq!(notes, ["held 2"]);
        assert_eq!(result.unwrap(), WaitResult::TimedOut(Ok(status("held", 2))));
        assert_eq!(seconds, TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_noted_once_and_outlasted() {
        let not_leader = || RequestError::Refused {
            status: 503,
            code: "notLeader".to_owned(),
            message: "m".to_owned(),
        };
        let api = scripted([
            Err(unreachable()),
            Err(not_leader()),
            Ok(status("running", 1)),
            Err(unreachable()),
            Ok(status("complete", 5)),
        ]);
        let (notes, result, _) = run(&api).await;
        assert_eq!(notes, ["failing", "running 1", "failing"]);
        assert_eq!(result.unwrap(), WaitResult::Complete(status("complete", 5)));
        let (notes, result, seconds) = run(&scripted([Err(unreachable())])).await;
        assert_eq!((notes, seconds), (vec!["failing".to_owned()], TIMEOUT.as_secs()));
        assert_eq!(result.unwrap(), WaitResult::TimedOut(Err(unreachable())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_ends_the_wait() {
        let refused = RequestError::Refused {
            status: 404,
            code: "notFound".to_owned(),
            message: "No workload refers to a".to_owned(),
        };
        let (notes, result, seconds) = run(&scripted([Err(refused)])).await;
        assert_eq!((notes.len(), seconds), (0, 0));
        assert_eq!(result.unwrap_err().to_string(), "No workload refers to a");
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_earlier_poll_showed_is_no_answer() {
        let read_at = |mut status: SecretStatus, at| {
            status.rotation.read_at = Some(second(at));
            Ok(status)
        };
        // The rotation just before the command is seen by the next poll.
        let api = scripted([
            read_at(status("complete", 5), 8),
            read_at(status("complete", 5), 8),
            read_at(status("running", 2), 10),
            read_at(status("complete", 5), 10),
        ]);
        let (notes, result, _) = run(&api).await;
        assert_eq!(notes, ["complete 5", "running 2"]);
        assert!(matches!(result, Ok(WaitResult::Complete(_))), "{result:?}");
        // No poll begins in time.
        let (_, result, _) = run(&scripted([read_at(status("stopped", 4), 8)])).await;
        assert!(matches!(result, Ok(WaitResult::TimedOut(Ok(_)))), "{result:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_that_is_named_is_enough() {
        let numbered = |number, read_at| {
            let mut status = status("complete", 5);
            (status.rotation.version, status.rotation.read_at) =
                (Some(Version { number, created: second(0) }), Some(second(read_at)));
            Ok(status)
        };
        let goal = Goal { version: Some(3), revocable: false };
        let api = scripted([numbered(2, 8), numbered(3, 8)]);
        let (_, result, seconds) = run_to(&api, goal).await;
        assert!(matches!(result, Ok(WaitResult::Complete(_))), "{result:?}");
        assert_eq!(seconds, INTERVAL.as_secs());
        let (_, result, _) = run_to(&scripted([numbered(4, 10)]), goal).await;
        assert!(matches!(result, Ok(WaitResult::Complete(_))), "{result:?}");
        // A higher number may be of a secret that was removed and written again since.
        let (_, result, _) = run_to(&scripted([numbered(4, 8)]), goal).await;
        assert!(matches!(result, Ok(WaitResult::TimedOut(_))), "{result:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_workloads_are_waited_for_where_that_is_wanted() {
        let mut revocable = status("complete", 5);
        revocable.rotation.revocable = true;
        let api = scripted([Ok(status("complete", 5)), Ok(revocable)]);
        let goal = Goal { version: None, revocable: true };
        let (_, result, seconds) = run_to(&api, goal).await;
        assert!(matches!(result, Ok(WaitResult::Complete(_))), "{result:?}");
        assert_eq!(seconds, INTERVAL.as_secs());
    }
}
