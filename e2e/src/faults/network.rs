//! Faults of the network between the controller and the servers: answers that are cut, and answers
//! that never come although the request was applied.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;

use super::api_server::{GIVEN_UP_WITHIN, OUTAGE};
use super::arena::{Arena, SETTLE_WITHIN};
use super::plan::Plan;
use super::settling::quiet;
use super::watches::behind_a_wire;
use super::wire::{Weather, Wire};
use crate::controller::Controller;
use crate::scenario::polling_fast;
use crate::wait::eventually;

/// Secrets that are rotated at a time.
const ROTATED: usize = 12;

/// The most bytes of Vault's answers on a connection: a few answers of a kilobyte.
const BYTES_OF_VAULT: usize = 12_000;

/// The most bytes of the API server's answers on a connection: its part of the handshake, and a few
/// objects of three kilobytes.
const BYTES_OF_THE_API: usize = 40_000;

/// The number of polls during which answers are cut.
const POLLS: usize = 6;

/// Answers of Vault are cut at random places.
pub(super) async fn vault_cut(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let rng = Rng::with_seed(arena.rng.u64(..));
    let port = arena.bed.vault.address().rsplit(':').next().unwrap_or_default().parse()?;
    let wire = Wire::to(port, rng).await?;
    let address = format!("http://127.0.0.1:{}", wire.port());
    let options = polling_fast().env("VAULT_ADDR", address);
    let controller = [Controller::start(&arena.bed, &options).await?];
    for _ in 0..plan.times {
        arena.strike();
        let before = wire.cuts();
        arena.rotate_loosely(ROTATED).await?;
        wire.set(Weather::Cutting(BYTES_OF_VAULT));
        for _ in 0..3 {
            controller[0].wait_for_polls(POLLS / 3, SETTLE_WITHIN).await?;
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

/// Answers of the API server are cut at random places, also answers to applied PATCHes.
pub(super) async fn api_cut(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let (wire, controller) = behind_a_wire(arena).await?;
    let controller = [controller];
    for _ in 0..plan.times {
        arena.strike();
        let before = wire.cuts();
        let answered = controller[0].lines_with("msg=\"Reloaded ").len();
        wire.set(Weather::Cutting(BYTES_OF_THE_API));
        for _ in 0..3 {
            arena.rotate_at_once(ROTATED).await?;
            controller[0].wait_for_polls(POLLS / 3, SETTLE_WITHIN).await?;
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

/// PATCHes are applied, and neither their answers nor any event of a watch arrive, even when the
/// API server works again. A controller that decides again by its old state would reload a second
/// time.
pub(super) async fn api_held(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let (wire, controller) = behind_a_wire(arena).await?;
    let controller = [controller];
    for _ in 0..plan.times.div_ceil(2) {
        arena.strike();
        // The look-ups of revisions at a start must not be held.
        quiet(&controller).await?;
        wire.set(Weather::Holding);
        let seen = controller[0].lines().len();
        arena.rotate_at_once(1).await?;
        controller[0].wait_for_after(seen, OUTAGE, GIVEN_UP_WITHIN).await?;
        wire.set(Weather::HoldingOld);
        let again = eventually("second attempts", SETTLE_WITHIN, || async {
            let mut attempts: HashMap<_, usize> = HashMap::new();
            for patch in arena.patches().await? {
                *attempts.entry((patch.resource, patch.namespace, patch.name)).or_default() += 1;
            }
            let again = attempts.values().filter(|number| **number > 1).count();
            Ok((again > 0).then_some(again))
        });
        let again = again.await.with_context(|| controller[0].last_lines())?;
        arena
            .note(&format!("{again} workloads were tried again without knowing what became of it"));
        arena.rotate_at_once(ROTATED).await?;
        wire.set(Weather::Fair);
        arena.settle(&controller).await?;
    }
    Ok(())
}
