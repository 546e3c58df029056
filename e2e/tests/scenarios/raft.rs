//! A Vault cluster of three nodes behind one address: standbys that lag behind, and leaders that are
//! lost. Each new version reloads each workload once.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use e2e::raft::NODES;
use e2e::scenario::{SOON, next_second, polling_fast, polling_faster};
use e2e::shared::SharedBed;
use e2e::{Bed, Controller, ControllerOptions, RaftVault, Workload, eventually};
use reqwest::Method;
use serde_json::{Value, json};

e2e::scenarios! {
    each_rotation_reloads_once_when_reads_are_spread_over_three_nodes: needs_openbao,
    a_standby_that_lags_for_many_polls_reloads_nothing_when_reads_are_spread: needs_openbao,
    a_standby_that_lags_and_answers_alone_for_many_polls_reloads_nothing: needs_openbao,
    a_standby_that_has_caught_up_by_the_second_poll_reloads_nothing: needs_openbao,
    rotations_around_the_loss_of_the_leader_reload_once: needs_openbao,
    rotations_around_a_step_down_reload_once: needs_openbao,
}

/// How many secrets there are, each with a workload that uses it.
const SECRETS: usize = 6;

const LOGIN: &str = "/v1/auth/approle/login";

/// What the controller says at the debug level of an answer that a lagging standby gave.
const STALE: &str = "the answer is older than what is known";

/// A cluster with secrets, and workloads that use one secret each.
struct Scene {
    bed: SharedBed,
    raft: RaftVault,
    secrets: Vec<String>,
    workloads: Vec<Workload>,
    role_id: String,
    secret_id: String,
}

impl Scene {
    /// `name` is of the scenario: its nodes, secrets and workloads are called so.
    async fn new(name: &str) -> Result<Self> {
        let bed = Bed::shared().await?;
        let raft = bed.raft_vault(name).await?;
        let secrets: Vec<String> = (0..SECRETS).map(|number| format!("{name}/{number}")).collect();
        for secret in &secrets {
            raft.rotate(secret).await?;
        }
        let (role_id, secret_id) = put_role(&raft).await?;
        next_second().await?;
        let deployment = |secret: &String| {
            Workload::deployment("default", &secret.replace('/', "-"))
                .replicas(0)
                .opted_in()
                .env("A", &format!("vault:secret/data/{secret}#k"))
        };
        let workloads: Vec<Workload> = secrets.iter().map(deployment).collect();
        let scene = Self { bed, raft, secrets, workloads, role_id, secret_id };
        scene.bed.deploy_all(&scene.workloads()).await?;
        Ok(scene)
    }

    fn workloads(&self) -> Vec<&Workload> {
        self.workloads.iter().collect()
    }

    /// Starts a controller that logs in through the balancer.
    async fn start(&self, options: ControllerOptions) -> Result<Controller> {
        let file = self.bed.folder().join("secret-id-of-the-cluster");
        fs::write(&file, &self.secret_id)?;
        let options = options
            .without_vault_token()
            .env("VAULT_ADDR", self.raft.address())
            .env("VAULT_AUTH_METHOD", "approle")
            .env("VAULT_ROLE_ID", &self.role_id)
            .env("VAULT_SECRET_ID_FILE", file);
        let controller = Controller::start(&self.bed, &options).await?;
        controller.wait_for_polls(1, SOON).await?;
        Ok(controller)
    }

    async fn rotate_all(&self) -> Result<()> {
        self.rotate(0..SECRETS).await
    }

    async fn rotate(&self, numbers: std::ops::Range<usize>) -> Result<()> {
        for secret in &self.secrets[numbers] {
            self.raft.rotate(secret).await?;
        }
        Ok(())
    }

    /// Waits until every workload has been reloaded so often, and is rolled out.
    async fn wait_for_reloads(&self, times: i64) -> Result<()> {
        let workloads = self.workloads();
        eventually("every workload to be reloaded", SOON, || async {
            let counts = self.bed.counts(&workloads).await?;
            Ok(counts.iter().all(|count| *count == Some(times)).then_some(()))
        })
        .await?;
        for workload in workloads {
            self.bed.cluster.wait_rolled_out(workload).await?;
        }
        Ok(())
    }

    /// Every workload has been reloaded so often, and is not reloaded once more. Afterwards the next
    /// rotation may come.
    async fn expect_reloads(&self, controller: &Controller, times: i64) -> Result<()> {
        self.bed.expect_rolls(controller, &self.workloads(), times).await?;
        self.wait_for_reloads(times).await
    }

    /// Holds a standby back that sees the first version of each secret, and tells which: leader, and
    /// standby.
    async fn hold_a_standby_back(&self) -> Result<(usize, usize)> {
        let (leader, [lagging, _]) = self.raft.roles().await?;
        self.wait_for_version(lagging, 1).await?;
        self.raft.hold_back(lagging);
        Ok((leader, lagging))
    }

    /// A standby that was held back for one rotation catches up, which reloads nothing; then the next
    /// rotation reloads everything.
    async fn expect_one_more_after_catching_up(
        &self,
        controller: &Controller,
        lagging: usize,
    ) -> Result<()> {
        self.wait_for_version(lagging, 1).await?;
        self.expect_reloads(controller, 1).await?;
        self.raft.catch_up(lagging);
        self.wait_for_version(lagging, 2).await?;
        self.expect_reloads(controller, 1).await?;
        self.rotate_all().await?;
        self.expect_reloads(controller, 2).await?;
        self.expect_few_logins(1)
    }

    /// Waits until a node sees a version of each secret.
    async fn wait_for_version(&self, node: usize, version: u64) -> Result<()> {
        for secret in &self.secrets {
            self.raft.wait_for_version(node, secret, version).await?;
        }
        Ok(())
    }

    /// How many reads of secrets each node has answered.
    fn reads(&self) -> [usize; NODES] {
        let mut reads = [0; NODES];
        for answered in self.raft.answered() {
            if answered.target.contains("metadata/") && answered.status == 200 {
                reads[answered.server] += 1;
            }
        }
        reads
    }

    /// The controller has sent so many logins at most, and has read metadata only.
    fn expect_few_logins(&self, at_most: usize) -> Result<()> {
        let answered = self.raft.answered();
        let logins: Vec<_> = answered.iter().filter(|answered| answered.target == LOGIN).collect();
        ensure!((1..=at_most).contains(&logins.len()), "{logins:#?}");
        let requests = self.raft.requests()?;
        let touching = requests.iter().find(|request| request.touches_a_value());
        ensure!(!requests.is_empty() && touching.is_none(), "{touching:?}");
        Ok(())
    }
}

/// Writes a role of `auth/approle`, and returns its role id and a secret id.
async fn put_role(raft: &RaftVault) -> Result<(String, String)> {
    let vault = &raft.nodes()[raft.leader().await?].vault;
    let ask = |method, path: &'static str, body| vault.ask(method, path, body);
    ask(Method::POST, "sys/auth/approle", Some(json!({"type": "approle"}))).await?;
    let role = "auth/approle/role/reloader";
    let settings = json!({"token_policies": ["reloader"], "token_ttl": "1h"});
    ask(Method::POST, role, Some(settings)).await?;
    let role_id = ask(Method::GET, "auth/approle/role/reloader/role-id", None).await?;
    let secret_id =
        ask(Method::POST, "auth/approle/role/reloader/secret-id", Some(json!({}))).await?;
    let text = |answer: &Value, name: &str| {
        let found = answer["data"][name].as_str().map(str::to_owned);
        found.with_context(|| format!("no {name}"))
    };
    Ok((text(&role_id, "role_id")?, text(&secret_id, "secret_id")?))
}

async fn each_rotation_reloads_once_when_reads_are_spread_over_three_nodes() -> Result<()> {
    const ROTATIONS: i64 = 6;
    let scene = Scene::new("spread").await?;
    let controller = scene.start(polling_faster()).await?;
    for times in 1..=ROTATIONS {
        scene.rotate_all().await?;
        scene.expect_reloads(&controller, times).await?;
    }
    let reads = scene.reads();
    assert!(reads.iter().all(|count| *count > 0), "reads per node: {reads:?}");
    scene.expect_few_logins(1)
}

async fn a_standby_that_lags_for_many_polls_reloads_nothing_when_reads_are_spread() -> Result<()> {
    const POLLS: usize = 8;
    let scene = Scene::new("lagging").await?;
    let controller = scene.start(polling_faster()).await?;
    let (_, lagging) = scene.hold_a_standby_back().await?;
    scene.rotate_all().await?;
    scene.expect_reloads(&controller, 1).await?;

    // A third of all requests is answered with the versions from before.
    let before = scene.reads();
    controller.wait_for_polls(POLLS, SOON).await?;
    let after = scene.reads();
    assert!(after[lagging] > before[lagging], "reads per node: {before:?}, then {after:?}");
    scene.expect_one_more_after_catching_up(&controller, lagging).await
}

async fn a_standby_that_lags_and_answers_alone_for_many_polls_reloads_nothing() -> Result<()> {
    const POLLS: usize = 8;
    let scene = Scene::new("alone").await?;
    let controller = scene.start(polling_faster()).await?;
    let (leader, lagging) = scene.hold_a_standby_back().await?;
    scene.raft.direct(&[leader]);
    scene.rotate_all().await?;
    scene.expect_reloads(&controller, 1).await?;

    // The balancer moves to the standby, and stays there.
    let before = scene.reads();
    scene.raft.direct(&[lagging]);
    controller.wait_for_polls(POLLS, SOON).await?;
    assert!(scene.reads()[lagging] >= before[lagging] + POLLS, "{before:?}, {:?}", scene.reads());
    scene.expect_one_more_after_catching_up(&controller, lagging).await
}

async fn a_standby_that_has_caught_up_by_the_second_poll_reloads_nothing() -> Result<()> {
    let scene = Scene::new("behind").await?;
    // An older version is asked for again after a second: long enough to stop the controller.
    let options = ControllerOptions::new().flag("--reloader-run-period", "2s");
    let controller = scene.start(options).await?;
    let (leader, lagging) = scene.hold_a_standby_back().await?;
    scene.raft.direct(&[leader]);
    scene.rotate_all().await?;
    scene.wait_for_reloads(1).await?;

    // The balancer moves to the standby, which answers a whole poll with the versions from before.
    let (lines, polls, reads) = (controller.lines().len(), controller.polls(), scene.reads());
    scene.raft.direct(&[lagging]);
    eventually("the end of a poll", SOON, || async {
        let is_stale = controller.lines().iter().skip(lines).any(|line| line.text.contains(STALE));
        let has_ended = controller.polls() > polls + 1;
        let has_read = scene.reads()[lagging] > reads[lagging];
        Ok((has_read && (is_stale || has_ended)).then_some(()))
    })
    .await?;
    controller.pause()?;
    scene.raft.catch_up(lagging);
    scene.wait_for_version(lagging, 2).await?;
    controller.resume()?;
    controller.wait_for_polls(1, SOON).await?;
    scene.wait_for_reloads(1).await?;

    // The standby alone is enough to see the next rotation.
    scene.rotate_all().await?;
    scene.expect_reloads(&controller, 2).await?;
    scene.expect_few_logins(1)
}

async fn rotations_around_the_loss_of_the_leader_reload_once() -> Result<()> {
    let scene = Scene::new("killed").await?;
    let controller = scene.start(polling_fast()).await?;
    for times in 1..=2 {
        let leader = scene.raft.leader().await?;
        scene.rotate(0..2).await?;
        scene.raft.nodes()[leader].server.kill();
        let next = scene.raft.leader().await?;
        assert_ne!(leader, next);
        scene.rotate(2..4).await?;
        scene.raft.nodes()[leader].server.start().await?;
        scene.rotate(4..SECRETS).await?;
        scene.expect_reloads(&controller, times).await?;
    }
    scene.expect_few_logins(1)
}

async fn rotations_around_a_step_down_reload_once() -> Result<()> {
    let scene = Scene::new("stepping").await?;
    let controller = scene.start(polling_fast()).await?;
    for times in 1..=3 {
        scene.rotate(0..3).await?;
        scene.raft.step_down().await?;
        scene.rotate(3..SECRETS).await?;
        scene.expect_reloads(&controller, times).await?;
    }
    scene.expect_few_logins(1)
}
