//! Who is reloaded: opting in and out, and every place where a reference may stand.

use anyhow::Result;
use e2e::scenario::{SOON, next_second, polling_faster};
use e2e::{Bed, Controller, Generation, TokenRequest, Vault, Workload, eventually};
use serde_json::json;

e2e::scenarios! {
    the_count_is_of_the_generation_that_opted_in,
    opting_out_and_in_counts_at_once,
    a_deleted_workload_and_its_secret_are_forgotten,
    a_reference_counts_wherever_it_stands_unless_it_is_pinned,
    a_path_of_a_vault_namespace_is_another_secret: uses_namespaces,
}

/// The annotations of the injecting webhook, current and older.
const WEBHOOK: &str = "secrets-webhook.security.bank-vaults.io/";
const OLDER_WEBHOOK: &str = "vault.security.banzaicloud.io/";

fn reference(path: &str) -> String {
    format!("vault:secret/data/{path}#k")
}

async fn the_count_is_of_the_generation_that_opted_in() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("generations").await?;
    bed.write_secrets(&["generations/a"]).await?;
    let uses = |workload: Workload| workload.env("A", &reference("generations/a"));
    let current = uses(Workload::deployment("generations", "current").opted_in());
    let older = uses(Workload::daemon_set("generations", "older").opted_in_by(Generation::Older));
    let both = uses(
        Workload::stateful_set("generations", "both")
            .opted_in()
            .opted_in_by(Generation::Older)
            .template_annotation(Generation::Older.count(), "7"),
    );
    // Only the exact value opts in; then the other generation may.
    let mixed = uses(
        Workload::deployment("generations", "mixed")
            .template_annotation(Generation::Current.opt_in(), "false")
            .opted_in_by(Generation::Older)
            .template_annotation(Generation::Older.count(), "41"),
    );
    let not = uses(
        Workload::deployment("generations", "not")
            .template_annotation(Generation::Current.opt_in(), "True"),
    );
    bed.deploy_all(&[&current, &older, &both, &mixed, &not]).await?;
    let controller = Controller::start(&bed, &polling_faster()).await?;
    let nobody = [(&current, None), (&older, None), (&both, Some(7)), (&mixed, Some(41))];
    bed.expect_no_roll(&controller, &nobody).await?;

    bed.rotate("generations/a").await?;
    for (workload, wanted_current, wanted_older) in [
        (&current, Some("1"), None),
        (&older, None, Some("1")),
        (&both, Some("1"), Some("7")),
        (&mixed, None, Some("42")),
    ] {
        let state = bed
            .cluster
            .wait_for(workload, "its reload", SOON, |state| state.mark().is_some())
            .await?;
        let counts = [Generation::Current, Generation::Older]
            .map(|generation| state.template_annotation(generation.count()));
        assert_eq!(counts, [wanted_current, wanted_older], "{}", workload.name());
        bed.cluster.wait_rolled_out(workload).await?;
    }
    let once = [(&current, 1), (&older, 1), (&both, 1), (&mixed, 42)];
    let once = once.map(|(workload, count)| (workload, Some(count)));
    bed.expect_no_roll(&controller, &once).await?;
    bed.expect_no_roll(&controller, &[(&not, None)]).await
}

async fn opting_out_and_in_counts_at_once() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("opting").await?;
    bed.write_secrets(&["opting/a"]).await?;
    let base = |name: &str| {
        Workload::deployment("opting", name).opted_in().env("A", &reference("opting/a"))
    };
    let (leaves, loses) = (base("leaves"), base("loses"));
    let (skipped, comes) = (base("skipped"), base("comes").opted_out());
    let stays = base("stays");
    let all = [&leaves, &loses, &skipped, &comes, &stays];
    bed.deploy_all(&all).await?;
    let controller = Controller::start(&bed, &polling_faster()).await?;
    bed.expect_no_roll(&controller, &all.map(|workload| (workload, None))).await?;
    assert!(controller.lines_with("Collected secrets from Deployment opting/comes").is_empty());

    let left = leaves.clone().opted_out();
    let lost = loses.clone().without_env();
    let annotated = skipped.clone().template_annotation(&format!("{WEBHOOK}mutate"), "skip");
    let came = comes.clone().opted_in();
    bed.cluster.apply(&came).await?;
    eventually("its second ReplicaSet", SOON, || async {
        Ok((bed.cluster.revisions(&came).await?.len() == 2).then_some(()))
    })
    .await?;
    for workload in [&left, &lost, &annotated] {
        bed.cluster.apply(workload).await?;
    }
    bed.rotate("opting/a").await?;
    bed.cluster.wait_for_count(&stays, 1, SOON).await?;
    bed.cluster.wait_for_count(&came, 1, SOON).await?;
    let expected = [(&left, None), (&lost, None), (&annotated, None), (&came, Some(1))];
    bed.expect_no_roll(&controller, &expected).await?;
    for name in ["leaves", "loses", "skipped"] {
        let line = format!("Stopped watching Deployment opting/{name}\"");
        assert_eq!(controller.lines_with(&line).len(), 1, "{line}");
    }
    let line = "level=info msg=\"Collected secrets from Deployment opting/comes\"";
    assert_eq!(controller.lines_with(line).len(), 1);

    // And back again: newer than the version that it has slept through. With exactly the template
    // of before, the Deployment would return to its older ReplicaSet, whose age says nothing.
    next_second().await?;
    let back = leaves.clone().env("ANOTHER", "template");
    bed.cluster.apply(&back).await?;
    controller.wait_for("Collected secrets from Deployment opting/leaves", SOON).await?;
    bed.expect_no_roll(&controller, &[(&leaves, None), (&stays, Some(1))]).await?;
    bed.rotate("opting/a").await?;
    for (workload, count) in [(&leaves, 1), (&came, 2), (&stays, 2)] {
        bed.cluster.wait_for_count(workload, count, SOON).await?;
    }
    bed.expect_no_roll(&controller, &[(&left, Some(1)), (&lost, None), (&annotated, None)]).await
}

async fn a_deleted_workload_and_its_secret_are_forgotten() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("deleted").await?;
    bed.write_secrets(&["deleted/a", "deleted/b"]).await?;
    let base = |name: &str, path: &str| {
        Workload::stateful_set("deleted", name).opted_in().env("A", &reference(path))
    };
    let (leaves, stays) = (base("leaves", "deleted/a"), base("stays", "deleted/b"));
    bed.deploy_all(&[&leaves, &stays]).await?;
    let controller = Controller::start(&bed, &polling_faster()).await?;
    bed.expect_no_roll(&controller, &[(&leaves, None), (&stays, None)]).await?;

    bed.cluster.delete(&leaves).await?;
    let line = "level=info msg=\"Stopped watching StatefulSet deleted/leaves\"";
    controller.wait_for(line, SOON).await?;
    // A poll that was under way may still ask for it.
    controller.wait_for_polls(1, SOON).await?;
    let mark = bed.mark().await?;
    bed.rotate("deleted/a").await?;
    bed.rotate("deleted/b").await?;
    bed.cluster.wait_for_count(&stays, 1, SOON).await?;
    bed.expect_no_roll(&controller, &[(&stays, Some(1))]).await?;
    let asked = bed.vault_requests_since(&mark)?;
    let of = |path: &str| asked.iter().filter(|request| request.path.ends_with(path)).count();
    assert_eq!(of("deleted/a"), 0, "{asked:#?}");
    assert!(of("deleted/b") > 0, "{asked:#?}");
    assert!(controller.lines_matching(|line| line.contains("level=error")).is_empty());
    Ok(())
}

async fn a_reference_counts_wherever_it_stands_unless_it_is_pinned() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("places").await?;
    let paths =
        ["init", "listed", "older-listed", "inline-1", "inline-2", "template", "overridden"];
    let paths = paths.map(|path| format!("places/{path}"));
    bed.write_secrets(&paths.each_ref().map(String::as_str)).await?;
    let new = |name: &str| Workload::deployment("places", name).opted_in();
    let from_path = format!("{WEBHOOK}vault-from-path");
    let older_from_path = format!("{OLDER_WEBHOOK}vault-env-from-path");

    let rolled = [
        new("init").init_env("A", &reference("places/init")),
        new("listed").template_annotation(
            &from_path,
            "secret/data/places/pinned#1,secret/data/places/listed",
        ),
        new("older-listed")
            .template_annotation(&older_from_path, "secret/data/places/older-listed"),
        new("inline").env(
            "URL",
            "mysql://${vault:secret/data/places/inline-1#user}:\
             ${vault:secret/data/places/inline-2#${.password | urlquery}}@db/app",
        ),
        new("template").env("A", "vault:secret/data/places/template#${.k | b64enc}"),
        new("latest-by-number").env("A", "vault:secret/data/places/template#k#-1"),
        new("expanded")
            .env("FOLDER", "places")
            .env("A", "vault:secret/data/$(FOLDER)/template#k$$"),
    ];
    let left = [
        new("pinned").env("A", "vault:secret/data/places/init#k#1"),
        new("pinned-inline").env("A", "x${vault:secret/data/places/init#k#1}y"),
        new("pinned-listed").template_annotation(&from_path, "secret/data/places/listed#1"),
        new("both-lists")
            .template_annotation(&from_path, "secret/data/places/pinned#1")
            .template_annotation(&older_from_path, "secret/data/places/overridden"),
        new("skipped")
            .template_annotation(&format!("{WEBHOOK}mutate"), "skip")
            .env("A", &reference("places/init")),
        new("skipped-older")
            .template_annotation(&format!("{OLDER_WEBHOOK}mutate"), "skip")
            .env("A", &reference("places/init")),
        new("literal").env("A", "see vault:secret/data/places/init#k"),
        new("write").env("A", ">>vault:secret/data/places/init#k#{\"k\":\"1\"}"),
        // The webhook resolves only the inline reference of such a value.
        new("mixed").env("A", "vault:secret/data/places/init#${vault:secret/data/places/none#k#1}"),
    ];
    let all: Vec<&Workload> = rolled.iter().chain(&left).collect();
    bed.deploy_all(&all).await?;
    let controller = Controller::start(&bed, &polling_faster()).await?;
    let nobody: Vec<_> = all.iter().map(|workload| (*workload, None)).collect();
    bed.expect_no_roll(&controller, &nobody).await?;

    let mark = bed.mark().await?;
    for path in &paths {
        bed.rotate(path).await?;
    }
    for workload in &rolled {
        bed.cluster.wait_rolled_out(workload).await?;
        bed.cluster.wait_for(workload, "its reload", SOON, |state| state.count().is_some()).await?;
    }
    let untouched: Vec<_> = left.iter().map(|workload| (workload, None)).collect();
    bed.expect_no_roll(&controller, &untouched).await?;
    // Two secrets of one workload may have changed on both sides of a poll.
    let inline = bed.cluster.get(&rolled[3]).await?;
    assert!(matches!(inline.count(), Some(1 | 2)), "{:?}", inline.count());
    for (index, workload) in rolled.iter().enumerate().filter(|(index, _)| *index != 3) {
        assert_eq!(bed.cluster.get(workload).await?.count(), Some(1), "workload {index}");
    }
    // Of one variable both references count.
    let before = inline.count().unwrap_or_default();
    bed.rotate("places/inline-2").await?;
    bed.cluster.wait_for_count(&rolled[3], before + 1, SOON).await?;
    let requests = bed.vault_requests_since(&mark)?;
    assert!(requests.iter().all(|request| !request.touches_a_value()), "{requests:#?}");
    let unused = requests.iter().find(|request| request.path.contains("overridden"));
    assert_eq!(unused, None);
    Ok(())
}

async fn a_path_of_a_vault_namespace_is_another_secret() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("namespaces").await?;
    bed.vault.create_namespace("team").await?;
    let team = bed.vault.in_namespace("team");
    team.enable_kv2("secret").await?;
    bed.vault.put_policy("reloader-team", &Vault::reloader_rules("team/secret")).await?;
    let policies = ["reloader", "reloader-team"].map(str::to_owned).to_vec();
    let request = TokenRequest { policies, ..TokenRequest::default() };
    let token = bed.vault.create_token(&request).await?.token;
    let put = async || team.kv("secret").put("namespaces/a", json!({"k": "v"})).await;
    put().await?;
    bed.write_secrets(&["namespaces/a"]).await?;

    let uses = |name: &str| {
        Workload::deployment("namespaces", name).opted_in().env("A", &reference("namespaces/a"))
    };
    let of_root = uses("root");
    let of_team = uses("team").template_annotation(&format!("{WEBHOOK}vault-namespace"), "team");
    let of_team_older =
        uses("older").template_annotation(&format!("{OLDER_WEBHOOK}vault-namespace"), "team");
    let of_variable = uses("variable").env("VAULT_NAMESPACE", "team");
    let nowhere =
        uses("nowhere").template_annotation(&format!("{WEBHOOK}vault-namespace"), "no-such");
    bed.deploy_all(&[&of_root, &of_team, &of_team_older, &of_variable, &nowhere]).await?;
    let controller = Controller::start(&bed, &polling_faster().vault_token(&token)).await?;
    let all = [&of_root, &of_team, &of_team_older, &of_variable, &nowhere];
    let all = all.map(|workload| (workload, None));
    bed.expect_no_roll(&controller, &all).await?;

    let mark = bed.mark().await?;
    put().await?;
    bed.cluster.wait_for_count(&of_team, 1, SOON).await?;
    bed.cluster.wait_for_count(&of_team_older, 1, SOON).await?;
    bed.cluster.wait_for_count(&of_variable, 1, SOON).await?;
    bed.expect_no_roll(&controller, &[(&of_root, None), (&nowhere, None)]).await?;
    bed.rotate("namespaces/a").await?;
    bed.cluster.wait_for_count(&of_root, 1, SOON).await?;
    let of_team = [&of_team, &of_team_older, &of_variable].map(|workload| (workload, Some(1)));
    let once = [&of_team[..], &[(&nowhere, None)]].concat();
    bed.expect_no_roll(&controller, &once).await?;
    let requests = bed.vault_requests_since(&mark)?;
    assert!(requests.iter().any(|request| request.namespace == "team/"), "{requests:#?}");
    Ok(())
}
