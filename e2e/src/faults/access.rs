//! Faults of the controller's access to Vault. Its token is revoked, or its policy is withdrawn and
//! given back, between two requests of one poll. Or its requests are over a rate limit.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use http::Method;
use jiff::SignedDuration;
use serde_json::json;

use super::arena::{Arena, SETTLE_WITHIN};
use super::gateway::Gateway;
use super::plan::Plan;
use crate::controller::Controller;
use crate::deploy::allow_login;
use crate::scenario::polling_fast;
use crate::vault::Vault;
use crate::vault_access::RELOADER_POLICY;
use crate::wait::eventually;

/// Secrets that are rotated at a time.
const ROTATED: usize = 12;

/// The requests a second that the quota lets through. A poll of 50 secrets takes several seconds.
const RATE: u32 = 20;

/// The rules of a policy that allows nothing. Vault refuses a policy without rules.
const NOTHING: &str = "path \"none\" { capabilities = [\"deny\"] }";

/// The quota's name.
const QUOTA: &str = "sys/quotas/rate-limit/arena";

/// The way in which a poll reads the secrets. The policy decides it.
#[derive(Clone, Copy)]
enum Reading {
    /// By a request for each secret.
    OneByOne,
    /// One secret by its own request, and the others by a LIST of their folder.
    ByFolder,
}

impl Reading {
    fn rules(self) -> String {
        match self {
            Self::OneByOne => {
                "path \"secret/metadata/*\" { capabilities = [\"read\"] }\n".to_owned()
            }
            Self::ByFolder => Vault::reloader_rules("secret"),
        }
    }

    /// The number of requests of a poll.
    fn requests(self, secrets: usize) -> usize {
        match self {
            Self::OneByOne => secrets,
            Self::ByFolder => 2,
        }
    }
}

/// The token is revoked, and the policy is withdrawn and given back, each between two requests of a
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
    for time in 0..plan.times.max(2) {
        let reading = if time % 2 == 0 { Reading::OneByOne } else { Reading::ByFolder };
        let vault = arena.bed.vault.clone();
        set_policy(vault.clone(), reading.rules()).await?;
        let controller = [Controller::start(&arena.bed, &options).await?];
        arena.strike();
        let denied = gateway.answers(403);
        arena.rotate_loosely(ROTATED).await?;
        let poll = reading.requests(arena.secrets());
        let mut next = || arena.rng.usize(1..=poll.div_ceil(2));
        let first = next();
        gateway.plan(first, revoke_all(vault.clone()).boxed());
        let second = first + poll + next();
        gateway.plan(second, set_policy(vault.clone(), NOTHING.to_owned()).boxed());
        gateway.plan(second + next(), set_policy(vault, reading.rules()).boxed());
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

async fn revoke_all(vault: Vault) -> Result<()> {
    vault.revoke_prefix("auth/kubernetes/login").await
}

async fn set_policy(vault: Vault, rules: String) -> Result<()> {
    vault.put_policy(RELOADER_POLICY, &rules).await
}

/// A quota lets only a part of each poll through.
pub(super) async fn rate_limit(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let gateway = Gateway::before(&arena.bed.vault, SignedDuration::ZERO).await?;
    let options = polling_fast().env("VAULT_ADDR", gateway.address());
    for time in 0..plan.times.div_ceil(2).max(2) {
        let is_listed = time % 2 == 1 && arena.bed.vault.is_openbao();
        let (reading, path, rate, wanted) = if is_listed {
            // There are two polls a second, and a refused LIST is not repeated.
            (Reading::ByFolder, "secret/detailed-metadata/*", 1, 1)
        } else {
            (Reading::OneByOne, "secret/metadata/arena/*", RATE, 20)
        };
        set_policy(arena.bed.vault.clone(), reading.rules()).await?;
        let controller = [Controller::start(&arena.bed, &options).await?];
        arena.strike();
        let limited = gateway.answers(429);
        arena.rotate_loosely(ROTATED).await?;
        let quota = json!({"path": path, "rate": rate, "interval": "1s"});
        arena.bed.vault.ask(Method::POST, QUOTA, Some(quota)).await.context("the quota")?;
        eventually("requests over the quota", SETTLE_WITHIN, || async {
            Ok((gateway.answers(429) >= limited + wanted).then_some(()))
        })
        .await?;
        arena.rotate_loosely(ROTATED).await?;
        // Rotations reach all workloads although each poll is over the rate limit.
        arena.wait_until_reached().await;
        arena.note(&format!("{} requests were over the quota", gateway.answers(429) - limited));
        arena.bed.vault.ask(Method::DELETE, QUOTA, None).await?;
        arena.settle(&controller).await?;
    }
    Ok(())
}

/// Removes the quota and restores the policy, if a fault left them changed.
pub(super) async fn restore(vault: &Vault) {
    _ = vault.ask(Method::DELETE, QUOTA, None).await;
    _ = set_policy(vault.clone(), Reading::ByFolder.rules()).await;
}
