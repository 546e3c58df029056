//! Neighbours: what is wrong with the Vault namespace of one tenant stands in no other's way.

use anyhow::Result;
use e2e::scenario::{SOON, deployment_without_pods as deployment, polling_fast};
use e2e::{Bed, Controller, TokenRequest, Vault};
use reqwest::Method;
use serde_json::json;

e2e::scenarios! {
    a_locked_namespace_stands_in_nobodys_way: uses_namespaces,
}

const NAMESPACE: &str = "secrets-webhook.security.bank-vaults.io/vault-namespace";

async fn a_locked_namespace_stands_in_nobodys_way() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.vault.create_namespace("locked-team").await?;
    let team = bed.vault.in_namespace("locked-team");
    team.enable_kv2("secret").await?;
    let put = async || team.kv("secret").put("a", json!({ "k": fastrand::u64(..) })).await;
    put().await?;
    bed.vault.put_policy("locked-team", &Vault::reloader_rules("locked-team/secret")).await?;
    let policies = ["reloader", "locked-team"].map(str::to_owned).to_vec();
    let request = TokenRequest { policies, ..TokenRequest::default() };
    let token = bed.vault.create_token(&request).await?.token;
    bed.write_secrets(&["a", "b"]).await?;

    let (locked, a, b) = (
        deployment("locked", "a").template_annotation(NAMESPACE, "locked-team"),
        deployment("a", "a"),
        deployment("b", "b"),
    );
    bed.deploy_all(&[&locked, &a, &b]).await?;
    let lock =
        bed.vault.ask(Method::POST, "sys/namespaces/api-lock/lock/locked-team", None).await?;

    // It starts while the namespace is locked, so that not even its mounts are known.
    let controller = Controller::start(&bed, &polling_fast().vault_token(&token)).await?;
    controller.wait_for("Vault, Vault namespace locked-team,", SOON).await?;
    for secret in ["a", "b"] {
        bed.rotate(secret).await?;
    }
    bed.expect_rolls(&controller, &[&a, &b], 1).await?;
    bed.expect_no_roll(&controller, &[(&locked, None)]).await?;
    let said = controller.lines_with("failed to get secret version");
    assert_eq!(said.len(), 1, "{said:#?}");

    let key = json!({ "unlock_key": lock["data"]["unlock_key"] });
    bed.vault.ask(Method::POST, "sys/namespaces/api-lock/unlock/locked-team", Some(key)).await?;
    controller.wait_for("answers again", SOON).await?;
    put().await?;
    bed.expect_rolls(&controller, &[&locked, &a, &b], 1).await?;
    Ok(())
}
