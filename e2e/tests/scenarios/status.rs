//! The command `status` and the API behind it: which workloads have the new version, which do not, and
//! why.

use anyhow::{Context as _, Result};
use e2e::controller::{LeaseTimes, STATUS_ADDRESS, status_by_kubeconfig};
use e2e::refusal;
use e2e::scenario::{SOON, polling_faster};
use e2e::{Bed, Controller, Generation, Kind, Workload, eventually};
use serde_json::{Value, json};
use std::time::Duration;

e2e::scenarios! {
    a_rotation_is_followed_to_its_end,
    what_keeps_a_rotation_from_its_end_is_told,
    a_rollout_that_takes_too_long_has_failed,
    only_the_leader_answers,
    a_dry_run_shows_what_would_be_reloaded,
    the_leader_is_found_by_the_kubeconfig,
}

fn using(kind: Kind, name: &str, paths: &[&str]) -> Workload {
    in_namespace("status", kind, name, paths)
}

fn in_namespace(namespace: &str, kind: Kind, name: &str, paths: &[&str]) -> Workload {
    let workload = Workload::new(kind, namespace, name).opted_in();
    paths.iter().enumerate().fold(workload, |workload, (index, path)| {
        workload.env(&format!("VARIABLE_{index}"), &format!("vault:secret/data/status/{path}#k"))
    })
}

/// The answer of the command as JSON.
async fn json(controller: &Controller, args: &[&str]) -> Result<Value> {
    let (code, text) = controller.status(&[args, &["-o", "json"]].concat()).await?;
    anyhow::ensure!(code == 0, "{code}: {text}");
    serde_json::from_str(&text).with_context(|| text.clone())
}

/// Returns the state and the reason of a workload, from the answer about a secret.
fn state_of<'a>(secret: &'a Value, workload: &Workload) -> Option<(&'a str, Option<&'a str>)> {
    let name = workload.name().to_string();
    let users = secret["users"]["items"].as_array()?;
    let user = users.iter().find(|user| user["workload"] == json!(name))?;
    Some((user["state"].as_str()?, user["reason"].as_str()))
}

/// Waits until each workload has its state and reason in the answer about a secret.
async fn wait_for_states(
    controller: &Controller,
    path: &str,
    expected: &[(&Workload, &str, Option<&str>)],
) -> Result<Value> {
    let found = eventually("the states of the workloads", SOON, || async {
        let (code, text) = controller.status(&["secret", path, "-o", "json"]).await?;
        if code != 0 {
            return Ok(None);
        }
        let secret: Value = serde_json::from_str(&text)?;
        let are_there = expected
            .iter()
            .all(|(workload, state, reason)| state_of(&secret, workload) == Some((state, *reason)));
        Ok(are_there.then_some(secret))
    })
    .await;
    if found.is_ok() {
        return found;
    }
    let (_, last) = controller.status(&["secret", path, "--all"]).await?;
    found.with_context(|| format!("the status was\n{last}\n{}", controller.last_lines()))
}

async fn a_rotation_is_followed_to_its_end() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("status").await?;
    bed.write_secrets(&["status/a"]).await?;
    let slow = Duration::from_secs(2);
    let deployment = using(Kind::Deployment, "web", &["a"]).replicas(3).ready_after(slow);
    let stateful_set = using(Kind::StatefulSet, "db", &["a"]).replicas(2);
    let daemon_set = using(Kind::DaemonSet, "agent", &["a"]);
    let none = using(Kind::Deployment, "none", &["a"]).replicas(0);
    let paused = using(Kind::Deployment, "paused", &["a"]);
    let on_delete = using(Kind::DaemonSet, "on-delete", &["a"])
        .spec("updateStrategy", json!({ "type": "OnDelete" }));
    let all = [&deployment, &stateful_set, &daemon_set, &none, &paused, &on_delete];
    bed.deploy_all(&all).await?;
    for workload in all {
        bed.cluster.wait_rolled_out(workload).await?;
    }
    bed.cluster.patch(&paused, &json!({ "spec": { "paused": true } })).await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;

    // Before the rotation, everything has the version.
    let path = "secret/data/status/a";
    let (code, text) = controller.status(&["secret", path, "--wait=30s"]).await?;
    assert_eq!(code, 0, "{text}");
    let secret = json(&controller, &["secret", path]).await?;
    assert_eq!((&secret["state"], &secret["version"]["number"]), (&json!("complete"), &json!(1)));
    let nothing = "no watched workload refers to";
    let (code, text) = controller.status(&["secret", "secret/data/status/other"]).await?;
    assert!(code == 2 && text.contains(nothing), "{code} {text}");

    bed.rotate("status/a").await?;
    wait_for_states(&controller, path, &[(&deployment, "running", Some("RolloutRunning"))]).await?;
    let (code, text) = controller.status(&["secret", path, "--wait=60s"]).await?;
    assert_eq!(code, 0, "{text}\n{}", controller.last_lines());
    // Two workloads give no signal, so the old credential may still be in use.
    assert!(text.contains("Not yet"), "{text}");
    let expected = [
        (&deployment, "complete", None),
        (&stateful_set, "complete", None),
        (&daemon_set, "complete", None),
        (&none, "silent", Some("NoReplicas")),
        (&paused, "silent", Some("Paused")),
        (&on_delete, "silent", Some("OnDelete")),
    ];
    let secret = wait_for_states(&controller, path, &expected).await?;
    assert_eq!((&secret["state"], &secret["version"]["number"]), (&json!("complete"), &json!(2)));
    assert_eq!(secret["workloads"], json!({ "complete": 3, "silent": 3 }));
    for workload in [&deployment, &stateful_set, &daemon_set] {
        let state = bed.cluster.wait_rolled_out(workload).await?;
        assert_eq!(state.count(), Some(1), "{}", workload.name());
    }
    let workload = json(&controller, &["workload", "status/deploy/web"]).await?;
    assert_eq!(
        (&workload["reloads"], &workload["secrets"][0]["state"]),
        (&json!(1), &json!("complete"))
    );
    assert!(workload["lastReload"].is_string(), "{workload:#}");

    wait_for_events(&bed, &deployment, &["Normal Reloaded", "Normal RolloutComplete"]).await?;

    // A restart knows the same, once it has polled.
    controller.restart().await?;
    let after = wait_for_states(&controller, path, &expected).await?;
    assert_eq!((&after["users"], &after["version"]), (&secret["users"], &secret["version"]));

    // The pods of the silent ones are replaced.
    bed.cluster.patch(&paused, &json!({ "spec": { "paused": false } })).await?;
    bed.cluster
        .patch(&on_delete, &json!({ "spec": { "updateStrategy": { "type": "RollingUpdate" } } }))
        .await?;
    let expected = [(&paused, "complete", None), (&on_delete, "complete", None)];
    wait_for_states(&controller, path, &expected).await?;
    let (code, text) = controller.status(&["secret", path, "--wait=30s"]).await?;
    assert!(code == 0 && text.contains("Yes"), "{code} {text}");
    let overview = json(&controller, &[]).await?;
    assert!(overview.to_string().contains("\"default\""), "{overview:#}");
    Ok(())
}

/// Waits until there are Events on a workload, each with its type.
async fn wait_for_events(bed: &Bed, workload: &Workload, expected: &[&str]) -> Result<()> {
    let name = workload.name();
    let found = eventually("the Events", SOON, || async {
        let events = bed.events(&name.namespace).await?;
        let events = events.get(&name.name).cloned().unwrap_or_default();
        let are_all = expected.iter().all(|wanted| events.iter().any(|event| event == wanted));
        Ok(are_all.then_some(()))
    })
    .await;
    let events = bed.events(&name.namespace).await?;
    found.with_context(|| format!("wanted {expected:?} on {name}; there are {events:?}"))
}

/// The namespace in which new pods are refused.
const NO_PODS: &str = "status-no-pods";

async fn what_keeps_a_rotation_from_its_end_is_told() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace(NO_PODS).await?;
    bed.write_secrets(&["status/kept", "status/gone"]).await?;
    let refusing = |name, paths: &[&str]| in_namespace(NO_PODS, Kind::Deployment, name, paths);
    let held = refusing("held", &["kept", "gone"]);
    let refused = refusing("refused", &["kept"]);
    let taken_back = refusing("taken-back", &["kept"]);
    bed.deploy_all(&[&held, &refused, &taken_back]).await?;
    for workload in [&held, &refused, &taken_back] {
        bed.cluster.wait_rolled_out(workload).await?;
    }
    let controller = Controller::start(&bed, &polling_faster()).await?;
    let path = "secret/data/status/kept";
    let (code, text) = controller.status(&["secret", path, "--wait=30s"]).await?;
    assert_eq!(code, 0, "{text}");

    // No pod can be created any more, and one secret is gone.
    refusal::refuse_pods(&bed.cluster, NO_PODS, SOON).await?;
    bed.vault.kv("secret").delete_latest("status/gone").await?;
    controller.wait_for("Vault secret path secret/data/status/gone not found", SOON).await?;
    bed.rotate("status/kept").await?;
    let expected = [
        (&held, "held", Some("SecretMissing")),
        (&refused, "failed", Some("FailedCreate")),
        (&taken_back, "failed", Some("FailedCreate")),
    ];
    let secret = wait_for_states(&controller, path, &expected).await?;
    assert_eq!(secret["state"], json!("stopped"));
    let (code, text) = controller.status(&["secret", path, "--wait=60s"]).await?;
    assert_eq!(code, 1, "{text}");
    for part in
        ["Not yet", "status-no-pods/Deployment/refused", "FailedCreate", "quotas", "SecretMissing"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let secrets = json(&controller, &["secret", "secret/data/status/gone"]).await?;
    assert_eq!(secrets["state"], json!("missing"));
    wait_for_events(&bed, &held, &["Warning ReloadHeld"]).await?;
    wait_for_events(&bed, &refused, &["Warning RolloutFailed", "Normal Reloaded"]).await?;
    let metrics = controller.probe("/metrics").await?.body;
    for line in [
        "rotations{state=\"stopped\"} 1",
        "rotations{state=\"missing\"} 1",
        "references{state=\"failed\",reason=\"FailedCreate\"} 2",
        "references{state=\"held\",reason=\"SecretMissing\"} 1",
        "workloads_watched{kind=\"Deployment\"} 3",
        "secrets_watched{server=\"default\"} 2",
    ] {
        let line = format!("vault_secrets_reloader_{line}");
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }

    // The owner of one puts the template from before the reload back.
    let annotations = json!({
        Generation::Current.count(): null,
        e2e::workload::MARK: null,
    });
    let template = json!({ "metadata": { "annotations": annotations } });
    bed.cluster.patch(&taken_back, &json!({ "spec": { "template": template } })).await?;
    let expected = [(&taken_back, "takenBack", Some("TakenBack"))];
    wait_for_states(&controller, path, &expected).await?;
    wait_for_events(&bed, &taken_back, &["Warning ReloadTakenBack"]).await?;

    // Pods can be created again, and the secret is back.
    refusal::lift(&bed.cluster, NO_PODS).await?;
    bed.rotate("status/gone").await?;
    let expected = [(&held, "complete", None), (&refused, "complete", None)];
    wait_for_states(&controller, path, &expected).await?;
    wait_for_events(&bed, &held, &["Normal ReloadReleased", "Normal RolloutComplete"]).await
}

async fn a_rollout_that_takes_too_long_has_failed() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("status").await?;
    bed.write_secrets(&["status/slow"]).await?;
    let slow = Duration::from_secs(20);
    let workload = using(Kind::StatefulSet, "slow", &["slow"]).ready_after(slow);
    bed.deploy_all(&[&workload]).await?;
    bed.cluster.wait_rolled_out(&workload).await?;
    let options = polling_faster().flag("--rollout-timeout", "1s");
    let controller = Controller::start(&bed, &options).await?;
    let path = "secret/data/status/slow";
    wait_for_states(&controller, path, &[(&workload, "complete", None)]).await?;
    bed.rotate("status/slow").await?;
    let failed = [(&workload, "failed", Some("RolloutTimedOut"))];
    let secret = wait_for_states(&controller, path, &failed).await?;
    assert_eq!(secret["state"], json!("stopped"));
    // The pods become ready after all.
    wait_for_states(&controller, path, &[(&workload, "complete", None)]).await?;
    Ok(())
}

/// Another replica leads two seconds after the leader was killed.
const TIMES: LeaseTimes = LeaseTimes {
    duration: Duration::from_secs(2),
    renew_deadline: Duration::from_secs(1),
    retry_period: Duration::from_millis(200),
};

async fn only_the_leader_answers() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("status").await?;
    let replica = |name: &str| polling_faster().leader_elect("status", name, TIMES);
    let leader = Controller::start(&bed, &replica("one")).await?;
    leader.wait_for_line(e2e::controller::is_leading, SOON).await?;
    let other = Controller::start(&bed, &replica("two")).await?;
    let (code, text) = leader.status(&[]).await?;
    assert!(code == 0 && text.contains("one"), "{code} {text}");
    let (code, text) = other.status(&[]).await?;
    assert!(code == 2 && text.contains("does not lead"), "{code} {text}");
    drop(leader);
    other.wait_for_line(e2e::controller::is_leading, SOON).await?;
    let (code, text) = other.status(&[]).await?;
    assert!(code == 0 && text.contains("two"), "{code} {text}");
    Ok(())
}

async fn a_dry_run_shows_what_would_be_reloaded() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("status").await?;
    bed.write_secrets(&["status/dry"]).await?;
    let web = using(Kind::Deployment, "dry", &["dry"]);
    bed.deploy_all(&[&web]).await?;
    bed.cluster.wait_rolled_out(&web).await?;
    let controller = Controller::start(&bed, &polling_faster().switch("--dry-run")).await?;
    let path = "secret/data/status/dry";
    wait_for_states(&controller, path, &[(&web, "complete", None)]).await?;
    let mark = bed.mark().await?;
    bed.rotate("status/dry").await?;
    let secret = wait_for_states(&controller, path, &[(&web, "held", Some("DryRun"))]).await?;
    assert_eq!(secret["state"], json!("held"));
    controller
        .wait_for("Would reload status/Deployment/dry for secret/data/status/dry", SOON)
        .await?;
    bed.expect_no_roll(&controller, &[(&web, None)]).await?;
    assert_eq!(bed.reloads_since(&mark, &web).await?, 0);
    drop(controller);

    // Without the flag, an annotation of the workload does so, until it is removed.
    let dry_run = |value: Value| {
        let key = "secrets-reloader.security.bank-vaults.io/dry-run";
        json!({ "metadata": { "annotations": { key: value } } })
    };
    bed.cluster.patch(&web, &dry_run(json!("true"))).await?;
    let controller = Controller::start(&bed, &polling_faster()).await?;
    wait_for_states(&controller, path, &[(&web, "held", Some("DryRun"))]).await?;
    bed.cluster.patch(&web, &dry_run(Value::Null)).await?;
    bed.cluster.wait_for_count(&web, 1, SOON).await?;
    wait_for_states(&controller, path, &[(&web, "complete", None)]).await?;
    Ok(())
}

/// The namespace of the controllers that are found by their Lease.
const FOUND: &str = "status-found";

async fn the_leader_is_found_by_the_kubeconfig() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace(FOUND).await?;
    bed.write_secrets(&["status/found"]).await?;
    let workload = in_namespace(FOUND, Kind::Deployment, "web", &["found"]);
    bed.deploy_all(&[&workload]).await?;
    bed.cluster.wait_rolled_out(&workload).await?;
    let [first, second] = bed.forwarded_pods();
    for (pod, _) in [first, second] {
        bed.cluster.run_pod(FOUND, pod).await?;
    }
    let replica = |(pod, port): (&str, u16)| {
        let address = format!("127.0.0.1:{port}");
        polling_faster().leader_elect(FOUND, pod, TIMES).flag(STATUS_ADDRESS, &address)
    };
    let leader = Controller::start(&bed, &replica(first)).await?;
    leader.wait_for_line(e2e::controller::is_leading, SOON).await?;
    let other = Controller::start(&bed, &replica(second)).await?;
    let admin = bed.cluster.kubeconfig();
    let (code, text) = status_by_kubeconfig(admin, &["-n", FOUND]).await?;
    assert!(code == 0 && text.contains(first.0), "{code} {text}");
    let path = "secret/data/status/found";
    let wait = ["-n", FOUND, "secret", path, "--wait=60s"];
    let (code, text) = status_by_kubeconfig(admin, &wait).await?;
    assert_eq!(code, 0, "{text}");
    let all = ["-n", FOUND, "--context", "bed", "-o", "json", "secret", path];
    let (code, text) = status_by_kubeconfig(admin, &all).await?;
    let secret: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    assert_eq!((code, &secret["version"]["number"]), (0, &json!(1)));

    // What cannot be found or is forbidden is one sentence.
    let reloader = bed.reloader_kubeconfig()?;
    let reloader = reloader.as_path();
    for (kubeconfig, args, expected) in [
        (admin, &["-n", FOUND, "--lease", "none"][..], "there is no Lease none"),
        (admin, &["-n", FOUND, "--context", "none"], "the kubeconfig cannot be used"),
        (admin, &["-n", FOUND, "--port", "9181"], "cannot be reached"),
        (reloader, &["-n", FOUND], "get and create on pods/portforward"),
        (reloader, &[], "with --namespace"),
    ] {
        let (code, text) = status_by_kubeconfig(kubeconfig, args).await?;
        let is_told = code == 2 && text.contains(expected) && text.lines().count() == 1;
        assert!(is_told, "{args:?}: {code} {text}");
    }

    // The Lease names a leader that is gone, until the other replica takes it.
    drop(leader);
    let (code, text) = status_by_kubeconfig(admin, &wait).await?;
    assert_eq!(code, 0, "{text}\n{}", other.last_lines());
    let (code, text) = status_by_kubeconfig(admin, &["-n", FOUND]).await?;
    assert!(code == 0 && text.contains(second.0), "{code} {text}");
    Ok(())
}
