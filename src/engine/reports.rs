//! What a reloader reports after each tick, beside its reloads: each state once when it begins, and
//! once when it ends.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::decide::hold::Hold;
use crate::events::event::Event;
use crate::events::sink::Events;
use crate::index::Index;
use crate::index::entries::IndexedWorkload;
use crate::index::findings::{Finding, FindingSource};
use crate::model::secret::SecretId;
use crate::references::place::{Note, Origin};
use crate::references::reason::Reason;

/// The most findings about secrets that the owner of one workload gets. The log has all of them.
const MOST_NOTICES: usize = 10;

/// The states that a reloader has reported.
#[derive(Default)]
pub(super) struct Reports {
    /// The namespaces that were reported as over their quota.
    over_quota: BTreeSet<Arc<str>>,
    /// The number of workloads that waited for the budget after the last poll.
    over_budget: usize,
    /// What workloads waited for after the last tick.
    waited_for: BTreeSet<Hold>,
    /// Whether the line that nothing was to be reloaded is still due for this period.
    is_idle_due: bool,
}

impl Reports {
    /// Reports once a period that nothing was to be reloaded, if Vault answered. After an outage,
    /// the report follows the first answer.
    pub(super) fn idle(&mut self, events: &Events, is_full: bool, is_idle: bool, has_answer: bool) {
        self.is_idle_due = is_idle && (is_full || self.is_idle_due);
        if self.is_idle_due && has_answer {
            self.is_idle_due = false;
            events.emit(&Event::NothingToReload);
        }
    }

    /// Reports the namespaces that are newly over their quota, and those that are within it again.
    pub(super) fn quota(&mut self, events: &Events, quota: usize, over_quota: &[IndexedWorkload]) {
        if over_quota.is_empty() && self.over_quota.is_empty() {
            return;
        }
        let mut present: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for IndexedWorkload { workload, .. } in over_quota {
            *present.entry(Arc::clone(&workload.id.namespace)).or_default() += 1;
        }
        for (namespace, &workloads) in &present {
            if !self.over_quota.contains(namespace) {
                events.emit(&Event::NamespaceOverQuota { namespace, workloads, quota });
            }
        }
        for namespace in self.over_quota.iter().filter(|name| !present.contains_key(*name)) {
            events.emit(&Event::NamespaceWithinQuota { namespace });
        }
        self.over_quota = present.into_keys().collect();
    }

    /// Reports when workloads begin to wait for the budget, and when none waits any more.
    pub(super) fn budget(&mut self, events: &Events, per_minute: u32, over_budget: usize) {
        match (self.over_budget, over_budget) {
            (0, workloads @ 1..) => events.emit(&Event::BudgetSpent { workloads, per_minute }),
            (1.., 0) => events.emit(&Event::BudgetFree),
            _ => {}
        }
        self.over_budget = over_budget;
    }

    /// Reports when workloads begin to wait for others, and when none waits any more.
    pub(super) fn waiting(&mut self, events: &Events, waiting_for: &BTreeMap<Hold, usize>) {
        for (&hold, &workloads) in waiting_for {
            if !self.waited_for.contains(&hold) {
                events.emit(&Event::ReloadsWait { hold, workloads });
            }
        }
        for &hold in self.waited_for.iter().filter(|hold| !waiting_for.contains_key(hold)) {
            events.emit(&Event::NoReloadWaits { hold });
        }
        self.waited_for = waiting_for.keys().copied().collect();
    }
}

/// The workloads of a tick that get findings.
pub(super) struct ReportedWorkloads<'a> {
    /// The name of their Vault server.
    pub(super) server: &'a str,
    /// The workloads of the tick.
    pub(super) workloads: &'a [IndexedWorkload],
    /// The workloads over the quota of their namespace.
    pub(super) over_quota: &'a [IndexedWorkload],
    /// Whether these are all workloads of the server. Then the findings of its other workloads are
    /// removed.
    pub(super) are_all: bool,
}

/// Sets the findings for the owners of workloads: what Vault's answers mean for their secrets, and
/// which workloads are over the quota of their namespace.
pub(super) fn set_findings(
    index: &Index,
    by_secret: &HashMap<Arc<SecretId>, Finding>,
    reported: &ReportedWorkloads<'_>,
) {
    let ReportedWorkloads { server, workloads, over_quota, are_all } = *reported;
    let findings = index.findings();
    if by_secret.is_empty() && over_quota.is_empty() && !findings.has_of_vault() {
        return;
    }
    let reason = Reason::TooManySecretsInNamespace;
    let quota_finding = Finding::of_notes(&[Note { origin: Origin::Workload, reason }]);
    for IndexedWorkload { workload, .. } in over_quota {
        findings.set(&workload.id, &workload.uid, FindingSource::Vault, quota_finding.clone());
    }
    for IndexedWorkload { workload, .. } in workloads {
        let found = workload.secrets.iter().filter_map(|secret| by_secret.get(secret).cloned());
        let found = found.take(MOST_NOTICES).collect();
        findings.set(&workload.id, &workload.uid, FindingSource::Vault, found);
    }
    if are_all {
        let present = workloads.iter().chain(over_quota).map(|stored| &stored.workload.id);
        let present: HashSet<_> = present.collect();
        findings.retain_of_vault(|id| present.contains(id) || index.is_of_another(id, server));
    }
}
