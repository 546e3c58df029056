//! A bed: its servers, their common start and their end.
//!
//! Invariant: when a bed is dropped, all its processes have ended. Its folder is gone then, unless
//! the test failed or `VSR_KEEP_BED` is set.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::FutureExt as _;

use crate::binaries::{Binaries, from_environment};
use crate::certificates::Certificates;
use crate::cluster::Cluster;
use crate::command_lines::{
    FORWARDED_PODS, Layout, Ports, RELOADER_TOKEN, RELOADER_USER, USERS, VaultFlavour, VaultPorts,
    api_audit_log, vault_audit_log, vault_command,
};
use crate::counts::{self, ApiRequest, Mark, VaultRequest};
use crate::group::{KEEP, ProcessGroup};
use crate::options::{Options, VaultStorage};
use crate::ports::Port;
use crate::server::{ReadyCheck, Server};
use crate::vault::Vault;
use crate::wait::eventually;

/// The most restarts of kwok. kwok 0.8.0 sets up its stages without synchronisation when it sees
/// its first node, and so panics once in some hundreds of starts.
const KWOK_REVIVALS: u32 = 3;

/// A running bed. Everything in it ends when this value is dropped.
#[derive(Debug)]
pub struct Bed {
    /// Kubernetes, as its administrator.
    pub cluster: Cluster,
    /// The Vault server, with its root token.
    pub vault: Vault,
    /// The process of etcd.
    pub etcd: Server,
    /// The process of the API server.
    pub api_server: Server,
    /// The process of the controllers of Deployments, `StatefulSets`, `DaemonSets`.
    pub controller_manager: Server,
    /// The process of the scheduler, unless the bed is without pods.
    pub scheduler: Option<Server>,
    /// The process that plays the kubelets, unless the bed is without pods.
    pub kwok: Option<Server>,
    /// The process of the Vault server. Its start unseals it.
    pub vault_server: Server,
    folder: PathBuf,
    etcd_address: String,
    forwarded: [u16; 2],
    binaries: Binaries,
    group: Arc<ProcessGroup>,
    _ports: Vec<Port>,
}

/// A Vault server beside the bed's own server.
#[derive(Debug)]
pub struct AnotherVault {
    /// The server, with its root token.
    pub vault: Vault,
    /// The process of the server.
    pub server: Server,
    audit_log: PathBuf,
    _ports: [Port; 2],
}

impl AnotherVault {
    /// Returns all requests that have reached the server's core, without requests of tests (with
    /// the root token).
    pub fn requests(&self) -> Result<Vec<VaultRequest>> {
        let mut requests = counts::vault_requests(&self.audit_log, 0)?;
        let root = self.vault.root_token();
        requests.retain(|request| request.token != root && request.path != "sys/unseal");
        Ok(requests)
    }
}

impl Drop for AnotherVault {
    fn drop(&mut self) {
        self.server.kill();
    }
}

impl Bed {
    /// Starts a bed, and waits until all its servers are ready: about 5 s.
    ///
    /// # Errors
    /// When a server is missing and cannot be built, or does not become ready: with its log.
    pub async fn start(options: Options) -> Result<Self> {
        let binaries = Binaries::find()?;
        let folder = make_folder(&options)?;
        if from_environment("VSR_KEEP_BED").is_some() {
            // Written at the start, because a bed that tests share is never dropped.
            fs::write(folder.join(KEEP), "")?;
        }
        let group = Arc::new(ProcessGroup::start(&folder)?);
        let certificates = Certificates::in_folder(&folder)?;
        let held = take_ports(&options)?;
        let ports = number_ports(&held);
        let flavour = VaultFlavour::of(&binaries.vault())?;

        let cluster = Cluster::new(&folder, ports.api, certificates.ca.clone()).await?;
        let audit_log = vault_audit_log(&folder).display().to_string();
        let vault = Vault::new(ports.vault, flavour, audit_log)?;
        let layout = Layout {
            binaries: &binaries,
            options: &options,
            folder: &folder,
            certificates: &certificates,
            ports: &ports,
        };
        let server = |command, ready| Server::new(command, &folder, &group, ready);
        let client_of = |user: &str| {
            let token = USERS.iter().find(|(name, _)| *name == user).map_or("", |(_, token)| token);
            cluster.kubeconfig_for(user, token)
        };

        let is_scheduled = options.pods;
        let scheduler = is_scheduled
            .then(|| anyhow::Ok(layout.scheduler(&client_of("kube-scheduler")?)))
            .transpose()?
            .map(|command| server(command, answers(ports.scheduler, "https", "healthz")));
        let kwok = is_scheduled
            .then(|| layout.kwok(&client_of("kwok")?))
            .transpose()?
            .map(|command| server(command, answers(ports.kwok, "http", "healthz")))
            .map(|kwok| kwok.revived(KWOK_REVIVALS));
        let bed = Self {
            etcd: server(layout.etcd(), answers(ports.etcd, "http", "readyz")),
            api_server: server(layout.api_server()?, api_is_ready(&cluster)),
            controller_manager: server(
                layout.controller_manager(&client_of("kube-controller-manager")?),
                answers(ports.controller_manager, "https", "healthz"),
            ),
            scheduler,
            kwok,
            vault_server: server(layout.vault(flavour)?, vault_is_ready(&vault)),
            cluster,
            vault,
            folder,
            etcd_address: format!("http://127.0.0.1:{}", ports.etcd),
            forwarded: ports.forwarded,
            binaries,
            group,
            _ports: held,
        };
        bed.start_servers(&options, ports.kwok).await?;
        Ok(bed)
    }

    async fn start_servers(&self, options: &Options, kubelet_port: u16) -> Result<()> {
        self.etcd.spawn()?;
        self.api_server.spawn()?;
        self.vault_server.spawn()?;
        let kubernetes = async {
            self.api_server.wait_until_ready().await?;
            self.controller_manager.spawn()?;
            for server in self.scheduler.iter().chain(&self.kwok) {
                server.spawn()?;
            }
            self.cluster.prepare(options.nodes, kubelet_port).await?;
            self.controller_manager.wait_until_ready().await?;
            for server in self.scheduler.iter().chain(&self.kwok) {
                server.wait_until_ready().await?;
            }
            self.wait_for_nodes(options).await
        };
        let vault = async {
            self.vault_server.wait_until_ready().await?;
            self.vault.prepare().await
        };
        futures::try_join!(kubernetes, vault).map(drop)
    }

    /// Waits until the bed is ready for pods: the nodes are ready, and the controllers make
    /// `ServiceAccounts`.
    async fn wait_for_nodes(&self, options: &Options) -> Result<()> {
        self.cluster.create_namespace("default").await?;
        if !options.pods {
            return Ok(());
        }
        eventually("the nodes to be ready", Duration::from_mins(1), || async {
            if let Some(kwok) = &self.kwok
                && let Some(status) = kwok.revive()?
            {
                bail!("kwok ended: {status}; see {}", kwok.log().display());
            }
            let nodes = self.cluster.get_path("/api/v1/nodes").await?;
            let nodes = nodes["items"].as_array().cloned().unwrap_or_default();
            // The taint is removed a moment after the node reports that it is ready.
            let is_open = |node: &serde_json::Value| {
                node["status"]["phase"] == "Running" && node["spec"]["taints"].is_null()
            };
            Ok(nodes.iter().all(is_open).then_some(()))
        })
        .await
    }

    /// Starts another Vault server, with its secrets in memory, prepared like the bed's own server.
    /// The server ends with the bed, or when it is dropped.
    ///
    /// # Errors
    /// When the server does not become ready: with its log.
    pub async fn another_vault(&self, name: &str) -> Result<AnotherVault> {
        let folder = empty_folder(self.folder.join(name))?;
        let (port, cluster_port) = (Port::any()?, Port::any()?);
        let flavour = VaultFlavour::of(&self.binaries.vault())?;
        let ports = VaultPorts { api: port.number(), cluster: cluster_port.number() };
        let command = vault_command(&self.binaries, &folder, ports, VaultStorage::Memory, flavour)?;
        let audit_log = vault_audit_log(&folder);
        let vault = Vault::new(ports.api, flavour, audit_log.display().to_string())?;
        let server = Server::new(command, &folder, &self.group, vault_is_ready(&vault));
        server.spawn()?;
        let another = AnotherVault { vault, server, audit_log, _ports: [port, cluster_port] };
        another.server.wait_until_ready().await?;
        another.vault.prepare().await?;
        Ok(another)
    }

    /// The bed's folder: logs, kubeconfigs, configuration files, data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The process group of all processes of this bed.
    #[must_use]
    pub fn group(&self) -> &Arc<ProcessGroup> {
        &self.group
    }

    /// The programs of the bed, for a test that runs one itself.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Writes a kubeconfig of a user with exactly the permissions of the chart.
    pub fn reloader_kubeconfig(&self) -> Result<PathBuf> {
        self.cluster.kubeconfig_for(RELOADER_USER, RELOADER_TOKEN)
    }

    /// As [`Self::reloader_kubeconfig`], with another address of the API server.
    pub fn reloader_kubeconfig_at(&self, address: &str) -> Result<PathBuf> {
        self.cluster.kubeconfig_at(address, RELOADER_USER, RELOADER_TOKEN)
    }

    /// The names of pods whose port 9180 leads to a port of this machine, each with that port. Such a
    /// pod may be in any namespace. A process that listens on the port plays the pod's container.
    #[must_use]
    pub fn forwarded_pods(&self) -> [(&'static str, u16); 2] {
        let [first, second] = FORWARDED_PODS;
        let [to_first, to_second] = self.forwarded;
        [(first, to_first), (second, to_second)]
    }

    /// The address of etcd, for requests to its gateway.
    #[must_use]
    pub fn etcd_address(&self) -> &str {
        &self.etcd_address
    }

    /// Returns this moment in Vault's audit log alone. Sends no request.
    #[must_use]
    pub fn vault_mark(&self) -> Mark {
        Mark { api: 0, vault: counts::length(&vault_audit_log(&self.folder)) }
    }

    /// Returns this moment in both audit logs, to count from.
    pub async fn mark(&self) -> Result<Mark> {
        self.settle_api_log().await?;
        Ok(Mark {
            api: counts::length(&api_audit_log(&self.folder)),
            vault: counts::length(&vault_audit_log(&self.folder)),
        })
    }

    /// Returns the requests that the API server has answered since.
    pub async fn api_requests_since(&self, mark: &Mark) -> Result<Vec<ApiRequest>> {
        self.api_requests_with("", mark).await
    }

    async fn api_requests_with(&self, text: &str, mark: &Mark) -> Result<Vec<ApiRequest>> {
        self.settle_api_log().await?;
        let mut requests = counts::api_requests(&api_audit_log(&self.folder), mark.api, text)?;
        requests.retain(|request| !request.uri.starts_with(MARK_PATH));
        Ok(requests)
    }

    /// As [`Self::api_requests_since`], for the clients whose user agent starts with `agent`. The
    /// controller's user agent starts with `vault-secrets-reloader/`.
    pub async fn api_requests_of(&self, agent: &str, mark: &Mark) -> Result<Vec<ApiRequest>> {
        let mut requests = self.api_requests_with(agent, mark).await?;
        requests.retain(|request| request.user_agent.starts_with(agent));
        Ok(requests)
    }

    /// Returns the requests that have reached the core of Vault since, without requests of tests
    /// (with the root token).
    pub fn vault_requests_since(&self, mark: &Mark) -> Result<Vec<VaultRequest>> {
        let mut requests = self.all_vault_requests_since(mark)?;
        let root = self.vault.root_token();
        requests.retain(|request| request.token != root && request.path != "sys/unseal");
        Ok(requests)
    }

    /// Returns the requests that have reached the core of Vault since, with requests of tests.
    pub fn all_vault_requests_since(&self, mark: &Mark) -> Result<Vec<VaultRequest>> {
        counts::vault_requests(&vault_audit_log(&self.folder), mark.vault)
    }

    /// Waits until the API server's audit log is complete. A line is written shortly after the
    /// answer. So the bed sends a request of its own, whose line comes after the lines of all
    /// earlier answers.
    async fn settle_api_log(&self) -> Result<()> {
        let log = api_audit_log(&self.folder);
        let from = counts::length(&log);
        let unique = format!("{MARK_PATH}{:x}", fastrand::u64(..));
        self.cluster.get_path(&unique).await?;
        eventually("the API server's audit log", Duration::from_secs(10), || async {
            let found = counts::api_requests(&log, from, &unique)?;
            Ok(found.iter().any(|request| request.uri == unique).then_some(()))
        })
        .await
    }

    fn end(&self) {
        self.group.kill();
        let optional = self.scheduler.iter().chain(&self.kwok);
        for server in [&self.etcd, &self.api_server, &self.controller_manager, &self.vault_server]
            .into_iter()
            .chain(optional)
        {
            server.kill();
        }
    }
}

/// The path of the requests by which a bed finds the end of the API server's audit log.
const MARK_PATH: &str = "/version?bed-mark=";

impl Drop for Bed {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() || from_environment("VSR_KEEP_BED").is_some() {
            keep_folder(&self.folder);
        } else {
            drop(fs::remove_dir_all(&self.folder));
        }
        self.group.dismiss();
    }
}

/// Keeps a bed's folder after the end of the bed, and prints its path.
#[expect(clippy::print_stderr, reason = "tells who reads the failed test where to look")]
pub(crate) fn keep_folder(folder: &Path) {
    drop(fs::write(folder.join(KEEP), ""));
    eprintln!("the logs of the bed's servers are in {}", folder.display());
}

/// Makes an empty folder for a bed. Removes the files that an earlier bed left in a fixed folder.
fn make_folder(options: &Options) -> Result<PathBuf> {
    static BEDS: AtomicU32 = AtomicU32::new(0);
    let folder = options.fixed.as_ref().map_or_else(
        || {
            let number = BEDS.fetch_add(1, Ordering::Relaxed);
            let process = std::process::id();
            std::env::temp_dir().join(format!("vault-secrets-reloader-bed-{process}-{number}"))
        },
        |fixed| fixed.folder.clone(),
    );
    empty_folder(folder)
}

/// Makes a folder, or empties an existing one.
pub(crate) fn empty_folder(folder: PathBuf) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

const PORTS_OF_A_BED: usize = 10;

fn take_ports(options: &Options) -> Result<Vec<Port>> {
    let mut ports = Vec::with_capacity(PORTS_OF_A_BED);
    if let Some(fixed) = &options.fixed {
        ports.push(Port::exactly(fixed.api_port)?);
        ports.push(Port::exactly(fixed.vault_port)?);
    }
    while ports.len() < PORTS_OF_A_BED {
        ports.push(Port::any()?);
    }
    Ok(ports)
}

fn number_ports(held: &[Port]) -> Ports {
    let number = |index: usize| held.get(index).map_or(0, Port::number);
    Ports {
        api: number(0),
        vault: number(1),
        vault_cluster: number(2),
        etcd: number(3),
        etcd_peer: number(4),
        controller_manager: number(5),
        scheduler: number(6),
        kwok: number(7),
        forwarded: [number(8), number(9)],
    }
}

fn api_is_ready(cluster: &Cluster) -> ReadyCheck {
    let cluster = cluster.clone();
    Box::new(move || {
        let cluster = cluster.clone();
        async move { cluster.is_ready().await }.boxed()
    })
}

fn vault_is_ready(vault: &Vault) -> ReadyCheck {
    let vault = vault.clone();
    Box::new(move || {
        let vault = vault.clone();
        async move { vault.make_ready().await }.boxed()
    })
}

/// Returns a check that succeeds when a path on the port answers with a success.
pub(crate) fn answers(port: u16, scheme: &'static str, path: &'static str) -> ReadyCheck {
    // One client for all checks, because each new client reads the certificates of the system.
    static CLIENT: OnceLock<Option<reqwest::Client>> = OnceLock::new();
    let client = || {
        let builder = reqwest::Client::builder()
            // The server's certificate is self-signed at its start.
            .tls_danger_accept_invalid_certs(true)
            // Each scenario has a runtime of its own, and connections end with their runtime.
            .pool_max_idle_per_host(0)
            .no_proxy()
            .timeout(Duration::from_secs(5));
        builder.build().ok()
    };
    Box::new(move || {
        async move {
            let client = CLIENT.get_or_init(client).as_ref().context("cannot make a client")?;
            let url = format!("{scheme}://127.0.0.1:{port}/{path}");
            Ok(client.get(url).send().await?.status().is_success())
        }
        .boxed()
    })
}
