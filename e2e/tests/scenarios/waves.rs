//! Waves and the other rules for reloads: a new version goes to one workload first, a failure keeps it
//! from the others, and the owner of the secret has a say.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use e2e::controller::{MIN_INTERVAL, is_leading};
use e2e::refusal;
use e2e::scenario::{SOON, next_second, polling_faster};
use e2e::{Bed, Controller, Kind, LeaseTimes, Options, State, Workload, eventually};
use serde_json::{Value, json};

e2e::scenarios! {
    no_pod_becomes_ready_and_one_workload_is_reloaded: long,
    a_stopped_rotation_goes_on_by_what_the_status_says,
    healthy_workloads_follow_in_waves: long,
    a_secret_that_changes_each_second_costs_a_few_rollouts: long,
    the_owner_of_the_secret_has_a_say: long,
    a_leader_that_is_killed_within_a_wave_doubles_nothing: long,
    rollouts_are_limited_in_all_and_in_a_namespace: long,
    scaling_and_other_writers_do_not_disturb_a_wave: long,
}

/// The longest rotation, on a machine under heavy load.
const WITHIN: Duration = Duration::from_mins(2);

/// How long the pods of most scenarios take to become ready.
const READY_AFTER: Duration = Duration::from_secs(1);

/// Sorts a workload among those of its namespace.
pub(crate) const RELOAD_ORDER: &str = "secrets-reloader.security.bank-vaults.io/reload-order";

/// A Deployment that refers to secrets.
fn using(namespace: &str, name: &str, paths: &[&str]) -> Workload {
    let workload = Workload::deployment(namespace, name).opted_in();
    paths.iter().enumerate().fold(workload, |workload, (index, path)| {
        workload.env(&format!("VARIABLE_{index}"), &format!("vault:secret/data/{path}#k"))
    })
}

/// Deployments that refer to the same secrets.
pub(crate) fn many(count: usize, namespace: &str, paths: &[&str]) -> Vec<Workload> {
    (0..count).map(|number| using(namespace, &format!("web-{number}"), paths)).collect()
}

pub(crate) fn refs(workloads: &[Workload]) -> Vec<&Workload> {
    workloads.iter().collect()
}

/// Returns how many of the workloads were reloaded this often, and how many of these are not rolled
/// out.
pub(crate) fn progress(states: &[State], times: i64) -> (usize, usize) {
    let is_reloaded = |state: &&State| state.count() == Some(times);
    let reloaded: Vec<_> = states.iter().filter(is_reloaded).collect();
    let running = reloaded.iter().filter(|state| !state.is_rolled_out()).count();
    (reloaded.len(), running)
}

/// Follows a rotation until each Deployment was reloaded this often and is rolled out. Returns the
/// largest number of rollouts under way at a time.
///
/// The controller knows a rollout as complete at the earliest when it is. So what this sees under way
/// is never more than what the controller counts.
///
/// # Errors
/// When more rollouts are under way than one before the first workload is healthy, or than `width`
/// after that.
pub(crate) async fn follow(
    bed: &Bed,
    controller: &Controller,
    times: i64,
    width: usize,
) -> Result<usize> {
    let most = Cell::new(0_usize);
    let most = &most;
    let outcome = eventually("the end of the rotation", WITHIN, || async move {
        let states = bed.deployments().await?;
        let (reloaded, running) = progress(&states, times);
        let width = if reloaded == running { 1 } else { width };
        if running > width {
            let text = format!("{running} of {reloaded} are under way, and {width} may be");
            return Ok(Some(Err(anyhow!(text))));
        }
        most.set(most.get().max(running));
        let is_complete = reloaded == states.len() && states.iter().all(State::is_rolled_out);
        Ok(is_complete.then_some(Ok(())))
    });
    outcome.await.flatten().with_context(|| controller.last_lines())?;
    Ok(most.get())
}

/// The answer of `status secret`, once it is as expected.
pub(crate) async fn status_when(
    controller: &Controller,
    path: &str,
    what: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let is_so = &is_so;
    let found = eventually(what, WITHIN, || async move {
        let (code, text) = controller.status(&["secret", path, "-o", "json"]).await?;
        ensure!(code == 0, "{code}: {text}");
        let secret: Value = serde_json::from_str(&text)?;
        Ok(is_so(&secret).then_some(secret))
    })
    .await;
    if found.is_ok() {
        return found;
    }
    let (_, last) = controller.status(&["secret", path, "--all"]).await?;
    found.with_context(|| format!("the status was\n{last}\n{}", controller.last_lines()))
}

/// The users of a secret in an answer, with a state and a reason.
fn users<'a>(secret: &'a Value, state: &str, reason: &str) -> Vec<&'a Value> {
    let users = secret["users"]["items"].as_array().into_iter().flatten();
    users.filter(|user| user["state"] == state && user["reason"] == reason).collect()
}

/// Waits until the rotation of a version is stopped: one workload failed, and the others wait.
pub(crate) async fn wait_until_stopped(
    controller: &Controller,
    path: &str,
    version: u64,
    reason: &str,
    others: usize,
) -> Result<Value> {
    status_when(controller, path, "the rotation to be stopped", |secret| {
        secret["version"]["number"] == json!(version)
            && secret["state"] == json!("stopped")
            && users(secret, "failed", reason).len() == 1
            && users(secret, "held", "RotationStopped").len() == others
    })
    .await
}

/// Waits with `status secret --wait` until the rotation is complete.
pub(crate) async fn wait_until_complete(controller: &Controller, path: &str) -> Result<()> {
    let (code, text) = controller.status(&["secret", path, "--wait=2m"]).await?;
    ensure!(code == 0, "{code}: {text}\n{}", controller.last_lines());
    Ok(())
}

/// Lets no node take new pods, and waits until the scheduler knows.
async fn take_no_pods(bed: &Bed, namespace: &str) -> Result<()> {
    bed.kubectl(&["cordon", "--selector", "kubernetes.io/hostname"]).await?;
    eventually("the scheduler to know that no node takes pods", SOON, || async {
        let name = format!("probe-{:x}", fastrand::u64(..));
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"containers": [{"name": "app", "image": "example.com/app:1"}]},
        });
        bed.cluster.apply_object(&pod, "pods").await?;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let is_refused = eventually("the answer of the scheduler", SOON, || async {
            let pod = bed.cluster.get_path(&path).await?;
            let is_scheduled = pod["spec"]["nodeName"].is_string();
            let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            let is_refused = conditions.any(|condition| {
                condition["type"] == "PodScheduled" && condition["status"] == "False"
            });
            Ok((is_scheduled || is_refused).then_some(!is_scheduled))
        })
        .await?;
        Ok(is_refused.then_some(()))
    })
    .await
}

async fn no_pod_becomes_ready_and_one_workload_is_reloaded() -> Result<()> {
    const NAMESPACE: &str = "waves-not-ready";
    let path = "secret/data/waves/not-ready";
    // A bed of its own: if the scenario fails, its nodes take no pods any more.
    let bed = Bed::start(Options::new()).await?;
    bed.cluster.create_namespace(NAMESPACE).await?;
    bed.write_secrets(&["waves/not-ready"]).await?;
    let workloads: Vec<_> = many(20, NAMESPACE, &["waves/not-ready"])
        .into_iter()
        .map(|workload| workload.spec("progressDeadlineSeconds", json!(3)))
        .collect();
    bed.deploy_all(&refs(&workloads)).await?;
    let controller = Controller::start(&bed, &polling_faster().in_waves()).await?;
    wait_until_complete(&controller, path).await?;

    take_no_pods(&bed, NAMESPACE).await?;
    bed.rotate("waves/not-ready").await?;
    wait_until_stopped(&controller, path, 2, "ProgressDeadlineExceeded", 19).await?;
    let (code, text) = controller.status(&["secret", path, "--wait=60s"]).await?;
    assert_eq!(code, 1, "{text}");
    for part in [
        "Not yet",
        "ProgressDeadlineExceeded",
        "RotationStopped",
        "kubectl annotate deployment",
        "continue-after-failure=1",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    controller.wait_for("Rotation stopped: ", SOON).await?;
    let metrics = controller.probe("/metrics").await?.body;
    assert!(metrics.contains("vault_secrets_reloader_rotations{state=\"stopped\"} 1"), "{metrics}");
    controller.wait_for_polls(2, SOON).await?;
    let counts = bed.counts(&refs(&workloads)).await?;
    assert_eq!(counts.iter().flatten().collect::<Vec<_>>(), [&1], "{}", controller.last_lines());
    let first = counts.iter().position(Option::is_some).context("none was reloaded")?;

    // A scaled Deployment looks as if its rollout went on. It stays failed.
    let scaled = json!({"spec": {"replicas": 2}});
    bed.cluster.patch(&workloads[first], &scaled).await?;
    controller.wait_for_polls(4, SOON).await?;
    wait_until_stopped(&controller, path, 2, "ProgressDeadlineExceeded", 19).await?;

    // A newer version goes to the workload that is broken already.
    bed.rotate("waves/not-ready").await?;
    bed.cluster.wait_for_count(&workloads[first], 2, SOON).await?;
    wait_until_stopped(&controller, path, 3, "ProgressDeadlineExceeded", 19).await?;
    let counts = bed.counts(&refs(&workloads)).await?;
    assert_eq!(counts.iter().flatten().collect::<Vec<_>>(), [&2], "{}", controller.last_lines());

    // Once its pods become ready, the others follow.
    bed.kubectl(&["uncordon", "--selector", "kubernetes.io/hostname"]).await?;
    let others = workloads.iter().enumerate().filter(|(place, _)| *place != first);
    let others: Vec<_> = others.map(|(_, workload)| workload).collect();
    bed.expect_rolls(&controller, &others, 1).await?;
    wait_until_complete(&controller, path).await?;
    assert_eq!(bed.counts(&[&workloads[first]]).await?, [Some(2)]);
    Ok(())
}

async fn a_stopped_rotation_goes_on_by_what_the_status_says() -> Result<()> {
    const NAMESPACE: &str = "waves-go-on";
    const NO_PODS: &str = "waves-no-pods";
    let path = "secret/data/waves/go-on";
    let bed = Bed::shared().await?;
    for namespace in [NAMESPACE, NO_PODS] {
        bed.cluster.create_namespace(namespace).await?;
    }
    bed.write_secrets(&["waves/go-on"]).await?;
    let canary = using(NO_PODS, "canary", &["waves/go-on"]).annotation(RELOAD_ORDER, "-1");
    let others = many(11, NAMESPACE, &["waves/go-on"]);
    let mut all = refs(&others);
    all.push(&canary);
    bed.deploy_all(&all).await?;
    let controller = Controller::start(&bed, &polling_faster().in_waves()).await?;
    wait_until_complete(&controller, path).await?;

    // The first workload by its order is the one whose pods are refused.
    refusal::refuse_pods(&bed.cluster, NO_PODS, SOON).await?;
    bed.rotate("waves/go-on").await?;
    let secret = wait_until_stopped(&controller, path, 2, "FailedCreate", 11).await?;
    let failed = users(&secret, "failed", "FailedCreate");
    assert_eq!(failed[0]["workload"], json!(canary.name().to_string()));
    let nobody: Vec<_> = others.iter().map(|workload| (workload, None)).collect();
    bed.expect_no_roll(&controller, &nobody).await?;

    // Do what the status says.
    let message = failed[0]["message"].as_str().unwrap_or_default();
    let (_, command) = message.rsplit_once("kubectl ").context("no command")?;
    let command: Vec<&str> = command.split_whitespace().collect();
    bed.kubectl(&command).await.with_context(|| message.to_owned())?;
    bed.expect_rolls(&controller, &refs(&others), 1).await?;
    status_when(&controller, path, "the others to be complete", |secret| {
        secret["workloads"] == json!({"complete": 11, "failed": 1})
    })
    .await?;

    // The failed workload recovers by itself.
    refusal::lift(&bed.cluster, NO_PODS).await?;
    let is_complete = |secret: &Value| secret["state"] == json!("complete");
    status_when(&controller, path, "the rotation to be complete", is_complete).await?;

    // What was said about one failure does not excuse the next.
    refusal::refuse_pods(&bed.cluster, NO_PODS, SOON).await?;
    bed.rotate("waves/go-on").await?;
    wait_until_stopped(&controller, path, 3, "FailedCreate", 11).await?;
    let once: Vec<_> = others.iter().map(|workload| (workload, Some(1))).collect();
    bed.expect_no_roll(&controller, &once).await?;
    refusal::lift(&bed.cluster, NO_PODS).await?;
    status_when(&controller, path, "the rotation to be complete", is_complete).await?;
    bed.expect_rolls(&controller, &refs(&others), 2).await
}

async fn healthy_workloads_follow_in_waves() -> Result<()> {
    const NAMESPACE: &str = "waves-healthy";
    const WORKLOADS: u32 = 20;
    let path = "secret/data/waves/healthy";
    let ready_after = Duration::from_secs(2);
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace(NAMESPACE).await?;
    bed.write_secrets(&["waves/healthy"]).await?;
    let workloads: Vec<_> = many(20, NAMESPACE, &["waves/healthy"])
        .into_iter()
        .map(|workload| workload.ready_after(ready_after))
        .collect();
    bed.deploy_all(&refs(&workloads)).await?;
    // With the program's own rules.
    let controller = Controller::start(&bed, &polling_faster().usual_rollouts()).await?;
    wait_until_complete(&controller, path).await?;
    next_second().await?;
    let mark = bed.mark().await?;
    let began = Instant::now();
    bed.rotate("waves/healthy").await?;
    let most = follow(&bed, &controller, 1, 5).await?;
    let took = began.elapsed();
    // Five at a time after the first: about five rollouts one after the other.
    assert!(most > 1, "{most} at a time");
    assert!(took < ready_after * WORKLOADS * 3 / 4, "{took:?}");
    wait_until_complete(&controller, path).await?;
    for workload in &workloads {
        assert_eq!(bed.reloads_since(&mark, workload).await?, 1, "{}", workload.name());
    }
    controller.wait_for("workloads wait for their turn", SOON).await?;
    controller.wait_for("No workload waits for its turn in a rotation any more", SOON).await?;
    Ok(())
}

async fn a_secret_that_changes_each_second_costs_a_few_rollouts() -> Result<()> {
    const NAMESPACE: &str = "waves-flapping";
    const CHANGES: u64 = 20;
    let path = "secret/data/waves/flapping";
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace(NAMESPACE).await?;
    bed.write_secrets(&["waves/flapping"]).await?;
    let workload = using(NAMESPACE, "web", &["waves/flapping"]);
    bed.deploy_all(&[&workload]).await?;
    let options = polling_faster().in_waves().flag(MIN_INTERVAL, "5s");
    let controller = Controller::start(&bed, &options).await?;
    wait_until_complete(&controller, path).await?;
    for _ in 0..CHANGES {
        bed.rotate("waves/flapping").await?;
        next_second().await?;
    }
    let last = (CHANGES + 1).to_string();
    let wait = ["secret", path, "--wait=2m", "--version", last.as_str()];
    let (code, text) = controller.status(&wait).await?;
    assert_eq!(code, 0, "{text}\n{}", controller.last_lines());
    let state = bed.cluster.wait_rolled_out(&workload).await?;
    // At once, and after 5, 15 and 35 seconds.
    let count = state.count().unwrap_or_default();
    assert!((2..=5).contains(&count), "{count} reloads\n{}", controller.last_lines());
    let streak = state.record().map(|record| record["streak"].clone());
    assert!(streak.as_ref().is_some_and(|streak| streak.as_i64() > Some(0)), "{streak:?}");
    Ok(())
}

/// Sets the custom metadata of a secret, and nothing else. There is no new version.
async fn owner_says(bed: &Bed, path: &str, entries: Value) -> Result<()> {
    let metadata = json!({ "custom_metadata": entries });
    bed.vault.kv("secret").put_metadata(path, metadata).await
}

async fn the_owner_of_the_secret_has_a_say() -> Result<()> {
    // New pods of this namespace are refused for a while.
    const NAMESPACE: &str = "waves-owner";
    const WORKLOADS: usize = 12;
    let path = "secret/data/waves-owner/a";
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace(NAMESPACE).await?;
    // Both secrets of the folder are watched, so OpenBao is asked for the folder.
    let secrets = ["waves-owner/a", "waves-owner/b"];
    bed.write_secrets(&secrets).await?;
    let workloads: Vec<_> = many(WORKLOADS, NAMESPACE, &secrets)
        .into_iter()
        .map(|workload| workload.ready_after(READY_AFTER))
        .collect();
    let all = refs(&workloads);
    bed.deploy_all(&all).await?;
    let controller = Controller::start(&bed, &polling_faster().in_waves()).await?;
    wait_until_complete(&controller, path).await?;

    owner_says(&bed, "waves-owner/a", json!({ "reload": "hold" })).await?;
    bed.rotate("waves-owner/a").await?;
    let secret = status_when(&controller, path, "all workloads to be held", |secret| {
        users(secret, "held", "HeldBySecretOwner").len() == WORKLOADS
    })
    .await?;
    assert_eq!(secret["state"], json!("held"));
    let nobody: Vec<_> = workloads.iter().map(|workload| (workload, None)).collect();
    bed.expect_no_roll(&controller, &nobody).await?;
    owner_says(&bed, "waves-owner/a", json!({})).await?;
    // 25 % of 12 at a time.
    follow(&bed, &controller, 1, 3).await?;

    // The former credential is dead already: a stopped rotation goes on at once.
    refusal::refuse_pods(&bed.cluster, NAMESPACE, SOON).await?;
    bed.rotate("waves-owner/a").await?;
    wait_until_stopped(&controller, path, 3, "FailedCreate", WORKLOADS - 1).await?;
    owner_says(&bed, "waves-owner/a", json!({ "reload": "urgent" })).await?;
    bed.expect_rolls(&controller, &all, 2).await?;
    refusal::lift(&bed.cluster, NAMESPACE).await?;
    for workload in &workloads {
        bed.cluster.wait_rolled_out(workload).await?;
    }

    owner_says(&bed, "waves-owner/a", json!({ "reload-step": "50%" })).await?;
    bed.rotate("waves-owner/a").await?;
    let most = follow(&bed, &controller, 3, 6).await?;
    assert!(most > 3, "{most} at a time\n{}", controller.last_lines());

    // Another key of the same name, of somebody else.
    owner_says(&bed, "waves-owner/a", json!({ "reload": "soon" })).await?;
    let ignored = "secret/data/waves-owner/a: the custom_metadata key reload is ignored";
    controller.wait_for(ignored, SOON).await?;
    controller.wait_for_polls(2, SOON).await?;
    assert_eq!(controller.lines_with(ignored).len(), 1);
    bed.rotate("waves-owner/a").await?;
    follow(&bed, &controller, 4, 3).await.map(drop)
}

/// Another replica leads two seconds after the leader was killed.
pub(crate) const TIMES: LeaseTimes = LeaseTimes {
    duration: Duration::from_secs(2),
    renew_deadline: Duration::from_secs(1),
    retry_period: Duration::from_millis(200),
};

async fn a_leader_that_is_killed_within_a_wave_doubles_nothing() -> Result<()> {
    const NAMESPACE: &str = "waves-killed";
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace(NAMESPACE).await?;
    bed.write_secrets(&["waves/killed"]).await?;
    let workloads: Vec<_> = many(16, NAMESPACE, &["waves/killed"])
        .into_iter()
        .map(|workload| workload.ready_after(READY_AFTER))
        .collect();
    bed.deploy_all(&refs(&workloads)).await?;
    let replica = |name: &str| polling_faster().in_waves().leader_elect(NAMESPACE, name, TIMES);
    let mut leader = Controller::start(&bed, &replica("one")).await?;
    leader.wait_for_line(is_leading, SOON).await?;
    leader.wait_for_polls(1, SOON).await?;
    let other = Controller::start(&bed, &replica("two")).await?;
    next_second().await?;
    let mark = bed.mark().await?;
    bed.rotate("waves/killed").await?;
    eventually("the second wave", SOON, || async {
        let (reloaded, _) = progress(&bed.deployments().await?, 1);
        Ok((reloaded >= 3).then_some(()))
    })
    .await?;
    leader.kill();
    // 25 % of 16 at a time, and as many if two leaders overlapped.
    follow(&bed, &other, 1, 8).await?;
    assert!(other.leads(), "{}", other.last_lines());
    for workload in &workloads {
        assert_eq!(bed.reloads_since(&mark, workload).await?, 1, "{}", workload.name());
    }
    wait_until_complete(&other, "secret/data/waves/killed").await
}

async fn rollouts_are_limited_in_all_and_in_a_namespace() -> Result<()> {
    const IN_ALL: usize = 2;
    let bed = Bed::shared().await?;
    let namespaces = ["waves-limit-a", "waves-limit-b", "waves-limit-c"];
    // Each workload has a secret of its own, so there are no waves.
    let (mut workloads, mut secrets) = (Vec::new(), Vec::new());
    for namespace in namespaces {
        bed.cluster.create_namespace(namespace).await?;
        for number in 0..4 {
            let secret = format!("{namespace}/{number}");
            let workload = using(namespace, &format!("web-{number}"), &[&secret]);
            workloads.push(workload.ready_after(READY_AFTER));
            secrets.push(secret);
        }
    }
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    bed.write_secrets(&secrets).await?;
    bed.deploy_all(&refs(&workloads)).await?;
    let options = polling_faster()
        .in_waves()
        .flag("--max-rollouts", &IN_ALL.to_string())
        .flag("--max-rollouts-per-namespace", "1");
    let controller = Controller::start(&bed, &options).await?;
    controller.wait_for_polls(1, SOON).await?;
    for secret in &secrets {
        bed.rotate(secret).await?;
    }
    let most = Cell::new(0_usize);
    let most = &most;
    let outcome = eventually("all reloads", WITHIN, || async {
        let states = bed.deployments().await?;
        let mut running: BTreeMap<&str, usize> = BTreeMap::new();
        for state in states.iter().filter(|state| state.count().is_some()) {
            let namespace = state.object["metadata"]["namespace"].as_str().unwrap_or_default();
            let running = running.entry(namespace).or_default();
            *running += usize::from(!state.is_rolled_out());
        }
        let in_all: usize = running.values().sum();
        if in_all > IN_ALL || running.values().any(|running| *running > 1) {
            return Ok(Some(Err(anyhow!("under way: {running:?}"))));
        }
        most.set(most.get().max(in_all));
        let is_complete = |state: &State| state.count() == Some(1) && state.is_rolled_out();
        Ok(states.iter().all(is_complete).then_some(Ok(())))
    })
    .await;
    outcome.flatten().with_context(|| controller.last_lines())?;
    assert_eq!(most.get(), IN_ALL, "two namespaces at a time");
    controller.wait_for("workloads wait until fewer rollouts are under way", SOON).await?;
    controller.wait_for("No workload waits for --max-rollouts any more", SOON).await?;
    Ok(())
}

async fn scaling_and_other_writers_do_not_disturb_a_wave() -> Result<()> {
    const NAMESPACE: &str = "waves-disturbed";
    let path = "secret/data/waves/disturbed";
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace(NAMESPACE).await?;
    bed.write_secrets(&["waves/disturbed"]).await?;
    let mut workloads: Vec<_> = many(12, NAMESPACE, &["waves/disturbed"])
        .into_iter()
        .map(|workload| workload.ready_after(READY_AFTER))
        .collect();
    let first = workloads.remove(0).annotation(RELOAD_ORDER, "-5");
    let last = workloads.remove(0).annotation(RELOAD_ORDER, "100");
    let paused = using(NAMESPACE, "paused", &["waves/disturbed"]);
    let on_delete = Workload::new(Kind::DaemonSet, NAMESPACE, "on-delete")
        .opted_in()
        .env("A", "vault:secret/data/waves/disturbed#k")
        .spec("updateStrategy", json!({ "type": "OnDelete" }));
    let mut all = refs(&workloads);
    all.extend([&first, &last, &paused, &on_delete]);
    bed.deploy_all(&all).await?;
    bed.cluster.patch(&paused, &json!({ "spec": { "paused": true } })).await?;
    let controller = Controller::start(&bed, &polling_faster().in_waves()).await?;
    wait_until_complete(&controller, path).await?;
    next_second().await?;
    let mark = bed.mark().await?;
    bed.rotate("waves/disturbed").await?;

    // The silent ones take nobody's turn, and the order counts.
    bed.cluster.wait_for_count(&first, 1, SOON).await?;
    for silent in [&paused, &on_delete] {
        let is_reloaded = |state: &State| state.count() == Some(1);
        bed.cluster.wait_for(silent, "its reload", SOON, is_reloaded).await?;
    }
    next_second().await?;
    // Another writer deploys the last one: its new pods have the new version. Others are scaled, or get
    // annotations, while the wave goes on.
    let template = json!({ "metadata": { "annotations": { "example.com/release": "2" } } });
    bed.cluster.patch(&last, &json!({ "spec": { "template": template } })).await?;
    for (place, workload) in workloads.iter().enumerate() {
        let patch = match place % 3 {
            0 => json!({ "spec": { "replicas": 3 } }),
            1 => json!({ "metadata": { "annotations": { "example.com/touched": "yes" } } }),
            _ => continue,
        };
        bed.cluster.patch(workload, &patch).await?;
    }
    wait_until_complete(&controller, path).await?;
    for workload in workloads.iter().chain([&first]) {
        let reloads = bed.reloads_since(&mark, workload).await?;
        assert_eq!(reloads, 1, "{}\n{}", workload.name(), controller.last_lines());
    }
    assert_eq!(bed.counts(&[&last]).await?, [None], "{}", controller.last_lines());
    let in_order = reloading_order(&controller);
    let place = |workload: &Workload| {
        let end = format!("{}\"", workload.name());
        in_order.iter().position(|line| line.contains(&end))
    };
    let of_first = place(&first).context("no line of the first")?;
    for workload in &workloads {
        assert!(place(workload) > Some(of_first), "{in_order:#?}");
    }
    Ok(())
}

/// The lines of the reloads, in their order.
fn reloading_order(controller: &Controller) -> Vec<String> {
    let lines = controller.lines_with("Reloading workload: ");
    lines.into_iter().map(|line| line.text).collect()
}
