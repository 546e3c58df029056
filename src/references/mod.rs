//! The references of pod templates: from a decoded object to the secrets of a workload.
//!
//! Architecture Invariant: nothing here waits, does I/O or reads a clock. No input makes a function
//! fail: each reference is watched, or noted with a [reason](reason::Reason).

pub mod environment;
pub mod expansion;
pub mod extraction;
pub mod grammar;
pub mod manifest;
pub mod path_rules;
pub mod place;
pub mod reason;
pub mod servers;
pub mod settings;
pub mod source;
pub mod stored_reference;
pub mod time_rules;
