//! The pure core: what is known, and what follows from it.
//!
//! Architecture Invariant: nothing in here is async, does I/O, reads a clock or the environment, or
//! names a client library. Time and randomness come in as arguments, so every rule can be tested by
//! calling it.

pub mod annotation;
pub mod clock;
pub mod environment;
pub mod expansion;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod isolation;
pub mod lease;
pub mod manifest;
pub mod notice;
pub mod observation;
pub mod plan;
pub mod quota;
pub mod record;
pub mod reference;
pub mod rollout;
pub mod secret;
pub mod server;
pub mod source;
pub mod store;
pub mod turns;
pub mod words;
pub mod workload;
