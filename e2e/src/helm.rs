//! Real Helm and real kubectl against the bed.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::bed::Bed;
use crate::workload::WorkloadName;

impl Bed {
    /// Runs `kubectl` as the administrator, and returns its output.
    ///
    /// # Errors
    /// When the command fails: with its stderr.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.run("kubectl", args).await
    }

    /// Runs `helm` as the administrator, and returns its output.
    ///
    /// # Errors
    /// When the command fails: with its stderr.
    pub async fn helm(&self, args: &[&str]) -> Result<String> {
        self.run("helm", args).await
    }

    /// Takes back the last change of a workload's pod template by `kubectl rollout undo`.
    pub async fn rollout_undo(&self, workload: impl AsRef<WorkloadName>) -> Result<()> {
        let workload = workload.as_ref();
        let target = format!("{}/{}", workload.kind.to_string().to_lowercase(), workload.name);
        let args = ["rollout", "undo", &target, "--namespace", &workload.namespace];
        self.kubectl(&args).await.map(drop)
    }

    async fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let path = self.binaries().path(program);
        let mut command = Command::new(&path);
        command
            .args(args)
            .env("KUBECONFIG", self.cluster.kubeconfig())
            // Both programs keep caches and settings there. The user's must not be used.
            .env("HOME", self.folder())
            .env("HELM_CACHE_HOME", self.folder().join("helm/cache"))
            .env("HELM_CONFIG_HOME", self.folder().join("helm/config"))
            .env("HELM_DATA_HOME", self.folder().join("helm/data"))
            .stdin(Stdio::null());
        self.group().join(&mut command);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await?
            .with_context(|| format!("cannot run {}", path.display()))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("{program} {}: {}; {}", args.join(" "), output.status, stderr.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
