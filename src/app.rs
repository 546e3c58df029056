//! Wiring: what is made, what is spawned, and what stops in which order.
//!
//! Architecture Invariant: only this module spawns, into one set. A task that ends before it was
//! asked to ends the process with an error, so nothing runs on half alive.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures::future::join;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error, info, warn};

use crate::config::{self, Config, Connection, LeaderElection, Listen};
use crate::decide::clock::ServerClock;
use crate::election::leadership::{Leadership, election_channel};
use crate::engine;
use crate::engine::reloader::Reloader;
use crate::engine::settings::Clocks;
use crate::events::log::Log;
use crate::events::metrics::Metrics;
use crate::events::sink::Events;
use crate::heartbeat::{Heartbeats, LONGEST_STEP};
use crate::index::Index;
use crate::kubernetes::ca_secret::CaSecret;
use crate::kubernetes::collector::{self, Collector};
use crate::kubernetes::effects::Effects;
use crate::kubernetes::events::EventWriter;
use crate::kubernetes::leader::{self, Leader};
use crate::kubernetes::patcher::Patcher;
use crate::kubernetes::sources::{ConfigMap, Secret, SourceReader};
use crate::kubernetes::{access, client};
use crate::model::kind::Kind;
use crate::references::source::ReadableSources;
use crate::rollouts::budget::Budget;
use crate::telemetry;
use crate::vault::client::{Server, ServerSettings};
use crate::vault::files::Files;
use crate::vault::pace::Pace;
use crate::vault::poller::Poller;
use crate::vault::tls::Authority;
use crate::web::{self, Health};

/// From the signal to the end, whatever hangs. The reloader is given one second for PATCHes in
/// flight, and half a second to revoke the token; the lease is released beside it.
const LAST_CALL: Duration = Duration::from_millis(1800);

/// Between two attempts to make the client of a server beside the default one.
const REACH_AGAIN: Duration = Duration::from_secs(10);

/// A step of a reloader takes this many requests to Vault at most that are not a part of a poll, and may
/// all take as long as they may.
const REQUESTS_A_STEP: u32 = 10;

/// Runs the controller until it is told to end.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let ended = shutdown.clone();
    let mut signals = Signals::new()?;
    let mut tasks = JoinSet::new();
    let started = tokio::select! {
        started = start(config, &mut tasks, shutdown.clone()) => started,
        () = signals.next() => return Ok(()),
    };
    let health = started?;
    let result = tokio::select! {
        () = signals.next() => Ok(()),
        Some(end) = tasks.join_next() => Err(match end {
            Ok(name) => anyhow!("the {name} ended unexpectedly"),
            Err(error) => anyhow!("a task failed: {error}"),
        }),
    };
    info!("Ending");
    health.ends();
    ended.cancel();
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_CALL, all).await.is_err() {
        warn!("Ending without waiting any longer for what is under way");
    }
    result
}

/// Makes everything and spawns it.
async fn start(
    config: Config,
    tasks: &mut JoinSet<&'static str>,
    shutdown: CancellationToken,
) -> anyhow::Result<Health> {
    // All fields are named, so that a setting that nobody uses does not compile.
    let Config {
        collector_sync_period,
        reloader: settings,
        found_burst,
        found_per_minute,
        log: _,
        listen,
        vault,
        others,
        servers,
        quota,
        pace,
        readable,
        events,
        replica,
        leader_election,
        warnings,
    } = config;
    for warning in warnings {
        warn!("{warning}");
    }
    info!(version = env!("CARGO_PKG_VERSION"), vault = vault.server.address.as_str(), "Starting");
    let files = Files::default();
    if vault.ca_secret.is_none() {
        // So that a mistake shows before anything else is needed.
        Server::connect(vault.server.clone(), Arc::default(), &files).await?;
    }
    let index = Arc::new(Index::new(servers, readable).with_quota(quota));
    let heartbeats = Heartbeats::default();
    let led = Arc::default();
    let metrics = Arc::new(Metrics::new(Arc::clone(&index), Arc::clone(&led), seconds_since_1970));
    let events_of_process = Events::new(vec![Box::new(Log), Box::new(Arc::clone(&metrics))]);
    let health = Health::new(Arc::clone(&index), heartbeats.clone(), metrics);
    answer_probes(&listen, &health, tasks, shutdown.clone()).await?;
    let cluster_clock = Arc::default();
    let client = client::connect(Arc::clone(&cluster_clock)).await?;
    let election = leader_election.map(|LeaderElection { terms, name, namespace, replica }| {
        leader::Settings::new(&client, terms, name, namespace, &replica)
    });
    let reloaders = Arc::new(Reloaders {
        client: client.clone(),
        index: Arc::clone(&index),
        cluster_clock,
        settings,
        events: events_of_process.clone(),
        pace,
        budget: Budget::new(found_burst, found_per_minute),
        synced: CancellationToken::new(),
        heartbeats: heartbeats.clone(),
    });
    let reached = reloaders.reach(&vault, &files).await?;
    collect(&reloaders, collector_sync_period, tasks, &shutdown);
    tasks.spawn(report_missing_permissions(
        client.clone(),
        readable,
        events,
        election.clone(),
        shutdown.clone(),
    ));
    // Each reloader holds one end of it, so it closes once all have ended.
    let (running, mut ended) = mpsc::channel::<()>(1);
    let leadership = match election {
        None => Leadership::always(),
        Some(settings) => {
            let (candidacy, leadership) = election_channel();
            let leader = Leader::new(client.clone(), settings, candidacy, heartbeats);
            let shutdown = shutdown.clone();
            tasks.spawn(async move {
                let ended = async { while ended.recv().await.is_some() {} };
                leader.run(shutdown, ended).await;
                "leader election"
            });
            leadership
        }
    };
    // There is one leadership a process.
    let _ = led.set(leadership.clone());
    if events {
        let (client, index, leadership) = (client.clone(), Arc::clone(&index), leadership.clone());
        let writer = EventWriter::new(client, index, leadership, replica, Timestamp::now);
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            writer.run(shutdown).await;
            "writer of Events"
        });
    }
    for connection in others {
        let (leadership, running) = (leadership.clone(), running.clone());
        tasks.spawn(Arc::clone(&reloaders).run_another(
            connection,
            leadership,
            running,
            shutdown.clone(),
        ));
    }
    tasks.spawn(async move {
        reloaders.run(vault, reached, leadership, shutdown).await;
        drop(running);
        "reloader"
    });
    Ok(health)
}

/// The time, for metrics.
fn seconds_since_1970() -> f64 {
    Timestamp::now().as_duration().as_secs_f64()
}

/// Says once which permissions are lacking. Its work is done then; it stays until the others are told to
/// end.
async fn report_missing_permissions(
    client: client::Client,
    readable: ReadableSources,
    events: bool,
    election: Option<leader::Settings>,
    shutdown: CancellationToken,
) -> &'static str {
    let check = async {
        for permission in access::missing(&client, readable, events, election.as_ref()).await {
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

/// What the reloaders of all servers have in common. Each has a task, a connection and a clock of its own:
/// one server that fails, or is slow, does not hold up the others.
struct Reloaders {
    client: client::Client,
    index: Arc<Index>,
    cluster_clock: Arc<ServerClock>,
    settings: engine::settings::Settings,
    events: Events,
    pace: Pace,
    budget: Budget,
    synced: CancellationToken,
    heartbeats: Heartbeats,
}

/// A server that can be asked.
struct ConnectedServer {
    server: Arc<Server>,
    clock: Arc<ServerClock>,
    ca: Option<CaSecret>,
}

impl Reloaders {
    /// Makes the client of a server, with the CA that is in the cluster. `files` are those of this server.
    async fn reach(
        &self,
        connection: &Connection,
        files: &Files,
    ) -> anyhow::Result<ConnectedServer> {
        let Connection { server, ca_secret, .. } = connection;
        let mut server = server.clone();
        let ca = match ca_secret.clone() {
            Some(config::CaSecret { namespace, name }) => {
                let secret = CaSecret::read(self.client.clone(), namespace, name).await?;
                server.tls.authority = Authority::Followed(secret.ca());
                Some(secret)
            }
            None => None,
        };
        let clock = Arc::default();
        let server = Arc::new(Server::connect(server, Arc::clone(&clock), files).await?);
        Ok(ConnectedServer { server, clock, ca })
    }

    /// Reloads the workloads of a server until `shutdown`, and follows its CA.
    async fn run(
        &self,
        connection: Connection,
        reached: ConnectedServer,
        leadership: Leadership,
        shutdown: CancellationToken,
    ) {
        let Connection {
            name,
            server: ServerSettings { timeout, .. },
            method,
            threshold,
            ca_secret: _,
            ignore_missing,
        } = connection;
        let ConnectedServer { server, clock, ca } = reached;
        let longest_step = LONGEST_STEP + timeout * REQUESTS_A_STEP;
        let heartbeat = self.heartbeats.add(format!("reloader of server {name}"), longest_step);
        let settings =
            engine::settings::Settings { server: name, ignore_missing, ..self.settings.clone() };
        let poller =
            Poller::new(server, method, threshold, settings.period, self.pace, ignore_missing);
        let keep_alive = poller.keep_alive();
        let clocks =
            Clocks { vault: clock, cluster: Arc::clone(&self.cluster_clock), ..Clocks::default() };
        let (index, patcher) = (Arc::clone(&self.index), Patcher::new(self.client.clone()));
        let budget = self.budget.clone();
        let reloader =
            Reloader::new(index, poller, patcher, self.events.clone(), clocks, settings, budget);
        let reloader = reloader.with_heartbeat(heartbeat);
        let follow = async {
            if let Some(secret) = ca {
                secret.follow(shutdown.clone()).await;
            }
        };
        let reload = Box::pin(reloader.run(self.synced.clone(), leadership, shutdown.clone()));
        tokio::select! {
            _ = join(reload, follow) => {}
            () = keep_alive => {}
        }
    }

    /// The same for a server beside the default one: what is wrong with it does not keep the process from
    /// starting, and is tried again. `running` is held until the end.
    async fn run_another(
        self: Arc<Self>,
        connection: Connection,
        leadership: Leadership,
        running: mpsc::Sender<()>,
        shutdown: CancellationToken,
    ) -> &'static str {
        let span = telemetry::of_server(&connection.name);
        let run = self.connect_and_run(connection, leadership, shutdown).instrument(span);
        Box::pin(run).await;
        drop(running);
        "reloader of another server"
    }

    async fn connect_and_run(
        &self,
        connection: Connection,
        leadership: Leadership,
        shutdown: CancellationToken,
    ) {
        info!(vault = connection.server.address.as_str(), "Watching another server");
        tokio::select! {
            reached = self.connect_at_last(&connection) => {
                self.run(connection, reached, leadership, shutdown).await;
            }
            () = shutdown.cancelled() => {}
        }
    }

    async fn connect_at_last(&self, connection: &Connection) -> ConnectedServer {
        let (mut said, files) = (None, Files::default());
        loop {
            let error = match self.reach(connection, &files).await {
                Ok(reached) => return reached,
                Err(error) => error.to_string(),
            };
            if said.as_ref() != Some(&error) {
                error!("Nothing of this server is watched: {error}. Trying again");
                said = Some(error);
            }
            sleep(REACH_AGAIN).await;
        }
    }
}

/// Spawns what watches the cluster: a collector of each kind, and a reader of each kind of sources that
/// may be read.
fn collect(
    reloaders: &Reloaders,
    sync_period: Duration,
    tasks: &mut JoinSet<&'static str>,
    shutdown: &CancellationToken,
) {
    let Reloaders { client, index, synced, heartbeats, .. } = reloaders;
    let effects = Effects::new(reloaders.events.clone());
    for kind in Kind::ALL {
        let settings = collector::Settings {
            sync_period,
            synced: synced.clone(),
            effects: effects.clone(),
            heartbeat: heartbeats.add(format!("collector of {kind}s"), LONGEST_STEP),
        };
        let collector = Collector::new(kind, client.clone(), Arc::clone(index), settings);
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            collector.run(shutdown).await;
            "collector"
        });
    }
    let new = || (client.clone(), Arc::clone(index), effects.clone());
    if index.readable().config_maps {
        let (client, index, effects) = new();
        let reader = SourceReader::<ConfigMap>::new(client, index, effects, sync_period);
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            reader.run(shutdown).await;
            "reader of ConfigMaps"
        });
    }
    if index.readable().secrets {
        let (client, index, effects) = new();
        let reader = SourceReader::<Secret>::new(client, index, effects, sync_period);
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            reader.run(shutdown).await;
            "reader of Secrets"
        });
    }
}

/// Spawns what answers the probes.
async fn answer_probes(
    listen: &Listen,
    health: &Health,
    tasks: &mut JoinSet<&'static str>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listener = bind(listen).await?;
    info!("Answering probes at {}", listener.local_addr()?);
    let router = web::router(health.clone());
    tasks.spawn(async move {
        web::serve(listener, router, shutdown).await;
        "server of the probes"
    });
    Ok(())
}

async fn bind(listen: &Listen) -> anyhow::Result<TcpListener> {
    let Listen { host, port } = listen;
    let context = || format!("LISTEN_ADDRESS: cannot listen at {host:?}, port {port}");
    match host {
        Some(host) => TcpListener::bind((host.as_str(), *port)).await.with_context(context),
        None => match TcpListener::bind(("::", *port)).await {
            Ok(listener) => Ok(listener),
            // A machine without IPv6.
            Err(_) => TcpListener::bind(("0.0.0.0", *port)).await.with_context(context),
        },
    }
}

/// The signals that end the process.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
