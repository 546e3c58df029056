//! One server process of a bed: started, stopped, killed, paused, resumed, started again.
//!
//! Invariant: a server keeps its port and its data from one start to the next.

use std::ffi::OsString;
use std::fmt;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use crate::group::ProcessGroup;
use crate::wait::{eventually, locked};

/// Two loaded cores start a control plane in 5 s; this is for a machine under far more load.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// A server that got SIGTERM and still runs after this time is killed.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Asks once whether the server does its work.
pub(crate) type ReadyCheck = Box<dyn Fn() -> BoxFuture<'static, Result<bool>> + Send + Sync>;

/// How a server is run.
#[derive(Debug, Clone)]
pub struct CommandLine {
    /// The name used in messages and for the log file.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// A server of the bed.
pub struct Server {
    command: CommandLine,
    log: PathBuf,
    group: Arc<ProcessGroup>,
    ready: ReadyCheck,
    child: Mutex<Option<Child>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Server").field("command", &self.command).finish_non_exhaustive()
    }
}

impl Server {
    pub(crate) fn new(
        command: CommandLine,
        folder: &Path,
        group: &Arc<ProcessGroup>,
        ready: ReadyCheck,
    ) -> Self {
        let log = folder.join(format!("{}.log", command.name));
        Self { command, log, group: Arc::clone(group), ready, child: Mutex::new(None) }
    }

    /// The server's name, such as `kube-apiserver`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.command.name
    }

    /// The file that holds what the server writes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The process number, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        locked(&self.child).as_ref().map(Child::id)
    }

    /// Starts the server and waits until it is ready; does nothing where it runs already.
    ///
    /// # Errors
    /// When it cannot be started, ends at once, or is not ready in time: with the end of its log.
    pub async fn start(&self) -> Result<()> {
        self.spawn()?;
        self.wait_until_ready().await
    }

    /// Starts the process without waiting for it.
    pub(crate) fn spawn(&self) -> Result<()> {
        let mut child = locked(&self.child);
        if child.is_some() {
            return Ok(());
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(&self.command.program);
        command.args(&self.command.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.group.join(&mut command);
        let started = command.spawn();
        *child = Some(started.with_context(|| {
            format!("cannot start {} ({})", self.name(), self.command.program.display())
        })?);
        Ok(())
    }

    /// Waits until a started server does its work.
    ///
    /// # Errors
    /// When it ends, or is not ready in time: with the end of its log.
    pub async fn wait_until_ready(&self) -> Result<()> {
        let what = format!("{} to be ready", self.name());
        eventually(&what, READY_WITHIN, || async {
            if let Some(status) = self.ended()? {
                return Ok(Some(Err(status)));
            }
            Ok((self.ready)().await?.then_some(Ok(())))
        })
        .await
        .and_then(|outcome| match outcome {
            Ok(()) => Ok(()),
            Err(status) => bail!("{} ended at its start: {status}", self.name()),
        })
        .with_context(|| format!("end of {}:\n{}", self.log.display(), tail(&self.log, 15)))
    }

    /// Ends the server by SIGTERM, as an orderly shutdown does, and waits for its end.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub async fn stop(&self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let gone = eventually("the end", STOP_WITHIN, || async {
            Ok(self.ended()?.is_some().then_some(()))
        });
        if gone.await.is_err() {
            self.kill();
        }
        locked(&self.child).take();
        Ok(())
    }

    /// Kills the server by SIGKILL, as a crash does, and waits for its end.
    pub fn kill(&self) {
        if let Some(mut child) = locked(&self.child).take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Freezes the server: it accepts connections and never answers.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Ends a [`Self::pause`], and waits until the server does its work again.
    ///
    /// # Errors
    /// When it does not run, or is not ready in time.
    pub async fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)?;
        // What was asked while it was paused is answered first.
        sleep(Duration::from_millis(50)).await;
        self.wait_until_ready().await
    }

    /// Has the server running and ready, whatever was done to it.
    pub(crate) async fn recover(&self) -> Result<()> {
        let has_ended = locked(&self.child).is_none() || self.ended()?.is_some();
        if has_ended {
            self.kill();
            return self.start().await;
        }
        self.signal(Signal::CONT)?;
        self.wait_until_ready().await
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = locked(&self.child);
        let child = child.as_ref().with_context(|| format!("{} does not run", self.name()))?;
        kill_process(Pid::from_child(child), signal)
            .with_context(|| format!("cannot send {signal:?} to {}", self.name()))
    }

    fn ended(&self) -> Result<Option<ExitStatus>> {
        match locked(&self.child).as_mut() {
            Some(child) => Ok(child.try_wait()?),
            None => bail!("{} does not run", self.name()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a file, or why it cannot be read.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("cannot read {}: {error}", path.display()),
    }
}
