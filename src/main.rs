//! The controller's process: see [`vault_secrets_reloader::app`].

use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, setrlimit};
use vault_secrets_reloader::config::{Config, Flags, process_environment};
use vault_secrets_reloader::{app, cli, telemetry};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if cli::is_asked_for(&args) {
        return cli::run(args);
    }
    forbid_core_dumps();
    let flags = match Flags::parse_from(args) {
        Ok(flags) => flags,
        // Also --help and --version, which go to stdout and are no failure.
        Err(message) => {
            let _ = message.print();
            return if message.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    match start(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Forbids core dumps, because a core dump would hold the token. The process also starts if this
/// fails.
fn forbid_core_dumps() {
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // A kernel of Linux that pipes core dumps to a program does not heed the limit.
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

fn start(flags: Flags) -> anyhow::Result<()> {
    let config = match Config::load(flags, process_environment) {
        Ok(config) => config,
        Err(error) => {
            telemetry::init(telemetry::Settings { level: telemetry::Level::Info, json: false })?;
            return Err(error.into());
        }
    };
    telemetry::init(config.log)?;
    // Both client libraries use this provider. Without it, the first one would have to guess.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // Two threads on any machine: the process mostly waits, and each thread keeps memory.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(app::run(config));
    // A name look-up or a file on a mount that hangs must not delay the end of the process.
    runtime.shutdown_background();
    result
}
