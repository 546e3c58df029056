//! Nothing missed and nothing doubled, whatever happened to the controller: stopped, killed,
//! restarted, started twice.

use anyhow::Result;
use e2e::gateway::Gateway;
use e2e::scenario::{SOON, just_after_a_poll, next_second, polling_fast};
use e2e::{Bed, Controller, Workload, eventually};

e2e::scenarios! {
    a_change_while_it_was_down_is_rolled_once_after_its_start,
    two_restarts_roll_nothing,
    what_is_deployed_after_a_change_is_left_alone,
    killed_in_the_middle_of_reloading_sixty_it_reloads_each_once,
    two_controllers_at_once_roll_each_workload_once,
    many_workloads_cost_few_requests,
}

fn deployment(name: &str, secret: &str) -> Workload {
    Workload::deployment("default", name)
        .opted_in()
        .env("A", &format!("vault:secret/data/{secret}#k"))
}

/// One of each kind, all of them using one secret.
fn one_of_each_kind(secret: &str) -> [Workload; 3] {
    let value = format!("vault:secret/data/{secret}#k");
    [
        Workload::deployment("default", "deployment"),
        Workload::stateful_set("default", "stateful-set"),
        Workload::daemon_set("default", "daemon-set"),
    ]
    .map(|workload| workload.opted_in().env("A", &value))
}

/// Many Deployments without pods: their rollouts cost the bed next to nothing.
fn many(count: usize, secret: &str) -> Vec<Workload> {
    (0..count).map(|number| deployment(&format!("w{number}"), secret).replicas(0)).collect()
}

fn refs(workloads: &[Workload]) -> Vec<&Workload> {
    workloads.iter().collect()
}

async fn a_change_while_it_was_down_is_rolled_once_after_its_start() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["down/changed"]).await?;
    let workloads = one_of_each_kind("down/changed");
    bed.deploy_all(&refs(&workloads)).await?;
    let mut controller = Controller::start(&bed, &polling_fast()).await?;
    just_after_a_poll(&controller).await?;
    let (status, _) = controller.terminate().await?;
    assert!(status.success(), "{status}");
    bed.rotate("down/changed").await?;

    controller.restart().await?;
    bed.expect_rolls(&controller, &refs(&workloads), 1).await?;
    for workload in &workloads {
        let line = format!("Reloading workload: {}\"", workload.name());
        let lines = controller.lines_with(&line);
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert!(lines[0].text.contains("cause=found"), "{lines:#?}");
        bed.cluster.wait_rolled_out(workload).await?;
        assert_eq!(bed.cluster.revisions(workload).await?.len(), 2, "{}", workload.name());
    }
    Ok(())
}

async fn two_restarts_roll_nothing() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["down/kept", "down/never-changed"]).await?;
    let rolled = one_of_each_kind("down/kept");
    let untouched = deployment("untouched", "down/never-changed");
    let mut all = refs(&rolled);
    all.push(&untouched);
    bed.deploy_all(&all).await?;
    let mut controller = Controller::start(&bed, &polling_fast()).await?;
    just_after_a_poll(&controller).await?;
    bed.rotate("down/kept").await?;
    bed.expect_rolls(&controller, &refs(&rolled), 1).await?;
    for workload in &all {
        bed.cluster.wait_rolled_out(workload).await?;
    }
    let before = bed.mark().await?;
    for _ in 0..2 {
        controller.restart().await?;
        let mut expected: Vec<_> = rolled.iter().map(|workload| (workload, Some(1))).collect();
        expected.push((&untouched, None));
        bed.expect_no_roll(&controller, &expected).await?;
    }
    let requests = bed.requests_beyond_the_start(&before).await?;
    assert!(requests.iter().all(|request| request.verb != "patch"), "{requests:#?}");
    bed.expect_no_value_touched(&before)
}

async fn what_is_deployed_after_a_change_is_left_alone() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["down/older"]).await?;
    let [before, during, after] =
        ["before", "during", "after"].map(|name| deployment(name, "down/older"));
    bed.deploy_all(&[&before]).await?;
    let mut controller = Controller::start(&bed, &polling_fast()).await?;
    just_after_a_poll(&controller).await?;

    // While it runs: what comes after the change has it.
    bed.rotate("down/older").await?;
    next_second().await?;
    bed.deploy_all(&[&during]).await?;
    bed.expect_rolls(&controller, &[&before], 1).await?;
    assert_eq!(bed.counts(&[&during]).await?, [None]);

    // While it is down: the same, though nobody has seen the change.
    controller.terminate().await?;
    bed.rotate("down/older").await?;
    next_second().await?;
    bed.deploy_all(&[&after]).await?;
    controller.restart().await?;
    bed.expect_rolls(&controller, &[&before], 2).await?;
    assert_eq!(bed.counts(&[&during, &after]).await?, [Some(1), None]);

    // And what was redeployed after the change, not for the first time.
    controller.terminate().await?;
    bed.rotate("down/older").await?;
    next_second().await?;
    bed.deploy_all(&[&after.clone().env("B", "c")]).await?;
    controller.restart().await?;
    bed.expect_rolls(&controller, &[&before], 3).await?;
    assert_eq!(bed.counts(&[&during, &after]).await?, [Some(2), None]);
    Ok(())
}

async fn killed_in_the_middle_of_reloading_sixty_it_reloads_each_once() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["down/killed"]).await?;
    let workloads = many(60, "down/killed");
    let workloads = refs(&workloads);
    bed.deploy_all(&workloads).await?;
    let gateway = Gateway::before(&bed.cluster.address(), Some(bed.cluster.ca())).await?;
    let options = polling_fast().env("KUBECONFIG", bed.reloader_kubeconfig_at(gateway.address())?);
    let mut controller = Controller::start(&bed, &options).await?;
    just_after_a_poll(&controller).await?;

    // Of each round, so many PATCHes are answered before it is killed; of `unanswered` more it does
    // not learn that they were done, and others are on their way.
    let unanswered = 3;
    for (round, answered) in [(1, 0), (2, 20), (3, 56)] {
        let held = gateway.held();
        gateway.hold_patches(answered, unanswered);
        bed.rotate("down/killed").await?;
        eventually("the PATCHes that pass, and one that is held", SOON, || async {
            if gateway.held() == held {
                return Ok(None);
            }
            let counts = bed.counts(&workloads).await?;
            let done = counts.iter().filter(|count| **count == Some(round)).count();
            Ok((done == answered + unanswered).then_some(()))
        })
        .await?;
        controller.kill();
        gateway.mend();
        controller.restart().await?;
        bed.expect_rolls(&controller, &workloads, round).await?;
    }
    Ok(())
}

async fn two_controllers_at_once_roll_each_workload_once() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["down/two"]).await?;
    let workloads = many(30, "down/two");
    let workloads = refs(&workloads);
    bed.deploy_all(&workloads).await?;
    let mut one = Controller::start(&bed, &polling_fast()).await?;
    let mut other = Controller::start(&bed, &polling_fast()).await?;
    tokio::try_join!(just_after_a_poll(&one), just_after_a_poll(&other))?;
    let before = bed.mark().await?;
    for times in 1..=2 {
        bed.rotate("down/two").await?;
        let by = |controller| bed.expect_rolls(controller, &workloads, times);
        tokio::try_join!(by(&one), by(&other))?;
    }
    // Seen by neither while it happened: both find it, by the clock, at the same time.
    tokio::try_join!(one.terminate(), other.terminate())?;
    bed.rotate("down/two").await?;
    tokio::try_join!(one.restart(), other.restart())?;
    let by = |controller| bed.expect_rolls(controller, &workloads, 3);
    tokio::try_join!(by(&one), by(&other))?;

    let requests = bed.requests_beyond_the_start(&before).await?;
    let written = requests.iter().filter(|r| r.patches_workload() && r.code == 200).count();
    assert_eq!(written, 3 * workloads.len());
    let refused = requests.iter().filter(|r| r.patches_workload() && r.code != 200);
    for request in refused {
        assert_eq!(request.code, 409, "{request:?}");
    }
    Ok(())
}

async fn many_workloads_cost_few_requests() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["down/many"]).await?;
    let mut workloads = many(50, "down/many");
    workloads.extend(one_of_each_kind("down/many"));
    let workloads = refs(&workloads);
    bed.deploy_all(&workloads).await?;
    let before = bed.mark().await?;
    let controller = Controller::start(&bed, &polling_fast()).await?;
    controller.wait_for_polls(2, SOON).await?;
    // Nothing is known at the first start but what the clock says: one LIST serves all.
    let requests = bed.requests_beyond_the_start(&before).await?;
    let lists = |resource: &str| {
        requests.iter().filter(|r| r.verb == "list" && r.resource == resource).count()
    };
    assert_eq!(lists("replicasets"), 1, "{requests:#?}");
    assert_eq!(lists("controllerrevisions"), 1, "{requests:#?}");
    assert_eq!(requests.len(), 2, "{requests:#?}");

    // What changes under its eyes is known to have changed.
    just_after_a_poll(&controller).await?;
    let before = bed.mark().await?;
    bed.rotate("down/many").await?;
    bed.expect_rolls(&controller, &workloads, 1).await?;
    let requests = bed.requests_beyond_the_start(&before).await?;
    let looked: Vec<_> = requests.iter().filter(|request| request.verb == "list").collect();
    assert!(looked.is_empty(), "{looked:#?}");
    let patches = requests.iter().filter(|r| r.patches_workload() && r.code == 200).count();
    assert_eq!(patches, workloads.len());
    let causes = controller.lines_with("Reloading workload: ");
    assert!(causes.iter().all(|line| line.text.contains("cause=witnessed")), "{causes:#?}");
    bed.expect_no_value_touched(&before)
}
