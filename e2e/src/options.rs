//! The options of a bed.

use std::path::PathBuf;

/// The storage of the Vault server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VaultStorage {
    /// On disk (raft): secrets survive a restart of the server.
    #[default]
    Disk,
    /// In memory: ready two seconds earlier and faster to write; empty after a restart.
    Memory,
}

/// The parts that [`crate::Bed::start`] starts. The default: all servers, three nodes, Vault on
/// disk.
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) pods: bool,
    pub(crate) scale: bool,
    pub(crate) nodes: u32,
    pub(crate) vault_storage: VaultStorage,
    pub(crate) fixed: Option<FixedPlace>,
}

/// A fixed place of a bed, for `make up`.
#[derive(Debug, Clone)]
pub(crate) struct FixedPlace {
    pub(crate) folder: PathBuf,
    pub(crate) api_port: u16,
    pub(crate) vault_port: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pods: true,
            scale: false,
            nodes: 3,
            vault_storage: VaultStorage::default(),
            fixed: None,
        }
    }
}

impl Options {
    /// The default bed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts no scheduler and no KWOK. Workloads get revisions, but no pod of theirs ever runs.
    #[must_use]
    pub fn without_pods(mut self) -> Self {
        self.pods = false;
        self
    }

    /// Raises request rates and sizes, for thousands of workloads.
    #[must_use]
    pub fn scale(mut self) -> Self {
        self.scale = true;
        self
    }

    /// Sets the number of nodes for pods. A `DaemonSet` has a pod on each node.
    #[must_use]
    pub fn nodes(mut self, nodes: u32) -> Self {
        self.nodes = nodes;
        self
    }

    /// Sets the storage of the Vault server.
    #[must_use]
    pub fn vault_storage(mut self, storage: VaultStorage) -> Self {
        self.vault_storage = storage;
        self
    }

    /// Sets a fixed folder and fixed ports instead of a temporary folder and free ports.
    #[must_use]
    pub fn at(mut self, folder: PathBuf, api_port: u16, vault_port: u16) -> Self {
        self.fixed = Some(FixedPlace { folder, api_port, vault_port });
        self
    }
}
