//! A table for a terminal: columns as wide as their widest cell.

use std::fmt;

/// Rows under headings.
#[derive(Debug, Clone, Default)]
pub struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self {
            headings: headings.iter().map(|text| (*text).to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row. Cells beyond the headings have no heading.
    pub fn row<Cell: Into<String>>(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The number of printed lines.
    #[must_use]
    pub fn height(&self) -> usize {
        self.rows.len() + 2
    }

    fn width(&self, column: usize) -> usize {
        let all = self.rows.iter().chain([&self.headings]);
        all.filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0).max(self.headings.len());
        let widths: Vec<usize> = (0..columns).map(|column| self.width(column)).collect();
        let write_row = |formatter: &mut fmt::Formatter<'_>, row: &[String]| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(formatter, "  {}", line.trim_end())
        };
        write_row(formatter, &self.headings)?;
        let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        write_row(formatter, &rule)?;
        self.rows.iter().try_for_each(|row| write_row(formatter, row))
    }
}
