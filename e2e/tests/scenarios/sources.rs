//! References in ConfigMaps and Secrets that variables come from.

use anyhow::Result;
use e2e::deploy::{RELEASE, deploy, install_chart};
use e2e::kubelet::play_kubelet;
use e2e::scenario::{SOON, next_second, polling_faster};
use e2e::{ApiRequest, Bed, Controller, Mark, Workload};
use serde_json::{Value, json};

e2e::scenarios! {
    a_reference_counts_in_each_place_that_a_config_map_can_be_named_in,
    a_config_map_that_changes_changes_what_is_watched,
    secrets_are_read_only_where_the_operator_allows_it,
    without_the_permission_the_rest_is_watched_and_it_is_said,
    names_of_config_maps_that_are_not_there_cost_nothing,
}

fn reference(path: &str) -> String {
    format!("vault:secret/data/{path}#k")
}

fn source(kind: &str, namespace: &str, name: &str, data: &Value) -> Value {
    let field = if kind == "Secret" { "stringData" } else { "data" };
    json!({
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"namespace": namespace, "name": name},
        field: data,
    })
}

async fn apply_config_map(bed: &Bed, namespace: &str, name: &str, data: &Value) -> Result<()> {
    let object = source("ConfigMap", namespace, name, data);
    bed.cluster.apply_object(&object, "configmaps").await.map(drop)
}

async fn delete_config_map(bed: &Bed, namespace: &str, name: &str) -> Result<()> {
    bed.kubectl(&["delete", "configmap", name, "--namespace", namespace]).await.map(drop)
}

/// What controllers asked about ConfigMaps of a namespace since.
async fn config_map_requests(bed: &Bed, since: &Mark) -> Result<Vec<ApiRequest>> {
    let mut requests = bed.api_requests_of("vault-secrets-reloader/", since).await?;
    requests.retain(|request| request.resource == "configmaps");
    Ok(requests)
}

fn of_key(name: &str, key: &str) -> Value {
    json!({"configMapKeyRef": {"name": name, "key": key}})
}

fn of_all(name: &str) -> Value {
    json!({"configMapRef": {"name": name}})
}

async fn a_reference_counts_in_each_place_that_a_config_map_can_be_named_in() -> Result<()> {
    let bed = Bed::shared().await?;
    let namespace = "config-maps";
    bed.cluster.create_namespace(namespace).await?;
    let paths = ["all", "key", "prefixed", "init", "unused", "overridden"];
    let paths = paths.map(|path| format!("config-maps/{path}"));
    bed.write_secrets(&paths.each_ref().map(String::as_str)).await?;
    let [all, key, prefixed, init, unused, overridden] =
        paths.each_ref().map(|path| reference(path));
    let both = format!("x${{{all}}}y");
    let maps = [
        ("all", json!({"A": both, "PLAIN": "x", "PINNED": format!("{unused}#1")})),
        ("keys", json!({"a.key": key, "other": unused})),
        ("prefixed", json!({"A": prefixed})),
        ("init", json!({"A": init})),
        ("overridden", json!({"A": overridden})),
        ("unnamed", json!({"A": unused})),
    ];
    for (name, data) in &maps {
        apply_config_map(&bed, namespace, name, data).await?;
    }
    let new = |name: &str| Workload::deployment(namespace, name).opted_in();
    let prefix = json!({"prefix": "P_", "configMapRef": {"name": "prefixed"}});
    let optional = json!({"configMapRef": {"name": "none", "optional": true}});
    let rolled = [
        new("all").env_from(&of_all("all")).env_from(&optional),
        new("key").env_value_from("X", &of_key("keys", "a.key")),
        // The prefix makes another variable of it, which `A` leaves alone.
        new("prefixed").env_from(&prefix).env("A", "plain"),
        Workload::stateful_set(namespace, "first").opted_in().env_from(&of_all("init")),
        Workload::daemon_set(namespace, "second").opted_in().env_from(&of_all("init")),
    ];
    let left = [
        new("overridden").env_from(&of_all("overridden")).env("A", "plain"),
        new("overridden-by-source").env_from(&of_all("overridden")).env_from(&of_all("plain")),
        Workload::deployment(namespace, "not-opted-in").env_from(&of_all("unnamed")),
        new("missing").env_from(&of_all("none")).env_value_from("B", &of_key("keys", "none")),
    ];
    apply_config_map(&bed, namespace, "plain", &json!({"A": "plain"})).await?;
    for workload in rolled.iter().chain(&left) {
        // One names a ConfigMap that is not there; its pods would not start.
        bed.cluster.apply(workload).await?;
    }
    let mark = bed.mark().await?;
    let controller = Controller::start(&bed, &polling_faster()).await?;
    let nobody: Vec<_> = rolled.iter().chain(&left).map(|workload| (workload, None)).collect();
    bed.expect_no_roll(&controller, &nobody).await?;
    for path in &paths {
        bed.rotate(path).await?;
    }
    for workload in &rolled {
        bed.cluster.wait_for_count(workload, 1, SOON).await?;
    }
    let once = rolled.iter().map(|workload| (workload, Some(1)));
    let expected: Vec<_> = once.chain(left.iter().map(|workload| (workload, None))).collect();
    bed.expect_no_roll(&controller, &expected).await?;

    for said in [
        "config-maps/Deployment/missing: ConfigMap none of container app: does not exist",
        "config-maps/Deployment/missing: variable B of container app, key none of ConfigMap keys",
    ] {
        let lines = controller.lines_with(said);
        assert!(lines.len() == 1 && lines[0].text.contains("level=warn"), "{said}: {lines:#?}");
    }
    assert!(
        controller.lines_with("reason=Overridden").iter().all(|l| l.text.contains("level=debug"))
    );
    assert_eq!(controller.lines_with("reason=Overridden").len(), 2);
    let requests = config_map_requests(&bed, &mark).await?;
    let read: Vec<_> = requests
        .iter()
        .filter(|request| request.namespace == namespace)
        .map(|request| (request.verb.as_str(), request.name.as_str()))
        .collect();
    assert!(read.iter().all(|(verb, name)| *verb == "get" && *name != "unnamed"), "{read:?}");
    // The watch does not show the one that is not there, so it is not asked for.
    assert!(read.iter().all(|(_, name)| *name != "none"), "{read:?}");
    let named = ["all", "keys", "prefixed", "init", "overridden", "plain"];
    for name in named {
        // Eleven workloads name them, and each was read once.
        assert_eq!(read.iter().filter(|(_, read)| *read == name).count(), 1, "{name}: {read:?}");
    }
    bed.expect_no_value_touched(&mark)
}

async fn a_config_map_that_changes_changes_what_is_watched() -> Result<()> {
    let bed = Bed::shared().await?;
    let namespace = "changing-maps";
    bed.cluster.create_namespace(namespace).await?;
    bed.write_secrets(&["changing-maps/a", "changing-maps/b"]).await?;
    let (a, b) = (reference("changing-maps/a"), reference("changing-maps/b"));
    apply_config_map(&bed, namespace, "refs", &json!({"A": a})).await?;
    next_second().await?;
    let web = Workload::deployment(namespace, "web").opted_in().env_from(&of_all("refs"));
    bed.deploy_all(&[&web]).await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    bed.expect_no_roll(&controller, &[(&web, None)]).await?;
    bed.rotate("changing-maps/a").await?;
    bed.cluster.wait_for_count(&web, 1, SOON).await?;
    bed.cluster.wait_rolled_out(&web).await?;

    // Another secret in the place of the first.
    next_second().await?;
    apply_config_map(&bed, namespace, "refs", &json!({"A": b})).await?;
    let collected = "level=info msg=\"Collected secrets from Deployment changing-maps/web\"";
    controller.wait_for(collected, SOON).await?;
    // The pods still run with the first. Those that are started for its new version have the second.
    bed.rotate("changing-maps/a").await?;
    bed.cluster.wait_for_count(&web, 2, SOON).await?;
    bed.cluster.wait_rolled_out(&web).await?;
    bed.rotate("changing-maps/a").await?;
    bed.expect_no_roll(&controller, &[(&web, Some(2))]).await?;
    bed.rotate("changing-maps/b").await?;
    bed.cluster.wait_for_count(&web, 3, SOON).await?;
    bed.cluster.wait_rolled_out(&web).await?;

    // What changes no reference changes nothing.
    apply_config_map(&bed, namespace, "refs", &json!({"A": b, "PLAIN": "x"})).await?;
    bed.expect_no_roll(&controller, &[(&web, Some(3))]).await?;
    assert_eq!(controller.lines_with(collected).len(), 1);

    // A change while nobody watches.
    controller.terminate().await?;
    next_second().await?;
    bed.rotate("changing-maps/b").await?;
    controller.restart().await?;
    bed.cluster.wait_for_count(&web, 4, SOON).await?;
    bed.cluster.wait_rolled_out(&web).await?;
    bed.expect_no_roll(&controller, &[(&web, Some(4))]).await?;

    // Deleted, and made anew.
    delete_config_map(&bed, namespace, "refs").await?;
    controller.wait_for("Stopped watching Deployment changing-maps/web", SOON).await?;
    bed.expect_no_roll(&controller, &[(&web, Some(4))]).await?;
    apply_config_map(&bed, namespace, "refs", &json!({"A": a})).await?;
    controller.wait_for(collected, SOON).await?;
    // It came in by the edited ConfigMap, with a version of which nobody can tell whether the pods have
    // it: reloaded once for that, at most.
    bed.rotate("changing-maps/a").await?;
    let reloaded = bed
        .cluster
        .wait_for(&web, "its reload", SOON, |state| {
            state.template_annotation(e2e::Generation::Current.count()) >= Some("5")
        })
        .await?;
    assert!(reloaded.mark().is_some());
    assert!(controller.lines_matching(|line| line.contains("level=error")).is_empty());
    Ok(())
}

async fn secrets_are_read_only_where_the_operator_allows_it() -> Result<()> {
    let bed = Bed::shared().await?;
    let namespace = "kube-secrets";
    bed.cluster.create_namespace(namespace).await?;
    bed.write_secrets(&["kube-secrets/a", "kube-secrets/b"]).await?;
    let (a, b) = (reference("kube-secrets/a"), reference("kube-secrets/b"));
    let canary = "c4n4ry-of-a-secret";
    let url = format!("postgres://user:{canary}@${{{a}}}/");
    for (name, data) in
        [("refs", json!({"URL": url, "PLAIN": canary})), ("unnamed", json!({"A": b}))]
    {
        let object = source("Secret", namespace, name, &data);
        bed.cluster.apply_object(&object, "secrets").await?;
    }
    let new = |name: &str| Workload::deployment(namespace, name).opted_in();
    let all = new("all").env_from(&json!({"secretRef": {"name": "refs"}}));
    let key =
        new("key").env_value_from("X", &json!({"secretKeyRef": {"name": "refs", "key": "URL"}}));
    let plain = new("plain").env("A", &b);
    bed.deploy_all(&[&all, &key, &plain]).await?;

    // Without the flag, none is asked for.
    let mark = bed.mark().await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    bed.expect_no_roll(&controller, &[(&all, None), (&key, None)]).await?;
    bed.rotate("kube-secrets/a").await?;
    bed.rotate("kube-secrets/b").await?;
    bed.cluster.wait_for_count(&plain, 1, SOON).await?;
    bed.expect_no_roll(&controller, &[(&all, None), (&key, None)]).await?;
    assert_eq!(controller.lines_with("reason=SourceNotRead").len(), 2);
    controller.terminate().await?;
    let of_secrets = |requests: Vec<ApiRequest>| -> Vec<_> {
        requests.into_iter().filter(|request| request.resource == "secrets").collect()
    };
    let requests = bed.api_requests_of("vault-secrets-reloader/", &mark).await?;
    assert_eq!(of_secrets(requests).len(), 0);

    // With it, by the permissions of the chart.
    let mark = bed.mark().await?;
    let values = [
        ("logLevel", "debug"),
        ("reloaderRunPeriod", "1s"),
        ("readSecrets", "true"),
        ("reloadMinInterval", "0s"),
    ];
    let mut pod = deploy(&bed, &values, &mut |_| {}).await?;
    // Both were rotated since they were deployed.
    for workload in [&all, &key] {
        bed.cluster.wait_for_count(workload, 1, SOON).await?;
        bed.cluster.wait_rolled_out(workload).await?;
    }
    bed.rotate("kube-secrets/a").await?;
    for workload in [&all, &key] {
        bed.cluster.wait_for_count(workload, 2, SOON).await?;
    }
    bed.expect_no_roll(&pod.controller, &[(&all, Some(2)), (&key, Some(2))]).await?;
    let shown = pod.controller.lines_with(canary);
    assert!(shown.is_empty(), "{shown:#?}");
    pod.controller.terminate().await?;
    let requests = of_secrets(bed.api_requests_of("vault-secrets-reloader/", &mark).await?);
    assert!(requests.iter().any(|request| request.verb == "watch"), "{requests:#?}");
    let denied = requests.iter().filter(|request| matches!(request.code, 401 | 403));
    assert_eq!(denied.count(), 0, "{requests:#?}");
    let read = requests.iter().filter(|request| request.verb == "get");
    let read: Vec<_> = read.map(|request| request.name.as_str()).collect();
    assert!(!read.is_empty() && !read.contains(&"unnamed"), "{read:?}");
    bed.helm(&["uninstall", RELEASE, "--namespace", RELEASE, "--wait"]).await.map(drop)
}

async fn without_the_permission_the_rest_is_watched_and_it_is_said() -> Result<()> {
    let bed = Bed::shared().await?;
    let namespace = "denied-maps";
    bed.cluster.create_namespace(namespace).await?;
    bed.write_secrets(&["denied-maps/a", "denied-maps/b"]).await?;
    let (a, b) = (reference("denied-maps/a"), reference("denied-maps/b"));
    apply_config_map(&bed, namespace, "refs", &json!({"A": a})).await?;
    let web = Workload::deployment(namespace, "web").opted_in();
    let web = web.env_from(&of_all("refs")).env("B", &b);
    bed.deploy_all(&[&web]).await?;
    // The chart grants nothing on ConfigMaps, and the flag says the contrary.
    let values = [
        ("env.VAULT_ADDR", bed.vault.address()),
        ("env.VAULT_ROLE", e2e::deploy::ROLE),
        ("logLevel", "debug"),
        ("reloaderRunPeriod", "1s"),
        ("readConfigMaps", "false"),
        ("extraArgs[0]", "--read-config-maps=true"),
    ];
    let installed = install_chart(&bed, "denied-maps-release", &values).await?;
    e2e::deploy::allow_login(&bed, &installed.namespace, &installed.service_account).await?;
    let mut pod = play_kubelet(&bed, &installed.namespace, &installed.deployment).await?;
    let said = "denied-maps/Deployment/web: ConfigMap refs of container app: not read";
    pod.controller.wait_for(said, SOON).await?;
    for lacking in ["get configmaps.", "list configmaps.", "watch configmaps."] {
        let line = format!("The service account lacks a permission: {lacking}");
        pod.controller.wait_for(&line, SOON).await?;
    }
    bed.expect_no_roll(&pod.controller, &[(&web, None)]).await?;
    bed.rotate("denied-maps/a").await?;
    bed.expect_no_roll(&pod.controller, &[(&web, None)]).await?;
    bed.rotate("denied-maps/b").await?;
    bed.cluster.wait_for_count(&web, 1, SOON).await?;
    assert_eq!(pod.controller.lines_with("May not read configmaps").len(), 1);
    assert_eq!(pod.controller.lines_with("Cannot watch configmaps").len(), 1);
    pod.controller.terminate().await?;
    bed.helm(&["uninstall", RELEASE, "--namespace", "denied-maps-release", "--wait"])
        .await
        .map(drop)
}

async fn names_of_config_maps_that_are_not_there_cost_nothing() -> Result<()> {
    let bed = Bed::shared().await?;
    let namespace = "missing-maps";
    bed.cluster.create_namespace(namespace).await?;
    bed.write_secrets(&["missing-maps/a"]).await?;
    let new = |name: &str| {
        Workload::deployment(namespace, name).opted_in().env("A", &reference("missing-maps/a"))
    };
    let name_one = |workload: Workload, number: u32| {
        let name = format!("none-{number:03}");
        workload.env_from(&json!({"configMapRef": {"name": name, "optional": true}}))
    };
    let (plain, names) = (new("plain"), (0..600).fold(new("names"), name_one));
    bed.deploy_all(&[&plain, &names]).await?;
    let mark = bed.mark().await?;
    let controller = Controller::start(&bed, &polling_faster()).await?;
    let said = "missing-maps/Deployment/names: ConfigMap none-500 of container app: not read";
    controller.wait_for(said, SOON).await?;
    assert!(!controller.lines_with("reason=TooManySources").is_empty());
    bed.expect_no_roll(&controller, &[(&plain, None), (&names, None)]).await?;
    bed.rotate("missing-maps/a").await?;
    for workload in [&plain, &names] {
        bed.cluster.wait_for_count(workload, 1, SOON).await?;
    }
    let mut requests = config_map_requests(&bed, &mark).await?;
    requests.retain(|request| request.namespace == namespace);
    assert!(requests.is_empty(), "{requests:#?}");
    Ok(())
}
