//! A controller of some namespaces only: named ones by Roles in them, or labelled ones by a selector.

use anyhow::{Context as _, Result};
use e2e::deploy::{RELEASE, deploy};
use e2e::scenario::{SOON, USER_AGENT, polling_faster};
use e2e::{ApiRequest, Bed, Controller, Workload};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

e2e::scenarios! {
    named_namespaces_are_watched_by_roles_alone_and_nothing_else_is_asked_for,
    workloads_enter_and_leave_with_the_label_of_their_namespace,
}

const FREEZE: &str = "secrets-reloader.security.bank-vaults.io/freeze-until";

/// A Deployment without pods that refers to a secret.
fn web(namespace: &str, secret: &str) -> Workload {
    let web = Workload::deployment(namespace, "web").opted_in().replicas(0);
    web.env("A", &format!("vault:secret/data/{secret}#k"))
}

async fn named_namespaces_are_watched_by_roles_alone_and_nothing_else_is_asked_for() -> Result<()> {
    let bed = Bed::shared().await?;
    let (open, frozen, other) = ("named-open", "named-frozen", "named-other");
    for namespace in [open, frozen, other] {
        bed.cluster.create_namespace(namespace).await?;
    }
    let freeze = format!("{FREEZE}={}", Timestamp::now() + SignedDuration::from_hours(1));
    bed.kubectl(&["annotate", "namespace", frozen, &freeze]).await?;
    bed.write_secrets(&["named/a"]).await?;
    let config_map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "namespace": open, "name": "refs" },
        "data": { "A": "vault:secret/data/named/a#k" },
    });
    bed.cluster.apply_object(&config_map, "configmaps").await?;
    let by_config_map = Workload::stateful_set(open, "db").opted_in().replicas(0);
    let by_config_map = by_config_map.env_from(&json!({ "configMapRef": { "name": "refs" } }));
    let (of_open, of_frozen, of_other) =
        (web(open, "named/a"), web(frozen, "named/a"), web(other, "named/a"));
    bed.deploy_all(&[&by_config_map, &of_open, &of_frozen, &of_other]).await?;
    let mark = bed.mark().await?;
    let values = [
        ("logLevel", "debug"),
        ("reloaderRunPeriod", "1s"),
        ("reloadMinInterval", "0s"),
        ("watchNamespaces[0]", open),
        ("watchNamespaces[1]", frozen),
    ];
    let mut pod = deploy(&bed, &values, &mut |_| {}).await?;
    assert!(pod.all_probes_succeed().await, "{:?}", pod.probes);
    pod.controller.wait_for("Reloads do not wait for the webhook", SOON).await?;
    let all = [&by_config_map, &of_open, &of_frozen, &of_other];
    bed.expect_no_roll(&pod.controller, &all.map(|workload| (workload, None))).await?;

    bed.rotate("named/a").await?;
    bed.expect_rolls(&pod.controller, &[&by_config_map, &of_open], 1).await?;
    assert_eq!(bed.counts(&[&of_frozen, &of_other]).await?, [None, None], "a freeze counts");
    // The annotation is read once a minute, and at the start.
    bed.kubectl(&["annotate", "namespace", frozen, &format!("{FREEZE}-")]).await?;
    pod.controller.restart().await?;
    bed.expect_rolls(&pod.controller, &[&of_frozen], 1).await?;
    assert_eq!(bed.counts(&all).await?, [Some(1), Some(1), Some(1), None]);
    pod.controller.terminate().await?;

    let requests = bed.api_requests_of(USER_AGENT, &mark).await?;
    assert!(requests.iter().all(|request| request.user == pod.user), "{requests:#?}");
    let denied = |request: &&ApiRequest| matches!(request.code, 401 | 403);
    assert_eq!(requests.iter().filter(denied).collect::<Vec<_>>(), Vec::<&ApiRequest>::new());
    // What the controller may do, it asks about in the whole cluster: each user may.
    let is_outside = |request: &&ApiRequest| {
        !request.resource.starts_with("selfsubject")
            && ![open, frozen, RELEASE].contains(&request.namespace.as_str())
    };
    assert_eq!(requests.iter().filter(is_outside).collect::<Vec<_>>(), Vec::<&ApiRequest>::new());
    for (verb, resource, namespace) in [
        ("list", "deployments", open),
        ("watch", "statefulsets", frozen),
        ("get", "namespaces", frozen),
        ("get", "configmaps", open),
        ("patch", "deployments", frozen),
        ("update", "leases", RELEASE),
    ] {
        let is_one = |request: &ApiRequest| {
            (&*request.verb, &*request.resource, &*request.namespace) == (verb, resource, namespace)
        };
        assert!(requests.iter().any(is_one), "no {verb} of {resource} in {namespace}");
    }
    // No ConfigMap is named in the other namespace, so they are not watched there.
    let is_of_sources =
        |request: &ApiRequest| request.resource == "configmaps" && request.namespace == frozen;
    assert!(!requests.iter().any(is_of_sources), "{requests:#?}");

    let of_release = format!("app.kubernetes.io/instance={RELEASE}");
    let mut args = vec!["get", "clusterroles,clusterrolebindings", "--output=name", "--selector"];
    args.push(&of_release);
    let found = bed.kubectl(&args).await?;
    assert_eq!(found.trim(), "", "the release has no right in the whole cluster");
    let args = ["get", "deployments", "--namespace", other, "--as", pod.user.as_str()];
    let refused = bed.kubectl(&args).await.err().context("it may list workloads elsewhere")?;
    assert!(format!("{refused:#}").contains("Forbidden"), "{refused:#}");
    bed.helm(&["uninstall", RELEASE, "--namespace", RELEASE, "--wait"]).await.map(drop)
}

async fn workloads_enter_and_leave_with_the_label_of_their_namespace() -> Result<()> {
    let bed = Bed::shared().await?;
    let (labelled, later) = ("selected-at-first", "selected-later");
    for namespace in [labelled, later] {
        bed.cluster.create_namespace(namespace).await?;
    }
    let label = async |namespace: &str, label: &str| {
        bed.kubectl(&["label", "namespace", namespace, label]).await.map(drop)
    };
    label(labelled, "team=payments").await?;
    bed.write_secrets(&["selected/a", "selected/b"]).await?;
    let (a, b) = (web(labelled, "selected/a"), web(later, "selected/b"));
    bed.deploy_all(&[&a, &b]).await?;
    let options = polling_faster().flag("--namespace-selector", "team=payments");
    let controller = Controller::start(&bed, &options).await?;
    bed.expect_no_roll(&controller, &[(&a, None), (&b, None)]).await?;
    let collected = |namespace: &str| format!("Collected secrets from Deployment {namespace}/web");
    assert_eq!(controller.lines_with(&collected(labelled)).len(), 1);
    assert!(controller.lines_with(&collected(later)).is_empty());

    // The label is added.
    label(later, "team=payments").await?;
    controller.wait_for(&collected(later), SOON).await?;
    bed.expect_no_roll(&controller, &[(&a, None), (&b, None)]).await?;
    bed.rotate("selected/b").await?;
    bed.expect_rolls(&controller, &[&b], 1).await?;
    assert_eq!(bed.counts(&[&a]).await?, [None]);

    // The label is taken away.
    label(labelled, "team-").await?;
    let left = format!("Namespace {labelled} is not selected any more");
    controller.wait_for(&left, SOON).await?;
    for secret in ["selected/a", "selected/b"] {
        bed.rotate(secret).await?;
    }
    bed.expect_rolls(&controller, &[&b], 2).await?;
    bed.expect_no_roll(&controller, &[(&a, None), (&b, Some(2))]).await
}
