//! Others who write the same workloads, and policies that refuse a reload.

use std::time::Duration;

use anyhow::Result;
use e2e::refusal::{lift, refuse};
use e2e::scenario::{SOON, polling_faster};
use e2e::{ApiRequest, Bed, Cluster, Controller, Mark, Workload, eventually};
use serde_json::json;
use tokio::task::JoinSet;

e2e::scenarios! {
    workloads_that_others_write_all_the_time_roll_once: long,
    a_refused_workload_is_named_and_tried_again_and_the_others_roll,
}

const WORKLOADS: usize = 20;

fn using(namespace: &str, name: &str, path: &str) -> Workload {
    Workload::deployment(namespace, name)
        .replicas(0)
        .opted_in()
        .env("A", &format!("vault:secret/data/{path}#k"))
}

/// The controller's PATCHes of one workload since, in order.
async fn patches(bed: &Bed, since: &Mark, name: &str) -> Result<Vec<ApiRequest>> {
    let mut requests = bed.api_requests_of("vault-secrets-reloader/", since).await?;
    requests.retain(|request| request.patches_workload() && request.name == name);
    Ok(requests)
}

/// Writes a workload again and again, as its autoscaler and its operator would.
///
/// Each annotation makes a new generation of a Deployment, and a reload waits until the Deployment's own
/// controller has seen it. With an annotation in each write, that controller never catches up on a slow
/// machine. A label makes no generation, and is as much in the way of a PATCH.
async fn keep_writing(cluster: Cluster, workload: Workload) {
    for number in 0_u64.. {
        let annotations = json!({"e2e/written": (number / 20).to_string()});
        let labels = json!({"e2e/parity": (number % 2).to_string()});
        let patch = json!({"metadata": {"annotations": annotations, "labels": labels}});
        // What fails is done the next time.
        _ = cluster.patch(&workload, &patch).await;
    }
}

async fn workloads_that_others_write_all_the_time_roll_once() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("written").await?;
    bed.write_secrets(&["written/a"]).await?;
    let workloads: Vec<Workload> = (0..WORKLOADS)
        .map(|number| using("written", &format!("w-{number}"), "written/a"))
        .collect();
    bed.deploy_all(&workloads.iter().collect::<Vec<_>>()).await?;
    let controller = Controller::start(&bed, &polling_faster()).await?;
    let nobody: Vec<_> = workloads.iter().map(|workload| (workload, None)).collect();
    bed.expect_no_roll(&controller, &nobody).await?;

    // Dropped at the end of the test, and its tasks with it.
    let mut writers = JoinSet::new();
    for workload in &workloads {
        writers.spawn(keep_writing(bed.cluster.clone(), workload.clone()));
    }
    for workload in &workloads {
        let is_written = |state: &e2e::State| state.annotation("e2e/written").is_some();
        bed.cluster.wait_for(workload, "its other writer", SOON, is_written).await?;
    }
    let mark = bed.mark().await?;
    bed.rotate("written/a").await?;
    // Its own controller is in the writers' way too, and may not have seen the reload.
    let is_reloaded = |state: &e2e::State| state.count() == Some(1);
    for workload in &workloads {
        bed.cluster.wait_for(workload, "its reload", Duration::from_mins(1), is_reloaded).await?;
    }
    let once: Vec<_> = workloads.iter().map(|workload| (workload, Some(1))).collect();
    bed.expect_no_roll(&controller, &once).await?;
    drop(writers);

    let mut conflicts = 0;
    for workload in &workloads {
        let patches = patches(&bed, &mark, &workload.name().name).await?;
        let answered = |code: u16| patches.iter().filter(|request| request.code == code).count();
        assert_eq!(answered(200), 1, "{patches:#?}");
        conflicts += answered(409);
    }
    assert!(conflicts > 0, "the writers were in nobody's way: this proves nothing");
    Ok(())
}

async fn a_refused_workload_is_named_and_tried_again_and_the_others_roll() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("refused").await?;
    bed.write_secrets(&["refused/a"]).await?;
    let frozen = using("refused", "frozen", "refused/a").label("e2e/freeze", "true");
    let others: Vec<Workload> =
        (0..5).map(|number| using("refused", &format!("free-{number}"), "refused/a")).collect();
    let all: Vec<&Workload> = others.iter().chain([&frozen]).collect();
    bed.deploy_all(&all).await?;
    let controller = Controller::start(&bed, &polling_faster()).await?;
    let nobody: Vec<_> = all.iter().map(|workload| (*workload, None)).collect();
    bed.expect_no_roll(&controller, &nobody).await?;

    let refusal = ("e2e/freeze", "frozen for the holidays");
    refuse(&bed.cluster, "refused", refusal, &frozen, SOON).await?;
    let mark = bed.mark().await?;
    bed.rotate("refused/a").await?;
    for workload in &others {
        bed.cluster.wait_for_count(workload, 1, SOON).await?;
    }
    let line = format!("failed reloading workload: {}", frozen.name());
    let error = controller.wait_for(&line, SOON).await?;
    assert!(error.text.contains("level=error"), "{}", error.text);
    assert!(error.text.contains("frozen for the holidays"), "{}", error.text);

    let polls = controller.polls();
    let refused = eventually("three more attempts", SOON, || async {
        let refused = patches(&bed, &mark, "frozen").await?;
        Ok((refused.len() >= 3).then_some(refused))
    })
    .await?;
    assert!(refused.iter().all(|request| matches!(request.code, 403 | 422)), "{refused:#?}");
    let polls = controller.polls() - polls;
    assert!(polls > refused.len(), "{} attempts in {polls} polls", refused.len());
    let errors = controller.lines_matching(|text| text.contains("level=error"));
    assert_eq!(errors.len(), 1, "said once: {errors:#?}");

    lift(&bed.cluster, "refused").await?;
    bed.cluster.wait_for_count(&frozen, 1, SOON).await?;
    let once: Vec<_> = all.iter().map(|workload| (*workload, Some(1))).collect();
    bed.expect_no_roll(&controller, &once).await?;
    let rolled = patches(&bed, &mark, "frozen").await?;
    assert_eq!(rolled.iter().filter(|request| request.code == 200).count(), 1);
    Ok(())
}
