//! The order in which due reloads start.
//!
//! Namespaces take turns, so no namespace with many workloads keeps the others waiting. Within a
//! namespace, the workloads with the least to lose come first.

use std::collections::HashMap;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::model::secret::{SecretId, Version};
use crate::model::workload::Workload;
use crate::rollouts::rollout::{RolloutState, replaces_no_pods};

/// The place of a workload among those of its namespace. The least comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    class: Class,
    /// The annotation `reload-order`.
    order: i16,
    /// Whether the rollout takes pods away before it adds some.
    interrupts: bool,
    /// The same on every replica and after a restart, and different for each version.
    shuffle: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// The owner of a secret says that its reloads are urgent. They wait for no others, so the others
    /// must wait for them.
    Urgent,
    /// No pod is replaced.
    Silent,
    /// A reload for an earlier version failed, so the workload is broken already.
    Broken,
    Other,
}

/// Returns the rank of a workload. `changed` is the first secret that changed, and its version.
/// `is_urgent` tells whether the owner of a changed secret says so.
#[must_use]
pub fn rank(
    workload: &Workload,
    state: RolloutState,
    changed: Option<(&SecretId, Option<Version>)>,
    is_urgent: bool,
) -> Rank {
    let is_ours = workload.recorded.as_ref().is_some_and(|record| record.of_this_template);
    let class = match state {
        _ if is_urgent => Class::Urgent,
        _ if replaces_no_pods(workload) => Class::Silent,
        RolloutState::Failed(_) if is_ours => Class::Broken,
        _ => Class::Other,
    };
    let mut hasher = SipHasher13::new();
    if let Some((secret, version)) = changed {
        hasher.write_u64(secret.hash64());
        hasher.write_i128(version.map_or(0, |version| version.created.as_nanosecond()));
    }
    hasher.write(workload.uid.as_bytes());
    Rank {
        class,
        order: workload.reload_order,
        interrupts: !workload.rolls_gradually,
        shuffle: hasher.finish(),
    }
}

/// A due reload, as far as its turn depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// The namespace of the workload.
    pub namespace: &'a str,
    /// How often in a row the reload of the workload failed.
    pub failures: u32,
    /// The rank of the workload.
    pub rank: Rank,
}

/// Sorts due reloads. Those that failed come last. The others take turns, one workload of each
/// namespace at a time. `failing` is the number of workloads of a namespace whose reloads fail: each
/// counts as a turn.
pub fn sort_by_turns<'a, T>(
    due: Vec<T>,
    failing: impl IntoIterator<Item = (&'a str, u32)>,
    turn: impl Fn(&T) -> Turn<'a>,
) -> Vec<T> {
    let mut order: Vec<usize> = (0..due.len()).collect();
    let turns: Vec<Turn<'a>> = due.iter().map(&turn).collect();
    order.sort_by_key(|place| turns.get(*place).map(|turn| (turn.failures, turn.rank)));
    let mut next: HashMap<&str, u32> = failing.into_iter().collect();
    let mut keyed: Vec<(u32, u32, Rank, usize)> = Vec::with_capacity(due.len());
    for place in order {
        let Some(Turn { namespace, failures, rank }) = turns.get(place).copied() else { continue };
        let number = next.entry(namespace).or_default();
        *number = number.saturating_add(1);
        keyed.push((failures, *number, rank, place));
    }
    keyed.sort_unstable();
    let mut due: Vec<Option<T>> = due.into_iter().map(Some).collect();
    keyed.into_iter().filter_map(|(.., place)| due.get_mut(place)?.take()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::{recorded, secret, version, workload};
    use crate::model::progress::RolloutFailure;
    use crate::model::strategy::Rollout;

    #[test]
    fn the_workloads_with_the_least_to_lose_come_first() {
        let plain = workload("plain", &["a"]);
        let named = |name, change: &dyn Fn(&mut Workload)| {
            let mut workload = workload(name, &["a"]);
            change(&mut workload);
            workload
        };
        let failed = RolloutState::Failed(RolloutFailure::TimedOut);
        let ours = named("ours", &|w| w.recorded = Some(recorded(true, &[])));
        let in_order = [
            (workload("urgent", &["a"]), RolloutState::Healthy),
            (named("paused", &|w| w.rollout = Rollout::Paused), RolloutState::Healthy),
            (ours, failed),
            (named("early", &|w| w.reload_order = -5), RolloutState::Healthy),
            (named("gradual", &|w| w.rolls_gradually = true), RolloutState::Healthy),
            (plain, failed),
            (named("late", &|w| w.reload_order = 5), RolloutState::Healthy),
        ];
        let a = secret("a");
        let of = |(workload, state): &(Workload, RolloutState)| {
            let is_urgent = &*workload.id.name == "urgent";
            rank(workload, *state, Some((&a, Some(version(2, 9)))), is_urgent)
        };
        let mut sorted = in_order.clone();
        sorted.reverse();
        sorted.sort_by_key(of);
        let names = |list: &[(Workload, RolloutState)]| -> Vec<_> {
            list.iter().map(|(workload, _)| workload.id.name.clone()).collect()
        };
        assert_eq!(names(&sorted), names(&in_order));
        // Another version has another first workload, the same on every replica.
        let shuffled = |number| {
            let mut names: Vec<_> = (0..9).map(|n| workload(&format!("w{n}"), &["a"])).collect();
            names.sort_by_key(|workload| {
                let changed = Some((&*a, Some(version(number, i64::try_from(number).unwrap()))));
                rank(workload, RolloutState::Healthy, changed, false)
            });
            names.into_iter().map(|workload| workload.id.name).collect::<Vec<_>>()
        };
        assert_eq!(shuffled(2), shuffled(2));
        assert_ne!(shuffled(2), shuffled(3));
    }

    #[test]
    fn namespaces_take_turns() {
        let ranked = |namespace, order, failures| {
            let workload = Workload { reload_order: order, ..workload("w", &["a"]) };
            (namespace, failures, rank(&workload, RolloutState::Healthy, None, false))
        };
        let due = vec![
            ("big", ranked("big", -9, 0)),
            ("big2", ranked("big", -8, 0)),
            ("big3", ranked("big", -7, 0)),
            ("small", ranked("small", 9, 0)),
            ("failed", ranked("new", -9, 1)),
            ("of failing", ranked("sick", -9, 0)),
        ];
        let sorted = sort_by_turns(due, [("sick", 5)], |(_, (namespace, failures, rank))| Turn {
            namespace,
            failures: *failures,
            rank: *rank,
        });
        let names: Vec<_> = sorted.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["big", "small", "big2", "big3", "of failing", "failed"]);
    }
}
