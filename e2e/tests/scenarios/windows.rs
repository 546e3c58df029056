//! Freezes and windows: reloads are held for a time, and found again when it is over.

use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::scenario::{SOON, polling_faster};
use e2e::{Bed, Controller, Workload, eventually};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

e2e::scenarios! {
    a_freeze_of_a_namespace_holds_its_workloads_until_it_ends,
    windows_of_a_workload_hold_it_while_they_are_closed,
    the_operator_freezes_all_and_a_namespace_asks_for_a_dry_run,
    without_the_permission_only_the_annotations_of_namespaces_are_missing,
}

const PREFIX: &str = "secrets-reloader.security.bank-vaults.io/";

fn deployment(namespace: &str, name: &str, secret: &str) -> Workload {
    Workload::deployment(namespace, name)
        .opted_in()
        .env("A", &format!("vault:secret/data/windows/{secret}#k"))
}

/// The time after some seconds.
fn after(seconds: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_secs(seconds)
}

/// Creates or changes a namespace that has these annotations of the controller.
async fn annotate_namespace(bed: &Bed, name: &str, annotations: &[(&str, &str)]) -> Result<()> {
    let annotations: serde_json::Map<String, Value> =
        annotations.iter().map(|(key, value)| (format!("{PREFIX}{key}"), json!(value))).collect();
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": name, "annotations": annotations },
    });
    bed.cluster.apply_object(&namespace, "namespaces").await.map(drop)
}

/// Sets or removes an annotation of a workload.
async fn annotate(bed: &Bed, workload: &Workload, key: &str, value: Option<&str>) -> Result<()> {
    let key = format!("{PREFIX}{key}");
    let patch = json!({ "metadata": { "annotations": { key: value } } });
    bed.cluster.patch(workload, &patch).await.map(drop)
}

/// Waits until the status shows a workload with this state and reason. Returns its sentence.
async fn wait_for_state(
    controller: &Controller,
    secret: &str,
    workload: &Workload,
    expected: (&str, Option<&str>),
) -> Result<String> {
    let path = format!("secret/data/windows/{secret}");
    let name = workload.name().to_string();
    let what = format!("{name} to be {expected:?}");
    let found = eventually(&what, SOON, || async {
        let (code, text) = controller.status(&["secret", &path, "-o", "json"]).await?;
        if code != 0 {
            return Ok(None);
        }
        let answer: Value = serde_json::from_str(&text)?;
        let users = answer["users"]["items"].as_array().cloned().unwrap_or_default();
        let is_so = |user: &&Value| {
            user["workload"] == json!(name)
                && user["state"] == json!(expected.0)
                && user["reason"].as_str() == expected.1
        };
        let message = users.iter().find(is_so).map(|user| user["message"].to_string());
        Ok(message)
    });
    found.await.with_context(|| controller.last_lines())
}

/// Waits until there is an Event on a workload, as its type and reason.
async fn wait_for_event(bed: &Bed, workload: &Workload, expected: &str) -> Result<()> {
    let name = workload.name();
    let what = format!("the Event {expected} on {name}");
    eventually(&what, SOON, || async {
        let events = bed.events(&name.namespace).await?;
        let events = events.get(&name.name).cloned().unwrap_or_default();
        Ok(events.iter().any(|event| event == expected).then_some(()))
    })
    .await
}

async fn a_freeze_of_a_namespace_holds_its_workloads_until_it_ends() -> Result<()> {
    let bed = Bed::shared().await?;
    let (frozen, free) = ("windows-frozen", "windows-free");
    for namespace in [frozen, free] {
        bed.cluster.create_namespace(namespace).await?;
    }
    bed.write_secrets(&["windows/a"]).await?;
    let (held, other) = (deployment(frozen, "web", "a"), deployment(free, "web", "a"));
    bed.deploy_all(&[&held, &other]).await?;
    for workload in [&held, &other] {
        bed.cluster.wait_rolled_out(workload).await?;
    }
    annotate_namespace(&bed, frozen, &[("freeze-until", &after(3_600).to_string())]).await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    wait_for_state(&controller, "a", &held, ("complete", None)).await?;
    let mark = bed.mark().await?;
    bed.rotate("windows/a").await?;
    bed.cluster.wait_for_count(&other, 1, SOON).await?;
    let message = wait_for_state(&controller, "a", &held, ("held", Some("Frozen"))).await?;
    assert!(message.contains("the annotation freeze-until of its namespace"), "{message}");
    controller.wait_for("Not reloading windows-frozen/Deployment/web for", SOON).await?;
    wait_for_event(&bed, &held, "Warning ReloadHeld").await?;

    // A restart knows the same, and reloads nothing before it knows the namespaces.
    controller.restart().await?;
    wait_for_state(&controller, "a", &held, ("held", Some("Frozen"))).await?;
    bed.expect_no_roll(&controller, &[(&held, None), (&other, Some(1))]).await?;
    assert_eq!(bed.reloads_since(&mark, &held).await?, 0);

    // Without the annotation, the workload is reloaded, and needs no other version.
    annotate_namespace(&bed, frozen, &[]).await?;
    bed.cluster.wait_for_count(&held, 1, SOON).await?;
    wait_for_state(&controller, "a", &held, ("complete", None)).await?;

    // A freeze ends by itself.
    for workload in [&held, &other] {
        bed.cluster.wait_rolled_out(workload).await?;
    }
    let end = after(8);
    annotate_namespace(&bed, frozen, &[("freeze-until", &end.to_string())]).await?;
    controller.wait_for_polls(2, SOON).await?;
    bed.rotate("windows/a").await?;
    bed.cluster.wait_for_count(&held, 2, SOON).await?;
    // The controller knows the API server's clock to within a second.
    assert!(Timestamp::now() + SignedDuration::from_secs(1) >= end, "the freeze lasts still");
    bed.cluster.wait_for_count(&other, 2, SOON).await?;
    bed.expect_no_roll(&controller, &[(&held, Some(2)), (&other, Some(2))]).await
}

async fn windows_of_a_workload_hold_it_while_they_are_closed() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("windows").await?;
    bed.write_secrets(&["windows/b"]).await?;
    let web = deployment("windows", "web", "b");
    bed.deploy_all(&[&web]).await?;
    bed.cluster.wait_rolled_out(&web).await?;
    annotate(&bed, &web, "reload-windows", Some("deny * * * * * 1h Europe/Berlin")).await?;
    let controller = Controller::start(&bed, &polling_faster()).await?;
    wait_for_state(&controller, "b", &web, ("complete", None)).await?;
    bed.rotate("windows/b").await?;
    wait_for_state(&controller, "b", &web, ("held", Some("OutsideWindow"))).await?;
    bed.expect_no_roll(&controller, &[(&web, None)]).await?;
    annotate(&bed, &web, "reload-windows", Some("allow * * * * * 1h")).await?;
    bed.cluster.wait_for_count(&web, 1, SOON).await?;
    bed.cluster.wait_rolled_out(&web).await?;

    // A text that is no window is told before it matters, and holds when it does.
    annotate(&bed, &web, "reload-windows", Some("allow always")).await?;
    wait_for_event(&bed, &web, "Warning InvalidWindow").await?;
    controller
        .wait_for_line(
            |line| {
                line.contains("reason=InvalidWindow") && line.contains("annotation reload-windows")
            },
            SOON,
        )
        .await?;
    bed.rotate("windows/b").await?;
    let expected = ("held", Some("InvalidTimeRule"));
    let message = wait_for_state(&controller, "b", &web, expected).await?;
    assert!(message.contains("the workload's annotation reload-windows"), "{message}");
    wait_for_event(&bed, &web, "Warning ReloadHeld").await?;
    bed.expect_no_roll(&controller, &[(&web, Some(1))]).await?;
    annotate(&bed, &web, "reload-windows", None).await?;
    bed.cluster.wait_for_count(&web, 2, SOON).await?;
    wait_for_state(&controller, "b", &web, ("complete", None)).await?;
    Ok(())
}

async fn the_operator_freezes_all_and_a_namespace_asks_for_a_dry_run() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("windows-all").await?;
    bed.write_secrets(&["windows/c"]).await?;
    let web = deployment("windows-all", "web", "c");
    bed.deploy_all(&[&web]).await?;
    bed.cluster.wait_rolled_out(&web).await?;
    let until = after(3_600).to_string();
    let options = polling_faster().flag("--freeze-until", &until);
    let controller = Controller::start(&bed, &options).await?;
    wait_for_state(&controller, "c", &web, ("complete", None)).await?;
    bed.rotate("windows/c").await?;
    let message = wait_for_state(&controller, "c", &web, ("held", Some("Frozen"))).await?;
    assert!(message.contains("--freeze-until"), "{message}");
    drop(controller);

    annotate_namespace(&bed, "windows-all", &[("dry-run", "true")]).await?;
    let controller = Controller::start(&bed, &polling_faster()).await?;
    wait_for_state(&controller, "c", &web, ("held", Some("DryRun"))).await?;
    bed.expect_no_roll(&controller, &[(&web, None)]).await?;
    annotate_namespace(&bed, "windows-all", &[]).await?;
    bed.cluster.wait_for_count(&web, 1, SOON).await?;
    bed.expect_no_roll(&controller, &[(&web, Some(1))]).await
}

/// The namespace, and the `ServiceAccount` in it, of a controller with the permissions of an earlier
/// release.
const DENIED: &str = "windows-denied";

async fn without_the_permission_only_the_annotations_of_namespaces_are_missing() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace(DENIED).await?;
    bed.write_secrets(&["windows/d"]).await?;
    let (web, frozen) = (deployment(DENIED, "web", "d"), deployment(DENIED, "frozen", "d"));
    bed.deploy_all(&[&web, &frozen]).await?;
    for workload in [&web, &frozen] {
        bed.cluster.wait_rolled_out(workload).await?;
    }
    let until = after(3_600).to_string();
    annotate_namespace(&bed, DENIED, &[("freeze-until", &until)]).await?;
    annotate(&bed, &frozen, "freeze-until", Some(&until)).await?;
    bed.cluster.create_service_account(DENIED, DENIED).await?;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": DENIED },
        "rules": [
            {
                "apiGroups": ["apps"],
                "resources": ["deployments", "daemonsets", "statefulsets"],
                "verbs": ["get", "list", "watch", "patch"],
            },
            {
                "apiGroups": ["apps"],
                "resources": ["replicasets", "controllerrevisions"],
                "verbs": ["list"],
            },
        ],
    });
    bed.cluster.apply_object(&role, "clusterroles").await?;
    let subject = json!({ "kind": "ServiceAccount", "namespace": DENIED, "name": DENIED });
    bed.cluster.bind(DENIED, DENIED, &subject).await?;
    let hour = Duration::from_hours(1);
    let token = bed.cluster.request_token(DENIED, DENIED, hour).await?;
    let kubeconfig = bed.cluster.kubeconfig_for(DENIED, &token)?;
    let options = polling_faster().env("KUBECONFIG", kubeconfig);
    let controller = Controller::start(&bed, &options).await?;
    let line = "Going on without the annotations of namespaces";
    controller.wait_for(line, SOON).await?;
    controller.wait_for("lacks a permission: list namespaces.", SOON).await?;
    wait_for_state(&controller, "d", &web, ("complete", None)).await?;
    bed.rotate("windows/d").await?;
    bed.cluster.wait_for_count(&web, 1, SOON).await?;
    wait_for_state(&controller, "d", &frozen, ("held", Some("Frozen"))).await?;
    bed.expect_no_roll(&controller, &[(&web, Some(1)), (&frozen, None)]).await?;
    assert_eq!(controller.lines_with(line).len(), 1, "it is said once");
    Ok(())
}
