//! What the reloader is told when it is made: the operator's settings, and the clocks.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::decide::clock::ServerClock;

/// What the operator set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server whose workloads it reloads: the name of its connection.
    pub server: Arc<str>,
    /// See [`Rules::ignore_missing`](crate::decide::plan::Rules::ignore_missing).
    pub ignore_missing: bool,
    /// What is the same for all servers.
    pub shared: SharedSettings,
}

/// What the engines of all servers have in common.
#[derive(Clone, Debug)]
pub struct SharedSettings {
    /// The time between two polls.
    pub period: Duration,
    /// The first poll begins at a random time within this: many that start at once, after an outage,
    /// do not arrive at Vault at once.
    pub start_within: Duration,
    /// See [`Rules::settle`](crate::decide::plan::Rules::settle).
    pub settle: SignedDuration,
    /// See [`Rules::ignore_versions_before`](crate::decide::plan::Rules::ignore_versions_before).
    pub ignore_versions_before: Option<Timestamp>,
}

/// The clocks: those of the two servers, for comparing times of the one with times of the other,
/// and our own.
#[derive(Clone, Debug)]
pub struct Clocks {
    /// The Vault server's.
    pub vault: Arc<ServerClock>,
    /// The API server's.
    pub cluster: Arc<ServerClock>,
    /// The present by our own clock.
    pub now: fn() -> Timestamp,
}

impl Default for Clocks {
    fn default() -> Self {
        Self { vault: Arc::default(), cluster: Arc::default(), now: Timestamp::now }
    }
}
