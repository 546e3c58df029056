//! The limits on rollouts of reloads that are under way at a time, in all and in a namespace.

use std::collections::HashMap;
use std::sync::Arc;

/// The operator's limits. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RolloutLimits {
    /// The most rollouts at a time.
    pub in_all: Option<usize>,
    /// The most rollouts at a time in one namespace.
    pub per_namespace: Option<usize>,
}

/// The rollouts of reloads that are under way.
#[derive(Clone, Debug, Default)]
pub struct RunningRollouts {
    by_namespace: HashMap<Arc<str>, usize>,
    /// The number of namespaces whose workloads want to begin rollouts now.
    wanting: usize,
}

impl RunningRollouts {
    /// Sets the number of namespaces whose workloads want to begin rollouts now.
    pub fn want(&mut self, namespaces: usize) {
        self.wanting = namespaces;
    }

    /// Counts a rollout.
    pub fn add(&mut self, namespace: &Arc<str>) {
        *self.by_namespace.entry(Arc::clone(namespace)).or_default() += 1;
    }

    /// Whether one more rollout may begin in a namespace.
    ///
    /// The limit in all is shared by the namespaces that want to begin rollouts. Rollouts over the share
    /// or the limit of a namespace do not count against the others. So a few namespaces whose rollouts
    /// never end keep no other waiting, whatever their tenants write into records.
    #[must_use]
    pub fn has_room(&self, limits: &RolloutLimits, namespace: &str) -> bool {
        let per_namespace = limits.per_namespace.unwrap_or(usize::MAX);
        let share = limits.in_all.map_or(usize::MAX, |most| most / self.wanting.max(1));
        let most_here = per_namespace.min(share.max(1));
        let here = self.by_namespace.get(namespace).copied().unwrap_or(0);
        let in_all =
            || self.by_namespace.values().map(|running| (*running).min(most_here)).sum::<usize>();
        here < most_here && limits.in_all.is_none_or(|most| in_all() < most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_takes_no_more_than_its_share() {
        let mut running = RunningRollouts::default();
        let (shop, office) = (Arc::from("shop"), Arc::from("office"));
        let limits = RolloutLimits { in_all: Some(3), per_namespace: Some(2) };
        let has_room = |running: &RunningRollouts, namespace| running.has_room(&limits, namespace);
        (0..9).for_each(|_| running.add(&shop));
        assert!(!has_room(&running, "shop"));
        assert!(has_room(&running, "office"), "two of shop count");
        running.add(&office);
        assert!(!has_room(&running, "office"), "three in all");
        assert!(running.has_room(&RolloutLimits::default(), "shop"));
        // Two namespaces have taken all places for ever, and a third one wants some.
        let limits = RolloutLimits { in_all: Some(4), per_namespace: Some(2) };
        running.add(&office);
        assert!(!running.has_room(&limits, "new"));
        running.want(3);
        assert!(running.has_room(&limits, "new"));
        assert!(!running.has_room(&limits, "shop"));
    }
}
