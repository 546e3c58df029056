//! The fault suite: whatever fails, each rotation reaches each workload once.
//!
//! The suite has one bed, hundreds of workloads that share dozens of secrets, and one fault after
//! the other. Secrets are rotated before, during and after each fault. After the fault, the suite
//! counts the workloads that a rotation did not reach, and the reloads without a rotation. Both
//! counts must be 0.
//!
//! - what is broken, and how? one file a theme: [`killed`], [`api_server`], [`others`],
//!   [`watches`], [`vault`], [`access`], [`network`], [`clocks`]
//! - which versions must the workloads show? [`ledger`]
//! - how are secrets rotated? [`arena`]
//! - when has everything settled, and what is counted? [`settling`]
//! - what stands between the controller and a server? [`wire`], [`gateway`]
//!
//! A fault without an effect proves nothing, so each fault checks in the servers' logs that it
//! struck.

mod access;
mod api_server;
mod arena;
mod clocks;
mod gateway;
mod killed;
mod ledger;
mod network;
mod others;
mod plan;
mod report;
mod settling;
mod vault;
mod watches;
mod wire;

use std::time::Duration;

use anyhow::{Result, anyhow};
use fastrand::Rng;
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jiff::SignedDuration;
use tokio::time::timeout;

use arena::Arena;
pub use plan::{Plan, seed};
pub use report::{Report, Row};

/// The longest time of one fault. A fault that takes longer fails.
const FAULT_WITHIN: Duration = Duration::from_mins(8);

/// The parts of the suite. Each part can also run on a bed of its own, beside the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The controller itself, and its watches.
    Controller,
    /// The controller's connections.
    Network,
    /// The API server and its storage.
    ApiServer,
    /// Other clients that write workloads or deny changes of them.
    Others,
    /// Vault.
    Vault,
    /// The clocks. This part is the last, because no other fault can use the state after it.
    Clocks,
}

/// One fault.
struct Fault {
    name: &'static str,
    run: for<'a> fn(&'a mut Arena, &'a Plan) -> LocalBoxFuture<'a, Result<()>>,
}

macro_rules! faults {
    ($($name:literal: $run:path,)*) => {
        &[$(Fault { name: $name, run: |arena, plan| $run(arena, plan).boxed_local() }),*]
    };
}

const OF_THE_CONTROLLER: &[Fault] = faults! {
    "kill -9": killed::alone,
    "kill -9, two without a lease": killed::two,
    "kill -9 of the leader of three": killed::leaders,
    "watches dropped": watches::dropped,
    "resourceVersion too old": watches::too_old,
};

const OF_THE_NETWORK: &[Fault] = faults! {
    "API answers cut": network::api_cut,
    "API answers and events held": network::api_held,
    "Vault answers cut": network::vault_cut,
};

const OF_THE_API_SERVER: &[Fault] = faults! {
    "API server killed": api_server::killed,
    "API server paused": api_server::paused,
    "API server restarted": api_server::restarted,
    "etcd paused": api_server::etcd_paused,
};

const OF_OTHERS: &[Fault] = faults! {
    "other writers (409)": others::writers,
    "denied by admission": others::denied,
    "namespace terminating": others::terminating,
    "a noisy tenant": others::noisy,
};

const OF_VAULT: &[Fault] = faults! {
    "Vault sealed": vault::sealed,
    "Vault killed": vault::killed,
    "Vault paused": vault::paused,
    "Vault restarted": vault::restarted,
    "token, policy withdrawn in a poll": access::withdrawn,
    "rate limit (429)": access::rate_limit,
};

const OF_CLOCKS: &[Fault] = faults! {
    "Vault's clock 1 h ahead": clocks::ahead,
    "Vault's clock 1 h behind a proxy's": clocks::behind_a_proxy,
};

impl Part {
    const ALL: [Self; 6] =
        [Self::Controller, Self::Network, Self::ApiServer, Self::Others, Self::Vault, Self::Clocks];

    fn faults(self) -> &'static [Fault] {
        match self {
            Self::Controller => OF_THE_CONTROLLER,
            Self::Network => OF_THE_NETWORK,
            Self::ApiServer => OF_THE_API_SERVER,
            Self::Others => OF_OTHERS,
            Self::Vault => OF_VAULT,
            Self::Clocks => OF_CLOCKS,
        }
    }
}

/// Runs the suite on one bed, one fault after the other. `say` reports progress.
///
/// # Errors
/// When the bed does not start, or cannot be restored after a fault. Errors of the controller are
/// part of the report.
pub async fn run(plan: &Plan, say: impl FnMut(&str) + 'static) -> Result<Report> {
    run_parts(&Part::ALL, plan, say).await
}

/// Runs one part of the suite on a bed of its own.
///
/// # Errors
/// As those of [`run`].
pub async fn run_part(part: Part, plan: &Plan, say: impl FnMut(&str) + 'static) -> Result<Report> {
    run_parts(&[part], plan, say).await
}

async fn run_parts(parts: &[Part], plan: &Plan, say: impl FnMut(&str) + 'static) -> Result<Report> {
    let mut report = Report::default();
    let faults = parts.iter().flat_map(|part| part.faults());
    let mut faults = faults.filter(|fault| plan.wants(fault.name)).peekable();
    if faults.peek().is_none() {
        return Ok(report);
    }
    let rng = Rng::with_seed(plan.seed);
    let mut say = Box::new(say);
    say(&format!("{} workloads, {} secrets, seed {}", plan.workloads, plan.secrets, plan.seed));
    let mut arena = Arena::start(plan.workloads, plan.secrets, rng, say).await?;
    for fault in faults {
        arena.begin(fault.name);
        let outcome = timeout(FAULT_WITHIN, (fault.run)(&mut arena, plan)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("not over after {FAULT_WITHIN:?}")));
        let row = arena.end(outcome);
        if !row.is_clean() {
            restore(&mut arena).await?;
        }
        report.rows.push(row);
    }
    Ok(report)
}

/// Restores the state that each fault starts from, whatever the fault before left behind.
async fn restore(arena: &mut Arena) -> Result<()> {
    arena.bed.recover().await?;
    others::lift_refusals(&arena.bed.cluster).await;
    access::restore(&arena.bed.vault).await;
    arena.shift_clock(SignedDuration::ZERO).await
}
