//! Rolls out Kubernetes workloads when a secret they use changes in HashiCorp Vault or OpenBao.
//!
//! Start with [`app`], which wires all parts, or with [`decide`], which makes all decisions.

pub mod app;
pub mod cli;
pub mod cloud;
pub mod config;
pub mod credentials;
pub mod decide;
pub mod election;
pub mod engine;
pub mod events;
pub mod heartbeat;
pub mod index;
pub mod kubernetes;
pub mod model;
pub mod notifications;
pub mod process;
pub mod references;
pub mod rollouts;
pub mod status;
pub mod telemetry;
pub mod vault;
pub mod web;
