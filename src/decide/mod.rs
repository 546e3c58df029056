//! Decides whether a workload is reloaded, and why: observations, clocks and the plan.
//!
//! Architecture Invariant: nothing here waits, does I/O or reads a clock. Times come in as
//! arguments, so a test can check each rule by a call.

pub mod clock;
pub mod hold;
pub mod observation;
pub mod plan;
