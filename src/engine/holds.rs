//! The holds that need no look at secrets: dry runs, freezes and windows, of the operator, of the
//! workload's namespace, and of the workload.

use crate::decide::hold::Hold;
use crate::engine::settings::{Clocks, SharedSettings};
use crate::index::Index;
use crate::model::time_rules::TimeRules;
use crate::model::workload::Workload;
use crate::rollouts::calendar::{Calendar, Levels};

/// The facts that these holds depend on.
#[derive(Clone, Copy)]
pub(super) struct Holds<'a> {
    pub(super) index: &'a Index,
    pub(super) settings: &'a SharedSettings,
    pub(super) calendar: &'a Calendar,
    pub(super) clocks: &'a Clocks,
}

impl Holds<'_> {
    /// Returns why no reload of a workload may start at present, by its annotations and those of its
    /// namespace. Urgent reloads wait for no window.
    pub(super) fn of(self, workload: &Workload, is_urgent: bool) -> Option<Hold> {
        let namespace = self.index.namespaces().of(&workload.id.namespace);
        let of_namespace = namespace.as_deref();
        let is_dry_run = self.settings.dry_run
            || workload.dry_run
            || of_namespace.is_some_and(|rules| rules.dry_run);
        if is_dry_run {
            return Some(Hold::DryRun);
        }
        let levels = Levels {
            operator: &self.settings.time_rules,
            namespace: of_namespace.map(|rules| &rules.time_rules),
            workload: workload.time_rules.as_deref(),
        };
        if levels.operator.is_empty()
            && levels.namespace.is_none_or(TimeRules::is_empty)
            && levels.workload.is_none()
        {
            return None;
        }
        // All replicas share the API server's clock.
        let now = self.clocks.cluster.at((self.clocks.now)());
        if !is_urgent {
            return self.calendar.hold(levels, now);
        }
        let without_windows = |rules: &TimeRules| TimeRules { windows: None, ..rules.clone() };
        let operator = &without_windows(levels.operator);
        let namespace = levels.namespace.map(without_windows);
        let workload = levels.workload.map(without_windows);
        let (namespace, workload) = (namespace.as_ref(), workload.as_ref());
        self.calendar.hold(Levels { operator, namespace, workload }, now)
    }
}
