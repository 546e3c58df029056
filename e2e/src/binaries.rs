//! The programs of the bed. `e2e/servers/servers.py` returns their paths and is run once per
//! process.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow, bail};

/// The folder of the built servers, and the replacements of some of them.
#[derive(Debug, Clone)]
pub struct Binaries {
    folder: PathBuf,
    assets: Option<PathBuf>,
    other_vault: Option<PathBuf>,
}

impl Binaries {
    /// Finds the servers, and builds those that are missing, which can take a quarter of an hour.
    ///
    /// # Errors
    /// When python3 is missing or the build fails; the output of the build is on stderr.
    pub fn find() -> Result<Self> {
        static FOUND: OnceLock<Result<Binaries, String>> = OnceLock::new();
        FOUND
            .get_or_init(|| Self::ask().map_err(|error| format!("{error:#}")))
            .clone()
            .map_err(|error| anyhow!(error))
    }

    fn ask() -> Result<Self> {
        let script = workspace().join("e2e/servers/servers.py");
        let output = Command::new("python3")
            .arg(&script)
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run python3; install Python 3.8 or newer")?;
        if !output.status.success() {
            bail!("{} failed: {}", script.display(), output.status);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let folder = text.lines().last().context("servers.py printed no folder")?;
        Ok(Self {
            folder: PathBuf::from(folder),
            assets: from_environment("KUBEBUILDER_ASSETS"),
            other_vault: from_environment("VAULT_BIN"),
        })
    }

    /// The path of one of etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl,
    /// kwok, helm. A program of that name in `KUBEBUILDER_ASSETS` is used in its place.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.assets
            .iter()
            .map(|assets| assets.join(name))
            .find(|path| path.is_file())
            .unwrap_or_else(|| self.folder.join(name))
    }

    /// The Vault server: `VAULT_BIN`, or else the pinned server. The pinned server is `OpenBao`, or
    /// `HashiCorp` Vault if the variable `VAULT` selects it.
    #[must_use]
    pub fn vault(&self) -> PathBuf {
        let pinned = || {
            let vault = self.folder.join("vault");
            if vault.is_file() { vault } else { self.folder.join("bao") }
        };
        self.other_vault.clone().unwrap_or_else(pinned)
    }

    /// The plugin for an auth method such as `kubernetes` or `aws`, if [`Self::vault`] does not have it
    /// built in.
    #[must_use]
    pub fn auth_plugin(&self, method: &str) -> Option<PathBuf> {
        if self.other_vault.is_some() {
            return None;
        }
        // Vault refuses a plugin that is a link to a file outside the plugin directory.
        self.folder.join(format!("vault-plugin-auth-{method}")).canonicalize().ok()
    }
}

/// The root of this repository.
#[must_use]
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The controller's binary: `VSR_BINARY`, or else the workspace's release build.
///
/// # Errors
/// When there is no binary. The error says how to build it.
pub fn controller() -> Result<PathBuf> {
    let binary = from_environment("VSR_BINARY").unwrap_or_else(|| {
        let target = from_environment("CARGO_TARGET_DIR")
            .map_or_else(|| workspace().join("target"), |folder| workspace().join(folder));
        target.join("release/vault-secrets-reloader")
    });
    if !binary.is_file() {
        bail!("{} does not exist: run `make build`, or set VSR_BINARY", binary.display());
    }
    Ok(binary)
}

/// Returns the path in an environment variable, unless the variable is unset or empty.
#[must_use]
pub fn from_environment(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
