//! The ways to a server of the Vault API: behind a path, through a Unix socket, through a proxy that
//! asks for a header; and how fast and how often requests are sent.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result};
use e2e::gateway::Gateway;
use e2e::scenario::{
    SOON, deployment_without_pods as deployment, just_after_a_poll, polling_fast, polling_faster,
};
use e2e::{Bed, Controller, Vault, Workload, eventually};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener};
use tokio::task::{JoinHandle, JoinSet};

e2e::scenarios! {
    a_server_behind_a_path_is_the_one_that_workloads_name_by_it,
    a_server_is_reached_through_a_socket,
    a_proxy_that_asks_for_a_header_lets_the_controller_in,
    the_rate_of_requests_is_limited_by_the_variable,
    a_request_is_sent_again_unless_that_is_switched_off,
}

const ADDRESS: &str = "secrets-webhook.security.bank-vaults.io/vault-addr";

async fn a_server_behind_a_path_is_the_one_that_workloads_name_by_it() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["path/a"]).await?;
    let gateway = Gateway::before(bed.vault.address(), None).await?;
    gateway.serve_behind("/team/vault");
    let address = format!("{}/team/vault", gateway.address());
    let named = |name: &str, address: &str| {
        deployment(name, "path/a").template_annotation(ADDRESS, address)
    };
    let plain = deployment("plain", "path/a");
    let same = named("same", &format!("{address}/"));
    let bare = named("bare", gateway.address());
    bed.deploy_all(&[&plain, &same, &bare]).await?;

    let options = polling_fast()
        .env("VAULT_ADDR", format!("{address}/"))
        .switch("--refuse-undeclared-addresses");
    let controller = Controller::start(&bed, &options).await?;
    just_after_a_poll(&controller).await?;
    bed.rotate("path/a").await?;
    bed.expect_rolls(&controller, &[&plain, &same], 1).await?;
    assert_eq!(bed.counts(&[&bare]).await?, [None]);
    assert_eq!(gateway.refused(), 0, "a request was sent to another path");
    let requests = gateway.answered();
    for part in ["/v1/auth/token/lookup-self", "/v1/sys/health", "/v1/sys/internal/ui/mounts/"] {
        assert!(requests.iter().any(|request| request.target.starts_with(part)), "{part}");
    }
    assert!(controller.lines_with("level=error").is_empty(), "{}", controller.last_lines());
    Ok(())
}

/// A Unix socket that leads to a server, as an agent has one.
struct Socket {
    path: PathBuf,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Socket {
    fn before(vault: &Vault, folder: &Path) -> Result<Self> {
        let server = vault.address().strip_prefix("http://").context("not plain HTTP")?.to_owned();
        let path = folder.join("agent.sock");
        let listener = UnixListener::bind(&path)?;
        let connections = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            // The connections end with this task.
            let mut open = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let server = server.clone();
                open.spawn(async move {
                    // An error only ends the connection.
                    if let Ok(mut server) = TcpStream::connect(server).await {
                        drop(copy_bidirectional(&mut client, &mut server).await);
                    }
                });
                while open.try_join_next().is_some() {}
            }
        });
        Ok(Self { path, connections, accepting })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn a_server_is_reached_through_a_socket() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["socket/a"]).await?;
    let web = deployment("web", "socket/a");
    bed.deploy_all(&[&web]).await?;
    // The path of a socket must be short.
    let folder = tempfile::tempdir()?;
    let socket = Socket::before(&bed.vault, folder.path())?;
    let address = format!("unix://{}", socket.path.display());
    for (number, name) in ["VAULT_ADDR", "VAULT_AGENT_ADDR"].into_iter().enumerate() {
        let before = socket.connections.load(Ordering::Relaxed);
        let options = polling_fast().env(name, address.as_str());
        let mut controller = Controller::start(&bed, &options).await?;
        just_after_a_poll(&controller).await?;
        bed.rotate("socket/a").await?;
        bed.expect_rolls(&controller, &[&web], i64::try_from(number)? + 1).await?;
        assert!(socket.connections.load(Ordering::Relaxed) > before, "{name}");
        assert!(!controller.lines_with(&address).is_empty(), "{}", controller.last_lines());
        controller.terminate().await?;
    }
    // What cannot work with a socket keeps the process from starting.
    let options = polling_fast().env("VAULT_ADDR", address.as_str()).env("VAULT_CACERT", "/ca");
    let mut refused = Controller::spawn(&bed, &options).await?;
    assert!(!refused.wait_for_end(SOON).await?.success());
    let said = "VAULT_CACERT: does not go with the Unix socket of VAULT_ADDR";
    assert!(!refused.lines_with(said).is_empty(), "{}", refused.last_lines());
    Ok(())
}

async fn a_proxy_that_asks_for_a_header_lets_the_controller_in() -> Result<()> {
    const NAME: &str = "X-Access-Key";
    let [first, second] = ["first-value-of-the-key", "second-value-of-the-key"];
    let headers = |value: &str| format!("{{\"{NAME}\": \"{value}\"}}");
    let bed = Bed::shared().await?;
    bed.write_secrets(&["headers/a"]).await?;
    let web = deployment("web", "headers/a");
    bed.deploy_all(&[&web]).await?;
    let gateway = Gateway::before(bed.vault.address(), None).await?;
    gateway.require(NAME, first)?;
    let options = polling_fast().env("VAULT_ADDR", gateway.address());

    let mut controller = Controller::start(&bed, &options).await?;
    controller.wait_for("failed to get secret version", SOON).await?;
    controller.terminate().await?;
    assert!(gateway.answered().is_empty(), "the gateway asks for nothing");

    let given = options.clone().env("VAULT_HEADERS", headers(first));
    let mut controller = Controller::start(&bed, &given).await?;
    controller.must_not_say(first);
    just_after_a_poll(&controller).await?;
    let refused = gateway.refused();
    bed.rotate("headers/a").await?;
    bed.expect_rolls(&controller, &[&web], 1).await?;
    controller.terminate().await?;
    assert_eq!(gateway.refused(), refused, "a request had no header");

    // A file may be replaced, as credentials are.
    let file = bed.folder().join("headers.json");
    std::fs::write(&file, headers(first))?;
    let from_file = options.env("VAULT_HEADERS_FILE", file.as_os_str());
    let mut controller = Controller::start(&bed, &from_file).await?;
    controller.must_not_say(first);
    controller.must_not_say(second);
    just_after_a_poll(&controller).await?;
    std::fs::write(&file, headers(second))?;
    gateway.require(NAME, second)?;
    controller.wait_for("The headers for Vault have changed", SOON).await?;
    bed.rotate("headers/a").await?;
    bed.expect_rolls(&controller, &[&web], 2).await
}

async fn the_rate_of_requests_is_limited_by_the_variable() -> Result<()> {
    const BURST: usize = 5;
    /// The time between two requests, in milliseconds.
    const INTERVAL: u128 = 50;
    let bed = Bed::shared().await?;
    // Each in a folder of its own, so that none is listed.
    let secrets: Vec<String> = (0..20).map(|number| format!("rate-{number}/a")).collect();
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    bed.write_secrets(&secrets).await?;
    let workloads: Vec<Workload> =
        secrets.iter().map(|secret| deployment(&secret.replace('/', "-"), secret)).collect();
    let workloads: Vec<&Workload> = workloads.iter().collect();
    bed.deploy_all(&workloads).await?;
    let options = polling_faster().env("VAULT_RATE_LIMIT", format!("20:{BURST}"));
    let controller = Controller::start(&bed, &options).await?;
    just_after_a_poll(&controller).await?;

    let (mark, began) = (bed.vault_mark(), Instant::now());
    controller.wait_for_polls(3, SOON).await?;
    let asked = bed.vault_requests_since(&mark)?.len();
    let allowed = BURST + usize::try_from(began.elapsed().as_millis() / INTERVAL)?;
    assert!(asked > 2 * secrets.len(), "{asked} requests are no three polls");
    // A request in flight may have taken its turn before the mark.
    assert!(asked <= allowed + 8, "{asked} requests instead of {allowed}");
    bed.rotate(secrets[7]).await?;
    bed.expect_rolls(&controller, &workloads[7..8], 1).await
}

async fn a_request_is_sent_again_unless_that_is_switched_off() -> Result<()> {
    let bed = Bed::shared().await?;
    bed.write_secrets(&["retried/a", "beside/a"]).await?;
    let (web, beside) = (deployment("web", "retried/a"), deployment("beside", "beside/a"));
    bed.deploy_all(&[&web, &beside]).await?;
    let gateway = Gateway::before(bed.vault.address(), None).await?;
    let said = "failed to get secret version: secret/data/retried/a: Vault fails (status 500)";
    for (number, retries) in [None, Some("0")].into_iter().enumerate() {
        let options = polling_fast().env("VAULT_ADDR", gateway.address());
        let options = match retries {
            Some(retries) => options.env("VAULT_MAX_RETRIES", retries),
            None => options,
        };
        let mut controller = Controller::start(&bed, &options).await?;
        just_after_a_poll(&controller).await?;
        let before = gateway.refused();
        gateway.fail("metadata/retried/a", 500, 1);
        eventually("the error", SOON, || async { Ok((gateway.refused() > before).then_some(())) })
            .await?;
        if retries.is_some() {
            controller.wait_for(said, SOON).await?;
        } else {
            controller.wait_for_polls(1, SOON).await?;
            assert!(controller.lines_with(said).is_empty(), "{}", controller.last_lines());
        }
        bed.rotate("retried/a").await?;
        bed.expect_rolls(&controller, &[&web], i64::try_from(number)? + 1).await?;
        assert_eq!(bed.counts(&[&beside]).await?, [None]);
        controller.terminate().await?;
    }
    Ok(())
}
