//! The try-out that users of the reloader know, with its seven workloads under their own names.

use anyhow::{Context as _, Result};
use e2e::binaries::workspace;
use e2e::controller_log::Stream;
use e2e::scenario::{HEARTBEAT, SOON, just_after_a_poll, polling_fast};
use e2e::shared::SharedBed;
use e2e::{Bed, Controller, Kind, Mark, VaultRequest, WorkloadName, eventually};
use serde_json::json;

e2e::scenarios! {
    a_changed_secret_rolls_the_right_workloads,
    two_secrets_that_changed_in_one_poll_roll_a_workload_once,
    a_workload_that_lost_its_reference_does_not_roll,
    a_deleted_secret_is_named_once,
    an_unchanged_poll_costs_a_read_a_list_and_one_line,
}

const TO_BE_RELOADED: &str = "deployment-to-be-reloaded";
const ANNOTATED_RELOAD: &str = "deployment-annotated-reload";
const STATEFUL_SET: &str = "statefulset";
const DAEMON_SET: &str = "daemonset";

/// The seven, by their names without the prefix that all have.
const ALL: [(Kind, &str); 7] = [
    (Kind::Deployment, TO_BE_RELOADED),
    (Kind::Deployment, "deployment-no-reload"),
    (Kind::Deployment, "deployment-fixed-versions-no-reload"),
    (Kind::Deployment, ANNOTATED_RELOAD),
    (Kind::Deployment, "deployment-annotated-no-reload"),
    (Kind::StatefulSet, STATEFUL_SET),
    (Kind::DaemonSet, DAEMON_SET),
];

/// The distinct secrets that the opted-in ones of them refer to without a version.
const WATCHED: [&str; 3] = ["mysql", "accounts/aws", "dockerrepo"];

fn name_of((kind, short): (Kind, &str)) -> WorkloadName {
    WorkloadName::new(kind, "default", &format!("reloader-test-{short}"))
}

/// The seven workloads, rolled out, and a controller that has seen them.
struct Stage {
    bed: SharedBed,
    controller: Controller,
    start: Mark,
}

impl Stage {
    async fn set() -> Result<Self> {
        let bed = Bed::shared().await?;
        bed.write_secrets(&WATCHED).await?;
        let manifests = workspace().join("deploy/examples/workloads.yaml");
        let manifests = manifests.to_str().context("the path of the examples is not text")?;
        bed.kubectl(&["apply", "--namespace", "default", "--filename", manifests]).await?;
        for workload in ALL {
            bed.cluster.wait_rolled_out(name_of(workload)).await?;
        }
        let start = bed.mark().await?;
        // As the README shows it, with the program's own rules for rollouts.
        let controller = Controller::start(&bed, &polling_fast().usual_rollouts()).await?;
        just_after_a_poll(&controller).await?;
        Ok(Self { bed, controller, start })
    }

    /// Waits until these were reloaded once, and sees that in two more polls nothing else was.
    async fn only_these_rolled_once(&self, rolled: &[&str]) -> Result<()> {
        for workload in ALL.into_iter().filter(|(_, short)| rolled.contains(short)) {
            let name = name_of(workload);
            self.bed.cluster.wait_for_count(&name, 1, SOON).await?;
            self.bed.cluster.wait_rolled_out(&name).await?;
        }
        self.controller.wait_for_polls(2, SOON).await?;
        for workload @ (_, short) in ALL {
            let name = name_of(workload);
            let wanted = rolled.contains(&short).then_some(1);
            let state = self.bed.cluster.get(&name).await?;
            let lines = self.controller.last_lines();
            assert_eq!(state.count(), wanted, "{name}; {lines}");
            assert_eq!(state.mark().is_some(), wanted.is_some(), "{name}");
            let line = format!("msg=\"Reloading workload: {name}\"");
            let lines = self.controller.lines_with(&line);
            assert_eq!(lines.len(), usize::from(wanted.is_some()), "{line}: {lines:#?}");
            assert!(lines.iter().all(|line| line.stream == Stream::Stdout));
        }
        Ok(())
    }

    /// Sees that since the start no value was touched, and that the API server was asked for
    /// nothing but what has to be: a watch a kind, revisions once, and one PATCH a reload.
    async fn little_was_asked(&self, reloads: usize) -> Result<()> {
        self.bed.expect_no_value_touched(&self.start)?;
        let requests = self.bed.requests_beyond_the_start(&self.start).await?;
        let (patches, others): (Vec<_>, Vec<_>) =
            requests.iter().partition(|request| request.verb == "patch");
        assert_eq!(patches.len(), reloads, "{requests:#?}");
        assert!(patches.iter().all(|request| request.code == 200), "{requests:#?}");
        // All secrets are younger than a day, so at the start the revisions had to be looked at.
        for resource in ["replicasets", "controllerrevisions"] {
            let lists = others.iter().filter(|r| r.verb == "list" && r.resource == resource);
            assert!(lists.count() <= 1, "{requests:#?}");
        }
        assert!(others.iter().all(|request| request.verb == "list"), "{requests:#?}");
        Ok(())
    }
}

async fn a_changed_secret_rolls_the_right_workloads() -> Result<()> {
    let stage = Stage::set().await?;
    stage.only_these_rolled_once(&[]).await?;
    let before = stage.bed.mark().await?;
    stage.bed.rotate("mysql").await?;
    stage.only_these_rolled_once(&[TO_BE_RELOADED, STATEFUL_SET]).await?;
    for workload in [ALL[0], ALL[5]] {
        let revisions = stage.bed.cluster.revisions(name_of(workload)).await?;
        assert_eq!(revisions.len(), 2, "{}", name_of(workload));
    }
    // What is seen to change under way needs no look at revisions, and no GET.
    let requests = stage.bed.requests_beyond_the_start(&before).await?;
    assert!(requests.iter().all(|request| request.verb == "patch"), "{requests:#?}");
    stage.little_was_asked(2).await
}

async fn two_secrets_that_changed_in_one_poll_roll_a_workload_once() -> Result<()> {
    let stage = Stage::set().await?;
    just_after_a_poll(&stage.controller).await?;
    stage.bed.rotate("accounts/aws").await?;
    stage.bed.rotate("dockerrepo").await?;
    // Each of them refers to one of the two, and the DaemonSet to both.
    let rolled = [TO_BE_RELOADED, ANNOTATED_RELOAD, STATEFUL_SET, DAEMON_SET];
    stage.only_these_rolled_once(&rolled).await?;
    let line = stage.controller.wait_for("DaemonSet/reloader-test-daemonset\"", SOON).await?;
    for secret in ["secret/data/accounts/aws", "secret/data/dockerrepo"] {
        assert!(line.text.contains(secret), "{}", line.text);
    }
    stage.little_was_asked(4).await
}

async fn a_workload_that_lost_its_reference_does_not_roll() -> Result<()> {
    let stage = Stage::set().await?;
    let name = name_of(ALL[0]);
    let state = stage.bed.cluster.get(&name).await?;
    let mut container = state.template()["spec"]["containers"][0].clone();
    let env = container["env"].as_array_mut().context("no variables")?;
    env.retain(|variable| variable["name"] != "MYSQL_PASSWORD");
    let pod = json!({"initContainers": null, "containers": [container]});
    stage.bed.cluster.patch(&name, &json!({"spec": {"template": {"spec": pod}}})).await?;
    stage.bed.cluster.wait_rolled_out(&name).await?;
    just_after_a_poll(&stage.controller).await?;
    stage.bed.rotate("mysql").await?;
    stage.only_these_rolled_once(&[STATEFUL_SET]).await?;
    stage.bed.expect_no_value_touched(&stage.start)
}

async fn a_deleted_secret_is_named_once() -> Result<()> {
    let stage = Stage::set().await?;
    stage.bed.vault.kv("secret").delete_metadata("mysql").await?;
    let wanted = "level=error msg=\"Vault secret path secret/data/mysql not found\" \
                  app=vault-secrets-reloader worker=reloader";
    let line = stage.controller.wait_for(wanted, SOON).await?;
    assert!(line.text.starts_with("time=") && line.text.ends_with(wanted), "{}", line.text);
    assert_eq!(line.stream, Stream::Stderr);
    stage.only_these_rolled_once(&[]).await?;
    assert_eq!(stage.controller.lines_with("not found").len(), 1);
    let errors = stage.controller.lines_with("level=error");
    assert_eq!(errors.len(), 1, "{errors:#?}");
    stage.little_was_asked(0).await
}

async fn an_unchanged_poll_costs_a_read_a_list_and_one_line() -> Result<()> {
    const POLLS: usize = 3;
    let stage = Stage::set().await?;
    // Three workloads have pinned references and one an address that is not declared, of which
    // each is told once.
    eventually("the four Events of the start", SOON, || async {
        let requests = stage.bed.api_requests_of("vault-secrets-reloader/", &stage.start).await?;
        let events = requests.iter().filter(|request| request.resource == "events");
        Ok((events.count() == 4).then_some(()))
    })
    .await?;
    just_after_a_poll(&stage.controller).await?;
    let before = stage.bed.mark().await?;
    let seen = stage.controller.lines().len();
    for _ in 0..POLLS {
        just_after_a_poll(&stage.controller).await?;
    }
    let asked = stage.bed.vault_requests_since(&before)?;
    let lines = stage.controller.lines().split_off(seen);
    let requests = stage.bed.api_requests_of("vault-secrets-reloader/", &before).await?;
    assert_eq!(requests, []);
    // On OpenBao, one list answers for the two secrets of the root folder.
    let each: &[(&str, &str)] = if stage.bed.vault.is_openbao() {
        &[("read", "secret/metadata/accounts/aws"), ("list", "secret/detailed-metadata/")]
    } else {
        &[
            ("read", "secret/metadata/accounts/aws"),
            ("read", "secret/metadata/dockerrepo"),
            ("read", "secret/metadata/mysql"),
        ]
    };
    for &(operation, path) in each {
        let is_it = |it: &&VaultRequest| it.operation == operation && it.path == path;
        assert_eq!(asked.iter().filter(is_it).count(), POLLS, "{asked:#?}");
    }
    assert_eq!(asked.len(), POLLS * each.len(), "{asked:#?}");
    let loud: Vec<_> = lines.iter().filter(|line| !line.text.contains("level=debug")).collect();
    assert_eq!(loud.len(), POLLS, "{loud:#?}");
    let is_heartbeat = |text: &str| text.contains(HEARTBEAT) && text.contains("level=info");
    assert!(loud.iter().all(|line| is_heartbeat(&line.text)), "{loud:#?}");
    Ok(())
}
