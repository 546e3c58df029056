//! Workloads of an operator that puts its own template back: each rotation is tried once, reported
//! once with the owner's name, and then let be.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::scenario::{SOON, next_second, polling_faster};
use e2e::workload::{MARK, RECORD};
use e2e::{Bed, Cluster, Controller, Kind, Mark, State, Workload, WorkloadName};
use futures::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, watcher};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

e2e::scenarios! {
    what_its_owner_puts_back_is_tried_once_a_rotation_and_reported_once: long,
    rotations_close_to_each_other_are_no_loop_either: long,
}

/// Polls within which nothing more must happen.
const POLLS: usize = 20;

/// What an operator puts back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restores {
    /// The pod template; what was written to the workload's own metadata stays.
    Template,
    /// The pod template, and the record.
    Everything,
    /// Both as an earlier reload left them, which the operator takes for its own.
    Earlier,
}

/// When it does so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Within milliseconds.
    AtOnce,
    /// Some time within two polls, so that now and then one is under way.
    Anytime,
    /// Once the workload's controller and some polls have seen the reload, as a tool does that
    /// compares with a repository now and then.
    Later,
}

impl When {
    fn delay(self) -> Duration {
        Duration::from_millis(match self {
            Self::AtOnce => 0,
            Self::Anytime => fastrand::u64(..500),
            Self::Later => 2_000,
        })
    }
}

/// A workload, and what its operator does to it.
#[derive(Debug, Clone)]
struct Owned {
    workload: Workload,
    restores: Restores,
    when: When,
}

impl Owned {
    fn name(&self) -> &WorkloadName {
        self.workload.name()
    }

    /// Whether a reload may leave no trace at all, so that a controller that starts tries once more.
    fn may_leave_no_trace(&self) -> bool {
        self.restores != Restores::Template && self.when != When::Later
    }

    /// The reload count that its operator wants.
    fn count(&self) -> Option<i64> {
        (self.restores == Restores::Earlier).then_some(1)
    }
}

fn owned(namespace: &str) -> Vec<Owned> {
    use Kind::{DaemonSet, Deployment, StatefulSet};
    let whens = [
        (Deployment, When::AtOnce),
        (Deployment, When::Anytime),
        (Deployment, When::Later),
        (StatefulSet, When::AtOnce),
        (StatefulSet, When::Later),
        (DaemonSet, When::AtOnce),
        (DaemonSet, When::Later),
    ];
    let each = whens.into_iter().flat_map(|(kind, when)| {
        [Restores::Template, Restores::Everything, Restores::Earlier].map(|restores| {
            let name = format!("{kind}-{when:?}-{restores:?}").to_lowercase();
            let path = if restores == Restores::Earlier { "b" } else { "a" };
            let secret = format!("vault:secret/data/{namespace}/{path}#k");
            let workload = Workload::new(kind, namespace, &name).opted_in().env("A", &secret);
            Owned { workload, restores, when }
        })
    });
    each.collect()
}

/// Deploys workloads with an owner that the garbage collector finds, too, and starts a controller.
async fn deploy(bed: &Bed, namespace: &str, owned: &[Owned]) -> Result<Controller> {
    bed.cluster.create_namespace(namespace).await?;
    bed.write_secrets(&[&format!("{namespace}/a"), &format!("{namespace}/b")]).await?;
    let owner = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "orders", "namespace": namespace},
    });
    let owner = bed.cluster.create_object(&owner, "configmaps").await?;
    let references = json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "orders", "controller": true,
        "uid": owner["metadata"]["uid"],
    }]);
    for Owned { workload, .. } in owned {
        let mut manifest = workload.manifest();
        manifest["metadata"]["ownerReferences"] = references.clone();
        bed.cluster.apply_object(&manifest, workload.name().kind.plural()).await?;
    }
    for Owned { workload, .. } in owned {
        bed.cluster.wait_rolled_out(workload).await?;
    }
    let controller = Controller::start(bed, &polling_faster()).await?;
    controller.wait_for_polls(2, SOON).await?;
    bed.rotate(&format!("{namespace}/b")).await?;
    for owned in owned.iter().filter(|owned| owned.restores == Restores::Earlier) {
        bed.cluster.wait_for_count(owned.name(), 1, SOON).await?;
        bed.cluster.wait_rolled_out(owned.name()).await?;
    }
    Ok(controller)
}

/// Rotates the secrets of all.
async fn rotate(bed: &Bed, namespace: &str) -> Result<()> {
    bed.rotate(&format!("{namespace}/a")).await?;
    bed.rotate(&format!("{namespace}/b")).await.map(drop)
}

/// An operator that keeps workloads as it wants them, until what it returns is dropped.
async fn operator(cluster: &Cluster, owned: &[Owned]) -> Result<JoinSet<()>> {
    let mut operator = JoinSet::new();
    for owned in owned.iter().cloned() {
        let cluster = cluster.clone();
        let wanted = cluster.get(owned.name()).await?;
        operator.spawn(async move {
            let WorkloadName { kind, namespace, name } = owned.name();
            let resource = ApiResource {
                group: "apps".to_owned(),
                version: "v1".to_owned(),
                api_version: "apps/v1".to_owned(),
                kind: kind.to_string(),
                plural: kind.plural().to_owned(),
            };
            let api = Api::namespaced_with(cluster.client(), namespace, &resource);
            let config = Config::default().fields(&format!("metadata.name={name}"));
            let mut objects = pin!(watcher(api, config).applied_objects());
            let mut seen = json!(wanted.mark());
            while let Some(object) = objects.next().await {
                let Ok(DynamicObject { data, .. }) = object else { continue };
                let mark = &data["spec"]["template"]["metadata"]["annotations"][MARK];
                // What came while it waited for its time is about the same reload.
                if mark.as_str() == wanted.mark() || *mark == seen {
                    continue;
                }
                seen = mark.clone();
                if owned.when == When::Later {
                    let observed = State::is_observed;
                    drop(cluster.wait_for(owned.name(), "a revision", SOON, observed).await);
                }
                sleep(owned.when.delay()).await;
                while restore(&cluster, &owned, &wanted).await.is_err() {
                    sleep(Duration::from_millis(10)).await;
                }
            }
        });
    }
    Ok(operator)
}

/// Replaces the whole object, as operators do.
async fn restore(cluster: &Cluster, owned: &Owned, wanted: &State) -> Result<()> {
    let WorkloadName { kind, namespace, name } = owned.name();
    let state = cluster.get(owned.name()).await?;
    if state.mark() == wanted.mark() {
        return Ok(());
    }
    let mut object = state.object;
    object["spec"]["template"] = wanted.template().clone();
    if owned.restores != Restores::Template
        && let Some(annotations) = object["metadata"]["annotations"].as_object_mut()
    {
        annotations.remove(RECORD);
        annotations.extend(wanted.annotation(RECORD).map(|text| (RECORD.to_owned(), json!(text))));
    }
    let path = format!("/apis/apps/v1/namespaces/{namespace}/{}/{name}", kind.plural());
    let request = http::Request::put(path)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&object)?)?;
    cluster.client().request::<Value>(request).await.map(drop).context("cannot put it back")
}

/// What was said of a workload at the level of warnings, from the line `seen` on. That its controller
/// is slow, on a machine under load, has nothing to do with its owner.
fn warnings(controller: &Controller, seen: usize, workload: &WorkloadName) -> Vec<String> {
    let name = format!("{workload} ");
    let lines = controller.lines().into_iter().skip(seen).map(|line| line.text);
    let lines = lines.filter(|line| line.contains("level=warn") && line.contains(&name));
    lines.filter(|line| !line.contains(&format!("{name}waits: "))).collect()
}

fn is_report(line: &str) -> bool {
    line.contains("was taken back") || line.contains("was written was removed")
}

/// Since the mark and the line `seen`, each workload was reloaded that often and no oftener, was
/// reported once, and is as its owner wants it.
async fn expect_tried_and_reported_once(
    bed: &Bed,
    controller: &Controller,
    (mark, seen): (&Mark, usize),
    owned: &[Owned],
    times: impl Fn(&Owned) -> std::ops::RangeInclusive<usize>,
) -> Result<()> {
    for owned in owned {
        let name = format!("{} ", owned.name());
        let is_it = |line: &str| line.contains(&name) && is_report(line);
        e2e::eventually(&format!("a report of {name}"), SOON, || async {
            Ok(controller.lines().iter().skip(seen).any(|line| is_it(&line.text)).then_some(()))
        })
        .await
        .with_context(|| controller.last_lines())?;
    }
    controller.wait_for_polls(POLLS, SOON).await?;
    let mut wrong = Vec::new();
    for owned in owned {
        let done = bed.reloads_since(mark, owned.name()).await?;
        let lines = warnings(controller, seen, owned.name());
        let is_named =
            lines.iter().all(|line| is_report(line) && line.contains("ConfigMap/orders"));
        let count = bed.cluster.get(owned.name()).await?.count();
        if !times(owned).contains(&done) || lines.len() != 1 || !is_named || count != owned.count()
        {
            wrong.push(format!("{}: {done} reloads, count {count:?}, {lines:#?}", owned.name()));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), controller.last_lines());
    Ok(())
}

async fn what_its_owner_puts_back_is_tried_once_a_rotation_and_reported_once() -> Result<()> {
    let bed = Bed::shared().await?;
    let owned = owned("owners");
    let mut controller = deploy(&bed, "owners", &owned).await?;
    let operator = operator(&bed.cluster, &owned).await?;

    for rotation in ["first", "second"] {
        let now = (&bed.mark().await?, controller.lines().len());
        rotate(&bed, "owners").await?;
        expect_tried_and_reported_once(&bed, &controller, now, &owned, |_| 1..=1)
            .await
            .with_context(|| format!("the {rotation} rotation"))?;
    }
    for start in ["second", "third"] {
        let mark = bed.mark().await?;
        controller.restart().await?;
        let times = |owned: &Owned| 0..=usize::from(owned.may_leave_no_trace());
        expect_tried_and_reported_once(&bed, &controller, (&mark, 0), &owned, times)
            .await
            .with_context(|| format!("the {start} start"))?;
    }
    controller.terminate().await?;
    next_second().await?;
    let mark = bed.mark().await?;
    rotate(&bed, "owners").await?;
    controller.restart().await?;
    expect_tried_and_reported_once(&bed, &controller, (&mark, 0), &owned, |_| 1..=1)
        .await
        .context("a rotation while nobody watched")?;

    // An owner that lets it be.
    drop(operator);
    rotate(&bed, "owners").await?;
    for start in ["third", "fourth"] {
        for count in [1, 2] {
            let had = (count > 1).then_some(count - 1);
            let those = owned.iter().filter(|owned| owned.count() == had);
            let those: Vec<&Workload> = those.map(|owned| &owned.workload).collect();
            bed.expect_rolls(&controller, &those, count).await.context(start)?;
        }
        controller.restart().await?;
    }
    Ok(())
}

async fn rotations_close_to_each_other_are_no_loop_either() -> Result<()> {
    const ROTATIONS: usize = 6;
    let bed = Bed::shared().await?;
    let owned = owned("often");
    let controller = deploy(&bed, "often", &owned).await?;
    let _operator = operator(&bed.cluster, &owned).await?;
    let mark = bed.mark().await?;
    for _ in 0..ROTATIONS {
        rotate(&bed, "often").await?;
        controller.wait_for_polls(fastrand::usize(..4), SOON).await?;
    }
    controller.wait_for_polls(POLLS, SOON).await?;
    for owned in &owned {
        let done = bed.reloads_since(&mark, owned.name()).await?;
        assert!((1..=ROTATIONS).contains(&done), "{}: {done} reloads", owned.name());
        let said = warnings(&controller, 0, owned.name());
        assert!(said.len() <= done, "{done} reloads, and {said:#?}");
        assert_eq!(bed.cluster.get(owned.name()).await?.count(), owned.count());
    }
    Ok(())
}
