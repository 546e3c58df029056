//! The demo of the controller's main job: secrets are rotated, and a table shows which workloads
//! were reloaded, which were not, and why.
//!
//! The demo is also a check: it fails if the result differs from the expected one.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use e2e::deploy::allow_login;
use e2e::{Bed, Controller, ControllerOptions, Options, State, Table, WorkloadName};
use serde_json::json;
use tokio::time::sleep;

use super::demo_scene::{AWS, Actor, DOCKER, Expected, MYSQL, TO_BE_RELOADED, api_path, cast};
use super::say::Say;

const NAMESPACE: &str = "demo";
/// The settle time, and the two seconds by which times of Kubernetes and of Vault may differ.
const SETTLE_TIME: Duration = Duration::from_secs(5);

/// The longest wait for a reload. The controller polls each second, so a workload that was not
/// reloaded by then will not be.
const ROLL_WITHIN: Duration = Duration::from_secs(20);
const USER_AGENT: &str = "vault-secrets-reloader/";

/// Brings the servers up, runs the demo, and ends everything.
pub(crate) async fn once(say: &mut Say) -> Result<()> {
    let began = Instant::now();
    say.line(
        "Starting etcd, kube-apiserver, kube-controller-manager, kube-scheduler, KWOK, Vault...",
    );
    let bed = Bed::start(Options::new()).await?;
    say.line(&format!("Ready after {:.1} s.", began.elapsed().as_secs_f32()));
    let controller = run(&bed, say).await?;
    drop(controller);
    drop(bed);
    say.line(&format!("All servers have ended. {:.0} s in all.", began.elapsed().as_secs_f32()));
    Ok(())
}

/// Runs the demo on a bed. The controller runs until it is dropped.
pub(crate) async fn run(bed: &Bed, say: &mut Say) -> Result<Controller> {
    let mut stage = Stage::set(bed, say).await?;
    stage.nothing_rolls_at_the_start().await?;
    stage.one_secret_changes().await?;
    stage.two_secrets_change_at_once().await?;
    stage.a_reference_is_removed().await?;
    stage.a_secret_is_deleted().await?;
    stage.closing().await?;
    Ok(stage.controller)
}

struct Stage<'a> {
    bed: &'a Bed,
    say: &'a mut Say,
    controller: Controller,
    actors: Vec<Actor>,
    start: e2e::Mark,
    at_the_start: Vec<i64>,
    rolls: usize,
}

/// The state of a workload since a step began.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    count: i64,
    before: i64,
    ready: String,
    after: Option<Duration>,
}

impl<'a> Stage<'a> {
    /// Creates the secrets and workloads, and starts the controller, which logs in with a real
    /// token of a `ServiceAccount`.
    async fn set(bed: &'a Bed, say: &'a mut Say) -> Result<Self> {
        clear(bed).await?;
        for secret in [MYSQL, AWS, DOCKER] {
            rotate(bed, secret).await?;
        }
        bed.cluster.create_namespace(NAMESPACE).await?;
        say.line(
            "The secrets are written. Workloads are deployed after the settle time of 3 seconds.",
        );
        sleep(SETTLE_TIME).await;
        let actors = cast(NAMESPACE);
        for actor in &actors {
            bed.cluster.apply(&actor.workload).await?;
        }
        for actor in &actors {
            bed.cluster.wait_rolled_out(&actor.workload).await?;
        }
        say.line(&format!("{} workloads are deployed; their pods are ready.", actors.len()));
        let start = bed.mark().await?;
        // Counted before the controller runs, so that its first reloads are seen.
        let at_the_start = counts(bed, &actors).await?;
        let controller = start_controller(bed).await?;
        controller.wait_for_polls(1, ROLL_WITHIN).await?;
        say.line(
            "The controller runs. It polls Vault each second, and logged in by auth/kubernetes.",
        );
        Ok(Self { bed, say, controller, actors, start, at_the_start, rolls: 0 })
    }

    async fn nothing_rolls_at_the_start(&mut self) -> Result<()> {
        let nothing = Expected::Leave("nothing has changed".to_owned());
        let expected = vec![nothing; self.actors.len()];
        let before = self.at_the_start.clone();
        self.play("At the start nothing rolls.", &expected, before).await
    }

    async fn one_secret_changes(&mut self) -> Result<()> {
        let expected = self.when_changed(&[MYSQL]);
        let before = self.counts().await?;
        rotate(self.bed, MYSQL).await?;
        self.play("1. secret/mysql is changed.", &expected, before).await
    }

    async fn two_secrets_change_at_once(&mut self) -> Result<()> {
        let expected = self.when_changed(&[AWS, DOCKER]);
        let before = self.counts().await?;
        self.just_after_a_poll().await?;
        futures::try_join!(rotate(self.bed, AWS), rotate(self.bed, DOCKER))?;
        let title = "2. secret/accounts/aws and secret/dockerrepo are changed: one roll for both.";
        self.play(title, &expected, before).await
    }

    async fn a_reference_is_removed(&mut self) -> Result<()> {
        for actor in &mut self.actors {
            if actor.short == TO_BE_RELOADED {
                actor.forget_secrets();
                self.bed.cluster.apply(&actor.workload).await?;
                self.bed.cluster.wait_rolled_out(&actor.workload).await?;
            }
        }
        let expected = self.when_changed(&[MYSQL]);
        let before = self.counts().await?;
        rotate(self.bed, MYSQL).await?;
        let title = format!("3. {TO_BE_RELOADED} loses its reference; secret/mysql is changed.");
        self.play(&title, &expected, before).await
    }

    async fn a_secret_is_deleted(&mut self) -> Result<()> {
        let expected: Vec<Expected> =
            self.actors.iter().map(|actor| actor.when_gone(DOCKER)).collect();
        let before = self.counts().await?;
        self.bed.vault.kv("secret").delete_metadata("dockerrepo").await?;
        let title = "4. secret/dockerrepo is deleted, with its metadata.";
        self.play(title, &expected, before).await?;
        let wanted = format!("Vault secret path {} not found", api_path(DOCKER));
        let line = self.controller.wait_for(&wanted, ROLL_WITHIN).await?;
        self.say.line(&format!("  The controller says: {}", line.text));
        Ok(())
    }

    /// Reports the number of requests, by the servers' own audit logs.
    async fn closing(&mut self) -> Result<()> {
        let vault = self.bed.vault_requests_since(&self.start)?;
        // Vault itself sends a TokenReview for each login. That is no request of the controller.
        let logins = vault.iter().filter(|request| request.is_login()).count();
        let values = vault.iter().filter(|request| request.touches_a_value()).count();
        let api = self.bed.api_requests_of(USER_AGENT, &self.start).await?;
        let patches = api.iter().filter(|request| request.patches_workload()).count();
        let denied = api.iter().filter(|request| request.code == 403).count();
        let polls = self.controller.polls();
        self.say.line("");
        self.say.line("By the audit logs of the servers:");
        self.say.line(&format!(
            "  {} reloads by {patches} PATCHes; {denied} requests denied",
            self.rolls
        ));
        self.say.line(&format!(
            "  {} requests to Vault in {polls} polls; {logins} login; {values} values read",
            vault.len()
        ));
        if patches != self.rolls || denied > 0 || values > 0 || logins != 1 {
            bail!("expected one PATCH a reload, one login, nothing denied and no value read");
        }
        self.say.line("Everything happened as expected.");
        Ok(())
    }

    fn when_changed(&self, secrets: &[&str]) -> Vec<Expected> {
        self.actors.iter().map(|actor| actor.when_changed(secrets)).collect()
    }

    /// Waits for a moment in which no poll is under way, so that one poll sees all changes made
    /// then.
    async fn just_after_a_poll(&self) -> Result<()> {
        let seen = self.controller.lines().len();
        self.controller.wait_for_after(seen, "Reloader started", ROLL_WITHIN).await?;
        // A poll of three secrets takes some milliseconds, and the next one is a second away.
        sleep(Duration::from_millis(250)).await;
        Ok(())
    }

    /// Shows the workloads until the result is known, and fails if it is not the expected one.
    async fn play(&mut self, title: &str, expected: &[Expected], before: Vec<i64>) -> Result<()> {
        let began = Instant::now();
        self.say.line(&format!("\n{title}"));
        let mut seen: Vec<Seen> = Vec::new();
        let mut drawn = 0;
        let mut polls_when_done = None;
        loop {
            let now = self.look(&before, &seen, began).await?;
            let polls = self.controller.polls();
            let has_rolled = now.iter().zip(expected).all(|(seen, expected)| {
                !expected.is_roll() || (seen.count > seen.before && seen.is_settled())
            });
            if has_rolled && polls_when_done.is_none() {
                polls_when_done = Some(polls);
            }
            // Two more polls have ended by then, so the other workloads were left alone.
            let is_over = polls_when_done.is_some_and(|done| polls >= done + 3)
                || began.elapsed() > ROLL_WITHIN;
            if now != seen || is_over {
                let table = self.table(expected, &now, is_over);
                self.draw(&table, &mut drawn, is_over);
                self.tell_of(&seen, &now);
                seen = now;
            }
            if is_over {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.check(expected, &seen)
    }

    async fn look(&self, before: &[i64], last: &[Seen], began: Instant) -> Result<Vec<Seen>> {
        let states = states(self.bed, &self.actors).await?;
        let each = states.iter().zip(before).enumerate().map(|(index, (state, before))| {
            let count = state.count().unwrap_or(0);
            let rolled = (count > *before).then(|| began.elapsed());
            Seen {
                count,
                before: *before,
                ready: if state.is_rolled_out() { "yes" } else { "not yet" }.to_owned(),
                after: last.get(index).and_then(|seen| seen.after).or(rolled),
            }
        });
        Ok(each.collect())
    }

    fn table(&self, expected: &[Expected], seen: &[Seen], is_over: bool) -> Table {
        let mut table =
            Table::new(&["workload", "uses", "what happened", "ready", "reloads", "why"]);
        for ((actor, expected), seen) in self.actors.iter().zip(expected).zip(seen) {
            let what = match seen.after {
                Some(after) => format!("rolled after {:.1} s", after.as_secs_f32()),
                None if expected.is_roll() && !is_over => "...".to_owned(),
                None => "left alone".to_owned(),
            };
            let reloads = seen.count.to_string();
            table.row([actor.short, &actor.uses(), &what, &seen.ready, &reloads, expected.why()]);
        }
        table
    }

    /// Draws the table. A terminal shows each change in place; other outputs show the table once,
    /// at the end.
    fn draw(&mut self, table: &Table, drawn: &mut usize, is_over: bool) {
        if self.say.is_terminal() {
            if *drawn > 0 {
                self.say.raw(&format!("\u{1b}[{drawn}A\u{1b}[J"));
            }
            *drawn = table.height();
            self.say.raw(&table.to_string());
        } else if is_over {
            self.say.raw(&table.to_string());
        }
    }

    fn tell_of(&mut self, before: &[Seen], now: &[Seen]) {
        if self.say.is_terminal() {
            return;
        }
        for (index, seen) in now.iter().enumerate() {
            let was_rolled = before.get(index).is_some_and(|seen| seen.after.is_some());
            if let (Some(after), false) = (seen.after, was_rolled) {
                let text =
                    format!("  {:.1} s: {} rolls", after.as_secs_f32(), self.actors[index].short);
                self.say.line(&text);
            }
        }
    }

    fn check(&mut self, expected: &[Expected], seen: &[Seen]) -> Result<()> {
        let mut wrong = Vec::new();
        for ((actor, expected), seen) in self.actors.iter().zip(expected).zip(seen) {
            let rolled = seen.count - seen.before;
            let wanted = i64::from(expected.is_roll());
            if rolled != wanted {
                wrong.push(format!("{} rolled {rolled} times instead of {wanted}", actor.short));
            }
            self.rolls += usize::try_from(rolled).unwrap_or(0);
        }
        if !wrong.is_empty() {
            let lines = self.controller.lines();
            let last = lines.iter().skip(lines.len().saturating_sub(20)).map(|line| &*line.text);
            let last = last.collect::<Vec<_>>().join("\n");
            bail!("{}\nthe controller's last lines:\n{last}", wrong.join("; "));
        }
        Ok(())
    }

    async fn counts(&self) -> Result<Vec<i64>> {
        counts(self.bed, &self.actors).await
    }
}

impl Seen {
    fn is_settled(&self) -> bool {
        self.ready == "yes"
    }
}

/// The number of reloads of each workload so far.
async fn counts(bed: &Bed, actors: &[Actor]) -> Result<Vec<i64>> {
    Ok(states(bed, actors).await?.iter().map(|state| state.count().unwrap_or(0)).collect())
}

async fn states(bed: &Bed, actors: &[Actor]) -> Result<Vec<State>> {
    let names: Vec<&WorkloadName> = actors.iter().map(|actor| actor.workload.as_ref()).collect();
    bed.cluster.get_all(&names).await
}

/// Removes the workloads of an earlier demo on this bed.
async fn clear(bed: &Bed) -> Result<()> {
    let args = ["delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait"];
    bed.kubectl(&args).await.map(drop)
}

/// Writes a new version of a secret.
async fn rotate(bed: &Bed, secret: &str) -> Result<()> {
    let path = secret.trim_start_matches("secret/");
    let data = json!({
        "MYSQL_PASSWORD": fastrand::u64(..),
        "AWS_SECRET_ACCESS_KEY": fastrand::u64(..),
        "DOCKER_REPO_PASSWORD": fastrand::u64(..),
    });
    bed.vault.kv("secret").put(path, data).await.map(drop)
}

/// Starts the controller as the chart would: with a `ServiceAccount` that the API server and Vault
/// both know.
async fn start_controller(bed: &Bed) -> Result<Controller> {
    const ACCOUNT: &str = "reloader";
    bed.cluster.create_service_account(NAMESPACE, ACCOUNT).await?;
    bed.cluster.grant_reloader(NAMESPACE, ACCOUNT).await?;
    allow_login(bed, NAMESPACE, ACCOUNT).await?;
    let token = bed.cluster.request_token(NAMESPACE, ACCOUNT, Duration::from_hours(24)).await?;
    let file = bed.folder().join("demo-token");
    fs::write(&file, token)?;
    let kubeconfig = bed.cluster.kubeconfig_for_file("demo", &file)?;
    let options = ControllerOptions::new()
        .without_flag("--settle-time")
        .kubernetes_login(e2e::deploy::ROLE, file)
        .env("KUBECONFIG", kubeconfig);
    Controller::start(bed, &options).await
}
