//! Rollouts: the limits that decide which due reloads may start, and how far each rotation is.

pub mod budget;
pub mod injector;
pub mod rotation;
pub mod selector;
