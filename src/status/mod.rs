//! The status of rotations: what `vault-secrets-reloader status` and the API at `/v1` show.
//!
//! The [`board`] is a sink of events that keeps the last decision about each workload. A [`report`]
//! joins the board with the index. A [`table`] has the rows of all lists. The [`api`] has the JSON
//! types, which the command reads, too. By the [`ports`], the API asks the cluster. The [`follower`]
//! emits an event when a rotation changes its state.

pub mod api;
pub mod board;
pub(crate) mod exchange;
pub mod follower;
pub mod metrics;
pub mod ports;
pub mod report;
pub mod rotations;
pub mod table;
mod words;
