//! Wiring: what is made, what is spawned, and what stops in which order.
//!
//! Architecture Invariant: only this module spawns, into one set. A task that ends before it was
//! asked to ends the process with an error, so nothing runs on half alive.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{self, Health};
use crate::config::{self, Config, LeaderElection, Listen};
use crate::core::store::Store;
use crate::core::workload::Kind;
use crate::kubernetes::ca_secret::CaSecret;
use crate::kubernetes::collector::{self, Collector};
use crate::kubernetes::events::EventWriter;
use crate::kubernetes::leader::{self, Leader};
use crate::kubernetes::patcher::Patcher;
use crate::kubernetes::sources::{Concerned, ConfigMap, Secret, SourceReader, Wanted};
use crate::kubernetes::{access, client};
use crate::reloader::{self, Clocks, Leadership, Log, Reloader, contended};
use crate::vault::client::Server;
use crate::vault::poller::Poller;
use crate::vault::tls::Authority;

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
        reloader: settings,
        log: _,
        listen,
        mut server,
        method,
        threshold,
        pace,
        ca_secret,
        readable,
        events,
        replica,
        leader_election,
        warnings,
    } = config;
    for warning in warnings {
        warn!("{warning}");
    }
    info!(version = env!("CARGO_PKG_VERSION"), vault = server.address.as_str(), "Starting");
    let store = Arc::new(Store::new(readable));
    let health = Health::new(Arc::clone(&store));
    let listener = bind(&listen).await?;
    info!("Answering probes at {}", listener.local_addr()?);
    let router = admin::router(health.clone());
    tasks.spawn({
        let shutdown = shutdown.clone();
        async move {
            let served = axum::serve(listener, router);
            if let Err(error) = served.with_graceful_shutdown(shutdown.cancelled_owned()).await {
                error!("The probes cannot be answered: {error}");
            }
            "server of the probes"
        }
    });

    let clocks = Clocks::default();
    let client = client::connect(Arc::clone(&clocks.cluster)).await?;
    if let Some(secret) = ca_secret {
        server.tls.authority = follow_ca(client.clone(), secret, tasks, shutdown.clone()).await?;
    }
    let election = leader_election.map(|LeaderElection { terms, name, namespace, replica }| {
        leader::Settings::new(&client, terms, name, namespace, &replica)
    });
    let server = Arc::new(Server::new(server, Arc::clone(&clocks.vault))?);
    let poller =
        Poller::new(server, method, threshold, settings.period, pace, settings.ignore_missing);
    let synced = Arc::new(Notify::new());
    collect(&client, &store, &synced, &settings, collector_sync_period, tasks, &shutdown);
    tasks.spawn({
        let (client, election, shutdown) = (client.clone(), election.clone(), shutdown.clone());
        async move {
            let check = async {
                for permission in
                    access::lacking(&client, readable, events, election.as_ref()).await
                {
                    error!("The service account lacks a permission: {permission}");
                }
                // Its work is done; it stays until the others are told to end.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = check => {}
                () = shutdown.cancelled() => {}
            }
            "check of the permissions"
        }
    });
    let reloader_ended = CancellationToken::new();
    let leadership = match election {
        None => Leadership::always(),
        Some(settings) => {
            let (candidacy, leadership) = contended();
            let leader = Leader::new(client.clone(), settings, candidacy);
            let (shutdown, ended) = (shutdown.clone(), reloader_ended.clone());
            tasks.spawn(async move {
                leader.run(shutdown, ended.cancelled()).await;
                "leader election"
            });
            leadership
        }
    };
    if events {
        let (client, store, leadership) = (client.clone(), Arc::clone(&store), leadership.clone());
        let writer = EventWriter::new(client, store, leadership, replica, clocks.now);
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            writer.run(shutdown).await;
            "writer of Events"
        });
    }
    let reloader = Reloader::new(store, poller, Patcher::new(client), Log, clocks, settings);
    tasks.spawn(async move {
        reloader.run(synced, leadership, shutdown).await;
        reloader_ended.cancel();
        "reloader"
    });
    Ok(health)
}

/// Spawns what watches the cluster: a collector of each kind, and a reader of each kind of sources that
/// may be read.
fn collect(
    client: &client::Client,
    store: &Arc<Store>,
    synced: &Arc<Notify>,
    settings: &reloader::Settings,
    sync_period: Duration,
    tasks: &mut JoinSet<&'static str>,
    shutdown: &CancellationToken,
) {
    let wanted = Wanted::default();
    let (concerned, changes) = Concerned::new();
    for (kind, changed) in Kind::ALL.into_iter().zip(changes) {
        let settings = collector::Settings {
            vault_namespace: settings.vault_namespace.clone(),
            sync_period,
            synced: Arc::clone(synced),
            wanted: wanted.clone(),
        };
        let collector = Collector::new(kind, client.clone(), Arc::clone(store), changed, settings);
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            collector.run(shutdown).await;
            "collector"
        });
    }
    let new = || (client.clone(), Arc::clone(store), wanted.clone(), concerned.clone());
    if store.sources().readable().config_maps {
        let (client, store, wanted, concerned) = new();
        let reader = SourceReader::<ConfigMap>::new(client, store, wanted, concerned, sync_period);
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            reader.run(shutdown).await;
            "reader of ConfigMaps"
        });
    }
    if store.sources().readable().secrets {
        let (client, store, wanted, concerned) = new();
        let reader = SourceReader::<Secret>::new(client, store, wanted, concerned, sync_period);
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            reader.run(shutdown).await;
            "reader of Secrets"
        });
    }
}

/// Reads the CA of a Secret, and has it followed from then on.
async fn follow_ca(
    client: client::Client,
    config::CaSecret { namespace, name }: config::CaSecret,
    tasks: &mut JoinSet<&'static str>,
    shutdown: CancellationToken,
) -> anyhow::Result<Authority> {
    let secret = CaSecret::read(client, namespace, name).await?;
    let authority = Authority::Followed(secret.ca());
    tasks.spawn(async move {
        secret.follow(shutdown).await;
        "watch of the CA"
    });
    Ok(authority)
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
