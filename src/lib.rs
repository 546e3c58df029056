//! Rolls out Kubernetes workloads when a secret they use changes in HashiCorp Vault or OpenBao.
//!
//! Start at [`run`], which wires everything, or at [`core`], which decides everything.

pub mod admin;
pub mod config;
pub mod core;
pub mod heartbeat;
pub mod kubernetes;
pub mod offline;
pub mod reloader;
pub mod run;
pub mod telemetry;
pub mod vault;
