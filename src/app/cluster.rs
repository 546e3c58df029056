//! The tasks that talk to the API server: collectors, readers of sources, leader election, Events.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::election::leadership::{Leadership, election_channel};
use crate::events::sink::Events;
use crate::heartbeat::{Heartbeats, LONGEST_STEP};
use crate::index::Index;
use crate::kubernetes::access;
use crate::kubernetes::client::Client;
use crate::kubernetes::collector::{self, Collector};
use crate::kubernetes::effects::Effects;
use crate::kubernetes::events::EventWriter;
use crate::kubernetes::injector::InjectorWatch;
use crate::kubernetes::leader::{self, Leader};
use crate::kubernetes::namespace_reads::NamespaceReader;
use crate::kubernetes::namespaces::{self, NamespaceWatch};
use crate::kubernetes::sources::{self, ConfigMap, Secret, SourceObject, SourceReader};
use crate::model::kind::Kind;
use crate::model::scope::{ListScope, WatchScope};
use crate::rollouts::injector::{Injector, InjectorCheck, InjectorSettings};

/// Returns the settings of the check of the injector for these namespaces. With named namespaces, the
/// check is off, since the configuration of a webhook is readable in the whole cluster only.
pub(super) fn within(scope: &WatchScope, settings: InjectorSettings) -> InjectorSettings {
    if !scope.is_named() || settings.check == InjectorCheck::Off {
        return settings;
    }
    info!(
        "Reloads do not wait for the webhook that injects secrets: its configuration cannot be watched with \
         --watch-namespaces"
    );
    InjectorSettings { check: InjectorCheck::Off, ..settings }
}

/// The parts that these tasks share.
pub(super) struct Cluster {
    pub(super) client: Client,
    /// The namespaces that are watched.
    pub(super) scope: WatchScope,
    pub(super) index: Arc<Index>,
    pub(super) events: Events,
    /// Cancelled when polls may begin.
    pub(super) synced: CancellationToken,
    pub(super) heartbeats: Heartbeats,
    pub(super) shutdown: CancellationToken,
}

impl Cluster {
    /// Spawns a collector for each kind of workload, a reader for each kind of source that may be
    /// read, and the watch of namespaces. With named namespaces, there is a collector and a reader for
    /// each of them, and they are read one by one.
    pub(super) fn collect(&self, sync_period: Duration, tasks: &mut JoinSet<&'static str>) {
        let effects = Effects::new(self.events.clone());
        // Polls wait for the namespaces from here on.
        let selected = self.watch_namespaces(&effects, sync_period, tasks);
        let places = self.scope.places();
        for kind in Kind::ALL {
            for namespace in places.iter().cloned() {
                let scope = ListScope { kind, namespace };
                let settings = collector::Settings {
                    sync_period,
                    selected: selected.clone(),
                    synced: self.synced.clone(),
                    effects: effects.clone(),
                    heartbeat: self.heartbeats.add(format!("collector of {scope}"), LONGEST_STEP),
                };
                let index = Arc::clone(&self.index);
                let collector = Collector::new(scope, self.client.clone(), index, settings);
                let shutdown = self.shutdown.clone();
                tasks.spawn(async move {
                    collector.run(shutdown).await;
                    "collector"
                });
            }
        }
        let readable = self.index.readable();
        let readers = places.len();
        for namespace in places {
            let settings = sources::Settings { sync_period, namespace, readers };
            if readable.config_maps {
                tasks.spawn(self.read_sources::<ConfigMap>(&effects, settings.clone()));
            }
            if readable.secrets {
                tasks.spawn(self.read_sources::<Secret>(&effects, settings));
            }
        }
    }

    /// Spawns the watch of namespaces, or the reader of those that are named. Returns a token that is
    /// cancelled once it is known which namespaces are selected.
    fn watch_namespaces(
        &self,
        effects: &Effects,
        sync_period: Duration,
        tasks: &mut JoinSet<&'static str>,
    ) -> CancellationToken {
        let (client, index) = (self.client.clone(), Arc::clone(&self.index));
        let (synced, shutdown) = (self.synced.clone(), self.shutdown.clone());
        let selected = CancellationToken::new();
        if self.scope.selector().is_none() {
            selected.cancel();
        }
        if let WatchScope::Named(names) = &self.scope {
            let reader = NamespaceReader::new(client, Arc::clone(names), index, synced);
            tasks.spawn(async move {
                reader.run(shutdown).await;
                "reader of namespaces"
            });
            return selected;
        }
        let settings = namespaces::Settings {
            sync_period,
            selector: self.scope.selector().cloned(),
            selected: selected.clone(),
            synced,
            effects: effects.clone(),
        };
        let watch = NamespaceWatch::new(client, index, settings);
        tasks.spawn(async move {
            watch.run(shutdown).await;
            "watch of namespaces"
        });
        selected
    }

    fn read_sources<K: SourceObject>(
        &self,
        effects: &Effects,
        settings: sources::Settings,
    ) -> impl Future<Output = &'static str> + use<K> {
        let (client, index) = (self.client.clone(), Arc::clone(&self.index));
        let reader = SourceReader::<K>::new(client, index, effects.clone(), settings);
        let shutdown = self.shutdown.clone();
        async move {
            reader.run(shutdown).await;
            "reader of ConfigMaps or Secrets"
        }
    }

    /// Spawns the watch of the injector, unless the check is off. Returns a receiver of its changes.
    pub(super) fn watch_injector(
        &self,
        injector: &Arc<Injector>,
        sync_period: Duration,
        tasks: &mut JoinSet<&'static str>,
    ) -> watch::Receiver<()> {
        let (changed, changes) = watch::channel(());
        if !injector.is_off() {
            let (client, injector) = (self.client.clone(), Arc::clone(injector));
            let watch = InjectorWatch::new(client, injector, changed, sync_period);
            let shutdown = self.shutdown.clone();
            tasks.spawn(async move {
                watch.run(shutdown).await;
                "watch of the injector"
            });
        }
        changes
    }

    /// Reports once which permissions the service account lacks. The task then waits for the
    /// shutdown, since a task that ends early ends the process.
    pub(super) fn report_missing_permissions(
        &self,
        uses: access::Uses,
    ) -> impl Future<Output = &'static str> + use<> {
        let (client, shutdown) = (self.client.clone(), self.shutdown.clone());
        async move {
            let check = async {
                for permission in access::missing(&client, &uses).await {
                    error!("The service account lacks a permission: {permission}");
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = check => {}
                () = shutdown.cancelled() => {}
            }
            "check of the permissions"
        }
    }

    /// Spawns leader election, if it is on. The lease is released after `ended` is closed.
    pub(super) fn elect(
        &self,
        election: Option<leader::Settings>,
        mut ended: mpsc::Receiver<()>,
        tasks: &mut JoinSet<&'static str>,
    ) -> Leadership {
        let Some(settings) = election else { return Leadership::always() };
        let (candidate, leadership) = election_channel();
        let heartbeats = self.heartbeats.clone();
        let leader = Leader::new(self.client.clone(), settings, candidate, heartbeats);
        let shutdown = self.shutdown.clone();
        tasks.spawn(async move {
            let ended = async { while ended.recv().await.is_some() {} };
            leader.run(shutdown, ended).await;
            "leader election"
        });
        leadership
    }

    /// Spawns the writer of Events.
    pub(super) fn write_events(
        &self,
        leadership: Leadership,
        replica: String,
        tasks: &mut JoinSet<&'static str>,
    ) {
        let (client, index) = (self.client.clone(), Arc::clone(&self.index));
        let writer = EventWriter::new(client, index, leadership, replica, Timestamp::now);
        let writer = writer.with_events(self.events.clone());
        let shutdown = self.shutdown.clone();
        tasks.spawn(async move {
            writer.run(shutdown).await;
            "writer of Events"
        });
    }
}
