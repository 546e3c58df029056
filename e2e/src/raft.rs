//! A cluster of three `OpenBao` nodes with raft storage, behind one address.
//!
//! A load balancer spreads requests over the nodes. Standbys answer reads from their own copy of
//! the storage, and forward everything else to the active node. The other nodes reach each node
//! through a [`Proxy`]. [`RaftVault::hold_back`] keeps new versions from a standby, which then
//! answers reads with old versions.
//!
//! Invariant: the cluster ends with the bed, or when it is dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::bed::{Bed, empty_folder};
use crate::command_lines::{VaultFlavour, VaultPorts, raft_node_command, vault_audit_log};
use crate::counts::{self, VaultRequest};
use crate::gateway::{Answered, Gateway};
use crate::group::ProcessGroup;
use crate::ports::Port;
use crate::proxy::Proxy;
use crate::server::{ReadyCheck, Server};
use crate::vault::{Vault, Version};
use crate::wait::eventually;

/// The number of nodes of a cluster. One node may be lost.
pub const NODES: usize = 3;

/// The longest election. An election takes two seconds; the rest is for a machine under heavy load.
const ELECTED_WITHIN: Duration = Duration::from_secs(30);

/// A cluster of three nodes.
#[derive(Debug)]
pub struct RaftVault {
    nodes: Vec<RaftNode>,
    balancer: Gateway,
}

/// One node of a cluster.
#[derive(Debug)]
pub struct RaftNode {
    /// The node itself, past the balancer, with the root token.
    pub vault: Vault,
    /// The process of the node. Its start unseals the node.
    pub server: Server,
    /// The proxy by which the other nodes reach this node.
    link: Proxy,
    audit_log: PathBuf,
    _ports: [Port; 2],
}

impl Bed {
    /// Starts a cluster of three nodes, prepared as the bed's own server is. All nodes vote, and
    /// all answer reads.
    ///
    /// # Errors
    /// When the server is not `OpenBao`, because only its standbys answer reads. When a node does
    /// not become ready: with its log.
    pub async fn raft_vault(&self, name: &str) -> Result<RaftVault> {
        let program = self.binaries().vault();
        let flavour = VaultFlavour::of(&program)?;
        ensure!(flavour == VaultFlavour::OpenBao, "a cluster of three nodes needs OpenBao");
        RaftVault::start(&program, &self.folder().join(name), self.group()).await
    }
}

impl RaftNode {
    /// Starts the process of a node. `cluster` is any node of the same cluster, if there is one.
    async fn spawn(
        program: &Path,
        folder: &Path,
        group: &Arc<ProcessGroup>,
        index: usize,
        cluster: Option<&Self>,
    ) -> Result<Self> {
        let folder = empty_folder(folder.join(format!("node-{index}")))?;
        let (api_port, cluster_port) = (Port::any()?, Port::any()?);
        let ports = VaultPorts { api: api_port.number(), cluster: cluster_port.number() };
        let link = Proxy::before_address(&format!("127.0.0.1:{}", ports.cluster)).await?;
        let command = raft_node_command(program, &folder, index, ports, link.address())?;
        let audit_log = vault_audit_log(&folder);
        let vault = if let Some(node) = cluster {
            node.vault.at_node(ports.api)
        } else {
            Vault::new(ports.api, VaultFlavour::OpenBao, audit_log.display().to_string())?
        };
        let server = Server::new(command, &folder, group, node_is_ready(&vault));
        server.spawn()?;
        Ok(Self { vault, server, link, audit_log, _ports: [api_port, cluster_port] })
    }
}

impl RaftVault {
    async fn start(program: &Path, folder: &Path, group: &Arc<ProcessGroup>) -> Result<Self> {
        let mut nodes: Vec<RaftNode> = Vec::with_capacity(NODES);
        for index in 0..NODES {
            let node = RaftNode::spawn(program, folder, group, index, nodes.first()).await?;
            nodes.push(node);
        }
        let addresses: Vec<&str> = nodes.iter().map(|node| node.vault.address()).collect();
        let balancer = Gateway::before_all(&addresses, None).await?;
        let cluster = Self { nodes, balancer };
        cluster.form().await?;
        Ok(cluster)
    }

    /// Forms one cluster of the nodes.
    async fn form(&self) -> Result<()> {
        let (first, others) = self.nodes.split_first().context("no nodes")?;
        // The first unsealing makes the node the leader of a cluster of one.
        first.vault.unseal().await?;
        for node in others {
            eventually("a node to answer", ELECTED_WITHIN, || async {
                Ok((node.vault.health().await? == 501).then_some(()))
            })
            .await?;
            let leader = json!({ "leader_api_addr": first.vault.address() });
            node.vault.ask(Method::POST, "sys/storage/raft/join", Some(leader)).await?;
            node.vault.enter_key().await?;
        }
        for node in others {
            node.server.wait_until_ready().await?;
        }
        first.vault.prepare().await?;
        for node in &self.nodes {
            // A standby gets new mounts a moment later, and its KV engine waits for a second.
            eventually("every node to answer reads", ELECTED_WITHIN, || async {
                node.vault.ask(Method::GET, "secret/config", None).await.map(Some)
            })
            .await?;
        }
        Ok(())
    }

    /// The address of the balancer, as in `VAULT_ADDR`.
    #[must_use]
    pub fn address(&self) -> &str {
        self.balancer.address()
    }

    /// The nodes. Other functions name a node by its index in this list.
    #[must_use]
    pub fn nodes(&self) -> &[RaftNode] {
        &self.nodes
    }

    /// Waits until there is an active node, and returns its index.
    ///
    /// # Errors
    /// When no node becomes active.
    pub async fn leader(&self) -> Result<usize> {
        eventually("an active node", ELECTED_WITHIN, || async {
            let health = join_all(self.nodes.iter().map(|node| node.vault.health())).await;
            // A node that does not run has no status.
            Ok(health.iter().position(|status| matches!(status, Ok(200))))
        })
        .await
    }

    /// Returns the active node and the two standbys.
    ///
    /// # Errors
    /// When no node becomes active.
    pub async fn roles(&self) -> Result<(usize, [usize; 2])> {
        let leader = self.leader().await?;
        Ok((leader, [(leader + 1) % NODES, (leader + 2) % NODES]))
    }

    /// Gives a secret of the mount `secret` a new version, at the active node.
    pub async fn rotate(&self, path: &str) -> Result<Version> {
        let leader = self.leader().await?;
        let value = format!("{:032x}", fastrand::u128(..));
        self.nodes[leader].vault.kv("secret").put(path, json!({ "k": value })).await
    }

    /// Returns the number of the latest version of a secret of the mount `secret` on a node.
    pub async fn version_at(&self, node: usize, path: &str) -> Result<u64> {
        let metadata = self.nodes[node].vault.kv("secret").metadata(path).await?;
        metadata["current_version"].as_u64().context("no version")
    }

    /// Waits until a node has a version of a secret.
    ///
    /// # Errors
    /// When the node does not get the version in time.
    pub async fn wait_for_version(&self, node: usize, path: &str, version: u64) -> Result<()> {
        let what = format!("version {version} of {path} at node {node}");
        eventually(&what, ELECTED_WITHIN, || async {
            Ok((self.version_at(node, path).await? == version).then_some(()))
        })
        .await
    }

    /// From now on, the balancer spreads requests over these nodes only.
    pub fn direct(&self, nodes: &[usize]) {
        self.balancer.direct(nodes);
    }

    /// From now on, the balancer spreads requests over all nodes.
    pub fn spread(&self) {
        self.balancer.direct(&[0, 1, 2]);
    }

    /// Keeps all later writes from a standby. The standby soon knows no leader, but still answers
    /// reads and reports that it is healthy.
    pub fn hold_back(&self, standby: usize) {
        self.nodes[standby].link.hold();
    }

    /// Ends a [`Self::hold_back`]. The standby catches up within half a second.
    pub fn catch_up(&self, standby: usize) {
        self.nodes[standby].link.mend();
    }

    /// Makes the active node step down, and returns the one that follows.
    ///
    /// # Errors
    /// When there is no active node, or no other node becomes active.
    pub async fn step_down(&self) -> Result<usize> {
        let leader = self.leader().await?;
        self.nodes[leader].vault.ask(Method::PUT, "sys/step-down", None).await?;
        self.leader().await
    }

    /// Returns the requests that came through the balancer and were answered by a node.
    #[must_use]
    pub fn answered(&self) -> Vec<Answered> {
        self.balancer.answered()
    }

    /// Returns all requests that have reached the core of a node, without requests of tests (with
    /// the root token).
    ///
    /// A request that a standby forwards is listed twice, because the standby tries the request
    /// first. For counts, see [`Self::answered`].
    pub fn requests(&self) -> Result<Vec<VaultRequest>> {
        let mut requests = Vec::new();
        for node in &self.nodes {
            requests.extend(counts::vault_requests(&node.audit_log, 0)?);
        }
        let root = self.nodes[0].vault.root_token();
        requests.retain(|request| request.token != root && request.path != "sys/unseal");
        Ok(requests)
    }
}

/// Returns a check that succeeds when a node is active or a standby.
fn node_is_ready(vault: &Vault) -> ReadyCheck {
    let vault = vault.clone();
    Box::new(move || {
        let vault = vault.clone();
        async move {
            match vault.health().await? {
                200 | 429 => return Ok(true),
                503 => vault.enter_key().await?,
                _ => {}
            }
            Ok(false)
        }
        .boxed()
    })
}
