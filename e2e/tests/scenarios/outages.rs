//! Outages of Vault and of the API server: the controller lives on, says so once, asks little, ends
//! when it is told to, and misses no change.

use std::time::Duration;

use anyhow::Result;
use e2e::proxy::Proxy;
use e2e::scenario::{SOON, deployment_without_pods as deployment, just_after_a_poll, polling_fast};
use e2e::{Bed, Controller, Workload, eventually};

e2e::scenarios! {
    a_sealed_vault_costs_a_request_a_poll_and_one_line,
    a_rotation_while_vault_is_out_of_reach_is_rolled_once,
    a_vault_that_was_killed_is_asked_again_once_it_is_back,
    a_vault_that_never_answers_does_not_hold_the_controller,
    a_rotation_while_the_api_server_is_down_is_rolled_once,
    an_api_server_that_is_killed_under_way_loses_and_doubles_nothing,
    an_api_server_that_never_answers_does_not_hold_the_controller,
}

/// How long the controller may take to end, whatever hangs.
const END_WITHIN: Duration = Duration::from_secs(2);

/// How the line begins that an outage of Vault is said by.
const OUTAGE: &str = "level=error msg=\"failed to get secret version: ";

/// The controller lives and does not ask to be restarted.
async fn assert_healthy(controller: &Controller) -> Result<()> {
    for path in ["/", "/healthz", "/readyz"] {
        let answer = controller.probe(path).await?;
        assert_eq!(answer.status, 200, "{path}: {}; {}", answer.body, controller.last_lines());
    }
    Ok(())
}

async fn assert_ends_in_time(controller: &mut Controller) -> Result<()> {
    let (status, took) = controller.terminate().await?;
    assert!(status.success(), "{status}; {}", controller.last_lines());
    assert!(took < END_WITHIN, "took {took:?}; {}", controller.last_lines());
    Ok(())
}

/// Starts the controllers of the kinds anew: after an outage of the API server they wait up to half
/// a minute before they ask again, and the next test would wait with them.
async fn renew_controllers(bed: &Bed) -> Result<()> {
    bed.controller_manager.kill();
    bed.controller_manager.start().await
}

fn outages(controller: &Controller) -> Vec<String> {
    controller.lines_with(OUTAGE).into_iter().map(|line| line.text).collect()
}

async fn a_sealed_vault_costs_a_request_a_poll_and_one_line() -> Result<()> {
    const POLLS: usize = 4;
    let bed = Bed::shared().await?;
    let secrets: Vec<String> = (0..20).map(|number| format!("sealed/{number}")).collect();
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    bed.write_secrets(&secrets).await?;
    let workloads: Vec<Workload> =
        secrets.iter().map(|secret| deployment(&secret.replace('/', "-"), secret)).collect();
    let workloads: Vec<&Workload> = workloads.iter().collect();
    bed.deploy_all(&workloads).await?;
    let proxy = Proxy::before(&bed.vault).await?;
    let options = polling_fast().env("VAULT_ADDR", proxy.address());
    let controller = Controller::start(&bed, &options).await?;
    just_after_a_poll(&controller).await?;

    bed.vault.seal().await?;
    controller.wait_for(OUTAGE, SOON).await?;
    let (before, polls) = (proxy.requests(), controller.polls());
    controller.wait_for_polls(POLLS, SOON).await?;
    let (asked, polls) = (proxy.requests() - before, controller.polls() - polls);
    assert!(asked <= polls + 1, "{asked} requests in {polls} polls");
    assert_eq!(outages(&controller).len(), 1, "{:#?}", outages(&controller));
    assert_healthy(&controller).await?;

    bed.vault.unseal().await?;
    controller.wait_for("answers again", SOON).await?;
    bed.rotate("sealed/7").await?;
    bed.expect_rolls(&controller, &workloads[7..8], 1).await?;
    let others: Vec<_> = workloads
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != 7)
        .map(|(_, w)| (*w, None))
        .collect();
    bed.expect_no_roll(&controller, &others).await?;
    assert_eq!(outages(&controller).len(), 1, "{:#?}", outages(&controller));
    Ok(())
}

async fn a_rotation_while_vault_is_out_of_reach_is_rolled_once() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["unreachable/a", "unreachable/b"]).await?;
    let a = deployment("a", "unreachable/a");
    let both = deployment("both", "unreachable/a").env("B", "vault:secret/data/unreachable/b#k");
    bed.deploy_all(&[&a, &both]).await?;
    let proxy = Proxy::before(&bed.vault).await?;
    let options = polling_fast().env("VAULT_ADDR", proxy.address());
    let mut controller = Controller::start(&bed, &options).await?;
    just_after_a_poll(&controller).await?;

    proxy.cut();
    controller.wait_for(OUTAGE, SOON).await?;
    bed.rotate("unreachable/a").await?;
    bed.rotate("unreachable/b").await?;
    bed.expect_no_roll(&controller, &[(&a, None), (&both, None)]).await?;
    assert_healthy(&controller).await?;
    let (before, polls) = (proxy.connections(), controller.polls());
    controller.wait_for_polls(4, SOON).await?;
    let (made, polls) = (proxy.connections() - before, controller.polls() - polls);
    // One for a secret, and one for the server's own status: a secret that fails alone is no outage.
    assert!((1..=2 * (polls + 1)).contains(&made), "{made} connections in {polls} polls");
    proxy.mend();
    bed.expect_rolls(&controller, &[&a, &both], 1).await?;

    // The same with a start in the midst of it: nobody has seen the version before.
    proxy.cut();
    controller.restart().await?;
    controller.wait_for(OUTAGE, SOON).await?;
    bed.rotate("unreachable/a").await?;
    bed.expect_no_roll(&controller, &[(&a, Some(1)), (&both, Some(1))]).await?;
    assert_healthy(&controller).await?;
    proxy.mend();
    bed.expect_rolls(&controller, &[&a, &both], 2).await
}

async fn a_vault_that_was_killed_is_asked_again_once_it_is_back() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["killed/a", "killed/b"]).await?;
    let (a, b) = (deployment("a", "killed/a"), deployment("b", "killed/b"));
    bed.deploy_all(&[&a, &b]).await?;
    let controller = Controller::start(&bed, &polling_fast()).await?;
    just_after_a_poll(&controller).await?;

    bed.vault_server.kill();
    controller.wait_for(OUTAGE, SOON).await?;
    controller.wait_for_polls(2, SOON).await?;
    assert_healthy(&controller).await?;
    bed.vault_server.start().await?;
    bed.rotate("killed/a").await?;
    bed.expect_rolls(&controller, &[&a], 1).await?;
    assert_eq!(bed.counts(&[&b]).await?, [None]);
    Ok(())
}

async fn a_vault_that_never_answers_does_not_hold_the_controller() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["hung/a"]).await?;
    let a = deployment("a", "hung/a");
    bed.deploy_all(&[&a]).await?;
    // With the default time-out of ten seconds, so that nothing but the signal ends the wait.
    let mut controller = Controller::start(&bed, &polling_fast()).await?;
    just_after_a_poll(&controller).await?;
    bed.vault_server.pause()?;
    let seen = controller.lines().len();
    controller.wait_for_after(seen, "Reloader started", SOON).await?;
    assert_healthy(&controller).await?;
    assert_ends_in_time(&mut controller).await?;

    // Started in front of a server that hangs, it is as ready, and ends as fast.
    controller.restart().await?;
    controller.wait_for("Reloader started", SOON).await?;
    assert_healthy(&controller).await?;
    assert_ends_in_time(&mut controller).await?;

    // And it goes on when the server does.
    bed.vault_server.resume().await?;
    let options = polling_fast().env("VAULT_CLIENT_TIMEOUT", "1s");
    let controller = Controller::start(&bed, &options).await?;
    just_after_a_poll(&controller).await?;
    bed.vault_server.pause()?;
    controller.wait_for(OUTAGE, SOON).await?;
    assert_healthy(&controller).await?;
    bed.vault_server.resume().await?;
    bed.rotate("hung/a").await?;
    bed.expect_rolls(&controller, &[&a], 1).await?;
    assert_eq!(outages(&controller).len(), 1, "{:#?}", outages(&controller));
    Ok(())
}

async fn a_rotation_while_the_api_server_is_down_is_rolled_once() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["no-api/a", "no-api/b"]).await?;
    let (a, b) = (deployment("a", "no-api/a"), deployment("b", "no-api/b"));
    bed.deploy_all(&[&a, &b]).await?;
    let controller = Controller::start(&bed, &polling_fast()).await?;
    just_after_a_poll(&controller).await?;

    bed.api_server.stop().await?;
    bed.rotate("no-api/a").await?;
    let line = controller.wait_for("failed reloading workload: default/Deployment/a", SOON).await?;
    assert!(line.text.contains("level=error"), "{}", line.text);
    // It knows what it knew: it is as ready as before.
    assert_healthy(&controller).await?;
    bed.api_server.start().await?;
    bed.expect_rolls(&controller, &[&a], 1).await?;
    assert_eq!(bed.counts(&[&b]).await?, [None]);
    bed.rotate("no-api/b").await?;
    bed.expect_rolls(&controller, &[&a, &b], 1).await?;
    renew_controllers(&bed).await
}

async fn an_api_server_that_is_killed_under_way_loses_and_doubles_nothing() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["api-killed/a"]).await?;
    let workloads: Vec<Workload> =
        (0..40).map(|number| deployment(&format!("w{number}"), "api-killed/a")).collect();
    let workloads: Vec<&Workload> = workloads.iter().collect();
    bed.deploy_all(&workloads).await?;
    let controller = Controller::start(&bed, &polling_fast()).await?;
    just_after_a_poll(&controller).await?;
    bed.rotate("api-killed/a").await?;
    eventually("the first reloads", SOON, || async {
        Ok((controller.lines_with("Reloading workload: ").len() > 8).then_some(()))
    })
    .await?;
    bed.api_server.kill();
    bed.api_server.start().await?;
    bed.expect_rolls(&controller, &workloads, 1).await?;
    renew_controllers(&bed).await
}

async fn an_api_server_that_never_answers_does_not_hold_the_controller() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["api-hung/a"]).await?;
    let a = deployment("a", "api-hung/a");
    bed.deploy_all(&[&a]).await?;
    let mut controller = Controller::start(&bed, &polling_fast()).await?;
    just_after_a_poll(&controller).await?;
    bed.api_server.pause()?;
    bed.rotate("api-hung/a").await?;
    // A PATCH is in flight, and nobody will ever know what became of it.
    controller.wait_for("Reloading workload: default/Deployment/a", SOON).await?;
    assert_healthy(&controller).await?;
    assert_ends_in_time(&mut controller).await?;

    // A start in front of it is told to end before it is ready.
    let mut early = Controller::spawn(&bed, &polling_fast()).await?;
    early.wait_for("msg=Starting", SOON).await?;
    assert_ends_in_time(&mut early).await?;

    bed.api_server.resume().await?;
    controller.restart().await?;
    bed.expect_rolls(&controller, &[&a], 1).await
}
