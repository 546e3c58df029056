//! An object of a manifest, and its place in the file.

use std::fmt;

use serde::Serialize;

use crate::cli::yaml::Node;

/// An object.
#[derive(Debug)]
pub(super) struct Document {
    /// The file of the object.
    pub(super) file: String,
    pub(super) kind: String,
    pub(super) object: Node,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    /// The name of the file as given. `-` is standard input.
    pub file: String,
    /// The line, counted from 1.
    pub line: u64,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}
