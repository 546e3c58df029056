//! The API server, or the etcd behind it, is killed, paused, restarted.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Plan;
use super::arena::{Arena, begun, reloads_begun};
use crate::controller::Controller;
use crate::scenario::polling_fast;
use crate::wait::eventually;

/// A request that is not answered is given up after ten seconds.
const GIVEN_UP_WITHIN: Duration = Duration::from_mins(1);

/// What the controller says of a reload that did not work.
const FAILED: &str = "failed reloading workload: ";

/// And of one that it begins. As many of these as are under way at a time: those before were given up.
const BEGUN: &str = "Reloading workload: ";
const AT_A_TIME: usize = 8;

/// Secrets that are rotated at a time.
const ROTATED: usize = 12;

/// Killed while reloads are under way.
pub(super) async fn killed(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let controller = Controller::start(&arena.bed, &polling_fast()).await?;
    for _ in 0..plan.times {
        under_way(arena, &controller).await?;
        arena.bed.api_server.kill();
        down(arena, &controller).await?;
        arena.bed.api_server.start().await?;
        over(arena, &controller).await?;
    }
    Ok(())
}

/// Told to end and started again, with its data.
pub(super) async fn restarted(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let mut controller = Controller::start(&arena.bed, &polling_fast()).await?;
    for number in 0..plan.times {
        under_way(arena, &controller).await?;
        arena.bed.api_server.stop().await?;
        down(arena, &controller).await?;
        if number % 2 == 1 {
            // Started in front of a server that is not there.
            controller.revive()?;
        }
        arena.bed.api_server.start().await?;
        over(arena, &controller).await?;
    }
    Ok(())
}

/// Paused until requests are given up; what it has accepted is done when it goes on.
pub(super) async fn paused(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let controller = Controller::start(&arena.bed, &polling_fast()).await?;
    for _ in 0..plan.times {
        under_way(arena, &controller).await?;
        arena.bed.api_server.pause()?;
        down(arena, &controller).await?;
        arena.bed.api_server.resume().await?;
        over(arena, &controller).await?;
    }
    Ok(())
}

/// The same for etcd: the API server accepts everything, and knows nothing.
pub(super) async fn etcd_paused(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let controller = Controller::start(&arena.bed, &polling_fast()).await?;
    for _ in 0..plan.times {
        under_way(arena, &controller).await?;
        arena.bed.etcd.pause()?;
        down(arena, &controller).await?;
        arena.bed.etcd.resume().await?;
        arena.bed.api_server.wait_until_ready().await?;
        over(arena, &controller).await?;
    }
    Ok(())
}

/// Some reloads are done, some are under way, some are to come.
async fn under_way(arena: &mut Arena, controller: &Controller) -> Result<()> {
    arena.strike();
    arena.audit_is_incomplete();
    let seen = begun(controller);
    arena.rotate_at_once(ROTATED).await?;
    let number = arena.rng.usize(1..30);
    reloads_begun(controller, seen, number).await
}

/// It is down, and secrets go on being rotated.
async fn down(arena: &mut Arena, controller: &Controller) -> Result<()> {
    let (seen, begun) = (controller.lines().len(), begun(controller));
    arena.rotate_at_once(ROTATED).await?;
    eventually("a reload to be given up", GIVEN_UP_WITHIN, || async {
        let lines = controller.lines();
        let has_failed = lines.iter().skip(seen).any(|line| line.text.contains(FAILED));
        let more = lines.iter().filter(|line| line.text.contains(BEGUN)).count() - begun;
        Ok((has_failed || more >= AT_A_TIME).then_some(()))
    })
    .await
    .with_context(|| controller.last_lines())
}

/// It is up again.
async fn over(arena: &mut Arena, controller: &Controller) -> Result<()> {
    arena.rotate_at_once(ROTATED / 4).await?;
    arena.renew_controllers().await?;
    arena.settle(std::slice::from_ref(controller)).await
}
