//! Rollouts: the limits that decide which due reloads may start, and how far each rotation is.

pub mod budget;
pub mod calendar;
pub mod rotation;
mod window;
