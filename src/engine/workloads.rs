//! The workloads as the reloader handles them: their cluster, the memory of each workload, and the
//! limit on reloads.

use std::sync::Arc;

use crate::decide::clock::skew;
use crate::decide::plan::Rules;
use crate::election::leadership::Leadership;
use crate::engine::api_server_outage::ApiServerOutage;
use crate::engine::holds::Holds;
use crate::engine::injector_hold::InjectorHold;
use crate::engine::openings::Openings;
use crate::engine::settings::{Clocks, Settings};
use crate::engine::workload_track::WorkloadTracks;
use crate::events::sink::Events;
use crate::heartbeat::Heartbeat;
use crate::index::Index;
use crate::model::poll::PollNumber;
use crate::rollouts::budget::Budget;
use crate::rollouts::calendar::Calendar;

/// The parts that decide about workloads and reload them.
pub(super) struct Workloads<C> {
    pub(super) index: Arc<Index>,
    pub(super) cluster: C,
    pub(super) events: Events,
    pub(super) clocks: Clocks,
    pub(super) settings: Settings,
    pub(super) leadership: Leadership,
    pub(super) heartbeat: Heartbeat,
    pub(super) tracks: WorkloadTracks,
    pub(super) budget: Budget,
    pub(super) calendar: Calendar,
    pub(super) openings: Openings,
    pub(super) injector: InjectorHold,
    pub(super) outage: ApiServerOutage,
    /// The number of the present poll.
    pub(super) poll: PollNumber,
}

impl<C> Workloads<C> {
    /// Returns the holds that need no look at secrets.
    pub(super) fn holds(&self) -> Holds<'_> {
        Holds {
            index: &self.index,
            settings: &self.settings.shared,
            calendar: &self.calendar,
            clocks: &self.clocks,
        }
    }

    /// Returns the rules of the next decision.
    pub(super) fn rules(&self) -> Rules {
        let Clocks { vault, cluster, now } = &self.clocks;
        Rules {
            ignore_versions_before: self.settings.shared.ignore_versions_before,
            ignore_missing: self.settings.ignore_missing,
            skew: skew(vault, cluster),
            settle: self.settings.shared.settle,
            vault_now: vault.at_least(now()),
        }
    }
}
