//! What can happen: a history is a setup, and steps that come one after the other.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::Union;

/// The most secrets of one server, and the most workloads of a history: enough for every rule to meet
/// every other.
pub(crate) const SECRETS: usize = 3;
pub(crate) const WORKLOADS: usize = 3;
/// The most Vault servers of a history. Each has secrets of its own, at the same paths.
pub(crate) const SERVERS: usize = 2;
/// The ConfigMaps of a history.
pub(crate) const SOURCES: usize = 2;
/// The most controllers that run at once, each of them acting as a leader.
pub(crate) const PROCESSES: usize = 3;

/// How far pods that start may be behind, in milliseconds: what the settle time covers beside what is not
/// known of clocks that differ.
const MOST_PODS_LAG: u64 = 1_900;

/// A history.
#[derive(Clone, Debug)]
pub(crate) struct ObservationHistory {
    pub(crate) setup: Setup,
    pub(crate) steps: Vec<Step>,
}

/// How it begins.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// For whatever else is left to chance, such as how long a request takes.
    pub(crate) chance: u64,
    pub(crate) secrets: usize,
    pub(crate) servers: usize,
    /// The secrets that each workload refers to, as bits; and in the higher bits, whether it takes
    /// variables from a ConfigMap, which one, and which server it uses.
    pub(crate) workloads: Vec<u8>,
    /// The secrets that each ConfigMap refers to, as bits.
    pub(crate) sources: [u8; SOURCES],
    /// Whether a workload says that its secrets may be missing.
    pub(crate) may_be_missing: bool,
    pub(crate) processes: usize,
    /// How far the clock of the first server is ahead of the API server's. That of the second one is
    /// behind by as much.
    pub(crate) skew_ms: i64,
    /// How far the clock of a proxy before Vault is ahead of Vault's, and whether Vault tells its own time.
    pub(crate) proxy_skew_ms: i64,
    pub(crate) tells_time: bool,
    /// How far ours is ahead of the API server's.
    pub(crate) own_skew_ms: i64,
    /// The longest time from a new template to its revision, and from there to its pods.
    pub(crate) controller_ms: u64,
    pub(crate) pods_ms: u64,
    /// How long an event of the watch is under way.
    pub(crate) watch_ms: u64,
    /// The budget for reloads that nothing but the clock speaks for.
    pub(crate) burst: u32,
    /// How long after the workloads the first controllers start.
    pub(crate) start_ms: u64,
}

/// Something happens, so long after what happened before.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) after_ms: u64,
    pub(crate) event: Event,
}

/// What happens. Numbers name a secret, a workload or a process, modulo how many there are.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    // To secrets.
    Rotate(usize),
    Delete(usize),
    Undelete(usize),
    Destroy(usize),
    DeleteMetadata(usize),
    /// The storage is copied; a later restore brings it back, of all secrets or of one mount.
    Snapshot,
    Restore,
    RestoreMount(usize),
    // To workloads, by their owners and others.
    Redeploy(usize),
    AddReference(usize, usize),
    RemoveReference(usize, usize),
    OptOut(usize),
    OptIn(usize),
    /// Its annotation names the other server.
    MoveServer(usize),
    /// A ConfigMap refers to these secrets from now on, as bits.
    EditSource(usize, u8),
    /// `kubectl rollout undo`: template and annotations of the revision before.
    Undo(usize),
    /// The template is put back as its owner wrote it; the record stays.
    Revert(usize),
    /// The same, and the record goes with it.
    Strip(usize),
    /// An owner that reverts, or strips, each of the next reloads at once.
    RevertNext(usize),
    StripNext(usize),
    RemoveRecord(usize),
    /// All revisions but the present one are cleaned up.
    Prune(usize),
    /// Somebody else writes something of no interest.
    Touch(usize),
    /// Its pods are made anew, as when a node is drained.
    RenewPods(usize),
    StartDeletion(usize),
    /// It is deleted and made anew, fresh or with all annotations of the old one.
    Recreate(usize),
    Clone(usize),
    /// It is deleted, and its pods are not; made anew as its owner wrote it, it adopts them.
    Adopt(usize),
    // To requests.
    Patch(PatchFault),
    /// Reads of a secret, or all requests to a server, fail for so long.
    Unreadable(usize, u64),
    VaultDown(usize, u64),
    /// Requests to the API server fail for so long.
    ApiDown(u64),
    /// Look-ups of revisions fail for so long.
    NoRevisions(u64),
    /// For a minute, every second read is answered by a standby that is so far behind.
    Standby(u64),
    /// For a minute, pods that start read what was so long ago.
    PodsLag(u64),
    /// The next poll of a process, of each server, is answered by one that knows nothing of the latest change.
    OnStandby(usize),
    /// The controllers of workloads do nothing for so long.
    ControllersDown(u64),
    /// For a minute, a watch is so late.
    SlowWatch(usize, u64),
    // To our own processes: killed at this very moment, told to end, started.
    Kill(usize),
    Stop(usize),
    Start(usize),
    /// It does not lead for so long.
    Demote(usize, u64),
}

/// What the next PATCH meets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PatchFault {
    /// An admission policy refuses it.
    Refused,
    /// It never arrives.
    Lost,
    /// It is applied, and the answer is lost.
    AnswerLost,
    /// The answer is lost, and it is applied so many milliseconds after that was given up.
    Late(u64),
    /// It takes so many milliseconds to arrive, and is answered.
    Slow(u64),
    /// Somebody else writes first.
    Conflict,
    /// The workload's owner deploys first.
    Redeployed,
    /// The process is killed when it has been sent, and it is applied.
    Killed,
}

/// Any history. Most hold only some of all that can happen: where everything does, hardly anything
/// comes together that takes several steps of few kinds.
pub(crate) fn histories() -> impl Strategy<Value = ObservationHistory> {
    let kinds = prop_oneof![1 => Just(u32::MAX), 1 => any::<u32>(), 2 => few()];
    let steps = kinds.no_shrink().prop_flat_map(|kinds| vec(steps(kinds), 0..45));
    (setups(), steps).prop_map(|(setup, steps)| ObservationHistory { setup, steps })
}

/// One kind in four.
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
        (any::<u64>(), things(), vec(any::<u8>(), 1..=WORKLOADS), prop::bool::weighted(0.25)),
        (1..=PROCESSES, skew(), skew(), clocks_of_proxies()),
        (
            prop_oneof![1 => 0..50_u64, 2 => 0..2_000_u64],
            prop_oneof![1 => 0..50_u64, 2 => 0..8_000_u64],
            prop_oneof![4 => 0..50_u64, 1 => 0..5_000_u64],
        ),
        (prop_oneof![4 => Just(100_u32), 1 => Just(1)], 0..90_000_u64),
    )
        .prop_map(
            |((chance, things, workloads, may_be_missing), p, delays, (burst, start_ms))| {
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
                }
            },
        )
}

/// Secrets, servers, and what ConfigMaps refer to.
fn things() -> impl Strategy<Value = (usize, usize, [u8; SOURCES])> {
    (1..=SECRETS, prop_oneof![3 => Just(1_usize), 1 => Just(SERVERS)], any::<[u8; SOURCES]>())
}

/// Whether Vault tells its own time, and how far the proxy before it is ahead: where there is one whose
/// clock is wrong, nothing else helps.
fn clocks_of_proxies() -> impl Strategy<Value = (bool, i64)> {
    prop_oneof![
        4 => Just((true, 0_i64)),
        1 => Just((false, 0)),
        1 => prop_oneof![Just(60_000_i64), Just(-60_000)].prop_map(|skew| (true, skew)),
    ]
}

fn steps(kinds: u32) -> impl Strategy<Value = Step> {
    // From "in the same instant" to "some polls later".
    let after = prop_oneof![
        2 => 0..60_u64,
        3 => 0..2_500_u64,
        4 => 0..40_000_u64,
        2 => 30_000..200_000_u64,
    ];
    (after, events(kinds)).prop_map(|(after_ms, event)| Step { after_ms, event })
}

/// The kinds of events whose bits are set, and rotations.
fn events(kinds: u32) -> impl Strategy<Value = Event> {
    let s = || 0..SECRETS * SERVERS;
    let w = || 0..WORKLOADS;
    let p = || 0..PROCESSES;
    let time = || 0..180_000_u64;
    let all: [(u32, BoxedStrategy<Event>); 23] = [
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
        (11, lives(p()).boxed()),
        (2, (p(), 0..150_000_u64).prop_map(|(p, ms)| Event::Demote(p, ms)).boxed()),
        (5, (0..SOURCES, any::<u8>()).prop_map(|(s, bits)| Event::EditSource(s, bits)).boxed()),
        (1, w().prop_map(Event::MoveServer).boxed()),
    ];
    let rotations = (9, s().prop_map(Event::Rotate).boxed());
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
    (0..11, p).prop_map(|(kind, p)| match kind {
        0..=4 => Event::Kill(p),
        5..=9 => Event::Start(p),
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
