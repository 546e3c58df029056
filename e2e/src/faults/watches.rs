//! Faults of watches: the streams end, and the resource version at which they resume is gone.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::arena::{Arena, SETTLE_WITHIN};
use super::ledger::Moment;
use super::plan::Plan;
use super::wire::{Weather, Wire};
use crate::controller::Controller;
use crate::scenario::{next_second, polling_fast};
use crate::wait::eventually;

/// Secrets that are rotated at a time.
const ROTATED: usize = 12;

/// The number of times that all connections are closed in a row.
const DROPS: usize = 20;

/// The number of workloads of each sort that are changed while the controller cannot see it.
const CHANGED: usize = 10;

/// Starts a controller that reaches the API server over a wire.
pub(super) async fn behind_a_wire(arena: &mut Arena) -> Result<(Wire, Controller)> {
    let rng = Rng::with_seed(arena.rng.u64(..));
    let wire = Wire::to(arena.bed.cluster.port(), rng).await?;
    let kubeconfig =
        arena.bed.reloader_kubeconfig_at(&format!("https://127.0.0.1:{}", wire.port()))?;
    let options = polling_fast().env("KUBECONFIG", kubeconfig);
    let controller = Controller::start(&arena.bed, &options).await?;
    Ok((wire, controller))
}

/// All connections are closed again and again while secrets are rotated and workloads deployed.
pub(super) async fn dropped(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let (wire, controller) = behind_a_wire(arena).await?;
    let controller = [controller];
    for _ in 0..plan.times {
        arena.strike();
        // A PATCH whose connection is closed may be applied without an answer.
        arena.audit_is_incomplete();
        for number in 0..DROPS {
            if number % 5 == 0 {
                arena.rotate_at_once(ROTATED).await?;
            }
            wire.drop_connections();
            sleep(Duration::from_millis(arena.rng.u64(..150))).await;
        }
        arena.settle(&controller).await?;
    }
    Ok(())
}

/// While the API server is out of reach, workloads are deployed again, opted in, created, deleted
/// and pointed at other secrets. Then the server forgets all earlier events, and more events
/// follow.
pub(super) async fn too_old(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let (wire, controller) = behind_a_wire(arena).await?;
    let controller = [controller];
    for time in 0..plan.times {
        arena.strike();
        let namespace = format!("behind-{time}");
        arena.make_namespace(&namespace).await?;
        // Workloads that are not opted in, that are deleted, and that stay.
        let out = arena.add(&namespace, CHANGED, false);
        arena.deploy(out.clone()).await?;
        let leaving = arena.add(&namespace, CHANGED, true);
        arena.deploy(leaving.clone()).await?;
        arena.rotate_at_once(ROTATED).await?;
        arena.settle(&controller).await?;

        wire.set(Weather::Refusing);
        let mut changed = Vec::new();
        for number in out.clone() {
            arena.opt_in(number);
            changed.push(number);
        }
        for _ in 0..CHANGED {
            let number = arena.rng.usize(..out.start);
            if !changed.contains(&number) {
                let secrets = arena.some_secrets(2);
                arena.refer(number, secrets);
                changed.push(number);
            }
        }
        arena.redeploy(&changed).await?;
        for number in leaving.clone() {
            let workload = arena.workload(number).clone();
            arena.bed.cluster.delete(&workload).await?;
        }
        arena.forget_from(leaving.start);
        next_second().await?;
        let all: Vec<usize> = (0..arena.secrets()).collect();
        arena.rotate(&all, Moment::One).await?;
        arena.bed.api_server.kill();
        arena.bed.api_server.start().await?;
        forget_the_past(arena).await?;
        // A change after the oldest revision that the server keeps: the only one that a watch could
        // deliver.
        next_second().await?;
        let late = arena.add(&namespace, CHANGED, true);
        arena.deploy(late).await?;
        arena.rotate_at_once(ROTATED).await?;
        arena.renew_controllers().await?;
        arena.audit_is_incomplete();

        let mark = arena.bed.mark().await?;
        wire.set(Weather::Fair);
        let relisted = eventually("all kinds to be listed anew", SETTLE_WITHIN, || async {
            let requests = arena.bed.api_requests_of("vault-secrets-reloader/", &mark).await?;
            let is_list = |kind: &str| {
                requests.iter().any(|it| it.verb == "list" && it.resource == kind && it.code == 200)
            };
            let all =
                ["deployments", "statefulsets", "daemonsets"].iter().all(|kind| is_list(kind));
            Ok(all.then_some(()))
        });
        relisted.await?;
        arena.settle(&controller).await?;
        arena.forget_beyond_lasting();
        arena.delete_workloads_of(&namespace).await?;
    }
    Ok(())
}

/// Makes etcd forget all revisions but the present one.
async fn forget_the_past(arena: &Arena) -> Result<()> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let ask = async |path: &str, body: Value| -> Result<Value> {
        let url = format!("{}/v3/kv/{path}", arena.bed.etcd_address());
        let answer = client.post(url).json(&body).send().await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.text().await?);
        Ok(answer.json().await?)
    };
    let range = ask("range", json!({"key": "AA=="})).await?;
    let revision = range["header"]["revision"].as_str().context("no revision")?;
    ask("compaction", json!({"revision": revision, "physical": true})).await.map(drop)
}
