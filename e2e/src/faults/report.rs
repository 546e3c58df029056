//! The results of the faults: the rows and the table.

use std::fmt;
use std::time::Duration;

use crate::table::Table;

/// The result of one fault.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// The fault.
    pub fault: &'static str,
    /// The number of times that the fault struck.
    pub times: usize,
    /// The number of workloads.
    pub workloads: usize,
    /// The number of rotated secrets.
    pub rotations: usize,
    /// The number of workloads with a rotated secret, over all comparisons.
    pub concerned: usize,
    /// The most reloads that would have been right: one for each moment in which secrets of a
    /// workload were rotated.
    pub allowed: i64,
    /// The number of reloads.
    pub reloads: i64,
    /// The number of workloads that a rotation did not reach.
    pub missed: usize,
    /// The number of reloads without a reason.
    pub doubled: i64,
    /// The duration.
    pub took: Duration,
    /// Why the fault could not be completed, if so.
    pub error: Option<String>,
    /// The workloads that were missed or doubled, and the other violations.
    pub findings: Vec<String>,
}

impl Row {
    pub(super) fn is_clean(&self) -> bool {
        self.missed == 0 && self.doubled == 0 && self.error.is_none() && self.findings.is_empty()
    }
}

/// The results of all faults.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// One row a fault, in order.
    pub rows: Vec<Row>,
}

impl Report {
    /// Whether no reload was missed or doubled, and every fault was completed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(Row::is_clean)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&[
            "fault",
            "times",
            "workloads",
            "rotations",
            "concerned",
            "reloads",
            "at most",
            "missed",
            "doubled",
            "took",
        ]);
        let cells = |row: &Row, name: &str| {
            [
                name.to_owned(),
                row.times.to_string(),
                row.workloads.to_string(),
                row.rotations.to_string(),
                row.concerned.to_string(),
                row.reloads.to_string(),
                row.allowed.to_string(),
                row.missed.to_string(),
                row.doubled.to_string(),
                format!("{:.1} s", row.took.as_secs_f32()),
            ]
        };
        let mut sum = Row::default();
        for row in &self.rows {
            table.row(cells(row, row.fault));
            sum.times += row.times;
            sum.workloads = sum.workloads.max(row.workloads);
            sum.rotations += row.rotations;
            sum.concerned += row.concerned;
            sum.allowed += row.allowed;
            sum.reloads += row.reloads;
            sum.missed += row.missed;
            sum.doubled += row.doubled;
            sum.took += row.took;
        }
        table.row(cells(&sum, "all"));
        write!(formatter, "{table}")?;
        for row in &self.rows {
            for finding in &row.findings {
                writeln!(formatter, "{}: {finding}", row.fault)?;
            }
            if let Some(error) = &row.error {
                writeln!(formatter, "{} was not gone through with: {error}", row.fault)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_count_but_zero_is_a_failure_and_so_is_a_suite_that_did_nothing() {
        let report = |row: Row| Report { rows: vec![Row::default(), row] };
        assert!(report(Row::default()).is_clean());
        for row in [
            Row { missed: 1, ..Row::default() },
            Row { doubled: 1, ..Row::default() },
            Row { error: Some("it broke".to_owned()), ..Row::default() },
            Row { findings: vec!["odd".to_owned()], ..Row::default() },
        ] {
            assert!(!report(row.clone()).is_clean(), "{row:?}");
        }
        assert!(!Report::default().is_clean());
    }
}
