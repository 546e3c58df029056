//! Why a workload is, or is not, reloaded.
//!
//! Three things say what the pods of a workload run with, the best first: a *witness* (this process
//! saw another version live after the present template was there), the *record* (written with the
//! last reload) and the *clock* (pods of the current revision have what was created before it).
//!
//! Architecture Invariant: every function here is total and pure. A missed rotation is worse than a
//! needless reload, and an error is never taken as a change.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::decide::observation::{Observation, ObservedVersion};
use crate::model::poll::PollNumber;
use crate::model::record::{Record, Versions};
use crate::model::secret::{SecretId, Version};
use crate::model::workload::Workload;

/// How long a workload is left alone when what was written to it is stripped again; doubled each
/// time up to [`LONGEST_STRIPPED_HOLD`].
const FIRST_STRIPPED_HOLD: SignedDuration = SignedDuration::from_hours(1);

/// The longest time between two attempts on a workload that is stripped again and again.
const LONGEST_STRIPPED_HOLD: SignedDuration = SignedDuration::from_hours(24);

/// How many earlier marks of a workload are known: it takes a `rollout undo` of so many reloads, and a
/// restored storage, to meet an older one.
const EARLIER_MARKS: usize = 8;

/// What the operator set, and what holds for all workloads of a poll.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Versions created before this are taken as known where no record says otherwise: for a move
    /// to another server, where every version is new.
    pub ignore_versions_before: Option<Timestamp>,
    /// Whether missing secrets are no error for any workload.
    pub ignore_missing: bool,
    /// What to add to a time of Vault to have it on the API server's clock.
    pub skew: SignedDuration,
    /// For how long after a version was created new pods may still read the one before it, from a
    /// standby or a cache. It also covers what is not known of [`Self::skew`].
    pub settle: SignedDuration,
    /// The present by Vault's clock, at the least.
    pub vault_now: Timestamp,
}

impl Rules {
    /// Whether pods that start now may still read the version before this one.
    fn is_settling(&self, version: Version) -> bool {
        let age = self.vault_now.duration_since(version.created);
        // A version of the future was created by a node whose clock is wrong: its age says nothing.
        age < self.settle && age.unsigned_abs() < self.settle.unsigned_abs()
    }

    /// Whether a version was surely created after a time that the API server has written in whole seconds.
    fn is_created_after(&self, version: Version, time: Timestamp) -> bool {
        let doubt = self.settle.saturating_add(SignedDuration::from_secs(1));
        let created = version.created.checked_add(self.skew.saturating_sub(doubt));
        created.is_ok_and(|created| created > time)
    }

    /// The time by the API server's clock from which pods that start have the version. Out of range
    /// only for times that no clock shows; then the version is simply not older.
    fn settled_at(&self, version: Version) -> Timestamp {
        let settled = version.created.checked_add(self.skew.saturating_add(self.settle));
        settled.unwrap_or(version.created)
    }
}

/// What the controller of a workload made of its present template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// When its ReplicaSet or ControllerRevision was created.
    pub created: Timestamp,
    /// What the copies of the workload's own record on all its revisions say.
    pub copies: Arc<[Copied]>,
}

/// An entry of a copy of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Copied {
    /// The secret, by [`SecretId::hash64`].
    pub secret: u64,
    /// Its version.
    pub version: Version,
    /// Whether the revision that has the copy was made after the present one: whoever put the
    /// present template back did so after that reload.
    pub is_later: bool,
}

/// What is at hand of a workload's revision.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'a> {
    /// Nobody has asked for it.
    NotAsked,
    /// It was asked for and is not to be had.
    Unavailable,
    /// It is this.
    Found(&'a Revision),
}

/// What this process did to a workload before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadHistory {
    /// What the last PATCH that was answered had recorded.
    pub patched: Versions,
    /// The mark that it put on the template.
    pub mark: Option<Box<str>>,
    /// Marks that were on the template before that, the latest last: whoever finds one of them again
    /// finds something older.
    pub earlier: Vec<Box<str>>,
    /// Whether a PATCH was answered since the workload was last held for being stripped.
    pub answered: bool,
    /// How often in a row the same was found missing again.
    pub stripped: u32,
    /// While what was written is stripped again and again: no PATCH of the same versions before this.
    pub stripped_until: Option<Timestamp>,
    /// After a PATCH that failed: none before this.
    pub retry_at: Option<Timestamp>,
}

/// What is at hand of one workload.
#[derive(Clone, Copy, Debug)]
pub struct DecisionInput<'a> {
    /// The workload.
    pub workload: &'a Workload,
    /// The first poll that began after its present template entered the store.
    pub template_first_poll: PollNumber,
    /// Its revision.
    pub revision: Lookup<'a>,
    /// What was done to it before.
    pub past: &'a ReloadHistory,
}

/// Why a secret is taken as changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Nothing but the clock says so: it was created after the workload's revision.
    Found,
    /// An earlier storage was restored, and the version that was recorded is no more.
    Restored,
    /// This process saw the version before it, while the present template was there.
    Witnessed,
}

impl Cause {
    /// Its name in log lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Restored => "restored",
            Self::Witnessed => "witnessed",
        }
    }
}

/// What is to be done about one secret of one workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Unknown: what was recorded stays.
    Undetermined,
    /// The secret cannot be read by a new pod.
    Gone,
    /// The pods have it.
    Same,
    /// The pods have another version.
    Changed(Cause),
    /// The pods were rolled for it, and somebody put an older template back.
    Reverted,
    /// It depends on a revision that the workload's controller has yet to make, or that could not
    /// be read.
    Wait,
    /// It must be seen for longer: it is older than what the workload has on record, or it was created
    /// so short a while ago that new pods may read the one before it.
    Unsettled,
    /// It depends on the revision, and nobody has asked for that.
    AskRevision,
}

/// Judges one secret of one workload.
///
/// [`DecisionInput::past`] has no say in it.
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
        // The pods of a reload would start with the version before it, and the record would say that
        // they have this one.
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
        // Pods started without it.
        return Verdict::Changed(Cause::Witnessed);
    }
    let last_poll_with_other_version =
        observed.last_poll_with_other_version >= case.template_first_poll;
    if entry == Some(live) && is_of_this_template {
        // Pods that were renewed since have the newer version that was seen, and an earlier storage was
        // restored.
        let is_outdated =
            last_poll_with_other_version && observed.other_version_created > Some(live.created);
        return if is_outdated { Verdict::Changed(Cause::Restored) } else { Verdict::Same };
    }
    // What was seen before a version that the workload has on record was a standby that lags behind.
    let was_stale = entry == Some(live) && observed.other_version_created < Some(live.created);
    if last_poll_with_other_version && !was_stale {
        return Verdict::Changed(Cause::Witnessed);
    }
    let was_missing = entry == Some(Version::MISSING) && is_of_this_template;
    let is_restored = entry.is_some_and(|entry| live.created < entry.created);
    if is_restored {
        // A standby that lags behind, unless nothing else was seen for a while of what this workload
        // has on record now.
        if observed.settled_since < case.template_first_poll {
            return Verdict::Unsettled;
        }
    } else if entry.is_none()
        && rules.ignore_versions_before.is_some_and(|time| live.created < time)
    {
        return Verdict::Same;
    } else if was_missing && observed.seen < case.template_first_poll {
        // What was seen before that template came says nothing of what its pods started without.
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
        // The same version may have been live, and rolled out, before what is recorded as well; not one
        // that was created after the secret was missing. A ReplicaSet that is used again keeps its date.
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

/// What is to be done about a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: nothing changed.
    Leave,
    /// Something changed, and this stands in the way.
    Hold(Hold),
    /// Reload it.
    Roll(Cause),
    /// Ask for its revision, and decide again.
    AskRevision,
}

/// What stands in the way of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// It is being deleted, and its controller rolls nothing out any more.
    Deleting,
    /// One of its secrets is gone, and new pods would fail.
    SecretGone,
    /// The same versions were already PATCHed here: somebody strips what is written.
    Stripped,
    /// Its last PATCH failed a short while ago.
    BackOff,
    /// Too many workloads were found changed at once.
    Budget,
}

/// What was decided about a workload, and what there is to report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// The secrets that are gone.
    pub gone: Vec<Arc<SecretId>>,
    /// The secrets that it was rolled for, and whose roll was taken back.
    pub reverted: Vec<Arc<SecretId>>,
    /// The secrets that changed.
    pub changed: Vec<Arc<SecretId>>,
    /// Whether a part of the answer must wait for the workload's controller.
    pub waiting: bool,
    /// Whether a part of the answer must wait until a version was seen for long enough.
    pub unsettled: bool,
    /// The secrets that cannot be judged at present, since nothing is known of them or of the
    /// revision, or not for long enough. What was said of these still stands.
    pub open: Vec<Arc<SecretId>>,
}

/// Decides about a workload, given what was seen of each of its secrets.
///
/// `found_budget` is how many more reloads that nothing but the clock speaks for may start; `now` is
/// the present by the clock that the times in [`ReloadHistory`] were read from.
pub fn decide(
    case: &DecisionInput<'_>,
    observed: impl Fn(&Arc<SecretId>) -> ObservedVersion,
    rules: &Rules,
    found_budget: u32,
    now: Timestamp,
) -> Decision {
    let DecisionInput { workload, past, .. } = *case;
    let mut decision = Decision {
        action: Action::Leave,
        gone: Vec::new(),
        reverted: Vec::new(),
        changed: Vec::new(),
        waiting: false,
        unsettled: false,
        open: Vec::new(),
    };
    let mut cause = None;
    let mut ask = false;
    // Whether each change is one that an answered PATCH of ours had recorded already.
    let mut all_patched = true;
    let present = workload.secrets.iter().map(|secret| (secret, observed(secret), false));
    // New pods do without a former secret, so it need not be there, and nothing is to be said of it.
    let former = workload
        .former_secrets
        .iter()
        .map(|secret| (secret, ObservedVersion { last_poll_gone: 0, ..observed(secret) }, true));
    for (secret, seen, is_former) in present.chain(former) {
        let verdict = verdict(case, secret, seen, rules);
        let of_present = Some(Arc::clone(secret)).filter(|_| !is_former);
        match verdict {
            Verdict::Same => {}
            Verdict::Undetermined => decision.open.extend(of_present),
            Verdict::Gone => decision.gone.extend(of_present),
            Verdict::Reverted => decision.reverted.extend(of_present),
            Verdict::Wait => {
                decision.waiting = true;
                decision.open.extend(of_present);
            }
            Verdict::Unsettled => {
                decision.unsettled = true;
                decision.open.extend(of_present);
            }
            Verdict::AskRevision => ask = true,
            Verdict::Changed(why) => {
                cause = cause.max(Some(why));
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
        // Nothing else matters any more, and no revision is worth a request.
        let action = cause.map_or(Action::Leave, |_| Action::Hold(Hold::Deleting));
        let (gone, reverted) = (Vec::new(), Vec::new());
        return Decision { action, gone, reverted, waiting: false, unsettled: false, ..decision };
    }
    let missing = !decision.gone.is_empty() && !workload.ignore_missing && !rules.ignore_missing;
    // A time further ahead than any hold is long was set by a clock that was wrong.
    let is_ahead = |time: Option<Timestamp>| {
        time.is_some_and(|time| now < time && time.duration_since(now) <= LONGEST_STRIPPED_HOLD)
    };
    let is_stripped = all_patched && (past.answered || is_ahead(past.stripped_until));
    decision.action = match cause {
        None if ask => Action::AskRevision,
        None => Action::Leave,
        Some(_) if missing => Action::Hold(Hold::SecretGone),
        Some(_) if is_stripped => Action::Hold(Hold::Stripped),
        Some(_) if is_ahead(past.retry_at) => Action::Hold(Hold::BackOff),
        Some(Cause::Found) if found_budget == 0 => Action::Hold(Hold::Budget),
        Some(cause) => Action::Roll(cause),
    };
    decision
}

impl ReloadHistory {
    /// Whether a later version of a secret was rolled out after the last PATCH that was answered: by
    /// another controller, or by a PATCH whose answer was lost. If an earlier storage was restored
    /// then, the version of that PATCH is live once more, and nobody has stripped anything.
    fn is_superseded(&self, workload: &Workload, secret: &SecretId, version: Version) -> bool {
        workload.recorded.as_ref().is_some_and(|recorded| {
            let entry = recorded.versions.get(secret.hash64());
            recorded.of_this_template
                && workload.mark.as_ref().is_none_or(|mark| !self.earlier.contains(mark))
                && entry.is_some_and(|entry| version.created < entry.created)
        })
    }

    /// Notes that a PATCH was answered, which wrote a record and put its mark in the place of
    /// `replaced`.
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

    /// Notes that what was written has been stripped, and for how long to leave the workload alone.
    pub fn stripped(&mut self, now: Timestamp) -> SignedDuration {
        let doublings = self.stripped.min(5);
        self.stripped = self.stripped.saturating_add(1);
        self.answered = false;
        let hold = (FIRST_STRIPPED_HOLD * (1 << doublings)).min(LONGEST_STRIPPED_HOLD);
        self.stripped_until = now.checked_add(hold).ok();
        hold
    }
}

/// What a reload writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// The reload count.
    pub count: u64,
    /// The record, with the mark that goes to the template too.
    pub record: Record,
}

/// Prepares a reload: the record takes over every version that was seen live, keeps what it said of
/// secrets that are unknown or gone, and drops what is no longer referred to. A secret that is gone and
/// may be missing is recorded as [`Version::MISSING`]: the new pods start without it.
#[must_use]
pub fn reload(
    workload: &Workload,
    observed: impl Fn(&Arc<SecretId>) -> ObservedVersion,
    ignore_missing: bool,
    mark: String,
) -> Reload {
    let versions = workload
        .secrets
        .iter()
        .filter_map(|secret| {
            let hash = secret.hash64();
            let version = match observed(secret).observation {
                Observation::Live(version) => Some(version),
                Observation::Gone if ignore_missing || workload.ignore_missing => {
                    Some(Version::MISSING)
                }
                Observation::Gone | Observation::Unknown => {
                    workload.recorded.as_ref().and_then(|recorded| recorded.versions.get(hash))
                }
            };
            version.map(|version| (hash, version))
        })
        .collect();
    Reload {
        count: workload.count.saturating_add(1),
        record: Record { uid: workload.uid.to_string(), mark, versions },
    }
}

#[cfg(test)]
mod tests;
