//! The API server, or the etcd behind it, is killed, paused, restarted.

use std::time::Duration;

use anyhow::Result;

use super::arena::{Arena, begun, reloads_begun};
use super::plan::Plan;
use crate::controller::Controller;
use crate::scenario::polling_fast;

/// A request that is not answered is given up after ten seconds.
pub(super) const GIVEN_UP_WITHIN: Duration = Duration::from_mins(1);

/// What the controller says when it knows, and when it is over.
pub(super) const OUTAGE: &str = "level=warn msg=\"The API server does not work at present: ";
const OVER: &str = "level=info msg=\"The API server works again\"";

/// Secrets that are rotated at a time.
const ROTATED: usize = 12;

/// Killed while reloads are under way.
pub(super) async fn killed(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let controller = Controller::start(&arena.bed, &polling_fast()).await?;
    for _ in 0..plan.times {
        let seen = under_way(arena, &controller).await?;
        arena.bed.api_server.kill();
        down(arena, &controller, seen).await?;
        arena.bed.api_server.start().await?;
        over(arena, &controller).await?;
    }
    Ok(())
}

/// Told to end and started again, with its data.
pub(super) async fn restarted(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let mut controller = Controller::start(&arena.bed, &polling_fast()).await?;
    for number in 0..plan.times {
        let seen = under_way(arena, &controller).await?;
        arena.bed.api_server.stop().await?;
        down(arena, &controller, seen).await?;
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
        let seen = under_way(arena, &controller).await?;
        arena.bed.api_server.pause()?;
        down(arena, &controller, seen).await?;
        arena.bed.api_server.resume().await?;
        over(arena, &controller).await?;
    }
    Ok(())
}

/// The same for etcd: the API server accepts everything, and knows nothing.
pub(super) async fn etcd_paused(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let controller = Controller::start(&arena.bed, &polling_fast()).await?;
    for _ in 0..plan.times {
        let seen = under_way(arena, &controller).await?;
        arena.bed.etcd.pause()?;
        down(arena, &controller, seen).await?;
        arena.bed.etcd.resume().await?;
        arena.bed.api_server.wait_until_ready().await?;
        over(arena, &controller).await?;
    }
    Ok(())
}

/// Some reloads are done, some are under way, some are to come. Answers how many lines the controller
/// had written.
async fn under_way(arena: &mut Arena, controller: &Controller) -> Result<usize> {
    arena.strike();
    arena.audit_is_incomplete();
    let (lines, seen) = (controller.lines().len(), begun(controller));
    arena.rotate_at_once(ROTATED).await?;
    let number = arena.rng.usize(1..30);
    reloads_begun(controller, seen, number).await?;
    Ok(lines)
}

/// It is down, and secrets go on being rotated.
async fn down(arena: &mut Arena, controller: &Controller, seen: usize) -> Result<()> {
    arena.rotate_at_once(ROTATED).await?;
    controller.wait_for_after(seen, OUTAGE, GIVEN_UP_WITHIN).await?;
    Ok(())
}

/// It is up again, which is said as often as that it was down.
async fn over(arena: &mut Arena, controller: &Controller) -> Result<()> {
    arena.rotate_at_once(ROTATED / 4).await?;
    arena.renew_controllers().await?;
    arena.settle(std::slice::from_ref(controller)).await?;
    let said = [OUTAGE, OVER].map(|text| controller.lines_with(text).len());
    if said[0] != said[1] {
        arena.find(format!("it was said to be down {} times, and to be up {}", said[0], said[1]));
    }
    Ok(())
}
