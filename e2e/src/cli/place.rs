//! The place of the bed of `up`, and the state of the bed for other processes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use e2e::Bed;
use serde::{Deserialize, Serialize};

/// The port of the API server. It is fixed, so that exports of an earlier bed are right for the
/// next bed.
pub(crate) const API_PORT: u16 = 16_443;
pub(crate) const VAULT_PORT: u16 = 18_200;

/// The files of the bed of `up`.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    folder: PathBuf,
}

impl Place {
    /// Finds the place in the cache folder, beside the servers.
    pub(crate) fn find() -> Result<Self> {
        let variable = |name: &str| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        let cache = variable("VSR_CACHE").or_else(|| {
            let base =
                variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
            Some(base.join("vault-secrets-reloader"))
        });
        let folder = cache.context("HOME is not set; set VSR_CACHE to a folder for caches")?;
        let folder = folder.join("up");
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        // The folder holds the root token.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        Ok(Self { folder })
    }

    pub(crate) fn bed(&self) -> PathBuf {
        self.folder.join("bed")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("supervisor.log")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state.json")
    }

    /// Reads the state of the bed of `up`; `None` if no bed runs.
    pub(crate) fn read(&self) -> Option<UpState> {
        serde_json::from_slice(&fs::read(self.state()).ok()?).ok()
    }
}

/// The state of a running bed for other processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UpState {
    kubeconfig: PathBuf,
    vault_address: String,
    vault_token: String,
    kubectl: PathBuf,
}

impl UpState {
    pub(crate) fn of(bed: &Bed) -> Self {
        Self {
            kubeconfig: bed.cluster.kubeconfig().to_owned(),
            vault_address: bed.vault.address().to_owned(),
            vault_token: bed.vault.root_token(),
            kubectl: bed.binaries().path("kubectl"),
        }
    }

    /// Writes the state as a whole or not at all. The presence of the file means that the bed is
    /// ready.
    pub(crate) fn write(&self, place: &Place) -> Result<()> {
        let fresh = place.state().with_extension("fresh");
        fs::write(&fresh, serde_json::to_vec_pretty(self)?)?;
        Ok(fs::rename(fresh, place.state())?)
    }

    /// Returns the exports for a shell.
    pub(crate) fn exports(&self) -> String {
        format!(
            "export KUBECONFIG={}\nexport VAULT_ADDR={}\nexport VAULT_TOKEN={}",
            self.kubeconfig.display(),
            self.vault_address,
            self.vault_token
        )
    }

    pub(crate) fn kubectl(&self) -> &Path {
        &self.kubectl
    }
}
