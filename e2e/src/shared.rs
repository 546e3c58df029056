//! One bed for many tests of a test program, one test at a time.
//!
//! A bed takes 5 s to start, and a controller reloads the workloads of all namespaces: so tests
//! that do not need a bed of their own take turns on this one, and find it without workloads and
//! with all servers running. It ends with the test program.

use std::ops::Deref;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::bed::Bed;
use crate::options::Options;
use crate::workload::Kind;

/// A turn on the shared bed; it ends when this value is dropped.
#[derive(Debug)]
pub struct SharedBed {
    bed: &'static Bed,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for SharedBed {
    type Target = Bed;

    fn deref(&self) -> &Bed {
        self.bed
    }
}

impl Bed {
    /// Waits for a turn on the bed that the tests of this program share. The first one starts it.
    ///
    /// What stays from one test to the next: namespaces, secrets, policies, roles. So a test uses
    /// names of its own for these.
    ///
    /// # Errors
    /// When the bed does not start, or a server that an earlier test stopped does not start again.
    pub async fn shared() -> Result<SharedBed> {
        static TURN: Mutex<()> = Mutex::const_new(());
        static BED: OnceCell<Bed> = OnceCell::const_new();
        let turn = TURN.lock().await;
        let bed = BED
            .get_or_try_init(|| async {
                // Each test has a runtime of its own, and the clients of the bed must not end with
                // the first one.
                background()?.spawn(Bed::start(Options::new())).await?
            })
            .await?;
        bed.recover().await?;
        for kind in [Kind::Deployment, Kind::DaemonSet, Kind::StatefulSet] {
            bed.cluster.delete_all(kind).await?;
        }
        Ok(SharedBed { bed, _turn: turn })
    }

    /// Has every server running, whatever a test has done to it, and Vault unsealed.
    pub(crate) async fn recover(&self) -> Result<()> {
        let optional = self.scheduler.iter().chain(&self.kwok);
        let required = [&self.etcd, &self.api_server, &self.controller_manager, &self.vault_server];
        for server in required.into_iter().chain(optional) {
            server.recover().await?;
        }
        Ok(())
    }
}

fn background() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().ok()).as_ref().context("cannot start a runtime")
}
