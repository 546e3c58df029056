//! `--wait`: asks again until a rotation has ended.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::error::{RequestError, StatusError};
use super::request::{self, Fetch, SecretName};
use crate::status::api::{Rotation, SecretStatus};

/// The time between two requests.
const INTERVAL: Duration = Duration::from_secs(2);

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
    timeout: Duration,
    mut note: impl FnMut(Note<'_>) -> io::Result<()>,
) -> Result<WaitResult, StatusError> {
    let deadline = Instant::now() + timeout;
    let mut last: Option<Rotation> = None;
    let mut is_failing = false;
    loop {
        match attempt(api, secret).await {
            Ok(Attempt::Ended(result)) => return Ok(result),
            Ok(Attempt::Open(rotation)) => {
                is_failing = false;
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
        Ok(status) => Ok(WaitResult::of(status)),
        Err(error) if error.is_transient() => Ok(WaitResult::TimedOut(Err(error))),
        Err(error) => Err(error.into()),
    }
}

impl WaitResult {
    /// Returns the result at the end of the time-out.
    fn of(status: SecretStatus) -> Self {
        match status.rotation.state.as_str() {
            "complete" => Self::Complete(status),
            "stopped" => Self::Stopped(status),
            _ => Self::TimedOut(Ok(status)),
        }
    }
}

/// What one round of requests showed.
enum Attempt {
    Ended(WaitResult),
    Open(Rotation),
}

async fn attempt(api: &impl Fetch, secret: &SecretName) -> Result<Attempt, RequestError> {
    let rotation = request::rotation(api, secret).await?;
    if !matches!(rotation.state.as_str(), "complete" | "stopped") {
        return Ok(Attempt::Open(rotation));
    }
    // The rotation may have changed between the two requests. The second one counts.
    let result = WaitResult::of(request::secret(api, secret).await?);
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
    use crate::status::api::{Page, Secret};

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
        let rotation = Rotation { secret, version: None, state: state.to_owned(), workloads };
        SecretStatus { rotation, users: Page { items: Vec::new(), total: 5, next: None } }
    }

    fn unreachable() -> RequestError {
        RequestError::Unreachable { address: "http://a".to_owned(), cause: "refused".to_owned() }
    }

    /// Waits, and returns the notes, the result and the seconds that passed.
    async fn run(api: &Scripted) -> (Vec<String>, Result<WaitResult, StatusError>, u64) {
        let start = Instant::now();
        let mut notes = Vec::new();
        let result = wait(api, &SecretName::default(), TIMEOUT, |note| {
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
}
