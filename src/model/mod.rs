//! The values that all parts share: workloads, secrets and their versions, records, annotations.
//!
//! Architecture Invariant: nothing here waits, does I/O or reads a clock, and nothing here imports
//! from another part.

pub mod annotation;
pub mod fair_queue;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod kind;
pub mod notification;
pub mod poll;
pub mod progress;
pub mod record;
pub mod reload_policy;
pub mod request_end;
pub mod scheme;
pub mod scope;
pub mod secret;
pub mod strategy;
pub mod text;
pub mod time_rules;
pub mod workload;
