//! Which of the due reloads may start.

pub mod budget;
