//! What tenants write into their manifests: nothing of it stops the controller, or its neighbours.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use e2e::scenario::{SOON, polling_faster};
use e2e::workload::RECORD;
use e2e::{Bed, Controller, Generation, Workload};
use futures::future::try_join_all;

e2e::scenarios! {
    absurd_values_are_named_and_never_shown,
    absurd_records_and_counts_are_as_good_as_none,
    a_thousand_references_are_one_workload,
}

/// Stands for what must not be shown: it is part of values, and of no path that is watched.
const CANARY: &str = "canary-3f9a1c07";

fn tenant(name: &str) -> Workload {
    Workload::deployment("tenants", name).replicas(0).opted_in()
}

fn healthy(name: &str) -> Workload {
    tenant(name).env("A", "vault:secret/data/tenants/healthy#k")
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// A warning that names workload and variable.
    Warning,
    /// Nothing that anybody has to look at.
    Nothing,
}

fn absurd_values() -> Vec<(Said, String)> {
    let table = [
        (Said::Warning, "vault:"),
        (Said::Warning, "vault:#"),
        (Said::Warning, "vault:###"),
        (Said::Warning, "vault:@"),
        (Said::Warning, "vault:#@"),
        (Said::Warning, "vault:/#@"),
        (Said::Warning, "vault:..//..#@"),
        (Said::Warning, "vault:a/../../@#k"),
        (Said::Warning, "vault:secret/data/\u{7}@#k"),
        (Said::Warning, "vault:secret/data/\n@#k"),
        (Said::Warning, "vault:secret/data/tenants/healthy#k#@"),
        (Said::Warning, "vault:secret/data/tenants/healthy#k#1e3"),
        (Said::Warning, "vault:secret/data/tenants/healthy#k#99999999999999999999999"),
        (Said::Warning, ">>vault:"),
        (Said::Warning, "${>vault:@#k}"),
        (Said::Warning, "{\"p\":${vault:secret/data/tenants/healthy#@}}"),
        (Said::Nothing, "${vault:"),
        (Said::Nothing, "${vault:@"),
        (Said::Nothing, "${vault:${vault:${vault:@"),
        (Said::Nothing, ">>vault:@#k#{\"a\":\"#\"}"),
        (Said::Nothing, "${>>vault:@#k#{}}"),
        (Said::Nothing, "vault:v1:@"),
        (Said::Nothing, "vault:secret/data/tenants/healthy#@#1"),
        (Said::Nothing, "VAULT:@"),
        (Said::Nothing, " vault:@"),
        (Said::Nothing, "\u{feff}vault:@"),
        (Said::Nothing, "𝕧𝕒𝕦𝕝𝕥:@ 🦀\u{202e}\u{0}"),
        (Said::Nothing, "arn:aws:secretsmanager:@"),
        (Said::Nothing, "$(A)$(B)${@}"),
    ];
    table.into_iter().map(|(said, value)| (said, value.replace('@', CANARY))).collect()
}

fn huge_values() -> Vec<String> {
    let repeat = |text: &str, size: usize| text.repeat(size / text.len());
    vec![
        repeat("x", 200_000) + "vault:" + CANARY,
        repeat("${vault:", 200_000) + CANARY,
        repeat("}", 100_000) + "${vault:" + CANARY + &repeat("#", 100_000),
        "vault:".to_owned() + CANARY + &repeat("/..", 200_000) + "#k",
        "vault:".to_owned() + &repeat("../", 200_000) + CANARY + "#k",
        "vault:secret/data/tenants/healthy#${".to_owned() + &repeat("{", 100_000) + CANARY,
    ]
}

/// They must not steer the controller to what it never calls.
const STEERING: [&str; 8] = [
    "vault:secret/data/../../sys/seal#k",
    "vault:sys/raw/core/keyring#k",
    "vault:auth/token/create#k",
    "vault:cubbyhole/a#k",
    "vault:secret/data/tenants/healthy?list=true#k",
    "vault:secret/data/tenants%2f..%2f..%2f..%2fsys%2fseal#k",
    "vault:http://127.0.0.1:1/secret/data/a#k",
    "vault:secret/data/tenants/healthy\\..\\..#k",
];

async fn absurd_values_are_named_and_never_shown() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("tenants").await?;
    bed.write_secrets(&["tenants/healthy", "ténants/☃ 𝕏"]).await?;
    let absurd = absurd_values();
    let odd = absurd.iter().enumerate().fold(tenant("odd"), |workload, (number, (_, value))| {
        workload.env(&format!("ODD_{number}"), value)
    });
    let mut workloads = vec![healthy("healthy"), odd];
    for (number, value) in huge_values().iter().enumerate() {
        workloads.push(healthy(&format!("huge-{number}")).env("HUGE", value));
    }
    workloads.push((0..3000).fold(healthy("thousands"), |workload, number| {
        workload.env(&format!("VARIABLE_{number}"), "of no interest")
    }));
    let unicode = tenant("unicode").env("A", "vault:secret/data/ténants/☃ 𝕏#k");
    // Paths, if long ones: longer than any address can be, on a mount that there is, and on none.
    let endless = "a".repeat(200_000);
    workloads.push(
        tenant("endless")
            .env("PATH_OF_A_MOUNT", &format!("vault:secret/data/{endless}#k"))
            .env("PATH_OF_NONE", &format!("vault:{endless}/data/a#k")),
    );
    let steering =
        STEERING.iter().enumerate().fold(tenant("steering"), |workload, (number, value)| {
            workload.env(&format!("STEER_{number}"), value)
        });
    workloads.extend([unicode.clone(), steering]);
    let mark = bed.mark().await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    for workload in &workloads {
        bed.cluster.apply(workload).await.with_context(|| workload.name().to_string())?;
    }
    for (number, (said, value)) in absurd.iter().enumerate() {
        let variable = format!("tenants/Deployment/odd: variable ODD_{number} of container app");
        if *said == Said::Warning {
            let line = controller.wait_for(&variable, SOON).await.with_context(|| value.clone())?;
            assert!(line.text.contains("level=warn"), "{value}: {}", line.text);
        }
    }
    // The workload of the huge values that are references in form, and the end of the first poll.
    controller.wait_for("tenants/Deployment/huge-4: variable HUGE of container app", SOON).await?;
    controller.wait_for("Collected secrets from Deployment tenants/steering", SOON).await?;
    controller.wait_for_polls(1, SOON).await?;

    bed.rotate("tenants/healthy").await?;
    bed.rotate("ténants/☃ 𝕏").await?;
    bed.cluster.wait_for_count(&workloads[0], 1, SOON).await?;
    let others = workloads
        .iter()
        .filter(|workload| !["steering", "endless"].contains(&workload.name().name.as_str()));
    for workload in others {
        bed.cluster.wait_for_count(workload, 1, SOON).await?;
    }
    bed.expect_no_roll(&controller, &[(&workloads[0], Some(1)), (&unicode, Some(1))]).await?;

    let lines = controller.lines();
    let shown: Vec<_> = lines.iter().filter(|line| line.text.contains(CANARY)).collect();
    assert!(shown.is_empty(), "{shown:#?}");
    for (number, (said, value)) in absurd.iter().enumerate() {
        let variable = format!("variable ODD_{number} of container app");
        let warned = lines
            .iter()
            .filter(|line| line.text.contains(&variable) && line.text.contains("level=warn"))
            .count();
        assert_eq!(warned, usize::from(*said == Said::Warning), "{value}");
    }
    for variable in ["PATH_OF_A_MOUNT", "PATH_OF_NONE"] {
        let said = format!("tenants/Deployment/endless: variable {variable} of container app");
        assert!(lines.iter().any(|line| line.text.contains(&said)), "nothing said of {variable}");
    }
    let outages = controller.lines_with("cannot be reached");
    assert!(outages.is_empty(), "one tenant's path is no outage of Vault: {outages:#?}");
    let longest = lines.iter().map(|line| line.text.len()).max().unwrap_or_default();
    assert!(longest < 10_000, "a line has {longest} bytes");

    let asked: BTreeSet<(String, String)> = bed
        .vault_requests_since(&mark)?
        .into_iter()
        .map(|request| (request.operation, request.path))
        .collect();
    for (operation, path) in &asked {
        let is_harmless = match operation.as_str() {
            "read" => ["secret/metadata/", "sys/internal/ui/mounts/", "auth/token/lookup-self"]
                .iter()
                .any(|start| path.starts_with(start)),
            "list" => path == "secret/detailed-metadata/tenants/",
            _ => false,
        };
        assert!(is_harmless, "{operation} {path}");
    }
    assert_eq!(controller.probe("/healthz").await?.status, 200);
    let (status, _) = controller.terminate().await?;
    assert!(status.success(), "{status}");
    Ok(())
}

async fn absurd_records_and_counts_are_as_good_as_none() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("tenants").await?;
    bed.write_secrets(&["tenants/healthy"]).await?;
    let many_versions =
        (0..2000).map(|number| format!("\"{number:x}\":\"1@1\"")).collect::<Vec<_>>();
    let records = [
        String::new(),
        CANARY.to_owned(),
        "{".repeat(10_000),
        "[".repeat(100_000),
        format!("{{\"v\":1,\"uid\":\"{CANARY}\""),
        format!("{{\"v\":99,\"uid\":\"{CANARY}\",\"mark\":\"m\",\"secrets\":{{}}}}"),
        "{\"v\":1,\"uid\":7,\"mark\":null,\"secrets\":[]}".to_owned(),
        format!(
            "{{\"v\":1,\"uid\":\"u\",\"mark\":\"m\",\"secrets\":{{{}}}}}",
            many_versions.join(",")
        ),
        "{\"v\":18446744073709551616}".to_owned(),
        "x".repeat(200_000),
        "\u{202e}🦀\n".repeat(100),
    ];
    let with_records: Vec<Workload> = records
        .iter()
        .enumerate()
        .map(|(number, record)| healthy(&format!("record-{number}")).annotation(RECORD, record))
        .collect();
    let largest = u64::MAX.to_string();
    let counts = [
        ("many", "1"),
        ("", "1"),
        ("-5", "1"),
        ("0x10", "1"),
        (" 7", "1"),
        ("41", "42"),
        ("99999999999999999999999", "1"),
        (largest.as_str(), largest.as_str()),
    ];
    let with_counts: Vec<Workload> = counts
        .iter()
        .enumerate()
        .map(|(number, (count, _))| {
            healthy(&format!("count-{number}"))
                .template_annotation(Generation::Current.count(), count)
        })
        .collect();
    let all: Vec<&Workload> = with_records.iter().chain(&with_counts).collect();
    bed.deploy_all(&all).await?;
    let controller = Controller::start(&bed, &polling_faster()).await?;
    controller.wait_for_polls(2, SOON).await?;
    for workload in &all {
        assert_eq!(bed.cluster.get(*workload).await?.mark(), None, "{}", workload.name());
    }
    for workload in &with_records[..7] {
        let line = format!("The record on {} is ignored", workload.name());
        let lines = controller.lines_with(&line);
        assert_eq!(lines.len(), 1, "{line}: {lines:#?}");
        assert!(lines[0].text.contains("level=warn"), "{lines:#?}");
    }

    bed.rotate("tenants/healthy").await?;
    let mut marks = BTreeSet::new();
    for workload in &all {
        let is_rolled = |state: &e2e::State| state.mark().is_some();
        let state = bed.cluster.wait_for(*workload, "its reload", SOON, is_rolled).await?;
        let record = state.record().with_context(|| format!("{}: no record", workload.name()))?;
        assert_eq!(record["uid"], state.uid());
        marks.insert(state.mark().unwrap_or_default().to_owned());
    }
    assert_eq!(marks.len(), all.len(), "each reload has a mark of its own");
    controller.wait_for_polls(2, SOON).await?;
    for (workload, (_, wanted)) in with_counts.iter().zip(counts) {
        let state = bed.cluster.get(workload).await?;
        assert_eq!(state.template_annotation(Generation::Current.count()), Some(wanted));
        assert!(
            marks.contains(state.mark().unwrap_or_default()),
            "{} rolled again",
            workload.name()
        );
    }
    for workload in &with_records {
        assert_eq!(bed.cluster.get(workload).await?.count(), Some(1), "{}", workload.name());
    }
    assert!(controller.lines_with(CANARY).is_empty());
    Ok(())
}

async fn a_thousand_references_are_one_workload() -> Result<()> {
    const REFERENCES: usize = 1000;
    let bed = Bed::for_many_secrets().await?;
    bed.cluster.create_namespace("tenants").await?;
    let paths: Vec<String> = (0..REFERENCES).map(|number| format!("thousand/s-{number}")).collect();
    for some in paths.chunks(50) {
        try_join_all(some.iter().map(|path| bed.rotate(path))).await?;
    }
    bed.write_secrets(&["tenants/healthy"]).await?;
    let many = paths.iter().enumerate().fold(tenant("many"), |workload, (number, path)| {
        workload.env(&format!("VARIABLE_{number}"), &format!("vault:secret/data/{path}#k"))
    });
    let neighbour = healthy("neighbour");
    bed.deploy_all(&[&many, &neighbour]).await?;
    let controller = Controller::start(&bed, &polling_faster()).await?;
    bed.expect_no_roll(&controller, &[(&many, None), (&neighbour, None)]).await?;

    bed.rotate("tenants/healthy").await?;
    bed.cluster.wait_for_count(&neighbour, 1, SOON).await?;
    bed.rotate(&paths[REFERENCES - 1]).await?;
    let state = bed.cluster.wait_for_count(&many, 1, SOON).await?;
    let record = state.record().context("no record")?;
    assert_eq!(record["secrets"].as_object().map(serde_json::Map::len), Some(REFERENCES));
    bed.expect_no_roll(&controller, &[(&many, Some(1)), (&neighbour, Some(1))]).await?;
    let lines = controller
        .lines_matching(|line| line.contains("level=warn") || line.contains("level=error"));
    assert!(lines.is_empty(), "{lines:#?}");
    Ok(())
}
