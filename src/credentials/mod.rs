//! Credentials from variables and files, and how files are read.

pub mod credential;
pub mod files;
