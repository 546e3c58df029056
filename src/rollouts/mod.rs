//! The limits on due reloads that may start.

pub mod budget;
