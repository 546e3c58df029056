//! The documentation, read by somebody who runs each of its commands: from nothing to a completed
//! rotation, and each way to log in.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::command_lines::RELOADER_USER;
use e2e::controller::is_leading;
use e2e::kubelet::{Pod, play_kubelet_as};
use e2e::scenario::{SOON, deployment_without_pods, next_second, polling_fast};
use e2e::walk::Walk;
use e2e::{
    Bed, Controller, ControllerOptions, Kind, Options, State, Workload, WorkloadName, eventually,
};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use serde_json::json;

use crate::tls::{ROOT, ServerWithTls};

e2e::scenarios! {
    every_command_of_the_documentation_does_its_work: long,
}

const README: &str = "README.md";
const ACCESS: &str = "docs/vault-access.md";
const ACCOUNT: &str = "docs/login-service-account.md";
const STATUS: &str = "docs/status.md";
const EXAMPLES: &str = "deploy/examples/README.md";
const CHART: &str = "deploy/charts/vault-secrets-reloader/README.md";

/// The release, its namespace and its `ServiceAccount`, as the pages name them.
const RELEASE: &str = "vault-secrets-reloader";
const NAMESPACE: &str = "vault-system";

/// The start of the address that the pages have for Vault.
const VAULT: &str = "https://vault.default.svc:8200";

/// The end of the first line of the pages' installations.
const CREATED: &str = "--create-namespace";

/// Returns how the pages' installations go on for a scenario: the chart polls once an hour, and a
/// workload is reloaded once a minute. The port of the status is one that can be forwarded.
fn fast(bed: &Bed) -> String {
    format!(
        "{CREATED} --set reloaderRunPeriod=1s,reloadMinInterval=0s,logLevel=debug \
         --set status.address=127.0.0.1:{} --set-string 'extraArgs[0]=--settle-time=0s'",
        status_port(bed)
    )
}

/// Creates the kind that the Prometheus operator has.
const PROMETHEUS_RULES: &str = r"
kubectl apply -f - <<'EOF'
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: prometheusrules.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: PrometheusRule, plural: prometheusrules, singular: prometheusrule, listKind: PrometheusRuleList}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
EOF
kubectl wait --for=condition=Established --timeout=60s crd/prometheusrules.monitoring.coreos.com
";

/// What `jq .data.version` does.
const JQ: &str = "#!/bin/sh\n\
    exec python3 -c 'import json, sys; print(json.load(sys.stdin)[\"data\"][\"version\"])'\n";

async fn every_command_of_the_documentation_does_its_work() -> Result<()> {
    // All objects of the pages are cluster-wide, or in namespaces of their own names. So the bed is
    // used by nobody before.
    let bed = Bed::start(Options::new()).await?;
    let mut walk = Walk::begin(&bed)?;
    for namespace in ["shop", "ci"] {
        bed.cluster.create_namespace(namespace).await?;
    }
    prepare_vault(&bed, &mut walk).await?;
    values_are_accepted(&walk).await?;
    let mut pod = first_rotation(&bed, &mut walk).await?;
    pages_beside_a_running_controller(&mut walk).await?;
    pod.controller.terminate().await?;
    let mut pod = status_with_tokens(&bed, &mut walk).await?;
    wait_then_revoke(&bed, &mut walk).await?;
    pod.controller.terminate().await?;
    notifications(&mut walk).await?;
    walk.next(README, &[]).await.context("uninstall")?;
    examples(&bed, &mut walk).await?;
    logins(&bed, &mut walk).await?;
    other_ways_to_install(&mut walk).await?;
    walk.finish()
}

/// Writes the policy and the role, and lets Vault ask the API server about tokens.
async fn prepare_vault(bed: &Bed, walk: &mut Walk<'_>) -> Result<()> {
    // On HashiCorp Vault, this also registers the plugin. The pages have servers that hold it.
    bed.vault.enable_kubernetes_auth(&bed.cluster, "kubernetes-of-the-bed").await?;
    let reviewer = bed.cluster.request_token("vault", "vault", Duration::from_hours(1)).await?;
    walk.write("reviewer", &reviewer)?;
    walk.write("ca.crt", bed.cluster.ca())?;
    walk.next(ACCESS, &[]).await?;
    // The page has a Vault within the cluster, and says what one outside of it needs.
    let outside = format!(
        "kubernetes_host={} kubernetes_ca_cert=@ca.crt disable_local_ca_jwt=true \
         token_reviewer_jwt=@reviewer",
        bed.cluster.address()
    );
    let inside = "kubernetes_host=https://kubernetes.default.svc";
    walk.next(ACCESS, &[(inside, &outside)]).await.map(drop)
}

/// Renders the chart with the values of each page. Helm checks them by the schema.
async fn values_are_accepted(walk: &Walk<'_>) -> Result<()> {
    let all = walk.chart_values();
    ensure!(all.len() > 8, "{all:#?}");
    for (page, values) in all {
        walk.write("shown.yaml", values)?;
        let command = "helm template vault-secrets-reloader \
                       deploy/charts/vault-secrets-reloader --values shown.yaml";
        let rendered =
            walk.run(command, &[]).await.with_context(|| format!("{page}:\n{values}"))?;
        ensure!(rendered.contains("kind: Deployment"), "{page}: {rendered}");
    }
    Ok(())
}

/// Runs the pod of the release under the name of a pod whose port can be forwarded, until it has
/// polled as the leader.
async fn play(bed: &Bed) -> Result<Pod> {
    let [(name, _), _] = bed.forwarded_pods();
    bed.cluster.run_pod(NAMESPACE, name).await?;
    let pod = play_kubelet_as(bed, NAMESPACE, RELEASE, name).await?;
    pod.controller.wait_for_line(is_leading, SOON).await?;
    pod.controller.wait_for_polls(1, SOON).await?;
    Ok(pod)
}

/// The port of this machine that the port of the status in that pod leads to.
fn status_port(bed: &Bed) -> u16 {
    let [(_, port), _] = bed.forwarded_pods();
    port
}

/// The workload of the pages.
fn web() -> WorkloadName {
    WorkloadName::new(Kind::Deployment, "shop", "web")
}

/// The README, up to the revoked credential.
async fn first_rotation(bed: &Bed, walk: &mut Walk<'_>) -> Result<Pod> {
    walk.write("policy.hcl", walk.block(README, "hcl", "metadata")?)?;
    walk.next(README, &[]).await?;
    walk.next(README, &[(CREATED, &fast(bed)), (VAULT, bed.vault.address())]).await?;

    bed.vault.kv("secret").put("mysql", json!({ "PASSWORD": "old" })).await?;
    next_second().await?;
    let workload = Workload::deployment("shop", "web");
    let workload = workload.env("PASSWORD", "vault:secret/data/mysql#PASSWORD").replicas(2);
    bed.deploy_all(&[&workload]).await?;
    walk.write("opt-in.yaml", walk.block(README, "yaml", "reload-on-secret-change")?)?;
    walk.run("kubectl patch deployment web --namespace shop --patch-file opt-in.yaml", &[]).await?;
    bed.cluster.wait_rolled_out(web()).await?;

    let pod = play(bed).await?;
    walk.next(README, &[]).await.context("a new version of the secret")?;
    bed.cluster.wait_for_count(web(), 1, SOON).await?;
    pod.controller.wait_for("Reloading workload: shop/Deployment/web", SOON).await?;
    walk.next(README, &[("NAMESPACE", "shop"), ("KIND/NAME", "deployment/web")]).await?;
    // The status follows the rollout by its watch.
    let wait = "vault-secrets-reloader status --namespace vault-system \
                secret secret/data/mysql --wait=60s --version 2 --revocable";
    walk.run(wait, &[]).await?;
    let answer = walk.next(README, &[]).await?;
    ensure!(answer.contains("revoked? Yes"), "{answer}");
    Ok(pod)
}

/// Pages with commands for the cluster of the README.
async fn pages_beside_a_running_controller(walk: &mut Walk<'_>) -> Result<()> {
    let answer = walk.next("docs/troubleshooting.md", &[]).await?;
    ensure!(answer.contains("shop/Deployment/web"), "{answer}");
    let answer = walk.next(STATUS, &[]).await?;
    ensure!(answer.contains("revoked? Yes"), "{answer}");
    for page in ["docs/waves.md", "docs/waves.md", "docs/waves.md"] {
        walk.next(page, &[]).await?;
    }
    walk.next("docs/injector.md", &[]).await?;

    walk.run("mkdir -p my-chart/templates", &[]).await?;
    walk.write("my-chart/Chart.yaml", "{apiVersion: v2, name: my-chart, version: 1.0.0}\n")?;
    walk.run("cp deploy/examples/workloads.yaml my-chart/templates/", &[]).await?;
    let answer = walk.next("docs/check.md", &[]).await?;
    ensure!(answer.contains("deployment-to-be-reloaded"), "{answer}");

    walk.run(PROMETHEUS_RULES, &[]).await?;
    walk.write("head.yaml", walk.block("docs/operations.md", "yaml", "PrometheusRule")?)?;
    walk.next("docs/operations.md", &[]).await.map(drop)
}

/// The status, read by a `ServiceAccount` without a forwarded port.
async fn status_with_tokens(bed: &Bed, walk: &mut Walk<'_>) -> Result<Pod> {
    bed.cluster.create_service_account("ci", "pipeline").await?;
    walk.write("status.yaml", walk.block(STATUS, "yaml", "kubernetesAuth: true")?)?;
    // A port of this machine is in the place of the Service.
    let port = status_port(bed);
    let upgrade = "helm upgrade vault-secrets-reloader deploy/charts/vault-secrets-reloader \
                   --namespace vault-system --reuse-values";
    let with_tokens = format!(
        "{upgrade} --values status.yaml \
         --set replicaCount=1,status.service.enabled=false,status.address=127.0.0.1:{port}"
    );
    walk.run(&with_tokens, &[]).await?;
    let mut pod = play(bed).await?;
    let service = "http://vault-secrets-reloader-status.vault-system:9180";
    let answer = walk.next(STATUS, &[(service, &format!("http://127.0.0.1:{port}"))]).await?;
    let [(leader, _), _] = bed.forwarded_pods();
    ensure!(answer.contains(leader), "{answer}");
    pod.controller.terminate().await?;

    walk.run(&format!("{upgrade} --set status.kubernetesAuth=false"), &[]).await?;
    play(bed).await
}

/// The script that revokes the old credential, and then the holds of the same workload.
async fn wait_then_revoke(bed: &Bed, walk: &mut Walk<'_>) -> Result<()> {
    let before = bed.cluster.get(web()).await?.count().unwrap_or_default();
    walk.write("revoke-old-credential", "#!/bin/sh\ntouch revoked\n")?;
    walk.run("chmod +x revoke-old-credential", &[]).await?;
    if walk.run("command -v jq", &[]).await.is_err() {
        // Not each machine with the bed has it. Python builds the bed.
        walk.write("bin/jq", JQ)?;
        walk.run("chmod +x bin/jq", &[]).await?;
    }
    walk.next_with(STATUS, &[], &[("PASSWORD", "newer")]).await?;
    ensure!(walk.folder().join("revoked").is_file(), "the old credential was not revoked");
    bed.cluster.wait_for_count(web(), before + 1, SOON).await?;
    for page in ["docs/windows.md", "docs/gitops.md"] {
        walk.next(page, &[]).await?;
    }
    Ok(())
}

/// The values of notifications, with the file that the page writes the address to.
async fn notifications(walk: &mut Walk<'_>) -> Result<()> {
    let page = "docs/notifications.md";
    walk.write("webhook-url.txt", "https://hooks.example.com/a")?;
    walk.next(page, &[]).await?;
    walk.next(page, &[]).await?;
    let manifest =
        walk.run("helm get manifest vault-secrets-reloader -n vault-system", &[]).await?;
    ensure!(manifest.contains("reloader-webhook"), "{manifest}");
    Ok(())
}

/// The example workloads, and what their page says about them.
async fn examples(bed: &Bed, walk: &mut Walk<'_>) -> Result<()> {
    let period = ("reloaderRunPeriod=15s", "reloaderRunPeriod=1s");
    let address = bed.vault.address();
    walk.next(EXAMPLES, &[(CREATED, &fast(bed)), period, (VAULT, address)]).await?;
    let name = |name: &str| {
        WorkloadName::new(Kind::Deployment, "default", &format!("reloader-test-{name}"))
    };
    let (reloaded, left_alone) = (name("deployment-to-be-reloaded"), name("deployment-no-reload"));
    bed.cluster.wait_rolled_out(&reloaded).await?;
    let mut pod = play(bed).await?;
    let before = bed.cluster.get(&reloaded).await?.count();
    walk.run("deploy/examples/secrets.sh mysql", &[]).await?;
    let is_reloaded = |state: &State| state.count() > before;
    bed.cluster.wait_for(&reloaded, "to be reloaded", SOON, is_reloaded).await?;
    walk.run("vault kv metadata delete secret/mysql", &[]).await?;
    pod.controller.wait_for("Vault secret path secret/data/mysql not found", SOON).await?;
    assert_eq!(bed.cluster.get(&left_alone).await?.count(), None);
    pod.controller.terminate().await?;
    Ok(())
}

/// A workload that each login reloads once.
struct Subject {
    workload: Workload,
    reloads: i64,
}

impl Subject {
    async fn expect_reload(&mut self, bed: &Bed, options: &ControllerOptions) -> Result<()> {
        let mut controller = Controller::start(bed, options).await?;
        controller.wait_for_polls(1, SOON).await?;
        bed.rotate("docs").await?;
        self.reloads += 1;
        bed.expect_rolls(&controller, &[&self.workload], self.reloads).await?;
        controller.terminate().await?;
        Ok(())
    }
}

/// Each way to log in that the page sets up.
async fn logins(bed: &Bed, walk: &mut Walk<'_>) -> Result<()> {
    bed.write_secrets(&["docs"]).await?;
    let workload = deployment_without_pods("docs", "docs");
    bed.deploy_all(&[&workload]).await?;
    let mut subject = Subject { workload, reloads: 0 };
    let method = |name: &str| polling_fast().without_vault_token().env("VAULT_AUTH_METHOD", name);
    let file = |walk: &Walk<'_>, name: &str| walk.folder().join(name).into_os_string();

    walk.write("account.pub", &bed.cluster.account_public_key()?)?;
    walk.next(ACCESS, &[]).await.context("jwt")?;
    let life = Duration::from_hours(1);
    let jwt = bed.cluster.request_token_for(&["vault"], NAMESPACE, RELEASE, life).await?;
    let jwt = walk.write("jwt", &jwt)?.into_os_string();
    let options = method("jwt").env("VAULT_PATH", "jwt").env("VAULT_ROLE", "reloader");
    subject.expect_reload(bed, &options.env("VAULT_JWT_FILE", jwt)).await.context("jwt")?;

    login_by_service_account(bed, walk, &mut subject).await?;

    walk.next(ACCESS, &[]).await.context("approle")?;
    walk.next(ACCESS, &[]).await.context("the Secret of the login")?;
    let approle = || {
        method("approle")
            .env("VAULT_ROLE_ID_FILE", file(walk, "role-id"))
            .env("VAULT_SECRET_ID_FILE", file(walk, "secret-id"))
    };
    let plain = approle();
    let wrapped = approle().env("VAULT_SECRET_ID_WRAPPED", "true");
    subject.expect_reload(bed, &plain).await.context("approle")?;
    walk.next(ACCESS, &[]).await.context("a wrapped secret id")?;
    subject.expect_reload(bed, &wrapped).await.context("a wrapped secret id")?;

    walk.next(ACCESS, &[]).await.context("userpass")?;
    let options = method("userpass").env("VAULT_USERNAME", "reloader");
    let options = options.env("VAULT_PASSWORD_FILE", file(walk, "password"));
    subject.expect_reload(bed, &options).await.context("userpass")?;

    login_by_certificate(bed, walk).await.context("cert")?;

    walk.next(ACCESS, &[]).await.context("a token")?;
    let options = polling_fast().without_vault_token();
    let options = options.env("VAULT_TOKEN_PATH", file(walk, "token"));
    subject.expect_reload(bed, &options).await.context("a token")
}

/// The login by tokens that the controller requests, of both methods.
async fn login_by_service_account(
    bed: &Bed,
    walk: &mut Walk<'_>,
    subject: &mut Subject,
) -> Result<()> {
    let options = || {
        polling_fast()
            .without_vault_token()
            .env("VAULT_ROLE", "reloader")
            .env("VAULT_JWT_SERVICE_ACCOUNT", format!("{NAMESPACE}/vault-login"))
            .env("VAULT_JWT_AUDIENCE", "vault")
    };
    walk.next(ACCOUNT, &[]).await.context("the ServiceAccount")?;
    walk.write("tokens.yaml", walk.block(ACCOUNT, "yaml", "serviceaccounts/token")?)?;
    let bind = format!(
        "kubectl apply -f tokens.yaml
         kubectl --namespace {NAMESPACE} create rolebinding vault-login-tokens \
           --role=vault-login-tokens --user={RELOADER_USER}"
    );
    walk.run(&bind, &[]).await.context("the Role for tokens")?;
    walk.next(ACCOUNT, &[]).await.context("the role of kubernetes")?;
    subject.expect_reload(bed, &options()).await.context("kubernetes, by a request")?;
    walk.next(ACCOUNT, &[]).await.context("the role of jwt")?;
    let jwt = options().env("VAULT_AUTH_METHOD", "jwt").env("VAULT_PATH", "jwt");
    subject.expect_reload(bed, &jwt).await.context("jwt, by a request")
}

/// The login by a certificate needs a server with TLS.
async fn login_by_certificate(bed: &Bed, walk: &mut Walk<'_>) -> Result<()> {
    let server = ServerWithTls::start(bed).await?;
    server.put("docs-tls").await?;
    next_second().await?;
    let workload = deployment_without_pods("docs-tls", "docs-tls");
    bed.deploy_all(&[&workload]).await?;
    let key = KeyPair::generate()?;
    let mut client = CertificateParams::new(Vec::<String>::new())?;
    client.distinguished_name.push(DnType::CommonName, RELEASE);
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = walk.write("client-ca.crt", &client.self_signed(&key)?.pem())?;
    let key = walk.write("client.key", &key.serialize_pem())?;
    let ca = server.ca.to_str().context("the path of the CA is not text")?;
    let env = [("VAULT_ADDR", &*server.address), ("VAULT_CACERT", ca), ("VAULT_TOKEN", ROOT)];
    walk.next_with(ACCESS, &[], &env).await?;
    let options = polling_fast()
        .without_vault_token()
        .env("VAULT_ADDR", server.address.as_str())
        .env("VAULT_CACERT", server.ca.as_os_str())
        .env("VAULT_AUTH_METHOD", "cert")
        .env("VAULT_ROLE", "reloader")
        .env("VAULT_CLIENT_CERT", certificate.as_os_str())
        .env("VAULT_CLIENT_KEY", key.as_os_str());
    let mut controller = Controller::start(bed, &options).await?;
    controller.wait_for("Logged in to Vault", SOON).await?;
    controller.wait_for_polls(1, SOON).await?;
    server.put("docs-tls").await?;
    bed.cluster.wait_for_count(&workload, 1, SOON).await?;
    controller.terminate().await?;
    bed.cluster.delete(&workload).await
}

/// The chart by a file of values, and the plain manifests.
async fn other_ways_to_install(walk: &mut Walk<'_>) -> Result<()> {
    let install = "docs/install.md";
    walk.write("values.yaml", walk.block(CHART, "yaml", "# values.yaml")?)?;
    walk.next(CHART, &[]).await?;
    walk.next(CHART, &[]).await.context("a role with an audience")?;
    walk.write("values.yaml", walk.block(install, "yaml", "# values.yaml")?)?;
    walk.next(install, &[]).await?;
    let uninstall = "helm uninstall vault-secrets-reloader --namespace vault-system";
    walk.run(uninstall, &[]).await?;
    // Helm does not wait until the objects are gone.
    let reader = &*walk;
    eventually("the end of the release", SOON, || async {
        let get = "kubectl --namespace vault-system get deployment,serviceaccount \
                   --ignore-not-found --output name vault-secrets-reloader";
        let left = reader.run(get, &[]).await?;
        Ok(left.trim().is_empty().then_some(()))
    })
    .await?;
    walk.next(install, &[]).await.context("the plain manifests")?;
    walk.next_ran_before(install)
}
