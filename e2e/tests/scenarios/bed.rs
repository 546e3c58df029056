//! The bed itself: what scenarios rely on must hold, or they prove nothing.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::VaultRequest;
use e2e::group::members_of;
use e2e::vault_access::KubernetesRole;
use e2e::{Bed, Options, TokenRequest, VaultStorage, Workload, eventually};
use reqwest::Method;
use serde_json::json;

e2e::scenarios! {
    beds_side_by_side_share_nothing_and_leave_nothing,
    no_process_outlives_a_killed_holder,
    requests_are_counted_exactly,
    servers_fail_and_come_back_with_their_data,
    a_test_finds_the_shared_bed_in_order,
    so_does_the_next_test,
    pods_become_ready_late_or_never_and_rollouts_are_undone,
    a_service_account_logs_in_by_a_real_token_review,
}

const SOON: Duration = Duration::from_secs(10);

fn small() -> Options {
    Options::new().without_pods().vault_storage(VaultStorage::Memory)
}

async fn beds_side_by_side_share_nothing_and_leave_nothing() -> Result<()> {
    let (one, other) = tokio::try_join!(Bed::start(small()), Bed::start(small()))?;
    one.vault.kv("secret").put("a", json!({"k": "v"})).await?;
    one.cluster.apply(&Workload::deployment("default", "a")).await?;
    assert!(other.vault.kv("secret").metadata("a").await.is_err());
    let elsewhere = other.cluster.get(Workload::deployment("default", "a")).await;
    assert!(elsewhere.is_err());

    let (group, folder) = (one.group().id(), one.folder().to_owned());
    // etcd, API server, controller manager, Vault, and the anchor of the group.
    assert_eq!(members_of(group)?.len(), 5);
    drop(one);
    assert_eq!(members_of(group)?, Vec::<u32>::new());
    assert!(!folder.exists());
    assert!(!members_of(other.group().id())?.is_empty(), "the other bed goes on");
    Ok(())
}

async fn no_process_outlives_a_killed_holder() -> Result<()> {
    let mut holder =
        Command::new(env!("CARGO_BIN_EXE_bed")).arg("hold").stdout(Stdio::piped()).spawn()?;
    let (mut group, mut folder) = (None, None);
    let lines = BufReader::new(holder.stdout.take().context("no stdout")?).lines();
    for line in lines {
        let line = line?;
        if let Some(number) = line.strip_prefix("export BED_GROUP=") {
            group = Some(number.parse::<i32>()?);
        } else if let Some(path) = line.strip_prefix("export BED_FOLDER=") {
            folder = Some(path.to_owned());
        } else if line.starts_with("ready") {
            break;
        }
    }
    let group = group.context("no group was printed")?;
    let folder = folder.context("no folder was printed")?;
    // Six servers and the anchor.
    assert_eq!(members_of(group)?.len(), 7);

    holder.kill()?;
    holder.wait()?;
    eventually("the end of all processes of the bed", SOON, || async {
        Ok(members_of(group)?.is_empty().then_some(()))
    })
    .await?;
    eventually("the removal of its folder", SOON, || async {
        Ok((!Path::new(&folder).exists()).then_some(()))
    })
    .await
}

async fn requests_are_counted_exactly() -> Result<()> {
    let bed = Bed::start(small()).await?;
    let workload = Workload::deployment("default", "counted");
    let before = bed.mark().await?;
    bed.cluster.apply(&workload).await?;
    for _ in 0..5 {
        bed.cluster.get(&workload).await?;
    }
    let missing = Workload::deployment("default", "missing");
    assert!(bed.cluster.get(&missing).await.is_err());
    let ours = bed.api_requests_of("e2e", &before).await?;
    let count = |verb: &str, name: &str, code: u16| {
        let is_it = |request: &&e2e::ApiRequest| {
            request.verb == verb && request.name == name && request.code == code
        };
        ours.iter().filter(is_it).count()
    };
    assert_eq!(count("patch", "counted", 201), 1, "{ours:#?}");
    assert_eq!(count("get", "counted", 200), 5, "{ours:#?}");
    assert_eq!(count("get", "missing", 404), 1, "{ours:#?}");
    assert_eq!(ours.len(), 7, "{ours:#?}");
    let after = bed.mark().await?;
    assert_eq!(bed.api_requests_of("e2e", &after).await?, []);

    bed.vault.kv("secret").put("counted", json!({"k": "v"})).await?;
    let token = bed.vault.create_token(&TokenRequest::default()).await?;
    let read = |path: &'static str| bed.vault.ask_as(&token.token, Method::GET, path, None);
    for _ in 0..7 {
        read("secret/metadata/counted").await?;
    }
    assert!(read("secret/data/counted").await.is_err(), "the policy allows no value");
    let requests = bed.vault_requests_since(&after)?;
    let metadata: Vec<_> =
        requests.iter().filter(|request| request.path == "secret/metadata/counted").collect();
    assert_eq!(metadata.len(), 7);
    assert!(metadata.iter().all(|request| request.operation == "read"));
    let is_of = |request: &VaultRequest| request.accessor == token.accessor;
    assert!(metadata.iter().all(|request| is_of(request) && request.error.is_empty()));
    let values: Vec<_> = requests.iter().filter(|request| request.touches_a_value()).collect();
    assert_eq!(values.len(), 1, "{requests:#?}");
    assert!(values.iter().all(|request| request.error.contains("permission denied")));
    assert_eq!(requests.len(), 8, "{requests:#?}");
    assert!(bed.all_vault_requests_since(&after)?.len() > 8, "those of the test come on top");
    Ok(())
}

async fn servers_fail_and_come_back_with_their_data() -> Result<()> {
    let bed = Bed::start(Options::new().without_pods()).await?;
    let secrets = bed.vault.kv("secret");
    let written = secrets.put("kept", json!({"k": "v"})).await?;
    let workload = Workload::deployment("default", "kept");
    let uid = bed.cluster.apply(&workload).await?.uid().to_owned();

    bed.vault.seal().await?;
    let refused = secrets.metadata("kept").await.map_err(|error| error.to_string());
    assert!(refused.as_ref().is_err_and(|text| text.contains("503")), "{refused:?}");
    bed.vault.unseal().await?;
    bed.vault_server.stop().await?;
    assert!(secrets.metadata("kept").await.is_err());
    bed.vault_server.start().await?;
    bed.vault_server.kill();
    bed.vault_server.start().await?;
    let found = secrets.metadata("kept").await?;
    assert_eq!(found["versions"]["1"]["created_time"], written.created_time.as_str());

    bed.api_server.stop().await?;
    assert!(bed.cluster.get(&workload).await.is_err());
    bed.api_server.start().await?;
    assert_eq!(bed.cluster.get(&workload).await?.uid(), uid);
    bed.etcd.kill();
    bed.etcd.start().await?;
    bed.api_server.kill();
    bed.api_server.start().await?;
    assert_eq!(bed.cluster.get(&workload).await?.uid(), uid);

    bed.api_server.pause()?;
    let answer = tokio::time::timeout(Duration::from_secs(1), bed.cluster.get(&workload)).await;
    assert!(answer.is_err(), "a paused server does not answer: {answer:?}");
    bed.api_server.resume().await?;
    assert_eq!(bed.cluster.get(&workload).await?.uid(), uid);
    Ok(())
}

async fn use_the_shared_bed(name: &str) -> Result<()> {
    let bed = Bed::shared().await?;
    let workload = Workload::deployment("default", name);
    let list = bed.cluster.get_path("/apis/apps/v1/deployments").await?;
    assert_eq!(list["items"], json!([]), "the test before left no workload");
    bed.cluster.apply(&workload).await?;
    bed.cluster.wait_rolled_out(&workload).await?;
    bed.vault.kv("secret").put(name, json!({"k": "v"})).await?;
    // A test that fails leaves the servers as they are.
    bed.vault.seal().await?;
    bed.api_server.pause()?;
    bed.controller_manager.kill();
    Ok(())
}

async fn a_test_finds_the_shared_bed_in_order() -> Result<()> {
    use_the_shared_bed("one").await
}

async fn so_does_the_next_test() -> Result<()> {
    use_the_shared_bed("other").await
}

async fn pods_become_ready_late_or_never_and_rollouts_are_undone() -> Result<()> {
    let bed = Bed::start(Options::new().vault_storage(VaultStorage::Memory)).await?;
    bed.cluster.create_namespace("pods").await?;
    let deployment = Workload::deployment("pods", "fine").replicas(3);
    for workload in [
        deployment.clone(),
        Workload::daemon_set("pods", "each-node").init_env("A", "b"),
        Workload::stateful_set("pods", "numbered").replicas(2),
    ] {
        bed.cluster.apply(&workload).await?;
        bed.cluster.wait_rolled_out(&workload).await?;
    }

    let late = Workload::deployment("pods", "late").ready_after(Duration::from_secs(2));
    let never = Workload::deployment("pods", "never").never_ready();
    let began = Instant::now();
    bed.cluster.apply(&late).await?;
    bed.cluster.apply(&never).await?;
    bed.cluster.wait_rolled_out(&late).await?;
    assert!(began.elapsed() >= Duration::from_secs(2), "ready after {:?}", began.elapsed());
    let state = bed.cluster.get(&never).await?;
    assert_eq!(state.object["status"]["unavailableReplicas"], 1, "{}", state.object["status"]);

    let first = bed.cluster.get(&deployment).await?.template().clone();
    bed.cluster.apply(&deployment.clone().env("A", "b")).await?;
    bed.cluster.wait_rolled_out(&deployment).await?;
    assert_eq!(bed.cluster.revisions(&deployment).await?.len(), 2);
    bed.rollout_undo(&deployment).await?;
    let undone = bed.cluster.wait_rolled_out(&deployment).await?;
    assert_eq!(undone.template(), &first);
    Ok(())
}

async fn a_service_account_logs_in_by_a_real_token_review() -> Result<()> {
    let bed = Bed::start(small()).await?;
    bed.vault.enable_kubernetes_auth(&bed.cluster, "kubernetes").await?;
    let role = KubernetesRole::new("reloader", "default", "default");
    bed.vault.put_kubernetes_role("kubernetes", &role).await?;
    let jwt = bed.cluster.request_token("default", "default", Duration::from_mins(10)).await?;

    let before = bed.mark().await?;
    let login = |jwt: &str| {
        let body = json!({"role": "reloader", "jwt": jwt});
        bed.vault.ask_as("", Method::POST, "auth/kubernetes/login", Some(body))
    };
    let answer = login(&jwt).await?;
    assert_eq!(answer["auth"]["policies"], json!(["default", "reloader"]));
    assert!(login("eyJhbGciOiJub25lIn0.e30.").await.is_err());
    let reviews = bed.api_requests_since(&before).await?;
    let reviews = reviews.iter().filter(|request| request.resource == "tokenreviews").count();
    assert_eq!(reviews, 1, "one for the login; what is no token is not asked about");
    let logins = bed.vault_requests_since(&before)?;
    assert_eq!(logins.iter().filter(|request| request.is_login()).count(), 2);
    let token = answer["auth"]["client_token"].as_str().context("no token")?;
    assert!(bed.vault.ttl(token).await? > Duration::from_mins(59));
    bed.vault.revoke(token).await?;
    assert!(bed.vault.lookup(token).await.is_err());
    // The server sums its counters up every ten seconds.
    eventually("the login in the server's metrics", Duration::from_secs(20), || async {
        let made = bed.vault.tokens_created().await?;
        Ok((made.get("kubernetes") == Some(&1)).then_some(()))
    })
    .await
}
