//! Secrets that are deleted, destroyed, removed, brought back, or about to expire.

use std::collections::BTreeMap;

use anyhow::Result;
use e2e::controller_log::Stream;
use e2e::scenario::{SOON, polling_faster};
use e2e::{Bed, Controller, Workload};
use serde_json::json;

e2e::scenarios! {
    a_gone_secret_holds_its_workloads_until_it_is_back,
    an_undeleted_version_is_the_one_that_the_pods_have,
    a_version_that_will_expire_is_live_until_then,
    missing_secrets_hold_nothing_where_they_are_ignored,
}

/// How a secret goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum How {
    /// Its latest version is deleted, and could be undeleted.
    Deleted,
    /// The data of its latest version are gone for good.
    Destroyed,
    /// All of it is gone; what is written afterwards is version 1 again.
    Removed,
}

impl How {
    const ALL: [Self; 3] = [Self::Deleted, Self::Destroyed, Self::Removed];

    fn secret(self) -> String {
        format!("gone/{self:?}").to_lowercase()
    }

    async fn apply(self, bed: &Bed) -> Result<()> {
        let secrets = bed.vault.kv("secret");
        match self {
            Self::Deleted => secrets.delete_latest(&self.secret()).await,
            Self::Destroyed => secrets.destroy(&self.secret(), &[1]).await,
            Self::Removed => secrets.delete_metadata(&self.secret()).await,
        }
    }

    /// The end of the error line.
    fn said(self) -> &'static str {
        match self {
            Self::Deleted => ": its latest version is deleted",
            Self::Destroyed => ": its latest version is destroyed",
            Self::Removed => "",
        }
    }
}

fn using(name: &str, paths: &[&str]) -> Workload {
    let workload = Workload::deployment("gone", name).opted_in();
    paths.iter().enumerate().fold(workload, |workload, (index, path)| {
        workload.env(&format!("VARIABLE_{index}"), &format!("vault:secret/data/{path}#k"))
    })
}

async fn a_gone_secret_holds_its_workloads_until_it_is_back() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("gone").await?;
    let gone = How::ALL.map(How::secret);
    let [deleted, destroyed, removed] = gone.each_ref().map(String::as_str);
    bed.write_secrets(&[deleted, destroyed, removed, "gone/other"]).await?;
    let free = using("free", &["gone/other"]);
    let alone = using("alone", &[deleted]);
    let held: BTreeMap<How, Workload> = How::ALL
        .into_iter()
        .map(|how| {
            (how, using(&format!("held-{how:?}").to_lowercase(), &[&how.secret(), "gone/other"]))
        })
        .collect();
    let all: Vec<&Workload> = held.values().chain([&free, &alone]).collect();
    bed.deploy_all(&all).await?;
    let controller = Controller::start(&bed, &polling_faster()).await?;
    let nobody: Vec<_> = all.iter().map(|workload| (*workload, None)).collect();
    bed.expect_no_roll(&controller, &nobody).await?;

    for how in How::ALL {
        how.apply(&bed).await?;
        let line = format!(
            "msg=\"Vault secret path secret/data/{} not found{}\"",
            how.secret(),
            how.said()
        );
        let found = controller.wait_for(&line, SOON).await?;
        assert!(found.text.contains("level=error"), "{}", found.text);
        assert_eq!(found.stream, Stream::Stderr);
    }
    bed.expect_no_roll(&controller, &nobody).await?;

    bed.rotate("gone/other").await?;
    bed.cluster.wait_for_count(&free, 1, SOON).await?;
    for (how, workload) in &held {
        let line = format!("Not reloading {}", workload.name());
        let found = controller.wait_for(&line, SOON).await?;
        assert!(found.text.contains("level=warn"), "{}", found.text);
        for named in [how.secret(), "gone/other".to_owned()] {
            assert!(found.text.contains(&format!("secret/data/{named}")), "{}", found.text);
        }
    }
    let mut expected: Vec<_> = held.values().map(|workload| (workload, None)).collect();
    expected.extend([(&free, Some(1)), (&alone, None)]);
    bed.expect_no_roll(&controller, &expected).await?;

    for how in How::ALL {
        let version = bed.rotate(&how.secret()).await?;
        assert_eq!(version.version, if how == How::Removed { 1 } else { 2 });
    }
    let mut expected: Vec<_> = held.values().map(|workload| (workload, Some(1))).collect();
    expected.extend([(&free, Some(1)), (&alone, Some(1))]);
    for (workload, _) in &expected {
        bed.cluster.wait_for_count(workload, 1, SOON).await?;
    }
    bed.expect_no_roll(&controller, &expected).await?;

    for (how, workload) in &held {
        let line = format!("Vault secret path secret/data/{} not found", how.secret());
        assert_eq!(controller.lines_with(&line).len(), 1, "{line}");
        let line = format!("Not reloading {}", workload.name());
        assert_eq!(controller.lines_with(&line).len(), 1, "{line}");
        let line = format!("Vault secret path secret/data/{} can be read again", how.secret());
        assert_eq!(controller.lines_with(&line).len(), 1, "{line}");
    }
    Ok(())
}

async fn an_undeleted_version_is_the_one_that_the_pods_have() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("gone").await?;
    bed.write_secrets(&["undeleted/a"]).await?;
    let workload = using("undeleted", &["undeleted/a"]);
    bed.deploy_all(&[&workload]).await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    bed.rotate("undeleted/a").await?;
    bed.cluster.wait_for_count(&workload, 1, SOON).await?;

    let secrets = bed.vault.kv("secret");
    secrets.delete_latest("undeleted/a").await?;
    controller.wait_for("Vault secret path secret/data/undeleted/a not found", SOON).await?;
    bed.expect_no_roll(&controller, &[(&workload, Some(1))]).await?;
    secrets.undelete("undeleted/a", &[2]).await?;
    controller.wait_for("secret/data/undeleted/a can be read again", SOON).await?;
    bed.expect_no_roll(&controller, &[(&workload, Some(1))]).await?;

    // Nor does it matter that the controller was not there while it was deleted.
    controller.terminate().await?;
    secrets.delete_latest("undeleted/a").await?;
    secrets.undelete("undeleted/a", &[2]).await?;
    controller.restart().await?;
    bed.expect_no_roll(&controller, &[(&workload, Some(1))]).await?;
    bed.rotate("undeleted/a").await?;
    bed.cluster.wait_for_count(&workload, 2, SOON).await?;
    Ok(())
}

async fn a_version_that_will_expire_is_live_until_then() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("gone").await?;
    let secrets = bed.vault.kv("secret");
    secrets.put_metadata("expiring/a", json!({"delete_version_after": "1h"})).await?;
    bed.write_secrets(&["expiring/a", "expiring/b"]).await?;
    let workload = using("expiring", &["expiring/a"]);
    let soon = using("expiring-soon", &["expiring/b"]);
    bed.deploy_all(&[&workload, &soon]).await?;
    let controller = Controller::start(&bed, &polling_faster()).await?;
    bed.expect_no_roll(&controller, &[(&workload, None), (&soon, None)]).await?;

    bed.rotate("expiring/a").await?;
    let version = &secrets.metadata("expiring/a").await?["versions"]["2"];
    assert!(version["deletion_time"].as_str().is_some_and(|time| !time.is_empty()), "{version}");
    bed.cluster.wait_for_count(&workload, 1, SOON).await?;
    assert!(controller.lines_with("not found").is_empty());

    // And from then on it is gone, without anybody having touched it.
    secrets.put_metadata("expiring/b", json!({"delete_version_after": "10s"})).await?;
    bed.rotate("expiring/b").await?;
    bed.cluster.wait_for_count(&soon, 1, SOON).await?;
    let line = "Vault secret path secret/data/expiring/b not found: its latest version is deleted";
    controller.wait_for(line, SOON).await?;
    bed.expect_no_roll(&controller, &[(&workload, Some(1)), (&soon, Some(1))]).await
}

async fn missing_secrets_hold_nothing_where_they_are_ignored() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("gone").await?;
    bed.write_secrets(&["ignored/a"]).await?;
    let by_operator = using("by-operator", &["ignored/a", "ignored/missing"]);
    let by_tenant = by_tenant();
    bed.deploy_all(&[&by_operator, &by_tenant]).await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    let error = controller.wait_for("secret/data/ignored/missing not found", SOON).await?;
    assert!(error.text.contains("level=error"), "{}", error.text);
    let warning = controller.wait_for("secret/data/ignored/optional not found", SOON).await?;
    assert!(warning.text.contains("level=warn"), "{}", warning.text);
    bed.rotate("ignored/a").await?;
    bed.cluster.wait_for_count(&by_tenant, 1, SOON).await?;
    bed.expect_no_roll(&controller, &[(&by_operator, None), (&by_tenant, Some(1))]).await?;

    controller.terminate().await?;
    let options = polling_faster().env("VAULT_IGNORE_MISSING_SECRETS", "true");
    let controller = Controller::start(&bed, &options).await?;
    bed.cluster.wait_for_count(&by_operator, 1, SOON).await?;
    bed.cluster.wait_rolled_out(&by_operator).await?;
    bed.rotate("ignored/a").await?;
    bed.cluster.wait_for_count(&by_operator, 2, SOON).await?;
    bed.cluster.wait_for_count(&by_tenant, 2, SOON).await?;
    bed.expect_no_roll(&controller, &[(&by_operator, Some(2)), (&by_tenant, Some(2))]).await?;
    let lines = controller.lines_with("secret/data/ignored/missing not found");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines.iter().all(|line| line.text.contains("level=warn")), "{lines:#?}");
    assert!(controller.lines_with("level=error").is_empty());
    Ok(())
}

fn by_tenant() -> Workload {
    using("by-tenant", &["ignored/a", "ignored/optional"]).template_annotation(
        "secrets-webhook.security.bank-vaults.io/vault-ignore-missing-secrets",
        "true",
    )
}
