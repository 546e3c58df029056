//! The fault suite: whatever breaks, each rotation reaches each workload once.
//!
//! One bed, hundreds of workloads that share dozens of secrets, and one fault after the other:
//! secrets are rotated before, while and after it strikes, and when it is over two things are
//! counted: workloads that a rotation did not reach, and reloads that no rotation speaks for. Both
//! must be 0.
//!
//! - what is broken, and how? one file a theme: [`killed`], [`api_server`], [`others`], [`watches`],
//!   [`vault`], [`access`], [`network`], [`clocks`]
//! - what do the workloads have to show? [`ledger`]
//! - how are secrets rotated? [`arena`]; when has everything settled, and what is counted? [`settling`]
//! - what stands between the controller and a server? [`wire`], [`gateway`]
//!
//! A fault that hits nothing proves nothing: each sees in the servers' logs that it struck.

mod access;
mod api_server;
mod arena;
mod clocks;
mod gateway;
mod killed;
mod ledger;
mod network;
mod others;
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
use tokio::time::timeout;

use arena::Arena;
pub use report::{Report, Row};

/// No fault takes longer, or it is one in itself.
const FAULT_WITHIN: Duration = Duration::from_mins(8);

/// The two halves of the suite. Each does as well on a bed of its own, beside the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The controller itself, and the cluster.
    Cluster,
    /// Vault.
    Vault,
}

/// How much is done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The same seed makes the same workloads, and the same choices.
    pub seed: u64,
    /// How many workloads there are.
    pub workloads: usize,
    /// How many secrets they share.
    pub secrets: usize,
    /// How often the controller is killed.
    pub kills: usize,
    /// How often the other faults strike.
    pub times: usize,
    /// Only the faults of one half.
    pub half: Option<Half>,
    /// Only the faults whose name contains one of these; all, where there is none.
    pub only: Vec<String>,
}

impl Plan {
    /// What `make faults` does.
    #[must_use]
    pub fn full(seed: u64) -> Self {
        Self {
            seed,
            workloads: 200,
            secrets: 50,
            kills: 60,
            times: 4,
            half: None,
            only: Vec::new(),
        }
    }

    /// The same faults, each once: what is part of `make test`, by halves, since most of the time is
    /// spent waiting for time-outs.
    #[must_use]
    pub fn short(seed: u64, half: Half) -> Self {
        Self { kills: 12, times: 1, half: Some(half), ..Self::full(seed) }
    }
}

/// The seed that `FAULTS_SEED` names, or else a random one.
#[must_use]
pub fn seed() -> u64 {
    let named = std::env::var("FAULTS_SEED").ok().and_then(|seed| seed.parse().ok());
    named.unwrap_or_else(|| fastrand::u64(..))
}

/// One fault.
struct Fault {
    name: &'static str,
    run: for<'a> fn(&'a mut Arena, &'a Plan) -> LocalBoxFuture<'a, Result<()>>,
}

const OF_THE_CLUSTER: [Fault; 14] = [
    Fault { name: "kill -9", run: |arena, plan| killed::alone(arena, plan).boxed_local() },
    Fault {
        name: "kill -9, two without a lease",
        run: |arena, plan| killed::two(arena, plan).boxed_local(),
    },
    Fault {
        name: "kill -9 of the leader of three",
        run: |arena, plan| killed::leaders(arena, plan).boxed_local(),
    },
    Fault {
        name: "API server killed",
        run: |arena, plan| api_server::killed(arena, plan).boxed_local(),
    },
    Fault {
        name: "API server paused",
        run: |arena, plan| api_server::paused(arena, plan).boxed_local(),
    },
    Fault {
        name: "API server restarted",
        run: |arena, plan| api_server::restarted(arena, plan).boxed_local(),
    },
    Fault {
        name: "etcd paused",
        run: |arena, plan| api_server::etcd_paused(arena, plan).boxed_local(),
    },
    Fault {
        name: "other writers (409)",
        run: |arena, plan| others::writers(arena, plan).boxed_local(),
    },
    Fault {
        name: "denied by admission",
        run: |arena, plan| others::denied(arena, plan).boxed_local(),
    },
    Fault {
        name: "namespace terminating",
        run: |arena, plan| others::terminating(arena, plan).boxed_local(),
    },
    Fault {
        name: "watches dropped",
        run: |arena, plan| watches::dropped(arena, plan).boxed_local(),
    },
    Fault {
        name: "resourceVersion too old",
        run: |arena, plan| watches::too_old(arena, plan).boxed_local(),
    },
    Fault {
        name: "API answers cut",
        run: |arena, plan| network::api_cut(arena, plan).boxed_local(),
    },
    Fault {
        name: "API answers and events held",
        run: |arena, plan| network::api_held(arena, plan).boxed_local(),
    },
];

const OF_VAULT: [Fault; 9] = [
    Fault { name: "Vault sealed", run: |arena, plan| vault::sealed(arena, plan).boxed_local() },
    Fault { name: "Vault killed", run: |arena, plan| vault::killed(arena, plan).boxed_local() },
    Fault { name: "Vault paused", run: |arena, plan| vault::paused(arena, plan).boxed_local() },
    Fault {
        name: "Vault restarted",
        run: |arena, plan| vault::restarted(arena, plan).boxed_local(),
    },
    Fault {
        name: "Vault answers cut",
        run: |arena, plan| network::vault_cut(arena, plan).boxed_local(),
    },
    Fault {
        name: "token, policy withdrawn in a poll",
        run: |arena, plan| access::withdrawn(arena, plan).boxed_local(),
    },
    Fault {
        name: "rate limit (429)",
        run: |arena, plan| access::rate_limit(arena, plan).boxed_local(),
    },
    // The last: what they leave behind is of no use to others.
    Fault {
        name: "Vault's clock 1 h ahead",
        run: |arena, plan| clocks::ahead(arena, plan).boxed_local(),
    },
    Fault {
        name: "Vault's clock 1 h behind",
        run: |arena, plan| clocks::behind(arena, plan).boxed_local(),
    },
];

/// Runs the suite; `say` is told how it goes.
///
/// # Errors
/// When the bed does not start, or cannot be brought back to order after a fault. What the
/// controller got wrong is part of the report.
pub async fn run(plan: &Plan, say: impl FnMut(&str) + 'static) -> Result<Report> {
    let rng = Rng::with_seed(plan.seed);
    let mut say = Box::new(say);
    say(&format!("{} workloads, {} secrets, seed {}", plan.workloads, plan.secrets, plan.seed));
    let mut arena = Arena::start(plan.workloads, plan.secrets, rng, say).await?;
    let mut report = Report::default();
    let halves = [(Half::Cluster, &OF_THE_CLUSTER[..]), (Half::Vault, &OF_VAULT[..])];
    let halves = halves.into_iter().filter(|(half, _)| plan.half.is_none_or(|only| only == *half));
    let is_wanted = |fault: &&Fault| {
        plan.only.is_empty() || plan.only.iter().any(|only| fault.name.contains(only))
    };
    for fault in halves.flat_map(|(_, faults)| faults).filter(is_wanted) {
        arena.begin(fault.name);
        let outcome = timeout(FAULT_WITHIN, (fault.run)(&mut arena, plan)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("not over after {FAULT_WITHIN:?}")));
        let row = arena.end(outcome).await?;
        report.rows.push(row);
    }
    Ok(report)
}
