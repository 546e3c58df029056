//! Prints the answers of the API as lines for people.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;

use crate::cli::print::one_line;
use crate::model::secret::DEFAULT_CONNECTION;
use crate::status::api::{
    Overview, Page, Progress, Rotation, Secret, SecretStatus, Server, User, Version, WorkloadStatus,
};

/// The largest number of rotations in the overview.
const MOST_ROTATIONS: usize = 20;

/// The states of rotations, in the order of the overview.
const ROTATION_STATES: [&str; 6] = ["complete", "stopped", "missing", "held", "running", "unknown"];

/// The states of workloads, in the order of counts.
const WORKLOAD_STATES: [&str; 8] =
    ["complete", "failed", "takenBack", "held", "pending", "running", "unknown", "silent"];

/// The state of a workload or rotation that is done.
const COMPLETE: &str = "complete";

/// The state of a workload that gives no signal that all its pods were replaced.
const SILENT: &str = "silent";

/// The reason code of a silent workload without pods.
const NO_REPLICAS: &str = "NoReplicas";

/// The end of an overview with rotations that are not complete.
const NEXT_COMMANDS: &str = "
For details:
  vault-secrets-reloader status secret PATH
  vault-secrets-reloader status workload NAMESPACE/KIND/NAME
";

/// Returns the overview, with the rotations that are not complete.
pub(super) fn overview(overview: &Overview, open: &Page<Rotation>, now: Timestamp) -> String {
    let Overview { version, leader, servers, rotations, workloads_by_kind, findings, .. } =
        overview;
    let mut text = String::new();
    let head = format!("vault-secrets-reloader {version}, leader {leader}");
    let _ = writeln!(text, "{}\n", one_line(&head));
    let mut rows = vec![heading(["VAULT SERVER", "SECRETS", "LAST POLL"])];
    rows.extend(servers.iter().map(|server| {
        vec![server.name.clone(), server.secrets.to_string(), last_poll(server, now)]
    }));
    text.push_str(&columns(&rows));
    let plural = |(kind, count): (&String, &u64)| {
        (if *count == 1 { kind.clone() } else { format!("{kind}s") }, *count)
    };
    let kinds: BTreeMap<String, u64> = workloads_by_kind.iter().map(plural).collect();
    let facts = [
        vec!["Workloads:".to_owned(), counts(&kinds, &[])],
        vec!["Rotations:".to_owned(), counts(rotations, &ROTATION_STATES)],
        vec!["Workloads with findings:".to_owned(), counts(findings, &[])],
    ];
    let _ = write!(text, "\n{}\n", columns(&facts));
    if open.items.is_empty() {
        let is_any = rotations.values().any(|count| *count > 0);
        let none = if is_any { "All rotations are complete." } else { "No secret is watched." };
        let _ = writeln!(text, "{none}");
        return text;
    }
    let rank = |rotation: &Rotation| {
        let place = ROTATION_STATES.iter().position(|state| *state == rotation.state);
        place.unwrap_or(ROTATION_STATES.len())
    };
    let mut shown: Vec<&Rotation> = open.items.iter().collect();
    shown.sort_by_key(|rotation| rank(rotation));
    shown.truncate(MOST_ROTATIONS);
    let mut rows = vec![heading(["SECRET", "VERSION", "AGE", "STATE", "WORKLOADS"])];
    rows.extend(shown.iter().map(|rotation| {
        let [version, age] = version_cells(rotation.version, now);
        vec![label(&rotation.secret), version, age, rotation.state.clone(), have_it(rotation)]
    }));
    text.push_str(&columns(&rows));
    let shown = u64::try_from(shown.len()).unwrap_or(u64::MAX);
    if open.total > shown {
        let more = open.total - shown;
        let _ = writeln!(text, "{more} more rotations are not complete: add -o json to list them");
    }
    text.push_str(NEXT_COMMANDS);
    text
}

/// Returns a workload with its secrets and findings.
pub(super) fn workload(status: &WorkloadStatus, now: Timestamp) -> String {
    let WorkloadStatus { workload, reloads, last_reload, secrets, findings } = status;
    let mut text = format!("{}\n", one_line(workload));
    let last = match last_reload {
        Some(at) => format!("{} ago ({})", age(*at, now), time(*at)),
        None if *reloads == 0 => "never".to_owned(),
        None => "not known".to_owned(),
    };
    let facts = [
        vec!["  reloads:".to_owned(), reloads.to_string()],
        vec!["  last reload:".to_owned(), last],
    ];
    text.push_str(&columns(&facts));
    if secrets.is_empty() {
        text.push_str("\nNo secret of this workload is watched.\n");
    } else {
        let names = ["SECRET", "VERSION", "AGE", "STATE", "SINCE", "MESSAGE"];
        let mut rows = vec![heading(names)];
        rows.extend(secrets.iter().map(|used| {
            let [version, age] = version_cells(used.version, now);
            let mut row = vec![label(&used.secret), version, age];
            row.extend(progress_cells(&used.progress, now));
            row
        }));
        let _ = write!(text, "\n{}", columns(&rows));
    }
    if !findings.is_empty() {
        let mut rows = vec![heading(["FINDING", "MESSAGE"])];
        rows.extend(
            findings.iter().map(|finding| vec![finding.reason.clone(), finding.message.clone()]),
        );
        let _ = write!(text, "\n{}", columns(&rows));
    }
    text
}

/// Returns a secret with its workloads. Complete workloads are listed only if `is_all` is set. The
/// last line tells whether the old credential can be revoked.
pub(super) fn secret(status: &SecretStatus, is_all: bool, now: Timestamp) -> String {
    let SecretStatus { rotation, users, .. } = status;
    let mut text = format!("{}\n", one_line(&label(&rotation.secret)));
    let version = rotation.version.map_or_else(
        || "none: Vault has shown none yet".to_owned(),
        |Version { number, created }| {
            format!("{number}, created {} ago ({})", age(created, now), time(created))
        },
    );
    let workloads =
        format!("{}: {}", total(rotation), counts(&rotation.workloads, &WORKLOAD_STATES));
    let read = rotation
        .read_at
        .map_or_else(|| "never".to_owned(), |at| format!("{} ago ({})", age(at, now), time(at)));
    let facts = [
        vec!["  state:".to_owned(), rotation.state.clone()],
        vec!["  version:".to_owned(), version],
        vec!["  last read:".to_owned(), read],
        vec!["  workloads:".to_owned(), workloads],
    ];
    text.push_str(&columns(&facts));
    let is_listed = |user: &&User| is_all || user.progress.state != COMPLETE;
    let listed: Vec<&User> = users.items.iter().filter(is_listed).collect();
    if !listed.is_empty() {
        let mut rows = vec![heading(["WORKLOAD", "STATE", "SINCE", "MESSAGE"])];
        rows.extend(listed.iter().map(|user| {
            let mut row = vec![user.workload.clone()];
            row.extend(progress_cells(&user.progress, now));
            row
        }));
        let _ = write!(text, "\n{}", columns(&rows));
    }
    let complete = count(rotation, COMPLETE);
    if !is_all && !listed.is_empty() && complete > 0 {
        let _ = writeln!(text, "Not listed: {complete} complete (add --all)");
    }
    if users.next.is_some() {
        let read = users.items.len();
        let _ = writeln!(text, "The list is cut: {read} of {} workloads were read", users.total);
    }
    let _ = writeln!(text, "\nCan the old credential be revoked? {}", revocation(status));
    text
}

/// Returns the line for a rotation that has changed while the command waits.
pub(super) fn change(rotation: &Rotation, now: Timestamp) -> String {
    let counted = counts(&rotation.workloads, &WORKLOAD_STATES);
    let line = format!(
        "{} {}: {}: {} ({counted})",
        time(now),
        rotation.state,
        named_version(rotation),
        have_it(rotation),
    );
    one_line(&line).into_owned()
}

/// Returns whether the old credential can be revoked, and why not. The answer is yes only if each
/// workload runs with the version, or has no pods.
fn revocation(status: &SecretStatus) -> String {
    let SecretStatus { rotation, users, .. } = status;
    let is_without_pods = |progress: &Progress| {
        progress.state == SILENT && progress.reason.as_deref() == Some(NO_REPLICAS)
    };
    let without_pods = users.items.iter().filter(|user| is_without_pods(&user.progress)).count();
    let without_pods = u64::try_from(without_pods).unwrap_or(u64::MAX);
    let complete = count(rotation, COMPLETE);
    let silent = count(rotation, SILENT).saturating_sub(without_pods);
    let total = total(rotation);
    let version = named_version(rotation);
    // The list and the counts may be of different moments. Both must agree on a yes.
    let is_done = |user: &User| user.progress.state == COMPLETE || is_without_pods(&user.progress);
    if rotation.state == COMPLETE
        && rotation.revocable
        && rotation.version.is_some()
        && users.items.iter().all(is_done)
        && complete.saturating_add(without_pods) == total
    {
        return if without_pods == 0 {
            format!("Yes: all {total} workloads run with {version}")
        } else {
            format!(
                "Yes: {complete} of {total} workloads run with {version}, and {without_pods} have \
                 no pods"
            )
        };
    }
    let lacking = total.saturating_sub(complete).saturating_sub(count(rotation, SILENT));
    let mut reasons = Vec::new();
    match rotation.state.as_str() {
        COMPLETE if silent == 0 => {
            reasons.push("the state changed while it was read. Run the command again".to_owned());
        }
        COMPLETE => {}
        "running" => reasons.push(format!(
            "{lacking} of {total} workloads do not run with {version} yet. To wait for them, add \
             --wait"
        )),
        "stopped" => reasons.push(format!(
            "the rotation has stopped, and {lacking} of {total} workloads do not run with \
             {version}. The messages above say why, and what to do"
        )),
        "held" => reasons.push(format!(
            "reloads are held, and {lacking} of {total} workloads do not run with {version}. The \
             messages above say why"
        )),
        "missing" => reasons.push(
            "the secret is missing, or its latest version is deleted. Write a new version to Vault"
                .to_owned(),
        ),
        "unknown" => reasons
            .push("Vault does not answer for the secret. Look at the controller's log".to_owned()),
        other => reasons.push(format!("the rotation is {}", one_line(other))),
    }
    if silent > 0 {
        reasons.push(format!(
            "{silent} of {total} workloads are silent: they do not tell when all their pods are \
             replaced. Look at their pods: pods from before the reload still use the old version"
        ));
    }
    format!("Not yet: {}", reasons.join(". Also, "))
}

/// Returns how long ago a server was polled. Warns if the server did not answer the last poll.
fn last_poll(server: &Server, now: Timestamp) -> String {
    let Some(last) = server.last_poll else { return "not polled yet".to_owned() };
    let text = format!("{} ago", age(last, now));
    match server.last_successful_poll {
        None => format!("{text}  WARNING: the server has not answered any poll yet"),
        Some(answered) if answered < last => {
            format!("{text}  WARNING: the last successful poll was {} ago", age(answered, now))
        }
        Some(_) => text,
    }
}

/// Returns the name of a secret. The default server and the root namespace go without saying.
fn label(secret: &Secret) -> String {
    let Secret { server, namespace, path } = secret;
    let mut label = path.clone();
    if let Some(namespace) = namespace {
        let _ = write!(label, " in Vault namespace {namespace}");
    }
    if server != DEFAULT_CONNECTION {
        let _ = write!(label, " on server {server}");
    }
    label
}

fn named_version(rotation: &Rotation) -> String {
    rotation
        .version
        .map_or_else(|| "no version".to_owned(), |version| format!("version {}", version.number))
}

/// Returns the number and the age of a version.
fn version_cells(version: Option<Version>, now: Timestamp) -> [String; 2] {
    let Some(Version { number, created }) = version else {
        return ["-".to_owned(), "-".to_owned()];
    };
    [number.to_string(), age(created, now)]
}

/// Returns the state, its age, and the reason code with the message.
fn progress_cells(progress: &Progress, now: Timestamp) -> [String; 3] {
    let Progress { state, reason, message, since } = progress;
    let since = since.map_or_else(|| "-".to_owned(), |at| age(at, now));
    let message = match reason {
        Some(reason) => format!("{reason}: {message}"),
        None => message.clone(),
    };
    [state.clone(), since, message]
}

fn count(rotation: &Rotation, state: &str) -> u64 {
    rotation.workloads.get(state).copied().unwrap_or_default()
}

fn total(rotation: &Rotation) -> u64 {
    rotation.workloads.values().fold(0_u64, |total, count| total.saturating_add(*count))
}

fn have_it(rotation: &Rotation) -> String {
    format!("{} of {} workloads have it", count(rotation, COMPLETE), total(rotation))
}

/// Returns the counts that are not zero: first the names of `order`, then all others.
fn counts(counts: &BTreeMap<String, u64>, order: &[&str]) -> String {
    let first = order.iter().filter_map(|name| counts.get_key_value(*name));
    let others = counts.iter().filter(|(name, _)| !order.contains(&name.as_str()));
    let parts: Vec<String> = first
        .chain(others)
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

/// Returns a duration up to the present in its two largest units, such as `3m12s`. A time in the
/// future is of another clock, and has no age.
fn age(at: Timestamp, now: Timestamp) -> String {
    let seconds = u64::try_from(now.duration_since(at).as_secs()).unwrap_or_default();
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect()
}

/// Returns a time in whole seconds.
fn time(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn heading<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).into()
}

/// Returns rows in aligned columns, each row on one line.
fn columns(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<Cow<'_, str>>> =
        rows.iter().map(|row| row.iter().map(|cell| one_line(cell)).collect()).collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        for (place, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(place) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths.iter().copied()) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests;
