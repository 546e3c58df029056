//! All communication with the API server.
//!
//! Architecture Invariant: only this module names `kube`, and it knows nothing of Vault's API.

pub mod access;
mod bounds;
pub mod ca_secret;
pub mod callers;
pub mod client;
mod clocked;
pub mod collector;
mod counted;
pub mod effects;
pub mod events;
mod first_list;
pub mod forward;
pub mod injector;
pub mod leader;
pub mod leader_pod;
pub mod namespace_reads;
pub mod namespaces;
pub mod object;
pub mod patcher;
pub mod revisions;
#[cfg(test)]
mod scripted;
pub mod service_account;
pub mod sources;
mod watching;
