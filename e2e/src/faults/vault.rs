//! Faults of Vault: the server is sealed, killed, paused, restarted.
//!
//! A poll may see a part of a batch before the server goes and the rest when it is back, so each
//! rotation may be seen on its own.

use anyhow::Result;

use super::arena::{Arena, SETTLE_WITHIN, begun, reloads_begun};
use super::plan::Plan;
use crate::controller::{Controller, ControllerOptions};
use crate::scenario::polling_fast;

/// The start of the line that reports an outage of Vault.
const OUTAGE: &str = "level=error msg=\"failed to get secret version: ";

/// Secrets that are rotated at a time.
const ROTATED: usize = 12;

/// Vault is sealed, as an operator or a crash leaves it.
pub(super) async fn sealed(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let mut controller = start(arena, |options| options).await?;
    for _ in 0..plan.times {
        let seen = before(arena, &controller).await?;
        arena.bed.vault.seal().await?;
        down(arena, &mut controller, seen).await?;
        arena.bed.vault.unseal().await?;
        over(arena, &controller).await?;
    }
    Ok(())
}

/// Vault is killed, and started again with its data.
pub(super) async fn killed(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let mut controller = start(arena, |options| options).await?;
    for _ in 0..plan.times {
        let seen = before(arena, &controller).await?;
        arena.bed.vault_server.kill();
        down(arena, &mut controller, seen).await?;
        arena.bed.vault_server.start().await?;
        over(arena, &controller).await?;
    }
    Ok(())
}

/// Vault is stopped, and started again with its data.
pub(super) async fn restarted(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let mut controller = start(arena, |options| options).await?;
    for _ in 0..plan.times {
        let seen = before(arena, &controller).await?;
        arena.bed.vault_server.stop().await?;
        down(arena, &mut controller, seen).await?;
        arena.bed.vault_server.start().await?;
        over(arena, &controller).await?;
    }
    Ok(())
}

/// Vault is paused: it accepts connections and never answers.
pub(super) async fn paused(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let mut controller = start(arena, |it| it.env("VAULT_CLIENT_TIMEOUT", "1s")).await?;
    for _ in 0..plan.times {
        let seen = before(arena, &controller).await?;
        arena.bed.vault_server.pause()?;
        down(arena, &mut controller, seen).await?;
        arena.bed.vault_server.resume().await?;
        over(arena, &controller).await?;
    }
    Ok(())
}

async fn start(
    arena: &Arena,
    set: impl FnOnce(ControllerOptions) -> ControllerOptions,
) -> Result<Controller> {
    Controller::start(&arena.bed, &set(polling_fast())).await
}

/// Rotates secrets, and returns before or during the reloads that follow. Returns the number of
/// lines that the controller had written.
async fn before(arena: &mut Arena, controller: &Controller) -> Result<usize> {
    arena.strike();
    let seen = begun(controller);
    arena.rotate_loosely(ROTATED).await?;
    if arena.rng.bool() {
        let number = arena.rng.usize(1..20);
        reloads_begun(controller, seen, number).await?;
    }
    Ok(controller.lines().len())
}

/// Waits until the controller knows that Vault is down. By chance, the controller is then
/// killed and starts while Vault does not run.
async fn down(arena: &mut Arena, controller: &mut Controller, seen: usize) -> Result<()> {
    controller.wait_for_after(seen, OUTAGE, SETTLE_WITHIN).await?;
    if arena.rng.bool() {
        controller.revive()?;
        controller.wait_for(OUTAGE, SETTLE_WITHIN).await?;
    }
    controller.wait_for_polls(2, SETTLE_WITHIN).await
}

/// Rotates more secrets after Vault is up again, and compares.
async fn over(arena: &mut Arena, controller: &Controller) -> Result<()> {
    arena.rotate_loosely(ROTATED).await?;
    arena.settle(std::slice::from_ref(controller)).await
}
