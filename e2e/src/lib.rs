//! A test bed: a real Kubernetes control plane and a real Vault server, as plain processes on
//! loopback, without a container engine.
//!
//! One guess for each question:
//! - how does a bed start, and what is in it? [`bed`], with [`options`]
//! - which scenarios are there, and how do they run? [`suite`]; how do they share beds? [`shared`]
//! - which program runs with which flags? [`command_lines`], and [`binaries`] for where they are
//! - how is a server stopped, paused, started again? [`server`]; cut off, counted at, or made to
//!   stream for ever? [`proxy`], [`gateway`]
//! - how do three nodes of a Vault cluster run behind one address? [`raft`]
//! - why does no process outlive its bed? [`group`]
//! - which requests did the controller send to the API server and Vault? [`counts`]
//! - how does a test rotate a secret or revoke a token? [`vault`], [`vault_access`]
//! - how does a test deploy a workload and see it roll? [`workload`], [`cluster`],
//!   [`state`]
//! - does any line of its log hold a credential? [`leaks`]
//! - how are changes of some workloads refused? [`refusal`]
//! - which steps do scenarios share? [`scenario`]
//! - how are the commands of the documentation run, each once? [`walk`]
//! - how do the alerts of `deploy/prometheus` fire within seconds? [`prometheus`]
//! - how is the page used in a real browser? [`browser`]
//! - what breaks on purpose, beside hundreds of workloads, and what must still hold? [`faults`]
//! - what does a noisy tenant do? [`noisy`]
//! - how is our binary run and its log read? [`controller`]; as the pod of the chart? [`deploy`],
//!   with [`kubelet`]
//!
//! Invariant: all servers listen on 127.0.0.1, and all processes end with the [`Bed`] that started
//! them, also when the process that holds the bed is killed.

#![allow(
    clippy::disallowed_methods,
    reason = "the rules of the controller's architecture; the bed reads the environment and spawns"
)]

pub mod bed;
pub mod binaries;
pub mod browser;
mod certificates;
pub mod cluster;
mod cluster_access;
pub mod command_lines;
pub mod controller;
pub mod controller_log;
mod controller_options;
pub mod counts;
pub mod deploy;
pub mod faults;
pub mod gateway;
pub mod group;
pub mod helm;
mod json;
mod kubeconfig;
pub mod kubelet;
mod leaks;
pub mod noisy;
pub mod options;
pub mod ports;
pub mod prometheus;
pub mod proxy;
pub mod raft;
pub mod refusal;
pub mod scenario;
pub mod server;
pub mod shared;
pub mod state;
pub mod suite;
pub mod table;
pub mod vault;
pub mod vault_access;
pub mod wait;
pub mod walk;
pub mod workload;

pub use bed::Bed;
pub use browser::Browser;
pub use cluster::Cluster;
pub use controller::{Controller, ControllerOptions, LeaseTimes};
pub use counts::{ApiRequest, Mark, VaultRequest};
pub use options::{Options, VaultStorage};
pub use prometheus::Prometheus;
pub use raft::RaftVault;
pub use server::Server;
pub use state::State;
pub use table::Table;
pub use vault::Vault;
pub use vault_access::TokenRequest;
pub use wait::eventually;
pub use workload::{Generation, Kind, Workload, WorkloadName};
