//! A pool of beds that scenarios share, one scenario at a time on each.
//!
//! A bed takes 5 s of two cores to start, and a controller reloads the workloads of all namespaces.
//! So a scenario that does not need a special bed takes one from the pool. All servers of that bed
//! run, and the workloads, secrets and tokens of earlier scenarios are gone. All beds end with the
//! test program.

use std::ops::Deref;
use std::sync::{Mutex, OnceLock};

use anyhow::{Context as _, Result};
use tokio::runtime::Runtime;

use crate::bed::Bed;
use crate::options::{Options, VaultStorage};
use crate::suite::note_bed;
use crate::wait::locked;
use crate::workload::Kind;

/// The beds that no scenario uses at present.
static IDLE: Mutex<Vec<&'static Bed>> = Mutex::new(Vec::new());

/// A bed that is taken from the pool. The bed returns to the pool when this value is dropped.
#[derive(Debug)]
pub struct SharedBed {
    bed: &'static Bed,
}

impl Deref for SharedBed {
    type Target = Bed;

    fn deref(&self) -> &Bed {
        self.bed
    }
}

impl Drop for SharedBed {
    fn drop(&mut self) {
        locked(&IDLE).push(self.bed);
    }
}

impl Bed {
    /// Takes a bed from the pool. Starts a new bed if all are in use.
    ///
    /// Some objects stay from one scenario to the next: namespaces of both kinds, policies, auth
    /// methods, and Kubernetes objects other than workloads. So a scenario uses names of its own
    /// for these.
    ///
    /// # Errors
    /// When the bed does not start, or a server that an earlier scenario stopped does not start
    /// again.
    pub async fn shared() -> Result<SharedBed> {
        let idle = locked(&IDLE).pop();
        let bed = match idle {
            Some(bed) => bed,
            None => start_for_ever().await?,
        };
        note_bed(bed.folder().to_owned());
        let shared = SharedBed { bed };
        bed.recover().await?;
        for kind in [Kind::Deployment, Kind::DaemonSet, Kind::StatefulSet] {
            bed.cluster.delete_all(kind).await?;
        }
        bed.vault.revoke_all().await?;
        bed.vault.disable("secret").await?;
        bed.vault.enable_kv2("secret").await?;
        Ok(shared)
    }

    /// Starts a bed for one scenario alone, with Vault's storage in memory. It is for scenarios
    /// that write a thousand secrets. A bed of the pool would keep these secrets on disk, and take
    /// more than ten seconds to delete them before the next scenario.
    ///
    /// # Errors
    /// When the bed does not start.
    pub async fn for_many_secrets() -> Result<Self> {
        let bed = Self::start(Options::new().vault_storage(VaultStorage::Memory)).await?;
        note_bed(bed.folder().to_owned());
        Ok(bed)
    }

    /// Makes every server run, whatever a test has done to it, and unseals Vault.
    pub(crate) async fn recover(&self) -> Result<()> {
        let optional = self.scheduler.iter().chain(&self.kwok);
        let required = [&self.etcd, &self.api_server, &self.controller_manager, &self.vault_server];
        for server in required.into_iter().chain(optional) {
            server.recover().await?;
        }
        Ok(())
    }
}

/// Starts a bed on a runtime that never ends. Each scenario has a runtime of its own, and the
/// clients of the bed must not end with the first scenario.
async fn start_for_ever() -> Result<&'static Bed> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Runtime::new().ok()).as_ref();
    let runtime = runtime.context("cannot start a runtime")?;
    let bed = runtime.spawn(Bed::start(Options::new())).await??;
    Ok(Box::leak(Box::new(bed)))
}
