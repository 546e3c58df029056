//! `bed`: the test bed for people. `make demo`, `make up`, `make down` and `make deploy` call it.
#![allow(
    clippy::disallowed_methods,
    reason = "the rules of the controller's architecture; the bed reads the environment and spawns"
)]

mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use cli::say::Say;
use e2e::faults::{self, Plan};

/// A real cluster and a real server of the Vault API on loopback, without a container engine.
#[derive(Debug, Parser)]
#[command(name = "bed")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a bed in the background, and prints how to talk to it
    Up,
    /// Ends the bed that `up` or `demo --keep` left running
    Down,
    /// Installs the chart into the running bed, and runs its controller there
    Deploy,
    /// Runs the main job once and shows what happens
    Demo {
        /// Leave everything running, as after `up`
        #[arg(long)]
        keep: bool,
    },
    /// Measures the controller beside many workloads: memory, CPU time, requests
    Scale {
        /// How many Deployments
        #[arg(long, default_value_t = 10_000)]
        workloads: usize,
        /// How many secrets they refer to, in 50 folders
        #[arg(long, default_value_t = 5_000)]
        secrets: usize,
        /// How many polls without a change
        #[arg(long, default_value_t = 10)]
        polls: usize,
    },
    /// Measures a rotation in waves: how long it takes, beside the sum of its rollouts
    Waves {
        /// How many Deployments refer to the secret
        #[arg(long, default_value_t = 500)]
        workloads: usize,
    },
    /// Breaks everything beside hundreds of workloads, and counts what was missed or doubled
    Faults {
        /// Repeats the choices of an earlier run; also `FAULTS_SEED`
        #[arg(long)]
        seed: Option<u64>,
        /// Only the faults whose name contains this; can be given several times
        #[arg(long)]
        only: Vec<String>,
        /// How many workloads
        #[arg(long, default_value_t = 200)]
        workloads: usize,
        /// How many secrets they share
        #[arg(long, default_value_t = 50)]
        secrets: usize,
        /// How often the controller is killed
        #[arg(long, default_value_t = 60)]
        kills: usize,
        /// How often the other faults strike
        #[arg(long, default_value_t = 4)]
        times: usize,
    },
    /// Runs a bed in the foreground until Ctrl-C
    Hold,
    /// Holds the bed of `up`
    #[command(hide = true)]
    Supervise,
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut say = Say::to_stdout();
    let outcome = match Arguments::parse().command {
        Command::Up => cli::up::up(&mut say).await,
        Command::Down => cli::up::down(&mut say).await,
        Command::Deploy => cli::up::ask_supervisor("deploy", &mut say).await,
        Command::Demo { keep: false } => cli::demo::once(&mut say).await,
        Command::Demo { keep: true } => cli::up::demo(&mut say).await,
        Command::Scale { workloads, secrets, polls } => {
            cli::scale::scale(workloads, secrets, polls, &mut say).await
        }
        Command::Waves { workloads } => cli::waves::waves(workloads, &mut say).await,
        Command::Faults { seed, only, workloads, secrets, kills, times } => {
            let seed = seed.unwrap_or_else(faults::seed);
            let plan = Plan { seed, workloads, secrets, kills, times, only };
            cli::faults::faults(plan, &mut say).await
        }
        Command::Hold => cli::up::hold(&mut say).await,
        Command::Supervise => cli::supervisor::supervise().await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say.line(&format!("bed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
