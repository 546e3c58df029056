//! The faults that other clients cause: they write workloads all the time, deny changes of them,
//! and delete their namespace.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::arena::{Arena, FREEZE, SETTLE_WITHIN};
use super::ledger::Moment;
use super::plan::Plan;
use super::settling::quiet;
use crate::cluster::Cluster;
use crate::controller::Controller;
use crate::noisy::NoisyTenant;
use crate::refusal::{lift, refuse};
use crate::scenario::{next_second, polling_fast};
use crate::state::State;
use crate::wait::eventually;
use crate::workload::Workload;

/// Secrets that are rotated at a time.
const ROTATED: usize = 12;

/// The number of concurrent writers. Each writes its share of the workloads without a pause. More
/// writers only keep the API server from all other work.
const WRITERS: usize = 4;

/// The number of attempts on each denied workload to wait for. The delay doubles each time, so the
/// fourth attempt comes after seven seconds.
const ATTEMPTS: usize = 4;

/// The finalizer that holds a deleted object until the finalizer is removed.
const FINALIZER: &str = "e2e.example.com/held";

/// The policy that denies some workloads, and the namespace and the policy of a noisy tenant.
const FROZEN: &str = "frozen";
const NOISY: &str = "noisy";

/// The number of workloads of a namespace that is deleted.
const DOOMED: usize = 40;

/// Other clients write the workloads all the time, as autoscalers and operators do.
pub(super) async fn writers(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let controller = [Controller::start(&arena.bed, &polling_fast()).await?];
    // Dropped at the end, and its tasks with it.
    let mut writing = JoinSet::new();
    for writer in 0..WRITERS {
        let share = (0..arena.len()).skip(writer).step_by(WRITERS);
        let share: Vec<Workload> = share.map(|number| arena.workload(number).clone()).collect();
        writing.spawn(keep_writing(arena.bed.cluster.clone(), share));
    }
    let mut conflicts = 0;
    for _ in 0..plan.times {
        arena.strike();
        for _ in 0..3 {
            arena.rotate_at_once(ROTATED).await?;
            let polls = arena.rng.usize(1..3);
            controller[0].wait_for_polls(polls, SETTLE_WITHIN).await?;
        }
        quiet(&controller).await?;
        conflicts += arena.patches().await?.iter().filter(|patch| patch.code == 409).count();
        arena.settle(&controller).await?;
    }
    drop(writing);
    arena.note(&format!("{conflicts} PATCHes met a conflict"));
    ensure!(conflicts > 0, "the writers were in nobody's way");
    Ok(())
}

async fn keep_writing(cluster: Cluster, share: Vec<Workload>) {
    for number in 0_u64.. {
        for workload in &share {
            // Labels, not annotations: a change of a Deployment's annotations changes its
            // generation.
            let patch = json!({"metadata": {"labels": {"e2e/written": number.to_string()}}});
            // A write that fails is repeated the next time.
            _ = cluster.patch(workload, &patch).await;
        }
    }
}

/// Removes the policies that refuse changes, if they exist.
pub(super) async fn lift_refusals(cluster: &Cluster) {
    for name in [FROZEN, NOISY] {
        _ = lift(cluster, name).await;
    }
}

/// An admission policy denies changes of some workloads. The other workloads are reloaded. Each
/// denied workload is logged once and tried again with back-off. It is reloaded when the policy is
/// gone.
pub(super) async fn denied(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let controller = [Controller::start(&arena.bed, &polling_fast()).await?];
    for _ in 0..plan.times.div_ceil(2) {
        arena.strike();
        let frozen = arena.freezable();
        let probe = arena.workload(frozen[0]).clone();
        let refusal = (FREEZE, "frozen for the holidays");
        refuse(&arena.bed.cluster, FROZEN, refusal, &probe, SETTLE_WITHIN).await?;
        let lines = controller[0].lines().len();
        let began = Instant::now();
        let secrets = arena.rotate_at_once(ROTATED * 2).await?;
        let denied: Vec<usize> =
            frozen.into_iter().filter(|number| arena.uses(*number, &secrets)).collect();
        ensure!(!denied.is_empty(), "no denied workload uses a rotated secret");
        let attempts =
            eventually("enough attempts on each denied workload", SETTLE_WITHIN, || async {
                let attempts = attempts_on(arena, &denied).await?;
                let enough =
                    denied.len() == attempts.len() && attempts.values().all(|n| *n >= ATTEMPTS);
                Ok(enough.then_some(attempts))
            })
            .await?;
        // The first attempt is made at once, the next ones after one second, two more, four more...
        let seconds = began.elapsed().as_secs() + 1;
        let most = 2 + usize::try_from((seconds + 1).ilog2())?;
        let busiest = attempts.values().max().copied().unwrap_or_default();
        arena.note(&format!(
            "{} workloads denied, at most {busiest} attempts on each in {seconds} s",
            denied.len()
        ));
        if busiest > most {
            arena.find(format!("{busiest} attempts on a denied workload in {seconds} s"));
        }
        see_that_each_is_named_once(arena, &controller[0], lines, &denied);
        arena.rotate(&secrets[..ROTATED], Moment::One).await?;
        lift(&arena.bed.cluster, FROZEN).await?;
        arena.allow_at_most(&denied, 1);
        arena.settle(&controller).await?;
    }
    Ok(())
}

/// A noisy tenant is at work beside the workloads.
pub(super) async fn noisy(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let controller = [Controller::start(&arena.bed, &polling_fast()).await?];
    let probes = controller[0].address();
    let tenant = NoisyTenant::begin(&arena.bed, NOISY, &probes, "arena/0").await?;
    for _ in 0..plan.times.div_ceil(2) {
        arena.strike();
        arena.rotate_loosely(ROTATED).await?;
        controller[0].wait_for_polls(2, SETTLE_WITHIN).await?;
        arena.rotate_loosely(ROTATED).await?;
        arena.settle(&controller).await?;
    }
    let (_, memory) = controller[0].memory()?;
    arena.note(&format!("the controller took at most {} MiB", memory >> 20));
    tenant.end(&arena.bed).await
}

/// Returns the number of attempts on each denied workload.
async fn attempts_on(arena: &Arena, denied: &[usize]) -> Result<HashMap<usize, usize>> {
    let patches = arena.patches().await?;
    let mut attempts = HashMap::new();
    for number in denied {
        let name = arena.workload(*number).name();
        let its = patches.iter().filter(|patch| {
            matches!(patch.code, 403 | 422)
                && patch.name == name.name
                && patch.namespace == name.namespace
                && patch.resource == name.kind.plural()
        });
        let number_of = its.count();
        if number_of > 0 {
            attempts.insert(*number, number_of);
        }
    }
    Ok(attempts)
}

fn see_that_each_is_named_once(
    arena: &mut Arena,
    controller: &Controller,
    seen: usize,
    denied: &[usize],
) {
    let errors: Vec<String> = controller
        .lines()
        .into_iter()
        .skip(seen)
        .map(|line| line.text)
        .filter(|text| text.contains("level=error"))
        .collect();
    for number in denied {
        let line = format!("failed reloading workload: {}:", arena.workload(*number).name());
        let named: Vec<_> = errors.iter().filter(|error| error.contains(&line)).collect();
        if named.len() != 1 || !named[0].contains("frozen for the holidays") {
            arena.find(format!("a denied workload was named {} times: {line}", named.len()));
        }
    }
    if errors.len() != denied.len() {
        arena.find(format!("{} errors for {} denied workloads", errors.len(), denied.len()));
    }
}

/// A namespace is deleted and held in termination by finalizers, half of its workloads by their
/// own. The other workloads are reloaded, and deleted workloads are left alone. Workloads that come
/// back under the same names are new.
pub(super) async fn terminating(arena: &mut Arena, plan: &Plan) -> Result<()> {
    let controller = [Controller::start(&arena.bed, &polling_fast()).await?];
    for time in 0..plan.times.div_ceil(2) {
        arena.strike();
        let namespace = format!("doomed-{time}");
        arena.make_namespace(&namespace).await?;
        let doomed: Vec<usize> = arena.add(&namespace, DOOMED, true).collect();
        next_second().await?;
        arena.deploy(doomed[0]..arena.len()).await?;
        let held: Vec<Workload> =
            doomed.iter().step_by(2).map(|number| arena.workload(*number).clone()).collect();
        let hold = json!({"metadata": {"finalizers": [FINALIZER]}});
        for workload in &held {
            arena.bed.cluster.patch(workload, &hold).await?;
        }
        hold_namespace(arena, &namespace).await?;

        // The workloads are deleted while their reloads are under way.
        arena.rotate_at_once(ROTATED).await?;
        delete_namespace(arena, &namespace).await?;
        eventually("the namespace to be emptied as far as it can be", SETTLE_WITHIN, || async {
            let states = arena.states().await?;
            let left = states.iter().filter(|(name, _)| name.namespace == namespace);
            let (mut number, mut all_deleted) = (0, true);
            for (_, state) in left {
                number += 1;
                all_deleted &= !state.object["metadata"]["deletionTimestamp"].is_null();
            }
            Ok((number == held.len() && all_deleted).then_some(()))
        })
        .await?;
        quiet(&controller).await?;
        let before = counts(arena, &held).await?;
        arena.forget_beyond_lasting();
        arena.settle(&controller).await?;

        let all: Vec<usize> = (0..arena.secrets()).collect();
        arena.rotate(&all, Moment::One).await?;
        quiet(&controller).await?;
        let requests = arena.patches().await?;
        let there = requests.iter().filter(|request| request.namespace == namespace).count();
        if there > 0 {
            arena.find(format!("{there} PATCHes of workloads that are being deleted"));
        }
        if counts(arena, &held).await? != before {
            arena.find("workloads that are being deleted were reloaded".to_owned());
        }
        arena.settle(&controller).await?;

        let release = json!({"metadata": {"finalizers": null}});
        for workload in &held {
            arena.bed.cluster.patch(workload, &release).await?;
        }
        release_namespace(arena, &namespace).await?;
        eventually("the namespace to be gone", Duration::from_mins(1), || async {
            let list = arena.bed.cluster.get_path("/api/v1/namespaces").await?;
            let names = list["items"].as_array().into_iter().flatten();
            let is_there = names.into_iter().any(|it| it["metadata"]["name"] == namespace.as_str());
            Ok((!is_there).then_some(()))
        })
        .await?;
        arena.make_namespace(&namespace).await?;
        next_second().await?;
        let again = arena.add(&namespace, DOOMED, true);
        arena.deploy(again).await?;
        quiet(&controller).await?;
        arena.settle(&controller).await?;
        arena.rotate_at_once(ROTATED * 2).await?;
        arena.settle(&controller).await?;
        arena.forget_beyond_lasting();
        delete_namespace(arena, &namespace).await?;
    }
    Ok(())
}

async fn counts(arena: &Arena, workloads: &[Workload]) -> Result<Vec<Option<i64>>> {
    let states = arena.states().await?;
    let state = |workload: &Workload| states.get(workload.name()).context("a workload is gone");
    workloads.iter().map(|workload| Ok(State::count(state(workload)?))).collect()
}

/// Returns the path of the object that holds a namespace in termination.
fn holder(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps/holder")
}

async fn hold_namespace(arena: &Arena, namespace: &str) -> Result<()> {
    let metadata = json!({"name": "holder", "finalizers": [FINALIZER]});
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    send(arena, Method::POST, &path, "application/json", &object).await
}

async fn release_namespace(arena: &Arena, namespace: &str) -> Result<()> {
    let release = json!({"metadata": {"finalizers": null}});
    send(arena, Method::PATCH, &holder(namespace), "application/merge-patch+json", &release).await
}

async fn delete_namespace(arena: &Arena, namespace: &str) -> Result<()> {
    let path = format!("/api/v1/namespaces/{namespace}");
    send(arena, Method::DELETE, &path, "application/json", &json!({})).await
}

async fn send(
    arena: &Arena,
    method: Method,
    path: &str,
    content_type: &str,
    body: &Value,
) -> Result<()> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content_type)
        .body(serde_json::to_vec(body)?)?;
    arena
        .bed
        .cluster
        .client()
        .request_text(request)
        .await
        .map(drop)
        .with_context(|| path.to_owned())
}
