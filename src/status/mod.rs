//! The status of rotations: what `vault-secrets-reloader status` and the API at `/v1` show.
//!
//! The [`board`] is a sink of events that keeps the last decision about each workload. A [`report`]
//! joins the board with the index. A [`table`] has the rows of all lists. The [`api`] has the JSON
//! types, which the command reads, too.

pub mod api;
pub mod board;
pub mod metrics;
pub mod report;
pub mod table;
mod words;
