//! Decides whether a workload is reloaded.
//!
//! Three sources tell which versions the pods of a workload run with. In order of precedence:
//!
//! - the *witness*: this process saw another version live after the present template was there
//! - the *record*, written with the last reload
//! - the *clock*: pods of the current revision have the versions that were created before that
//!   revision
//!
//! Architecture Invariant: every function here is total and pure. A missed rotation is worse than a
//! needless reload, and an error is never taken as a change.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::decide::hold::Hold;
use crate::decide::observation::{Observation, ObservedVersion};
use crate::model::poll::PollNumber;
use crate::model::record::{Record, Versions};
use crate::model::secret::{SecretId, Version};
use crate::model::workload::Workload;

/// How long a workload is held when its record was stripped. The hold doubles each time, up to
/// [`LONGEST_STRIPPED_HOLD`].
const FIRST_STRIPPED_HOLD: SignedDuration = SignedDuration::from_hours(1);

/// The longest time between two reloads of a workload whose record is stripped again and again.
const LONGEST_STRIPPED_HOLD: SignedDuration = SignedDuration::from_hours(24);

/// How many earlier marks of a workload are kept. An older mark comes back only after a `rollout
/// undo` across this many reloads, together with a restored storage.
const EARLIER_MARKS: usize = 8;

/// The operator's settings, and the facts that hold for all workloads of a poll.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Versions created before this time count as known where no record says otherwise. This helps
    /// a move to another server, where every version is new.
    pub ignore_versions_before: Option<Timestamp>,
    /// Whether a missing secret is no error for any workload.
    pub ignore_missing: bool,
    /// The time to add to Vault's clock to get the API server's clock.
    pub skew: SignedDuration,
    /// How long after the creation of a version new pods may still read the version before it, from
    /// a standby or a cache. This time also covers the uncertainty of [`Self::skew`].
    pub settle: SignedDuration,
    /// The earliest time that Vault's clock can show at present.
    pub vault_now: Timestamp,
}

impl Rules {
    /// Whether pods that start now may still read the version before this one.
    fn is_settling(&self, version: Version) -> bool {
        self.is_younger(version, self.settle)
    }

    /// Whether a version settled so recently that another version, which is settling still, may
    /// belong to the same rotation.
    fn has_just_settled(&self, version: Version) -> bool {
        self.is_younger(version, self.settle.saturating_mul(2))
    }

    fn is_younger(&self, version: Version, than: SignedDuration) -> bool {
        let age = self.vault_now.duration_since(version.created);
        // A version from the future was created by a node with a wrong clock, so its age is
        // unknown.
        age < than && age.unsigned_abs() < than.unsigned_abs()
    }

    /// Whether a version was certainly created after `time`, which the API server wrote in whole
    /// seconds.
    fn is_created_after(&self, version: Version, time: Timestamp) -> bool {
        let doubt = self.settle.saturating_add(SignedDuration::from_secs(1));
        let created = version.created.checked_add(self.skew.saturating_sub(doubt));
        created.is_ok_and(|created| created > time)
    }

    /// Returns the time by the API server's clock from which new pods read the version. The sum
    /// overflows only for times that no clock shows. The version then counts as not older.
    fn settled_at(&self, version: Version) -> Timestamp {
        let settled = version.created.checked_add(self.skew.saturating_add(self.settle));
        settled.unwrap_or(version.created)
    }
}

/// The revision of a workload's present template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// When the ReplicaSet or ControllerRevision was created.
    pub created: Timestamp,
    /// The entries of the copies of the workload's record on all its revisions.
    pub copies: Arc<[Copied]>,
}

/// An entry of a copy of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Copied {
    /// The secret, by [`SecretId::hash64`].
    pub secret: u64,
    /// The version of the secret.
    pub version: Version,
    /// Whether the revision with the copy was made after the present revision. The present template
    /// was then put back after that reload.
    pub is_later: bool,
}

/// The state of the look-up of a workload's revision.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'a> {
    /// The revision was not looked up.
    NotAsked,
    /// The look-up failed.
    Unavailable,
    /// The revision.
    Found(&'a Revision),
}

/// The earlier reloads of a workload by this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadHistory {
    /// The record of the last PATCH that was answered.
    pub patched: Versions,
    /// The mark that this PATCH put on the template.
    pub mark: Option<Box<str>>,
    /// Marks that were on the template before, the latest last. A template with one of these marks
    /// is an older template.
    pub earlier: Vec<Box<str>>,
    /// Whether a PATCH was answered since the workload was last held as stripped.
    pub answered: bool,
    /// How often in a row the same record was stripped.
    pub stripped: u32,
    /// While the record is stripped again and again: no PATCH of the same versions before this
    /// time.
    pub stripped_until: Option<Timestamp>,
    /// After a failed PATCH: no PATCH before this time.
    pub retry_at: Option<Timestamp>,
}

/// The input of a decision about one workload.
#[derive(Clone, Copy, Debug)]
pub struct DecisionInput<'a> {
    /// The workload.
    pub workload: &'a Workload,
    /// The first poll that began after the present template entered the index.
    pub template_first_poll: PollNumber,
    /// The revision of the workload.
    pub revision: Lookup<'a>,
    /// The earlier reloads of the workload.
    pub past: &'a ReloadHistory,
}

/// Why a secret counts as changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Only the clock tells: the version was created after the workload's revision.
    Found,
    /// An earlier storage was restored, and the recorded version no longer exists.
    Restored,
    /// This process saw the version before, while the present template was there.
    Witnessed,
}

impl Cause {
    /// Returns the name in log lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Restored => "restored",
            Self::Witnessed => "witnessed",
        }
    }
}

/// The verdict about one secret of one workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is known. The record of the secret stays.
    Undetermined,
    /// A new pod cannot read the secret.
    Gone,
    /// The pods have the live version.
    Same,
    /// The pods have another version.
    Changed(Cause),
    /// The pods were reloaded for the version, and then an older template was put back.
    Reverted,
    /// The verdict depends on a revision that the workload's controller has yet to make, or that
    /// could not be read.
    Wait,
    /// The version must be seen for longer. Either the version is older than the recorded one, or
    /// it is so young that new pods may read the version before it.
    Unsettled,
    /// The verdict depends on the revision, which was not looked up.
    AskRevision,
}

/// Returns the verdict about one secret of one workload.
///
/// [`DecisionInput::past`] does not affect the verdict.
#[must_use]
pub fn verdict(
    case: &DecisionInput<'_>,
    secret: &SecretId,
    observed: ObservedVersion,
    rules: &Rules,
) -> Verdict {
    let live = match observed.observation {
        Observation::Unknown => return Verdict::Undetermined,
        Observation::Gone => return Verdict::Gone,
        Observation::Live(version) => version,
    };
    match verdict_of_live(case, secret, live, observed, rules) {
        // A reload would start pods with the version before, and the record would say that they
        // have this one.
        Verdict::Changed(_) if rules.is_settling(live) => Verdict::Unsettled,
        verdict => verdict,
    }
}

fn verdict_of_live(
    case: &DecisionInput<'_>,
    secret: &SecretId,
    live: Version,
    observed: ObservedVersion,
    rules: &Rules,
) -> Verdict {
    let workload = case.workload;
    let hash = secret.hash64();
    let recorded = workload.recorded.as_ref();
    let entry = recorded.and_then(|recorded| recorded.versions.get(hash));
    let is_of_this_template = recorded.is_some_and(|recorded| recorded.of_this_template);
    let may_be_missing = workload.ignore_missing || rules.ignore_missing;
    if may_be_missing && observed.last_poll_gone >= case.template_first_poll {
        // Pods started without the secret.
        return Verdict::Changed(Cause::Witnessed);
    }
    let last_poll_with_other_version =
        observed.last_poll_with_other_version >= case.template_first_poll;
    if entry == Some(live) && is_of_this_template {
        // Pods that were renewed since have the newer version that was seen. Then an earlier
        // storage was restored.
        let is_outdated =
            last_poll_with_other_version && observed.other_version_created > Some(live.created);
        return if is_outdated { Verdict::Changed(Cause::Restored) } else { Verdict::Same };
    }
    // The earlier version that was seen came from a standby that lags behind: the record already
    // has the live version.
    let was_stale = entry == Some(live) && observed.other_version_created < Some(live.created);
    if last_poll_with_other_version && !was_stale {
        return Verdict::Changed(Cause::Witnessed);
    }
    let was_missing = entry == Some(Version::MISSING) && is_of_this_template;
    let is_restored = entry.is_some_and(|entry| live.created < entry.created);
    if is_restored {
        // The answer may come from a standby that lags behind, until nothing else was seen for a
        // while since the present template came.
        if observed.settled_since < case.template_first_poll {
            return Verdict::Unsettled;
        }
    } else if entry.is_none()
        && rules.ignore_versions_before.is_some_and(|time| live.created < time)
    {
        return Verdict::Same;
    } else if was_missing && observed.seen < case.template_first_poll {
        // An observation from before that template tells nothing about the start of its pods.
        return Verdict::Undetermined;
    }
    if !workload.observed {
        return Verdict::Wait;
    }
    let revision = match case.revision {
        Lookup::NotAsked => return Verdict::AskRevision,
        Lookup::Unavailable => return Verdict::Wait,
        Lookup::Found(revision) => revision,
    };
    let mut copies = revision.copies.iter();
    let mut has_copy = |of: &dyn Fn(&Copied) -> bool| {
        copies.any(|copy| copy.secret == hash && copy.version == live && of(copy))
    };
    if is_restored || was_missing {
        // The same version may have been live and rolled out before the recorded one as well. A
        // version that was created after the secret was missing cannot. A ReplicaSet that is used
        // again keeps its date.
        let is_new = was_missing && rules.is_created_after(live, revision.created);
        if has_copy(&|copy| copy.is_later || is_new) {
            Verdict::Reverted
        } else {
            Verdict::Changed(if is_restored { Cause::Restored } else { Cause::Found })
        }
    } else if rules.settled_at(live) < revision.created {
        Verdict::Same
    } else if entry == Some(live) || has_copy(&|_| true) {
        Verdict::Reverted
    } else {
        Verdict::Changed(Cause::Found)
    }
}

/// Whether the record of the present template has this version of a secret.
fn is_on_record(workload: &Workload, secret: &SecretId, version: Version) -> bool {
    workload.recorded.as_ref().is_some_and(|recorded| {
        recorded.of_this_template && recorded.versions.get(secret.hash64()) == Some(version)
    })
}

/// The action for a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Do nothing, since nothing changed.
    Leave,
    /// Do not reload a changed workload, for this reason.
    Hold(Hold),
    /// Reload the workload.
    Roll(Cause),
    /// Look up the revision, and decide again.
    AskRevision,
}

/// The decision about a workload, and the facts to report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The action.
    pub action: Action,
    /// The secrets that are gone.
    pub gone: Vec<Arc<SecretId>>,
    /// The secrets whose reload was taken back.
    pub reverted: Vec<Arc<SecretId>>,
    /// The secrets that changed.
    pub changed: Vec<Arc<SecretId>>,
    /// Whether a verdict must wait for the workload's controller.
    pub waiting: bool,
    /// Whether a verdict must wait until a version was seen for long enough.
    pub unsettled: bool,
    /// The secrets without a verdict at present. Nothing is known of them or of the revision, or
    /// not for long enough. Earlier reports about these secrets still hold. Former secrets are not
    /// among them.
    pub open: Vec<Arc<SecretId>>,
    /// All secrets without a verdict: those in `open`, former ones, and those for which nothing was
    /// looked up because another secret decided.
    pub undecided: Vec<Arc<SecretId>>,
}

/// Decides about a workload, given the observation of each of its secrets.
///
/// `now` is the present by the clock of the times in [`ReloadHistory`]. Whether a due reload may start
/// now is not decided here: see [`crate::rollouts`].
pub fn decide(
    case: &DecisionInput<'_>,
    observed: impl Fn(&Arc<SecretId>) -> ObservedVersion,
    rules: &Rules,
    now: Timestamp,
) -> Decision {
    let DecisionInput { workload, past, .. } = *case;
    let mut decision = Decision::of(Action::Leave);
    let mut cause = None;
    // The secrets whose verdict depends on the revision, which was not looked up.
    let mut asking = Vec::new();
    // Whether every change was already recorded by an answered PATCH of this process.
    let mut all_patched = true;
    // Whether every change may belong to a rotation that is still under way.
    let mut all_just_settled = true;
    let present = workload.secrets.iter().map(|secret| (secret, observed(secret), false));
    // New pods do not read a former secret. So such a secret may be missing, and is not reported.
    let former = workload
        .former_secrets
        .iter()
        .map(|secret| (secret, ObservedVersion { last_poll_gone: 0, ..observed(secret) }, true));
    for (secret, seen, is_former) in present.chain(former) {
        let verdict = verdict(case, secret, seen, rules);
        let of_present = Some(Arc::clone(secret)).filter(|_| !is_former);
        match verdict {
            Verdict::Same => {}
            Verdict::Undetermined => decision.leave_open(secret, of_present),
            Verdict::Gone => decision.gone.extend(of_present),
            // The pods keep the old version of a former secret, too, until the template changes.
            Verdict::Reverted => decision.reverted.push(Arc::clone(secret)),
            Verdict::Wait => {
                decision.waiting = true;
                decision.leave_open(secret, of_present);
            }
            Verdict::Unsettled => {
                decision.unsettled = true;
                decision.leave_open(secret, of_present);
            }
            Verdict::AskRevision => asking.push(Arc::clone(secret)),
            Verdict::Changed(why) => {
                cause = cause.max(Some(why));
                all_just_settled &= matches!(
                    seen.observation,
                    Observation::Live(version) if rules.has_just_settled(version)
                );
                let patched = past.patched.get(secret.hash64());
                all_patched &= patched.is_some_and(|version| {
                    seen.observation == Observation::Live(version)
                        && seen.last_poll_gone < case.template_first_poll
                        && !is_on_record(workload, secret, version)
                        && !past.is_superseded(workload, secret, version)
                });
                decision.changed.push(Arc::clone(secret));
            }
        }
    }
    if workload.deleting {
        // No other result matters any more, and a look-up of the revision would be wasted.
        let action = cause.map_or(Action::Leave, |_| Action::Hold(Hold::Deleting));
        decision.undecided.extend(asking);
        decision.undecided.append(&mut decision.reverted);
        let gone = Vec::new();
        return Decision { action, gone, waiting: false, unsettled: false, ..decision };
    }
    if decision.unsettled && all_just_settled {
        // Secrets that are rotated together are one reload. A secret that changes all the time
        // delays the others by one settle time at most.
        cause = None;
    }
    let missing = !decision.gone.is_empty() && !workload.ignore_missing && !rules.ignore_missing;
    // A time further ahead than the longest hold was set by a wrong clock.
    let is_ahead = |time: Option<Timestamp>| {
        time.is_some_and(|time| now < time && time.duration_since(now) <= LONGEST_STRIPPED_HOLD)
    };
    let is_stripped = all_patched && (past.answered || is_ahead(past.stripped_until));
    decision.action = match cause {
        None if !asking.is_empty() => Action::AskRevision,
        None => Action::Leave,
        Some(_) if missing => Action::Hold(Hold::SecretGone),
        Some(_) if is_stripped => Action::Hold(Hold::Stripped),
        Some(_) if is_ahead(past.retry_at) => Action::Hold(Hold::BackOff),
        Some(cause) => Action::Roll(cause),
    };
    if decision.action != Action::AskRevision {
        // Another secret decided. The revision is not looked up.
        decision.undecided.extend(asking);
    }
    decision
}

impl Action {
    /// Whether a PATCH is sent, now or after the back-off from a PATCH that failed.
    #[must_use]
    pub fn is_tried(&self) -> bool {
        matches!(self, Self::Roll(_) | Self::Hold(Hold::BackOff))
    }
}

impl Decision {
    /// Returns a decision with nothing to report.
    #[must_use]
    pub fn of(action: Action) -> Self {
        Self {
            action,
            gone: Vec::new(),
            reverted: Vec::new(),
            changed: Vec::new(),
            waiting: false,
            unsettled: false,
            open: Vec::new(),
            undecided: Vec::new(),
        }
    }

    /// Notes a secret without a verdict. `of_present` is the same secret, unless it is a former one.
    fn leave_open(&mut self, secret: &Arc<SecretId>, of_present: Option<Arc<SecretId>>) {
        self.open.extend(of_present);
        self.undecided.push(Arc::clone(secret));
    }
}

impl ReloadHistory {
    /// Whether a later version of a secret was rolled out after the last PATCH that was answered:
    /// by another controller, or by a PATCH whose answer was lost. If an earlier storage is
    /// restored after that, the version of the last PATCH is live again, and nothing was stripped.
    fn is_superseded(&self, workload: &Workload, secret: &SecretId, version: Version) -> bool {
        workload.recorded.as_ref().is_some_and(|recorded| {
            let entry = recorded.versions.get(secret.hash64());
            recorded.of_this_template
                && workload.mark.as_ref().is_none_or(|mark| !self.earlier.contains(mark))
                && entry.is_some_and(|entry| version.created < entry.created)
        })
    }

    /// Notes an answered PATCH, which wrote `record` and replaced the mark `replaced`.
    pub fn patched(&mut self, record: Record, replaced: Option<Box<str>>) {
        if self.patched != record.versions {
            self.stripped = 0;
        }
        self.patched = record.versions;
        for mark in [self.mark.replace(record.mark.into()), replaced].into_iter().flatten() {
            self.earlier.retain(|known| *known != mark);
            self.earlier.push(mark);
        }
        self.earlier.drain(..self.earlier.len().saturating_sub(EARLIER_MARKS));
        self.answered = true;
        self.stripped_until = None;
        self.retry_at = None;
    }

    /// Returns the time until the next attempt after the record was stripped.
    #[must_use]
    pub fn stripped_left(&self, now: Timestamp) -> SignedDuration {
        let left = self.stripped_until.map(|until| until.duration_since(now));
        left.unwrap_or_default().max(SignedDuration::ZERO)
    }

    /// Notes that the record was stripped. Returns how long to hold the workload.
    pub fn stripped(&mut self, now: Timestamp) -> SignedDuration {
        let doublings = self.stripped.min(5);
        self.stripped = self.stripped.saturating_add(1);
        self.answered = false;
        let hold = (FIRST_STRIPPED_HOLD * (1 << doublings)).min(LONGEST_STRIPPED_HOLD);
        self.stripped_until = now.checked_add(hold).ok();
        hold
    }
}

/// The content of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// The reload count.
    pub count: u64,
    /// The record. Its mark goes to the template, too.
    pub record: Record,
}

/// When and on what a reload is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances {
    /// The present, by the API server's clock.
    pub at: Timestamp,
    /// See [`Record::streak`].
    pub streak: u32,
    /// See [`Record::was_unhealthy`].
    pub was_unhealthy: bool,
}

/// Prepares a reload. The record takes every version that was seen live, and that the new pods surely
/// read. Entries of other secrets stay: of unknown, gone and settling ones. Entries without a reference
/// are dropped. A gone secret that may be missing is recorded as [`Version::MISSING`], since the new
/// pods start without it.
#[must_use]
pub fn reload(
    workload: &Workload,
    observed: impl Fn(&Arc<SecretId>) -> ObservedVersion,
    rules: &Rules,
    mark: String,
    circumstances: Circumstances,
) -> Reload {
    let versions = workload
        .secrets
        .iter()
        .filter_map(|secret| {
            let hash = secret.hash64();
            let version = match observed(secret).observation {
                // The new pods may read the version before a settling one. A later poll decides.
                Observation::Live(version) if !rules.is_settling(version) => Some(version),
                Observation::Gone if rules.ignore_missing || workload.ignore_missing => {
                    Some(Version::MISSING)
                }
                Observation::Live(_) | Observation::Gone | Observation::Unknown => {
                    workload.recorded.as_ref().and_then(|recorded| recorded.versions.get(hash))
                }
            };
            version.map(|version| (hash, version))
        })
        .collect();
    let Circumstances { at, streak, was_unhealthy } = circumstances;
    let uid = workload.uid.to_string();
    let record = Record { uid, mark, at: Some(at), streak, was_unhealthy, versions };
    Reload { count: workload.count.saturating_add(1), record }
}

#[cfg(test)]
mod tests;
