//! The collector: one watch of a kind, in all namespaces or in one, whose objects go to the index.
//!
//! Architecture Invariant: the collector writes the index and nothing else. It knows no Vault, and
//! an unusable object never stops it.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::watcher::Event as WatchEvent;
use kube::{Api, Client};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::effects::Effects;
use super::first_list::{FirstList, LISTED_WITHIN};
use super::object::Object;
use super::watching::{WORKER, Watching, in_namespace};
use crate::events::event::Event;
use crate::heartbeat::Heartbeat;
use crate::index::Index;
use crate::model::scope::ListScope;

/// The workloads of a named namespace are forgotten if the API server denies the watch for this time.
/// When a namespace is deleted, its Role can go first. Then no event tells that its workloads are gone.
const LONGEST_DENIAL: Duration = Duration::from_hours(1);

/// The pause between two checks for how long the watch has been denied.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// The settings of a collector, and the receivers of its reports.
pub struct Settings {
    /// Everything is listed again after this time.
    pub sync_period: Duration,
    /// Cancelled once it is known whose workloads enter the index. Nothing is listed before.
    pub selected: CancellationToken,
    /// Cancelled when polls may begin: all lists have ended once, or one has and the others are
    /// overdue.
    pub synced: CancellationToken,
    /// Carries out the effects of changes.
    pub effects: Effects,
    /// Receives the progress of the collector.
    pub heartbeat: Heartbeat,
}

/// Watches one kind, in all namespaces or in one.
pub struct Collector {
    scope: ListScope,
    watching: Watching<Object>,
    index: Arc<Index>,
    settings: Settings,
    /// Notified when everything is to be listed again.
    list_again: Arc<Notify>,
    first_list: FirstList,
    /// Whether the index may hold workloads that a list of this named namespace has shown.
    has_shown: bool,
    /// When to check next for how long the watch has been denied.
    look_at: Instant,
}

impl Collector {
    /// Makes a collector of the workloads that lists of this scope show.
    #[must_use]
    pub fn new(
        scope: impl Into<ListScope>,
        client: Client,
        index: Arc<Index>,
        settings: Settings,
    ) -> Self {
        let scope = scope.into();
        let (kind, namespace) = (scope.kind, scope.namespace.as_deref());
        let api = match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &kind),
            None => Api::all_with(client, &kind),
        };
        let resource = in_namespace(kind.plural(), namespace);
        let watching = Watching::new(api, resource, settings.sync_period);
        Self {
            watching: watching.with_heartbeat(settings.heartbeat.clone()),
            list_again: settings.effects.add_collector(scope.clone()),
            scope,
            index,
            settings,
            first_list: FirstList::default(),
            has_shown: false,
            look_at: Instant::now() + LOOK_AGAIN,
        }
    }

    /// Watches until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.settings.heartbeat.waits_for_others();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = self.settings.selected.cancelled() => {}
        }
        self.first_list.begin();
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.step() => {}
            }
        }
    }

    /// Waits for the next event and handles it.
    async fn step(&mut self) {
        tokio::select! {
            event = self.watching.next() => self.handle(event),
            () = self.list_again.notified() => self.watching.list_soon(),
            () = self.first_list.overdue() => self.go_on_without(),
            () = sleep_until(self.look_at), if self.has_shown => self.look(),
        }
    }

    /// Stops polls from waiting for this first list.
    fn go_on_without(&mut self) {
        self.first_list.end();
        let event = Event::KindOverdue { scope: &self.scope, waited: LISTED_WITHIN };
        self.settings.effects.emit(&event);
        self.index.do_not_await(self.scope.clone());
        self.begin_polls();
    }

    /// Forgets the workloads of a named namespace after a long denial. If the watch works again, its
    /// list shows them again.
    fn look(&mut self) {
        self.look_at = Instant::now() + LOOK_AGAIN;
        let Some(namespace) = &self.scope.namespace else { return };
        if self.watching.denied_for() < LONGEST_DENIAL {
            return;
        }
        self.has_shown = false;
        warn!(
            worker = WORKER,
            "The {} of namespace {namespace} are forgotten, because the API server has denied them for \
             an hour. If the namespace still exists, grant the service account list and watch on them",
            self.scope.kind.plural()
        );
        self.index.begin_list(self.scope.clone());
        let effects = self.index.end_list(self.scope.clone());
        self.settings.effects.carry_out(&effects);
        // The watch alone would not show workloads that did not change.
        self.watching.list_soon();
    }

    fn begin_polls(&self) {
        if self.index.may_be_polled() {
            self.settings.synced.cancel();
        }
    }

    fn handle(&mut self, event: WatchEvent<Object>) {
        let effects = match event {
            WatchEvent::Init => {
                self.index.begin_list(self.scope.clone());
                Vec::new()
            }
            WatchEvent::InitApply(object) | WatchEvent::Apply(object) => {
                self.index.apply(object.into_manifest(), self.scope.kind)
            }
            WatchEvent::InitDone => {
                self.first_list.end();
                self.has_shown = self.scope.namespace.is_some();
                self.index.end_list(self.scope.clone())
            }
            WatchEvent::Delete(object) => {
                self.index.delete(&object.into_manifest().id(self.scope.kind))
            }
        };
        self.settings.effects.carry_out(&effects);
        self.begin_polls();
    }
}

#[cfg(test)]
mod tests;
