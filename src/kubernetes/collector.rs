//! The collector: one watch a kind, and what it sees goes to the store.
//!
//! Architecture Invariant: the collector writes the store and nothing else. It knows no Vault, and
//! an object that it cannot use never stops it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::watcher::Event;
use kube::{Api, Client};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::object::Object;
use super::sources::{SourceRequests, WorkloadUpdates};
use super::watching::{WORKER, Watching};
use crate::heartbeat::Heartbeat;
use crate::index::findings::{Notice, Part};
use crate::index::{Change, Store};
use crate::model::record::RecordError;
use crate::model::text::in_short;
use crate::model::workload::{Kind, WorkloadId};
use crate::references::manifest::{Manifest, Read};
use crate::references::place::Note;

/// Lines about one workload, each time that something about it changes. A manifest of a tenant can
/// hold tens of thousands of odd references, and the first few tell what is wrong.
const MOST_LINES: usize = 20;

/// The longest manifest that is kept for the time when its sources change. One of a thousand references
/// and its record have about as many. For longer ones, which a tenant can make as long as an object may
/// be, everything is listed anew when their sources change.
const LONGEST_KEPT: usize = 1 << 16;

/// Polls begin without the workloads of a kind that were not listed within this time. A list of ten
/// thousand takes seconds; one that is refused has no end.
const LISTED_WITHIN: Duration = Duration::from_secs(30);

/// What a collector reads by, and whom it tells.
pub struct Settings {
    /// Everything is read anew after so long.
    pub sync_period: Duration,
    /// Told when polls may begin: all kinds were listed once, or one was and the others are overdue.
    pub synced: CancellationToken,
    /// Told when workloads name sources that are to be read.
    pub requests: SourceRequests,
    /// Tells of workloads whose sources changed, or are known now.
    pub updates: WorkloadUpdates,
    /// Told that it moves.
    pub heartbeat: Heartbeat,
}

/// Watches one kind.
pub struct Collector {
    kind: Kind,
    watching: Watching<Object>,
    store: Arc<Store>,
    settings: Settings,
    /// Until its first list has ended, or is overdue: when that is.
    overdue_at: Option<Instant>,
    /// The workloads that name sources, as they were seen last; none of one that is too long to be kept.
    with_sources: HashMap<WorkloadId, Option<Box<Manifest>>>,
    /// Those of them that wait for a source to be read, and whether they were in the first list.
    waiting: HashMap<WorkloadId, bool>,
    /// Whether a list is under way.
    is_listing: bool,
    /// The workloads with sources that this list contained.
    listed: HashSet<WorkloadId>,
    /// What was noted of the references of each workload, as a digest: each is said once. With it
    /// goes the number of the list that last contained the workload.
    noted: HashMap<WorkloadId, (u64, u64)>,
    lists: u64,
}

impl Collector {
    /// A collector of one kind.
    #[must_use]
    pub fn new(kind: Kind, client: Client, store: Arc<Store>, settings: Settings) -> Self {
        let api = Api::all_with(client, &kind);
        let watching = Watching::new(api, kind.plural(), settings.sync_period);
        Self {
            kind,
            watching: watching.with_heartbeat(settings.heartbeat.clone()),
            store,
            settings,
            overdue_at: None,
            with_sources: HashMap::new(),
            waiting: HashMap::new(),
            is_listing: false,
            listed: HashSet::new(),
            noted: HashMap::new(),
            lists: 0,
        }
    }

    /// Watches until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.overdue_at = Some(Instant::now() + LISTED_WITHIN);
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.step() => {}
            }
        }
    }

    /// Takes in what comes next.
    async fn step(&mut self) {
        let is_awaited = self.overdue_at.is_some();
        let overdue = sleep_until(self.overdue_at.unwrap_or_else(Instant::now));
        tokio::select! {
            event = self.watching.next() => self.handle(event),
            // Within a list, a workload that is not in it yet may be gone.
            () = self.settings.updates.told(self.kind), if !self.is_listing => {
                if let Some(id) = self.store.sources().take_changed(self.kind) {
                    self.read_again(&id);
                    // There may be more.
                    self.settings.updates.tell(self.kind);
                }
            }
            () = overdue, if is_awaited => self.go_on_without(),
        }
    }

    /// The other kinds wait no longer for the first list of this one.
    fn go_on_without(&mut self) {
        self.overdue_at = None;
        error!(
            worker = WORKER,
            "No {}s are reloaded yet, since they could not be listed within {} s. The other kinds do not \
             wait for them any longer. If the API server denies it, grant the service account list and \
             watch on {}.apps",
            self.kind,
            LISTED_WITHIN.as_secs(),
            self.kind.plural()
        );
        self.store.do_not_await(self.kind);
        self.begin_polls();
    }

    fn begin_polls(&self) {
        if self.store.may_be_polled() {
            self.settings.synced.cancel();
        }
    }

    fn handle(&mut self, event: Event<Object>) {
        match event {
            Event::Init => {
                self.lists += 1;
                self.is_listing = true;
                self.listed.clear();
                self.waiting.clear();
                self.store.begin_list(self.kind);
            }
            Event::InitApply(object) | Event::Apply(object) => self.apply(object.into_manifest()),
            Event::InitDone => self.end_list(),
            Event::Delete(object) => {
                let id = object.into_manifest().id(self.kind);
                self.noted.remove(&id);
                self.store.notices().forget(&id);
                self.forget_sources(&id);
                if self.store.remove(&id) == Change::Removed {
                    say_removed(&id);
                }
            }
        }
    }

    fn end_list(&mut self) {
        self.is_listing = false;
        self.overdue_at = None;
        let first = !self.store.is_listed(self.kind);
        for id in self.store.end_list(self.kind) {
            self.store.notices().forget(&id);
            say_removed(&id);
        }
        let unlisted = |(_, list): &mut (u64, u64)| *list != self.lists;
        for (id, _) in self.noted.extract_if(|_, noted| unlisted(noted)) {
            self.store.notices().forget(&id);
        }
        let is_gone = |id: &&WorkloadId| !self.listed.contains(id);
        let gone: Vec<_> = self.with_sources.keys().filter(is_gone).cloned().collect();
        for id in gone {
            self.forget_sources(&id);
        }
        self.listed = HashSet::new();
        if first {
            let (workloads, secrets) = self.store.len();
            let waiting = match self.waiting.len() {
                0 => String::new(),
                waiting => format!("; {waiting} wait for their ConfigMaps or Secrets to be read"),
            };
            info!(
                worker = WORKER,
                "All {}s are read; so far {workloads} workloads refer to {secrets} secrets{waiting}",
                self.kind
            );
        }
        self.begin_polls();
    }

    fn apply(&mut self, manifest: Manifest) {
        let id = manifest.id(self.kind);
        let sources = manifest.sources();
        if sources.is_empty() {
            self.forget_sources(&id);
            self.read(&manifest);
            return;
        }
        if self.store.sources().name(&id, sources) {
            self.settings.requests.tell();
        }
        if self.is_listing {
            self.listed.insert(id.clone());
        }
        self.read(&manifest);
        let kept = (manifest.weight() <= LONGEST_KEPT).then(|| Box::new(manifest));
        self.with_sources.insert(id, kept);
    }

    /// Reads a workload anew whose sources changed.
    fn read_again(&mut self, id: &WorkloadId) {
        match self.with_sources.remove(id) {
            Some(Some(manifest)) => {
                self.read(&manifest);
                self.with_sources.insert(id.clone(), Some(manifest));
            }
            Some(None) => {
                debug!(worker = WORKER, "{id} is too long to be kept; listing all {}s", self.kind);
                self.waiting.remove(id);
                self.with_sources.insert(id.clone(), None);
                self.watching.list_soon();
            }
            None => {}
        }
    }

    fn forget_sources(&mut self, id: &WorkloadId) {
        self.waiting.remove(id);
        if self.with_sources.remove(id).is_some() {
            self.store.sources().name(id, BTreeSet::new());
        }
    }

    fn read(&mut self, manifest: &Manifest) {
        let Read { id, workload, notes, is_waiting, record_error } =
            manifest.read(self.kind, self.store.servers(), |namespace, named| {
                self.store.sources().look_up(namespace, named)
            });
        if is_waiting {
            // What is known of it stays until all of it is known: a part of its references does not
            // say whether one of its secrets is gone.
            self.store.defer(&id);
            let is_first = !self.store.is_listed(self.kind);
            *self.waiting.entry(id).or_default() |= is_first;
            return;
        }
        let was_in_first_list = self.waiting.remove(&id).unwrap_or(false);
        self.report(&id, &manifest.uid, &notes, record_error.as_ref());
        let change = match workload {
            Some(workload) => self.store.apply(workload),
            None => self.store.remove(&id),
        };
        if matches!(change, Change::Removed | Change::Absent) {
            self.store.notices().set(&id, &manifest.uid, Part::Vault, Vec::new());
        }
        match change {
            Change::Collected => {
                let WorkloadId { kind, namespace, name } = &id;
                if self.store.is_listed(self.kind) && !was_in_first_list {
                    info!(worker = WORKER, "Collected secrets from {kind} {namespace}/{name}");
                } else {
                    debug!(worker = WORKER, "Collected secrets from {kind} {namespace}/{name}");
                }
            }
            Change::Removed => say_removed(&id),
            Change::Unchanged | Change::Absent => {}
        }
    }

    /// Says once what is not watched, or looks odd.
    fn report(
        &mut self,
        id: &WorkloadId,
        uid: &str,
        notes: &[Note],
        record_error: Option<&RecordError>,
    ) {
        if notes.is_empty() && record_error.is_none() {
            if self.noted.remove(id).is_some() {
                self.store.notices().set(id, uid, Part::Manifest, Vec::new());
            }
            return;
        }
        let mut hasher = DefaultHasher::new();
        (uid, notes, record_error).hash(&mut hasher);
        let digest = hasher.finish();
        let before = self.noted.insert(id.clone(), (digest, self.lists));
        if before.is_some_and(|(before, _)| before == digest) {
            return;
        }
        self.store.notices().set(id, uid, Part::Manifest, Notice::of_notes(notes));
        if let Some(error) = record_error {
            warn!(
                worker = WORKER,
                "The record on {id} is ignored: {error}. What its pods run with is judged by their age"
            );
        }
        // The warnings first, so that what is merely not watched does not hide them.
        let (warnings, others): (Vec<_>, Vec<_>) =
            notes.iter().partition(|note| note.reason.is_warning());
        for Line { reason, text } in lines(&warnings, "look odd") {
            warn!(worker = WORKER, reason, "{id}: {text}");
        }
        for Line { reason, text } in lines(&others, "are not watched") {
            debug!(worker = WORKER, reason, "{id}: {text}");
        }
    }
}

/// What there is to say of one reference, or of those that are too many.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    /// The code of the reason.
    reason: Option<&'static str>,
    text: String,
}

/// What there is to say of some notes on a workload, with an end; `so` is what its references are.
fn lines(notes: &[&Note], so: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = notes
        .iter()
        .take(MOST_LINES)
        .map(|Note { origin, reason }| Line {
            reason: Some(reason.code()),
            text: format!("{}: {}", in_short(&origin.to_string()), reason.advice()),
        })
        .collect();
    let more = notes.len() - lines.len();
    if more > 0 {
        lines.push(Line { reason: None, text: format!("and {more} more references {so}") });
    }
    lines
}

fn say_removed(id: &WorkloadId) {
    let WorkloadId { kind, namespace, name } = id;
    info!(worker = WORKER, "Stopped watching {kind} {namespace}/{name}");
}

#[cfg(test)]
mod tests;
