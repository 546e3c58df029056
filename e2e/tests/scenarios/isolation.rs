//! Path rules: a namespace refers to the paths that the operator allows it, and to no others.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Result;
use e2e::scenario::{SOON, next_second, polling_faster};
use e2e::{Bed, Controller, Workload, eventually};
use serde_json::json;

e2e::scenarios! {
    a_path_that_no_rule_allows_is_never_asked_for_and_that_is_said,
}

const VAULT_NAMESPACE: &str = "secrets-webhook.security.bank-vaults.io/vault-namespace";

fn workload(namespace: &str, name: &str) -> Workload {
    Workload::deployment(namespace, name).replicas(0).opted_in()
}

async fn a_path_that_no_rule_allows_is_never_asked_for_and_that_is_said() -> Result<()> {
    let bed = Bed::shared().await?;
    for namespace in ["shop", "pay", "other"] {
        bed.cluster.create_namespace(namespace).await?;
    }
    bed.vault.enable_kv2("foreign").await?;
    bed.write_secrets(&["shop/db", "pay/db", "pay/hidden", "other/hidden"]).await?;
    let pay = workload("pay", "web").env("A", "vault:secret/data/pay/db#k");
    let shop = workload("shop", "web").env("A", "vault:secret/data/shop/db#k");
    let curious = workload("shop", "curious")
        .env("A", "vault:secret/data/shop/db#k")
        .env("B", "vault:secret/data/pay/hidden#k")
        .env("C", "x${vault:secret/data/shop/../pay/hidden#k}")
        .env("D", "vault:foreign/data/hidden#k");
    let none = workload("shop", "none").env("A", "vault:secret/data/pay/hidden#k");
    // OpenBao takes this for the root namespace.
    let dotted = workload("shop", "dotted")
        .template_annotation(VAULT_NAMESPACE, "hidden/..")
        .env("A", "vault:secret/data/shop/db#k");
    let unnamed = workload("other", "web").env("A", "vault:secret/data/other/hidden#k");
    let all = [&pay, &shop, &curious, &none, &dotted, &unnamed];
    bed.deploy_all(&all).await?;
    next_second().await?;

    let rule = |namespace: &str| {
        let paths = ["secret/data/{namespace}/*"];
        json!({"namespaces": [namespace], "vaultNamespaces": [""], "paths": paths})
    };
    let file = bed.folder().join("rules.yaml");
    fs::write(&file, json!({"rules": [rule("shop"), rule("pay")]}).to_string())?;
    let mark = bed.vault_mark();
    let options = polling_faster().flag("--path-rules-file", &file.display().to_string());
    let controller = Controller::start(&bed, &options).await?;

    let refused = || vec!["Warning PathRefused".to_owned()];
    for (namespace, names) in
        [("shop", &["curious", "dotted", "none"][..]), ("pay", &[]), ("other", &["web"])]
    {
        let expected: BTreeMap<_, _> =
            names.iter().map(|name| ((*name).to_owned(), refused())).collect();
        eventually("the Events", SOON, || async {
            Ok((bed.events(namespace).await? == expected).then_some(()))
        })
        .await?;
    }
    let said = "shop/Deployment/curious: variable D of container app: not watched";
    let line = controller.wait_for(said, SOON).await?;
    assert!(line.text.contains("level=warn") && line.text.contains("reason=PathRefused"));

    // What is its own still reloads it.
    controller.wait_for_polls(1, SOON).await?;
    for path in ["pay/hidden", "other/hidden", "shop/db", "pay/db"] {
        bed.rotate(path).await?;
    }
    bed.expect_rolls(&controller, &[&pay, &shop, &curious], 1).await?;
    bed.expect_no_roll(&controller, &[&none, &dotted, &unnamed].map(|w| (w.name(), None))).await?;
    assert_eq!(bed.counts(&[&pay, &shop, &curious]).await?, [Some(1); 3]);

    // Neither the secrets nor their mounts or folders were asked for.
    let requests = bed.vault_requests_since(&mark)?;
    let concerns = |words: &[&str]| {
        let of = |text: &str| words.iter().any(|word| text.contains(word));
        let paths = requests.iter().filter(|it| of(&it.path) || of(&it.namespace));
        paths.map(|it| format!("{} {}", it.namespace, it.path)).collect::<Vec<_>>()
    };
    assert!(!concerns(&["shop/db"]).is_empty() || !concerns(&["detailed-metadata/"]).is_empty());
    assert_eq!(concerns(&["hidden", "foreign", "other", ".."]), Vec::<String>::new());
    bed.expect_no_value_touched(&mark)
}
