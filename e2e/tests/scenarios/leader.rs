//! Several replicas: which one leads, what the others do, and how fast they take over.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::cluster::LEASE;
use e2e::controller::{NOT_LEADING, is_leading};
use e2e::scenario::{
    HEARTBEAT, SOON, USER_AGENT, deployment_without_pods, next_second, polling_faster,
};
use e2e::vault_access::KubernetesRole;
use e2e::{ApiRequest, Bed, Controller, ControllerOptions, LeaseTimes, Mark, Workload, eventually};
use serde_json::{Value, json};

e2e::scenarios! {
    one_of_three_leads_and_only_it_asks_vault,
    after_a_kill_another_takes_over_within_a_lease_and_a_retry_period,
    who_is_told_to_end_hands_over_at_once,
    a_leader_without_api_server_stops_in_time_and_leads_again_afterwards: long,
    a_leader_that_was_frozen_past_its_lease_rolls_nothing_again,
    the_lease_is_written_once_a_retry_period_and_not_by_who_waits,
    two_that_both_lead_double_nothing: long,
    without_permission_for_the_lease_nothing_is_polled_and_it_is_said,
    a_lease_that_others_touch_or_that_is_odd_stops_nobody,
}

/// Short times, so that a test is not long.
const TIMES: LeaseTimes = LeaseTimes {
    duration: Duration::from_secs(3),
    renew_deadline: Duration::from_secs(2),
    retry_period: Duration::from_millis(500),
};

/// What a machine under load may add to a time that is promised.
const SLACK: Duration = Duration::from_secs(2);

const WAITING: &str = "Waiting to lead; ";

fn replica(namespace: &str, name: &str) -> ControllerOptions {
    polling_faster().leader_elect(namespace, name, TIMES)
}

/// Waits until one of several leads, and tells which.
async fn leader_of(all: &[Controller]) -> Result<usize> {
    eventually("one to lead", SOON, || async {
        let leading: Vec<usize> = (0..all.len()).filter(|index| all[*index].leads()).collect();
        Ok(leading.first().copied().filter(|_| leading.len() == 1))
    })
    .await
    .with_context(|| all.iter().map(Controller::last_lines).collect::<Vec<_>>().join("\n"))
}

async fn lease(bed: &Bed, namespace: &str) -> Result<Value> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{LEASE}");
    bed.cluster.get_path(&path).await
}

/// What controllers asked of leases since.
async fn lease_requests(bed: &Bed, since: &Mark) -> Result<Vec<ApiRequest>> {
    let mut requests = bed.api_requests_of(USER_AGENT, since).await?;
    requests.retain(|request| request.resource == "leases");
    Ok(requests)
}

fn is_write(request: &ApiRequest) -> bool {
    matches!(request.verb.as_str(), "create" | "update" | "patch")
}

/// The PATCHes that were answered with success since.
async fn reloads(bed: &Bed, since: &Mark) -> Result<usize> {
    let requests = bed.api_requests_of(USER_AGENT, since).await?;
    let is_reload = |request: &&ApiRequest| request.patches_workload() && request.code == 200;
    Ok(requests.iter().filter(is_reload).count())
}

fn many(prefix: &str, number: usize) -> Vec<Workload> {
    (0..number).map(|n| deployment_without_pods(&format!("{prefix}-{n}"), prefix)).collect()
}

async fn one_of_three_leads_and_only_it_asks_vault() -> Result<()> {
    let bed = Bed::shared().await?;
    let names = ["three-a", "three-b", "three-c"];
    bed.cluster.create_namespace("three").await?;
    if !bed.vault.is_auth_enabled("kubernetes").await? {
        bed.vault.enable_kubernetes_auth(&bed.cluster, "kubernetes").await?;
    }
    let role = KubernetesRole::new("three", "three", "default");
    bed.vault.put_kubernetes_role("kubernetes", &role).await?;
    let jwt = bed.cluster.request_token("three", "default", Duration::from_mins(10)).await?;
    let file = bed.folder().join("three-jwt");
    std::fs::write(&file, &jwt)?;
    bed.write_secrets(&["three"]).await?;
    let workload = deployment_without_pods("three", "three");
    bed.deploy_all(&[&workload]).await?;

    let mark = bed.mark().await?;
    let mut all = Vec::new();
    for name in names {
        let options = replica("three", name).kubernetes_login("three", &file);
        // It is ready whether it leads or not.
        all.push(Controller::start(&bed, &options).await?);
    }
    let first = leader_of(&all).await?;
    for (index, one) in all.iter().enumerate().filter(|(index, _)| *index != first) {
        let line = one.wait_for(WAITING, SOON).await?;
        let wanted = format!("{WAITING}{}_", names[first]);
        assert!(line.text.contains(&wanted), "{index}: {}", line.text);
    }
    bed.expect_no_roll(&all[first], &[(&workload, None)]).await?;
    bed.rotate("three").await?;
    bed.expect_rolls(&all[first], &[&workload], 1).await?;
    for (index, one) in all.iter().enumerate().filter(|(index, _)| *index != first) {
        assert_eq!(one.polls(), 0, "{index}: {}", one.last_lines());
        assert!(one.lines_with(HEARTBEAT).is_empty(), "{index}: {}", one.last_lines());
        assert_eq!(one.probe("/readyz").await?.status, 200);
    }
    let logins = |mark: &Mark| -> Result<usize> {
        Ok(bed.vault_requests_since(mark)?.iter().filter(|request| request.is_login()).count())
    };
    assert_eq!(logins(&mark)?, 1, "who waits logs in nowhere");
    let requests = bed.vault_requests_since(&mark)?;
    let mut tokens: Vec<_> = requests.iter().map(|request| &request.accessor).collect();
    tokens.retain(|accessor| !accessor.is_empty());
    tokens.dedup();
    assert_eq!(tokens.len(), 1, "{requests:#?}");

    let object = lease(&bed, "three").await?;
    let spec = &object["spec"];
    let holder = spec["holderIdentity"].as_str().unwrap_or_default();
    assert!(holder.starts_with(&format!("{}_", names[first])), "{object:#}");
    assert_eq!(
        (&spec["leaseDurationSeconds"], &spec["leaseTransitions"]),
        (&json!(3), &json!(0)),
        "{object:#}"
    );

    // The next one logs in for itself, and the token of the first is gone with it.
    let accessor = tokens[0].clone();
    all[first].terminate().await?;
    let rest: Vec<Controller> =
        all.into_iter().enumerate().filter(|(n, _)| *n != first).map(|(_, c)| c).collect();
    let second = leader_of(&rest).await?;
    rest[second].wait_for_polls(1, SOON).await?;
    assert_eq!(logins(&mark)?, 2);
    let revoked = bed.vault_requests_since(&mark)?;
    let is_it = |path: &str| path == "auth/token/revoke-self";
    assert!(revoked.iter().any(|r| is_it(&r.path) && r.accessor == accessor), "{revoked:#?}");
    let object = lease(&bed, "three").await?;
    assert_eq!(object["spec"]["leaseTransitions"], 1, "{object:#}");
    bed.expect_no_roll(&rest[second], &[(&workload, Some(1))]).await
}

async fn after_a_kill_another_takes_over_within_a_lease_and_a_retry_period() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("killed").await?;
    bed.write_secrets(&["killed"]).await?;
    let workload = deployment_without_pods("killed", "killed");
    bed.deploy_all(&[&workload]).await?;
    let mut all = Vec::new();
    for name in ["killed-a", "killed-b", "killed-c"] {
        all.push(Controller::start(&bed, &replica("killed", name)).await?);
    }
    for rotations in 1..=2 {
        let leader = leader_of(&all).await?;
        bed.expect_no_roll(&all[leader], &[(&workload, (rotations > 1).then_some(rotations - 1))])
            .await?;
        next_second().await?;
        let mark = bed.mark().await?;
        let began = Instant::now();
        all[leader].kill();
        bed.rotate("killed").await?;
        let rest: Vec<usize> = (0..all.len()).filter(|index| *index != leader).collect();
        let line = eventually("another one to lead", SOON, || async {
            let lines = rest.iter().flat_map(|index| all[*index].lines_matching(is_leading));
            Ok(lines.filter(|line| line.at > began).min_by_key(|line| line.at))
        })
        .await?;
        let took = line.at.duration_since(began);
        assert!(took <= TIMES.duration + TIMES.retry_period + SLACK, "{took:?}");
        // The lease was renewed at most a retry period before the kill.
        assert!(took + TIMES.retry_period + SLACK / 4 >= TIMES.duration, "{took:?}");
        let next = rest.iter().copied().find(|index| all[*index].leads()).context("nobody")?;
        bed.expect_rolls(&all[next], &[&workload], rotations).await?;
        assert_eq!(reloads(&bed, &mark).await?, 1);
        all[leader].restart().await?;
    }
    Ok(())
}

async fn who_is_told_to_end_hands_over_at_once() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("ended").await?;
    bed.write_secrets(&["ended"]).await?;
    let workloads = many("ended", 60);
    let all_of_them: Vec<&Workload> = workloads.iter().collect();
    bed.deploy_all(&all_of_them).await?;
    // The times are those that users have: it does not hang on them.
    let times = LeaseTimes {
        duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
    };
    let mut all = Vec::new();
    for name in ["ended-a", "ended-b", "ended-c"] {
        let options = polling_faster().leader_elect("ended", name, times);
        all.push(Controller::start(&bed, &options).await?);
    }
    let mark = bed.mark().await?;
    for turn in 0..4 {
        let leader = leader_of(&all).await?;
        all[leader].wait_for_polls(1, SOON).await?;
        // Every other time, it is told to while it reloads.
        if turn % 2 == 1 {
            let seen = all[leader].lines().len();
            bed.rotate("ended").await?;
            all[leader].wait_for_after(seen, "Reloading workload", SOON).await?;
        }
        let began = Instant::now();
        all[leader].ask_to_end()?;
        let line = eventually("another one to lead", SOON, || async {
            let lines = all.iter().flat_map(|one| one.lines_matching(is_leading));
            Ok(lines.filter(|line| line.at > began).min_by_key(|line| line.at))
        })
        .await?;
        let took = line.at.duration_since(began);
        // Who waits would look at the lease by itself only after a retry period.
        assert!(took < times.retry_period, "turn {turn}: {took:?}");
        let status = all[leader].wait_for_end(SOON).await?;
        assert_eq!(status.code(), Some(0), "{}", all[leader].last_lines());
        all[leader].restart().await?;
        if turn % 2 == 1 {
            let next = leader_of(&all).await?;
            bed.expect_rolls(&all[next], &all_of_them, turn / 2 + 1).await?;
        }
    }
    assert_eq!(reloads(&bed, &mark).await?, 2 * workloads.len(), "each once for each rotation");
    Ok(())
}

async fn a_leader_without_api_server_stops_in_time_and_leads_again_afterwards() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("cut-off").await?;
    bed.write_secrets(&["cut-off"]).await?;
    let workload = deployment_without_pods("cut-off", "cut-off");
    bed.deploy_all(&[&workload]).await?;
    let leader = Controller::start(&bed, &replica("cut-off", "cut-off")).await?;
    // This one polls all the time: by its polls, the time is told.
    let other = Controller::start(&bed, &polling_faster()).await?;
    for (rotations, is_paused) in [(1, true), (2, false)] {
        eventually("it to lead", SOON, || async { Ok(leader.leads().then_some(())) }).await?;
        leader.wait_for_polls(1, SOON).await?;
        let seen = leader.lines().len();
        let began = Instant::now();
        if is_paused {
            bed.api_server.pause()?;
        } else {
            bed.api_server.kill();
        }
        let line = leader.wait_for_after(seen, NOT_LEADING, SOON).await?;
        let took = line.at.duration_since(began);
        assert!(line.text.contains("level=warn") && line.text.contains("could not be renewed"));
        assert!(took <= TIMES.duration + SLACK / 4, "{took:?}");
        assert!(took + TIMES.retry_period + SLACK / 4 >= TIMES.renew_deadline, "{took:?}");
        let polls = leader.polls();
        bed.rotate("cut-off").await?;
        other.wait_for_polls(4, SOON).await?;
        assert_eq!(leader.polls(), polls, "{}", leader.last_lines());
        let seen = leader.lines().len();
        if is_paused {
            bed.api_server.resume().await?;
        } else {
            bed.api_server.start().await?;
        }
        leader.wait_for_after(seen, "msg=Leading", SOON).await?;
        bed.expect_rolls(&leader, &[&workload], rotations).await?;
        bed.expect_rolls(&other, &[&workload], rotations).await?;
    }
    Ok(())
}

async fn a_leader_that_was_frozen_past_its_lease_rolls_nothing_again() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("frozen").await?;
    bed.write_secrets(&["frozen"]).await?;
    let workloads = many("frozen", 60);
    let all: Vec<&Workload> = workloads.iter().collect();
    bed.deploy_all(&all).await?;
    let mut replicas = Vec::new();
    for name in ["frozen-a", "frozen-b"] {
        // Each as a user of its own, so that their requests can be told apart.
        bed.cluster.create_service_account("frozen", name).await?;
        bed.cluster.grant_reloader("frozen", name).await?;
        let token = bed.cluster.request_token("frozen", name, Duration::from_mins(10)).await?;
        let kubeconfig = bed.cluster.kubeconfig_for(name, &token)?;
        let options = replica("frozen", name).env("KUBECONFIG", kubeconfig);
        replicas.push(Controller::start(&bed, &options).await?);
    }
    let old = leader_of(&replicas).await?;
    let new = 1 - old;
    bed.expect_no_roll(&replicas[old], &[(all[0], None)]).await?;
    let mark = bed.mark().await?;
    let seen = replicas[old].lines().len();
    bed.rotate("frozen").await?;
    replicas[old].wait_for_after(seen, "Reloading workload", SOON).await?;
    replicas[old].pause()?;
    replicas[new].wait_for_line(is_leading, SOON).await?;
    bed.expect_rolls(&replicas[new], &all, 1).await?;
    let rolled = reloads(&bed, &mark).await?;
    // While it is frozen still, the secret changes again, and the other one sees to it.
    bed.rotate("frozen").await?;
    bed.expect_rolls(&replicas[new], &all, 2).await?;
    let resumed = bed.mark().await?;
    let seen = replicas[old].lines().len();
    replicas[old].resume()?;
    let lost = replicas[old].wait_for_after(seen, NOT_LEADING, SOON).await?;
    if !lost.text.contains("has taken the lease") {
        // Its own time was over before it heard of the other one.
        replicas[old].wait_for_after(seen, WAITING, SOON).await?;
    }
    let polls = replicas[old].polls();
    bed.expect_rolls(&replicas[new], &all, 2).await?;
    assert_eq!(replicas[old].polls(), polls, "{}", replicas[old].last_lines());
    assert_eq!((rolled, reloads(&bed, &mark).await?), (60, 120));
    let name = format!("system:serviceaccount:frozen:{}", ["frozen-a", "frozen-b"][old]);
    let late = bed.api_requests_since(&resumed).await?;
    let late: Vec<_> = late.iter().filter(|r| r.user == name && r.patches_workload()).collect();
    // What was under way when it was frozen is refused by the API server: with 409, or with 504 where
    // it had only a part of the request and gave up on the rest. Nothing else is begun.
    let is_refused = |request: &&ApiRequest| matches!(request.code, 409 | 504);
    assert!(late.len() <= 8 && late.iter().all(is_refused), "{late:#?}");
    Ok(())
}

async fn the_lease_is_written_once_a_retry_period_and_not_by_who_waits() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("churn").await?;
    // Something to be polled, and by its polls the time is told.
    bed.write_secrets(&["churn"]).await?;
    let workload = deployment_without_pods("churn", "churn");
    bed.deploy_all(&[&workload]).await?;
    let mut all = Vec::new();
    for name in ["churn-a", "churn-b", "churn-c"] {
        all.push(Controller::start(&bed, &replica("churn", name)).await?);
    }
    let leader = leader_of(&all).await?;
    for (index, one) in all.iter().enumerate().filter(|(index, _)| *index != leader) {
        one.wait_for(WAITING, SOON).await.with_context(|| index)?;
    }
    let mark = bed.mark().await?;
    let began = Instant::now();
    all[leader].wait_for_polls(24, SOON).await?;
    let requests = lease_requests(&bed, &mark).await?;
    let periods = began.elapsed().as_secs_f64() / TIMES.retry_period.as_secs_f64();
    let writes: Vec<_> = requests.iter().filter(|request| is_write(request)).collect();
    #[expect(clippy::cast_precision_loss, reason = "a few dozen")]
    let number = writes.len() as f64;
    assert!(number <= periods + 1.0, "{number} writes in {periods:.1} periods: {writes:#?}");
    assert!(number >= periods / 2.0, "{number} writes in {periods:.1} periods: not renewed");
    assert!(writes.iter().all(|request| request.verb == "update" && request.code == 200));
    // Who waits is told of each renewal by its watch, and need not ask.
    let reads = requests.iter().filter(|request| request.verb == "get").count();
    assert!(reads <= 4, "{reads} reads in {periods:.1} periods");
    Ok(())
}

async fn two_that_both_lead_double_nothing() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("both").await?;
    bed.write_secrets(&["both"]).await?;
    let workloads = many("both", 60);
    let all: Vec<&Workload> = workloads.iter().collect();
    bed.deploy_all(&all).await?;
    let mark = bed.mark().await?;
    let first = Controller::start(&bed, &polling_faster()).await?;
    let second = Controller::start(&bed, &polling_faster()).await?;
    let nobody: Vec<_> = all.iter().map(|workload| (*workload, None)).collect();
    bed.expect_no_roll(&first, &nobody).await?;
    bed.expect_no_roll(&second, &nobody).await?;
    let rotations = 5;
    for times in 1..=rotations {
        bed.rotate("both").await?;
        bed.expect_rolls(&first, &all, times).await?;
        bed.expect_rolls(&second, &all, times).await?;
    }
    assert_eq!(reloads(&bed, &mark).await?, 60 * usize::try_from(rotations)?);
    for one in [&first, &second] {
        assert!(!one.lines_with("Reloading workload").is_empty(), "only one of them did anything");
    }
    assert!(lease_requests(&bed, &mark).await?.is_empty());
    Ok(())
}

async fn without_permission_for_the_lease_nothing_is_polled_and_it_is_said() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("refused-lease").await?;
    let mark = bed.mark().await?;
    let options =
        replica("refused-lease", "refused").flag("--leader-elect-resource-name", "another");
    let one = Controller::start(&bed, &options).await?;
    let line = one.wait_for("May not get the lease refused-lease/another", SOON).await?;
    let wanted = "grant get, create, update, watch on leases.coordination.k8s.io in namespace \
                  refused-lease";
    assert!(line.text.contains(wanted) && line.text.contains("level=error"), "{}", line.text);
    for verb in ["get", "update", "watch"] {
        let said = format!(
            "lacks a permission: {verb} leases.coordination.k8s.io in namespace refused-lease. Add it \
             to its Role there"
        );
        one.wait_for(&said, SOON).await?;
    }
    eventually("some attempts", SOON, || async {
        let requests = lease_requests(&bed, &mark).await?;
        Ok((requests.iter().filter(|r| r.verb == "get" && r.code == 403).count() >= 4)
            .then_some(()))
    })
    .await?;
    assert_eq!(one.polls(), 0);
    assert_eq!(one.lines_with("May not get").len(), 1, "said once");

    // With all but one, it does its work, and says what is left.
    let rules = json!([{
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "verbs": ["get", "create", "update"],
    }]);
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"namespace": "refused-lease", "name": "lease"},
        "rules": rules,
    });
    bed.cluster.apply_object(&role, "roles").await?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"namespace": "refused-lease", "name": "lease"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "lease"},
        "subjects": [{
            "apiGroup": "rbac.authorization.k8s.io", "kind": "User",
            "name": e2e::command_lines::RELOADER_USER,
        }],
    });
    bed.cluster.apply_object(&binding, "rolebindings").await?;
    one.wait_for_line(is_leading, SOON).await?;
    one.wait_for("May not watch the lease refused-lease/another", SOON).await?;
    // Another one, which cannot watch either, looks now and then, and takes over.
    let other = replica("refused-lease", "other").flag("--leader-elect-resource-name", "another");
    let other = Controller::start(&bed, &other).await?;
    other.wait_for(WAITING, SOON).await?;
    let mut one = one;
    let began = Instant::now();
    one.ask_to_end()?;
    let line = other.wait_for_line(is_leading, SOON).await?;
    let took = line.at.duration_since(began);
    assert!(took <= TIMES.retry_period + SLACK, "{took:?}");
    one.wait_for_end(SOON).await.map(drop)
}

async fn a_lease_that_others_touch_or_that_is_odd_stops_nobody() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("odd-lease").await?;
    bed.write_secrets(&["odd-lease"]).await?;
    let workload = deployment_without_pods("odd-lease", "odd-lease");
    bed.deploy_all(&[&workload]).await?;
    let object = |spec: Value| {
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"namespace": "odd-lease", "name": LEASE, "labels": {"e2e/kept": "yes"}},
            "spec": spec,
        })
    };
    let args = ["delete", "lease", LEASE, "--namespace", "odd-lease"];
    // Nobody holds it, whatever else it says: it is taken at once.
    for spec in [
        json!({}),
        json!({"renewTime": "9999-12-31T23:59:59.999999Z", "leaseDurationSeconds": i32::MAX}),
        json!({"holderIdentity": "", "leaseTransitions": i32::MAX}),
    ] {
        bed.cluster.apply_object(&object(spec.clone()), "leases").await?;
        let mut one = Controller::start(&bed, &replica("odd-lease", "odd")).await?;
        one.wait_for_line(is_leading, SOON).await.with_context(|| spec.clone())?;
        let kept = lease(&bed, "odd-lease").await?;
        assert_eq!(kept["metadata"]["labels"]["e2e/kept"], "yes", "{kept:#}");
        one.terminate().await?;
        let left = lease(&bed, "odd-lease").await?;
        assert_eq!(left["spec"]["holderIdentity"], "", "{left:#}");
        assert_eq!(left["spec"]["leaseDurationSeconds"], 1, "{left:#}");
        bed.kubectl(&args).await?;
    }
    // Somebody holds it, for as long as times go. It is deleted, and the one that waits makes it anew.
    let spec = json!({
        "holderIdentity": "somebody\n\"odd\"",
        "renewTime": "9999-12-31T23:59:59.999999Z",
        "acquireTime": "0001-01-01T00:00:00.000000Z",
        "leaseDurationSeconds": i32::MAX,
    });
    bed.cluster.apply_object(&object(spec), "leases").await?;
    let one = Controller::start(&bed, &replica("odd-lease", "odd")).await?;
    one.wait_for(WAITING, SOON).await?;
    bed.kubectl(&args).await?;
    one.wait_for_line(is_leading, SOON).await?;
    one.wait_for_polls(1, SOON).await?;

    // Written by others and deleted while it is held: it is renewed, and made anew, in time.
    bed.kubectl(&["label", "lease", LEASE, "--namespace", "odd-lease", "e2e/touched=yes"]).await?;
    let renewed = async |before: Value| {
        eventually("the lease to be renewed", SOON, || async {
            let now = lease(&bed, "odd-lease").await?;
            Ok((now["spec"]["renewTime"] != before["spec"]["renewTime"]).then_some(now))
        })
        .await
    };
    let touched = renewed(lease(&bed, "odd-lease").await?).await?;
    assert_eq!(touched["metadata"]["labels"]["e2e/touched"], "yes", "{touched:#}");
    bed.kubectl(&args).await?;
    renewed(touched).await?;
    one.wait_for_polls(8, SOON).await?;
    assert!(one.lines_with(NOT_LEADING).is_empty(), "{}", one.last_lines());
    // Taken away by hand: it stops at once, and waits.
    bed.kubectl(&[
        "patch",
        "lease",
        LEASE,
        "--namespace",
        "odd-lease",
        "--type=merge",
        "--patch",
        r#"{"spec": {"holderIdentity": "by-hand"}}"#,
    ])
    .await?;
    let line = one.wait_for(NOT_LEADING, SOON).await?;
    assert!(line.text.contains("by-hand has taken"), "{}", line.text);
    // Nobody renews it, so it comes back.
    let seen = one.lines().len();
    one.wait_for_after(seen, "msg=Leading", SOON).await.map(drop)
}
