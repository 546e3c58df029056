//! Waves: how many workloads may be rolled out for a new version of a secret at a time.
//!
//! A new version goes to a few workloads first. When one of them is healthy, a share of all
//! workloads that use the secret may be rolled out at a time. A reload cannot be rolled back: the old
//! pods are the only ones with the former version. So a failed rollout stops the others.
//!
//! The state is counted from the workloads each time. Nothing is stored, and a restart or another
//! leader counts the same.

use std::num::NonZeroU32;

use crate::model::reload_policy::{Percent, ReloadPolicy};
use crate::rollouts::rollout::RolloutState;

/// The operator's settings for waves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaveRules {
    /// The number of workloads from which on a secret is rotated in waves.
    pub from: u32,
    /// The number of workloads that a new version goes to first.
    pub first: u32,
    /// The share of all workloads that may be rolled out at a time after that.
    pub step: Percent,
}

impl Default for WaveRules {
    fn default() -> Self {
        Self { from: 5, first: 1, step: Percent::QUARTER }
    }
}

/// A workload that was reloaded for the version.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The state of its rollout.
    pub state: RolloutState,
    /// Whether the failure of its rollout tells nothing about the version: the workload was not
    /// healthy before, or somebody said to go on.
    pub is_excused: bool,
}

/// How a workload that uses a secret stands to the live version of the secret.
#[derive(Clone, Copy, Debug)]
pub enum Use {
    /// It was not reloaded for the version, and nothing is under way.
    Other,
    /// It was reloaded for the version.
    Reloaded(Member),
    /// It was reloaded for an earlier version, and its rollout is under way or failed.
    Earlier(Member),
}

/// The workloads that use one secret, counted by how they do with its live version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wave {
    /// The number of workloads that use the secret.
    pub users: usize,
    /// The number of those that run with the version after a reload.
    pub healthy: usize,
    /// The number of those whose rollout is under way.
    pub running: usize,
    /// The number of workloads whose rollout for an earlier version is under way. A secret that changes
    /// all the time must not reach another workload each time.
    pub earlier: usize,
    /// The number of those whose rollout failed.
    pub failed: usize,
}

/// Whether one more workload may be rolled out for a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// It may.
    Free,
    /// Not until another rollout has ended.
    Full,
    /// Not until somebody helps, because a rollout failed.
    Stopped,
}

impl Wave {
    /// Counts a workload that uses the secret.
    pub fn add(&mut self, user: Use) {
        self.users += 1;
        let Member { state, is_excused } = match user {
            Use::Other => return,
            Use::Reloaded(member) => member,
            Use::Earlier(Member { state, .. }) => {
                self.earlier += usize::from(state == RolloutState::Running);
                return;
            }
        };
        match state {
            RolloutState::Healthy => self.healthy += 1,
            RolloutState::Running => self.running += 1,
            RolloutState::Failed(_) if !is_excused => self.failed += 1,
            RolloutState::Failed(_) | RolloutState::Silent(_) | RolloutState::Degraded => {}
        }
    }

    /// Returns how many workloads may be rolled out at a time. `None` if there is no limit.
    #[must_use]
    pub fn width(&self, rules: &WaveRules, policy: &ReloadPolicy) -> Option<usize> {
        let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        if self.users < number(rules.from) {
            return None;
        }
        let first = number(policy.first.map_or(rules.first, NonZeroU32::get)).max(1);
        let step = policy.step.unwrap_or(rules.step);
        Some(if self.healthy == 0 { first } else { first.max(step.of(self.users)) })
    }

    /// Whether one more workload may be rolled out for the version. A workload whose rollout for an
    /// earlier version is under way, or failed (`is_earlier`), loses nothing by the next version. So it
    /// waits for no other one like it.
    #[must_use]
    pub fn room(&self, rules: &WaveRules, policy: &ReloadPolicy, is_earlier: bool) -> Room {
        let Some(width) = self.width(rules, policy) else { return Room::Free };
        if self.failed > 0 {
            Room::Stopped
        } else if self.running + if is_earlier { 0 } else { self.earlier } >= width {
            Room::Full
        } else {
            Room::Free
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::progress::{RolloutFailure, Silence};

    fn wave(users: usize, members: &[(RolloutState, bool)]) -> Wave {
        let mut wave = Wave::default();
        for (state, is_excused) in members.iter().copied() {
            wave.add(Use::Reloaded(Member { state, is_excused }));
        }
        (members.len()..users).for_each(|_| wave.add(Use::Other));
        wave
    }

    #[test]
    fn one_first_then_a_share_and_none_after_a_failure() {
        let rules = WaveRules::default();
        let none = ReloadPolicy::default();
        let room = |wave: Wave| wave.room(&rules, &none, false);
        let (healthy, running) = ((RolloutState::Healthy, false), (RolloutState::Running, false));
        let failed = RolloutState::Failed(RolloutFailure::TimedOut);
        assert_eq!(room(wave(4, &[(failed, false)])), Room::Free, "too few for waves");
        assert_eq!(room(wave(5, &[])), Room::Free);
        assert_eq!(room(wave(5, &[running])), Room::Full);
        // 25 % of 5 is 2 at a time.
        assert_eq!(room(wave(5, &[healthy, running])), Room::Free);
        assert_eq!(room(wave(5, &[healthy, running, running])), Room::Full);
        assert_eq!(room(wave(5, &[healthy, healthy, healthy, running])), Room::Free);
        assert_eq!(room(wave(5, &[healthy, (failed, false)])), Room::Stopped);
        assert_eq!(room(wave(5, &[healthy, (failed, true)])), Room::Free);
        // A rollout for the version before is under way.
        let mut before = wave(5, &[]);
        let (state, is_excused) = (RolloutState::Running, false);
        before.add(Use::Earlier(Member { state, is_excused }));
        assert_eq!(room(before), Room::Full);
        assert_eq!(before.room(&rules, &none, true), Room::Free);
        before.running = 1;
        assert_eq!(before.room(&rules, &none, true), Room::Full);
        // Neither a paused workload nor one that broke long after is evidence.
        let silent = (RolloutState::Silent(Silence::Paused), false);
        let degraded = (RolloutState::Degraded, false);
        assert_eq!(wave(120, &[silent, degraded]).width(&rules, &none), Some(1));
        assert_eq!(wave(120, &[silent, degraded, healthy]).width(&rules, &none), Some(30));
    }

    #[test]
    fn the_owner_of_the_secret_sets_the_pace() {
        let rules = WaveRules::default();
        let policy = ReloadPolicy {
            first: NonZeroU32::new(3),
            step: Percent::new(10),
            ..Default::default()
        };
        assert_eq!(wave(120, &[]).width(&rules, &policy), Some(3));
        let healthy = (RolloutState::Healthy, false);
        assert_eq!(wave(120, &[healthy]).width(&rules, &policy), Some(12));
        assert_eq!(wave(20, &[healthy]).width(&rules, &policy), Some(3), "never below the first");
        let rules = WaveRules { first: 0, ..rules };
        assert_eq!(wave(9, &[]).width(&rules, &ReloadPolicy::default()), Some(1));
    }
}
