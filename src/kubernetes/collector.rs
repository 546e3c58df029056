//! The collector: one watch per kind, whose objects go to the index.
//!
//! Architecture Invariant: the collector writes the index and nothing else. It knows no Vault, and
//! an unusable object never stops it.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::watcher::Event as WatchEvent;
use kube::{Api, Client};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::effects::Effects;
use super::object::Object;
use super::watching::Watching;
use crate::events::event::Event;
use crate::heartbeat::Heartbeat;
use crate::index::Index;
use crate::model::kind::Kind;

/// Polls do not wait longer than this for the first list of a kind. A list of ten thousand
/// workloads takes seconds. A refused list never ends.
const LISTED_WITHIN: Duration = Duration::from_secs(30);

/// The settings of a collector, and the receivers of its reports.
pub struct Settings {
    /// Everything is listed again after this time.
    pub sync_period: Duration,
    /// Cancelled when polls may begin: all kinds were listed once, or one kind was and the others
    /// are overdue.
    pub synced: CancellationToken,
    /// Carries out the effects of changes.
    pub effects: Effects,
    /// Receives the progress of the collector.
    pub heartbeat: Heartbeat,
}

/// Watches one kind.
pub struct Collector {
    kind: Kind,
    watching: Watching<Object>,
    index: Arc<Index>,
    settings: Settings,
    /// When the first list is overdue. `None` once that list has ended, or is overdue.
    overdue_at: Option<Instant>,
}

impl Collector {
    /// Makes a collector of one kind.
    #[must_use]
    pub fn new(kind: Kind, client: Client, index: Arc<Index>, settings: Settings) -> Self {
        let api = Api::all_with(client, &kind);
        let watching = Watching::new(api, kind.plural(), settings.sync_period);
        Self {
            kind,
            watching: watching.with_heartbeat(settings.heartbeat.clone()),
            index,
            settings,
            overdue_at: None,
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

    /// Waits for the next event and handles it.
    async fn step(&mut self) {
        let is_awaited = self.overdue_at.is_some();
        let overdue = sleep_until(self.overdue_at.unwrap_or_else(Instant::now));
        tokio::select! {
            event = self.watching.next() => self.handle(event),
            () = self.settings.effects.list_again(self.kind) => self.watching.list_soon(),
            () = overdue, if is_awaited => self.go_on_without(),
        }
    }

    /// Stops the other kinds from waiting for the first list of this kind.
    fn go_on_without(&mut self) {
        self.overdue_at = None;
        let event = Event::KindOverdue { kind: self.kind, waited: LISTED_WITHIN };
        self.settings.effects.emit(&event);
        self.index.do_not_await(self.kind);
        self.begin_polls();
    }

    fn begin_polls(&self) {
        if self.index.may_be_polled() {
            self.settings.synced.cancel();
        }
    }

    fn handle(&mut self, event: WatchEvent<Object>) {
        let effects = match event {
            WatchEvent::Init => {
                self.index.begin_list(self.kind);
                Vec::new()
            }
            WatchEvent::InitApply(object) | WatchEvent::Apply(object) => {
                self.index.apply(object.into_manifest(), self.kind)
            }
            WatchEvent::InitDone => {
                self.overdue_at = None;
                self.index.end_list(self.kind)
            }
            WatchEvent::Delete(object) => self.index.delete(&object.into_manifest().id(self.kind)),
        };
        self.settings.effects.carry_out(&effects);
        self.begin_polls();
    }
}

#[cfg(test)]
mod tests;
