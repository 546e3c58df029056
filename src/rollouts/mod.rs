//! The limits that decide which of the due reloads may start.

pub mod budget;
