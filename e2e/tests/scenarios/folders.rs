//! Folders: listed where that costs the server less, and never believed about what is not in them.

use std::ops::Deref;

use anyhow::{Context as _, Result};
use e2e::scenario::{AT_ONCE, HEARTBEAT, SOON, just_after_a_poll, polling_fast};
use e2e::shared::SharedBed;
use e2e::{Bed, Controller, ControllerOptions, TokenRequest, VaultRequest, Workload};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::json;

e2e::scenarios! {
    most_of_a_folder_is_read_by_the_page_and_a_few_of_many_one_by_one: lists_metadata,
    what_is_not_in_a_list_is_asked_for_alone: lists_metadata,
    without_the_capability_all_are_read_one_by_one,
    requests_are_spread_over_the_period_if_asked: long,
}

/// A policy, beside what every policy of the controller has.
const READ: &str = "path \"secret/metadata/*\" { capabilities = [\"read\"] }\n";

/// A bed with folders of secrets, and a controller of workloads that refer to some of them.
struct Folders<B = SharedBed> {
    bed: B,
}

impl<B: Deref<Target = Bed>> Folders<B> {
    /// Writes secrets 0000, 0001 and so on of a folder.
    async fn new(bed: B, folders: &[(&str, usize)]) -> Result<Self> {
        let kv = bed.vault.kv("secret");
        for (folder, number) in folders {
            stream::iter(0..*number)
                .map(|number| {
                    let kv = &kv;
                    async move { kv.put(&path(folder, number), json!({ "k": "1" })).await }
                })
                .buffer_unordered(AT_ONCE)
                .try_for_each(|_| async { Ok(()) })
                .await?;
        }
        e2e::scenario::next_second().await?;
        Ok(Self { bed })
    }

    /// What was asked of a folder, or of a secret, in the polls that a controller makes from now on.
    async fn asked(&self, controller: &Controller, folder: &str) -> Result<Asked> {
        just_after_a_poll(controller).await?;
        let before = self.bed.mark().await?;
        just_after_a_poll(controller).await?;
        let requests = self.bed.vault_requests_since(&before)?;
        let of = |start: String| {
            requests.iter().filter(|request| request.path.starts_with(&start)).count()
        };
        Ok(Asked {
            lists: of(format!("secret/detailed-metadata/{folder}")),
            reads: of(format!("secret/metadata/{folder}")),
        })
    }
}

/// Requests of one poll.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    lists: usize,
    reads: usize,
}

fn path(folder: &str, number: usize) -> String {
    format!("{folder}/{number:04}")
}

/// A Deployment without pods that refers to secrets of a folder, by their numbers.
fn workload(name: &str, folder: &str, numbers: impl Iterator<Item = usize>) -> Workload {
    let workload = Workload::deployment("default", name).replicas(0).opted_in();
    numbers.fold(workload, |workload, number| {
        let reference = format!("vault:secret/data/{}#k", path(folder, number));
        workload.env(&format!("A{number}"), &reference)
    })
}

/// Polls that are over well before the next begins.
fn polling() -> ControllerOptions {
    ControllerOptions::new().flag("--reloader-run-period", "2s")
}

async fn most_of_a_folder_is_read_by_the_page_and_a_few_of_many_one_by_one() -> Result<()> {
    let bed = Box::new(Bed::for_many_secrets().await?);
    let folders = Folders::new(bed, &[("most", 1_200), ("few", 300)]).await?;
    let bed = &folders.bed;
    // One workload is watched for at most 1,000.
    let most = workload("most", "most", 0..600);
    let rest = workload("rest", "most", 600..1_200);
    let few = workload("few", "few", (0..300).step_by(100));
    bed.deploy_all(&[&most, &rest, &few]).await?;
    let before = bed.mark().await?;
    let controller = Controller::start(bed, &polling()).await?;
    just_after_a_poll(&controller).await?;
    // That there are too many keys has to be found out, once.
    let tried = bed.vault_requests_since(&before)?;
    let is_of_few = |request: &&VaultRequest| request.path.contains("detailed-metadata/few/");
    assert_eq!(tried.iter().filter(is_of_few).count(), 1, "{tried:#?}");

    // The first read of a poll is a GET, of whichever secret.
    let Asked { lists, reads } = folders.asked(&controller, "most/").await?;
    assert!(lists == 2 && reads <= 1, "{lists} LISTs, {reads} GETs");
    assert_eq!(folders.asked(&controller, "few/").await?, Asked { lists: 0, reads: 3 });

    bed.rotate(&path("most", 1_111)).await?;
    bed.rotate(&path("few", 100)).await?;
    bed.expect_rolls(&controller, &[&rest, &few], 1).await?;
    bed.expect_no_value_touched(&before)
}

async fn what_is_not_in_a_list_is_asked_for_alone() -> Result<()> {
    let folders = Folders::new(Bed::shared().await?, &[("a", 40)]).await?;
    let bed = &folders.bed;
    let kv = bed.vault.kv("secret");
    let workload = workload("a", "a", 0..40);
    bed.deploy_all(&[&workload]).await?;
    let controller = Controller::start(bed, &polling()).await?;
    let Asked { lists, reads } = folders.asked(&controller, "a/").await?;
    assert!(lists == 1 && reads <= 1, "{lists} LISTs, {reads} GETs");

    // One that is no more is not in the list either, and that is no proof.
    kv.delete_metadata(&path("a", 7)).await?;
    controller.wait_for("Vault secret path secret/data/a/0007 not found", SOON).await?;
    assert_eq!(folders.asked(&controller, "a/0007").await?, Asked { lists: 0, reads: 1 });
    bed.rotate(&path("a", 39)).await?;
    controller.wait_for("Not reloading default/Deployment/a", SOON).await?;
    bed.rotate(&path("a", 7)).await?;
    bed.expect_rolls(&controller, &[&workload], 1).await
}

async fn without_the_capability_all_are_read_one_by_one() -> Result<()> {
    let folders = Folders::new(Bed::shared().await?, &[("b", 20)]).await?;
    let bed = &folders.bed;
    let workload = workload("b", "b", 0..20);
    bed.deploy_all(&[&workload]).await?;
    // OpenBao denies a page that is longer than the policy lets pages be, too.
    let short = "path \"secret/detailed-metadata/*\" { capabilities = [\"list\"]\n \
                 pagination_limit = 10 }\n";
    let mut policies = vec![READ.to_owned()];
    if bed.vault.is_openbao() {
        policies.push(format!("{READ}{short}"));
    }
    for (count, rules) in policies.iter().enumerate() {
        bed.vault.put_policy("read", rules).await?;
        let request = TokenRequest { policies: vec!["read".to_owned()], ..TokenRequest::default() };
        let token = bed.vault.create_token(&request).await?.token;
        let mut controller = Controller::start(bed, &polling_fast().vault_token(&token)).await?;
        let said = "path \\\"secret/detailed-metadata/*\\\" { capabilities = [\\\"list\\\"] }";
        controller.wait_for(said, SOON).await?;
        assert_eq!(folders.asked(&controller, "b/").await?, Asked { lists: 0, reads: 20 });
        assert_eq!(controller.lines_with(said).len(), 1);
        bed.rotate(&path("b", 3)).await?;
        bed.expect_rolls(&controller, &[&workload], i64::try_from(count)? + 1).await?;
        controller.terminate().await?;
    }
    Ok(())
}

async fn requests_are_spread_over_the_period_if_asked() -> Result<()> {
    let folders = Folders::new(Bed::shared().await?, &[("spread", 8)]).await?;
    let bed = &folders.bed;
    bed.vault.put_policy("spread", READ).await?;
    let request = TokenRequest { policies: vec!["spread".to_owned()], ..TokenRequest::default() };
    let token = bed.vault.create_token(&request).await?.token;
    let workload = workload("spread", "spread", 0..8);
    bed.deploy_all(&[&workload]).await?;
    let options = ControllerOptions::new()
        .flag("--reloader-run-period", "5s")
        .switch("--vault-spread")
        .vault_token(&token);
    let controller = Controller::start(bed, &options).await?;
    // The first poll also finds out what is mounted, and whether it can be listed.
    controller.wait_for_polls(2, SOON).await?;
    let seen = controller.lines().len();
    controller.wait_for_polls(2, SOON).await?;
    let lines = controller.lines();
    let mut lines = lines.iter().skip(seen);
    // Of a poll that begins behind there, both its first line and its last.
    let mut time_of = |what: &str| {
        let line = lines.find(|line| line.text.contains(what));
        let mut words = line.into_iter().flat_map(|line| line.text.split_whitespace());
        let time = words.find_map(|word| word.strip_prefix("time="));
        let time = time.and_then(|time| time.parse::<jiff::Timestamp>().ok());
        time.with_context(|| format!("no line says {what}"))
    };
    let began = time_of("Reloader started")?;
    let took = time_of(HEARTBEAT)?.duration_since(began).as_secs_f64();
    // Eight within four seconds, the first of them at once.
    assert!((3.0..5.0).contains(&took), "took {took} s");
    bed.rotate(&path("spread", 3)).await?;
    bed.expect_rolls(&controller, &[&workload], 1).await
}
