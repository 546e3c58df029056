//! The histories of the model. A history is a setup and a sequence of steps.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::Union;
use vault_secrets_reloader::model::reload_policy::ReloadPolicy;

pub(crate) use waves::RolloutSetup;

mod waves;

/// The most secrets of one server, and the most workloads of a history without waves. These are
/// enough for each rule of a decision to meet each other rule.
pub(crate) const SECRETS: usize = 3;
const FEW_WORKLOADS: usize = 3;
/// The most workloads of a history.
const WORKLOADS: usize = 12;
/// The most Vault servers of a history. Each has secrets of its own, at the same paths.
pub(crate) const SERVERS: usize = 2;
/// The ConfigMaps of a history.
pub(crate) const SOURCES: usize = 2;
/// The most controllers that run at once. Each acts as a leader.
pub(crate) const PROCESSES: usize = 3;

/// The longest delay of the versions that starting pods read, in milliseconds. The settle time
/// covers this delay and the uncertainty of clocks that differ.
const MOST_PODS_LAG: u64 = 1_900;

/// The pause in a history that begins without a controller, in milliseconds.
const DAY_AND_HOUR: u64 = 25 * 3_600_000;

/// A history.
#[derive(Clone, Debug)]
pub(crate) struct ObservationHistory {
    pub(crate) setup: Setup,
    pub(crate) steps: Vec<Step>,
}

/// The start of a history.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The seed of all other random values, such as the duration of a request.
    pub(crate) chance: u64,
    pub(crate) secrets: usize,
    pub(crate) servers: usize,
    /// The secrets that each workload refers to, as bits; and in the higher bits, whether it takes
    /// variables from a ConfigMap, which one, and which server it uses.
    pub(crate) workloads: Vec<u8>,
    /// The secrets that each ConfigMap refers to, as bits.
    pub(crate) sources: [u8; SOURCES],
    /// Whether workloads declare that their secrets may be missing.
    pub(crate) may_be_missing: bool,
    pub(crate) processes: usize,
    /// The time by which the first server's clock is ahead of the API server's. The second server's
    /// clock is behind by as much.
    pub(crate) skew_ms: i64,
    /// The time by which the clock of a proxy before Vault is ahead of Vault's, and whether Vault
    /// reports its own time.
    pub(crate) proxy_skew_ms: i64,
    pub(crate) tells_time: bool,
    /// The time by which the controller's clock is ahead of the API server's.
    pub(crate) own_skew_ms: i64,
    /// The longest time from a new template to its revision, and from there to its pods.
    pub(crate) controller_ms: u64,
    pub(crate) pods_ms: u64,
    /// The delay of an event of the watch.
    pub(crate) watch_ms: u64,
    /// The budget for reloads that rest on the clock alone.
    pub(crate) burst: u32,
    /// The time between the workloads and the start of the first controllers.
    pub(crate) start_ms: u64,
    /// The number of steps that happen before the first controllers start, and the pause before the
    /// last of these steps.
    pub(crate) unseen_steps: usize,
    pub(crate) unseen_pause_ms: u64,
    /// How rollouts go, and the rules for reloads.
    pub(crate) rollouts: RolloutSetup,
}

/// An event, and the time after the event before it.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) after_ms: u64,
    pub(crate) event: Event,
}

/// An event of a history. Numbers name a secret, a workload or a process, modulo their count.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    // Events of secrets.
    Rotate(usize),
    /// The secret is rotated just before the next poll reads it.
    RotateAtPoll(usize),
    Delete(usize),
    Undelete(usize),
    Destroy(usize),
    DeleteMetadata(usize),
    /// The storage is copied. A later restore brings the copy back, for all secrets or for one
    /// mount.
    Snapshot,
    Restore,
    RestoreMount(usize),
    // Changes of workloads, by their owners and others.
    Redeploy(usize),
    AddReference(usize, usize),
    RemoveReference(usize, usize),
    OptOut(usize),
    OptIn(usize),
    /// The workload's annotation names the other server.
    MoveServer(usize),
    /// A ConfigMap refers to other secrets from now on. The bits name the secrets.
    EditSource(usize, u8),
    /// `kubectl rollout undo`: template and annotations of the revision before.
    Undo(usize),
    /// The owner puts its own template back; the record stays.
    Revert(usize),
    /// The owner puts its own template back and removes the record.
    Strip(usize),
    /// The owner reverts or strips each of the next reloads at once.
    RevertNext(usize),
    StripNext(usize),
    RemoveRecord(usize),
    /// All revisions but the present one are removed.
    Prune(usize),
    /// Another client writes something that does not matter to the controller.
    Touch(usize),
    /// The pods are replaced, as when a node is drained.
    RenewPods(usize),
    // Events of rollouts.
    /// The secret is rotated, and with the new version the rollouts of some workloads fail. The bits
    /// name the workloads.
    RotateBadly(usize, u16),
    /// The pods of a workload are not available any more, whatever their versions.
    Break(usize),
    /// Somebody makes the pods of a workload available: of one whose rollout does not end, if there
    /// is one.
    Heal(usize),
    /// Somebody says to go on after the failure of a workload.
    Continue(usize),
    /// The owner of a secret says how to reload.
    SetPolicy(usize, ReloadPolicy),
    StartDeletion(usize),
    /// The owner of a workload, or of the namespace, freezes reloads for this time in milliseconds.
    Freeze(usize, u64),
    FreezeNamespace(u64),
    /// The workload is deleted and created again, fresh or with all annotations of the old object.
    Recreate(usize),
    Clone(usize),
    /// The workload is deleted without its pods. Its owner creates the workload again, and it
    /// adopts the pods.
    Adopt(usize),
    // Faults of requests. The last number is a time in milliseconds.
    Patch(PatchFault),
    /// Reads of a secret, or all requests to a server, fail for this time.
    Unreadable(usize, u64),
    VaultDown(usize, u64),
    /// Requests to the API server fail for this time.
    ApiDown(u64),
    /// Look-ups of revisions fail for this time.
    NoRevisions(u64),
    /// For a minute, a standby that is behind by this time answers every second read.
    Standby(u64),
    /// For a minute, starting pods read the versions of this time ago.
    PodsLag(u64),
    /// A standby that does not know the latest change answers the next poll of a process, on each
    /// server.
    OnStandby(usize),
    /// The controllers of workloads do nothing for this time.
    ControllersDown(u64),
    /// For a minute, a watch is late by this time.
    SlowWatch(usize, u64),
    // Events of the controller's processes: killed at this moment, told to end, started.
    Kill(usize),
    KillAll,
    Stop(usize),
    Start(usize),
    /// The process does not lead for this time.
    Demote(usize, u64),
}

/// A fault of the next PATCH.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PatchFault {
    /// An admission policy refuses the PATCH.
    Refused,
    /// The PATCH never arrives.
    Lost,
    /// The PATCH is applied, and the answer is lost.
    AnswerLost,
    /// The answer is lost. The PATCH is applied this many milliseconds after its sender gave up.
    Late(u64),
    /// The PATCH takes this many milliseconds to arrive, and is answered.
    Slow(u64),
    /// Another client writes the object first.
    Conflict,
    /// The workload's owner deploys first.
    Redeployed,
    /// The process is killed after it sent the PATCH, and the PATCH is applied.
    Killed,
}

/// The bits of the kinds of events that [`THEMES`] names: their places in [`events`].
const ENDINGS: u32 = 1 << 0;
const TAKING_BACK: u32 = 1 << 7;
const RECREATIONS: u32 = 1 << 12;
const PATCH_FAULTS: u32 = 1 << 13;
const STANDBYS: u32 = 1 << 17;
const LIVES: u32 = 1 << 19;
const SOURCE_EDITS: u32 = 1 << 21;

/// A subject of histories: the kinds of their events, and what their setup must have.
#[derive(Clone, Copy, Debug)]
struct Theme {
    /// The kinds of events, as bits.
    kinds: u32,
    /// Whether there are two secrets or more.
    has_several_secrets: bool,
    /// Whether workloads declare that their secrets may be missing. `None` if that does not matter.
    may_be_missing: Option<bool>,
    /// Whether some steps happen before the first controllers start, with a day between them.
    begins_unseen: bool,
}

impl Theme {
    /// Histories of these kinds of events, with any setup.
    const fn of(kinds: u32) -> Self {
        Self { kinds, has_several_secrets: false, may_be_missing: None, begins_unseen: false }
    }

    fn apply(self, setup: &mut Setup) {
        if self.has_several_secrets {
            setup.secrets = setup.secrets.max(2);
            // Each workload refers to the first two secrets.
            setup.workloads.iter_mut().for_each(|bits| *bits |= 0b11);
        }
        setup.may_be_missing = self.may_be_missing.unwrap_or(setup.may_be_missing);
        if !self.begins_unseen {
            (setup.unseen_steps, setup.unseen_pause_ms) = (0, 0);
        }
    }
}

/// Subjects for which a random choice of kinds is too seldom right.
const THEMES: [Theme; 4] = [
    // Secrets that come back after a reload recorded that they were missing.
    Theme {
        has_several_secrets: true,
        may_be_missing: Some(true),
        ..Theme::of(ENDINGS | PATCH_FAULTS | LIVES)
    },
    // Two secrets are rotated, and pods start with the version before of one of them.
    Theme { has_several_secrets: true, ..Theme::of(STANDBYS) },
    // Reloads for former secrets are taken back.
    Theme::of(SOURCE_EDITS | TAKING_BACK),
    // Pods from before a day without a controller get another workload.
    Theme { begins_unseen: true, ..Theme::of(RECREATIONS) },
];

/// Returns any history: one in ten with rollouts that take time and fail, and with rules for them.
pub(crate) fn histories() -> impl Strategy<Value = ObservationHistory> {
    prop_oneof![9 => histories_of_decisions(), 1 => waves::histories()]
}

/// Returns a history without rules for rollouts. Most of these histories hold only some kinds of
/// events. In a history of all kinds, a sequence of several steps of few kinds is rare.
fn histories_of_decisions() -> impl Strategy<Value = ObservationHistory> {
    let themes = prop_oneof![
        2 => Just(Theme::of(u32::MAX)),
        2 => any::<u32>().prop_map(Theme::of),
        4 => few().prop_map(Theme::of),
        1 => prop::sample::select(&THEMES[..]),
    ];
    let steps = |theme: Theme| (Just(theme), vec(steps(theme.kinds), 0..45));
    let themed = themes.no_shrink().prop_flat_map(steps);
    (setups(), themed).prop_map(|(mut setup, (theme, steps))| {
        theme.apply(&mut setup);
        ObservationHistory { setup, steps }
    })
}

/// Returns the bits of about one kind of event in four.
fn few() -> impl Strategy<Value = u32> {
    (any::<u32>(), any::<u32>()).prop_map(|(some, others)| some & others)
}

fn setups() -> impl Strategy<Value = Setup> {
    let skew = || {
        prop_oneof![
            4 => Just(0_i64),
            1 => prop_oneof![Just(3_600_000_i64), Just(-3_600_000), Just(7_300), Just(-7_300)],
        ]
    };
    (
        (any::<u64>(), things(), vec(any::<u8>(), 1..=FEW_WORKLOADS), prop::bool::weighted(0.25)),
        (1..=PROCESSES, skew(), skew(), clocks_of_proxies()),
        (
            prop_oneof![1 => 0..50_u64, 2 => 0..2_000_u64],
            prop_oneof![1 => 0..50_u64, 2 => 0..8_000_u64],
            prop_oneof![4 => 0..50_u64, 1 => 0..5_000_u64],
        ),
        (prop_oneof![4 => Just(100_u32), 1 => Just(1)], 0..90_000_u64, 2..6_usize),
    )
        .prop_map(|((chance, things, workloads, may_be_missing), p, delays, start)| {
            let (burst, start_ms, unseen_steps) = start;
            let (secrets, servers, sources) = things;
            let (processes, skew_ms, own_skew_ms, (tells_time, proxy_skew_ms)) = p;
            let (controller_ms, pods_ms, watch_ms) = delays;
            Setup {
                chance,
                secrets,
                servers,
                workloads,
                sources,
                may_be_missing,
                processes,
                skew_ms,
                proxy_skew_ms,
                tells_time,
                own_skew_ms,
                controller_ms,
                pods_ms,
                watch_ms,
                burst,
                start_ms,
                unseen_steps,
                unseen_pause_ms: DAY_AND_HOUR,
                rollouts: RolloutSetup::default(),
            }
        })
}

/// Returns the number of secrets, the number of servers, and the secrets that ConfigMaps refer to.
fn things() -> impl Strategy<Value = (usize, usize, [u8; SOURCES])> {
    (1..=SECRETS, prop_oneof![3 => Just(1_usize), 1 => Just(SERVERS)], any::<[u8; SOURCES]>())
}

/// Returns whether Vault reports its own time, and the time by which the proxy before Vault is
/// ahead. If the proxy's clock is wrong, Vault reports its own time: nothing else helps then.
fn clocks_of_proxies() -> impl Strategy<Value = (bool, i64)> {
    prop_oneof![
        4 => Just((true, 0_i64)),
        1 => Just((false, 0)),
        1 => prop_oneof![Just(60_000_i64), Just(-60_000)].prop_map(|skew| (true, skew)),
    ]
}

fn steps(kinds: u32) -> impl Strategy<Value = Step> {
    (pauses(), events(kinds)).prop_map(|(after_ms, event)| Step { after_ms, event })
}

/// Returns the time between two events: from none to some polls.
fn pauses() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => 0..60_u64,
        3 => 0..2_500_u64,
        4 => 0..40_000_u64,
        2 => 30_000..200_000_u64,
    ]
}

/// Returns an event of the kinds whose bits are set, or a rotation.
fn events(kinds: u32) -> impl Strategy<Value = Event> {
    let s = || 0..SECRETS * SERVERS;
    let w = || 0..WORKLOADS;
    let p = || 0..PROCESSES;
    let time = || 0..180_000_u64;
    let all: [(u32, BoxedStrategy<Event>); 24] = [
        (5, endings_of_versions(s()).boxed()),
        (6, storage_events(s()).boxed()),
        (6, w().prop_map(Event::Redeploy).boxed()),
        (2, (w(), s()).prop_map(|(w, s)| Event::AddReference(w, s)).boxed()),
        (1, (w(), s()).prop_map(|(w, s)| Event::RemoveReference(w, s)).boxed()),
        (4, prop_oneof![w().prop_map(Event::OptOut), w().prop_map(Event::OptIn)].boxed()),
        (1, w().prop_map(Event::Undo).boxed()),
        (2, prop_oneof![w().prop_map(Event::Revert), w().prop_map(Event::RevertNext)].boxed()),
        (3, strippings(w()).boxed()),
        (1, w().prop_map(Event::Prune).boxed()),
        (4, prop_oneof![w().prop_map(Event::Touch), w().prop_map(Event::RenewPods)].boxed()),
        (1, w().prop_map(Event::StartDeletion).boxed()),
        (
            4,
            prop_oneof![
                w().prop_map(Event::Recreate),
                w().prop_map(Event::Clone),
                w().prop_map(Event::Adopt)
            ]
            .boxed(),
        ),
        (8, patch_faults().prop_map(Event::Patch).boxed()),
        (2, (s(), time()).prop_map(|(s, ms)| Event::Unreadable(s, ms)).boxed()),
        (
            2,
            prop_oneof![
                (0..SERVERS, time()).prop_map(|(server, ms)| Event::VaultDown(server, ms)),
                time().prop_map(Event::ApiDown)
            ]
            .boxed(),
        ),
        (2, slow_controllers(time()).boxed()),
        (5, standbys(p()).boxed()),
        (1, (p(), 0..20_000_u64).prop_map(|(p, ms)| Event::SlowWatch(p, ms)).boxed()),
        (12, lives(p()).boxed()),
        (2, (p(), 0..150_000_u64).prop_map(|(p, ms)| Event::Demote(p, ms)).boxed()),
        (5, (0..SOURCES, any::<u8>()).prop_map(|(s, bits)| Event::EditSource(s, bits)).boxed()),
        (1, w().prop_map(Event::MoveServer).boxed()),
        (
            3,
            prop_oneof![
                (w(), time()).prop_map(|(w, ms)| Event::Freeze(w, ms)),
                time().prop_map(Event::FreezeNamespace)
            ]
            .boxed(),
        ),
    ];
    let rotations = prop_oneof![
        5 => s().prop_map(Event::Rotate),
        // New pods may read the version before, for a moment.
        1 => s().prop_map(Event::RotateAtPoll),
    ];
    let rotations = (9, rotations.boxed());
    let wanted = all.into_iter().enumerate().filter(|(kind, _)| kinds >> kind & 1 == 1);
    Union::new_weighted(wanted.map(|(_, events)| events).chain([rotations]).collect())
}

fn endings_of_versions(s: Range<usize>) -> impl Strategy<Value = Event> {
    (0..6, s).prop_map(|(kind, s)| match kind {
        0 => Event::Delete(s),
        1 | 2 => Event::Undelete(s),
        3 => Event::Destroy(s),
        _ => Event::DeleteMetadata(s),
    })
}

fn storage_events(s: Range<usize>) -> impl Strategy<Value = Event> {
    (0..3, s).prop_map(|(kind, s)| match kind {
        0 => Event::Snapshot,
        1 => Event::Restore,
        _ => Event::RestoreMount(s),
    })
}

fn strippings(w: Range<usize>) -> impl Strategy<Value = Event> {
    (0..3, w).prop_map(|(kind, w)| match kind {
        0 => Event::Strip(w),
        1 => Event::StripNext(w),
        _ => Event::RemoveRecord(w),
    })
}

fn slow_controllers(time: Range<u64>) -> impl Strategy<Value = Event> {
    (any::<bool>(), time).prop_map(|(is_down, ms)| {
        if is_down { Event::ControllersDown(ms) } else { Event::NoRevisions(ms) }
    })
}

fn standbys(p: Range<usize>) -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (0..500_u64).prop_map(Event::Standby),
        4 => (0..MOST_PODS_LAG).prop_map(Event::PodsLag),
        1 => p.prop_map(Event::OnStandby),
    ]
}

fn lives(p: Range<usize>) -> impl Strategy<Value = Event> {
    (0..12, p).prop_map(|(kind, p)| match kind {
        0..=4 => Event::Kill(p),
        5..=9 => Event::Start(p),
        10 => Event::KillAll,
        _ => Event::Stop(p),
    })
}

fn patch_faults() -> impl Strategy<Value = PatchFault> {
    prop_oneof![
        1 => Just(PatchFault::Refused),
        1 => Just(PatchFault::Lost),
        2 => Just(PatchFault::AnswerLost),
        2 => (0..90_000_u64).prop_map(PatchFault::Late),
        2 => (0..5_000_u64).prop_map(PatchFault::Slow),
        1 => Just(PatchFault::Conflict),
        1 => Just(PatchFault::Redeployed),
        2 => Just(PatchFault::Killed),
    ]
}
