//! Findings: what the owner of a workload should know of its references and its reloads, reported once
//! a change.
//!
//! The collector and the reloader each set their own part of the present findings. The writer of
//! Events takes the findings that were not reported yet.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use siphasher::sip::SipHasher13;

use crate::model::fair_queue::FairQueue;
use crate::model::text::shorten;
use crate::model::workload::WorkloadId;
use crate::references::place::Note;

/// The longest message, in bytes: an Event takes no longer one.
const LONGEST: usize = 1000;

/// A fact that the owner of a workload should know of its references.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The stable name of the reason.
    pub reason: &'static str,
    /// Whether somebody should look at it.
    pub is_warning: bool,
    /// The references or secrets concerned, what the finding means, and what to do.
    pub message: String,
}

impl Finding {
    /// Returns a finding. Its message is cut if it is too long.
    #[must_use]
    pub fn new(reason: &'static str, is_warning: bool, mut message: String) -> Self {
        message.truncate(message.floor_char_boundary(LONGEST));
        Self { reason, is_warning, message }
    }

    /// Returns one finding for each reason. It names all references concerned, up to the longest
    /// message.
    #[must_use]
    pub fn of_notes(notes: &[Note]) -> Vec<Self> {
        let mut by_reason: BTreeMap<_, Vec<&Note>> = BTreeMap::new();
        for note in notes {
            by_reason.entry(note.reason).or_default().push(note);
        }
        let finding = |(reason, notes): (crate::references::reason::Reason, Vec<&Note>)| {
            let origins = notes.iter().map(|note| note.origin.to_string());
            Self {
                reason: reason.code(),
                is_warning: reason.is_warning(),
                message: message(origins, reason.advice()),
            }
        };
        by_reason.into_iter().map(finding).collect()
    }

    fn digest(&self, uid: &str) -> u64 {
        // This hash is the same in each process.
        let mut hasher = SipHasher13::new();
        (uid, self.reason, &self.message).hash(&mut hasher);
        hasher.finish()
    }
}

/// Formats `A; B; and 3 more: MEANING`, up to the longest message.
#[must_use]
pub fn message(concerned: impl ExactSizeIterator<Item = String>, meaning: &str) -> String {
    let mut left = concerned.len();
    let mut text = String::new();
    for one in concerned {
        let one = shorten(&one);
        if text.len() + one.len() + meaning.len() + 40 > LONGEST {
            break;
        }
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&one);
        left -= 1;
    }
    if left > 0 {
        let _ = write!(text, "; and {left} more");
    }
    format!("{text}: {meaning}")
}

/// The source that sets a finding and takes it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingSource {
    /// The manifest of the workload.
    Manifest,
    /// The answers of Vault.
    Vault,
    /// A reload that is held.
    Hold,
    /// A reload that was taken back.
    TakenBack,
    /// A PATCH that failed.
    Failure,
    /// News of the end of a hold.
    Release,
    /// News of a reload.
    Reload,
    /// News of a rollout.
    Rollout,
}

impl FindingSource {
    /// The sources whose findings are over when the workload is no longer watched.
    pub(crate) const OF_WATCHED: [Self; 4] =
        [Self::Vault, Self::Hold, Self::TakenBack, Self::Failure];

    /// Whether its findings are told once, and are over then.
    fn is_news(self) -> bool {
        matches!(self, Self::Release | Self::Reload | Self::Rollout)
    }

    /// Whether its findings are about references.
    fn is_of_references(self) -> bool {
        matches!(self, Self::Manifest | Self::Vault)
    }

    /// Returns the action of Events.
    #[must_use]
    pub fn action(self) -> &'static str {
        if self.is_of_references() { "Collecting" } else { "Reloading" }
    }
}

/// A finding that was not reported yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreportedFinding {
    /// The workload concerned.
    pub workload: WorkloadId,
    /// `metadata.uid` of the workload.
    pub uid: Arc<str>,
    /// The finding.
    pub notice: Finding,
    /// The source of the finding.
    pub source: FindingSource,
    /// A hash of the finding and the object. It is the same in each process.
    pub digest: u64,
}

/// The findings of all workloads.
#[derive(Debug, Default)]
pub struct Findings {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    present: HashMap<WorkloadId, Present>,
    /// The workloads with unreported findings.
    unreported: FairQueue<WorkloadId>,
    /// The workloads whose findings are not reported until [`Findings::wake`].
    resting: HashSet<WorkloadId>,
    /// The number of workloads with findings from the answers of Vault.
    with_vault: usize,
}

#[derive(Debug)]
struct Present {
    uid: Arc<str>,
    parts: BTreeMap<FindingSource, Vec<Finding>>,
    /// The digests of the findings that were reported.
    reported: BTreeSet<u64>,
}

impl Findings {
    /// Sets the present findings of one source. An empty list removes them.
    pub fn set(
        &self,
        workload: &WorkloadId,
        uid: &str,
        part: FindingSource,
        notices: Vec<Finding>,
    ) {
        let mut state = self.state();
        let state = &mut *state;
        if notices.is_empty() && !state.present.contains_key(workload) {
            return;
        }
        let new = || Present { uid: uid.into(), parts: BTreeMap::new(), reported: BTreeSet::new() };
        let present = state.present.entry(workload.clone()).or_insert_with(new);
        if *present.uid != *uid {
            let had_vault = present.parts.contains_key(&FindingSource::Vault);
            state.with_vault -= usize::from(had_vault);
            *present = new();
        }
        let before = present.parts.get(&part);
        if before.map_or(notices.is_empty(), |before| *before == notices)
            && !present.parts.is_empty()
        {
            return;
        }
        for notice in &notices {
            if !before.is_some_and(|before| before.contains(notice))
                && !state.resting.contains(workload)
            {
                state.unreported.join(workload);
            }
        }
        if part == FindingSource::Vault {
            state.with_vault -= usize::from(before.is_some());
            state.with_vault += usize::from(!notices.is_empty());
        }
        if notices.is_empty() {
            present.parts.remove(&part);
        } else {
            present.parts.insert(part, notices);
        }
        let digests: BTreeSet<u64> = present.digests().collect();
        present.reported.retain(|digest| digests.contains(digest));
        if present.parts.is_empty() {
            state.present.remove(workload);
            state.unreported.leave(workload);
        }
    }

    /// Removes the findings of one source about a workload.
    pub fn take_back(&self, workload: &WorkloadId, part: FindingSource) {
        let uid = self.state().present.get(workload).map(|present| Arc::clone(&present.uid));
        if let Some(uid) = uid {
            self.set(workload, &uid, part, Vec::new());
        }
    }

    /// Removes all findings of a workload.
    pub fn forget(&self, workload: &WorkloadId) {
        let mut state = self.state();
        state.unreported.leave(workload);
        if let Some(present) = state.present.remove(workload) {
            state.with_vault -= usize::from(present.parts.contains_key(&FindingSource::Vault));
        }
    }

    /// Removes the findings of a former workload of the same name.
    pub fn forget_others(&self, workload: &WorkloadId, uid: &str) {
        let state = self.state();
        let is_other = state.present.get(workload).is_some_and(|present| *present.uid != *uid);
        drop(state);
        if is_other {
            self.forget(workload);
        }
    }

    /// Removes all news that were not told: they are of an earlier term of this replica.
    pub fn forget_news(&self) {
        let mut state = self.state();
        let State { present, unreported, .. } = &mut *state;
        present.retain(|workload, present| {
            present.parts.retain(|source, _| !source.is_news());
            if present.parts.is_empty() {
                unreported.leave(workload);
            }
            !present.parts.is_empty()
        });
    }

    /// Removes the findings from Vault's answers of all workloads but those that `workloads`
    /// accepts.
    pub fn retain_of_vault(&self, workloads: impl Fn(&WorkloadId) -> bool) {
        let state = self.state();
        let is_over = |(id, present): &(&WorkloadId, &Present)| {
            present.parts.contains_key(&FindingSource::Vault) && !workloads(id)
        };
        let over: Vec<_> = state
            .present
            .iter()
            .filter(is_over)
            .map(|(id, present)| (id.clone(), Arc::clone(&present.uid)))
            .collect();
        drop(state);
        for (id, uid) in over {
            self.set(&id, &uid, FindingSource::Vault, Vec::new());
        }
    }

    /// Whether any workload has findings from the answers of Vault.
    #[must_use]
    pub fn has_of_vault(&self) -> bool {
        self.state().with_vault > 0
    }

    /// Returns an unreported finding and marks it as reported. Workloads and namespaces take turns.
    #[must_use]
    pub fn next(&self) -> Option<UnreportedFinding> {
        let mut state = self.state();
        let state = &mut *state;
        while let Some(workload) = state.unreported.take() {
            if let Some(present) = state.present.get_mut(&workload)
                && let Some((source, notice, digest)) =
                    present.find(|digest| !present.reported.contains(&digest))
            {
                present.reported.insert(digest);
                let uid = Arc::clone(&present.uid);
                state.unreported.join(&workload);
                return Some(UnreportedFinding { workload, uid, notice, source, digest });
            }
        }
        None
    }

    /// Stops reporting the findings of a workload until [`Findings::wake`].
    pub fn rest(&self, workload: &WorkloadId) {
        let mut state = self.state();
        state.unreported.leave(workload);
        state.resting.insert(workload.clone());
    }

    /// Starts reporting the findings of a workload again after [`Findings::rest`].
    pub fn wake(&self, workload: &WorkloadId) {
        let mut state = self.state();
        if state.resting.remove(workload) {
            state.unreported.join(workload);
        }
    }

    /// Marks a finding as unreported again, after a failure to report it.
    pub fn give_back(&self, finding: &UnreportedFinding) {
        let mut state = self.state();
        if let Some(present) = state.present.get_mut(&finding.workload)
            && present.reported.remove(&finding.digest)
            && !state.resting.contains(&finding.workload)
        {
            state.unreported.join(&finding.workload);
        }
    }

    /// The number of workloads with findings at present, by reason.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for present in self.state().present.values() {
            let notices = present.of_references();
            for reason in notices.map(|notice| notice.reason).collect::<BTreeSet<_>>() {
                *counts.entry(reason).or_default() += 1;
            }
        }
        counts
    }

    /// Returns the present findings about the references of a workload.
    #[must_use]
    pub fn of(&self, workload: &WorkloadId) -> Vec<Finding> {
        let state = self.state();
        let present = state.present.get(workload);
        present.into_iter().flat_map(Present::of_references).cloned().collect()
    }

    /// Returns the finding with this digest, if the workload still has it.
    #[must_use]
    pub fn still(&self, workload: &WorkloadId, digest: u64) -> Option<UnreportedFinding> {
        let state = self.state();
        let present = state.present.get(workload)?;
        let (source, notice, digest) = present.find(|one| one == digest)?;
        let (workload, uid) = (workload.clone(), Arc::clone(&present.uid));
        Some(UnreportedFinding { workload, uid, notice, source, digest })
    }

    /// Takes in that a finding was reported. News are over then.
    pub fn told(&self, finding: &UnreportedFinding) {
        let UnreportedFinding { workload, uid, source, digest, .. } = finding;
        let is_present = self.still(workload, *digest).is_some();
        if source.is_news() && is_present {
            self.set(workload, uid, *source, Vec::new());
        }
    }

    /// Whether a workload has findings of a source.
    #[must_use]
    pub fn has(&self, workload: &WorkloadId, source: FindingSource) -> bool {
        let state = self.state();
        state.present.get(workload).is_some_and(|present| present.parts.contains_key(&source))
    }

    /// The number of unreported findings of a workload.
    #[cfg(test)]
    pub(crate) fn untold_of(&self, workload: &WorkloadId) -> usize {
        let state = self.state();
        let Some(present) = state.present.get(workload) else { return 0 };
        present.digests().filter(|digest| !present.reported.contains(digest)).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock ends the process. Until then, its other tasks may still read.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn digests(&self) -> impl Iterator<Item = u64> {
        self.parts.values().flatten().map(|notice| notice.digest(&self.uid))
    }

    /// Returns the findings about references.
    fn of_references(&self) -> impl Iterator<Item = &Finding> {
        let parts = self.parts.iter().filter(|(source, _)| source.is_of_references());
        parts.flat_map(|(_, findings)| findings)
    }

    /// Returns the first finding whose digest `matches`, with its source and its digest.
    fn find(&self, matches: impl Fn(u64) -> bool) -> Option<(FindingSource, Finding, u64)> {
        let all = self.parts.iter().flat_map(|(source, notices)| {
            notices.iter().map(|notice| (*source, notice, notice.digest(&self.uid)))
        });
        let (source, notice, digest) = { all }.find(|(.., digest)| matches(*digest))?;
        Some((source, notice.clone(), digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kind::Kind;
    use crate::references::place::Origin;
    use crate::references::reason::Reason;

    fn web() -> WorkloadId {
        WorkloadId { kind: Kind::DEPLOYMENT, namespace: "shop".into(), name: "web".into() }
    }

    fn notice(reason: &'static str, message: &str) -> Finding {
        Finding { reason, is_warning: true, message: message.to_owned() }
    }

    fn told(notices: &Findings) -> Vec<String> {
        let next = || notices.next().map(|finding| finding.notice.message);
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn each_is_told_once_a_change_and_counted_while_it_lasts() {
        let notices = Findings::default();
        let (a, b) = (notice("NoKey", "a"), notice("Denied", "b"));
        notices.set(&web(), "u", FindingSource::Manifest, vec![a.clone()]);
        notices.set(&web(), "u", FindingSource::Manifest, vec![a.clone()]);
        notices.set(&web(), "u", FindingSource::Vault, vec![b.clone()]);
        assert!(notices.has_of_vault());
        assert_eq!(told(&notices), ["a", "b"]);
        assert_eq!(told(&notices), [""; 0]);
        // A new finding is reported. The first was reported before.
        let more = notice("NoKey", "c");
        notices.set(&web(), "u", FindingSource::Manifest, vec![a.clone(), more]);
        assert_eq!(told(&notices), ["c"]);
        // A finding that is removed and set again is reported again.
        notices.set(&web(), "u", FindingSource::Vault, Vec::new());
        assert!(!notices.has_of_vault());
        notices.set(&web(), "u", FindingSource::Vault, vec![b]);
        assert_eq!(told(&notices), ["b"]);
        // An object with the same name and another uid is another object.
        notices.set(&web(), "v", FindingSource::Manifest, vec![a]);
        assert_eq!(told(&notices), ["a"]);
        assert!(!notices.has_of_vault());
        let counts: Vec<_> = notices.counts().into_iter().collect();
        assert_eq!(counts, [("NoKey", 1)], "what there is, not what there was");
    }

    #[test]
    fn what_could_not_be_told_is_told_later_unless_it_is_over() {
        let notices = Findings::default();
        notices.set(&web(), "u", FindingSource::Manifest, vec![notice("NoKey", "a")]);
        let finding = notices.next().unwrap();
        assert_eq!(told(&notices), [""; 0]);
        notices.give_back(&finding);
        assert_eq!(told(&notices), ["a"]);
        notices.give_back(&finding);
        notices.forget(&web());
        assert_eq!(told(&notices), [""; 0]);
        notices.give_back(&finding);
        assert_eq!(told(&notices), [""; 0]);
        assert!(notices.state().present.is_empty() && notices.state().unreported.is_empty());
    }

    #[test]
    fn news_of_an_earlier_term_are_forgotten() {
        let notices = Findings::default();
        notices.set(&web(), "u", FindingSource::Reload, vec![notice("Reloaded", "a")]);
        notices.forget_news();
        assert_eq!(told(&notices), [""; 0]);
        assert!(notices.state().present.is_empty() && notices.state().unreported.is_empty());
        notices.set(&web(), "u", FindingSource::Reload, vec![notice("Reloaded", "a")]);
        notices.set(&web(), "u", FindingSource::Hold, vec![notice("ReloadHeld", "b")]);
        notices.forget_news();
        assert_eq!(told(&notices), ["b"], "a state lasts");
    }

    #[test]
    fn a_workload_with_much_to_tell_keeps_no_namespace_waiting() {
        let notices = Findings::default();
        let other =
            WorkloadId { kind: Kind::DEPLOYMENT, namespace: "bank".into(), name: "web".into() };
        let many = (0..5).map(|number| notice("NoKey", &number.to_string())).collect();
        notices.set(&web(), "u", FindingSource::Manifest, many);
        assert_eq!(notices.next().unwrap().workload, web());
        notices.set(&other, "u", FindingSource::Manifest, vec![notice("NoKey", "other")]);
        assert_eq!(notices.next().unwrap().workload, other);
        notices.rest(&web());
        assert_eq!(notices.next(), None);
        notices.set(&web(), "u", FindingSource::Vault, vec![notice("Denied", "more")]);
        assert_eq!(notices.next(), None);
        notices.wake(&web());
        assert_eq!(told(&notices).len(), 5);
    }

    #[test]
    fn notes_of_one_reason_are_one_notice_that_has_an_end() {
        let note = |name: &str, reason| Note {
            origin: Origin::Env { container: "app".to_owned(), name: name.to_owned() },
            reason,
        };
        let notes = [note("A", Reason::NoKey), note("P", Reason::Pinned), note("B", Reason::NoKey)];
        let notices = Finding::of_notes(&notes);
        let [pinned, no_key] = &notices[..] else { panic!("{notices:?}") };
        assert_eq!((pinned.reason, pinned.is_warning), ("Pinned", false));
        assert_eq!(
            no_key.message,
            "variable A of container app; variable B of container app: no key: write it as \
             PATH#KEY"
        );
        let many: Vec<_> = (0..5000).map(|n| note(&format!("X{n}"), Reason::NoKey)).collect();
        let long = &Finding::of_notes(&many)[0].message;
        assert!(long.len() <= 1024 && long.contains(" more: no key"), "{long}");
    }
}
