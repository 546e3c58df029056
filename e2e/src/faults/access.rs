//! What the controller may ask of Vault: its token is revoked, its policy withdrawn and given back,
//! between two requests of one poll; or its requests are too many.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use http::Method;
use jiff::SignedDuration;
use serde_json::json;

use super::Plan;
use super::arena::{Arena, SETTLE_WITHIN};
use super::gateway::Gateway;
use crate::controller::Controller;
use crate::deploy::allow_login;
use crate::scenario::polling_fast;
use crate::vault::Vault;
use crate::vault_access::RELOADER_POLICY;
use crate::wait::eventually;

/// Secrets that are rotated at a time.
const ROTATED: usize = 12;

/// Requests a second that the quota lets through: a poll of 50 secrets takes several seconds.
const RATE: u32 = 20;

/// The quota's name.
const QUOTA: &str = "sys/quotas/rate-limit/arena";

/// The token is revoked, and the policy withdrawn and given back, each between two requests of a
/// poll.
pub(super) async fn withdrawn(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let bed = &arena.bed;
    allow_login(bed, "default", "default").await?;
    let jwt = bed.cluster.request_token("default", "default", Duration::from_hours(1)).await?;
    let file = bed.folder().join("arena-jwt");
    std::fs::write(&file, jwt)?;
    let gateway = Gateway::before(&bed.vault, SignedDuration::ZERO).await?;
    let options =
        polling_fast().env("VAULT_ADDR", gateway.address()).kubernetes_login("reloader", &file);
    let controller = [Controller::start(&arena.bed, &options).await?];
    let secrets = arena.secrets();
    for _ in 0..plan.times {
        arena.strike();
        let denied = gateway.answers(403);
        arena.rotate_loosely(ROTATED).await?;
        let vault = arena.bed.vault.clone();
        let mut next = || arena.rng.usize(1..secrets / 2);
        let first = next();
        gateway.plan(first, revoke_all(vault.clone()).boxed());
        let second = first + secrets + next();
        gateway.plan(second, set_policy(vault.clone(), "").boxed());
        gateway.plan(second + next(), set_policy(vault, &rules()).boxed());
        eventually("what was planned to be done", SETTLE_WITHIN, || async {
            Ok(gateway.is_done()?.then_some(()))
        })
        .await?;
        arena.rotate_loosely(ROTATED).await?;
        let denied = gateway.answers(403) - denied;
        ensure!(denied > 0, "no request was denied");
        arena.note(&format!("{denied} requests were denied"));
        arena.settle(&controller).await?;
    }
    Ok(())
}

fn rules() -> String {
    Vault::reloader_rules("secret")
}

async fn revoke_all(vault: Vault) -> Result<()> {
    vault.revoke_prefix("auth/kubernetes/login").await
}

fn set_policy(vault: Vault, rules: &str) -> impl Future<Output = Result<()>> + use<> {
    // A policy without rules is refused; one that allows nothing of interest is not.
    let rules =
        if rules.is_empty() { "path \"none\" { capabilities = [\"deny\"] }" } else { rules };
    let rules = rules.to_owned();
    async move { vault.put_policy(RELOADER_POLICY, &rules).await }
}

/// A quota lets only a part of each poll through.
pub(super) async fn rate_limit(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let gateway = Gateway::before(&arena.bed.vault, SignedDuration::ZERO).await?;
    let options = polling_fast().env("VAULT_ADDR", gateway.address());
    let controller = [Controller::start(&arena.bed, &options).await?];
    for _ in 0..plan.times.div_ceil(2) {
        arena.strike();
        let limited = gateway.answers(429);
        arena.rotate_loosely(ROTATED).await?;
        let quota = json!({"path": "secret/metadata/arena/*", "rate": RATE, "interval": "1s"});
        arena.bed.vault.ask(Method::POST, QUOTA, Some(quota)).await.context("the quota")?;
        eventually("requests over the quota", SETTLE_WITHIN, || async {
            Ok((gateway.answers(429) >= limited + 20).then_some(()))
        })
        .await?;
        arena.rotate_loosely(ROTATED).await?;
        // While each poll is too much for it, what was rotated is reached all the same.
        arena.wait_until_reached().await;
        arena.note(&format!("{} requests were over the quota", gateway.answers(429) - limited));
        arena.bed.vault.ask(Method::DELETE, QUOTA, None).await?;
        arena.settle(&controller).await?;
    }
    Ok(())
}

/// Takes quota and withdrawn policy back, where they are left.
pub(super) async fn restore(vault: &Vault) {
    _ = vault.ask(Method::DELETE, QUOTA, None).await;
    _ = vault.put_policy(RELOADER_POLICY, &rules()).await;
}
