//! Rotations that meet what real clusters have: a StatefulSet that hangs, budgets for disruptions, and
//! leaders that are killed in each phase of a wave.

use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::controller::is_leading;
use e2e::refusal;
use e2e::scenario::{SOON, next_second, polling_faster};
use e2e::{Bed, Controller, Kind, Workload, eventually};
use serde_json::json;

use crate::waves::{
    RELOAD_ORDER, TIMES, follow, many, progress, refs, status_when, wait_until_complete,
    wait_until_stopped,
};

e2e::scenarios! {
    a_stateful_set_that_hangs_stops_the_rotation_until_it_is_healthy: long,
    a_disruption_budget_does_not_hold_a_rotation: long,
    a_leader_that_is_killed_in_any_phase_loses_nothing: long,
}

async fn a_stateful_set_that_hangs_stops_the_rotation_until_it_is_healthy() -> Result<()> {
    const NAMESPACE: &str = "stopped-others";
    const NO_PODS: &str = "stopped-hangs";
    const OTHERS: usize = 6;
    let path = "secret/data/stopped/hangs";
    let bed = Bed::shared().await?;
    for namespace in [NAMESPACE, NO_PODS] {
        bed.cluster.create_namespace(namespace).await?;
    }
    bed.write_secrets(&["stopped/hangs"]).await?;
    let database = Workload::new(Kind::StatefulSet, NO_PODS, "database")
        .opted_in()
        .replicas(2)
        .env("A", &format!("vault:{path}#k"))
        .annotation(RELOAD_ORDER, "-1");
    let others = many(OTHERS, NAMESPACE, &["stopped/hangs"]);
    let mut all = refs(&others);
    all.push(&database);
    bed.deploy_all(&all).await?;
    let options = polling_faster().in_waves().flag("--rollout-timeout", "5s");
    let controller = Controller::start(&bed, &options).await?;
    wait_until_complete(&controller, path).await?;

    // A StatefulSet reports no failure: one of its pods is gone, and no other comes.
    refusal::refuse_pods(&bed.cluster, NO_PODS, SOON).await?;
    bed.rotate("stopped/hangs").await?;
    wait_until_stopped(&controller, path, 2, "RolloutTimedOut", OTHERS).await?;
    let nobody: Vec<_> = others.iter().map(|workload| (workload, None)).collect();
    bed.expect_no_roll(&controller, &nobody).await?;

    refusal::lift(&bed.cluster, NO_PODS).await?;
    bed.expect_rolls(&controller, &refs(&others), 1).await?;
    wait_until_complete(&controller, path).await?;
    assert_eq!(bed.counts(&[&database]).await?, [Some(1)], "{}", controller.last_lines());
    Ok(())
}

async fn a_disruption_budget_does_not_hold_a_rotation() -> Result<()> {
    const NAMESPACE: &str = "stopped-budget";
    let path = "secret/data/stopped/budget";
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace(NAMESPACE).await?;
    bed.write_secrets(&["stopped/budget"]).await?;
    let mut workloads = many(6, NAMESPACE, &["stopped/budget"]);
    workloads.push(
        Workload::new(Kind::StatefulSet, NAMESPACE, "database")
            .opted_in()
            .env("A", &format!("vault:{path}#k")),
    );
    bed.deploy_all(&refs(&workloads)).await?;
    // No pod of the namespace may be evicted. Rolling updates delete pods, and evict none.
    let budget = json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"namespace": NAMESPACE, "name": "none"},
        "spec": {"maxUnavailable": 0, "selector": {}},
    });
    bed.cluster.apply_object(&budget, "poddisruptionbudgets").await?;
    let controller = Controller::start(&bed, &polling_faster().in_waves()).await?;
    wait_until_complete(&controller, path).await?;
    next_second().await?;
    bed.rotate("stopped/budget").await?;
    bed.expect_rolls(&controller, &refs(&workloads), 1).await?;
    wait_until_complete(&controller, path).await
}

/// The leader is killed while the first workload rolls out, while the rotation is stopped, and while the
/// last wave rolls out. The next leader goes on from what the cluster shows.
async fn a_leader_that_is_killed_in_any_phase_loses_nothing() -> Result<()> {
    const NAMESPACE: &str = "stopped-killed";
    const NO_PODS: &str = "stopped-canary";
    const OTHERS: usize = 8;
    let path = "secret/data/stopped/killed";
    let bed = Bed::shared().await?;
    for namespace in [NAMESPACE, NO_PODS] {
        bed.cluster.create_namespace(namespace).await?;
    }
    bed.write_secrets(&["stopped/killed"]).await?;
    let ready_after = Duration::from_secs(1);
    let slowly = |workload: Workload| workload.ready_after(ready_after);
    let others: Vec<_> =
        many(OTHERS, NAMESPACE, &["stopped/killed"]).into_iter().map(slowly).collect();
    let canary = Workload::deployment(NO_PODS, "canary")
        .opted_in()
        .env("A", &format!("vault:{path}#k"))
        .annotation(RELOAD_ORDER, "-1")
        .ready_after(ready_after);
    let mut all = refs(&others);
    all.push(&canary);
    bed.deploy_all(&all).await?;
    let replica = |name: &str| polling_faster().in_waves().leader_elect(NAMESPACE, name, TIMES);
    let mut leader = Controller::start(&bed, &replica("one")).await?;
    leader.wait_for_line(is_leading, SOON).await?;
    wait_until_complete(&leader, path).await?;
    next_second().await?;
    let mark = bed.mark().await?;

    // Its pods are refused, and the leader is killed before it can see that.
    refusal::refuse_pods(&bed.cluster, NO_PODS, SOON).await?;
    let second = Controller::start(&bed, &replica("two")).await?;
    bed.rotate("stopped/killed").await?;
    bed.cluster.wait_for_count(&canary, 1, SOON).await?;
    leader.kill();
    second.wait_for_line(is_leading, SOON).await?;
    wait_until_stopped(&second, path, 2, "FailedCreate", OTHERS).await?;

    // The rotation is stopped, and stays stopped with another leader.
    let third = Controller::start(&bed, &replica("three")).await?;
    let mut second = second;
    second.kill();
    third.wait_for_line(is_leading, SOON).await?;
    wait_until_stopped(&third, path, 2, "FailedCreate", OTHERS).await?;
    let nobody: Vec<_> = others.iter().map(|workload| (workload, None)).collect();
    bed.expect_no_roll(&third, &nobody).await?;

    // It goes on, and the leader of that time is killed in the last wave.
    let fourth = Controller::start(&bed, &replica("four")).await?;
    let mut third = third;
    refusal::lift(&bed.cluster, NO_PODS).await?;
    eventually("the last wave", SOON, || async {
        let (reloaded, _) = progress(&bed.deployments().await?, 1);
        Ok((reloaded > OTHERS - 2).then_some(()))
    })
    .await
    .with_context(|| third.last_lines())?;
    third.kill();
    fourth.wait_for_line(is_leading, SOON).await?;
    // 25 % of nine at a time, and as many if two leaders overlapped.
    follow(&bed, &fourth, 1, 6).await?;
    let is_complete = |secret: &serde_json::Value| secret["state"] == json!("complete");
    status_when(&fourth, path, "the rotation to be complete", is_complete).await?;
    for workload in all {
        assert_eq!(bed.reloads_since(&mark, workload).await?, 1, "{}", workload.name());
    }
    Ok(())
}
