//! Prints findings.

use std::borrow::Cow;
use std::fmt::Write;

use serde::Serialize;

use crate::cli::check::{Checked, Finding, Remark, Report};

/// Returns lines for people: each workload with its references, and a last line with the counts.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    for workload in &report.workloads {
        let head = format!("{}  ({})", workload.workload, workload.at);
        let _ = writeln!(text, "{}", one_line(&head));
        for Remark { reason, warning, message } in &workload.remarks {
            let status = if *warning { "warning" } else { "note" };
            let _ = writeln!(text, "  {status:<8}{reason}: {message}");
        }
        let rows: Vec<_> = workload.references.iter().map(row).collect();
        let width = rows.iter().map(|(_, what, _)| what.chars().count()).max().unwrap_or(0);
        for (status, what, place) in rows {
            let _ = writeln!(text, "  {status:<8}{what:<width$}  {place}");
        }
    }
    let _ = writeln!(text, "{}", summary(report));
    text
}

/// Returns the status, the text, and the place of a reference.
fn row(found: &Finding) -> (&'static str, String, String) {
    let status = match found.remark {
        Some(remark) if remark.warning => "warning",
        _ if found.watched => "watched",
        _ => "skipped",
    };
    let mut what = found.path.clone().unwrap_or_default();
    if let Some(namespace) = &found.namespace {
        let _ = write!(what, " in Vault namespace {namespace}");
    }
    if let Some(server) = &found.server {
        let _ = write!(what, " on server {server}");
    }
    if let Some(Remark { reason, message, .. }) = found.remark {
        let gap = if what.is_empty() { "" } else { " " };
        let _ = write!(what, "{gap}{reason}: {message}");
    }
    let place = format!("{} {}", found.at, found.origin);
    (status, one_line(&what).into_owned(), one_line(&place).into_owned())
}

/// Returns a foreign text on one line.
pub(super) fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let escaped = |c: char| {
        let is_plain = !c.is_control();
        is_plain
            .then_some(c)
            .into_iter()
            .chain((!is_plain).then(|| c.escape_default()).into_iter().flatten())
    };
    text.chars().flat_map(escaped).collect()
}

fn summary(report: &Report) -> String {
    let reloaded = report.workloads.iter().filter(|workload| workload.reloaded).count();
    let mut paths: Vec<_> = report
        .workloads
        .iter()
        .flat_map(|workload| &workload.references)
        .filter(|found| found.watched)
        .map(|found| (&found.server, &found.namespace, &found.path))
        .collect();
    paths.sort_unstable();
    paths.dedup();
    format!(
        "{} reloaded, {} not; {}; {}",
        counted(reloaded, "workload"),
        report.workloads.len() - reloaded,
        counted(paths.len(), "secret"),
        counted(report.warnings(), "warning"),
    )
}

fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Returns one JSON document: `workloads` with the fields of [`Checked`], the number of `warnings`,
/// and unreadable inputs as `problems`.
#[must_use]
pub fn json(report: &Report) -> String {
    #[derive(Serialize)]
    struct Document<'a> {
        workloads: &'a [Checked],
        warnings: usize,
        problems: Vec<String>,
    }
    let document = Document {
        workloads: &report.workloads,
        warnings: report.warnings(),
        problems: report.problems.iter().map(ToString::to_string).collect(),
    };
    // All values of the document have a JSON form.
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    text
}

/// Returns workflow commands of GitHub Actions: one per warning and problem, and a last line with
/// the counts. A pull request shows them at the line of the file.
#[must_use]
pub fn github(report: &Report) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        let place = place(&problem.file, problem.line);
        let _ = writeln!(text, "::error {place}title=Unreadable::{}", data(&problem.message));
    }
    for workload in &report.workloads {
        let of_all = workload.remarks.iter().map(|remark| (remark, &workload.at, ""));
        let of_each = workload
            .references
            .iter()
            .filter_map(|found| Some((found.remark.as_ref()?, &found.at, &*found.origin)));
        for (Remark { reason, message, .. }, at, origin) in
            of_all.chain(of_each).filter(|(remark, ..)| remark.warning)
        {
            let place = place(&at.file, Some(at.line));
            let gap = if origin.is_empty() { "" } else { ", " };
            let message = format!("{}{gap}{origin}: {message}", workload.workload);
            let _ = writeln!(text, "::warning {place}title={reason}::{}", data(&message));
        }
    }
    let _ = writeln!(text, "{}", summary(report));
    text
}

/// Returns the place of an annotation. Standard input has no place in a pull request.
fn place(file: &str, line: Option<u64>) -> String {
    match line {
        _ if file == "-" => String::new(),
        Some(line) => format!("file={},line={line},", property(file)),
        None => format!("file={},", property(file)),
    }
}

/// Escapes a text after `::` for workflow commands.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes a text between commas for workflow commands.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
