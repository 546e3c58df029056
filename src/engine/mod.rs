//! The engine: for each Vault server a loop that polls, decides and reloads.
//!
//! Architecture Invariant: it knows Vault and the cluster through the two traits of [`ports`], and the
//! collector through the index alone.

mod api_server_outage;
mod backoff;
mod deciding;
mod poll_scope;
pub mod ports;
pub mod reloader;
mod reloading;
mod secret_track;
pub mod settings;
mod workload_track;
mod workloads;
