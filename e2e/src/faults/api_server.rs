//! Faults of the API server and of its etcd: they are killed, paused, restarted.

use std::time::Duration;

use anyhow::Result;

use super::arena::{Arena, begun, reloads_begun};
use super::plan::Plan;
use crate::controller::Controller;
use crate::scenario::polling_fast;

/// The longest wait for the controller to give up a request. It gives up after ten seconds without
/// an answer.
pub(super) const GIVEN_UP_WITHIN: Duration = Duration::from_mins(1);

/// The controller's lines at the start and at the end of an outage.
pub(super) const OUTAGE: &str = "level=warn msg=\"The API server does not work at present: ";
const OVER: &str = "level=info msg=\"The API server works again\"";

/// Secrets that are rotated at a time.
const ROTATED: usize = 12;

/// The API server is killed while reloads are under way.
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

/// The API server is stopped and started again, with its data.
pub(super) async fn restarted(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let mut controller = Controller::start(&arena.bed, &polling_fast()).await?;
    for number in 0..plan.times {
        let seen = under_way(arena, &controller).await?;
        arena.bed.api_server.stop().await?;
        down(arena, &controller, seen).await?;
        if number % 2 == 1 {
            // The controller starts while the server does not run.
            controller.revive()?;
        }
        arena.bed.api_server.start().await?;
        over(arena, &controller).await?;
    }
    Ok(())
}

/// The API server is paused until requests are given up. It applies the accepted requests when it
/// resumes.
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

/// etcd is paused: the API server accepts requests and cannot answer them.
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

/// Waits until some reloads are done, some are under way and some are to come. Returns the number
/// of lines that the controller had written.
async fn under_way(arena: &mut Arena, controller: &Controller) -> Result<usize> {
    arena.strike();
    arena.audit_is_incomplete();
    let (lines, seen) = (controller.lines().len(), begun(controller));
    arena.rotate_at_once(ROTATED).await?;
    let number = arena.rng.usize(1..30);
    reloads_begun(controller, seen, number).await?;
    Ok(lines)
}

/// Rotates secrets while the server is down, and waits until the controller reports the outage.
async fn down(arena: &mut Arena, controller: &Controller, seen: usize) -> Result<()> {
    arena.rotate_at_once(ROTATED).await?;
    controller.wait_for_after(seen, OUTAGE, GIVEN_UP_WITHIN).await?;
    Ok(())
}

/// Rotates more secrets after the server is up again, and compares. The controller must report the
/// end of each outage that it reported.
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
