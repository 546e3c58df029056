//! Logins by the tokens of ServiceAccounts: the controller requests one from the API server for each.

use std::fs;

use anyhow::{Context as _, Result};
use e2e::command_lines::RELOADER_USER;
use e2e::deploy::{RELEASE, install_chart};
use e2e::kubelet::play_kubelet;
use e2e::scenario::{
    SOON, USER_AGENT, deployment_without_pods as deployment, just_after_a_poll, next_second,
    polling_fast,
};
use e2e::vault_access::KubernetesRole;
use e2e::{ApiRequest, Bed, Controller, ControllerOptions, Mark, Vault, VaultRequest, Workload};
use serde_json::json;

e2e::scenarios! {
    each_login_has_a_new_token_with_the_audience_of_the_role,
    a_wrong_audience_is_refused_and_tried_again_with_a_back_off,
    without_the_permission_its_rule_is_named_and_the_login_follows_once_it_is_there,
    each_server_has_a_service_account_of_its_own,
    the_chart_grants_the_tokens_of_one_service_account,
}

/// The namespace of the ServiceAccounts.
const NAMESPACE: &str = "token-requests";

const AUDIENCE: &str = "vault";

/// Creates a ServiceAccount, and a role of the same name in Vault, which its tokens with `audience` log
/// in to.
async fn create_account(bed: &Bed, vault: &Vault, name: &str, audience: &str) -> Result<()> {
    bed.cluster.create_namespace(NAMESPACE).await?;
    bed.cluster.create_service_account(NAMESPACE, name).await?;
    if !vault.is_auth_enabled("kubernetes").await? {
        vault.enable_kubernetes_auth(&bed.cluster, "kubernetes").await?;
    }
    let role = KubernetesRole {
        audience: audience.to_owned(),
        ..KubernetesRole::new(name, NAMESPACE, name)
    };
    vault.put_kubernetes_role("kubernetes", &role).await
}

/// Lets the controller request tokens of one ServiceAccount.
async fn allow_tokens(bed: &Bed, name: &str) -> Result<()> {
    let group = "rbac.authorization.k8s.io";
    let metadata = json!({"namespace": NAMESPACE, "name": name});
    let role = json!({
        "apiVersion": format!("{group}/v1"),
        "kind": "Role",
        "metadata": metadata,
        "rules": [{
            "apiGroups": [""],
            "resources": ["serviceaccounts/token"],
            "resourceNames": [name],
            "verbs": ["create"],
        }],
    });
    bed.cluster.apply_object(&role, "roles").await?;
    let binding = json!({
        "apiVersion": format!("{group}/v1"),
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        "subjects": [{"apiGroup": group, "kind": "User", "name": RELOADER_USER}],
    });
    bed.cluster.apply_object(&binding, "rolebindings").await.map(drop)
}

fn options(name: &str, audience: &str) -> ControllerOptions {
    polling_fast()
        .without_vault_token()
        .env("VAULT_ROLE", name)
        .env("VAULT_JWT_SERVICE_ACCOUNT", format!("{NAMESPACE}/{name}"))
        .env("VAULT_JWT_AUDIENCE", audience)
}

/// Writes a secret, and deploys a workload that refers to it. Both have the name of the test.
async fn deploy_workload(bed: &Bed, name: &str) -> Result<Workload> {
    let secret = format!("{name}/a");
    bed.write_secrets(&[&secret]).await?;
    let workload = deployment(name, &secret);
    bed.deploy_all(&[&workload]).await?;
    Ok(workload)
}

/// The requests of controllers for tokens since a mark.
async fn token_requests(bed: &Bed, mark: &Mark) -> Result<Vec<ApiRequest>> {
    let mut requests = bed.api_requests_of(USER_AGENT, mark).await?;
    requests.retain(|request| {
        (request.resource.as_str(), request.subresource.as_str()) == ("serviceaccounts", "token")
    });
    Ok(requests)
}

fn logins(requests: &[VaultRequest]) -> usize {
    requests.iter().filter(|request| request.is_login()).count()
}

/// No line holds the beginning of a JWT.
fn expect_no_jwt(controller: &Controller) {
    assert!(controller.lines_with("eyJ").is_empty(), "a token is in the log");
}

async fn each_login_has_a_new_token_with_the_audience_of_the_role() -> Result<()> {
    let name = "fresh";
    let bed = Bed::shared().await?;
    create_account(&bed, &bed.vault, name, AUDIENCE).await?;
    allow_tokens(&bed, name).await?;
    let workload = deploy_workload(&bed, name).await?;
    let before = bed.mark().await?;
    let mut controller = Controller::start(&bed, &options(name, AUDIENCE)).await?;
    just_after_a_poll(&controller).await?;
    bed.rotate("fresh/a").await?;
    bed.expect_rolls(&controller, &[&workload], 1).await?;
    // Many polls, one token of Vault. One that is revoked costs one login.
    let requests = bed.vault_requests_since(&before)?;
    assert_eq!((logins(&requests), token_requests(&bed, &before).await?.len()), (1, 1));
    let mut accessors = requests.iter().rev().map(|request| request.accessor.as_str());
    let accessor = accessors.find(|it| !it.is_empty()).context("no token was used")?;
    bed.vault.revoke_accessor(accessor).await?;
    bed.rotate("fresh/a").await?;
    bed.expect_rolls(&controller, &[&workload], 2).await?;
    controller.terminate().await?;

    let tokens = token_requests(&bed, &before).await?;
    assert_eq!((logins(&bed.vault_requests_since(&before)?), tokens.len()), (2, 2), "{tokens:#?}");
    for token in &tokens {
        let asked = (token.verb.as_str(), token.namespace.as_str(), token.name.as_str());
        assert_eq!((asked, token.code), (("create", NAMESPACE, name), 201));
    }
    assert!(controller.lines_with("lacks a permission").is_empty());
    expect_no_jwt(&controller);
    bed.expect_no_value_touched(&before)
}

async fn a_wrong_audience_is_refused_and_tried_again_with_a_back_off() -> Result<()> {
    let name = "stern";
    let bed = Bed::shared().await?;
    create_account(&bed, &bed.vault, name, AUDIENCE).await?;
    allow_tokens(&bed, name).await?;
    deploy_workload(&bed, name).await?;
    let before = bed.mark().await?;
    let mut controller = Controller::start(&bed, &options(name, "another")).await?;
    let line =
        controller.wait_for("the login at auth/kubernetes with role stern: Vault", SOON).await?;
    assert!(line.text.contains("level=error"), "{}", line.text);
    controller.wait_for_polls(10, SOON).await?;
    controller.terminate().await?;

    let logins = logins(&bed.vault_requests_since(&before)?);
    let tokens = token_requests(&bed, &before).await?;
    assert_eq!(logins, tokens.len(), "{tokens:#?}");
    // Each wait is up to twice as long as the one before.
    assert!((1..=10).contains(&logins), "{logins} logins");
    assert_eq!(controller.lines_with("level=error").len(), 1);
    expect_no_jwt(&controller);
    Ok(())
}

async fn without_the_permission_its_rule_is_named_and_the_login_follows_once_it_is_there()
-> Result<()> {
    let name = "late";
    let bed = Bed::shared().await?;
    create_account(&bed, &bed.vault, name, AUDIENCE).await?;
    let workload = deploy_workload(&bed, name).await?;
    let before = bed.mark().await?;
    let controller = Controller::start(&bed, &options(name, AUDIENCE)).await?;
    controller
        .wait_for(
            "lacks a permission: create serviceaccounts/token of late in namespace token-requests",
            SOON,
        )
        .await?;
    let said = "may not request a token of the ServiceAccount token-requests/late";
    let line = controller.wait_for(said, SOON).await?.text;
    for part in ["level=error", "verb create", "serviceaccounts/token", "resourceName late"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    controller.wait_for_polls(3, SOON).await?;
    assert_eq!(logins(&bed.vault_requests_since(&before)?), 0, "there was nothing to log in with");
    let tokens = token_requests(&bed, &before).await?;
    assert!(tokens.iter().all(|request| request.code == 403), "{tokens:#?}");
    assert!(tokens.len() <= 10, "{tokens:#?}");
    let is_error = |line: &str| line.contains(said) && line.contains("level=error");
    assert_eq!(controller.lines_matching(is_error).len(), 1);

    bed.rotate("late/a").await?;
    allow_tokens(&bed, name).await?;
    bed.expect_rolls(&controller, &[&workload], 1).await?;
    assert_eq!(logins(&bed.vault_requests_since(&before)?), 1);
    Ok(())
}

async fn each_server_has_a_service_account_of_its_own() -> Result<()> {
    const ADDRESS: &str = "secrets-webhook.security.bank-vaults.io/vault-addr";
    let bed = Bed::shared().await?;
    let b = bed.another_vault("accounts-b").await?;
    for (vault, name) in [(&bed.vault, "account-a"), (&b.vault, "account-b")] {
        create_account(&bed, vault, name, name).await?;
        allow_tokens(&bed, name).await?;
    }
    let secret = "accounts/a";
    let rotate_b = async || b.vault.kv("secret").put(secret, json!({"k": "v"})).await;
    rotate_b().await?;
    bed.write_secrets(&[secret]).await?;
    let of_a = deployment("of-a", secret);
    let of_b = deployment("of-b", secret).template_annotation(ADDRESS, b.vault.address());
    bed.deploy_all(&[&of_a, &of_b]).await?;
    next_second().await?;
    let env = json!({
        "VAULT_ADDR": b.vault.address(),
        "VAULT_ROLE": "account-b",
        "VAULT_JWT_SERVICE_ACCOUNT": format!("{NAMESPACE}/account-b"),
        "VAULT_JWT_AUDIENCE": "account-b",
    });
    let file = bed.folder().join("accounts.yaml");
    fs::write(&file, json!({"servers": [{"name": "b", "env": env}]}).to_string())?;
    let before = bed.mark().await?;
    let options =
        options("account-a", "account-a").flag("--vault-servers-file", &file.display().to_string());
    let mut controller = Controller::start(&bed, &options).await?;
    controller.wait_for("server=b", SOON).await?;
    rotate_b().await?;
    bed.expect_rolls(&controller, &[&of_b], 1).await?;
    bed.rotate(secret).await?;
    bed.expect_rolls(&controller, &[&of_a], 1).await?;
    controller.terminate().await?;

    for (requests, name) in
        [(bed.vault_requests_since(&before)?, "-account-a"), (b.requests()?, "-account-b")]
    {
        let mut reads = requests.iter().filter(|request| request.path.contains("/metadata/"));
        assert!(reads.clone().count() > 0, "{requests:#?}");
        assert!(reads.all(|request| request.display_name.ends_with(name)), "{requests:#?}");
    }
    let mut names: Vec<_> =
        token_requests(&bed, &before).await?.into_iter().map(|request| request.name).collect();
    names.sort();
    assert_eq!(names, ["account-a", "account-b"]);
    expect_no_jwt(&controller);
    Ok(())
}

async fn the_chart_grants_the_tokens_of_one_service_account() -> Result<()> {
    let name = "charted";
    let bed = Bed::shared().await?;
    create_account(&bed, &bed.vault, name, AUDIENCE).await?;
    let workload = deploy_workload(&bed, name).await?;
    let account = format!("{NAMESPACE}/{name}");
    let values = [
        ("logLevel", "debug"),
        ("reloaderRunPeriod", "1s"),
        ("env.VAULT_ADDR", bed.vault.address()),
        ("env.VAULT_ROLE", name),
        ("env.VAULT_JWT_SERVICE_ACCOUNT", account.as_str()),
        ("env.VAULT_JWT_AUDIENCE", AUDIENCE),
        // For declared servers alone: the login of the default server does not use the file.
        ("serviceAccountToken.audience", "of-other-servers"),
    ];
    let before = bed.mark().await?;
    let namespace = "with-token-requests";
    let installed = install_chart(&bed, namespace, &values).await?;
    let mut pod = play_kubelet(&bed, namespace, &installed.deployment).await?;
    just_after_a_poll(&pod.controller).await?;
    bed.rotate("charted/a").await?;
    bed.expect_rolls(&pod.controller, &[&workload], 1).await?;
    pod.controller.terminate().await?;

    let requests = bed.api_requests_of(USER_AGENT, &before).await?;
    let denied = requests.iter().find(|request| matches!(request.code, 401 | 403));
    assert_eq!(denied, None);
    let tokens = token_requests(&bed, &before).await?;
    assert_eq!((logins(&bed.vault_requests_since(&before)?), tokens.len()), (1, 1));
    assert_eq!((tokens[0].user.as_str(), tokens[0].name.as_str()), (pod.user.as_str(), name));
    let as_pod = format!("--as={}", pod.user);
    for (of, account) in [(NAMESPACE, "default"), (namespace, name)] {
        let args = ["create", "token", account, "--namespace", of, &as_pod];
        let refused = bed.kubectl(&args).await.err().context("it may create other tokens")?;
        assert!(format!("{refused:#}").contains("forbidden"), "{refused:#}");
    }
    bed.helm(&["uninstall", RELEASE, "--namespace", namespace, "--wait"]).await.map(drop)
}
