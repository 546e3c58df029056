//! The controller is killed at random instants.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::arena::{Arena, begun};
use super::plan::Plan;
use crate::controller::{Controller, ControllerOptions, LeaseTimes};
use crate::scenario::polling_fast;

/// The longest wait for the first reload after a rotation: a poll or a start. There may also be
/// nothing to reload.
const FIRST_RELOAD_WITHIN: Duration = Duration::from_secs(3);

/// Short durations, so that the next leader does not wait long.
const LEASE_TIMES: LeaseTimes = LeaseTimes {
    duration: Duration::from_secs(2),
    renew_deadline: Duration::from_millis(1400),
    retry_period: Duration::from_millis(300),
};

/// One controller is killed.
pub(super) async fn alone(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let options = polling_fast();
    kill(arena, &options, 1, plan.kills).await
}

/// Two controllers that know nothing of each other are killed. Each PATCH holds only for the object
/// that was evaluated.
pub(super) async fn two(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let options = polling_fast();
    kill(arena, &options, 2, plan.kills.div_ceil(3)).await
}

/// Of three controllers, the leader is killed.
pub(super) async fn leaders(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let options = polling_fast().leader_elect("default", "replica", LEASE_TIMES);
    kill(arena, &options, 3, plan.kills.div_ceil(4)).await
}

/// Kills the leader of a number of controllers again and again, or any controller if none leads,
/// and starts it again.
async fn kill(
    arena: &mut Arena,
    options: &ControllerOptions,
    controllers: usize,
    kills: usize,
) -> Result<()> {
    let mut fleet = Vec::new();
    for _ in 0..controllers {
        fleet.push(Controller::start(&arena.bed, options).await?);
    }
    arena.audit_is_incomplete();
    let mut hits = 0;
    for _ in 0..kills {
        let leader = fleet.iter().position(Controller::leads);
        let victim = leader.unwrap_or_else(|| arena.rng.usize(..fleet.len()));
        let controller = &mut fleet[victim];
        let number = arena.rng.usize(2..8);
        if arena.rng.u8(..4) == 0 {
            // No controller has seen the versions before.
            controller.kill();
            arena.rotate_at_once(number).await?;
            controller.revive()?;
        } else {
            arena.rotate_loosely(number).await?;
        }
        if arena.rng.u8(..4) > 0 {
            // Without such a line, the controller is killed while it starts or polls.
            _ = controller.wait_for("Reloading workload: ", FIRST_RELOAD_WITHIN).await;
        }
        let longest = if arena.rng.bool() { 60 } else { 600 };
        sleep(Duration::from_millis(arena.rng.u64(..longest))).await;
        controller.kill();
        hits += usize::from(begun(controller) > controller.lines_with("msg=\"Reloaded ").len());
        controller.revive()?;
        arena.strike();
    }
    arena.note(&format!("{hits} of {kills} kills met reloads under way"));
    arena.settle(&fleet).await
}
