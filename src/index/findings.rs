//! Notices: what the owner of a workload should know of its references, told once a change.
//!
//! The collector and the reloader say what there is at present, each its own part; whoever tells it
//! takes what was not told yet.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use siphasher::sip::SipHasher13;

use crate::model::fair_queue::FairQueue;
use crate::model::text::shorten;
use crate::model::workload::WorkloadId;
use crate::references::place::Note;

/// The longest message, in bytes: what an Event takes.
const LONGEST: usize = 1000;

/// Something to know of the references of a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The stable name of the reason.
    pub reason: &'static str,
    /// Whether it is to be looked at.
    pub is_warning: bool,
    /// What it concerns, what it means and what to do.
    pub message: String,
}

impl Finding {
    /// One for each reason, which names all that it concerns, as far as there is room.
    #[must_use]
    pub fn of_notes(notes: &[Note]) -> Vec<Self> {
        let mut by_reason: BTreeMap<_, Vec<&Note>> = BTreeMap::new();
        for note in notes {
            by_reason.entry(note.reason).or_default().push(note);
        }
        let notice = |(reason, notes): (crate::references::reason::Reason, Vec<&Note>)| {
            let origins = notes.iter().map(|note| note.origin.to_string());
            Self {
                reason: reason.code(),
                is_warning: reason.is_warning(),
                message: message(origins, reason.advice()),
            }
        };
        by_reason.into_iter().map(notice).collect()
    }

    fn digest(&self, uid: &str) -> u64 {
        // The same in each process.
        let mut hasher = SipHasher13::new();
        (uid, self.reason, &self.message).hash(&mut hasher);
        hasher.finish()
    }
}

/// `A; B; and 3 more: what it means`
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

/// Who says it, and takes it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingSource {
    /// What the manifest shows.
    Manifest,
    /// What the answers of Vault show.
    Vault,
}

/// A notice that was not told yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreportedFinding {
    /// Whom it concerns.
    pub workload: WorkloadId,
    /// `metadata.uid` of the workload.
    pub uid: Arc<str>,
    /// What.
    pub notice: Finding,
    /// The same for the same notice of the same object, in each process.
    pub digest: u64,
}

/// The notices of all workloads.
#[derive(Debug, Default)]
pub struct Findings {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    present: HashMap<WorkloadId, Present>,
    untold: FairQueue<WorkloadId>,
    /// The workloads of which nothing is to be told for the time being.
    resting: HashSet<WorkloadId>,
    /// How many workloads the answers of Vault say something of.
    with_vault: usize,
}

#[derive(Debug)]
struct Present {
    uid: Arc<str>,
    parts: BTreeMap<FindingSource, Vec<Finding>>,
    /// What was told of those.
    told: BTreeSet<u64>,
}

impl Findings {
    /// Says what there is at present of one part; nothing is said by an empty list.
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
        let new = || Present { uid: uid.into(), parts: BTreeMap::new(), told: BTreeSet::new() };
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
                state.untold.join(workload);
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
        present.told.retain(|digest| digests.contains(digest));
        if present.parts.is_empty() {
            state.present.remove(workload);
            state.untold.leave(workload);
        }
    }

    /// Takes back what one part says of a workload.
    pub fn take_back(&self, workload: &WorkloadId, part: FindingSource) {
        let uid = self.state().present.get(workload).map(|present| Arc::clone(&present.uid));
        if let Some(uid) = uid {
            self.set(workload, &uid, part, Vec::new());
        }
    }

    /// Forgets a workload.
    pub fn forget(&self, workload: &WorkloadId) {
        let mut state = self.state();
        state.untold.leave(workload);
        if let Some(present) = state.present.remove(workload) {
            state.with_vault -= usize::from(present.parts.contains_key(&FindingSource::Vault));
        }
    }

    /// Takes back what was said by Vault's answers of all other workloads than these.
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

    /// Whether the answers of Vault say anything of any workload.
    #[must_use]
    pub fn has_of_vault(&self) -> bool {
        self.state().with_vault > 0
    }

    /// One that was not told yet; from now on it counts as told. Workloads and namespaces take turns.
    #[must_use]
    pub fn next(&self) -> Option<UnreportedFinding> {
        let mut state = self.state();
        let state = &mut *state;
        while let Some(workload) = state.untold.take() {
            if let Some(present) = state.present.get_mut(&workload)
                && let Some((notice, digest)) =
                    present.find(|digest| !present.told.contains(&digest))
            {
                present.told.insert(digest);
                let uid = Arc::clone(&present.uid);
                state.untold.join(&workload);
                return Some(UnreportedFinding { workload, uid, notice, digest });
            }
        }
        None
    }

    /// Nothing more is told of a workload until [`Findings::wake`].
    pub fn rest(&self, workload: &WorkloadId) {
        let mut state = self.state();
        state.untold.leave(workload);
        state.resting.insert(workload.clone());
    }

    /// What there is to tell of a workload is told again.
    pub fn wake(&self, workload: &WorkloadId) {
        let mut state = self.state();
        if state.resting.remove(workload) {
            state.untold.join(workload);
        }
    }

    /// It could not be told: it is to be told again.
    pub fn give_back(&self, untold: &UnreportedFinding) {
        let mut state = self.state();
        if let Some(present) = state.present.get_mut(&untold.workload)
            && present.told.remove(&untold.digest)
            && !state.resting.contains(&untold.workload)
        {
            state.untold.join(&untold.workload);
        }
    }

    /// Of how many workloads there is something to tell at present, by reason.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for present in self.state().present.values() {
            let notices = present.parts.values().flatten();
            for reason in notices.map(|notice| notice.reason).collect::<BTreeSet<_>>() {
                *counts.entry(reason).or_default() += 1;
            }
        }
        counts
    }

    /// What was told of a workload, if there still is reason to.
    #[must_use]
    pub fn still(&self, workload: &WorkloadId, digest: u64) -> Option<UnreportedFinding> {
        let state = self.state();
        let present = state.present.get(workload)?;
        let notice = present.find(|one| one == digest)?.0;
        let uid = Arc::clone(&present.uid);
        Some(UnreportedFinding { workload: workload.clone(), uid, notice, digest })
    }

    /// How many of a workload are not told yet.
    #[cfg(test)]
    pub(crate) fn untold_of(&self, workload: &WorkloadId) -> usize {
        let state = self.state();
        let Some(present) = state.present.get(workload) else { return 0 };
        present.digests().filter(|digest| !present.told.contains(digest)).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held ends the process; its other tasks may still look.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn digests(&self) -> impl Iterator<Item = u64> {
        self.parts.values().flatten().map(|notice| notice.digest(&self.uid))
    }

    /// The first one whose digest is such.
    fn find(&self, is_such: impl Fn(u64) -> bool) -> Option<(Finding, u64)> {
        let mut all =
            self.parts.values().flatten().map(|notice| (notice, notice.digest(&self.uid)));
        let (notice, digest) = all.find(|(_, digest)| is_such(*digest))?;
        Some((notice.clone(), digest))
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
        let next = || notices.next().map(|untold| untold.notice.message);
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
        // One more; the first was told.
        let more = notice("NoKey", "c");
        notices.set(&web(), "u", FindingSource::Manifest, vec![a.clone(), more]);
        assert_eq!(told(&notices), ["c"]);
        // Gone and back again is a change.
        notices.set(&web(), "u", FindingSource::Vault, Vec::new());
        assert!(!notices.has_of_vault());
        notices.set(&web(), "u", FindingSource::Vault, vec![b]);
        assert_eq!(told(&notices), ["b"]);
        // An object of the same name is another one.
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
        let untold = notices.next().unwrap();
        assert_eq!(told(&notices), [""; 0]);
        notices.give_back(&untold);
        assert_eq!(told(&notices), ["a"]);
        notices.give_back(&untold);
        notices.forget(&web());
        assert_eq!(told(&notices), [""; 0]);
        notices.give_back(&untold);
        assert_eq!(told(&notices), [""; 0]);
        assert!(notices.state().present.is_empty() && notices.state().untold.is_empty());
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
