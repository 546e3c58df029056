//! All communication with Vault servers.
//!
//!
//! Architecture Invariant: only this module names `vaultrs` and sends requests to Vault. It knows
//! nothing about Kubernetes. It asks secrets engines only for their mounts and for KV v2 metadata.

pub mod answer;
pub mod approle;
mod backoff;
pub mod client;
pub mod connection;
mod denials;
mod endpoint;
pub mod failure;
pub mod folders;
pub mod headers;
pub mod limiter;
pub mod listing;
mod lock;
pub mod login;
pub mod metadata;
pub mod mounts;
pub mod pace;
pub mod poller;
mod read_error;
mod reads;
mod reporter;
pub mod session;
pub mod tls;
pub mod token;
