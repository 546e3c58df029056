//! An object of a manifest, and where it stands in its file.

use std::fmt;

use serde::Serialize;

use crate::cli::yaml::Node;

/// An object.
#[derive(Debug)]
pub(super) struct Document {
    /// The file that it stands in.
    pub(super) file: String,
    pub(super) kind: String,
    pub(super) object: Node,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    /// The file as it was named; `-` is standard input.
    pub file: String,
    /// The line, counted from 1.
    pub line: u64,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}
