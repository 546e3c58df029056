//! Rollouts: the rules that decide which due reloads may start, and how far each rotation is.

pub mod admission;
pub mod budget;
pub mod calendar;
pub mod injector;
pub mod interval;
pub mod limits;
pub mod order;
pub mod rollout;
pub mod rotation;
pub mod selector;
pub mod wave;
mod window;
