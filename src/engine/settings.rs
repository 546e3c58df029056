//! The settings and clocks that a reloader is created with.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::decide::clock::ServerClock;
use crate::model::time_rules::TimeRules;
use crate::rollouts::admission::RolloutRules;
use crate::rollouts::rollout::Deadline;

/// The settings of one reloader.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server whose workloads are reloaded: the name of its connection.
    pub server: Arc<str>,
    /// See [`Rules::ignore_missing`](crate::decide::plan::Rules::ignore_missing).
    pub ignore_missing: bool,
    /// The settings that all servers share.
    pub shared: SharedSettings,
}

/// The settings that the engines of all servers share.
#[derive(Clone, Debug)]
pub struct SharedSettings {
    /// The time between two polls.
    pub period: Duration,
    /// The first poll begins at a random time within this. Many controllers that start at once, for
    /// example after an outage, then do not reach Vault at once.
    pub start_within: Duration,
    /// Whether nothing is reloaded, only reported (`--dry-run`).
    pub dry_run: bool,
    /// The rules for reloads that are due.
    pub rollouts: RolloutRules,
    /// Whether the owners of secrets have a say in the reloads: see
    /// [`crate::model::reload_policy::ReloadPolicy`].
    pub heeds_owners: bool,
    /// The operator's freeze and windows (`--freeze-until`, `--reload-windows`).
    pub time_rules: TimeRules,
    /// See [`Rules::settle`](crate::decide::plan::Rules::settle).
    pub settle: SignedDuration,
    /// See [`Rules::ignore_versions_before`](crate::decide::plan::Rules::ignore_versions_before).
    pub ignore_versions_before: Option<Timestamp>,
}

/// The clocks of both servers, whose times are compared with each other, and the controller's own
/// clock.
#[derive(Clone, Debug)]
pub struct Clocks {
    /// The clock of the Vault server.
    pub vault: Arc<ServerClock>,
    /// The clock of the API server.
    pub cluster: Arc<ServerClock>,
    /// Returns the present by the controller's own clock.
    pub now: fn() -> Timestamp,
}

impl Clocks {
    /// Returns the API server's clock at a time of the controller's own clock, with the time that a
    /// rollout may take.
    pub(super) fn deadline(&self, now: Timestamp, timeout: Duration) -> Deadline {
        Deadline { now: self.cluster.at(now), timeout }
    }
}

impl Default for Clocks {
    fn default() -> Self {
        Self { vault: Arc::default(), cluster: Arc::default(), now: Timestamp::now }
    }
}
