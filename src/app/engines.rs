//! The engine of each Vault server: its connection, its task, its clock. A server that fails or is
//! slow does not delay the other servers.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, error, info};

use crate::config::{self, Connection};
use crate::credentials::files::Files;
use crate::credentials::service_account::ServiceAccount;
use crate::decide::clock::ServerClock;
use crate::election::leadership::Leadership;
use crate::engine::reloader::Reloader;
use crate::engine::settings::{Clocks, Settings, SharedSettings};
use crate::engine::wake::Wake;
use crate::events::sink::Events;
use crate::heartbeat::{Heartbeats, LONGEST_STEP};
use crate::index::Index;
use crate::kubernetes::ca_secret::CaSecret;
use crate::kubernetes::client::Client;
use crate::kubernetes::patcher::Patcher;
use crate::kubernetes::service_account::TokenRequester;
use crate::rollouts::budget::Budget;
use crate::rollouts::injector::Injector;
use crate::status::follower::VaultClocks;
use crate::telemetry;
use crate::vault::client::Server;
use crate::vault::connection::ServerSettings;
use crate::vault::pace::Pace;
use crate::vault::poller::Poller;
use crate::vault::tls::Authority;

/// The pause between two attempts to connect to a server other than the default server.
const CONNECT_AGAIN: Duration = Duration::from_secs(10);

/// The most requests to Vault outside polls in one step of an engine. Each may take as long as the
/// time-out of a request.
const REQUESTS_A_STEP: u32 = 10;

/// What the engines of all servers share.
pub(super) struct Engines {
    pub(super) connector: Connector,
    pub(super) index: Arc<Index>,
    pub(super) cluster_clock: Arc<ServerClock>,
    pub(super) settings: SharedSettings,
    pub(super) pace: Pace,
    pub(super) budget: Budget,
    /// Wakes the engines when rollouts end.
    pub(super) wake: Wake,
    pub(super) injector: Arc<Injector>,
    /// Shows when the state of the injector changed.
    pub(super) injector_changes: watch::Receiver<()>,
    pub(super) leadership: Leadership,
    /// Cancelled when polls may begin.
    pub(super) synced: CancellationToken,
    pub(super) heartbeats: Heartbeats,
}

/// A server that can be polled.
pub(super) struct ConnectedServer {
    server: Arc<Server>,
    clock: Arc<ServerClock>,
    ca: Option<CaSecret>,
}

/// Connects to the Vault servers.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) client: Client,
    pub(super) events: Events,
    pub(super) clocks: Arc<VaultClocks>,
}

impl Connector {
    /// Returns a connector of these servers, each with a clock that is not known yet.
    pub(super) fn new(client: Client, events: Events, connections: &[Connection]) -> Self {
        let clock_of = |connection: &Connection| (Arc::clone(&connection.name), Arc::default());
        let clocks = Arc::new(connections.iter().map(clock_of).collect());
        Self { client, events, clocks }
    }

    /// Connects to the default server. An error ends the process. The tasks of the other servers
    /// connect to them, and try again after an error.
    pub(super) async fn connect_default(
        &self,
        connections: Vec<Connection>,
        files: &Files,
    ) -> anyhow::Result<Vec<(Connection, Option<ConnectedServer>)>> {
        let mut all = Vec::new();
        for connection in connections {
            let connected = if connection.is_default() {
                Some(self.connect(&connection, files).await?)
            } else {
                None
            };
            all.push((connection, connected));
        }
        Ok(all)
    }

    /// Makes the client of a server. Reads the CA from the cluster if it is there. `files` is the
    /// reader of this server's files.
    async fn connect(
        &self,
        connection: &Connection,
        files: &Files,
    ) -> anyhow::Result<ConnectedServer> {
        let mut server = connection.server.clone();
        let ca = match connection.ca_secret.clone() {
            Some(config::CaSecret { namespace, name }) => {
                let secret = CaSecret::read(self.client.clone(), namespace, name).await?;
                server.tls.authority = Authority::Followed(secret.ca());
                Some(secret)
            }
            None => None,
        };
        let clock = self.clocks.get(&connection.name).cloned().unwrap_or_default();
        let server = Server::connect(server, Arc::clone(&clock), files).await?;
        let requester = Arc::new(TokenRequester::new(self.client.clone()));
        let server = server
            .with_events(Arc::clone(&connection.name), self.events.clone())
            .with_service_accounts(requester);
        Ok(ConnectedServer { server: Arc::new(server), clock, ca })
    }
}

/// Returns the ServiceAccounts whose tokens log in, each once, whatever the audience.
pub(super) fn service_accounts(
    connections: &[(Connection, Option<ConnectedServer>)],
) -> Vec<ServiceAccount> {
    let mut accounts: Vec<ServiceAccount> = Vec::new();
    for account in connections.iter().filter_map(|(it, _)| it.method.service_account()) {
        let is_known = |known: &ServiceAccount| {
            (&known.namespace, &known.name) == (&account.namespace, &account.name)
        };
        if !accounts.iter().any(is_known) {
            accounts.push(account.clone());
        }
    }
    accounts
}

impl Engines {
    /// Spawns the engine of each server.
    pub(super) fn spawn(
        self: Arc<Self>,
        connections: Vec<(Connection, Option<ConnectedServer>)>,
        running: &mpsc::Sender<()>,
        tasks: &mut JoinSet<&'static str>,
        shutdown: &CancellationToken,
    ) {
        for (connection, connected) in connections {
            let engine = Arc::clone(&self);
            tasks.spawn(engine.run(connection, connected, running.clone(), shutdown.clone()));
        }
    }

    /// Runs the engine of a server until `shutdown`. Without a connection, the engine first
    /// connects, and tries until it succeeds. `running` is held until the end.
    async fn run(
        self: Arc<Self>,
        connection: Connection,
        connected: Option<ConnectedServer>,
        running: mpsc::Sender<()>,
        shutdown: CancellationToken,
    ) -> &'static str {
        // Log lines of the default server do not name it: they are the same as with one server.
        let is_default = connection.is_default();
        let span = if is_default { Span::none() } else { telemetry::of_server(&connection.name) };
        let run = async {
            let connect = async {
                match connected {
                    Some(connected) => connected,
                    None => self.connect_at_last(&connection).await,
                }
            };
            tokio::select! {
                connected = connect => self.reload(&connection, connected, &shutdown).await,
                () = shutdown.cancelled() => {}
            }
        };
        Box::pin(run.instrument(span)).await;
        drop(running);
        "engine of a Vault server"
    }

    async fn connect_at_last(&self, connection: &Connection) -> ConnectedServer {
        let vault = connection.server.shown_address();
        info!(vault = &*vault, "Connecting to another Vault server");
        let (mut reported, files) = (None, Files::default());
        loop {
            let error = match self.connector.connect(connection, &files).await {
                Ok(connected) => return connected,
                Err(error) => error.to_string(),
            };
            if reported.as_ref() != Some(&error) {
                error!("Nothing of this server is watched: {error}. Trying again");
                reported = Some(error);
            }
            sleep(CONNECT_AGAIN).await;
        }
    }

    /// Reloads the workloads of a server until `shutdown`, and follows its CA.
    async fn reload(
        &self,
        connection: &Connection,
        connected: ConnectedServer,
        shutdown: &CancellationToken,
    ) {
        let Connection { name, server, method, threshold, ca_secret: _, ignore_missing } =
            connection;
        let ServerSettings { timeout, .. } = server;
        let longest_step = LONGEST_STEP + *timeout * REQUESTS_A_STEP;
        let heartbeat = self.heartbeats.add(format!("reloader of server {name}"), longest_step);
        let settings = Settings {
            server: Arc::clone(name),
            ignore_missing: *ignore_missing,
            shared: self.settings.clone(),
        };
        let ConnectedServer { server, clock, ca } = connected;
        let poller = Poller::new(
            server,
            method.clone(),
            *threshold,
            self.settings.period,
            self.pace,
            *ignore_missing,
        );
        let Connector { client, events, .. } = self.connector.clone();
        let keep_alive = poller.keep_alive();
        let clocks =
            Clocks { vault: clock, cluster: Arc::clone(&self.cluster_clock), ..Clocks::default() };
        let reloader = Reloader::new(
            Arc::clone(&self.index),
            poller,
            Patcher::new(client),
            events,
            clocks,
            settings,
            self.budget.clone(),
        );
        let (injector, changes) = (Arc::clone(&self.injector), self.injector_changes.clone());
        let reloader = reloader
            .with_heartbeat(heartbeat)
            .with_wake(self.wake.receiver())
            .with_injector(injector, changes);
        let follow = async {
            if let Some(secret) = ca {
                secret.follow(shutdown.clone()).await;
            }
        };
        let (synced, leadership) = (self.synced.clone(), self.leadership.clone());
        let reload = Box::pin(reloader.run(synced, leadership, shutdown.clone()));
        tokio::select! {
            _ = join(reload, follow) => {}
            () = keep_alive => {}
        }
    }
}
