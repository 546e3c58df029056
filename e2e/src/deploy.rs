//! Installs the chart with real Helm, and runs its pod.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::bed::Bed;
use crate::binaries::workspace;
use crate::controller::SETTLE_TIME;
use crate::kubelet::{Pod, play_kubelet};
use crate::vault::Vault;
use crate::vault_access::KubernetesRole;

/// The release's name, and the namespace that [`deploy`] installs it in.
pub const RELEASE: &str = "vault-secrets-reloader";
/// The role of `auth/kubernetes` by which a deployed controller logs in.
pub const ROLE: &str = "reloader";

/// The objects that Helm installed.
#[derive(Debug, Clone)]
pub struct Installed {
    /// The namespace.
    pub namespace: String,
    /// The name of the Deployment.
    pub deployment: String,
    /// The name of the Deployment's `ServiceAccount`.
    pub service_account: String,
}

/// Installs the chart, or upgrades it, with values in the notation of `helm --set-string`, such as
/// `("env.VAULT_ROLE", "reloader")`. The settle time is zero, as in all scenarios.
///
/// # Errors
/// When Helm refuses, or the release has no Deployment.
pub async fn install_chart(
    bed: &Bed,
    namespace: &str,
    values: &[(&str, &str)],
) -> Result<Installed> {
    bed.cluster.create_namespace(namespace).await?;
    let chart = workspace().join("deploy/charts/vault-secrets-reloader");
    let chart = chart.to_str().context("the path of the chart is not text")?;
    let more_args = values.iter().filter(|(key, _)| key.starts_with("extraArgs")).count();
    let values = values.iter().map(|(key, value)| format!("{key}={value}"));
    let settle_time = format!("extraArgs[{more_args}]={SETTLE_TIME}=0s");
    let values: Vec<String> = values.chain([settle_time]).collect();
    let mut args = vec!["upgrade", "--install", RELEASE, chart, "--namespace", namespace];
    for value in &values {
        args.extend(["--set-string", value]);
    }
    bed.helm(&args).await?;
    let selector = format!("app.kubernetes.io/instance%3D{RELEASE}");
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments?labelSelector={selector}");
    let list = bed.cluster.get_path(&path).await?;
    let text = |pointer: &str| list.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    Ok(Installed {
        namespace: namespace.to_owned(),
        deployment: text("/items/0/metadata/name").context("the chart installed no Deployment")?,
        service_account: text("/items/0/spec/template/spec/serviceAccountName")
            .unwrap_or_else(|| "default".to_owned()),
    })
}

/// Lets a `ServiceAccount` log in to the bed's Vault by `auth/kubernetes`, with the controller's
/// policy.
pub async fn allow_login(bed: &Bed, namespace: &str, service_account: &str) -> Result<()> {
    allow_login_to(&bed.vault, bed, namespace, service_account).await
}

/// As [`allow_login`], to any server.
pub async fn allow_login_to(
    vault: &Vault,
    bed: &Bed,
    namespace: &str,
    service_account: &str,
) -> Result<()> {
    if !vault.is_auth_enabled("kubernetes").await? {
        vault.enable_kubernetes_auth(&bed.cluster, "kubernetes").await?;
    }
    let role = KubernetesRole::new(ROLE, namespace, service_account);
    vault.put_kubernetes_role("kubernetes", &role).await
}

/// Installs the chart, allows its login, and runs its pod. `say` gets a line a step.
///
/// # Errors
/// When a step fails.
pub async fn deploy(bed: &Bed, values: &[(&str, &str)], say: &mut dyn FnMut(&str)) -> Result<Pod> {
    let mut all = vec![
        ("env.VAULT_ADDR", bed.vault.address()),
        ("env.VAULT_ROLE", ROLE),
        ("env.VAULT_PATH", "kubernetes"),
    ];
    all.extend(values);
    let installed = install_chart(bed, RELEASE, &all).await?;
    say(&format!("helm installed {}/{}", installed.namespace, installed.deployment));
    allow_login(bed, &installed.namespace, &installed.service_account).await?;
    say(&format!("the role {ROLE} of auth/kubernetes lets {} log in", installed.service_account));
    let pod = play_kubelet(bed, &installed.namespace, &installed.deployment).await?;
    say(&format!("its pod runs as {}, process {}", pod.user, pod.controller.pid()));
    for probe in &pod.probes {
        let answer = pod.ask(probe).await?;
        say(&format!("{} GET {} answers {}", probe.kind, probe.path, answer.status));
    }
    Ok(pod)
}
