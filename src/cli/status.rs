//! `status`: asks the API of a running controller which workloads run with which secret version.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;
use url::Url;

use crate::config;
use crate::credentials::files::read_text_at_most;
use crate::kubernetes::forward::{LeaderFinder, LeaderSettings};
use crate::model::workload::WorkloadId;
use crate::status::api::{Overview, Page, Rotation, SecretStatus};

mod client;
mod error;
mod forwarded;
mod names;
mod request;
mod text;
mod wait;

use client::Client;
use error::StatusError;
use forwarded::ForwardedClient;
use request::{Fetch, SecretName};
use wait::{Goal, Note, WaitResult, wait};

/// The longest file with a token, in bytes. Servers accept no header that is longer.
const LONGEST_TOKEN_FILE: usize = 64 << 10;

/// The arguments of `status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    api: ApiArgs,
    #[command(subcommand)]
    subject: Option<Subject>,
}

/// How to reach the API, and how to print its answers.
#[derive(Debug, Args)]
struct ApiArgs {
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t = Format::Table, global = true)]
    output: Format,
    /// The address of the controller's API. Without it, the kubeconfig leads to the cluster, and
    /// the Lease to the leader's pod
    #[arg(long, value_name = "URL", global = true)]
    address: Option<String>,
    /// A file with a token, which is sent with each request
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    leader: LeaderArgs,
}

/// How to find the leader without an address.
#[derive(Debug, Args)]
struct LeaderArgs {
    /// The context of the kubeconfig, if not the current one
    #[arg(long, value_name = "NAME", global = true)]
    context: Option<String>,
    /// The namespace of the controller. Without it, all namespaces are searched for the Lease
    #[arg(short, long, value_name = "NAME", global = true)]
    namespace: Option<String>,
    /// The name of the Lease whose holder leads
    #[arg(long, value_name = "NAME", default_value = "vault-secrets-reloader", global = true)]
    lease: String,
    /// The port of the API in the leader's pod
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 9180,
        value_parser = clap::value_parser!(u16).range(1..),
        global = true
    )]
    port: u16,
}

/// What to show instead of the overview.
#[derive(Debug, Subcommand)]
enum Subject {
    /// Shows one workload: its reloads, its secrets, and its references that are not watched
    ///
    /// Exits with 0 if the workload is shown, and with 2 if it cannot be.
    Workload {
        /// The workload. The kind is a kind, plural or short name, as for kubectl
        #[arg(value_name = "NAMESPACE/KIND/NAME")]
        workload: String,
    },
    /// Shows one secret: how far its rotation is, and whether the old credential can be revoked
    ///
    /// Exits with 0 if the secret is shown, and with 2 if it cannot be. With --wait, exits with 0
    /// once the rotation is complete, and with 1 if it has stopped or the time is over.
    Secret {
        /// The API path of the secret, as in secret/data/mysql
        #[arg(value_name = "PATH")]
        path: String,
        /// The Vault server of the secret, if several have the path
        #[arg(long, value_name = "NAME")]
        server: Option<String>,
        /// The Vault namespace of the secret, if several have the path. An empty name is the root
        /// namespace
        #[arg(long, value_name = "NAME")]
        vault_namespace: Option<String>,
        /// Wait until the rotation is complete or has stopped: 10 minutes, unless a time is given
        #[arg(
            long,
            value_name = "DURATION",
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = "10m"
        )]
        wait: Option<String>,
        /// With --wait: the number of the version to wait for. A later version counts, too.
        /// Without it, the command first waits until a poll of Vault has begun
        #[arg(long, value_name = "NUMBER", requires = "wait")]
        version: Option<u64>,
        /// With --wait: wait until the old credential can be revoked, also from pods of workloads
        /// that give no signal
        #[arg(long, requires = "wait")]
        revocable: bool,
        /// Also list the workloads that are complete
        #[arg(long)]
        all: bool,
    },
}

/// The format of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for people.
    Table,
    /// One JSON document.
    Json,
}

/// The JSON document of the overview.
#[derive(Serialize)]
struct OverviewDocument<'a> {
    overview: &'a Overview,
    /// The rotations that are not complete.
    rotations: &'a Page<Rotation>,
}

/// Runs the command and returns the exit code. `now` returns the present.
pub(super) fn run(
    args: StatusArgs,
    now: fn() -> Timestamp,
    mut stdout: impl Write,
    mut stderr: impl Write,
) -> io::Result<ExitCode> {
    match start(args, now, &mut stdout, &mut stderr) {
        Ok(code) => stdout.flush().map(|()| code),
        Err(StatusError::Output(error)) => Err(error),
        Err(error) => writeln!(stderr, "{error}").map(|()| ExitCode::from(2)),
    }
}

/// Creates the client and the runtime, and runs the command in it.
fn start(
    args: StatusArgs,
    now: fn() -> Timestamp,
    stdout: &mut impl Write,
    stderr: &mut impl Write,
) -> Result<ExitCode, StatusError> {
    let StatusArgs { api: ApiArgs { output, address, token_file, leader }, subject } = args;
    // Names are checked before anything is read or sent.
    let request = Request::parse(subject)?;
    let target = Target::parse(address.as_deref(), leader, token_file.is_some())?;
    let authorization = match token_file {
        Some(path) => {
            let file = path.display().to_string();
            match read_text_at_most(&path, LONGEST_TOKEN_FILE) {
                Ok(content) => Some(names::authorization(&file, &content)?),
                Err(error) => return Err(StatusError::TokenFile { file, error }),
            }
        }
        None => None,
    };
    // The HTTP clients need a provider, even for plain HTTP.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StatusError::Setup(error.to_string()))?;
    let mut printer = Printer { output, now, stdout, stderr };
    let result = runtime.block_on(async {
        match target {
            Target::Address(address) => {
                printer.answer(&Client::new(address, authorization)?, request).await
            }
            Target::Leader(settings) => {
                let leader = LeaderFinder::connect(settings).await?;
                printer.answer(&ForwardedClient::new(leader, authorization)?, request).await
            }
        }
    });
    // A name look-up that hangs must not delay the end of the process.
    runtime.shutdown_background();
    result
}

/// Where the API is.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// At an address.
    Address(Url),
    /// In the pod of the leader.
    Leader(LeaderSettings),
}

impl Target {
    fn parse(
        address: Option<&str>,
        leader: LeaderArgs,
        has_token: bool,
    ) -> Result<Self, StatusError> {
        let LeaderArgs { context, namespace, lease, port } = leader;
        match address {
            Some(_) if context.is_some() || namespace.is_some() => {
                Err(StatusError::AddressAndCluster)
            }
            Some(address) => Ok(Self::Address(names::address(address)?)),
            // Anybody who may create a Lease in a namespace could lead the token to a pod there.
            None if has_token && namespace.is_none() => Err(StatusError::TokenForAnyNamespace),
            None => Ok(Self::Leader(LeaderSettings { context, namespace, lease, port })),
        }
    }
}

/// A checked request of the command line.
enum Request {
    Overview,
    Workload(WorkloadId),
    Secret { name: SecretName, is_all: bool },
    Wait { name: SecretName, is_all: bool, goal: Goal, timeout: Duration },
}

impl Request {
    fn parse(subject: Option<Subject>) -> Result<Self, StatusError> {
        Ok(match subject {
            None => Self::Overview,
            Some(Subject::Workload { workload }) => Self::Workload(names::workload(&workload)?),
            Some(Subject::Secret {
                path,
                server,
                vault_namespace,
                wait,
                version,
                revocable,
                all,
            }) => {
                let namespace = vault_namespace.map(|name| name.trim_matches('/').to_owned());
                let name = SecretName { path: names::path(&path)?, server, namespace };
                match wait {
                    None => Self::Secret { name, is_all: all },
                    Some(time) => {
                        let timeout = config::duration("--wait", &time)?;
                        let goal = Goal { version, revocable };
                        Self::Wait { name, is_all: all, goal, timeout }
                    }
                }
            }
        })
    }
}

/// Prints the answers.
struct Printer<'a, O, E> {
    output: Format,
    now: fn() -> Timestamp,
    stdout: &'a mut O,
    stderr: &'a mut E,
}

impl<O: Write, E: Write> Printer<'_, O, E> {
    async fn answer(
        &mut self,
        api: &impl Fetch,
        request: Request,
    ) -> Result<ExitCode, StatusError> {
        match request {
            Request::Overview => {
                let overview = request::overview(api).await?;
                let rotations = request::open_rotations(api).await?;
                let text = match self.output {
                    Format::Table => text::overview(&overview, &rotations, (self.now)()),
                    Format::Json => {
                        json(&OverviewDocument { overview: &overview, rotations: &rotations })
                    }
                };
                self.stdout.write_all(text.as_bytes())?;
            }
            Request::Workload(id) => {
                let status = request::workload(api, &id).await?;
                let text = match self.output {
                    Format::Table => text::workload(&status, (self.now)()),
                    Format::Json => json(&status),
                };
                self.stdout.write_all(text.as_bytes())?;
            }
            Request::Secret { name, is_all } => {
                let status = request::secret(api, &name).await?;
                self.print_secret(&status, is_all)?;
            }
            Request::Wait { name, is_all, goal, timeout } => {
                return self.wait(api, &name, is_all, goal, timeout).await;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn wait(
        &mut self,
        api: &impl Fetch,
        name: &SecretName,
        is_all: bool,
        goal: Goal,
        timeout: Duration,
    ) -> Result<ExitCode, StatusError> {
        let result = wait(api, name, goal, timeout, |note| self.print_note(&note)).await?;
        let time = humantime::format_duration(timeout);
        match result {
            WaitResult::Complete(status) => {
                self.print_secret(&status, is_all)?;
                return Ok(ExitCode::SUCCESS);
            }
            WaitResult::Stopped(status) => self.print_secret(&status, is_all)?,
            WaitResult::TimedOut(Ok(status)) => {
                self.print_secret(&status, is_all)?;
                writeln!(self.stderr, "the rotation is not complete after {time} (--wait)")?;
            }
            WaitResult::TimedOut(Err(error)) => {
                writeln!(self.stderr, "the state is not known after {time} (--wait): {error}")?;
            }
        }
        Ok(ExitCode::FAILURE)
    }

    /// Prints a line while the command waits. A JSON document on stdout stays alone there.
    fn print_note(&mut self, note: &Note<'_>) -> io::Result<()> {
        match (note, self.output) {
            (Note::Changed(rotation), Format::Table) => {
                writeln!(self.stdout, "{}", text::change(rotation, (self.now)()))?;
                self.stdout.flush()
            }
            (Note::Changed(rotation), Format::Json) => {
                writeln!(self.stderr, "{}", text::change(rotation, (self.now)()))
            }
            (Note::Failing(error), _) => writeln!(self.stderr, "{error}. Trying again"),
        }
    }

    fn print_secret(&mut self, status: &SecretStatus, is_all: bool) -> io::Result<()> {
        let text = match self.output {
            Format::Table => text::secret(status, is_all, (self.now)()),
            Format::Json => json(status),
        };
        self.stdout.write_all(text.as_bytes())
    }
}

/// Returns a JSON document.
fn json(value: &impl Serialize) -> String {
    // All values of the API have a JSON form.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::model::fixtures::second;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(subcommand)]
        command: Command,
    }

    #[derive(Debug, Subcommand)]
    enum Command {
        Status(StatusArgs),
    }

    fn parse(arguments: &[&str]) -> StatusArgs {
        let all = ["program", "status"].iter().chain(arguments);
        let Command::Status(args) = Program::try_parse_from(all).unwrap().command;
        args
    }

    #[test]
    fn flags_may_stand_before_and_after_the_subject() {
        for arguments in [
            &["-o", "json", "--address", "http://h:1", "secret", "a/b"][..],
            &["secret", "a/b", "-o", "json", "--address", "http://h:1"],
            &["secret", "--address=http://h:1", "a/b", "--output=json"],
        ] {
            let StatusArgs { api, subject } = parse(arguments);
            assert_eq!((api.output, api.address.as_deref()), (Format::Json, Some("http://h:1")));
            assert!(matches!(subject, Some(Subject::Secret { .. })), "{subject:?}");
        }
        let StatusArgs { api, subject } = parse(&[]);
        assert_eq!((api.output, api.address), (Format::Table, None));
        assert!(subject.is_none());
    }

    fn target(arguments: &[&str]) -> Result<Target, StatusError> {
        let StatusArgs { api: ApiArgs { address, token_file, leader, .. }, .. } = parse(arguments);
        Target::parse(address.as_deref(), leader, token_file.is_some())
    }

    #[test]
    fn the_leader_is_found_unless_an_address_is_given() {
        let settings = |context: Option<&str>, namespace: Option<&str>, lease: &str, port| {
            let (context, namespace) = (context.map(str::to_owned), namespace.map(str::to_owned));
            Target::Leader(LeaderSettings { context, namespace, lease: lease.to_owned(), port })
        };
        for (arguments, expected) in [
            (&[][..], settings(None, None, "vault-secrets-reloader", 9180)),
            (
                &["secret", "a/b", "-n", "vault-system", "--token-file=f"],
                settings(None, Some("vault-system"), "vault-secrets-reloader", 9180),
            ),
            (
                &["--context=prod", "--namespace=v", "workload", "a/b/c", "--lease=l", "--port=1"],
                settings(Some("prod"), Some("v"), "l", 1),
            ),
            (&["--address=http://h:1"], Target::Address(Url::parse("http://h:1").unwrap())),
        ] {
            assert_eq!(target(arguments).unwrap(), expected, "{arguments:?}");
        }
        for (arguments, expected) in [
            (&["--address=http://h:1", "-n", "v"][..], "leave out --context and --namespace"),
            (&["--token-file=f"], "name the namespace of the controller with --namespace"),
        ] {
            let error = target(arguments).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_wait_lasts_ten_minutes_unless_a_time_is_given() {
        for (arguments, expected) in [
            (&["secret", "--wait", "/a/b"][..], Some(Duration::from_mins(10))),
            (&["secret", "a/b", "--wait=90s"], Some(Duration::from_secs(90))),
            (&["secret", "a/b"], None),
        ] {
            let request = Request::parse(parse(arguments).subject).unwrap();
            let (name, timeout) = match request {
                Request::Wait { name, timeout, .. } => (name, Some(timeout)),
                Request::Secret { name, .. } => (name, None),
                Request::Overview | Request::Workload(_) => panic!("{arguments:?}"),
            };
            assert_eq!((name.path.as_str(), timeout), ("a/b", expected));
        }
    }

    #[test]
    fn bad_input_is_one_line_and_exit_code_two() {
        for (arguments, expected) in [
            (&["workload", "web"][..], "\"web\" is not a workload; write NAMESPACE/KIND/NAME"),
            (&["secret", "/"], "the path is empty; "),
            (&["secret", "a", "--wait=soon"], "--wait=\"soon\": not a duration; write 90s"),
            (&["--address", "localhost:9180"], "--address: not an address of an API; write http"),
            (
                &["-nv", "--token-file", "/no/such/file"],
                "--token-file=\"/no/such/file\" cannot be read: ",
            ),
        ] {
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            let code = run(parse(arguments), || second(0), &mut stdout, &mut stderr).unwrap();
            assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(2)));
            let said = String::from_utf8(stderr).unwrap();
            assert!(said.starts_with(expected) && said.lines().count() == 1, "{said}");
            assert!(stdout.is_empty());
        }
    }
}
