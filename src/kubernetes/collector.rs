//! The collector: one watch a kind, and what it shows goes to the index.
//!
//! Architecture Invariant: the collector writes the index and nothing else. It knows no Vault, and
//! an object that it cannot use never stops it.

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

/// Polls begin without the workloads of a kind that were not listed within this time. A list of ten
/// thousand takes seconds; one that is refused has no end.
const LISTED_WITHIN: Duration = Duration::from_secs(30);

/// What a collector reads by, and whom it tells.
pub struct Settings {
    /// Everything is read again after so long.
    pub sync_period: Duration,
    /// Told when polls may begin: all kinds were listed once, or one was and the others are overdue.
    pub synced: CancellationToken,
    /// Carries out what follows from what is seen.
    pub effects: Effects,
    /// Told that it moves.
    pub heartbeat: Heartbeat,
}

/// Watches one kind.
pub struct Collector {
    kind: Kind,
    watching: Watching<Object>,
    index: Arc<Index>,
    settings: Settings,
    /// Until its first list has ended, or is overdue: when that is.
    overdue_at: Option<Instant>,
}

impl Collector {
    /// A collector of one kind.
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

    /// Takes in what comes next.
    async fn step(&mut self) {
        let is_awaited = self.overdue_at.is_some();
        let overdue = sleep_until(self.overdue_at.unwrap_or_else(Instant::now));
        tokio::select! {
            event = self.watching.next() => self.handle(event),
            () = self.settings.effects.list_again(self.kind) => self.watching.list_soon(),
            () = overdue, if is_awaited => self.go_on_without(),
        }
    }

    /// The other kinds wait no longer for the first list of this one.
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
