//! TLS: the CA of the server from a file, from a variable, from a Kubernetes Secret, each as it is now;
//! our own certificate; and without a CA no connection, and no rotation missed.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::ports::Port;
use e2e::scenario::{HEARTBEAT, SOON, next_second, polling_fast};
use e2e::{Bed, Controller, ControllerOptions, Workload, eventually};
use rcgen::{CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use reqwest::Client;
use serde_json::{Value, json};

e2e::scenarios! {
    the_ca_comes_from_a_file_a_variable_or_a_secret,
    a_certificate_that_nobody_vouches_for_is_refused,
    a_ca_that_is_replaced_is_used_without_a_restart,
    a_client_certificate_is_a_way_in_and_the_server_can_have_another_name,
}

pub(crate) const ROOT: &str = "root-of-the-server-with-tls";

/// A server of the Vault API that listens with TLS, beside the one of the bed.
pub(crate) struct ServerWithTls {
    pub(crate) address: String,
    pub(crate) ca: PathBuf,
    /// A token of the controller, with the policy that is meant for it.
    token: String,
    process: Child,
    _port: Port,
}

impl Drop for ServerWithTls {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl ServerWithTls {
    /// It makes its own CA.
    pub(crate) async fn start(bed: &Bed) -> Result<Self> {
        let port = Port::any()?;
        let folder = bed.folder().join(format!("tls-{}", port.number()));
        std::fs::create_dir_all(&folder)?;
        let listen = format!("127.0.0.1:{}", port.number());
        let mut command = Command::new(bed.binaries().vault());
        command
            .args(["server", "-dev", "-dev-tls", "-dev-no-store-token"])
            .arg(format!("-dev-tls-cert-dir={}", folder.display()))
            .arg(format!("-dev-root-token-id={ROOT}"))
            .arg(format!("-dev-listen-address={listen}"))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(folder.join("log"))?)
            .stderr(Stdio::null());
        bed.group().join(&mut command);
        let mut server = Self {
            process: command.spawn()?,
            address: format!("https://{listen}"),
            ca: folder.join("vault-ca.pem"),
            token: String::new(),
            _port: port,
        };
        eventually("the server with TLS", SOON, || async {
            Ok((server.ca.is_file() && server.put("ready").await.is_ok()).then_some(()))
        })
        .await?;
        let rules = e2e::Vault::reloader_rules("secret");
        server.post("sys/policies/acl/reloader", &json!({"policy": rules})).await?;
        let created = server.post("auth/token/create", &json!({"policies": ["reloader"]})).await?;
        let token = created.pointer("/auth/client_token").and_then(Value::as_str);
        token.context("no token")?.clone_into(&mut server.token);
        Ok(server)
    }

    pub(crate) async fn put(&self, secret: &str) -> Result<()> {
        let value = format!("{:032x}", fastrand::u128(..));
        self.post(&format!("secret/data/{secret}"), &json!({ "data": { "k": value } })).await?;
        Ok(())
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let client = Client::builder().tls_danger_accept_invalid_certs(true).build()?;
        let answer = client
            .post(format!("{}/v1/{path}", self.address))
            .header("X-Vault-Token", ROOT)
            .json(body)
            .send()
            .await?
            .error_for_status()?
            .text()
            .await?;
        Ok(serde_json::from_str(&answer).unwrap_or_default())
    }

    fn options(&self) -> ControllerOptions {
        polling_fast().vault_token(&self.token).env("VAULT_ADDR", self.address.as_str())
    }
}

async fn the_ca_comes_from_a_file_a_variable_or_a_secret() -> Result<()> {
    let bed = Bed::shared().await?;
    let server = ServerWithTls::start(&bed).await?;
    server.put("tls").await?;
    next_second().await?;
    let web = Workload::deployment("default", "web")
        .replicas(0)
        .opted_in()
        .env("A", "vault:secret/data/tls#k");
    bed.deploy_all(&[&web]).await?;

    let pem = std::fs::read_to_string(&server.ca)?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "vault-tls", "namespace": "default" },
        "stringData": { "ca.crt": pem },
    });
    bed.cluster.apply_object(&secret, "secrets").await?;
    let ways = [
        server.options().env("VAULT_CACERT", server.ca.as_os_str()),
        server.options().env("VAULT_CACERT_BYTES", pem.as_str()),
        server.options().env("VAULT_CAPATH", server.ca.parent().unwrap_or(&server.ca).as_os_str()),
        server
            .options()
            .env("VAULT_TLS_SECRET", "vault-tls")
            .env("KUBECONFIG", bed.cluster.kubeconfig().as_os_str()),
        server.options().env("VAULT_SKIP_VERIFY", "true"),
    ];
    for (number, way) in ways.iter().enumerate() {
        let mut controller = Controller::start(&bed, way).await?;
        controller.wait_for(HEARTBEAT, SOON).await?;
        server.put("tls").await?;
        let count = i64::try_from(number)? + 1;
        bed.cluster.wait_for_count(&web, count, SOON).await?;
        assert!(controller.lines_with("failed to get secret version").is_empty(), "way {number}");
        let warned = controller.lines_with("VAULT_SKIP_VERIFY").len();
        assert_eq!(warned, usize::from(number == 4), "way {number}");
        controller.terminate().await?;
    }
    Ok(())
}

async fn a_certificate_that_nobody_vouches_for_is_refused() -> Result<()> {
    let bed = Bed::shared().await?;
    let server = ServerWithTls::start(&bed).await?;
    let web = Workload::deployment("default", "web").opted_in().env("A", "vault:secret/data/tls#k");
    bed.cluster.apply(&web).await?;
    let controller = Controller::start(&bed, &server.options()).await?;
    let line = controller.wait_for("failed to get secret version", SOON).await?;
    assert!(line.text.contains("certificate"), "{line:?}");

    let mut missing =
        Controller::spawn(&bed, &server.options().env("VAULT_TLS_SECRET", "no-such")).await?;
    let status = missing.wait_for_end(Duration::from_secs(15)).await?;
    assert!(!status.success());
    let said = missing.lines_with("VAULT_TLS_SECRET");
    assert!(said.iter().any(|line| line.text.contains("default/no-such")), "{said:?}");
    Ok(())
}

/// A CA that has vouched for nobody.
fn other_ca() -> Result<String> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?.pem())
}

async fn a_ca_that_is_replaced_is_used_without_a_restart() -> Result<()> {
    let bed = Bed::shared().await?;
    let server = ServerWithTls::start(&bed).await?;
    server.put("tls").await?;
    next_second().await?;
    let web = Workload::deployment("default", "web")
        .replicas(0)
        .opted_in()
        .env("A", "vault:secret/data/tls#k");
    bed.deploy_all(&[&web]).await?;
    let (right, wrong) = (std::fs::read_to_string(&server.ca)?, other_ca()?);
    let folder = bed.folder().join("authorities");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("ca.crt");
    let secret = |pem: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "vault-tls", "namespace": "default" },
            "stringData": { "ca.crt": pem },
        })
    };
    let ways = [
        server.options().env("VAULT_CACERT", file.as_os_str()),
        server.options().env("VAULT_CAPATH", folder.as_os_str()),
        server
            .options()
            .env("VAULT_TLS_SECRET", "vault-tls")
            .env("KUBECONFIG", bed.cluster.kubeconfig().as_os_str()),
    ];
    for (number, way) in ways.iter().enumerate() {
        std::fs::write(&file, &wrong)?;
        bed.cluster.apply_object(&secret(&wrong), "secrets").await?;
        let mut controller = Controller::start(&bed, way).await?;
        controller.wait_for("failed to get secret version", SOON).await?;
        server.put("tls").await?;
        // Half of it is no certificate: the one from before counts.
        std::fs::write(&file, &right[..right.len() / 2])?;
        if number < 2 {
            controller.wait_for("cannot be read anew", SOON).await?;
        }
        std::fs::write(&file, &right)?;
        bed.cluster.apply_object(&secret(&right), "secrets").await?;
        controller.wait_for("The certificates for Vault have changed", SOON).await?;
        let count = i64::try_from(number)? + 1;
        bed.cluster.wait_for_count(&web, count, SOON).await?;
        assert!(controller.lines_with("cannot be read anew").len() <= 1, "way {number}");
        controller.terminate().await?;
    }
    Ok(())
}

async fn a_client_certificate_is_a_way_in_and_the_server_can_have_another_name() -> Result<()> {
    let bed = Bed::shared().await?;
    let server = ServerWithTls::start(&bed).await?;
    server.put("tls").await?;
    next_second().await?;
    let web = Workload::deployment("default", "web")
        .replicas(0)
        .opted_in()
        .env("A", "vault:secret/data/tls#k");
    bed.deploy_all(&[&web]).await?;
    let (certificate, key) = client_certificate()?;
    let file = |name: &str, pem: &str| {
        let file = bed.folder().join(name);
        std::fs::write(&file, pem).map(|()| file)
    };
    let certificate_file = file("client.crt", &certificate)?;
    let key_file = file("client.key", &key)?;
    server.post("sys/auth/cert", &json!({"type": "cert"})).await?;
    let role = json!({"certificate": certificate, "token_policies": ["reloader"]});
    server.post("auth/cert/certs/reloader", &role).await?;

    let plain = || {
        polling_fast()
            .without_vault_token()
            .env("VAULT_CACERT", server.ca.as_os_str())
            .env("VAULT_AUTH_METHOD", "cert")
            .env("VAULT_CLIENT_CERT", certificate_file.as_os_str())
            .env("VAULT_CLIENT_KEY", key_file.as_os_str())
    };
    let by_name = |address: &str, name: &str| {
        plain().env("VAULT_ADDR", address).env("VAULT_TLS_SERVER_NAME", name)
    };
    let ways = [
        plain().env("VAULT_ADDR", server.address.as_str()),
        plain().env("VAULT_ADDR", server.address.as_str()).env("VAULT_ROLE", "reloader"),
        by_name(&server.address, "localhost"),
    ];
    for (number, way) in ways.iter().enumerate() {
        let mut controller = Controller::start(&bed, way).await?;
        controller.wait_for("Logged in to Vault", SOON).await?;
        controller.wait_for(HEARTBEAT, SOON).await?;
        server.put("tls").await?;
        let count = i64::try_from(number)? + 1;
        bed.cluster.wait_for_count(&web, count, SOON).await?;
        controller.terminate().await?;
    }
    for way in [
        plain().env("VAULT_ADDR", server.address.as_str()).env("VAULT_ROLE", "no-such"),
        by_name(&server.address, "vault.example"),
    ] {
        let controller = Controller::start(&bed, &way).await?;
        let line = controller.wait_for("failed to get secret version", SOON).await?;
        assert!(line.text.contains("certificate") || line.text.contains("no-such"), "{line:?}");
    }

    // Another takes the place of the first, which the server knows no more, nor what it gave for it.
    let options = plain().env("VAULT_ADDR", server.address.as_str());
    let controller = Controller::start(&bed, &options).await?;
    controller.wait_for(HEARTBEAT, SOON).await?;
    let (certificate, key) = client_certificate()?;
    let role = json!({"certificate": certificate, "token_policies": ["reloader"]});
    server.post("auth/cert/certs/reloader", &role).await?;
    file("client.crt", &certificate)?;
    let said =
        "cannot be read anew: VAULT_CACERT, VAULT_CLIENT_CERT, VAULT_CLIENT_KEY cannot be used";
    controller.wait_for(said, SOON).await?;
    file("client.key", &key)?;
    controller.wait_for("The certificates for Vault have changed", SOON).await?;
    server.post("sys/leases/revoke-prefix/auth/cert/login", &json!({"sync": true})).await?;
    server.put("tls").await?;
    bed.cluster.wait_for_count(&web, 4, SOON).await?;
    assert_eq!(controller.lines_with("Logged in to Vault").len(), 2);
    Ok(())
}

/// A certificate for clients, and its key.
fn client_certificate() -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut client = CertificateParams::new(vec!["reloader".to_owned()])?;
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok((client.self_signed(&key)?.pem(), key.serialize_pem()))
}
