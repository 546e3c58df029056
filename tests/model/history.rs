//! What can happen: a history is a setup, and steps that come one after the other.

use proptest::collection::vec;
use proptest::prelude::*;

/// The most secrets and workloads of a history: enough for every rule to meet every other.
pub(crate) const SECRETS: usize = 3;
pub(crate) const WORKLOADS: usize = 3;
/// The most controllers that run at once, each of them acting as a leader.
pub(crate) const PROCESSES: usize = 3;

/// A history.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) setup: Setup,
    pub(crate) steps: Vec<Step>,
}

/// How it begins.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// For whatever else is left to chance, such as how long a request takes.
    pub(crate) chance: u64,
    pub(crate) secrets: usize,
    /// The secrets that each workload refers to, as bits.
    pub(crate) workloads: Vec<u8>,
    /// Whether a workload says that its secrets may be missing.
    pub(crate) may_be_missing: bool,
    pub(crate) processes: usize,
    /// How far Vault's clock is ahead of the API server's.
    pub(crate) skew_ms: i64,
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
    // To requests.
    Patch(PatchFault),
    /// Reads of a secret, or all requests to Vault, fail for so long.
    Unreadable(usize, u64),
    VaultDown(u64),
    /// Requests to the API server fail for so long.
    ApiDown(u64),
    /// Look-ups of revisions fail for so long.
    NoRevisions(u64),
    /// For a minute, every second read is answered by a standby that is so far behind.
    Standby(u64),
    /// The next poll of a process is answered by one that knows nothing of the latest change.
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
pub(crate) fn histories() -> impl Strategy<Value = History> {
    let kinds = prop_oneof![1 => Just(u32::MAX), 3 => any::<u32>()];
    (setups(), kinds, vec(steps(), 0..60)).prop_map(|(setup, kinds, mut steps)| {
        steps.retain(|step| step.event.kind().is_none_or(|kind| kinds >> kind & 1 == 1));
        History { setup, steps }
    })
}

impl Event {
    /// What is there, or not, as a whole in a history; `None` for what each has.
    fn kind(&self) -> Option<u32> {
        Some(match self {
            Self::Rotate(_) => return None,
            Self::Delete(_) | Self::Undelete(_) | Self::Destroy(_) | Self::DeleteMetadata(_) => 0,
            Self::Snapshot | Self::Restore | Self::RestoreMount(_) => 1,
            Self::Redeploy(_) => 2,
            Self::AddReference(..) | Self::RemoveReference(..) => 3,
            Self::OptOut(_) | Self::OptIn(_) => 4,
            Self::Undo(_) => 5,
            Self::Revert(_) | Self::RevertNext(_) => 6,
            Self::Strip(_) | Self::StripNext(_) | Self::RemoveRecord(_) => 7,
            Self::Prune(_) => 8,
            Self::Touch(_) | Self::RenewPods(_) => 9,
            Self::StartDeletion(_) => 10,
            Self::Recreate(_) | Self::Clone(_) => 11,
            Self::Patch(_) => 12,
            Self::Unreadable(..) => 13,
            Self::VaultDown(_) | Self::ApiDown(_) => 14,
            Self::NoRevisions(_) | Self::ControllersDown(_) => 15,
            Self::Standby(_) | Self::OnStandby(_) => 16,
            Self::SlowWatch(..) => 17,
            Self::Kill(_) | Self::Stop(_) | Self::Start(_) => 18,
            Self::Demote(..) => 19,
        })
    }
}

fn setups() -> impl Strategy<Value = Setup> {
    let skew = || {
        prop_oneof![
            4 => Just(0_i64),
            1 => prop_oneof![Just(3_600_000_i64), Just(-3_600_000), Just(7_300), Just(-7_300)],
        ]
    };
    (
        (any::<u64>(), 1..=SECRETS, vec(any::<u8>(), 1..=WORKLOADS), prop::bool::weighted(0.1)),
        (1..=PROCESSES, skew(), skew()),
        (0..2_000_u64, 0..8_000_u64, prop_oneof![4 => 0..50_u64, 1 => 0..5_000_u64]),
        (prop_oneof![4 => Just(100_u32), 1 => Just(1)], 0..90_000_u64),
    )
        .prop_map(
            |((chance, secrets, workloads, may_be_missing), p, delays, (burst, start_ms))| {
                let (processes, skew_ms, own_skew_ms) = p;
                let (controller_ms, pods_ms, watch_ms) = delays;
                Setup {
                    chance,
                    secrets,
                    workloads,
                    may_be_missing,
                    processes,
                    skew_ms,
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

fn steps() -> impl Strategy<Value = Step> {
    // From "in the same instant" to "some polls later".
    let after = prop_oneof![
        2 => 0..60_u64,
        3 => 0..2_500_u64,
        4 => 0..40_000_u64,
        2 => 30_000..200_000_u64,
    ];
    (after, events()).prop_map(|(after_ms, event)| Step { after_ms, event })
}

fn events() -> impl Strategy<Value = Event> {
    let s = || 0..SECRETS;
    let w = || 0..WORKLOADS;
    let p = || 0..PROCESSES;
    prop_oneof![
        14 => secret_events(s()),
        6 => storage_events(s()),
        6 => w().prop_map(Event::Redeploy),
        2 => (w(), s()).prop_map(|(w, s)| Event::AddReference(w, s)),
        1 => (w(), s()).prop_map(|(w, s)| Event::RemoveReference(w, s)),
        2 => w().prop_map(Event::OptOut),
        3 => w().prop_map(Event::OptIn),
        7 => tampering(w()),
        2 => w().prop_map(Event::Touch),
        2 => w().prop_map(Event::RenewPods),
        4 => endings(w()),
        7 => patch_faults().prop_map(Event::Patch),
        8 => outages(s()),
        1 => p().prop_map(Event::OnStandby),
        5 => p().prop_map(Event::Kill),
        1 => p().prop_map(Event::Stop),
        5 => p().prop_map(Event::Start),
        2 => (p(), 0..150_000_u64).prop_map(|(p, ms)| Event::Demote(p, ms)),
        1 => (p(), 0..20_000_u64).prop_map(|(p, ms)| Event::SlowWatch(p, ms)),
    ]
}

fn secret_events(s: std::ops::Range<usize>) -> impl Strategy<Value = Event> {
    (0..16, s).prop_map(|(kind, s)| match kind {
        0..=9 => Event::Rotate(s),
        10 => Event::Delete(s),
        11 | 12 => Event::Undelete(s),
        13 => Event::Destroy(s),
        _ => Event::DeleteMetadata(s),
    })
}

fn storage_events(s: std::ops::Range<usize>) -> impl Strategy<Value = Event> {
    (0..3, s).prop_map(|(kind, s)| match kind {
        0 => Event::Snapshot,
        1 => Event::Restore,
        _ => Event::RestoreMount(s),
    })
}

fn tampering(w: std::ops::Range<usize>) -> impl Strategy<Value = Event> {
    (0..7, w).prop_map(|(kind, w)| match kind {
        0 => Event::Undo(w),
        1 => Event::Revert(w),
        2 => Event::Strip(w),
        3 => Event::RevertNext(w),
        4 => Event::StripNext(w),
        5 => Event::RemoveRecord(w),
        _ => Event::Prune(w),
    })
}

fn endings(w: std::ops::Range<usize>) -> impl Strategy<Value = Event> {
    (0..4, w).prop_map(|(kind, w)| match kind {
        0 => Event::StartDeletion(w),
        1 => Event::Recreate(w),
        _ => Event::Clone(w),
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

fn outages(s: std::ops::Range<usize>) -> impl Strategy<Value = Event> {
    (0..8, s, 0..180_000_u64).prop_map(|(kind, s, ms)| match kind {
        0 | 1 => Event::Unreadable(s, ms),
        2 => Event::VaultDown(ms),
        3 => Event::ApiDown(ms),
        4 => Event::NoRevisions(ms),
        5 | 6 => Event::Standby(ms % 500),
        _ => Event::ControllersDown(ms),
    })
}
