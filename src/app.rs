//! Wiring: which parts are made, which tasks are spawned, and in which order they stop.
//!
//! Architecture Invariant: only this module spawns tasks, into one set. A task that ends before the
//! shutdown ends the process with an error, so the process never runs with a part of its tasks.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, anyhow};
use cluster::Cluster;
use engines::{Connector, Engines, service_accounts};
use jiff::Timestamp;
use listen::bind;
use notifications::Notifications;
use status::StatusServer;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, Connection, LeaderElection, Listen};
use crate::credentials::files::Files;
use crate::decide::clock::ServerClock;
use crate::election::leadership::Leadership;
use crate::engine::wake::Wake;
use crate::events::log::Log;
use crate::events::metrics::Metrics;
use crate::events::owners::OwnerEvents;
use crate::events::sink::{Events, Sink};
use crate::heartbeat::Heartbeats;
use crate::index::Index;
use crate::kubernetes::access::Uses;
use crate::kubernetes::{client, leader};
use crate::process::ProcessMetrics;
use crate::rollouts::budget::Budget;
use crate::rollouts::injector::Injector;
use crate::status::board::Board;
use crate::status::follower::RotationFollower;
use crate::status::metrics::StatusMetrics;
use crate::status::report::Sources;
use crate::vault::client::Server;
use crate::web::{self, Health};

mod cluster;
mod engines;
mod listen;
mod notifications;
mod status;

/// The longest time from the signal to the end of the process. The reloader has one second for
/// PATCHes in flight, and half a second to revoke the token. The lease is released meanwhile.
const LAST_CALL: Duration = Duration::from_millis(1800);

/// Runs the controller until a signal ends the process, or until a task ends early.
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
        warn!("The shutdown took too long; ending with tasks still under way");
    }
    result
}

/// Makes all parts and spawns their tasks.
async fn start(
    config: Config,
    tasks: &mut JoinSet<&'static str>,
    shutdown: CancellationToken,
) -> anyhow::Result<Health> {
    // All fields are named, so that an unused setting does not compile.
    let Config {
        collector_sync_period,
        settings,
        found_burst,
        found_per_minute,
        log: _,
        listen,
        connections,
        servers,
        quota,
        pace,
        readable,
        events,
        scope,
        injector,
        status,
        notifications,
        replica,
        leader_election,
        warnings,
    } = config;
    for warning in warnings {
        warn!("{warning}");
    }
    let files = Files::default();
    check_default_server(&connections, &files).await?;
    let index = Arc::new(Index::new(servers, readable).with_quota(quota).with_scope(&scope));
    let heartbeats = Heartbeats::default();
    let led = Arc::default();
    let notifications =
        Notifications::start(notifications, Arc::clone(&led), tasks, shutdown.clone()).await?;
    let board = Arc::new(Board::new(Arc::clone(&index), Timestamp::now));
    let cluster_clock = Arc::default();
    let injector = Arc::new(Injector::new(cluster::within(&scope, injector)));
    let clock = Arc::clone(&cluster_clock);
    let timeout = settings.rollouts.timeout;
    let sources = sources_of(&index, &board, clock, &injector, timeout, &connections, &replica);
    let metrics = metrics_of(&sources, &led, settings.period);
    let metrics = Arc::new(Notifications::count(notifications.as_ref(), metrics));
    let owners = events.then(|| OwnerEvents::new(Arc::clone(&index), Arc::clone(&led)));
    let wake = Wake::default();
    let events_of_process = sinks(&metrics, board, owners, &wake, notifications.as_ref());
    let health = Health::new(Arc::clone(&index), heartbeats.clone(), metrics);
    answer_probes(&listen, &health, tasks, shutdown.clone()).await?;
    let client = client::connect(Arc::clone(&cluster_clock), events_of_process.clone()).await?;
    let election = leader_election.map(|LeaderElection { terms, name, namespace, replica }| {
        leader::Settings::new(&client, terms, name, namespace, &replica)
    });
    let server = StatusServer::new(&client, sources.clone(), Arc::clone(&led), election.as_ref());
    let of_status = server.spawn(status, tasks, shutdown.clone()).await?;
    let connector = Connector::new(client.clone(), events_of_process.clone(), &connections);
    let connections = connector.connect_default(connections, &files).await?;
    let synced = CancellationToken::new();
    let cluster = Cluster {
        client,
        scope,
        index: Arc::clone(&index),
        events: events_of_process.clone(),
        synced: synced.clone(),
        heartbeats: heartbeats.clone(),
        shutdown: shutdown.clone(),
    };
    cluster.collect(collector_sync_period, tasks);
    let injector_changes = cluster.watch_injector(&injector, collector_sync_period, tasks);
    let lease = election.clone();
    let accounts = service_accounts(&connections);
    let (scope, injects) = (cluster.scope.clone(), !injector.is_off());
    let uses =
        Uses { readable, events, injector: injects, scope, lease, status: of_status, accounts };
    tasks.spawn(cluster.report_missing_permissions(uses));
    // Each engine holds one end of this channel, so the channel closes once all engines have ended.
    let (running, ended) = mpsc::channel::<()>(1);
    let leadership = cluster.elect(election, ended, tasks);
    // A process sets its leadership once, here.
    let _ = led.set(leadership.clone());
    if events {
        cluster.write_events(leadership.clone(), replica, tasks);
    }
    let clocks = Arc::clone(&connector.clocks);
    let follower = RotationFollower::new(sources, clocks, leadership.clone(), events_of_process);
    follow_rotations(follower, tasks, shutdown.clone());
    let engines = Engines {
        connector,
        index,
        cluster_clock,
        settings,
        pace,
        budget: Budget::new(found_burst, found_per_minute),
        wake,
        injector,
        injector_changes,
        leadership,
        synced,
        heartbeats,
    };
    Arc::new(engines).spawn(connections, &running, tasks, &shutdown);
    Ok(health)
}

/// Makes what the status is made from.
fn sources_of(
    index: &Arc<Index>,
    board: &Arc<Board>,
    clock: Arc<ServerClock>,
    injector: &Arc<Injector>,
    rollout_timeout: Duration,
    connections: &[Connection],
    replica: &str,
) -> Sources {
    Sources {
        index: Arc::clone(index),
        board: Arc::clone(board),
        clock,
        now: Timestamp::now,
        injector: Arc::clone(injector),
        rollout_timeout,
        servers: connections.iter().map(|connection| Arc::clone(&connection.name)).collect(),
        replica: replica.into(),
    }
}

/// Makes the metrics of this process.
fn metrics_of(sources: &Sources, led: &Arc<OnceLock<Leadership>>, period: Duration) -> Metrics {
    let metrics = Metrics::new(Arc::clone(&sources.index), Arc::clone(led), seconds_since_1970);
    metrics
        .with_period(period)
        .with(StatusMetrics::new(sources.clone(), Arc::clone(led)))
        .with_unprefixed(ProcessMetrics::new(seconds_since_1970()))
}

/// Spawns the follower of rotations.
fn follow_rotations(
    follower: RotationFollower,
    tasks: &mut JoinSet<&'static str>,
    shutdown: CancellationToken,
) {
    tasks.spawn(async move {
        follower.run(shutdown).await;
        "follower of rotations"
    });
}

/// Makes the sinks of events.
fn sinks(
    metrics: &Arc<Metrics>,
    board: Arc<Board>,
    owners: Option<OwnerEvents>,
    wake: &Wake,
    notifications: Option<&Notifications>,
) -> Events {
    let mut sinks: Vec<Box<dyn Sink>> =
        vec![Box::new(Log), Box::new(Arc::clone(metrics)), Box::new(board), Box::new(wake.clone())];
    if let Some(owners) = owners {
        sinks.push(Box::new(owners));
    }
    sinks.extend(notifications.map(Notifications::sink));
    Events::new(sinks)
}

/// The present time, for metrics.
fn seconds_since_1970() -> f64 {
    Timestamp::now().as_duration().as_secs_f64()
}

/// Makes the client of the default server and drops it, so that a mistake in its settings is
/// reported before the API server is needed. A server whose CA is in the cluster is not checked
/// here, because its CA has to be read first.
async fn check_default_server(connections: &[Connection], files: &Files) -> anyhow::Result<()> {
    for connection in connections.iter().filter(|connection| connection.is_default()) {
        let vault = connection.server.shown_address();
        info!(version = env!("CARGO_PKG_VERSION"), vault = &*vault, "Starting");
        if connection.ca_secret.is_none() {
            Server::connect(connection.server.clone(), Arc::default(), files).await?;
        }
    }
    Ok(())
}

/// Spawns the server of the probes and the metrics.
async fn answer_probes(
    listen: &Listen,
    health: &Health,
    tasks: &mut JoinSet<&'static str>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listener = bind("LISTEN_ADDRESS", listen).await?;
    info!("Answering probes at {}", listener.local_addr()?);
    let router = web::router(health.clone());
    tasks.spawn(async move {
        web::serve(listener, router, shutdown).await;
        "server of the probes"
    });
    Ok(())
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
