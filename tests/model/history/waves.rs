//! Histories of rotations: secrets with many users, whose rollouts take time, fail or hang, and the
//! rules for reloads.

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use vault_secrets_reloader::model::reload_policy::{Percent, ReloadMode, ReloadPolicy};
use vault_secrets_reloader::rollouts::admission::RolloutRules;
use vault_secrets_reloader::rollouts::limits::RolloutLimits;
use vault_secrets_reloader::rollouts::wave::WaveRules;

use super::{
    Event, ObservationHistory, PROCESSES, SECRETS, SERVERS, Step, WORKLOADS, events, few, lives,
    pauses, setups,
};

/// How long a rollout may take. The longest rollout that succeeds is shorter.
const TIMEOUT: Duration = Duration::from_mins(2);

/// The longest time in milliseconds until new pods are available.
const LONGEST_START: u64 = 90_000;

/// The shares of workloads that may be rolled out at a time, in percent.
const STEPS: [u8; 4] = [1, 25, 50, 100];

/// The bits of a workload that say that it takes variables from a ConfigMap, and a bit without
/// another meaning.
const SOURCE_BITS: u8 = 0b1_1000;
const SPARE_BIT: u8 = 0b1000_0000;

/// How rollouts go in a history, and the rules for reloads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RolloutSetup {
    /// Whether rollouts take time and may fail, and the rules are judged.
    pub(crate) is_on: bool,
    pub(crate) rules: RolloutRules,
    /// The longest time until new pods are available.
    pub(crate) ready_ms: u64,
    /// How many of a hundred rollouts fail without a cause.
    pub(crate) failing_percent: u64,
    /// The workloads that replace no pods by themselves, as bits.
    pub(crate) on_delete: u16,
    /// The number of namespaces.
    pub(crate) namespaces: usize,
    /// Whether all rollouts succeed and all policies are removed at the end of the history.
    pub(crate) are_mended: bool,
    /// The processes that are woken when a rollout ends, as bits.
    pub(crate) woken: u8,
}

impl Default for RolloutSetup {
    /// All rollouts succeed at once, and there are no rules.
    fn default() -> Self {
        Self {
            is_on: false,
            rules: RolloutRules { timeout: TIMEOUT, ..RolloutRules::default() },
            ready_ms: 0,
            failing_percent: 0,
            on_delete: 0,
            namespaces: 1,
            are_mended: true,
            woken: 0,
        }
    }
}

/// Returns a history in which many workloads use one secret. Few kinds of other events are in it:
/// most of them end a rotation, or hide it from the judge.
pub(super) fn histories() -> impl Strategy<Value = ObservationHistory> {
    let kinds = (few(), few()).prop_map(|(some, others)| some & others);
    let steps = kinds.no_shrink().prop_flat_map(|kinds| vec(steps(kinds), 0..40));
    let workloads = vec(any::<u8>(), 5..=WORKLOADS);
    let processes = prop_oneof![3 => Just(1_usize), 1 => Just(2), 1 => Just(PROCESSES)];
    (setups(), rollout_setups(), workloads, processes, steps).prop_map(
        |(mut setup, rollouts, workloads, processes, steps)| {
            setup.workloads = workloads.into_iter().map(user).collect();
            (setup.rollouts, setup.processes) = (rollouts, processes);
            (setup.unseen_steps, setup.unseen_pause_ms) = (0, 0);
            ObservationHistory { setup, steps }
        },
    )
}

/// Lets a workload use the first secret of its server. Few workloads keep their ConfigMap.
fn user(bits: u8) -> u8 {
    let bits = if bits & SPARE_BIT == 0 { bits & !SOURCE_BITS } else { bits };
    bits | 1
}

fn rollout_setups() -> impl Strategy<Value = RolloutSetup> {
    let bits = (any::<u16>(), any::<u16>(), any::<u16>());
    (
        rules(),
        prop_oneof![1 => 0..50_u64, 3 => 0..20_000_u64, 1 => 0..LONGEST_START],
        prop_oneof![3 => Just(0_u64), 1 => Just(10), 1 => Just(30)],
        prop_oneof![1 => Just(0_u16), 1 => bits.prop_map(|(a, b, c)| a & b & c)],
        (1..=2_usize, prop::bool::weighted(0.75), any::<u8>()),
    )
        .prop_map(|(rules, ready_ms, failing_percent, on_delete, others)| {
            let (namespaces, are_mended, woken) = others;
            RolloutSetup {
                is_on: true,
                rules,
                ready_ms,
                failing_percent,
                on_delete,
                namespaces,
                are_mended,
                woken,
            }
        })
}

fn rules() -> impl Strategy<Value = RolloutRules> {
    let waves = (3..6_u32, 1..3_u32, select(&STEPS[..]));
    let waves = waves.prop_map(|(from, first, step)| {
        let step = Percent::new(step).unwrap_or(Percent::QUARTER);
        WaveRules { from, first, step }
    });
    let limits = (option::weighted(0.3, 1..4_usize), option::weighted(0.3, 1..3_usize));
    let interval = prop_oneof![2 => Just(0_u64), 1 => Just(10), 1 => Just(30)];
    (option::weighted(0.85, waves), limits, interval).prop_map(
        |(waves, (in_all, per_namespace), interval)| RolloutRules {
            waves,
            limits: RolloutLimits { in_all, per_namespace },
            shortest_interval: Duration::from_secs(interval),
            timeout: TIMEOUT,
        },
    )
}

fn steps(kinds: u32) -> impl Strategy<Value = Step> {
    let event = prop_oneof![4 => rollout_events(), 1 => lives(0..PROCESSES), 4 => events(kinds)];
    (pauses(), event).prop_map(|(after_ms, event)| Step { after_ms, event })
}

fn rollout_events() -> impl Strategy<Value = Event> {
    let s = || 0..SECRETS * SERVERS;
    let w = || 0..WORKLOADS;
    let some = (any::<u16>(), any::<u16>()).prop_map(|(some, others)| some & others);
    prop_oneof![
        3 => (s(), prop_oneof![any::<u16>(), some]).prop_map(|(s, w)| Event::RotateBadly(s, w)),
        1 => w().prop_map(Event::Break),
        2 => w().prop_map(Event::Heal),
        2 => w().prop_map(Event::Continue),
        2 => (s(), policies()).prop_map(|(s, policy)| Event::SetPolicy(s, policy)),
        1 => w().prop_map(Event::Redeploy),
    ]
}

fn policies() -> impl Strategy<Value = ReloadPolicy> {
    let of = |mode| Just(ReloadPolicy { mode, ..ReloadPolicy::NONE });
    let pace = (1..4_u32, select(&STEPS[..])).prop_map(|(first, step)| ReloadPolicy {
        first: NonZeroU32::new(first),
        step: Percent::new(step),
        ..ReloadPolicy::NONE
    });
    prop_oneof![
        3 => Just(ReloadPolicy::NONE),
        2 => of(ReloadMode::Hold),
        2 => of(ReloadMode::Urgent),
        2 => pace,
    ]
}
