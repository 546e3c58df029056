//! Tools that apply manifests of a repository again and again: kubectl, Helm, and what Argo CD and
//! Flux send to the API server.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use e2e::scenario::{SOON, polling_faster};
use e2e::workload::RECORD;
use e2e::{Bed, Cluster, Controller, Kind, State, Workload, WorkloadName, eventually};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

e2e::scenarios! {
    what_is_applied_again_leaves_reloads_alone: long,
    what_is_replaced_all_the_time_is_reloaded_once_a_rotation: long,
    a_reload_in_the_repository_is_a_conflict_and_by_force_taken_back,
}

const KINDS: [Kind; 3] = [Kind::Deployment, Kind::DaemonSet, Kind::StatefulSet];

/// How often a tool applies what it has applied already.
const SYNCS: usize = 3;

/// Polls within which nothing more must happen.
const POLLS: usize = 20;

/// How a tool applies a manifest.
#[derive(Debug, Clone, Copy)]
enum Tool {
    /// `kubectl apply`, as Argo CD does by default.
    Apply,
    /// `kubectl apply --server-side`.
    ServerSide,
    /// The same with `--force-conflicts`, as Flux does, and Argo CD with `ServerSideApply=true`.
    ServerSideForced,
    /// `helm upgrade`, which applies on the server.
    Helm,
    /// `helm upgrade --server-side=false`: a three-way merge, as Helm 3 does.
    HelmClientSide,
}

impl Tool {
    const ALL: [Self; 5] =
        [Self::Apply, Self::ServerSide, Self::ServerSideForced, Self::Helm, Self::HelmClientSide];

    /// Applies manifests of a namespace.
    async fn apply(self, bed: &Bed, namespace: &str, manifests: &[Value]) -> Result<()> {
        let flags: &[&str] = match self {
            Self::Apply => &[],
            Self::ServerSide => &["--server-side", "--field-manager=flux"],
            Self::ServerSideForced => {
                &["--server-side", "--field-manager=flux", "--force-conflicts"]
            }
            Self::Helm => return upgrade(bed, namespace, "server-side", manifests).await,
            Self::HelmClientSide => return upgrade(bed, namespace, "client-side", manifests).await,
        };
        let file = write_list(bed, &format!("{namespace}-{self:?}"), manifests)?;
        let args = [&["apply", "--filename", file.as_str()][..], flags].concat();
        bed.kubectl(&args).await.map(drop)
    }
}

/// Writes manifests to one file, and returns its path.
fn write_list(bed: &Bed, name: &str, manifests: &[Value]) -> Result<String> {
    let file = bed.folder().join(format!("{name}.json"));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": manifests});
    fs::write(&file, list.to_string())?;
    let path = file.to_str().context("the path of the bed is not text")?;
    Ok(path.to_owned())
}

/// Makes a chart of manifests, and installs or upgrades it as the release `server-side` or
/// `client-side`.
async fn upgrade(bed: &Bed, namespace: &str, release: &str, manifests: &[Value]) -> Result<()> {
    let chart = bed.folder().join(format!("{namespace}-{release}"));
    fs::create_dir_all(chart.join("templates"))?;
    fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: apps\nversion: 1.0.0\n")?;
    let documents: Vec<String> = manifests.iter().map(ToString::to_string).collect();
    fs::write(chart.join("templates/apps.yaml"), documents.join("\n---\n"))?;
    let chart = chart.to_str().context("the path of the bed is not text")?;
    let mut args = vec!["upgrade", "--install", release, chart, "--namespace", namespace];
    if release == "client-side" {
        args.push("--server-side=false");
    }
    bed.helm(&args).await.map(drop)
}

fn using(kind: Kind, namespace: &str, name: &str) -> Workload {
    let reference = format!("vault:secret/data/{namespace}/a#k");
    Workload::new(kind, namespace, name).opted_in().env("A", &reference)
}

/// One workload of each kind, called as its kind.
fn one_of_each_kind(namespace: &str) -> [Workload; 3] {
    KINDS.map(|kind| using(kind, namespace, &kind.to_string().to_lowercase()))
}

/// The workloads that a tool applies.
struct Applied {
    tool: Tool,
    workloads: [Workload; 3],
}

impl Applied {
    fn new(namespace: &str, tool: Tool) -> Self {
        let name = |kind: Kind| format!("{kind}-{tool:?}").to_lowercase();
        Self { tool, workloads: KINDS.map(|kind| using(kind, namespace, &name(kind))) }
    }

    /// Applies the workloads with a release of their image.
    async fn sync(&self, bed: &Bed, release: i64) -> Result<()> {
        let manifest = |workload: &Workload| {
            let mut manifest = workload.manifest();
            let image = json!(format!("example.com/app:{release}"));
            manifest["spec"]["template"]["spec"]["containers"][0]["image"] = image;
            manifest
        };
        let manifests: Vec<Value> = self.workloads.iter().map(manifest).collect();
        let applied = self.tool.apply(bed, &self.workloads[0].name().namespace, &manifests).await;
        applied.with_context(|| format!("{:?}, release {release}", self.tool))
    }
}

/// All that a reload leaves on a workload, and the number of changes of its spec.
fn traces(state: &State) -> (i64, Option<i64>, Option<&str>, Option<&str>) {
    (state.generation(), state.count(), state.mark(), state.annotation(RECORD))
}

async fn rolled_out(bed: &Bed, workloads: &[&Workload]) -> Result<Vec<State>> {
    let mut states = Vec::with_capacity(workloads.len());
    for workload in workloads {
        states.push(bed.cluster.wait_rolled_out(workload.name()).await?);
    }
    Ok(states)
}

async fn what_is_applied_again_leaves_reloads_alone() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("applied").await?;
    bed.write_secrets(&["applied/a"]).await?;
    let applied = Tool::ALL.map(|tool| Applied::new("applied", tool));
    let all: Vec<&Workload> = applied.iter().flat_map(|applied| &applied.workloads).collect();
    for applied in &applied {
        applied.sync(&bed, 1).await?;
    }
    rolled_out(&bed, &all).await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    let nobody: Vec<_> = all.iter().map(|workload| (*workload, None)).collect();
    bed.expect_no_roll(&controller, &nobody).await?;

    let mark = bed.mark().await?;
    for count in [1, 2] {
        bed.rotate("applied/a").await?;
        bed.expect_rolls(&controller, &all, count).await?;
        let before = rolled_out(&bed, &all).await?;
        for _ in 0..SYNCS {
            for applied in &applied {
                applied.sync(&bed, count).await?;
            }
            controller.wait_for_polls(1, SOON).await?;
        }
        for (workload, before) in all.iter().zip(&before) {
            let after = bed.cluster.get(workload.name()).await?;
            assert!(after.record().is_some(), "{}: no record", workload.name());
            assert_eq!(traces(&after), traces(before), "{}", workload.name());
        }

        // A release of the application keeps the record, and is no reason for a reload.
        for applied in &applied {
            applied.sync(&bed, count + 1).await?;
        }
        rolled_out(&bed, &all).await?;
        let same: Vec<_> = all.iter().map(|workload| (*workload, Some(count))).collect();
        bed.expect_no_roll(&controller, &same).await?;
        controller.restart().await?;
        bed.expect_no_roll(&controller, &same).await?;
    }
    for workload in &all {
        let reloads = bed.reloads_since(&mark, workload.name()).await?;
        assert_eq!(reloads, 2, "{}: one for each rotation", workload.name());
    }
    let reports = controller.lines_matching(is_report);
    assert!(reports.is_empty(), "{reports:#?}");
    Ok(())
}

fn is_report(line: &str) -> bool {
    line.contains("was taken back") || line.contains("was written was removed")
}

/// The reports about a workload from the line `seen` on.
fn reports(controller: &Controller, seen: usize, workload: &WorkloadName) -> Vec<String> {
    let name = format!("{workload} ");
    let lines = controller.lines().into_iter().skip(seen).map(|line| line.text);
    lines.filter(|line| line.contains(&name) && is_report(line)).collect()
}

async fn wait_for_reports(
    controller: &Controller,
    seen: usize,
    workloads: &[Workload],
) -> Result<()> {
    for workload in workloads {
        let what = format!("a report about {}", workload.name());
        let reported = eventually(&what, SOON, || async {
            Ok((!reports(controller, seen, workload.name()).is_empty()).then_some(()))
        })
        .await;
        reported.with_context(|| controller.last_lines())?;
    }
    Ok(())
}

/// Replaces workloads by their manifests, some time within each half second, until what this returns
/// is dropped: as Argo CD does with `Replace=true` and `selfHeal`.
fn replacer_of(cluster: &Cluster, workloads: &[Workload]) -> JoinSet<()> {
    let mut replacer = JoinSet::new();
    for workload in workloads {
        let (cluster, workload) = (cluster.clone(), workload.clone());
        replacer.spawn(async move {
            loop {
                // What fails is done the next time.
                _ = replace(&cluster, &workload).await;
                sleep(Duration::from_millis(fastrand::u64(..500))).await;
            }
        });
    }
    replacer
}

/// Replaces the whole object, whatever its resource version: what others wrote is gone.
async fn replace(cluster: &Cluster, workload: &Workload) -> Result<()> {
    let WorkloadName { kind, namespace, name } = workload.name();
    let path = format!("/apis/apps/v1/namespaces/{namespace}/{}/{name}", kind.plural());
    let request = http::Request::put(path)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&workload.manifest())?)?;
    cluster.client().request::<Value>(request).await.map(drop).context("cannot replace it")
}

async fn what_is_replaced_all_the_time_is_reloaded_once_a_rotation() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("replaced").await?;
    bed.write_secrets(&["replaced/a"]).await?;
    let workloads = one_of_each_kind("replaced");
    bed.deploy_all(&workloads.each_ref()).await?;
    // A replacement that the API server refuses would prove nothing.
    for workload in &workloads {
        replace(&bed.cluster, workload).await?;
    }
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    let nobody = workloads.each_ref().map(|workload| (workload, None));
    bed.expect_no_roll(&controller, &nobody).await?;

    let replacer = replacer_of(&bed.cluster, &workloads);
    for rotation in ["first", "second"] {
        let (mark, seen) = (bed.mark().await?, controller.lines().len());
        bed.rotate("replaced/a").await?;
        wait_for_reports(&controller, seen, &workloads).await?;
        controller.wait_for_polls(POLLS, SOON).await?;
        for workload in &workloads {
            let name = workload.name();
            let reloads = bed.reloads_since(&mark, name).await?;
            let said = reports(&controller, seen, name);
            assert_eq!((reloads, said.len()), (1, 1), "{name}, {rotation} rotation: {said:#?}");
            assert_eq!(bed.cluster.get(name).await?.record(), None, "{name} keeps the record");
        }
    }

    // The lost record does no harm: the next rotation is found without it.
    drop(replacer);
    bed.rotate("replaced/a").await?;
    bed.expect_rolls(&controller, &workloads.each_ref(), 1).await?;
    controller.restart().await?;
    let once = workloads.each_ref().map(|workload| (workload, Some(1)));
    bed.expect_no_roll(&controller, &once).await
}

async fn a_reload_in_the_repository_is_a_conflict_and_by_force_taken_back() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.cluster.create_namespace("exported").await?;
    bed.write_secrets(&["exported/a"]).await?;
    let workloads = one_of_each_kind("exported");
    bed.deploy_all(&workloads.each_ref()).await?;
    let mut controller = Controller::start(&bed, &polling_faster()).await?;
    let expect = |count: Option<i64>| workloads.each_ref().map(|workload| (workload, count));
    bed.expect_no_roll(&controller, &expect(None)).await?;
    bed.rotate("exported/a").await?;
    bed.expect_rolls(&controller, &workloads.each_ref(), 1).await?;

    // Somebody commits what `kubectl get --output yaml` shows.
    let mut exported = Vec::new();
    for (workload, state) in workloads.iter().zip(rolled_out(&bed, &workloads.each_ref()).await?) {
        let mut manifest = workload.manifest();
        manifest["metadata"]["annotations"] = json!({RECORD: state.annotation(RECORD)});
        let annotations = state.template()["metadata"]["annotations"].clone();
        manifest["spec"]["template"]["metadata"]["annotations"] = annotations;
        exported.push(manifest);
    }
    bed.rotate("exported/a").await?;
    bed.expect_rolls(&controller, &workloads.each_ref(), 2).await?;
    rolled_out(&bed, &workloads.each_ref()).await?;

    let Err(error) = Tool::ServerSide.apply(&bed, "exported", &exported).await else {
        bail!("the API server let another manager change what the controller wrote");
    };
    let error = format!("{error:#}");
    assert!(error.contains("with \"vault-secrets-reloader\""), "{error}");
    bed.expect_no_roll(&controller, &expect(Some(2))).await?;

    let (mark, seen) = (bed.mark().await?, controller.lines().len());
    Tool::ServerSideForced.apply(&bed, "exported", &exported).await?;
    wait_for_reports(&controller, seen, &workloads).await?;
    bed.expect_no_roll(&controller, &expect(Some(1))).await?;
    controller.restart().await?;
    bed.expect_no_roll(&controller, &expect(Some(1))).await?;
    for workload in &workloads {
        assert_eq!(bed.reloads_since(&mark, workload.name()).await?, 0, "{}", workload.name());
    }
    bed.rotate("exported/a").await?;
    bed.expect_rolls(&controller, &workloads.each_ref(), 2).await
}
