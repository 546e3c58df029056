//! What a bed consists of.

use std::path::PathBuf;

/// Where the Vault server keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VaultStorage {
    /// On disk (raft): secrets are still there when the server is started again.
    #[default]
    Disk,
    /// In memory: ready two seconds earlier and faster to write; empty after a restart.
    Memory,
}

/// What [`crate::Bed::start`] starts. The default: everything, three nodes, Vault on disk.
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) pods: bool,
    pub(crate) scale: bool,
    pub(crate) nodes: u32,
    pub(crate) vault_storage: VaultStorage,
    pub(crate) fixed: Option<FixedPlace>,
}

/// A place that a person can find again, for `make up`.
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

    /// No scheduler and no KWOK: workloads get revisions, but no pod of theirs ever runs.
    #[must_use]
    pub fn without_pods(mut self) -> Self {
        self.pods = false;
        self
    }

    /// Raised request rates and sizes, for thousands of workloads.
    #[must_use]
    pub fn scale(mut self) -> Self {
        self.scale = true;
        self
    }

    /// How many nodes there are for pods; a `DaemonSet` has a pod on each.
    #[must_use]
    pub fn nodes(mut self, nodes: u32) -> Self {
        self.nodes = nodes;
        self
    }

    /// Where the Vault server keeps its data.
    #[must_use]
    pub fn vault_storage(mut self, storage: VaultStorage) -> Self {
        self.vault_storage = storage;
        self
    }

    /// A fixed folder and fixed ports instead of a temporary folder and free ones.
    #[must_use]
    pub fn at(mut self, folder: PathBuf, api_port: u16, vault_port: u16) -> Self {
        self.fixed = Some(FixedPlace { folder, api_port, vault_port });
        self
    }
}
