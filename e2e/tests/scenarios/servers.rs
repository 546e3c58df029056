//! More than one server of the Vault API: which one a workload means, and that none holds up another.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;

use anyhow::Result;
use e2e::bed::AnotherVault;
use e2e::scenario::{HEARTBEAT, SOON, next_second, polling_faster};
use e2e::vault_access::Token;
use e2e::{Bed, Controller, ControllerOptions, TokenRequest, Vault, Workload, eventually};
use serde_json::{Value, json};

e2e::scenarios! {
    each_workload_is_of_the_server_that_its_address_means,
    an_address_that_is_not_declared_is_refused_where_that_is_wanted,
    a_server_that_fails_does_not_hold_up_the_others,
}

const ADDRESS: &str = "secrets-webhook.security.bank-vaults.io/vault-addr";

/// The variables of a server, with a token of its own in a file.
async fn variables(bed: &Bed, name: &str, vault: &Vault) -> Result<(Value, Token)> {
    let token = vault.create_token(&TokenRequest::default()).await?;
    let file = bed.folder().join(format!("token-of-{name}"));
    fs::write(&file, &token.token)?;
    Ok((json!({"VAULT_ADDR": vault.address(), "VAULT_TOKEN_PATH": file}), token))
}

/// A controller that knows some servers, and more flags.
async fn start(bed: &Bed, servers: &Value, options: ControllerOptions) -> Result<Controller> {
    let file: PathBuf = bed.folder().join("servers.yaml");
    fs::write(&file, json!({ "servers": servers }).to_string())?;
    let file = file.display().to_string();
    Controller::start(bed, &options.flag("--vault-servers-file", &file)).await
}

/// Gives a secret of `secret/` of a server a new version.
async fn rotate(vault: &Vault, path: &str) -> Result<()> {
    let value = format!("{:032x}", fastrand::u128(..));
    vault.kv("secret").put(path, json!({ "k": value })).await.map(drop)
}

fn workload(namespace: &str, name: &str, address: &str) -> Workload {
    let workload = Workload::deployment(namespace, name).replicas(0).opted_in();
    let workload = workload.env("A", "vault:secret/data/servers/a#k");
    if address.is_empty() { workload } else { workload.template_annotation(ADDRESS, address) }
}

async fn each_workload_is_of_the_server_that_its_address_means() -> Result<()> {
    let bed = Bed::shared().await?;
    let b = bed.another_vault("b").await?;
    let namespace = "servers";
    bed.cluster.create_namespace(namespace).await?;
    rotate(&b.vault, "servers/a").await?;
    bed.write_secrets(&["servers/a"]).await?;
    // Whoever would follow an address of a tenant comes here.
    let trap = TcpListener::bind("127.0.0.1:0")?;
    trap.set_nonblocking(true)?;
    let nobody = format!("http://{}", trap.local_addr()?);
    let of_default = [
        workload(namespace, "plain", ""),
        workload(namespace, "address", bed.vault.address()),
        workload(namespace, "alias", "https://vault.infra.svc:8200/"),
        workload(namespace, "undeclared", &nobody),
    ];
    let of_b = [
        workload(namespace, "b", b.vault.address()),
        workload(namespace, "alias-of-b", "https://vault.b.svc"),
    ];
    let all: Vec<&Workload> = of_default.iter().chain(&of_b).collect();
    bed.deploy_all(&all).await?;
    next_second().await?;

    let (env, token) = variables(&bed, "b", &b.vault).await?;
    let servers = json!([
        {"name": "default", "aliases": ["https://vault.infra.svc:8200"]},
        {"name": "b", "aliases": ["https://vault.b.svc:443"], "env": env},
    ]);
    let mark = bed.vault_mark();
    let mut controller = start(&bed, &servers, polling_faster()).await?;
    controller.must_not_say(&token.token);
    controller.wait_for("server=b", SOON).await?;
    bed.expect_no_roll(&controller, &all.iter().map(|w| (w.name(), None)).collect::<Vec<_>>())
        .await?;
    wait_for_event(&bed, namespace, "undeclared", "Warning AddressNotDeclared").await?;

    // One path, two secrets.
    rotate(&b.vault, "servers/a").await?;
    bed.expect_rolls(&controller, &of_b.each_ref(), 1).await?;
    bed.rotate("servers/a").await?;
    bed.expect_rolls(&controller, &of_default.each_ref(), 1).await?;
    assert_eq!(bed.counts(&of_b.each_ref()).await?, [Some(1), Some(1)]);
    let is_reload = |line: &str| line.contains("Reloading workload: servers/Deployment/b\"");
    let line = controller.wait_for_line(is_reload, SOON).await?;
    assert!(line.text.contains("server=b"), "{}", line.text);

    // No credential went to another server than its own, no value was read, and nobody was asked.
    let of_default = bed.vault_requests_since(&mark)?;
    assert!(
        !of_default.is_empty()
            && of_default.iter().all(|request| request.accessor != token.accessor)
    );
    let of_b = b.requests()?;
    assert!(!of_b.is_empty() && of_b.iter().all(|request| request.accessor == token.accessor));
    assert!(of_default.iter().chain(&of_b).all(|request| !request.touches_a_value()));
    assert!(trap.accept().is_err(), "an address was asked that only an annotation names");

    // Whose address changes is of the other server from then on, and is not rolled for that.
    let moved = workload(namespace, "b", "");
    next_second().await?;
    bed.deploy_all(&[&moved]).await?;
    next_second().await?;
    bed.expect_no_roll(&controller, &[(moved.name(), Some(1))]).await?;
    rotate(&b.vault, "servers/a").await?;
    bed.expect_rolls(&controller, &[&workload(namespace, "alias-of-b", "")], 2).await?;
    bed.expect_no_roll(&controller, &[(moved.name(), Some(1))]).await?;
    bed.rotate("servers/a").await?;
    bed.expect_rolls(&controller, &[&moved], 2).await
}

/// Waits until one workload has an Event, and no other has any.
async fn wait_for_event(bed: &Bed, namespace: &str, name: &str, event: &str) -> Result<()> {
    // Other workloads have Events about their reloads.
    let expected = vec![event.to_owned()];
    eventually("the Event", SOON, || async {
        Ok((bed.events(namespace).await?.get(name) == Some(&expected)).then_some(()))
    })
    .await
}

async fn an_address_that_is_not_declared_is_refused_where_that_is_wanted() -> Result<()> {
    let bed = Bed::shared().await?;
    let namespace = "undeclared";
    bed.cluster.create_namespace(namespace).await?;
    bed.write_secrets(&["servers/a"]).await?;
    let refused = workload(namespace, "refused", "https://vault.of-a-tenant:8200");
    let plain = workload(namespace, "plain", "");
    bed.deploy_all(&[&refused, &plain]).await?;
    next_second().await?;
    let options = polling_faster().switch("--refuse-undeclared-addresses");
    let controller = Controller::start(&bed, &options).await?;
    let said = "undeclared/Deployment/refused: annotation vault-addr: the address is not declared";
    let line = controller.wait_for(said, SOON).await?;
    assert!(line.text.contains("level=warn") && line.text.contains("reason=AddressRefused"));
    controller.wait_for_polls(1, SOON).await?;
    bed.rotate("servers/a").await?;
    bed.expect_rolls(&controller, &[&plain], 1).await?;
    bed.expect_no_roll(&controller, &[(refused.name(), None)]).await?;
    wait_for_event(&bed, namespace, "refused", "Warning AddressRefused").await?;
    assert_eq!(controller.lines_with("AddressRefused").len(), 1);
    Ok(())
}

async fn a_server_that_fails_does_not_hold_up_the_others() -> Result<()> {
    let bed = Bed::shared().await?;
    let names = ["b", "c"];
    let [b, c]: [AnotherVault; 2] =
        [bed.another_vault(names[0]).await?, bed.another_vault(names[1]).await?];
    let namespace = "failing";
    bed.cluster.create_namespace(namespace).await?;
    for vault in [&b.vault, &c.vault] {
        rotate(vault, "servers/a").await?;
    }
    bed.write_secrets(&["servers/a"]).await?;
    let [of_default, of_b, of_c] = [
        workload(namespace, "of-default", ""),
        workload(namespace, "of-b", b.vault.address()),
        workload(namespace, "of-c", c.vault.address()),
    ];
    bed.deploy_all(&[&of_default, &of_b, &of_c]).await?;
    next_second().await?;

    let (env_of_b, _) = variables(&bed, "b", &b.vault).await?;
    let (mut env_of_c, _) = variables(&bed, "c", &c.vault).await?;
    // Its CA is not there: that is no reason not to start.
    env_of_c["VAULT_TLS_SECRET"] = "ca-of-c".into();
    // Nor is a CA in a file, and nobody listens at this one.
    let ca_of_d = bed.folder().join("ca-of-d");
    let env_of_d = json!({
        "VAULT_ADDR": "http://127.0.0.1:1", "VAULT_ROLE": "reloader", "VAULT_CACERT": ca_of_d,
    });
    let servers = json!([
        {"name": "b", "env": env_of_b}, {"name": "c", "env": env_of_c}, {"name": "d", "env": env_of_d},
    ]);
    let options = polling_faster().env("VAULT_CLIENT_TIMEOUT", "2s");
    let mut controller = start(&bed, &servers, options).await?;
    let has_all =
        |words: [&'static str; 3]| move |line: &str| words.iter().all(|it| line.contains(it));
    for words in [("server=c", "ca-of-c"), ("server=d", "ca-of-d")] {
        let words = ["Nothing of this server is watched", words.0, words.1];
        controller.wait_for_line(has_all(words), SOON).await?;
    }
    fs::write(&ca_of_d, "")?;
    rotate(&b.vault, "servers/a").await?;
    bed.expect_rolls(&controller, &[&of_b], 1).await?;

    // A server that takes requests and never answers.
    b.server.pause()?;
    let outage = |line: &str| line.contains("level=error") && line.contains("server=b");
    controller.wait_for_line(outage, SOON).await?;
    bed.rotate("servers/a").await?;
    bed.expect_rolls(&controller, &[&of_default], 1).await?;
    b.server.resume().await?;
    rotate(&b.vault, "servers/a").await?;
    bed.expect_rolls(&controller, &[&of_b], 2).await?;
    assert_eq!(bed.counts(&[&of_default, &of_c]).await?, [Some(1), None]);

    // The default server, in its turn.
    bed.vault_server.pause()?;
    let outage = |line: &str| line.contains("level=error") && !line.contains("server=");
    controller.wait_for_line(outage, SOON).await?;
    rotate(&b.vault, "servers/a").await?;
    bed.expect_rolls(&controller, &[&of_b], 3).await?;
    bed.vault_server.resume().await?;

    controller.wait_for_line(has_all([HEARTBEAT, "server=d", "level=info"]), SOON).await?;

    // It ends within its time, whichever server hangs.
    b.server.pause()?;
    let (status, took) = controller.terminate().await?;
    assert!(status.success() && took.as_secs() < 3, "{status}, {took:?}");
    b.server.resume().await
}
