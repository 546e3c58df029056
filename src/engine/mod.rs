//! The engine: for each Vault server a loop that polls, decides and reloads.
//!
//! Architecture Invariant: it knows Vault and the cluster through the two traits of [`ports`], and the
//! collector through the index alone.

mod backoff;
mod deciding;
mod memory;
mod outage;
pub mod ports;
pub mod reloader;
mod reloading;
mod round;
mod scope;
pub mod settings;
mod workloads;
