//! The log lines of events. Users search for some of these lines, so their words stay as they are.

use tracing::{debug, error, info, warn};

use super::event::{Event, Held};
use super::text;
use crate::decide::hold::Hold;
use crate::events::sink::Sink;
use crate::model::record::RecordError;
use crate::model::text::shorten;
use crate::model::workload::WorkloadId;
use crate::references::place::Note;
use crate::references::reason::Reason;
use crate::rollouts::rotation::RotationState;

/// The worker of lines about the workloads that the cluster shows.
const COLLECTOR: &str = "collector";

/// The worker of lines about polls and reloads.
pub(crate) const RELOADER: &str = "reloader";

/// The most lines about the references of one workload, each time that its notes change. A tenant's
/// manifest can hold tens of thousands of odd references, and the first few show the mistake.
const MOST_LINES: usize = 20;

/// Writes events as log lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log;

impl Sink for Log {
    fn on(&self, event: &Event<'_>) {
        match *event {
            Event::FirstListEnded { .. }
            | Event::KindOverdue { .. }
            | Event::ListAgain { .. }
            | Event::Collected { .. }
            | Event::RolloutEnded { .. }
            | Event::Removed { .. }
            | Event::Noted { .. } => log_collected(event),
            Event::Reloading { .. }
            | Event::Reloaded { .. }
            | Event::NotNeeded { .. }
            | Event::ReloadFailed { .. } => log_reload(event),
            Event::Held { .. }
            | Event::Released { .. }
            | Event::TakenBack { .. }
            | Event::WaitingForRevision { .. } => log_not_reloaded(event),
            Event::RotationChanged { .. } => log_rotation(event),
            // The metrics count these.
            Event::VaultRequest { .. }
            | Event::VaultLogin { .. }
            | Event::ApiRequest { .. }
            | Event::EventWritten { .. } => {}
            Event::PollingBegan { .. }
            | Event::PollStarted { .. }
            | Event::PollEnded { .. }
            | Event::TokenUsed { .. }
            | Event::Observed { .. }
            | Event::Decided { .. }
            | Event::NothingToReload
            | Event::NamespaceOverQuota { .. }
            | Event::NamespaceWithinQuota { .. }
            | Event::BudgetSpent { .. }
            | Event::BudgetFree
            | Event::ReloadsWait { .. }
            | Event::NoReloadWaits { .. }
            | Event::ApiServerFailed { .. }
            | Event::ApiServerRecovered => log_state(event),
        }
    }
}

/// Logs what the cluster shows of workloads.
fn log_collected(event: &Event<'_>) {
    match *event {
        Event::FirstListEnded { kind, workloads, secrets, waiting } => {
            let waiting = match waiting {
                0 => String::new(),
                waiting => format!("; {waiting} wait for their ConfigMaps or Secrets to be read"),
            };
            info!(
                worker = COLLECTOR,
                "All {kind}s are read; so far {workloads} workloads refer to {secrets} secrets{waiting}"
            );
        }
        Event::KindOverdue { scope, waited } => error!(
            worker = COLLECTOR,
            "No {scope} are reloaded yet, since they could not be listed within {} s. The other kinds do not \
             wait for them any longer. If the API server denies it, grant the service account list and \
             watch on {}.{}",
            waited.as_secs(),
            scope.kind.plural(),
            scope.kind.group()
        ),
        Event::ListAgain { workload } => debug!(
            worker = COLLECTOR,
            "The manifest of {workload} is too long to be kept; listing all {}s again",
            workload.kind
        ),
        Event::Collected { workload: WorkloadId { kind, namespace, name }, is_of_first_list } => {
            if is_of_first_list {
                debug!(worker = COLLECTOR, "Collected secrets from {kind} {namespace}/{name}");
            } else {
                info!(worker = COLLECTOR, "Collected secrets from {kind} {namespace}/{name}");
            }
        }
        Event::RolloutEnded { workload, failure: None } => {
            debug!(worker = COLLECTOR, "The rollout of {workload} is complete");
        }
        Event::RolloutEnded { workload, failure: Some(failure) } => debug!(
            worker = COLLECTOR,
            reason = failure.code(),
            "The rollout of {workload} failed: {}",
            failure.advice()
        ),
        Event::Removed { workload: WorkloadId { kind, namespace, name } } => {
            info!(worker = COLLECTOR, "Stopped watching {kind} {namespace}/{name}");
        }
        Event::Noted { workload, notes, record_error } => log_notes(workload, notes, record_error),
        _ => {}
    }
}

fn log_notes(workload: &WorkloadId, notes: &[Note], record_error: Option<&RecordError>) {
    if let Some(error) = record_error {
        warn!(
            worker = COLLECTOR,
            "The record on {workload} is ignored: {error}. What its pods run with is judged by their age"
        );
    }
    // Warnings come first, so that references that are merely not watched do not hide them.
    let (warnings, others): (Vec<_>, Vec<_>) =
        notes.iter().partition(|note| note.reason.is_warning());
    for Line { reason, text } in lines(&warnings, "look odd") {
        warn!(worker = COLLECTOR, reason, "{workload}: {text}");
    }
    for Line { reason, text } in lines(&others, "are not watched") {
        debug!(worker = COLLECTOR, reason, "{workload}: {text}");
    }
}

/// Logs the course of reloads.
fn log_reload(event: &Event<'_>) {
    match *event {
        Event::Reloading { workload, changed, cause } => info!(
            worker = RELOADER,
            secrets = text::list(changed),
            cause = cause.name(),
            "Reloading workload: {workload}"
        ),
        Event::Reloaded { workload, count, rollout, .. } => {
            debug!(worker = RELOADER, "Reloaded {workload}, count {count}");
            if let Some(caveat) = rollout.caveat() {
                info!(worker = RELOADER, "Reloaded {workload}, {caveat}");
            }
        }
        Event::NotNeeded { workload } => {
            debug!(worker = RELOADER, "{workload} needs no reload any more");
        }
        Event::ReloadFailed { workload, error, again: true, .. } => {
            debug!(worker = RELOADER, "failed reloading workload: {workload}: {error}");
        }
        Event::ReloadFailed { workload, error, again: false, .. } => {
            error!(worker = RELOADER, "failed reloading workload: {workload}: {error}. Retrying");
        }
        _ => {}
    }
}

/// Logs why workloads are not reloaded although their secrets changed.
fn log_not_reloaded(event: &Event<'_>) {
    match *event {
        Event::Held { workload, hold, changed, gone } => {
            let Some(text) = text::held(workload, hold, changed, gone) else { return };
            match hold {
                Held::For(
                    Hold::Deleting
                    | Hold::DryRun
                    | Hold::Interval
                    | Hold::Frozen { .. }
                    | Hold::OutsideWindow { .. },
                ) => {
                    info!(worker = RELOADER, "{text}");
                }
                // One line is for all workloads of the rotation.
                Held::For(Hold::RotationStopped) => debug!(worker = RELOADER, "{text}"),
                _ => warn!(worker = RELOADER, "{text}"),
            }
        }
        Event::TakenBack { workload, secrets, again: false, owner } => {
            warn!(worker = RELOADER, "{}", text::taken_back(workload, secrets, owner));
        }
        Event::WaitingForRevision { workload, is_long: false } => {
            debug!(worker = RELOADER, "{workload} waits for its controller to make a revision");
        }
        Event::WaitingForRevision { workload, is_long: true } => warn!(
            worker = RELOADER,
            "{workload} waits: a secret may have changed since it was deployed, and there is no \
             revision of its present template yet. Check that the workload is not paused and that \
             its controller runs"
        ),
        _ => {}
    }
}

/// Logs rotations that are complete, stopped or held.
fn log_rotation(event: &Event<'_>) {
    let Event::RotationChanged { secret, version, to, took, users, .. } = *event else { return };
    let name = secret.to_string();
    let version = version.map(|version| version.number);
    let workloads: u64 = users.values().sum();
    // People copy commands, so they have no path of a tenant.
    match to {
        RotationState::Complete => {
            let took = took.map(|took| format!("{}s", took.as_secs()));
            info!(worker = RELOADER, secret = name, version, workloads, took, "Rotation complete");
        }
        RotationState::Stopped => warn!(
            worker = RELOADER,
            secret = name,
            version,
            workloads,
            "Rotation stopped: a rollout failed, or a reload was taken back. Do not revoke the old \
             credential. To see the workloads, run: vault-secrets-reloader status secret PATH"
        ),
        RotationState::Held => info!(
            worker = RELOADER,
            secret = name,
            version,
            workloads,
            "Rotation held: reloads of workloads are held. To see the workloads, run: \
             vault-secrets-reloader status secret PATH"
        ),
        RotationState::Running | RotationState::Missing | RotationState::Unknown => {}
    }
}

/// Logs the state of polls, quotas, the budget and the API server.
fn log_state(event: &Event<'_>) {
    match *event {
        Event::PollStarted { .. } => debug!(worker = RELOADER, "Reloader started"),
        Event::NothingToReload => info!(worker = RELOADER, "No workloads to reload"),
        Event::NamespaceOverQuota { namespace, workloads, quota } => warn!(
            worker = RELOADER,
            reason = Reason::TooManySecretsInNamespace.code(),
            "{workloads} workloads of namespace {namespace} are not watched: all workloads of the \
             namespace together refer to more than {quota} secrets. Refer to fewer, or raise \
             --max-secrets-per-namespace"
        ),
        Event::NamespaceWithinQuota { namespace } => {
            info!(worker = RELOADER, "All workloads of namespace {namespace} are watched again");
        }
        Event::BudgetSpent { workloads, per_minute } => warn!(
            worker = RELOADER,
            "{workloads} more workloads have a secret that changed while nobody watched. They \
             are reloaded at {per_minute} a minute (--found-reload-rate), not all at once"
        ),
        Event::BudgetFree => {
            info!(worker = RELOADER, "No workload waits for --found-reload-rate any more");
        }
        Event::ReloadsWait { hold, workloads } => log_waiting(hold, workloads),
        Event::NoReloadWaits { hold: Hold::Wave } => {
            info!(worker = RELOADER, "No workload waits for its turn in a rotation any more");
        }
        Event::NoReloadWaits { hold: Hold::RotationStopped } => {
            info!(worker = RELOADER, "No rotation is stopped by a failed workload any more");
        }
        Event::NoReloadWaits { hold: Hold::RolloutLimit } => {
            info!(worker = RELOADER, "No workload waits for --max-rollouts any more");
        }
        Event::ApiServerFailed { error } => warn!(
            worker = RELOADER,
            "The API server does not work at present: {error}. Workloads that are due are \
             reloaded once it does"
        ),
        Event::ApiServerRecovered => info!(worker = RELOADER, "The API server works again"),
        _ => {}
    }
}

/// Logs that workloads begin to wait.
fn log_waiting(hold: Hold, workloads: usize) {
    match hold {
        Hold::Wave => info!(
            worker = RELOADER,
            "{workloads} workloads wait for their turn: a new version goes to a few workloads first, and \
             to the others as these become healthy (--waves)"
        ),
        Hold::RotationStopped => warn!(
            worker = RELOADER,
            "Rotation stopped: {workloads} workloads keep the former version, because a workload failed \
             after its reload. `vault-secrets-reloader status` names it. The rotation goes on when that \
             workload is healthy, with a newer version, or with the annotation continue-after-failure"
        ),
        Hold::RolloutLimit => info!(
            worker = RELOADER,
            "{workloads} workloads wait until fewer rollouts are under way (--max-rollouts, \
             --max-rollouts-per-namespace)"
        ),
        _ => {}
    }
}

/// A log line about one reference, or about all references over the limit.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    /// The code of the reason.
    reason: Option<&'static str>,
    text: String,
}

/// Returns the lines for notes on a workload, up to [`MOST_LINES`] and one line that counts the
/// other references. `state` is the state of all these references, such as "look odd".
fn lines(notes: &[&Note], state: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = notes
        .iter()
        .take(MOST_LINES)
        .map(|Note { origin, reason }| Line {
            reason: Some(reason.code()),
            text: format!("{}: {}", shorten(&origin.to_string()), reason.advice()),
        })
        .collect();
    let more = notes.len() - lines.len();
    if more > 0 {
        lines.push(Line { reason: None, text: format!("and {more} more references {state}") });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::references::place::Origin;

    #[test]
    fn lines_about_one_workload_have_an_end() {
        let note = |number: usize| Note {
            origin: Origin::Env { container: "x".repeat(9999), name: number.to_string() },
            reason: Reason::NoKey,
        };
        let notes: Vec<Note> = (0..5000).map(note).collect();
        let notes: Vec<&Note> = notes.iter().collect();
        let said = lines(&notes, "look odd");
        assert_eq!(said.len(), MOST_LINES + 1);
        assert!(said.iter().all(|line| line.text.len() < 1000));
        assert!(said[..MOST_LINES].iter().all(|line| line.reason == Some("NoKey")));
        let more = "and 4980 more references look odd".to_owned();
        assert_eq!(said[MOST_LINES], Line { reason: None, text: more });
        assert_eq!(lines(&notes[..MOST_LINES], "look odd").len(), MOST_LINES);
        assert!(lines(&[], "look odd").is_empty());
    }
}
