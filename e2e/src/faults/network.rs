//! The network between the controller and the servers: answers that are cut in the middle, answers
//! that never come, while what was asked for has been done.

use anyhow::{Result, ensure};
use fastrand::Rng;

use super::Plan;
use super::arena::{Arena, begun, reloads_begun};
use super::watches::behind_a_wire;
use super::wire::{Weather, Wire};
use crate::controller::Controller;
use crate::scenario::{SOON, USER_AGENT};
use crate::wait::eventually;

/// Secrets that are rotated at a time.
const ROTATED: usize = 12;

/// Each connection ends before so many bytes of answers: a few answers of a kilobyte.
const BYTES_OF_VAULT: usize = 12_000;

/// The same for the API server: its part of the handshake, and a few objects of three kilobytes.
const BYTES_OF_THE_API: usize = 40_000;

/// Polls through which answers are cut.
const POLLS: usize = 6;

/// Answers of Vault are cut at random places.
pub(super) async fn vault_cut(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let rng = Rng::with_seed(arena.rng.u64(..));
    let port = arena.bed.vault.address().rsplit(':').next().unwrap_or_default().parse()?;
    let wire = Wire::to(port, rng).await?;
    let address = format!("http://127.0.0.1:{}", wire.port());
    let options = arena.options().env("VAULT_ADDR", address);
    let controller = [Controller::start(&arena.bed, &options).await?];
    for _ in 0..plan.times * 2 {
        arena.strike();
        let before = wire.cuts();
        arena.rotate_loosely(ROTATED).await?;
        wire.set(Weather::Cutting(BYTES_OF_VAULT));
        for _ in 0..3 {
            controller[0].wait_for_polls(POLLS / 3, SOON).await?;
            arena.rotate_loosely(ROTATED / 2).await?;
        }
        wire.set(Weather::Fair);
        let cuts = wire.cuts() - before;
        ensure!(cuts > 0, "no answer was cut");
        arena.note(&format!("{cuts} answers were cut"));
        arena.settle(&controller).await?;
    }
    Ok(())
}

/// Answers of the API server are cut at random places: also those to PATCHes that were applied.
pub(super) async fn api_cut(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let (wire, controller) = behind_a_wire(arena).await?;
    let controller = [controller];
    for _ in 0..plan.times * 2 {
        arena.strike();
        let before = wire.cuts();
        let answered = controller[0].lines_with("msg=\"Reloaded ").len();
        wire.set(Weather::Cutting(BYTES_OF_THE_API));
        for _ in 0..3 {
            arena.rotate_at_once(ROTATED).await?;
            controller[0].wait_for_polls(POLLS / 3, SOON).await?;
        }
        let patches = arena.patches().await?;
        let applied = patches.iter().filter(|patch| patch.code == 200).count();
        let answered = controller[0].lines_with("msg=\"Reloaded ").len() - answered;
        wire.set(Weather::Fair);
        let cuts = wire.cuts() - before;
        ensure!(cuts > 0, "no answer was cut");
        arena.note(&format!(
            "{cuts} answers were cut, of them {} to PATCHes that were applied",
            applied.saturating_sub(answered)
        ));
        arena.settle(&controller).await?;
    }
    Ok(())
}

/// PATCHes are applied and their answers never come, nor does any event of a watch: whoever decides
/// anew by what is known then reloads a second time.
pub(super) async fn api_stalled(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let (wire, controller) = behind_a_wire(arena).await?;
    let controller = [controller];
    for _ in 0..plan.times.div_ceil(2) {
        arena.strike();
        let seen = begun(&controller[0]);
        let lines = controller[0].lines().len();
        arena.rotate_at_once(ROTATED).await?;
        let number = arena.rng.usize(1..30);
        reloads_begun(&controller[0], seen, number).await?;
        wire.set(Weather::Holding);
        let line = "failed reloading workload: ";
        controller[0].wait_for_after(lines, line, SOON * 2).await?;
        arena.rotate_at_once(ROTATED / 4).await?;
        // The second attempt on what was applied already, with nothing learnt in between.
        let mark = arena.bed.mark().await?;
        eventually("more PATCHes", SOON * 2, || async {
            let requests = arena.bed.api_requests_of(USER_AGENT, &mark).await?;
            Ok(requests.iter().any(|request| request.verb == "patch").then_some(()))
        })
        .await?;
        wire.set(Weather::Fair);
        arena.settle(&controller).await?;
    }
    Ok(())
}
