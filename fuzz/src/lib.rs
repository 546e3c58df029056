//! The decoders of foreign data, one module a target. Each target has a function that takes any
//! bytes and asserts properties of the decoded value, not only the absence of panics.
//!
//! `make fuzz` runs the targets under libFuzzer, each by a file in `fuzz_targets/`.
//! `tests/replay.rs` runs them over the inputs in `corpus/` and `regressions/`, on the stable
//! toolchain and with every `make test`.
//!
//! Invariant: a target does no I/O and reads no clock or randomness, so that an input that fails
//! once fails always.

#![allow(
    clippy::missing_panics_doc,
    clippy::panic,
    reason = "a target tells that something does not hold by a panic"
)]

pub mod api;
pub mod headers;
mod input;
pub mod listing;
pub mod manifest;
pub mod metadata;
pub mod mounts;
pub mod offline;
mod path;
pub mod record;
pub mod reference;
pub mod revisions;
pub mod rules;
pub mod token;
pub mod windows;
pub mod words;

/// A target: its name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 14] = [
    ("api", api::check),
    ("headers", headers::check),
    ("listing", listing::check),
    ("manifest", manifest::check),
    ("metadata", metadata::check),
    ("mounts", mounts::check),
    ("offline", offline::check),
    ("record", record::check),
    ("reference", reference::check),
    ("revisions", revisions::check),
    ("rules", rules::check),
    ("token", token::check),
    ("windows", windows::check),
    ("words", words::check),
];
