//! What the engine knows of each workload while the process runs: one track per workload. All of it
//! may be lost, because the records on the workloads hold what matters.

use std::collections::HashMap;
use std::sync::Arc;

use crate::decide::hold::Hold;
use crate::decide::plan::{ReloadHistory, Revision};
use crate::engine::ports::WriteError;
use crate::index::entries::IndexedWorkload;
use crate::model::poll::PollNumber;
use crate::model::secret::SecretId;

/// All that the engine knows of one workload.
#[derive(Default)]
pub(super) struct WorkloadTrack {
    /// The reloads and reports of the workload. Few workloads have a state, so it is boxed.
    pub(super) state: Option<Box<ReloadState>>,
    /// The revision that was looked up, with the first poll of the template at that time. A
    /// template that was replaced and put back counts as another template. After a start, each
    /// workload has a revision.
    revision: Option<(PollNumber, Revision)>,
    /// Whether the workload waits for a secret that this round had no time to read.
    is_waiting: bool,
    /// Whether the workload waited in the round before, and waits no longer.
    is_overdue: bool,
}

/// The reloads of a workload, and the reports about it.
#[derive(Default)]
pub(super) struct ReloadState {
    pub(super) past: ReloadHistory,
    pub(super) failures: u32,
    /// How often in a row the workload waited for its controller.
    pub(super) waits: u32,
    pub(super) reported: Reported,
}

/// The last reports about a workload, so that each change is reported once.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) hold: Option<Hold>,
    pub(super) reverted: Vec<Arc<SecretId>>,
    pub(super) error: Option<WriteError>,
}

/// The tracks of all workloads of one server, by uid. They are boxed, because a map has many empty
/// places.
#[derive(Default)]
pub(super) struct WorkloadTracks(HashMap<Arc<str>, Box<WorkloadTrack>>);

impl WorkloadTracks {
    /// Returns the state of a workload, if it has one.
    pub(super) fn state(&self, uid: &str) -> Option<&ReloadState> {
        self.0.get(uid)?.state.as_deref()
    }

    /// Returns the state of a workload. Creates the state if there is none.
    pub(super) fn state_mut(&mut self, uid: &Arc<str>) -> &mut ReloadState {
        self.track(uid).state.get_or_insert_default()
    }

    /// Returns how often in a row the reloads of a workload failed.
    pub(super) fn failures(&self, uid: &str) -> u32 {
        self.state(uid).map_or(0, |state| state.failures)
    }

    /// Whether the reload of a workload was held until others have made room.
    pub(super) fn waits_for_room(&self, uid: &str) -> bool {
        let hold = self.state(uid).and_then(|state| state.reported.hold);
        hold.is_some_and(Hold::ends_by_itself)
    }

    /// Returns the revision of a workload's present template, if it was looked up.
    pub(super) fn revision(&self, stored: &IndexedWorkload) -> Option<&Revision> {
        let (first_poll, revision) = self.0.get(&*stored.workload.uid)?.revision.as_ref()?;
        (*first_poll == stored.template_first_poll).then_some(revision)
    }

    /// Keeps a revision until the template changes.
    pub(super) fn keep_revision(&mut self, stored: &IndexedWorkload, mut revision: Revision) {
        if revision.copies.is_empty() {
            // Most workloads have no copies, and share the empty list.
            revision.copies = Arc::default();
        }
        let first_poll = stored.template_first_poll;
        self.track(&stored.workload.uid).revision = Some((first_poll, revision));
    }

    /// Forgets the revision of a workload that was reloaded.
    pub(super) fn forget_revision(&mut self, uid: &str) {
        if let Some(track) = self.0.get_mut(uid) {
            track.revision = None;
        }
    }

    /// Returns whether a workload can be decided about: all its secrets were read, or it waited for
    /// long enough. A workload that waits in every round is decided about in every round but the
    /// first.
    pub(super) fn is_complete(&mut self, stored: &IndexedWorkload, has_late: bool) -> bool {
        let uid = &stored.workload.uid;
        if has_late {
            let track = self.track(uid);
            track.is_waiting = true;
            return track.is_overdue;
        }
        if let Some(track) = self.0.get_mut(uid) {
            track.is_waiting = false;
        }
        true
    }

    /// Begins the next round.
    pub(super) fn next_round(&mut self) {
        for track in self.0.values_mut() {
            track.is_overdue = std::mem::take(&mut track.is_waiting);
        }
    }

    /// Forgets the workloads that are gone.
    pub(super) fn retain(&mut self, is_present: impl Fn(&str) -> bool) {
        self.0.retain(|uid, _| is_present(uid));
    }

    /// Forgets everything, as a restart does.
    #[cfg(test)]
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns the states of all workloads that have one.
    #[cfg(test)]
    pub(super) fn states_mut(&mut self) -> impl Iterator<Item = &mut ReloadState> {
        self.0.values_mut().filter_map(|track| track.state.as_deref_mut())
    }

    fn track(&mut self, uid: &Arc<str>) -> &mut WorkloadTrack {
        self.0.entry(Arc::clone(uid)).or_default()
    }
}
