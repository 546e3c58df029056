//! The chart, installed by real Helm, and its pod run as it says.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use e2e::binaries::workspace;
use e2e::deploy::{RELEASE, ROLE, allow_login, allow_login_to, deploy, install_chart};
use e2e::kubelet::{Pod, play_kubelet};
use e2e::scenario::{SOON, next_second};
use e2e::vault_access::KubernetesRole;
use e2e::{ApiRequest, Bed, Mark, Workload, eventually};
use serde_json::{Value, json};

e2e::scenarios! {
    the_pod_of_the_chart_does_its_work_and_is_denied_nothing,
    of_all_secrets_only_the_named_ca_is_read,
    servers_of_the_values_are_asked_each_with_its_own_login_for_the_paths_that_its_rules_allow,
    two_replicas_run_on_two_nodes_and_are_denied_nothing,
    every_object_of_the_chart_is_accepted_and_a_token_for_vault_alone_logs_in,
    the_plain_manifests_are_accepted,
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

/// Deploys a workload that refers to `secret/charted/a`.
async fn deploy_web(bed: &Bed) -> Result<Workload> {
    bed.cluster.create_namespace("charted").await?;
    bed.write_secrets(&["charted/a"]).await?;
    let web = Workload::deployment("charted", "web").opted_in().replicas(0);
    let web = web.env("A", "vault:secret/data/charted/a#k");
    bed.deploy_all(&[&web]).await?;
    Ok(web)
}

/// Sees that the pod reloads the workload once its secret changes, and is denied nothing. Ends the
/// pod.
async fn expect_work(bed: &Bed, since: &Mark, pod: &mut Pod, web: &Workload) -> Result<()> {
    assert!(pod.all_probes_succeed().await, "{:?}", pod.probes);
    bed.expect_no_roll(&pod.controller, &[(web, None)]).await?;
    bed.rotate("charted/a").await?;
    bed.cluster.wait_for_count(web, 1, SOON).await?;
    pod.controller.terminate().await?;
    assert_all_allowed(&requests(bed, since, pod).await?);
    Ok(())
}

async fn two_replicas_run_on_two_nodes_and_are_denied_nothing() -> Result<()> {
    let bed = Bed::shared().await?;
    let web = deploy_web(&bed).await?;
    let mark = bed.mark().await?;
    let mut values = VALUES.to_vec();
    values.extend([("replicaCount", "2"), ("podDisruptionBudget.enabled", "true")]);
    let mut pod = deploy(&bed, &values, &mut |_| {}).await?;
    let path = format!("/apis/policy/v1/namespaces/{RELEASE}/poddisruptionbudgets/{RELEASE}");
    let budget = bed.cluster.get_path(&path).await?;
    assert_eq!(budget["spec"]["maxUnavailable"], json!(1), "{budget:#}");
    // The scheduler is real.
    let selector = "app.kubernetes.io/name=vault-secrets-reloader";
    let field = "jsonpath={.items[*].spec.nodeName}";
    let args = ["get", "pods", "--namespace", RELEASE, "--selector", selector, "--output", field];
    eventually("two replicas on two nodes", SOON, || async {
        let names = bed.kubectl(&args).await?;
        let nodes: BTreeSet<&str> = names.split_whitespace().collect();
        Ok((nodes.len() == 2).then_some(()))
    })
    .await?;
    expect_work(&bed, &mark, &mut pod, &web).await?;
    bed.helm(&["uninstall", RELEASE, "--namespace", RELEASE, "--wait"]).await.map(drop)
}

async fn every_object_of_the_chart_is_accepted_and_a_token_for_vault_alone_logs_in() -> Result<()> {
    const NAMESPACE: &str = "with-all";
    const AUDIENCE: &str = "https://vault.example.com";
    let bed = Bed::shared().await?;
    let web = deploy_web(&bed).await?;
    let mark = bed.mark().await?;
    let mut values = VALUES.to_vec();
    values.extend([
        ("env.VAULT_ADDR", bed.vault.address()),
        ("env.VAULT_ROLE", ROLE),
        ("serviceAccountToken.audience", AUDIENCE),
        ("podDisruptionBudget.enabled", "true"),
        ("podDisruptionBudget.minAvailable", "50%"),
        ("networkPolicy.enabled", "true"),
        ("networkPolicy.ingress.from[0].namespaceSelector.matchLabels.team", "monitoring"),
        ("networkPolicy.egress.enabled", "true"),
        ("networkPolicy.egress.apiServer.to[0].ipBlock.cidr", "127.0.0.1/32"),
        ("dashboard.enabled", "true"),
        ("commonLabels.team", "platform"),
        ("podLabels.mesh", "off"),
        ("deploymentAnnotations.wave", "two"),
        ("startupProbe.httpGet.path", "/healthz"),
        ("hostAliases[0].ip", "10.0.0.8"),
        ("hostAliases[0].hostnames[0]", "vault.example.com"),
        ("dnsPolicy", "ClusterFirst"),
        ("extraObjects[0].apiVersion", "v1"),
        ("extraObjects[0].kind", "ConfigMap"),
        ("extraObjects[0].metadata.name", "extra-{{ .Release.Name }}"),
        ("extraObjects[0].data.VAULT_CLIENT_TIMEOUT", "5s"),
        ("envFrom[0].configMapRef.name", "extra-vault-secrets-reloader"),
    ]);
    let installed = install_chart(&bed, NAMESPACE, &values).await?;
    allow_login(&bed, NAMESPACE, &installed.service_account).await?;
    // From here on, the pod's own token does not log in.
    let role = KubernetesRole {
        audience: AUDIENCE.to_owned(),
        ..KubernetesRole::new(ROLE, NAMESPACE, &installed.service_account)
    };
    bed.vault.put_kubernetes_role("kubernetes", &role).await?;
    let mut pod = play_kubelet(&bed, NAMESPACE, &installed.deployment).await?;
    let probed: Vec<&str> = pod.probes.iter().map(|probe| probe.kind.as_str()).collect();
    assert_eq!(probed, ["startupProbe", "livenessProbe", "readinessProbe"]);
    for path in [
        "apis/policy/v1/namespaces/with-all/poddisruptionbudgets/vault-secrets-reloader",
        "apis/networking.k8s.io/v1/namespaces/with-all/networkpolicies/vault-secrets-reloader",
        "api/v1/namespaces/with-all/configmaps/vault-secrets-reloader-dashboard",
        "api/v1/namespaces/with-all/configmaps/extra-vault-secrets-reloader",
    ] {
        bed.cluster.get_path(&format!("/{path}")).await?;
    }
    expect_work(&bed, &mark, &mut pod, &web).await?;
    bed.helm(&["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"]).await.map(drop)
}

async fn the_plain_manifests_are_accepted() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("vault-system").await?;
    for name in ["default", "two-replicas", "example"] {
        let folder = workspace().join("deploy/manifests").join(name);
        let folder = folder.to_str().context("the path of the manifests is not text")?;
        // By the API server, which keeps nothing.
        let answer = bed.kubectl(&["apply", "--dry-run=server", "--kustomize", folder]).await?;
        assert!(answer.contains("deployment.apps/vault-secrets-reloader created"), "{answer}");
    }
    Ok(())
}
