//! Who may read the status, and how a replica that does not lead reaches the leader.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::controller::{LeaseTimes, STATUS_ADDRESS, is_leading};
use e2e::deploy::{RELEASE, deploy};
use e2e::ports::Port;
use e2e::scenario::{SOON, USER_AGENT, polling_faster};
use e2e::{Bed, Controller, ControllerOptions, Mark, Workload, eventually};
use serde_json::{Value, json};

e2e::scenarios! {
    the_cluster_decides_who_reads_the_status: long,
    without_its_permissions_it_lets_nobody_in_and_says_why,
    the_roles_of_the_chart_are_enough,
    a_replica_that_does_not_lead_answers_as_the_leader_does,
}

/// The audience of tokens by default.
const AUDIENCE: &str = "vault-secrets-reloader";

const RBAC: &str = "rbac.authorization.k8s.io";

/// The role of those who may read the status, and the name of its binding.
const READER: &str = "e2e-status-reader";

/// Creates the accounts `controller`, `reader` and `nobody` with the permissions of the chart. Returns
/// a kubeconfig of `controller`.
async fn prepare(bed: &Bed, namespace: &str) -> Result<PathBuf> {
    let cluster = &bed.cluster;
    cluster.create_namespace(namespace).await?;
    for account in ["controller", "reader", "nobody"] {
        cluster.create_service_account(namespace, account).await?;
    }
    cluster.grant_reloader(namespace, "controller").await?;
    let review = |group: &str, resource: &str| {
        let (groups, resources) = ([group], [resource]);
        json!({ "apiGroups": groups, "resources": resources, "verbs": ["create"] })
    };
    let rules = json!([
        review("authentication.k8s.io", "tokenreviews"),
        review("authorization.k8s.io", "subjectaccessreviews"),
    ]);
    grant(bed, "e2e-status-reviews", &rules, namespace, "controller").await?;
    let rules = json!([{ "nonResourceURLs": ["/v1/*"], "verbs": ["get"] }]);
    grant(bed, READER, &rules, namespace, "reader").await?;
    let metadata = json!({ "name": "status", "namespace": namespace });
    let role = json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "Role", "metadata": metadata,
        "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }],
    });
    cluster.apply_object(&role, "roles").await?;
    let binding = json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "RoleBinding", "metadata": metadata,
        "roleRef": { "apiGroup": RBAC, "kind": "Role", "name": "status" },
        "subjects": [account(namespace, "controller")],
    });
    cluster.apply_object(&binding, "rolebindings").await?;
    let token = cluster.request_token(namespace, "controller", Duration::from_hours(1)).await?;
    cluster.kubeconfig_for(&format!("controller-of-{namespace}"), &token)
}

fn account(namespace: &str, name: &str) -> Value {
    json!({ "kind": "ServiceAccount", "namespace": namespace, "name": name })
}

/// Creates a `ClusterRole`, and binds it to an account.
async fn grant(bed: &Bed, name: &str, rules: &Value, namespace: &str, user: &str) -> Result<()> {
    let role = json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole", "metadata": { "name": name },
        "rules": rules,
    });
    bed.cluster.apply_object(&role, "clusterroles").await?;
    bed.cluster.bind(name, name, &account(namespace, user)).await
}

/// Returns the options of a controller that asks the cluster about callers.
fn asking_the_cluster(kubeconfig: &Path) -> ControllerOptions {
    polling_faster().env("KUBECONFIG", kubeconfig).switch("--status-kubernetes-auth")
}

/// Returns a token for the status.
async fn token_of(bed: &Bed, namespace: &str, account: &str) -> Result<String> {
    let life = Duration::from_hours(1);
    bed.cluster.request_token_for(&[AUDIENCE], namespace, account, life).await
}

/// Sends a GET to the API of a controller. Returns the status and the body.
async fn get(controller: &Controller, path: &str, token: &str) -> Result<(u16, String)> {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
    let mut request = http.get(format!("{}{path}", controller.status_address()?));
    if !token.is_empty() {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

/// Waits until the API of a controller answers the overview with this status.
async fn wait_for_code(
    controller: &Controller,
    token: &str,
    expected: u16,
    within: Duration,
) -> Result<()> {
    let what = format!("the status {expected}");
    let found = eventually(&what, within, || async {
        let (code, body) = get(controller, "/v1/overview", token).await?;
        anyhow::ensure!(code == expected, "{code} {body}");
        Ok(Some(()))
    });
    found.await.with_context(|| controller.last_lines())
}

/// Returns how often the controllers created or read objects of a resource since.
async fn requests(bed: &Bed, mark: &Mark, resource: &str) -> Result<usize> {
    let requests = bed.api_requests_of(USER_AGENT, mark).await?;
    Ok(requests.iter().filter(|request| request.resource == resource).count())
}

async fn the_cluster_decides_who_reads_the_status() -> Result<()> {
    const NAMESPACE: &str = "status-access";
    let bed = Bed::shared().await?;
    let kubeconfig = prepare(&bed, NAMESPACE).await?;
    let reader = token_of(&bed, NAMESPACE, "reader").await?;
    let nobody = token_of(&bed, NAMESPACE, "nobody").await?;
    let life = Duration::from_hours(1);
    let for_others = bed.cluster.request_token(NAMESPACE, "reader", life).await?;
    let mut controller = Controller::start(&bed, &asking_the_cluster(&kubeconfig)).await?;
    for token in [&reader, &nobody, &for_others] {
        controller.must_not_say(token);
    }
    wait_for_code(&controller, &reader, 200, SOON).await?;
    let user = format!("system:serviceaccount:{NAMESPACE}:nobody may not get /v1/overview");
    for (token, expected, part) in [
        ("", 401, "kubectl create token SERVICEACCOUNT --audience vault-secrets-reloader"),
        ("invented", 401, "for the audience vault-secrets-reloader"),
        (for_others.as_str(), 401, "for the audience vault-secrets-reloader"),
        (nobody.as_str(), 403, user.as_str()),
    ] {
        let (code, body) = get(&controller, "/v1/overview", token).await?;
        assert!(code == expected && body.contains(part), "{code} {body}");
        assert!(token.is_empty() || !body.contains(token), "{body}");
    }

    expect_told_by_the_command(&bed, &controller, &reader, &nobody).await?;

    // Answers of the cluster are kept.
    let mark = bed.mark().await?;
    for _ in 0..20 {
        assert_eq!(get(&controller, "/v1/workloads", &reader).await?.0, 200);
    }
    let reviews = requests(&bed, &mark, "tokenreviews").await?;
    assert!((1..=2).contains(&reviews), "{reviews} TokenReviews");

    // A deleted binding has an effect within a minute, and a new one within ten seconds.
    let binding = format!("/apis/{RBAC}/v1/clusterrolebindings/{READER}");
    bed.cluster.delete_path(&binding).await?;
    wait_for_code(&controller, &reader, 403, Duration::from_mins(2)).await?;
    prepare(&bed, NAMESPACE).await?;
    wait_for_code(&controller, &reader, 200, SOON).await?;
    Ok(())
}

/// The command shows the status to the reader, and says in one line what keeps the other from it.
async fn expect_told_by_the_command(
    bed: &Bed,
    controller: &Controller,
    reader: &str,
    nobody: &str,
) -> Result<()> {
    let file = |name: &str, token: &str| -> Result<String> {
        let path = bed.folder().join(name);
        std::fs::write(&path, token)?;
        Ok(path.display().to_string())
    };
    let (of_reader, of_nobody) = (file("reader", reader)?, file("nobody", nobody)?);
    let (code, text) = controller.status(&["--token-file", &of_reader]).await?;
    assert_eq!(code, 0, "{text}");
    for (args, part) in [
        (&["--token-file", of_nobody.as_str()][..], "Bind a ClusterRole"),
        (&[], "Give a token with --token-file"),
    ] {
        let (code, text) = controller.status(args).await?;
        let is_told = code == 2 && text.contains(part) && text.lines().count() == 1;
        assert!(is_told, "{args:?}: {code} {text}");
    }
    Ok(())
}

async fn without_its_permissions_it_lets_nobody_in_and_says_why() -> Result<()> {
    const NAMESPACE: &str = "status-missing";
    let bed = Bed::shared().await?;
    prepare(&bed, NAMESPACE).await?;
    let reader = token_of(&bed, NAMESPACE, "reader").await?;
    let options = polling_faster().switch("--status-kubernetes-auth");
    let mut controller = Controller::start(&bed, &options).await?;
    controller.must_not_say(&reader);
    let missing =
        "The service account lacks a permission: create tokenreviews.authentication.k8s.io";
    controller.wait_for(missing, SOON).await?;
    let (code, body) = get(&controller, "/v1/overview", &reader).await?;
    assert!(code == 503 && body.contains("may not create tokenreviews"), "{code} {body}");
    Ok(())
}

async fn the_roles_of_the_chart_are_enough() -> Result<()> {
    let bed = Bed::shared().await?;
    let values = [
        ("logLevel", "debug"),
        ("reloaderRunPeriod", "1s"),
        ("status.address", "127.0.0.1:0"),
        ("status.kubernetesAuth", "true"),
    ];
    let mut pod = deploy(&bed, &values, &mut |_| {}).await?;
    bed.cluster.create_service_account(RELEASE, "reader").await?;
    let role = format!("{RELEASE}-status-reader");
    let account = format!("--serviceaccount={RELEASE}:reader");
    let role = format!("--clusterrole={role}");
    bed.kubectl(&["create", "clusterrolebinding", "reader-of-the-chart", &role, &account]).await?;
    let reader = token_of(&bed, RELEASE, "reader").await?;
    pod.controller.must_not_say(&reader);
    wait_for_code(&pod.controller, &reader, 200, SOON).await?;
    let as_pod = format!("--as={}", pod.user);
    for (verb, resource) in [
        ("get", "pods"),
        ("create", "tokenreviews.authentication.k8s.io"),
        ("create", "subjectaccessreviews.authorization.k8s.io"),
    ] {
        let question = ["auth", "can-i", verb, resource, "--namespace", RELEASE, as_pod.as_str()];
        bed.kubectl(&question).await.with_context(|| format!("may not {verb} {resource}"))?;
    }
    drop(pod);
    bed.kubectl(&["delete", "clusterrolebinding", "reader-of-the-chart"]).await?;
    bed.helm(&["uninstall", RELEASE, "--namespace", RELEASE, "--wait"]).await.map(drop)
}

/// Another replica leads two seconds after the leader was killed.
const TIMES: LeaseTimes = LeaseTimes {
    duration: Duration::from_secs(2),
    renew_deadline: Duration::from_secs(1),
    retry_period: Duration::from_millis(200),
};

async fn a_replica_that_does_not_lead_answers_as_the_leader_does() -> Result<()> {
    const NAMESPACE: &str = "status-forward";
    let bed = Bed::shared().await?;
    let kubeconfig = prepare(&bed, NAMESPACE).await?;
    let reader = token_of(&bed, NAMESPACE, "reader").await?;
    bed.write_secrets(&["forward/a"]).await?;
    let web = Workload::deployment(NAMESPACE, "web").opted_in().replicas(0);
    let web = web.env("A", "vault:secret/data/forward/a#k");
    bed.deploy_all(&[&web]).await?;
    // Pods have addresses of their own, and all replicas the same port.
    let port = Port::any()?;
    let (first, second) = (("replica-1", "127.0.0.2"), ("replica-2", "127.0.0.3"));
    let options = |(name, address): (&str, &str)| {
        let address = format!("{address}:{}", port.number());
        let options = asking_the_cluster(&kubeconfig).flag(STATUS_ADDRESS, &address);
        options.leader_elect(NAMESPACE, name, TIMES)
    };
    for (name, address) in [first, second] {
        bed.cluster.show_pod_at(NAMESPACE, name, address).await?;
    }
    let mut leader = Controller::start(&bed, &options(first)).await?;
    leader.wait_for_line(is_leading, SOON).await?;
    let mut other = Controller::start(&bed, &options(second)).await?;
    leader.must_not_say(&reader);
    other.must_not_say(&reader);
    wait_for_code(&leader, &reader, 200, SOON).await?;
    wait_for_code(&other, &reader, 200, SOON).await?;
    eventually("the first poll", SOON, || async {
        let (_, body) = get(&leader, "/v1/workloads", &reader).await?;
        Ok(body.contains("silent").then_some(()))
    })
    .await?;
    let mark = bed.mark().await?;
    for path in [
        "/v1/workloads",
        "/v1/workload?name=status-forward/Deployment/web",
        "/v1/workload?name=status-forward/Deployment/none",
        "/v1/workloads?limit=0",
    ] {
        let forwarded = get(&other, path, &reader).await?;
        assert_eq!(forwarded, get(&leader, path, &reader).await?, "{path}");
    }
    assert!(requests(&bed, &mark, "pods").await? <= 2);
    let (_, body) = get(&other, "/v1/overview", &reader).await?;
    let overview: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
    assert_eq!(overview["leader"], json!("replica-1"), "{overview:#}");
    let (code, body) = get(&other, "/v1/overview", "").await?;
    assert_eq!(code, 401, "{body}");
    assert!(!other.leads());

    // The other replica leads when the leader is gone, and answers by itself.
    drop(leader);
    let (code, body) = get(&other, "/v1/overview", &reader).await?;
    assert!(matches!(code, 200 | 503), "{code} {body}");
    other.wait_for_line(is_leading, SOON).await?;
    wait_for_code(&other, &reader, 200, SOON).await?;
    let (_, body) = get(&other, "/v1/overview", &reader).await?;
    assert!(body.contains("replica-2"), "{body}");
    Ok(())
}
