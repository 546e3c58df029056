//! What happened, as one enum, and who is told: the log, the metrics.
//!
//! A new sink sees all events, and whoever emits one knows no sink.
//!
//! Architecture Invariant: nothing is decided here, and no event holds a value of a secret.

pub mod event;
pub mod log;
pub mod metrics;
pub mod sink;
