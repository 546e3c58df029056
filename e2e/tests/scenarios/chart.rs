//! The chart, installed by real Helm, and its pod run as it says.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use e2e::deploy::{RELEASE, ROLE, allow_login, allow_login_to, deploy, install_chart};
use e2e::kubelet::{Pod, play_kubelet};
use e2e::scenario::{SOON, next_second};
use e2e::{ApiRequest, Bed, Mark, Workload, eventually};
use serde_json::{Value, json};

e2e::scenarios! {
    the_pod_of_the_chart_does_its_work_and_is_denied_nothing,
    of_all_secrets_only_the_named_ca_is_read,
    servers_of_the_values_are_asked_each_with_its_own_login_for_the_paths_that_its_rules_allow,
}

/// Workloads are reloaded again within seconds.
const VALUES: [(&str, &str); 3] =
    [("logLevel", "debug"), ("reloaderRunPeriod", "1s"), ("reloadMinInterval", "0s")];

/// What the pod asked of the API server since.
async fn requests(bed: &Bed, since: &Mark, pod: &Pod) -> Result<Vec<ApiRequest>> {
    let requests = bed.api_requests_of("vault-secrets-reloader/", since).await?;
    let strangers: Vec<_> = requests.iter().filter(|request| request.user != pod.user).collect();
    assert!(strangers.is_empty(), "as another user than {}: {strangers:#?}", pod.user);
    Ok(requests)
}

fn assert_all_allowed(requests: &[ApiRequest]) {
    let denied: Vec<_> =
        requests.iter().filter(|request| matches!(request.code, 401 | 403)).collect();
    assert!(denied.is_empty(), "{denied:#?}");
}

fn deployment_of(release: &Value) -> Result<&Value> {
    release.pointer("/spec/template/spec/containers/0").context("no container")
}

async fn the_pod_of_the_chart_does_its_work_and_is_denied_nothing() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("charted").await?;
    bed.write_secrets(&["charted/a"]).await?;
    let workloads = [
        Workload::deployment("charted", "web"),
        Workload::daemon_set("charted", "agent"),
        Workload::stateful_set("charted", "db"),
    ]
    .map(|workload| workload.opted_in().env("A", "vault:secret/data/charted/a#k"));
    let config_map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "charted", "name": "refs"},
        "data": {"A": "vault:secret/data/charted/a#k"},
    });
    bed.cluster.apply_object(&config_map, "configmaps").await?;
    let named = json!({"configMapRef": {"name": "refs"}});
    let workloads = workloads.map(|workload| workload.env_from(&named));
    bed.deploy_all(&workloads.each_ref()).await?;
    let mark = bed.mark().await?;
    let mut pod = deploy(&bed, &VALUES, &mut |_| {}).await?;

    let path = format!("/apis/apps/v1/namespaces/{RELEASE}/deployments/{RELEASE}");
    let object = bed.cluster.get_path(&path).await?;
    let container = deployment_of(&object)?;
    let declared: Vec<&str> =
        container["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", pod.controller.pid()))?;
    let mut words = line.split('\0').filter(|word| !word.is_empty());
    assert!(words.next().is_some_and(|program| program.ends_with("vault-secrets-reloader")));
    assert_eq!(words.collect::<Vec<_>>(), declared);
    let kinds: Vec<&str> = pod.probes.iter().map(|probe| probe.kind.as_str()).collect();
    assert!(
        ["livenessProbe", "readinessProbe"].iter().all(|kind| kinds.contains(kind)),
        "{kinds:?}"
    );
    assert!(pod.all_probes_succeed().await, "{:?}", pod.probes);

    let nobody = workloads.each_ref().map(|workload| (workload, None));
    bed.expect_no_roll(&pod.controller, &nobody).await?;
    bed.rotate("charted/a").await?;
    for workload in &workloads {
        bed.cluster.wait_for_count(workload, 1, SOON).await?;
    }
    // Its token is replaced under way, as kubelet does, and it starts again with the new one.
    pod.rotate_token(&bed).await?;
    pod.controller.restart().await?;
    let once = workloads.each_ref().map(|workload| (workload, Some(1)));
    bed.expect_no_roll(&pod.controller, &once).await?;
    // By the clock, so that revisions of both resources are read.
    pod.controller.terminate().await?;
    next_second().await?;
    bed.rotate("charted/a").await?;
    pod.controller.restart().await?;
    for workload in &workloads {
        bed.cluster.wait_for_count(workload, 2, SOON).await?;
    }
    assert!(pod.all_probes_succeed().await, "{:?}", pod.probes);
    pod.controller.terminate().await?;

    let all = requests(&bed, &mark, &pod).await?;
    assert_all_allowed(&all);
    for (verb, resource) in [
        ("list", "deployments"),
        ("watch", "statefulsets"),
        ("patch", "daemonsets"),
        ("list", "replicasets"),
        ("list", "controllerrevisions"),
        ("list", "namespaces"),
        ("get", "configmaps"),
        ("watch", "configmaps"),
        ("watch", "mutatingwebhookconfigurations"),
        ("create", "leases"),
        ("update", "leases"),
        ("watch", "leases"),
    ] {
        let is_one = |request: &ApiRequest| request.verb == verb && request.resource == resource;
        assert!(all.iter().any(is_one), "no {verb} of {resource}: {all:#?}");
    }
    assert!(all.iter().all(|request| request.resource != "secrets"), "{all:#?}");
    bed.expect_no_value_touched(&mark)?;
    let as_pod = format!("--as={}", pod.user);
    for what in ["secrets", "pods"] {
        let refused = bed.kubectl(&["get", what, "--all-namespaces", &as_pod]).await;
        let refused = refused.err().with_context(|| format!("it may list {what}"))?;
        assert!(format!("{refused:#}").contains("Forbidden"), "{refused:#}");
    }
    bed.helm(&["uninstall", RELEASE, "--namespace", RELEASE, "--wait"]).await.map(drop)
}

async fn of_all_secrets_only_the_named_ca_is_read() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("vault-infra").await?;
    let secret = |name: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"namespace": "vault-infra", "name": name},
            "stringData": {"ca.crt": bed.cluster.ca(), "tls.key": "not for the controller"},
        })
    };
    for name in ["vault-tls", "another"] {
        bed.cluster.apply_object(&secret(name), "secrets").await?;
    }
    let mark = bed.mark().await?;
    let mut values = VALUES.to_vec();
    values.extend([
        ("env.VAULT_ADDR", bed.vault.address()),
        ("env.VAULT_ROLE", ROLE),
        ("env.VAULT_TLS_SECRET", "vault-tls"),
        ("env.VAULT_TLS_SECRET_NS", "vault-infra"),
    ]);
    let installed = install_chart(&bed, "with-ca", &values).await?;
    allow_login(&bed, &installed.namespace, &installed.service_account).await?;
    let mut pod = play_kubelet(&bed, &installed.namespace, &installed.deployment).await?;
    eventually("all probes to succeed", SOON, || async {
        Ok(pod.all_probes_succeed().await.then_some(()))
    })
    .await?;
    pod.controller.terminate().await?;

    let all = requests(&bed, &mark, &pod).await?;
    assert_all_allowed(&all);
    let secrets: Vec<_> = all
        .iter()
        .filter(|request| request.resource == "secrets")
        .map(|request| (request.verb.as_str(), request.namespace.as_str(), request.name.as_str()))
        .collect();
    assert!(!secrets.is_empty());
    let is_of_ca = |(verb, namespace, name): &(&str, &str, &str)| {
        ["get", "list", "watch"].contains(verb)
            && (*namespace, *name) == ("vault-infra", "vault-tls")
    };
    assert!(secrets.iter().all(is_of_ca), "{secrets:?}");
    let as_pod = format!("--as={}", pod.user);
    for name in ["another", ""] {
        let mut args = vec!["get", "secret", "--namespace", "vault-infra", &as_pod];
        args.extend((!name.is_empty()).then_some(name));
        let refused = bed.kubectl(&args).await.err().context("it may read other Secrets")?;
        assert!(format!("{refused:#}").contains("Forbidden"), "{refused:#}");
    }
    bed.helm(&["uninstall", RELEASE, "--namespace", "with-ca", "--wait"]).await.map(drop)
}

async fn servers_of_the_values_are_asked_each_with_its_own_login_for_the_paths_that_its_rules_allow()
-> Result<()> {
    let bed = Bed::shared().await?;
    let b = bed.another_vault("b").await?;
    let namespace = "charted";
    bed.cluster.create_namespace(namespace).await?;
    for vault in [&bed.vault, &b.vault] {
        vault.kv("secret").put("charted/a", json!({"k": "1"})).await?;
    }
    bed.rotate("other/a").await?;
    next_second().await?;
    let new = |name: &str| Workload::deployment(namespace, name).opted_in();
    let new = |name: &str| new(name).env("A", "vault:secret/data/charted/a#k").replicas(0);
    let address = "secrets-webhook.security.bank-vaults.io/vault-addr";
    let of_default = new("of-default");
    let of_b = new("of-b").template_annotation(address, "https://vault.team-b.svc:8200");
    let refused = Workload::deployment(namespace, "refused").opted_in().replicas(0);
    let refused = refused.env("A", "vault:secret/data/other/a#k");
    bed.deploy_all(&[&of_default, &of_b, &refused]).await?;
    next_second().await?;
    let mut values = VALUES.to_vec();
    values.extend([
        ("env.VAULT_ADDR", bed.vault.address()),
        ("env.VAULT_ROLE", ROLE),
        ("vaultServers[0].name", "team-b"),
        ("vaultServers[0].aliases[0]", "https://vault.team-b.svc:8200"),
        ("vaultServers[0].env.VAULT_ADDR", b.vault.address()),
        ("vaultServers[0].env.VAULT_ROLE", ROLE),
        ("pathRules[0].namespaces[0]", namespace),
        ("pathRules[0].servers[0]", "default"),
        ("pathRules[0].servers[1]", "team-b"),
        ("pathRules[0].vaultNamespaces[0]", ""),
        ("pathRules[0].paths[0]", "secret/data/{namespace}/*"),
    ]);
    let mark = bed.vault_mark();
    let installed = install_chart(&bed, "with-servers", &values).await?;
    for vault in [&bed.vault, &b.vault] {
        allow_login_to(vault, &bed, &installed.namespace, &installed.service_account).await?;
    }
    let pod = play_kubelet(&bed, &installed.namespace, &installed.deployment).await?;
    bed.expect_no_roll(&pod.controller, &[(&of_default, None), (&of_b, None)]).await?;
    let event = ("refused".to_owned(), vec!["Warning PathRefused".to_owned()]);
    let events = BTreeMap::from([event]);
    eventually("the Event of the path that no rule allows", SOON, || async {
        Ok((bed.events(namespace).await? == events).then_some(()))
    })
    .await?;
    bed.rotate("other/a").await?;
    b.vault.kv("secret").put("charted/a", json!({"k": "2"})).await?;
    bed.expect_rolls(&pod.controller, &[&of_b], 1).await?;
    bed.vault.kv("secret").put("charted/a", json!({"k": "2"})).await?;
    bed.expect_rolls(&pod.controller, &[&of_default], 1).await?;
    assert_eq!(bed.counts(&[&of_b, &refused]).await?, [Some(1), None]);
    let requests = bed.vault_requests_since(&mark)?;
    assert!(requests.iter().all(|request| !request.path.contains("other")), "{requests:#?}");
    let logins = b.requests()?.iter().filter(|request| request.is_login()).count();
    assert_eq!(logins, 1);
    drop(pod);
    bed.helm(&["uninstall", RELEASE, "--namespace", "with-servers", "--wait"]).await.map(drop)
}
