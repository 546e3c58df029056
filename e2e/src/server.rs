//! One server process of a bed: started, stopped, killed, paused, resumed, started again.
//!
//! Invariant: a server keeps its port and its data from one start to the next.

use std::ffi::OsString;
use std::fmt;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use crate::group::ProcessGroup;
use crate::wait::{eventually, locked};

/// The longest start of a server. Two loaded cores start a control plane in 5 s; the rest is for a
/// machine under heavy load.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// A server that got SIGTERM and still runs after this time is killed.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Checks once whether the server is ready.
pub(crate) type ReadyCheck = Box<dyn Fn() -> BoxFuture<'static, Result<bool>> + Send + Sync>;

/// How a server is run.
#[derive(Debug, Clone)]
pub struct CommandLine {
    /// The name used in messages and for the log file.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// The arguments.
    pub args: Vec<OsString>,
}

/// A server of the bed.
pub struct Server {
    command: CommandLine,
    log: PathBuf,
    group: Arc<ProcessGroup>,
    ready: ReadyCheck,
    child: Mutex<Option<Child>>,
    /// The number of restarts that are left for a server that ends by itself.
    revivals: AtomicU32,
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
        let (child, revivals) = (Mutex::new(None), AtomicU32::new(0));
        Self { command, log, group: Arc::clone(group), ready, child, revivals }
    }

    /// Allows `times` restarts of a server that ends by itself while its bed starts.
    pub(crate) fn revived(self, times: u32) -> Self {
        self.revivals.store(times, Ordering::Relaxed);
        self
    }

    /// The server's name, such as `kube-apiserver`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.command.name
    }

    /// The file of the server's output.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The process number, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        locked(&self.child).as_ref().map(Child::id)
    }

    /// Starts the server and waits until it is ready. Does nothing if the server runs already.
    ///
    /// # Errors
    /// When the server cannot be started, ends at once, or is not ready in time: with the end of
    /// its log.
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
        // The servers have memory to spare. Without this, they spend much time on garbage
        // collection.
        command.env("GOGC", "400");
        if let Some(folder) = self.log.parent() {
            // Vault's plugins make their sockets in this folder, and leave them when they are
            // killed.
            command.env("TMPDIR", folder);
        }
        self.group.join(&mut command);
        let started = command.spawn();
        *child = Some(started.with_context(|| {
            format!("cannot start {} ({})", self.name(), self.command.program.display())
        })?);
        Ok(())
    }

    /// Waits until a started server is ready.
    ///
    /// # Errors
    /// When the server ends, or is not ready in time: with the end of its log.
    pub async fn wait_until_ready(&self) -> Result<()> {
        let what = format!("{} to be ready", self.name());
        eventually(&what, READY_WITHIN, || async {
            if let Some(status) = self.revive()? {
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

    /// Restarts a server that has ended by itself, if a restart is left. Otherwise returns its exit
    /// status.
    pub(crate) fn revive(&self) -> Result<Option<ExitStatus>> {
        let Some(status) = self.ended()? else { return Ok(None) };
        let one_less = |left: u32| left.checked_sub(1);
        if self.revivals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
            return Ok(Some(status));
        }
        locked(&self.child).take();
        self.spawn()?;
        Ok(None)
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
    /// When the server does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Ends a [`Self::pause`], and waits until the server is ready again.
    ///
    /// # Errors
    /// When the server does not run, or is not ready in time.
    pub async fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)?;
        // The server first answers the requests that came during the pause.
        sleep(Duration::from_millis(50)).await;
        self.wait_until_ready().await
    }

    /// Makes the server run and be ready, whatever a test has done to it.
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

/// Returns the last lines of a file, or why the file cannot be read.
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A folder that is removed at the end of the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Result<Self> {
            let path = std::env::temp_dir().join(format!("server-{:x}", fastrand::u64(..)));
            fs::create_dir(&path)?;
            Ok(Self(path))
        }

        fn starts(&self) -> usize {
            fs::read_to_string(self.0.join("starts")).map_or(0, |text| text.lines().count())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    /// A server whose first starts fail.
    fn server(folder: &Path, failures: usize, revivals: u32) -> Result<Server> {
        let group = Arc::new(ProcessGroup::start(folder)?);
        let script = format!(
            "cd {}; echo >> starts; [ $(wc -l < starts) -le {failures} ] && exit 2; \
             echo > up; exec sleep 60",
            folder.display()
        );
        let command = CommandLine {
            name: "flaky",
            program: PathBuf::from("/bin/sh"),
            args: vec!["-c".into(), script.into()],
        };
        let up = folder.join("up");
        let ready: ReadyCheck = Box::new(move || {
            let is_up = up.exists();
            Box::pin(async move { Ok(is_up) })
        });
        Ok(Server::new(command, folder, &group, ready).revived(revivals))
    }

    #[tokio::test]
    async fn a_server_that_ends_at_its_start_is_started_again_where_that_is_known_of_it()
    -> Result<()> {
        let folder = Folder::new()?;
        server(&folder.0, 2, 2)?.start().await?;
        assert_eq!(folder.starts(), 3);
        Ok(())
    }

    #[tokio::test]
    async fn a_server_that_goes_on_ending_is_an_error() -> Result<()> {
        for revivals in [0, 1] {
            let folder = Folder::new()?;
            // The end of the server removes the folder.
            let server = server(&folder.0, 2, revivals)?;
            let error = server.start().await.unwrap_err();
            assert!(format!("{error:#}").contains("flaky ended at its start"), "{error:#}");
            assert_eq!(folder.starts(), revivals as usize + 1);
        }
        Ok(())
    }
}
