//! The controller's binary, run as a user runs it: flags, variables, signals, log lines, endpoints.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::bed::Bed;
use crate::binaries;
use crate::controller_log::{Line, Log, Stream};
pub use crate::controller_options::{
    ControllerOptions, LeaseTimes, MIN_INTERVAL, SETTLE_TIME, STATUS_ADDRESS,
};
use crate::group::ProcessGroup;
use crate::leaks;
use crate::ports::Port;
use crate::vault_access::TokenRequest;

/// The longest time until the controller is ready. It takes a second; the rest is for a machine
/// under heavy load.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// The debug line that the controller writes at the start of each poll.
const POLL_BEGINS: &str = "Reloader started";

/// The start of the line that names the address of the status.
const SERVING_STATUS: &str = "Serving the status at ";

/// The data needed to run the same process again.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: BTreeMap<String, OsString>,
    /// A file that also gets all lines, for readers of a kept bed's logs.
    pub(crate) log: PathBuf,
}

/// An answer of one of the controller's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// A running controller; killed when this value is dropped.
#[derive(Debug)]
pub struct Controller {
    launch: Launch,
    group: Arc<ProcessGroup>,
    port: Port,
    log: Log,
    child: Child,
    /// The client for the controller's endpoints.
    http: reqwest::Client,
    /// More credentials that must not be in the log, beside those of its variables.
    secrets: Vec<String>,
}

impl Controller {
    /// Adds a credential that must not be in the log. The end of the test searches the log for it.
    /// This is for a credential that is in no variable, and at the end in no file that a variable
    /// names.
    pub fn must_not_say(&mut self, secret: &str) {
        self.secrets.push(secret.to_owned());
    }

    /// Starts the controller, and waits until `/readyz` reports that its index knows all workloads.
    ///
    /// # Errors
    /// When there is no binary, or the controller ends or is not ready in time: with its last
    /// lines.
    pub async fn start(bed: &Bed, options: &ControllerOptions) -> Result<Self> {
        let mut controller = Self::spawn(bed, options).await?;
        controller.wait_until_ready().await?;
        Ok(controller)
    }

    /// Starts the controller without waiting, for a test of its start or of a refused start.
    pub async fn spawn(bed: &Bed, options: &ControllerOptions) -> Result<Self> {
        let port = Port::any()?;
        let mut env = BTreeMap::from([
            ("KUBECONFIG".to_owned(), bed.reloader_kubeconfig()?.into()),
            ("VAULT_ADDR".to_owned(), bed.vault.address().into()),
            // A token file or a cache of the user who runs the test must not be used.
            ("HOME".to_owned(), bed.folder().into()),
            ("LISTEN_ADDRESS".to_owned(), format!("127.0.0.1:{}", port.number()).into()),
        ]);
        if options.wants_token() {
            let token = bed.vault.create_token(&TokenRequest::default()).await?;
            env.insert("VAULT_TOKEN".to_owned(), token.token.into());
        }
        env.extend(options.variables().clone());
        let args = options.arguments();
        let log = log_file(bed, &port);
        let program = options.binary().map_or_else(binaries::controller, Ok)?;
        let launch = Launch { program, args, env, log };
        Self::launch(launch, bed.group(), port)
    }

    pub(crate) fn launch(launch: Launch, group: &Arc<ProcessGroup>, port: Port) -> Result<Self> {
        let mut log = Log::default();
        // Each request has a connection of its own, so that no connection stays open and is counted
        // by a test.
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(2))
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()?;
        let child = run(&launch, group, &mut log)?;
        let group = Arc::clone(group);
        Ok(Self { launch, group, port, log, child, http, secrets: Vec::new() })
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// When the process ends, or the time is over: with its last lines.
    pub async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the controller ended at its start: {status}; {}", self.log.end());
            }
            if self.probe("/readyz").await.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the controller is not ready after {READY_WITHIN:?}; {}", self.log.end());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The address of its endpoints: `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// The file that holds all lines of all starts.
    #[must_use]
    pub fn log_file(&self) -> &Path {
        &self.launch.log
    }

    /// All lines since the last start, in order.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.log.lines()
    }

    /// The lines that contain a text.
    #[must_use]
    pub fn lines_with(&self, text: &str) -> Vec<Line> {
        self.lines_matching(|line| line.contains(text))
    }

    /// The lines for which `is_wanted`.
    #[must_use]
    pub fn lines_matching(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<Line> {
        self.log.lines_matching(is_wanted)
    }

    /// Waits for a line that contains a text. A line that exists already counts too.
    ///
    /// # Errors
    /// When no such line comes in time: with the last lines.
    pub async fn wait_for(&self, text: &str, within: Duration) -> Result<Line> {
        self.log.wait_for(text, within, 0, |line| line.contains(text)).await
    }

    /// Waits for a line for which `is_wanted`. A line that exists already counts too.
    ///
    /// # Errors
    /// When no such line comes in time: with the last lines.
    pub async fn wait_for_line(
        &self,
        is_wanted: impl Fn(&str) -> bool,
        within: Duration,
    ) -> Result<Line> {
        self.log.wait_for("as the test wants it", within, 0, is_wanted).await
    }

    /// Waits for a line that contains a text and comes after the first `seen` lines.
    ///
    /// # Errors
    /// When no such line comes in time: with the last lines.
    pub async fn wait_for_after(&self, seen: usize, text: &str, within: Duration) -> Result<Line> {
        self.log.wait_for(text, within, seen, |line| line.contains(text)).await
    }

    /// The last lines, for the message of a failed test.
    #[must_use]
    pub fn last_lines(&self) -> String {
        self.log.end()
    }

    /// Whether the controller leads, by its last line about leadership.
    #[must_use]
    pub fn leads(&self) -> bool {
        let lines = self.lines_matching(|line| is_leading(line) || line.contains(NOT_LEADING));
        lines.last().is_some_and(|line| is_leading(&line.text))
    }

    /// The number of polls that have begun since the last start.
    #[must_use]
    pub fn polls(&self) -> usize {
        self.log.lines_matching(is_poll).len()
    }

    /// Waits until `polls` polls that began after this call have ended. Needs the debug level.
    ///
    /// # Errors
    /// When they have not ended `within` the time: with the last lines.
    pub async fn wait_for_polls(&self, polls: usize, within: Duration) -> Result<()> {
        // A poll has ended at the latest when the next one begins.
        let wanted = self.polls() + polls + 1;
        let what = format!("the controller's poll {wanted}");
        let (mut begun, mut next) = (0, 0);
        self.log
            .until(&what, within, |lines| {
                begun += lines.iter().skip(next).filter(|line| is_poll(&line.text)).count();
                next = lines.len();
                (begun >= wanted).then_some(())
            })
            .await
    }

    /// Sends SIGTERM without waiting.
    ///
    /// # Errors
    /// When the controller does not run.
    pub fn ask_to_end(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::TERM)?)
    }

    /// Ends the controller by SIGTERM. Returns its exit status and the time that the end took.
    ///
    /// # Errors
    /// When the controller does not end within 30 s. It is killed then.
    pub async fn terminate(&mut self) -> Result<(ExitStatus, Duration)> {
        let began = Instant::now();
        self.ask_to_end()?;
        let status = self.wait_for_end(Duration::from_secs(30)).await?;
        Ok((status, began.elapsed()))
    }

    /// Waits until the process ends by itself and all its lines were read.
    ///
    /// # Errors
    /// When the process does not end. It is killed then, and the error has its last lines.
    pub async fn wait_for_end(&mut self, within: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                // The threads that read its lines may be behind.
                self.log.finish();
                return Ok(status);
            }
            if Instant::now() > deadline {
                let end = self.log.end();
                self.kill();
                bail!("the controller did not end within {within:?}; {end}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Kills the controller, as a crash does.
    pub fn kill(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        self.log.finish();
    }

    /// Starts the controller again, after SIGTERM if it still runs. Flags, variables and port stay
    /// the same, and the log is empty. Waits until the controller is ready.
    pub async fn restart(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.terminate().await?;
        }
        self.revive()?;
        self.wait_until_ready().await
    }

    /// Kills the controller if it still runs, and starts it again as [`Self::restart`] does,
    /// without waiting.
    pub fn revive(&mut self) -> Result<()> {
        self.kill();
        self.log = Log::default();
        self.child = run(&self.launch, &self.group, &mut self.log)?;
        Ok(())
    }

    /// Freezes the process.
    pub fn pause(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }

    /// Ends a [`Self::pause`].
    pub fn resume(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }

    /// Sends a GET to one of the controller's endpoints, such as `/healthz`.
    ///
    /// # Errors
    /// When the endpoint does not answer within 2 s.
    pub async fn probe(&self, path: &str) -> Result<Answer> {
        let answer = self.http.get(format!("http://{}{path}", self.address())).send().await?;
        Ok(Answer { status: answer.status().as_u16(), body: answer.text().await? })
    }

    /// Returns the address of the status: `http://127.0.0.1:PORT`.
    ///
    /// # Errors
    /// When the controller does not serve the status.
    pub fn status_address(&self) -> Result<String> {
        let lines = self.lines_with(SERVING_STATUS);
        let text = &lines.first().context("the status is not served")?.text;
        let (_, rest) = text.split_once(SERVING_STATUS).unwrap_or_default();
        let address = rest.split('"').next().unwrap_or_default();
        Ok(format!("http://{address}"))
    }

    /// Runs the command `status` against this controller. Returns its exit code, and its output with
    /// its errors.
    ///
    /// # Errors
    /// When the command does not run, or a signal ends it.
    pub async fn status(&self, args: &[&str]) -> Result<(i32, String)> {
        let mut command = Command::new(binaries::controller()?);
        command.arg("status").args(args).args(["--address", &self.status_address()?]);
        output_of(command).await
    }

    /// The resident memory in bytes, as the kernel counts it: the present value and the peak.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .context("cannot read the memory of the controller")?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            Ok(number.with_context(|| format!("no {name}"))?.parse::<u64>()? * 1024)
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }

    /// The CPU time that the controller has used so far.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))
            .context("cannot read the CPU time of the controller")?;
        // The name, in parentheses, may hold spaces: the fields are counted from its end.
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|ticks| ticks.parse::<u64>().ok())
            .sum();
        // The kernel's unit for user programs is a hundredth of a second on every Linux.
        Ok(Duration::from_millis(ticks * 10))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            return;
        }
        // The log of all starts. If its folder is gone with the bed, there is no log to search.
        let log = std::fs::read_to_string(&self.launch.log).unwrap_or_default();
        let leaks = leaks::find(&log, &self.launch.env, &self.secrets);
        assert!(leaks.is_empty(), "the controller's log holds credentials: {leaks:#?}");
    }
}

/// Runs the command `status` without an address, for the user of a kubeconfig. Returns its exit
/// code, and its output with its errors.
///
/// # Errors
/// When the command does not run, or a signal ends it.
pub async fn status_by_kubeconfig(kubeconfig: &Path, args: &[&str]) -> Result<(i32, String)> {
    let mut command = Command::new(binaries::controller()?);
    command.arg("status").args(args).env("KUBECONFIG", kubeconfig);
    output_of(command).await
}

async fn output_of(mut command: Command) -> Result<(i32, String)> {
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let code = output.status.code().context("a signal ended the command")?;
    let text = [output.stdout, output.stderr].concat();
    Ok((code, String::from_utf8_lossy(&text).into_owned()))
}

/// The text of the line that a controller writes when it stops leading.
pub const NOT_LEADING: &str = "Not leading any more";

/// Whether a line says that the controller begins to lead.
#[must_use]
pub fn is_leading(line: &str) -> bool {
    line.contains("msg=Leading ") || line.ends_with("msg=Leading")
}

/// The log file of the controller on this port.
pub(crate) fn log_file(bed: &Bed, port: &Port) -> PathBuf {
    bed.folder().join(format!("controller-{}.log", port.number()))
}

/// Returns the signal that ended a process; `None` if it ended by itself.
#[must_use]
pub fn ended_by_signal(status: ExitStatus) -> Option<i32> {
    status.signal()
}

fn is_poll(line: &str) -> bool {
    line.contains(POLL_BEGINS)
}

fn run(launch: &Launch, group: &ProcessGroup, log: &mut Log) -> Result<Child> {
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("RUST_BACKTRACE", "1")
        .envs(&launch.env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    group.join(&mut command);
    let file = OpenOptions::new().create(true).append(true).open(&launch.log)?;
    let mut child =
        command.spawn().with_context(|| format!("cannot start {}", launch.program.display()))?;
    if let Some(stdout) = child.stdout.take() {
        log.follow(Stream::Stdout, stdout, file.try_clone()?);
    }
    if let Some(stderr) = child.stderr.take() {
        log.follow(Stream::Stderr, stderr, file);
    }
    Ok(child)
}
