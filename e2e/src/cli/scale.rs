//! Measures the controller beside ten thousand workloads: memory, time and requests.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::{Bed, Controller, ControllerOptions, Options, Table, Workload, eventually};
use futures::future::try_join;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::json;

use super::say::Say;

const NAMESPACES: usize = 20;
const FOLDERS: usize = 50;
/// The number of concurrent requests while the bed is filled.
const AT_ONCE: usize = 16;
/// The number of measured starts.
const STARTS: usize = 5;
/// The number of objects on a page of the bare LISTs. The controller requests pages of the same
/// size.
const PAGE: usize = 250;
/// The number of requests of each kind whose time is measured.
const ANSWERS: usize = 9;
/// The time after which the controller computes lists again that requests share, and a bit more.
const SHARED_FOR: Duration = Duration::from_millis(1_100);
const USER_AGENT: &str = "vault-secrets-reloader/";
/// The longest wait. It is enough for one of two busy cores.
const WITHIN: Duration = Duration::from_mins(10);

/// Fills a bed, runs the controller for some polls, rotates secrets, and prints the measurements.
pub(crate) async fn scale(
    workloads: usize,
    secrets: usize,
    polls: usize,
    say: &mut Say,
) -> Result<()> {
    say.line("Starting the servers...");
    let bed = Bed::start(Options::new().without_pods().scale()).await?;
    fill(&bed, workloads, secrets, say).await?;

    let options = ControllerOptions::new()
        .flag("--reloader-run-period", "5s")
        .flag("--log-level", "info")
        .flag("--collector-sync-period", "1h");
    let began = Instant::now();
    let mark = bed.mark().await?;
    let mut controller = Controller::spawn(&bed, &options).await?;
    controller.wait_for("No workloads to reload", WITHIN).await?;
    let first_poll = began.elapsed();
    let mut table = Table::new(&["when", "RSS", "peak", "CPU", "API requests", "Vault requests"]);
    row(&bed, &controller, &mark, "after the first poll", &mut table).await?;

    let mark = bed.mark().await?;
    let (cpu, seen) = (controller.cpu()?, idle_polls(&controller));
    eventually("the polls to be over", WITHIN, || async {
        Ok((idle_polls(&controller) >= seen + polls).then_some(()))
    })
    .await?;
    let a_poll = controller.cpu()?.saturating_sub(cpu) / u32::try_from(polls)?;
    row(&bed, &controller, &mark, &format!("after {polls} more, unchanged"), &mut table).await?;

    let mark = bed.mark().await?;
    let answers = answers(&controller).await?;
    let first_data = first_data(&controller).await?;
    row(&bed, &controller, &mark, "after requests for the status", &mut table).await?;

    let mark = bed.mark().await?;
    let rotated = secrets / 50;
    for number in 0..rotated {
        bed.vault.kv("secret").put(&path(number, secrets), json!({ "x": "new" })).await?;
    }
    let expected = (0..workloads).filter(|number| number % secrets < rotated).count();
    let name = |line: &str| line.contains("Reloading workload");
    eventually("the workloads to be reloaded", WITHIN, || async {
        Ok((controller.lines_matching(name).len() >= expected).then_some(()))
    })
    .await?;
    let seen = idle_polls(&controller);
    eventually("the next poll", WITHIN, || async {
        Ok((idle_polls(&controller) > seen).then_some(()))
    })
    .await?;
    let what = format!("after {rotated} rotations, {expected} reloads");
    row(&bed, &controller, &mark, &what, &mut table).await?;
    let patches = bed.api_requests_of(USER_AGENT, &mark).await?;
    let patches = patches.iter().filter(|request| request.patches_workload()).count();

    say.line(&format!("{workloads} workloads that refer to {secrets} secrets\n{table}"));
    say.line(&format!(
        "From the start to the end of the first poll {:.1} s; one unchanged poll takes {:.2} s of CPU; \
         {patches} PATCHes for {expected} reloads.",
        first_poll.as_secs_f32(),
        a_poll.as_secs_f32()
    ));
    say.line(&answers);
    say.line(&first_data);
    let (_, ended) = controller.terminate().await?;
    say.line(&format!("SIGTERM to the end: {:.2} s.", ended.as_secs_f32()));
    starts(&bed, &options, say).await
}

/// Measures a scrape of the metrics and requests for the status, which mostly share one list. Returns
/// the medians in a sentence.
async fn answers(controller: &Controller) -> Result<String> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let status = controller.status_address()?;
    let mut parts = Vec::new();
    for (what, address) in [
        ("a scrape of /metrics", format!("http://{}/metrics", controller.address())),
        ("the overview", format!("{status}/v1/overview")),
        ("a page of rotations", format!("{status}/v1/rotations?limit=500")),
        ("a page of workloads", format!("{status}/v1/workloads?limit=500")),
    ] {
        let mut times = Vec::new();
        for _ in 0..ANSWERS {
            let began = Instant::now();
            http.get(&address).send().await?.error_for_status()?.bytes().await?;
            times.push(began.elapsed());
        }
        times.sort_unstable();
        parts.push(format!("{what} {} ms", times[times.len() / 2].as_millis()));
    }
    Ok(format!("Medians of {ANSWERS}: {}.", parts.join(", ")))
}

/// Measures how long a browser waits for the first data of the page: two requests at once, when no
/// other viewer has asked shortly before. Returns the longest time in a sentence.
async fn first_data(controller: &Controller) -> Result<String> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let status = controller.status_address()?;
    let get = async |path: &str| -> Result<()> {
        let answer = http.get(format!("{status}{path}")).send().await?.error_for_status()?;
        answer.bytes().await?;
        Ok(())
    };
    let mut longest = Duration::ZERO;
    for _ in 0..ANSWERS {
        tokio::time::sleep(SHARED_FOR).await;
        let began = Instant::now();
        let open = "/v1/rotations?limit=50&state=stopped,missing,held,running,unknown";
        try_join(get("/v1/overview"), get(open)).await?;
        longest = longest.max(began.elapsed());
    }
    let milliseconds = longest.as_millis();
    Ok(format!(
        "The first data of the page: {milliseconds} ms at most in {ANSWERS} (goal: 200 ms)."
    ))
}

/// Measures starts of the controller, from its first line until it knows all workloads. In turn
/// with these, measures bare LISTs of the same objects in the same pages, whose answers are not
/// decoded.
async fn starts(bed: &Bed, options: &ControllerOptions, say: &mut Say) -> Result<()> {
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        bare.push(bare_lists(bed).await?);
        let mut controller = Controller::spawn(bed, options).await?;
        let first = controller.wait_for("msg=Starting", WITHIN).await?;
        let mut known = first.at;
        for kind in ["Deployments", "DaemonSets", "StatefulSets"] {
            let line = controller.wait_for(&format!("All {kind} are read"), WITHIN).await?;
            known = known.max(line.at);
        }
        ours.push(known - first.at);
        controller.terminate().await?;
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (bare, ours) = (median(&mut bare), median(&mut ours));
    say.line(&format!(
        "A start, until all workloads are known: {:.2} s; the bare LISTs of the same objects {:.2} s; {:.2} \
         times. Medians of {STARTS}, in turn.",
        ours.as_secs_f32(),
        bare.as_secs_f32(),
        ours.as_secs_f32() / bare.as_secs_f32()
    ));
    Ok(())
}

/// Measures the concurrent LISTs of the three kinds.
async fn bare_lists(bed: &Bed) -> Result<Duration> {
    let began = Instant::now();
    let kinds = ["deployments", "daemonsets", "statefulsets"];
    stream::iter(kinds)
        .map(|kind| bare_list(bed, kind))
        .buffer_unordered(kinds.len())
        .try_collect::<()>()
        .await?;
    Ok(began.elapsed())
}

async fn bare_list(bed: &Bed, kind: &str) -> Result<()> {
    /// The only decoded part: the start of the next page.
    #[derive(serde::Deserialize)]
    struct Page {
        metadata: Metadata,
    }
    #[derive(serde::Deserialize)]
    struct Metadata {
        #[serde(rename = "continue", default)]
        next: String,
    }
    let client = bed.cluster.client();
    let mut next = String::new();
    loop {
        let path = format!("/apis/apps/v1/{kind}?limit={PAGE}&continue={next}");
        let request = http::Request::get(path).body(Vec::new())?;
        let text = client.request_text(request).await?;
        // The metadata of a list come before its items, so the rest is not read.
        let end = text.find("\"items\"").context("no list")?;
        let head = text[..end].trim_end_matches([' ', '\n', ',']);
        let page: Page = serde_json::from_str(&format!("{head}}}"))?;
        if page.metadata.next.is_empty() {
            return Ok(());
        }
        next = page.metadata.next;
    }
}

fn path(number: usize, secrets: usize) -> String {
    let number = number % secrets;
    format!("scale/{}/{number}", number % FOLDERS)
}

fn idle_polls(controller: &Controller) -> usize {
    controller.lines_with("No workloads to reload").len()
}

async fn fill(bed: &Bed, workloads: usize, secrets: usize, say: &mut Say) -> Result<()> {
    let began = Instant::now();
    let kv = bed.vault.kv("secret");
    stream::iter(0..secrets)
        .map(|number| {
            let (kv, path) = (kv.clone(), path(number, secrets));
            async move { kv.put(&path, json!({ "x": "1" })).await.map(drop) }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    for number in 0..NAMESPACES {
        bed.cluster.create_namespace(&format!("scale-{number}")).await?;
    }
    stream::iter(0..workloads)
        .map(|number| {
            let value = format!("vault:secret/data/{}#x", path(number, secrets));
            let namespace = format!("scale-{}", number % NAMESPACES);
            // About 2.5 kB each, as Deployments are.
            let workload = Workload::deployment(&namespace, &format!("workload-{number}"))
                .replicas(0)
                .opted_in()
                .annotation("description", &"x".repeat(1200))
                .env("SECRET", &value)
                .env("PLAIN", &"y".repeat(400));
            let cluster = &bed.cluster;
            async move { cluster.create_object(&workload.manifest(), "deployments").await.map(drop) }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await
        .context("the workloads")?;
    // Otherwise the controller would have to check workloads without a revision again.
    eventually("the Deployments to be seen by their controller", WITHIN, || async {
        Ok(all_are_observed(bed).await?.then_some(()))
    })
    .await?;
    say.line(&format!(
        "{secrets} secrets and {workloads} Deployments made in {:.0} s.",
        began.elapsed().as_secs_f32()
    ));
    Ok(())
}

async fn all_are_observed(bed: &Bed) -> Result<bool> {
    let mut next = String::new();
    loop {
        let path = format!("/apis/apps/v1/deployments?limit=500&continue={next}");
        let page = bed.cluster.get_path(&path).await?;
        let items = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        if items.iter().any(|item| item["status"]["observedGeneration"].is_null()) {
            return Ok(false);
        }
        match page["metadata"]["continue"].as_str() {
            Some(token) if !token.is_empty() => token.clone_into(&mut next),
            _ => return Ok(true),
        }
    }
}

async fn row(
    bed: &Bed,
    controller: &Controller,
    mark: &e2e::Mark,
    when: &str,
    table: &mut Table,
) -> Result<()> {
    let (now, peak) = controller.memory()?;
    let megabytes =
        |bytes: u64| format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000);
    table.row([
        when.to_owned(),
        megabytes(now),
        megabytes(peak),
        format!("{:.2} s", controller.cpu()?.as_secs_f32()),
        bed.api_requests_of(USER_AGENT, mark).await?.len().to_string(),
        bed.vault_requests_since(mark)?.len().to_string(),
    ]);
    Ok(())
}
