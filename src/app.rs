//! Wiring: what is made, what is spawned, and what stops in which order.
//!
//! Architecture Invariant: only this module spawns, into one set. A task that ends before it was
//! asked to ends the process with an error, so nothing runs on half alive.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use engines::Engines;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{Config, LeaderElection, Listen};
use crate::election::leadership::{Leadership, election_channel};
use crate::events::log::Log;
use crate::events::metrics::Metrics;
use crate::events::sink::Events;
use crate::heartbeat::{Heartbeats, LONGEST_STEP};
use crate::index::Index;
use crate::kubernetes::collector::{self, Collector};
use crate::kubernetes::effects::Effects;
use crate::kubernetes::events::EventWriter;
use crate::kubernetes::leader::{self, Leader};
use crate::kubernetes::sources::{ConfigMap, Secret, SourceReader};
use crate::kubernetes::{access, client};
use crate::model::kind::Kind;
use crate::references::source::ReadableSources;
use crate::rollouts::budget::Budget;
use crate::vault::client::Server;
use crate::vault::files::Files;
use crate::web::{self, Health};

mod engines;

/// From the signal to the end, whatever hangs. The reloader is given one second for PATCHes in
/// flight, and half a second to revoke the token; the lease is released beside it.
const LAST_CALL: Duration = Duration::from_millis(1800);

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
        replica,
        leader_election,
        warnings,
    } = config;
    for warning in warnings {
        warn!("{warning}");
    }
    let files = Files::default();
    for connection in connections.iter().filter(|connection| connection.is_default()) {
        let vault = connection.server.address.as_str();
        info!(version = env!("CARGO_PKG_VERSION"), vault, "Starting");
        if connection.ca_secret.is_none() {
            // So that a mistake shows before anything else is needed.
            Server::connect(connection.server.clone(), Arc::default(), &files).await?;
        }
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
    // What is wrong with the default server ends the process; the others are tried again.
    let mut servers = Vec::new();
    for connection in connections {
        let connected = if connection.is_default() {
            Some(engines::connect(&client, &connection, &files).await?)
        } else {
            None
        };
        servers.push((connection, connected));
    }
    let synced = CancellationToken::new();
    let cluster = Cluster {
        client: client.clone(),
        index: Arc::clone(&index),
        events: events_of_process.clone(),
        synced: synced.clone(),
        heartbeats: heartbeats.clone(),
    };
    collect(&cluster, collector_sync_period, tasks, &shutdown);
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
            let leader = Leader::new(client.clone(), settings, candidacy, heartbeats.clone());
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
    let engines = Arc::new(Engines {
        client,
        index,
        cluster_clock,
        settings,
        events: events_of_process,
        pace,
        budget: Budget::new(found_burst, found_per_minute),
        leadership,
        synced,
        heartbeats,
    });
    for (connection, connected) in servers {
        let (engines, running) = (Arc::clone(&engines), running.clone());
        tasks.spawn(engines.run(connection, connected, running, shutdown.clone()));
    }
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

/// What watches the cluster.
struct Cluster {
    client: client::Client,
    index: Arc<Index>,
    events: Events,
    synced: CancellationToken,
    heartbeats: Heartbeats,
}

/// Spawns what watches the cluster: a collector of each kind, and a reader of each kind of sources that
/// may be read.
fn collect(
    cluster: &Cluster,
    sync_period: Duration,
    tasks: &mut JoinSet<&'static str>,
    shutdown: &CancellationToken,
) {
    let Cluster { client, index, events, synced, heartbeats } = cluster;
    let effects = Effects::new(events.clone());
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
