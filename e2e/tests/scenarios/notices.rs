//! What the owners of workloads are told of their references: log lines, Events and a count.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use e2e::scenario::{SOON, polling_faster};
use e2e::{Bed, Controller, ControllerOptions, Workload, eventually};

e2e::scenarios! {
    each_reason_is_an_event_on_the_workload_once,
    without_events_the_log_says_it_all,
}

const NAMESPACE: &str = "told";

/// How many workloads `/metrics` tells of, by reason.
async fn counted(controller: &Controller) -> Result<BTreeMap<String, u64>> {
    let answer = controller.probe("/metrics").await?;
    ensure!(answer.body.ends_with("# EOF\n"), "no OpenMetrics: {}", answer.body);
    let prefix = "vault_secrets_reloader_notices{reason=\"";
    let lines = answer.body.lines().filter_map(|line| Some((line, line.strip_prefix(prefix)?)));
    let of = |rest: &str| {
        let (reason, count) = rest.split_once("\"} ")?;
        Some((reason.to_owned(), count.parse().ok()?))
    };
    lines.map(|(line, rest)| of(rest).with_context(|| line.to_owned())).collect()
}

async fn each_reason_is_an_event_on_the_workload_once() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace(NAMESPACE).await?;
    bed.write_secrets(&["told/a"]).await?;
    let new = |name: &str| Workload::deployment(NAMESPACE, name).opted_in();
    let workloads = [
        new("good").env("A", "vault:secret/data/told/a#k"),
        new("odd")
            .env("A", "vault:secret/data/told/a")
            .env("B", "vault:secret/data/told/b")
            .env("C", "vault:secret/data/told/a#k#1")
            .env("D", "{\"a\":${vault:secret/data/told/a#k}}"),
        new("misspelt").env("A", "vault:secret/told/a#k"),
        new("dynamic").env("A", "vault:sys/creds/reader#password"),
        new("missing").env("A", "vault:secret/data/told/none#k"),
        Workload::deployment(NAMESPACE, "not-opted-in").env("A", "vault:secret/data/told/a"),
    ];
    bed.deploy_all(&workloads.each_ref()).await?;
    let expected = [
        ("dynamic", vec!["Warning OtherEngine"]),
        ("misspelt", vec!["Warning MissingData"]),
        ("missing", vec!["Warning NotFound"]),
        ("odd", vec!["Normal Pinned", "Warning BraceInKey", "Warning NoKey"]),
    ]
    .map(|(name, reasons)| (name.to_owned(), reasons.into_iter().map(str::to_owned).collect()));
    let expected: BTreeMap<String, Vec<String>> = expected.into_iter().collect();

    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    eventually("the Events", SOON, || async {
        Ok((bed.events(NAMESPACE).await? == expected).then_some(()))
    })
    .await?;
    controller.wait_for_polls(2, SOON).await?;
    // Each is counted for the workload, whatever the number of references.
    let count = |reason: &str| (reason.to_owned(), 1);
    let reasons = ["BraceInKey", "MissingData", "NoKey", "NotFound", "OtherEngine", "Pinned"];
    assert_eq!(counted(&controller).await?, reasons.map(count).into_iter().collect());

    // Started anew, or beside another replica, it says the same to nobody again.
    controller.restart().await?;
    let beside = Controller::start(&bed, &polling_faster()).await?;
    controller.wait_for_polls(3, SOON).await?;
    beside.wait_for_polls(3, SOON).await?;
    assert_eq!(bed.events(NAMESPACE).await?, expected);
    // Each is one of a series from then on.
    let path = format!("/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events");
    eventually("series of Events", SOON, || async {
        let list = bed.cluster.get_path(&path).await?;
        let events = list["items"].as_array().into_iter().flatten();
        let mut ours = events.filter(|e| e["reportingController"] == "vault-secrets-reloader");
        Ok(ours.all(|event| event["series"]["count"].as_i64() >= Some(2)).then_some(()))
    })
    .await?;

    // What is mended is over, and comes back as something new only where it is said in other words.
    bed.write_secrets(&["told/none"]).await?;
    controller.wait_for("told/none can be read again", SOON).await?;
    let not_found = async |count| {
        eventually("another count", SOON, || async {
            Ok((counted(&controller).await?.get("NotFound").copied() == count).then_some(()))
        })
        .await
    };
    not_found(None).await?;
    bed.vault.kv("secret").delete_metadata("told/none").await?;
    not_found(Some(1)).await?;
    // The workload was reloaded for the secret that came, which is told by Events of its own.
    let mut events = bed.events(NAMESPACE).await?;
    for reasons in events.values_mut() {
        reasons
            .retain(|reason| !["Normal Reloaded", "Normal RolloutComplete"].contains(&&**reason));
    }
    assert_eq!(events, expected);
    Ok(())
}

async fn without_events_the_log_says_it_all() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("silent").await?;
    let odd = Workload::deployment("silent", "odd").opted_in().env("A", "vault:secret/data/a");
    bed.deploy_all(&[&odd]).await?;
    let options: ControllerOptions = polling_faster().switch("--record-events=false");
    let controller = Controller::start(&bed, &options).await?;
    controller.wait_for("silent/Deployment/odd: variable A of container app: no key", SOON).await?;
    controller.wait_for_polls(3, SOON).await?;
    assert!(bed.events("silent").await?.is_empty());
    assert_eq!(counted(&controller).await?.get("NoKey"), Some(&1));
    Ok(())
}
