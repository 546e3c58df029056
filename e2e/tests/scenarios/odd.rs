//! Workloads whose controllers do not simply make all pods anew: each is reloaded once a rotation, as
//! its controller allows, and what there is to know of that is said once.

use anyhow::{Context as _, Result};
use e2e::scenario::{SOON, next_second, polling_faster};
use e2e::{Bed, Controller, Generation, Kind, Mark, Workload, WorkloadName, eventually};
use serde_json::{Value, json};

e2e::scenarios! {
    a_paused_deployment_is_reloaded_once_and_rolls_when_it_is_resumed,
    a_deployment_that_was_created_paused_waits_and_is_not_reloaded_in_vain,
    who_renews_pods_on_delete_is_reloaded_once_and_told_so,
    a_partition_is_kept_and_what_is_below_it_follows_when_it_is_lowered,
    who_has_no_pods_is_reloaded_once_like_any_other,
    who_has_no_revision_of_its_own_is_reloaded_all_the_same,
    what_is_being_deleted_is_left_alone_and_that_is_said_once,
}

const RELOADING: &str = "Reloading workload: ";

fn using(kind: Kind, namespace: &str, name: &str) -> Workload {
    let secret = format!("vault:secret/data/{namespace}/a#k");
    Workload::new(kind, namespace, name).opted_in().env("A", &secret)
}

/// A bed with a namespace, and a secret `a` below a path of the same name.
async fn prepare(bed: &Bed, namespace: &str) -> Result<()> {
    bed.cluster.create_namespace(namespace).await?;
    bed.write_secrets(&[&format!("{namespace}/a")]).await
}

/// What a user reads of a workload, from the line `seen` on.
fn said(controller: &Controller, seen: usize, workload: &WorkloadName) -> Vec<String> {
    let name = workload.to_string();
    let lines = controller.lines().into_iter().skip(seen).map(|line| line.text);
    lines.filter(|line| line.contains(&name) && !line.contains("level=debug")).collect()
}

/// Each workload was reloaded by one PATCH to have this count, and that was said, with a part of
/// the text that goes with it.
async fn expect_reloaded_once(
    bed: &Bed,
    controller: &Controller,
    (mark, seen): (&Mark, usize),
    cases: &[(&Workload, Option<&str>)],
    count: i64,
) -> Result<()> {
    for (workload, _) in cases {
        bed.cluster.wait_for_count(*workload, count, SOON).await?;
    }
    let counts: Vec<_> = cases.iter().map(|(workload, _)| (*workload, Some(count))).collect();
    bed.expect_no_roll(controller, &counts).await?;
    for (workload, text) in cases {
        assert_eq!(bed.reloads_since(mark, *workload).await?, 1, "{}", workload.name());
        let lines = said(controller, seen, workload.name());
        let (first, rest) = lines.split_first().context("nothing was said")?;
        assert!(first.contains(RELOADING), "{lines:#?}");
        assert_eq!(rest.len(), text.iter().len(), "{lines:#?}");
        assert!(rest.iter().zip(text).all(|(line, text)| line.contains(text)), "{lines:#?}");
    }
    Ok(())
}

/// A restart of the controller changes nothing, and nothing is said.
async fn expect_nothing_after_a_restart(
    bed: &Bed,
    controller: &mut Controller,
    cases: &[(&Workload, Option<&str>)],
    count: i64,
) -> Result<()> {
    let mark = bed.mark().await?;
    controller.restart().await?;
    let counts: Vec<_> = cases.iter().map(|(workload, _)| (*workload, Some(count))).collect();
    bed.expect_no_roll(controller, &counts).await?;
    for (workload, _) in cases {
        assert_eq!(bed.reloads_since(&mark, *workload).await?, 0, "{}", workload.name());
        assert_eq!(said(controller, 0, workload.name()), [""; 0]);
    }
    Ok(())
}

/// Rotates under way and while the controller is down, with a restart after each: the workloads of
/// the namespace are reloaded once a rotation, from this count on.
async fn expect_one_reload_a_rotation(
    bed: &Bed,
    controller: &mut Controller,
    cases: &[(&Workload, Option<&str>)],
    count: i64,
) -> Result<()> {
    let namespace = cases.first().map(|(workload, _)| workload.name().namespace.as_str());
    let path = format!("{}/a", namespace.context("no workload")?);
    let (mark, seen) = (bed.mark().await?, controller.lines().len());
    bed.rotate(&path).await?;
    expect_reloaded_once(bed, controller, (&mark, seen), cases, count)
        .await
        .context("the rotation under way")?;
    expect_nothing_after_a_restart(bed, controller, cases, count).await?;

    controller.terminate().await?;
    next_second().await?;
    let mark = bed.mark().await?;
    bed.rotate(&path).await?;
    controller.restart().await?;
    expect_reloaded_once(bed, controller, (&mark, 0), cases, count + 1)
        .await
        .context("the rotation while nobody watched")?;
    expect_nothing_after_a_restart(bed, controller, cases, count + 1).await
}

/// The reload count of each pod of a workload, by the pods' names.
async fn counts_of_pods(bed: &Bed, workload: &Workload) -> Result<Vec<Option<i64>>> {
    let WorkloadName { namespace, name, .. } = workload.name();
    let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector=app%3D{name}");
    let list = bed.cluster.get_path(&path).await?;
    let mut pods: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    pods.sort_by_key(|pod| pod["metadata"]["name"].as_str());
    let count = |pod: &&Value| {
        pod["metadata"]["annotations"][Generation::Current.count()].as_str()?.parse().ok()
    };
    Ok(pods.iter().map(count).collect())
}

async fn wait_for_pods(bed: &Bed, workload: &Workload, wanted: &[Option<i64>]) -> Result<()> {
    let what = format!("pods of {} with the counts {wanted:?}", workload.name());
    eventually(&what, SOON, || async {
        Ok((counts_of_pods(bed, workload).await? == wanted).then_some(()))
    })
    .await
}

async fn delete_pods(bed: &Bed, workload: &Workload) -> Result<()> {
    let WorkloadName { namespace, name, .. } = workload.name();
    let label = format!("app={name}");
    bed.kubectl(&["delete", "pods", "-n", namespace, "-l", &label]).await.map(drop)
}

const PAUSED: Option<&str> = Some("which is paused: its pods get the new version once");

async fn a_paused_deployment_is_reloaded_once_and_rolls_when_it_is_resumed() -> Result<()> {
    let bed = Bed::shared().await?;
    prepare(&bed, "paused").await?;
    let web = using(Kind::Deployment, "paused", "web").replicas(2);
    bed.deploy_all(&[&web]).await?;
    bed.cluster.patch(&web, &json!({"spec": {"paused": true}})).await?;
    // It was paused, and its secret changed, before anybody watched.
    next_second().await?;
    bed.rotate("paused/a").await?;
    let mark = bed.mark().await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    let cases = [(&web, PAUSED)];
    expect_reloaded_once(&bed, &controller, (&mark, 0), &cases, 1).await?;
    expect_nothing_after_a_restart(&bed, &mut controller, &cases, 1).await?;
    expect_one_reload_a_rotation(&bed, &mut controller, &cases, 2).await?;
    assert_eq!(bed.cluster.revisions(&web).await?.len(), 1);
    assert_eq!(counts_of_pods(&bed, &web).await?, [None, None]);

    bed.kubectl(&["rollout", "resume", "deployment/web", "-n", "paused"]).await?;
    bed.cluster.wait_rolled_out(&web).await?;
    wait_for_pods(&bed, &web, &[Some(3), Some(3)]).await?;
    bed.expect_no_roll(&controller, &[(&web, Some(3))]).await?;
    assert_eq!(said(&controller, 0, web.name()), [""; 0]);
    expect_one_reload_a_rotation(&bed, &mut controller, &[(&web, None)], 4).await?;
    wait_for_pods(&bed, &web, &[Some(5), Some(5)]).await
}

async fn a_deployment_that_was_created_paused_waits_and_is_not_reloaded_in_vain() -> Result<()> {
    let bed = Bed::shared().await?;
    prepare(&bed, "created").await?;
    let paused = json!(true);
    let idle = using(Kind::Deployment, "created", "idle").spec("paused", paused.clone());
    let web = using(Kind::Deployment, "created", "web").spec("paused", paused);
    bed.cluster.apply(&idle).await?;
    bed.cluster.apply(&web).await?;
    let untouched = [(&idle, None), (&web, None)];
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    for start in ["first", "second"] {
        for (workload, _) in &untouched {
            let line = format!("{} waits", workload.name());
            controller.wait_for(&line, SOON).await.context(start)?;
        }
        controller.wait_for_polls(8, SOON).await?;
        bed.expect_no_roll(&controller, &untouched).await.context(start)?;
        for (workload, _) in &untouched {
            let lines = said(&controller, 0, workload.name());
            assert_eq!(lines.len(), 1, "after the {start} start: {lines:#?}");
        }
        if start == "first" {
            // Nobody has seen this change, and there are no pods that could have the version before.
            controller.terminate().await?;
            bed.rotate("created/a").await?;
            controller.restart().await?;
        }
    }
    next_second().await?;
    bed.kubectl(&["rollout", "resume", "deployment/idle", "-n", "created"]).await?;
    bed.cluster.wait_rolled_out(&idle).await?;
    bed.expect_no_roll(&controller, &untouched).await?;

    // Seen to change, it is reloaded: who resumes it must not need to think of that.
    let (mark, seen) = (bed.mark().await?, controller.lines().len());
    bed.rotate("created/a").await?;
    let cases = [(&idle, None), (&web, PAUSED)];
    expect_reloaded_once(&bed, &controller, (&mark, seen), &cases, 1).await?;
    expect_nothing_after_a_restart(&bed, &mut controller, &cases, 1).await?;
    bed.kubectl(&["rollout", "resume", "deployment/web", "-n", "created"]).await?;
    bed.cluster.wait_rolled_out(&web).await?;
    wait_for_pods(&bed, &web, &[Some(1)]).await?;
    expect_nothing_after_a_restart(&bed, &mut controller, &cases, 1).await?;
    let cases = [(&idle, None), (&web, None)];
    expect_one_reload_a_rotation(&bed, &mut controller, &cases, 2).await
}

async fn who_renews_pods_on_delete_is_reloaded_once_and_told_so() -> Result<()> {
    let bed = Bed::shared().await?;
    prepare(&bed, "ondelete").await?;
    let on_delete = |kind, name: &str| {
        using(kind, "ondelete", name).spec("updateStrategy", json!({"type": "OnDelete"}))
    };
    let db = on_delete(Kind::StatefulSet, "db").replicas(2);
    let agent = on_delete(Kind::DaemonSet, "agent");
    bed.deploy_all(&[&db, &agent]).await?;
    let pods = counts_of_pods(&bed, &agent).await?.len();
    assert!(pods > 1);
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    bed.expect_no_roll(&controller, &[(&db, None), (&agent, None)]).await?;
    let text = Some("update strategy OnDelete: its pods get the new version as they are deleted");
    let cases = [(&db, text), (&agent, text)];
    expect_one_reload_a_rotation(&bed, &mut controller, &cases, 1).await?;
    assert_eq!(counts_of_pods(&bed, &db).await?, [None; 2]);
    assert_eq!(counts_of_pods(&bed, &agent).await?, vec![None; pods]);

    for workload in [&db, &agent] {
        delete_pods(&bed, workload).await?;
    }
    wait_for_pods(&bed, &db, &[Some(2); 2]).await?;
    wait_for_pods(&bed, &agent, &vec![Some(2); pods]).await?;
    bed.expect_no_roll(&controller, &[(&db, Some(2)), (&agent, Some(2))]).await?;
    expect_one_reload_a_rotation(&bed, &mut controller, &cases, 3).await
}

async fn a_partition_is_kept_and_what_is_below_it_follows_when_it_is_lowered() -> Result<()> {
    let bed = Bed::shared().await?;
    prepare(&bed, "partition").await?;
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
    let db =
        using(Kind::StatefulSet, "partition", "db").replicas(3).spec("updateStrategy", strategy);
    bed.deploy_all(&[&db]).await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    bed.expect_no_roll(&controller, &[(&db, None)]).await?;
    let cases = [(&db, Some("which has the partition 2: pods with a lower ordinal get the new"))];
    expect_one_reload_a_rotation(&bed, &mut controller, &cases, 1).await?;
    wait_for_pods(&bed, &db, &[None, None, Some(2)]).await?;

    // A pod below it is made anew as it was: its references are resolved anew all the same.
    bed.kubectl(&["delete", "pod", "db-0", "-n", "partition"]).await?;
    wait_for_pods(&bed, &db, &[None, None, Some(2)]).await?;
    expect_nothing_after_a_restart(&bed, &mut controller, &cases, 2).await?;

    let lowered = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}});
    bed.cluster.patch(&db, &lowered).await?;
    wait_for_pods(&bed, &db, &[Some(2); 3]).await?;
    expect_nothing_after_a_restart(&bed, &mut controller, &cases, 2).await?;
    expect_one_reload_a_rotation(&bed, &mut controller, &[(&db, None)], 3).await?;
    wait_for_pods(&bed, &db, &[Some(4); 3]).await
}

async fn who_has_no_pods_is_reloaded_once_like_any_other() -> Result<()> {
    let bed = Bed::shared().await?;
    prepare(&bed, "zero").await?;
    let web = using(Kind::Deployment, "zero", "web").replicas(0);
    let db = using(Kind::StatefulSet, "zero", "db").replicas(0);
    bed.deploy_all(&[&web, &db]).await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    bed.expect_no_roll(&controller, &[(&web, None), (&db, None)]).await?;
    let cases = [(&web, None), (&db, None)];
    expect_one_reload_a_rotation(&bed, &mut controller, &cases, 1).await?;
    for (target, workload) in [("deployment/web", &web), ("statefulset/db", &db)] {
        bed.kubectl(&["scale", target, "--replicas=1", "-n", "zero"]).await?;
        wait_for_pods(&bed, workload, &[Some(2)]).await?;
    }
    bed.expect_no_roll(&controller, &[(&web, Some(2)), (&db, Some(2))]).await
}

/// Makes the revisions of a workload those of another object. Its controller leaves it so: where the
/// name of the revision that it wants is taken by an equal one, that will do. The same comes of a
/// workload that is deleted and made again before the garbage collector has come to the old revision.
async fn give_revisions_away(bed: &Bed, workload: &Workload, to: &Value) -> Result<()> {
    let owners = json!({"metadata": {"ownerReferences": [to]}}).to_string();
    let namespace = &workload.name().namespace;
    for revision in bed.cluster.revisions(workload).await? {
        let name = revision["metadata"]["name"].as_str().context("a revision without a name")?;
        let target = format!("controllerrevision/{name}");
        bed.kubectl(&["patch", &target, "-n", namespace, "--type=merge", "-p", &owners]).await?;
    }
    assert_eq!(bed.cluster.revisions(workload).await?, [Value::Null; 0]);
    Ok(())
}

async fn who_has_no_revision_of_its_own_is_reloaded_all_the_same() -> Result<()> {
    let bed = Bed::shared().await?;
    prepare(&bed, "disowned").await?;
    let metadata = json!({"name": "other", "namespace": "disowned"});
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
    let other = bed.cluster.create_object(&other, "configmaps").await?;
    let other = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "name": "other", "controller": true,
        "uid": other["metadata"]["uid"],
    });
    let kinds = [(Kind::StatefulSet, "db"), (Kind::DaemonSet, "agent")];
    let [db, agent] = kinds.map(|(kind, name)| using(kind, "disowned", name));
    let [new_db, new_agent] =
        kinds.map(|(kind, name)| using(kind, "disowned", &format!("new-{name}")));
    bed.deploy_all(&[&db, &agent]).await?;
    next_second().await?;
    let mark = bed.mark().await?;
    bed.rotate("disowned/a").await?;
    next_second().await?;
    bed.deploy_all(&[&new_db, &new_agent]).await?;
    for workload in [&db, &agent, &new_db, &new_agent] {
        give_revisions_away(&bed, workload, &other).await?;
    }

    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    let cases = [(&db, None), (&agent, None)];
    expect_reloaded_once(&bed, &controller, (&mark, 0), &cases, 1).await?;
    // Who was made after the rotation has it, revision or not.
    bed.expect_no_roll(&controller, &[(&new_db, None), (&new_agent, None)]).await?;
    for workload in [&new_db, &new_agent] {
        assert_eq!(said(&controller, 0, workload.name()), [""; 0]);
    }
    expect_nothing_after_a_restart(&bed, &mut controller, &cases, 1).await?;
    let all = [(&db, None), (&agent, None), (&new_db, None), (&new_agent, None)];
    let (mark, seen) = (bed.mark().await?, controller.lines().len());
    bed.rotate("disowned/a").await?;
    expect_reloaded_once(&bed, &controller, (&mark, seen), &all[..2], 2).await?;
    expect_reloaded_once(&bed, &controller, (&mark, seen), &all[2..], 1).await
}

async fn what_is_being_deleted_is_left_alone_and_that_is_said_once() -> Result<()> {
    let bed = Bed::shared().await?;
    prepare(&bed, "deletion").await?;
    let held = using(Kind::Deployment, "deletion", "held");
    let foreground = using(Kind::Deployment, "deletion", "foreground");
    let beside = using(Kind::Deployment, "deletion", "beside");
    bed.deploy_all(&[&held, &foreground, &beside]).await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    bed.expect_no_roll(&controller, &[(&held, None), (&foreground, None), (&beside, None)]).await?;

    // One waits for a finalizer of its own, the other for that of its ReplicaSet.
    let finalizer = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    bed.cluster.patch(&held, &finalizer).await?;
    let sets = bed.cluster.revisions(&foreground).await?;
    let set = sets[0]["metadata"]["name"].as_str().context("no name")?.to_owned();
    let patch_set = async |patch: &Value| {
        let patch = patch.to_string();
        let args = ["patch", "replicaset", &set, "-n", "deletion", "--type=merge", "-p", &patch];
        bed.kubectl(&args).await
    };
    patch_set(&finalizer).await?;
    bed.cluster.delete(&held).await?;
    let delete = ["delete", "deployment", "foreground", "-n", "deletion", "--wait=false"];
    bed.kubectl(&[&delete[..], &["--cascade=foreground"]].concat()).await?;
    let deleted = [&held, &foreground];
    for workload in deleted {
        let is_deleted =
            |state: &e2e::State| !state.object["metadata"]["deletionTimestamp"].is_null();
        bed.cluster.wait_for(workload, "its deletion to begin", SOON, is_deleted).await?;
    }
    let mark = bed.mark().await?;
    for (count, is_seen) in [(1, true), (2, true), (3, false), (4, true)] {
        if !is_seen {
            controller.terminate().await?;
            next_second().await?;
        }
        bed.rotate("deletion/a").await?;
        if !is_seen {
            controller.restart().await?;
        }
        bed.cluster.wait_for_count(&beside, count, SOON).await?;
        bed.expect_no_roll(&controller, &[(&held, None), (&foreground, None)]).await?;
        for workload in deleted {
            assert_eq!(bed.reloads_since(&mark, workload).await?, 0, "{}", workload.name());
            let lines = said(&controller, 0, workload.name());
            // Who comes later knows only that it is to be let alone.
            assert_eq!(lines.len(), usize::from(is_seen), "rotation {count}: {lines:#?}");
            assert!(lines.iter().all(|line| line.contains("is being deleted")), "{lines:#?}");
        }
    }
    let none = json!({"metadata": {"finalizers": null}});
    patch_set(&none).await?;
    bed.cluster.patch(&held, &none).await?;
    for workload in deleted {
        let line = format!("Stopped watching Deployment deletion/{}", workload.name().name);
        controller.wait_for(&line, SOON).await?;
    }
    bed.expect_no_roll(&controller, &[(&beside, Some(4))]).await
}
