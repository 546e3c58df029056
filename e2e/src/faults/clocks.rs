//! Faults of clocks: Vault's clock and the API server's are an hour apart.
//!
//! All workloads are deployed again first. Records with shifted times stay behind, so no other
//! fault comes after these. The controller is restarted in between, so that only the clocks can
//! tell which versions the pods run with.

use anyhow::{Result, ensure};
use jiff::SignedDuration;

use super::arena::Arena;
use super::gateway::Gateway;
use super::ledger::Moment;
use super::plan::Plan;
use crate::controller::{Controller, SETTLE_TIME};
use crate::scenario::{next_second, polling_fast};

/// Secrets that are rotated at a time.
const ROTATED: usize = 12;

/// The settle time of the controller, in seconds.
const SETTLE: usize = 2;

/// The whole seconds after which an event surely counts as later than a rotation. A revision's time
/// is rounded down to the second, and the clocks are uncertain by one more second and a round trip.
const APART: usize = SETTLE + 3;

/// The number of starts of the controller after versions and revisions of the same time.
const STARTS: usize = 3;

/// Vault's clock is ahead.
pub(super) async fn ahead(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let shift = SignedDuration::from_hours(1);
    let gateway = Gateway::before(&arena.bed.vault, shift).await?;
    apart(arena, plan, &gateway, shift).await?;
    Ok(())
}

/// Vault's clock is behind, and a proxy writes each `Date` by a clock of its own, which is right.
pub(super) async fn behind_a_proxy(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let shift = SignedDuration::from_hours(-1);
    let gateway = Gateway::with_a_clock(&arena.bed.vault, shift).await?;
    let controller = apart(arena, plan, &gateway, shift).await?;
    let warnings = controller.lines_with("differs from Vault's own time");
    ensure!(!warnings.is_empty(), "the proxy's Date is not said to differ");
    Ok(())
}

/// Returns the controller that was started last.
async fn apart(
    arena: &mut Arena,
    plan: &Plan,
    gateway: &Gateway,
    shift: SignedDuration,
) -> Result<Controller> {
    for _ in 0..APART {
        next_second().await?;
    }
    arena.shift_clock(shift).await?;
    let options = polling_fast()
        .env("VAULT_ADDR", gateway.address())
        .flag(SETTLE_TIME, &format!("{SETTLE}s"));
    let mut controller = [Controller::start(&arena.bed, &options).await?];
    // The pods have the versions from before the deploy.
    arena.settle(&controller).await?;
    for _ in 0..plan.times {
        arena.strike();
        // Secrets are rotated while no controller runs. Some of their workloads are deployed after
        // that.
        controller[0].kill();
        let secrets = arena.rotate_at_once(ROTATED).await?;
        for _ in 0..APART {
            next_second().await?;
        }
        let concerned = (0..arena.len()).filter(|number| arena.uses(*number, &secrets));
        let deployed: Vec<usize> = concerned.step_by(3).collect();
        for number in &deployed {
            arena.touch(*number);
        }
        arena.redeploy(&deployed).await?;
        arena.wait_until_observed().await?;
        controller[0].restart().await?;
        arena.settle(&controller).await?;

        // Secrets are rotated after a deploy and before its revisions are made, within the settle
        // time. Each workload is reloaded once, however often the controller starts.
        controller[0].kill();
        let deployed: Vec<usize> = (0..arena.len()).step_by(4).collect();
        for number in &deployed {
            arena.touch(*number);
        }
        arena.bed.controller_manager.pause()?;
        arena.redeploy(&deployed).await?;
        arena.rotate_at_once(ROTATED).await?;
        next_second().await?;
        arena.bed.controller_manager.resume().await?;
        arena.wait_until_observed().await?;
        controller[0].restart().await?;
        arena.settle(&controller).await?;
        for _ in 1..STARTS {
            controller[0].kill();
            controller[0].restart().await?;
            arena.settle(&controller).await?;
        }

        // Secrets are rotated while the controller runs.
        let secrets = arena.some_secrets(ROTATED);
        arena.rotate(&secrets, Moment::One).await?;
        arena.settle(&controller).await?;
    }
    let [controller] = controller;
    Ok(controller)
}
