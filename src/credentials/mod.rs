//! Credentials from variables, files and the cluster, and how files are read.

pub mod credential;
pub mod files;
pub mod service_account;
