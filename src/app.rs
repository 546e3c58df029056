//! Wiring: which parts are made, which tasks are spawned, and in which order they stop.
//!
//! Architecture Invariant: only this module spawns tasks, into one set. A task that ends before the
//! shutdown ends the process with an error, so the process never runs with a part of its tasks.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, anyhow};
use cluster::Cluster;
use engines::Engines;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, Connection, LeaderElection, Listen, StatusApi};
use crate::election::leadership::Leadership;
use crate::events::log::Log;
use crate::events::metrics::Metrics;
use crate::events::owners::OwnerEvents;
use crate::events::sink::{Events, Sink};
use crate::heartbeat::Heartbeats;
use crate::index::Index;
use crate::kubernetes::{client, leader};
use crate::rollouts::budget::Budget;
use crate::rollouts::injector::Injector;
use crate::status::board::Board;
use crate::status::metrics::StatusMetrics;
use crate::status::report::Sources;
use crate::vault::client::Server;
use crate::vault::files::Files;
use crate::web::api::Api;
use crate::web::{self, Health};

mod cluster;
mod engines;

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
        injector,
        status,
        rollout_timeout,
        replica,
        leader_election,
        warnings,
    } = config;
    for warning in warnings {
        warn!("{warning}");
    }
    let files = Files::default();
    check_default_server(&connections, &files).await?;
    let index = Arc::new(Index::new(servers, readable).with_quota(quota));
    let heartbeats = Heartbeats::default();
    let led = Arc::default();
    let board = Arc::new(Board::new(Arc::clone(&index), Timestamp::now));
    let cluster_clock = Arc::default();
    let injector = Arc::new(Injector::new(injector));
    let sources = Sources {
        index: Arc::clone(&index),
        board: Arc::clone(&board),
        clock: Arc::clone(&cluster_clock),
        now: Timestamp::now,
        injector: Arc::clone(&injector),
        rollout_timeout,
        servers: connections.iter().map(|connection| Arc::clone(&connection.name)).collect(),
        replica: replica.as_str().into(),
    };
    let metrics = Metrics::new(Arc::clone(&index), Arc::clone(&led), seconds_since_1970);
    let status_metrics = StatusMetrics::new(sources.clone(), Arc::clone(&led));
    let metrics = Arc::new(metrics.with_period(settings.period).with(status_metrics));
    let mut sinks: Vec<Box<dyn Sink>> =
        vec![Box::new(Log), Box::new(Arc::clone(&metrics)), Box::new(board)];
    if events {
        sinks.push(Box::new(OwnerEvents::new(Arc::clone(&index), Arc::clone(&led))));
    }
    let events_of_process = Events::new(sinks);
    let health = Health::new(Arc::clone(&index), heartbeats.clone(), metrics);
    answer_probes(&listen, &health, tasks, shutdown.clone()).await?;
    if let Some(status) = status {
        serve_status(status, sources, Arc::clone(&led), tasks, shutdown.clone()).await?;
    }
    let client = client::connect(Arc::clone(&cluster_clock)).await?;
    let election = leader_election.map(|LeaderElection { terms, name, namespace, replica }| {
        leader::Settings::new(&client, terms, name, namespace, &replica)
    });
    let connections = engines::connect_default(&client, connections, &files).await?;
    let synced = CancellationToken::new();
    let cluster = Cluster {
        client: client.clone(),
        index: Arc::clone(&index),
        events: events_of_process.clone(),
        synced: synced.clone(),
        heartbeats: heartbeats.clone(),
        shutdown: shutdown.clone(),
    };
    cluster.collect(collector_sync_period, tasks);
    let injector_changes = cluster.watch_injector(&injector, collector_sync_period, tasks);
    let is_checked = !injector.is_off();
    tasks.spawn(cluster.report_missing_permissions(readable, events, is_checked, election.clone()));
    // Each engine holds one end of this channel, so the channel closes once all engines have ended.
    let (running, ended) = mpsc::channel::<()>(1);
    let leadership = cluster.elect(election, ended, tasks);
    // A process sets its leadership once, here.
    let _ = led.set(leadership.clone());
    if events {
        cluster.write_events(leadership.clone(), replica, tasks);
    }
    let engines = Arc::new(Engines {
        client,
        index,
        cluster_clock,
        settings,
        events: events_of_process,
        pace,
        budget: Budget::new(found_burst, found_per_minute),
        injector,
        injector_changes,
        leadership,
        synced,
        heartbeats,
    });
    for (connection, connected) in connections {
        let (engines, running) = (Arc::clone(&engines), running.clone());
        tasks.spawn(engines.run(connection, connected, running, shutdown.clone()));
    }
    Ok(health)
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
        let vault = connection.server.address.as_str();
        info!(version = env!("CARGO_PKG_VERSION"), vault, "Starting");
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

/// Spawns the server of the status. If another process has the default port, the controller goes on
/// without the status.
async fn serve_status(
    status: StatusApi,
    sources: Sources,
    leadership: Arc<OnceLock<Leadership>>,
    tasks: &mut JoinSet<&'static str>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let StatusApi { listen, is_default, token_file } = status;
    let listener = match bind("--status-address", &listen).await {
        Ok(listener) => listener,
        Err(error) if is_default => {
            warn!("The status is not served: {error:#}. Set --status-address to another address");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    info!("Serving the status at {}", listener.local_addr()?);
    let router = web::api::router(Api::new(sources, leadership, token_file));
    tasks.spawn(async move {
        web::serve(listener, router, shutdown).await;
        "server of the status"
    });
    Ok(())
}

async fn bind(name: &str, listen: &Listen) -> anyhow::Result<TcpListener> {
    let Listen { host, port } = listen;
    let context = || format!("{name}: cannot listen at {host:?}, port {port}");
    match host {
        Some(host) => TcpListener::bind((host.as_str(), *port)).await.with_context(context),
        None => match TcpListener::bind(("::", *port)).await {
            Ok(listener) => Ok(listener),
            // The machine may have no IPv6.
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
