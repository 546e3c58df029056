//! The events of the controller, as one enum, and their sinks: the log, the metrics, and the
//! findings for owners.
//!
//! Each sink gets all events. Code that emits events knows no sink.
//!
//! Architecture Invariant: nothing is decided here, and no event holds a value of a secret.

pub mod event;
pub mod log;
pub mod metrics;
pub mod owners;
mod request_metrics;
pub mod sink;
pub(crate) mod text;
