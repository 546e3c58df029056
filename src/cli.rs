//! The commands: `check` and `explain`, which need neither a cluster nor Vault, and `status`, which
//! asks a running controller.
//!
//! `check` and `explain` read references with the code of the controller, so that they show what
//! the controller does.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, ValueEnum};
use jiff::Timestamp;

use crate::config::{ConfigError, PathRulesFile, ServersFile};
use crate::model::secret::{DEFAULT_CONNECTION, SecretId};
use crate::references::path_rules::PathRules;
use crate::references::servers::{Servers, UndeclaredAddress, VaultServer};
use crate::references::settings;
use crate::references::source::ReadableSources;

pub mod check;
pub mod document;
pub mod explain;
mod given;
pub mod print;
mod status;
pub mod yaml;

/// The command that the first argument names.
#[derive(Debug, Parser)]
#[command(name = "vault-secrets-reloader", version, disable_help_subcommand = true)]
#[expect(clippy::doc_markdown, reason = "the comments are the text of --help")]
enum Command {
    /// Reads manifests and says which secrets of each workload would be watched, and which would
    /// not
    ///
    /// Exits with 0, with 1 if --strict is given and there is a warning, and with 2 if an input
    /// could not be read.
    Check {
        /// A manifest, a folder of manifests, or - for standard input
        #[arg(value_name = "FILE|DIR|-", required = true)]
        inputs: Vec<PathBuf>,
        /// How to print what was found
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
        /// Exit with 1 if there is a warning
        #[arg(long)]
        strict: bool,
        /// Also read Secrets among the manifests, as the controller does with this flag
        #[arg(long)]
        read_secrets: bool,
        /// The file that declares servers to the controller. The files that it names need not exist
        /// here
        #[arg(long, value_name = "FILE")]
        vault_servers_file: Option<PathBuf>,
        /// The controller's VAULT_ADDR, by which workloads may name its default server
        #[arg(long, value_name = "ADDRESS")]
        vault_addr: Option<String>,
        /// Treat a vault-addr that is not declared as the controller does with this flag
        #[arg(long)]
        refuse_undeclared_addresses: bool,
        /// The controller's file of rules that say which namespaces may refer to which paths
        #[arg(long, value_name = "FILE")]
        path_rules_file: Option<PathBuf>,
        /// The namespace of manifests that name none, for the path rules
        #[arg(short, long, value_name = "NAME", default_value = "default")]
        namespace: String,
    },
    /// Says how one value is read, part by part
    Explain {
        /// The value, as it stands in a manifest
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// The variable that holds it: `login` means a token only in VAULT_TOKEN and BAO_TOKEN
        #[arg(long, value_name = "NAME", default_value = "VARIABLE")]
        variable: String,
        /// The controller's file of rules that say which namespaces may refer to which paths
        #[arg(long, value_name = "FILE")]
        path_rules_file: Option<PathBuf>,
        /// The namespace of the workload, for the path rules
        #[arg(short, long, value_name = "NAME", default_value = "default")]
        namespace: String,
        /// The Vault server of the workload, for the path rules
        #[arg(long, value_name = "NAME", default_value = DEFAULT_CONNECTION)]
        server: String,
        /// The Vault namespace of its secrets, for the path rules
        #[arg(long, value_name = "NAME")]
        vault_namespace: Option<String>,
    },
    /// Asks a running controller which workloads run with which secret version
    ///
    /// Without a subject, shows an overview. Exits with 0 if the answer is shown, and with 2 if the
    /// input is wrong or the controller cannot be reached.
    Status(status::StatusArgs),
}

/// The format of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines for people.
    Table,
    /// One JSON document.
    Json,
    /// Workflow commands of GitHub Actions, which annotate the files of a pull request.
    Github,
}

/// Whether the arguments name one of the commands. The first argument is the program's name.
#[must_use]
pub fn is_asked_for(args: &[OsString]) -> bool {
    let is_named = |name: &OsString| {
        ["check", "explain", "status"].iter().any(|command| OsStr::new(command) == name)
    };
    args.get(1).is_some_and(is_named)
}

/// Returns the definition of the commands, as `--help` shows it.
#[must_use]
pub fn definition() -> clap::Command {
    Command::command()
}

/// Runs the command that the arguments name, prints its output, and returns the exit code.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let command = match Command::try_parse_from(args) {
        Ok(command) => command,
        // Also --help, which goes to stdout and is no failure.
        Err(message) => {
            let _ = message.print();
            return if message.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let stdout = io::stdout().lock();
    let done = match command {
        Command::Check {
            inputs,
            output,
            strict,
            read_secrets,
            vault_servers_file,
            vault_addr,
            refuse_undeclared_addresses,
            path_rules_file,
            namespace,
        } => {
            let readable = ReadableSources { secrets: read_secrets, ..ReadableSources::default() };
            let manifests = check::Manifests::in_namespace(namespace);
            servers(vault_servers_file, vault_addr, refuse_undeclared_addresses)
                .and_then(|servers| match path_rules_file {
                    Some(path) => PathRulesFile::read(&path)?.apply(servers),
                    None => Ok(servers),
                })
                .map(|servers| {
                    check(manifests, &inputs, readable, &servers, output, strict, stdout)
                })
        }
        Command::Explain {
            value,
            variable,
            path_rules_file,
            namespace,
            server,
            vault_namespace,
        } => path_rules(path_rules_file).map(|rules| {
            let vault_namespace = vault_namespace.as_deref().and_then(settings::namespace);
            let is_allowed = |path: &str| {
                let (connection, path) = (server.as_str().into(), path.into());
                let secret =
                    SecretId { connection, namespace: vault_namespace.map(Into::into), path };
                rules.allow(&namespace, &secret)
            };
            let text = explain::explain(&variable, &value, is_allowed);
            { stdout }.write_all(text.as_bytes()).map(|()| ExitCode::SUCCESS)
        }),
        Command::Status(args) => Ok(status::run(args, Timestamp::now, stdout, io::stderr())),
    };
    let done =
        done.unwrap_or_else(|error| writeln!(io::stderr(), "{error}").map(|()| ExitCode::from(2)));
    // Writing fails when the reader has closed the pipe. It wants no message then.
    done.unwrap_or(ExitCode::FAILURE)
}

/// Returns the rules of a file. Without a file, returns rules that allow everything.
fn path_rules(file: Option<PathBuf>) -> Result<PathRules, ConfigError> {
    file.map_or_else(
        || Ok(PathRules::default()),
        |path| PathRulesFile::read(&path).map(PathRulesFile::into_rules),
    )
}

/// Returns the servers that the controller would use with these settings.
fn servers(
    file: Option<PathBuf>,
    address: Option<String>,
    are_refused: bool,
) -> Result<Servers, ConfigError> {
    let file = file.map_or_else(|| Ok(ServersFile::default()), |path| ServersFile::read(&path))?;
    let default = match address {
        Some(text) => ServersFile::default_at(&text)?,
        None => VaultServer::default(),
    };
    let undeclared =
        if are_refused { UndeclaredAddress::Refused } else { UndeclaredAddress::Default };
    file.declared(default, undeclared)
}

fn check(
    mut manifests: check::Manifests,
    inputs: &[PathBuf],
    readable: ReadableSources,
    servers: &Servers,
    output: Output,
    strict: bool,
    mut stdout: impl Write,
) -> io::Result<ExitCode> {
    for input in inputs {
        manifests.read(input, io::stdin().lock());
    }
    let report = manifests.check(readable, servers);
    let text = match output {
        Output::Table => print::table(&report),
        Output::Json => print::json(&report),
        Output::Github => print::github(&report),
    };
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    for problem in &report.problems {
        writeln!(io::stderr(), "{problem}")?;
    }
    Ok(if !report.problems.is_empty() {
        ExitCode::from(2)
    } else if strict && report.warnings() > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
