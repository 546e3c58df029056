//! The engine: one loop per Vault server, which polls, decides and reloads.
//!
//! Architecture Invariant: the engine knows Vault and the cluster only through the two traits of
//! [`ports`], and the collector only through the index.

mod admitting;
mod agenda;
mod api_server_outage;
mod backoff;
mod deciding;
mod holds;
mod injector_hold;
mod openings;
mod poll_scope;
pub mod ports;
pub mod reloader;
mod reloading;
mod reports;
mod secret_track;
pub mod settings;
pub mod wake;
mod workload_track;
mod workloads;
