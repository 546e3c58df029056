//! Reloads that others take back, and workloads that others copy, redeploy and scale.

use anyhow::{Context as _, Result};
use e2e::scenario::{SOON, next_second, polling_faster};
use e2e::workload::{MARK, RECORD};
use e2e::{Bed, Cluster, Controller, Generation, Kind, State, Workload, WorkloadName};
use serde_json::{Value, json};
use tokio::task::JoinSet;

e2e::scenarios! {
    a_rollout_that_was_undone_is_reported_and_left,
    an_owner_that_strips_what_was_written_is_not_fought,
    a_new_version_is_rolled_where_the_one_before_was_stripped_unseen,
    a_newer_canary_with_the_same_labels_hides_nothing,
    the_record_of_another_workload_counts_as_none,
    who_redeploys_or_scales_after_a_reload_is_left_alone,
}

const KINDS: [Kind; 3] = [Kind::Deployment, Kind::DaemonSet, Kind::StatefulSet];

fn using(kind: Kind, namespace: &str, name: &str, path: &str) -> Workload {
    Workload::new(kind, namespace, name).opted_in().env("A", &format!("vault:secret/data/{path}#k"))
}

/// What was said of a workload at the level of warnings.
fn warnings(controller: &Controller, workload: &WorkloadName) -> Vec<String> {
    let name = workload.to_string();
    let lines =
        controller.lines_matching(|line| line.contains("level=warn") && line.contains(&name));
    lines.into_iter().map(|line| line.text).collect()
}

async fn a_rollout_that_was_undone_is_reported_and_left() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("undone").await?;
    bed.write_secrets(&["undone/a"]).await?;
    let workloads =
        KINDS.map(|kind| using(kind, "undone", &format!("a-{kind}").to_lowercase(), "undone/a"));
    bed.deploy_all(&workloads.each_ref()).await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    bed.expect_no_roll(&controller, &workloads.each_ref().map(|workload| (workload, None))).await?;
    bed.rotate("undone/a").await?;
    for workload in &workloads {
        bed.cluster.wait_for_count(workload, 1, SOON).await?;
        bed.cluster.wait_rolled_out(workload).await?;
    }

    for workload in &workloads {
        bed.rollout_undo(workload).await?;
    }
    let undone = workloads.each_ref().map(|workload| (workload, None));
    for start in ["first", "second"] {
        for workload in &workloads {
            let line = format!("The reload of {} was taken back", workload.name());
            controller.wait_for(&line, SOON).await.context(start)?;
        }
        bed.expect_no_roll(&controller, &undone).await.context(start)?;
        for workload in &workloads {
            let said = warnings(&controller, workload.name());
            assert_eq!(said.len(), 1, "after the {start} start: {said:#?}");
        }
        if start == "first" {
            controller.restart().await?;
        }
    }

    bed.rotate("undone/a").await?;
    for workload in &workloads {
        bed.cluster.wait_for_count(workload, 1, SOON).await?;
    }
    bed.expect_no_roll(&controller, &workloads.each_ref().map(|workload| (workload, Some(1)))).await
}

/// What an owner takes away.
#[derive(Debug, Clone, Copy)]
enum Strips {
    /// What was written to the pod template.
    Template,
    /// All that was written.
    Everything,
}

/// A controller of a test that keeps workloads as it wants them, until what it returns is dropped.
fn owner_of(cluster: &Cluster, owned: &[(Workload, Strips)]) -> JoinSet<()> {
    let (cluster, owned) = (cluster.clone(), owned.to_vec());
    let mut owner = JoinSet::new();
    owner.spawn(async move {
        loop {
            for (workload, strips) in &owned {
                // What fails is done the next time.
                _ = strip(&cluster, workload.name(), *strips).await;
            }
        }
    });
    owner
}

async fn strip(cluster: &Cluster, workload: &WorkloadName, strips: Strips) -> Result<()> {
    if cluster.get(workload).await?.mark().is_none() {
        return Ok(());
    }
    let template = json!({Generation::Current.count(): null, MARK: null});
    let mut patch = json!({"spec": {"template": {"metadata": {"annotations": template}}}});
    if let Strips::Everything = strips {
        patch["metadata"] = json!({"annotations": {RECORD: null}});
    }
    cluster.patch(workload, &patch).await.map(drop)
}

async fn an_owner_that_strips_what_was_written_is_not_fought() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("stripped").await?;
    bed.write_secrets(&["stripped/a"]).await?;
    let owned: Vec<(Workload, Strips)> = KINDS
        .into_iter()
        .flat_map(|kind| {
            [Strips::Template, Strips::Everything].map(|strips| {
                let name = format!("{kind}-{strips:?}").to_lowercase();
                (using(kind, "stripped", &name, "stripped/a"), strips)
            })
        })
        .collect();
    let workloads: Vec<&Workload> = owned.iter().map(|(workload, _)| workload).collect();
    bed.deploy_all(&workloads).await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    let nobody: Vec<_> = workloads.iter().map(|workload| (*workload, None)).collect();
    bed.expect_no_roll(&controller, &nobody).await?;

    let owner = owner_of(&bed.cluster, &owned);
    let mark = bed.mark().await?;
    bed.rotate("stripped/a").await?;
    for (start, most) in [("first", 1), ("second", 2)] {
        for workload in &workloads {
            let name = workload.name().to_string();
            let is_report = |line: &str| {
                line.contains("level=warn")
                    && line.contains(&name)
                    && (line.contains("was taken back") || line.contains("was written was removed"))
            };
            controller
                .wait_for_line(is_report, SOON)
                .await
                .with_context(|| format!("{name} after the {start} start"))?;
        }
        controller.wait_for_polls(4, SOON).await?;
        for workload in &workloads {
            let done = bed.reloads_since(&mark, workload).await?;
            let name = workload.name();
            assert!((1..=most).contains(&done), "{name} was reloaded {done} times by the {start}");
            let mut said = warnings(&controller, name);
            // On a busy machine its controller takes long, which is said as well.
            said.retain(|line| !line.contains("there is no revision of its present template"));
            assert_eq!(said.len(), 1, "after the {start} start: {said:#?}");
        }
        if start == "first" {
            controller.restart().await?;
        }
    }

    drop(owner);
    bed.rotate("stripped/a").await?;
    for workload in &workloads {
        bed.cluster.wait_for_count(*workload, 1, SOON).await?;
    }
    let once: Vec<_> = workloads.iter().map(|workload| (*workload, Some(1))).collect();
    bed.expect_no_roll(&controller, &once).await
}

async fn a_new_version_is_rolled_where_the_one_before_was_stripped_unseen() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("unseen").await?;
    bed.write_secrets(&["unseen/a"]).await?;
    let workload = using(Kind::Deployment, "unseen", "a", "unseen/a");
    bed.deploy_all(&[&workload]).await?;
    let controller = Controller::start(&bed, &polling_faster()).await?;
    bed.expect_no_roll(&controller, &[(&workload, None)]).await?;

    // Stripped before the workload's controller sees it, a reload leaves no trace at all.
    bed.controller_manager.kill();
    bed.rotate("unseen/a").await?;
    let is_reloaded = |state: &State| state.count() == Some(1);
    bed.cluster.wait_for(&workload, "its reload", SOON, is_reloaded).await?;
    strip(&bed.cluster, workload.name(), Strips::Everything).await?;
    bed.controller_manager.start().await?;
    let said = format!("Not reloading {}", workload.name());
    let line = controller.wait_for(&said, SOON).await?;
    assert!(line.text.contains("by e2e"), "it says who did it: {}", line.text);
    bed.expect_no_roll(&controller, &[(&workload, None)]).await?;
    // While the workload's controller starts, another warning may say that its revision is missing.
    let mut refusals = warnings(&controller, workload.name());
    refusals.retain(|line| line.contains(&said));
    assert_eq!(refusals.len(), 1, "{refusals:#?}");

    bed.rotate("unseen/a").await?;
    bed.cluster.wait_for_count(&workload, 1, SOON).await?;
    bed.expect_no_roll(&controller, &[(&workload, Some(1))]).await
}

async fn a_newer_canary_with_the_same_labels_hides_nothing() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("canary").await?;
    bed.write_secrets(&["canary/a"]).await?;
    let labelled = |name: &str| {
        using(Kind::Deployment, "canary", name, "canary/a")
            .label("app", "shop")
            .selector(&[("app", "shop")])
    };
    let (stable, canary) = (labelled("stable"), labelled("canary").label("track", "canary"));
    bed.deploy_all(&[&stable]).await?;
    next_second().await?;
    bed.rotate("canary/a").await?;
    next_second().await?;
    bed.deploy_all(&[&canary]).await?;

    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    bed.cluster.wait_for_count(&stable, 1, SOON).await?;
    let expected = [(&stable, Some(1)), (&canary, None)];
    bed.expect_no_roll(&controller, &expected).await?;
    controller.restart().await?;
    bed.expect_no_roll(&controller, &expected).await
}

async fn the_record_of_another_workload_counts_as_none() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("cloned").await?;
    bed.write_secrets(&["cloned/a"]).await?;
    let original = using(Kind::Deployment, "cloned", "original", "cloned/a");
    bed.deploy_all(&[&original]).await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    bed.expect_no_roll(&controller, &[(&original, None)]).await?;
    bed.rotate("cloned/a").await?;
    bed.cluster.wait_for_count(&original, 1, SOON).await?;
    bed.cluster.wait_rolled_out(&original).await?;
    let exported = bed.kubectl(&["get", "deployment", "original", "-n", "cloned", "-o", "json"]);
    let exported = exported.await?;
    bed.rotate("cloned/a").await?;
    bed.cluster.wait_for_count(&original, 2, SOON).await?;

    // Its record tells of the version before, and its pods have the present one.
    next_second().await?;
    let clone = WorkloadName::new(Kind::Deployment, "cloned", "clone");
    bed.cluster.create_object(&renamed(&exported, "clone")?, "deployments").await?;
    bed.cluster.wait_rolled_out(&clone).await?;
    assert!(bed.cluster.get(&clone).await?.record().is_some());
    let expected = [(&clone, Some(1)), (original.name(), Some(2))];
    bed.expect_no_roll(&controller, &expected).await?;
    controller.restart().await?;
    bed.expect_no_roll(&controller, &expected).await?;
    bed.rotate("cloned/a").await?;
    bed.cluster.wait_for_count(&original, 3, SOON).await?;
    let state = bed.cluster.wait_for_count(&clone, 2, SOON).await?;
    let record = state.record().context("no record")?;
    assert_eq!(record["uid"], state.uid(), "{record}");
    bed.expect_no_roll(&controller, &[(&clone, Some(2)), (original.name(), Some(3))]).await?;

    // What it slept through it gets, too.
    let clones_clone = WorkloadName::new(Kind::Deployment, "cloned", "clone-2");
    bed.cluster.create_object(&renamed(&exported, "clone-2")?, "deployments").await?;
    bed.cluster.wait_rolled_out(&clones_clone).await?;
    controller.terminate().await?;
    next_second().await?;
    bed.rotate("cloned/a").await?;
    controller.restart().await?;
    let expected = [(&clones_clone, Some(2)), (&clone, Some(3)), (original.name(), Some(4))];
    for (workload, count) in expected {
        bed.cluster.wait_for_count(workload, count.unwrap_or_default(), SOON).await?;
    }
    bed.expect_no_roll(&controller, &expected).await
}

fn renamed(exported: &str, name: &str) -> Result<Value> {
    let mut object: Value = serde_json::from_str(exported)?;
    let metadata = object["metadata"].as_object_mut().context("no metadata")?;
    for field in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
        metadata.remove(field);
    }
    metadata.insert("name".to_owned(), json!(name));
    object.as_object_mut().context("no object")?.remove("status");
    Ok(object)
}

async fn who_redeploys_or_scales_after_a_reload_is_left_alone() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("redeployed").await?;
    bed.write_secrets(&["redeployed/a"]).await?;
    let deployment = using(Kind::Deployment, "redeployed", "web", "redeployed/a");
    let stateful_set = using(Kind::StatefulSet, "redeployed", "db", "redeployed/a");
    let workloads = [&deployment, &stateful_set];
    bed.deploy_all(&workloads).await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    bed.expect_no_roll(&controller, &workloads.map(|workload| (workload, None))).await?;
    bed.rotate("redeployed/a").await?;
    for workload in workloads {
        bed.cluster.wait_for_count(workload, 1, SOON).await?;
        bed.cluster.wait_rolled_out(workload).await?;
    }

    let once = workloads.map(|workload| (workload, Some(1)));
    for (kind, name) in [("deployment", "web"), ("statefulset", "db")] {
        let target = format!("{kind}/{name}");
        for change in [
            vec!["set", "image", &target, "app=example.com/app:2"],
            vec!["rollout", "restart", &target],
            vec!["scale", &target, "--replicas=2"],
        ] {
            bed.kubectl(&[&change[..], &["--namespace", "redeployed"]].concat()).await?;
        }
    }
    bed.expect_no_roll(&controller, &once).await?;
    // Applied anew as it was: what the controller wrote is not the applier's, and stays.
    bed.deploy_all(&workloads).await?;
    bed.expect_no_roll(&controller, &once).await?;
    controller.restart().await?;
    bed.expect_no_roll(&controller, &once).await?;
    bed.rotate("redeployed/a").await?;
    for workload in workloads {
        bed.cluster.wait_for_count(workload, 2, SOON).await?;
        bed.cluster.wait_rolled_out(workload).await?;
    }
    bed.expect_no_roll(&controller, &workloads.map(|workload| (workload, Some(2)))).await?;
    let said: Vec<_> =
        controller.lines_with("level=warn").into_iter().map(|line| line.text).collect();
    assert!(said.is_empty(), "{said:#?}");
    Ok(())
}
