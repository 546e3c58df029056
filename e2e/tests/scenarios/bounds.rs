//! Huge things, and servers that stream for ever: memory stays flat, and the others go on.

use std::time::Duration;

use anyhow::Result;
use e2e::gateway::{Endless, Gateway};
use e2e::scenario::{
    AT_ONCE, SOON, deployment_without_pods as deployment, just_after_a_poll, polling_fast,
};
use e2e::workload::RECORD;
use e2e::{Bed, Controller, ControllerOptions, Workload, eventually};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

e2e::scenarios! {
    a_secret_with_a_thousand_versions_is_read_as_any_other,
    a_workload_with_a_thousand_references_rolls_once_a_change: long,
    annotations_as_large_as_they_may_be_stop_nobody: long,
    a_vault_that_streams_for_ever_holds_up_nobody,
    an_answer_to_a_login_without_an_end_is_an_error_as_any_other,
    an_api_server_that_streams_for_ever_holds_up_nobody: long,
}

/// The most that the controller may ever hold. It takes about 18 MB at rest; 65 MB were seen beside
/// workloads whose pages are too long, and 45 MB beside an API server that streams for ever.
const MOST: u64 = 100 << 20;

/// The most that it may ever hold where nothing but Vault, or a single large object, is odd: 42 MB were
/// seen.
const LITTLE: u64 = 60 << 20;

fn assert_memory(controller: &Controller, most: u64) -> Result<()> {
    let (_, peak) = controller.memory()?;
    assert!(peak < most, "{} kB; {}", peak >> 10, controller.last_lines());
    Ok(())
}

/// Rotates a secret, and sees its one workload roll `times` times in all.
async fn still_rolls(
    bed: &Bed,
    controller: &Controller,
    secret: &str,
    workload: &Workload,
    times: i64,
) -> Result<()> {
    bed.rotate(secret).await?;
    let rolled = bed.cluster.wait_for_count(workload, times, SOON).await;
    assert!(rolled.is_ok(), "{:?}; {}", rolled.err(), controller.last_lines());
    Ok(())
}

async fn a_secret_with_a_thousand_versions_is_read_as_any_other() -> Result<()> {
    let bed = Bed::for_many_secrets().await?;
    let kv = bed.vault.kv("secret");
    kv.put_metadata("huge", json!({ "max_versions": 1_000 })).await?;
    // The server writes all versions anew with each: more of them are a matter for tests/poller/main.rs.
    stream::iter(0..1_000)
        .map(|number| kv.put("huge", json!({ "k": number })))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    bed.write_secrets(&["beside"]).await?;
    let (huge, beside) = (deployment("huge", "huge"), deployment("beside", "beside"));
    bed.deploy_all(&[&huge, &beside]).await?;
    let controller = Controller::start(&bed, &polling_fast()).await?;
    just_after_a_poll(&controller).await?;

    bed.rotate("huge").await?;
    bed.rotate("beside").await?;
    bed.expect_rolls(&controller, &[&huge, &beside], 1).await?;
    assert_memory(&controller, LITTLE)
}

async fn a_workload_with_a_thousand_references_rolls_once_a_change() -> Result<()> {
    let bed = Bed::for_many_secrets().await?;
    let kv = bed.vault.kv("secret");
    let path = |number: usize| format!("many/{number}");
    stream::iter(0..1000)
        .map(|number| {
            let kv = &kv;
            async move { kv.put(&path(number), json!({ "k": "1" })).await }
        })
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    bed.write_secrets(&["beside"]).await?;
    let mut many = Workload::deployment("default", "many").replicas(0).opted_in();
    for number in 0..1000 {
        many = many.env(&format!("A{number}"), &format!("vault:secret/data/{}#k", path(number)));
    }
    let beside = deployment("beside", "beside");
    bed.deploy_all(&[&many, &beside]).await?;
    // A poll of a thousand secrets takes half a second or more; what is rotated must fit between two.
    let options = ControllerOptions::new().flag("--reloader-run-period", "5s");
    let controller = Controller::start(&bed, &options).await?;
    just_after_a_poll(&controller).await?;

    for number in [0, 500, 999] {
        bed.rotate(&path(number)).await?;
    }
    bed.rotate("beside").await?;
    bed.expect_rolls(&controller, &[&many, &beside], 1).await?;
    let state = bed.cluster.get(&many).await?;
    let record = state.object["metadata"]["annotations"][RECORD].as_str().unwrap_or_default();
    let entries =
        serde_json::from_str::<Value>(record)?["secrets"].as_object().map(serde_json::Map::len);
    assert_eq!(entries, Some(1000));
    assert!(record.len() < 40_000, "{} bytes of 256 KiB", record.len());
    // The next change is judged by that record.
    just_after_a_poll(&controller).await?;
    bed.rotate(&path(7)).await?;
    bed.expect_rolls(&controller, &[&many], 2).await?;
    assert_memory(&controller, LITTLE)
}

async fn annotations_as_large_as_they_may_be_stop_nobody() -> Result<()> {
    const LIMIT: usize = 256 << 10;
    let bed = Bed::shared().await?;
    bed.write_secrets(&["large", "full", "beside"]).await?;
    let with = |name: &str, bytes: usize| {
        deployment(name, name).annotation("x/filler", &"x".repeat(bytes))
    };
    let large = with("large", 250 << 10);
    // Its ReplicaSet's three short annotations fit beside this, and the record does not.
    let full = with("full", LIMIT - 200);
    let beside = deployment("beside", "beside");
    // A page of these is longer than any answer that is read.
    let crowd: Vec<Workload> =
        (0..80).map(|number| with(&format!("crowd-{number}"), 250 << 10)).collect();
    let everybody: Vec<&Workload> = crowd.iter().chain([&large, &full, &beside]).collect();
    bed.deploy_all(&everybody).await?;
    let controller = Controller::start(&bed, &polling_fast()).await?;
    controller.wait_for("Listing deployments, ", SOON).await?;
    just_after_a_poll(&controller).await?;

    for secret in ["large", "full", "beside"] {
        bed.rotate(secret).await?;
    }
    bed.expect_rolls(&controller, &[&large, &beside], 1).await?;
    let said = "failed reloading workload: default/Deployment/full";
    let line = controller.wait_for(said, SOON).await?.text;
    assert!(line.len() < 1000, "{line}");
    assert_eq!(bed.cluster.get(&full).await?.count(), None);
    assert_memory(&controller, MOST)
}

async fn a_vault_that_streams_for_ever_holds_up_nobody() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["endless", "trickle", "beside"]).await?;
    let workloads = ["endless", "trickle", "beside"].map(|name| deployment(name, name));
    bed.deploy_all(&workloads.each_ref()).await?;
    let [endless, trickle, beside] = &workloads;
    let gateway = Gateway::before(bed.vault.address(), None).await?;
    let options =
        polling_fast().env("VAULT_ADDR", gateway.address()).env("VAULT_CLIENT_TIMEOUT", "2s");
    let controller = Controller::start(&bed, &options).await?;
    just_after_a_poll(&controller).await?;

    gateway.stream("metadata/endless", Endless::fast(r#"{"data":{"x":""#, "x"));
    gateway.stream("metadata/trickle", Endless::slow(r#"{"data":"#));
    for secret in ["endless", "trickle"] {
        controller
            .wait_for(
                &format!("failed to get secret version: secret/data/{secret}: Vault gives an answer that does not end"),
                SOON,
            )
            .await?;
        bed.rotate(secret).await?;
    }
    still_rolls(&bed, &controller, "beside", beside, 1).await?;
    // The token is looked up with a bound as well.
    eventually("many answers without an end", SOON, || async {
        Ok((gateway.streamed() > 10).then_some(()))
    })
    .await?;
    assert_memory(&controller, LITTLE)?;

    gateway.mend();
    bed.expect_rolls(&controller, &[endless, trickle, beside], 1).await
}

async fn an_answer_to_a_login_without_an_end_is_an_error_as_any_other() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["beside"]).await?;
    let beside = deployment("beside", "beside");
    bed.deploy_all(&[&beside]).await?;
    let gateway = Gateway::before(bed.vault.address(), None).await?;
    gateway.stream("auth/token/lookup-self", Endless::fast(r#"{"data":{"id":""#, "x"));
    let options = polling_fast().env("VAULT_ADDR", gateway.address());
    let controller = Controller::start(&bed, &options).await?;
    controller.wait_for("Vault gives an answer that does not end", SOON).await?;
    eventually("some logins", SOON, || async { Ok((gateway.streamed() > 3).then_some(())) })
        .await?;
    assert_memory(&controller, LITTLE)?;
    gateway.mend();
    just_after_a_poll(&controller).await?;
    still_rolls(&bed, &controller, "beside", &beside, 1).await
}

async fn an_api_server_that_streams_for_ever_holds_up_nobody() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["endless", "beside"]).await?;
    let endless = deployment("endless", "endless");
    let beside = Workload::stateful_set("default", "beside")
        .replicas(0)
        .opted_in()
        .env("A", "vault:secret/data/beside#k");
    bed.deploy_all(&[&endless, &beside]).await?;
    let gateway = Gateway::before(&bed.cluster.address(), Some(bed.cluster.ca())).await?;
    let options = polling_fast()
        .env("KUBECONFIG", bed.reloader_kubeconfig_at(gateway.address())?)
        .flag("--collector-sync-period", "2s");
    let controller = Controller::start(&bed, &options).await?;
    just_after_a_poll(&controller).await?;

    // A line of a watch, then a page of a list, that has no end; a watch that ends at once.
    let list = "deployments?&limit=";
    let watch = "deployments?&watch=true";
    let attempts = [
        (watch, Endless::fast(r#"{"type":"ADDED","object":{"x":""#, "x"), 1),
        (list, Endless::fast(r#"{"items":[{"x":""#, "x"), 2),
        (list, Endless::slow(r#"{"items":["#), 3),
    ];
    for (target, answer, times) in attempts {
        let seen = controller.lines().len();
        gateway.stream(target, answer);
        controller.wait_for_after(seen, "Cannot watch deployments", Duration::from_mins(1)).await?;
        still_rolls(&bed, &controller, "beside", &beside, times).await?;
        // What is known of the others is kept.
        bed.rotate("endless").await?;
        bed.cluster.wait_for_count(&endless, times, SOON).await?;
        assert_memory(&controller, MOST)?;
        gateway.mend();
        controller
            .wait_for_after(seen, "Watching deployments again", Duration::from_mins(1))
            .await?;
    }
    Ok(())
}
