//! The bed's Vault server for its administrator: secrets, mounts, namespaces, sealing.
//!
//! Tokens, policies and auth methods are in [`crate::vault_access`]. The code works with `OpenBao`
//! and `HashiCorp` Vault. A comment says so if only one of them has a feature.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::command_lines::VaultFlavour;
use crate::json::text;
use crate::wait::{eventually, locked};

/// The time-out of a request. A paused server never answers, and a test must not wait for ever.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The time-out of a request for a server's health.
const HEALTH_WITHIN: Duration = Duration::from_secs(2);

/// A client with the root token.
#[derive(Debug, Clone)]
pub struct Vault {
    http: reqwest::Client,
    address: String,
    flavour: VaultFlavour,
    audit_log: String,
    namespace: Option<String>,
    keys: Arc<Mutex<Keys>>,
}

#[derive(Debug, Clone, Default)]
struct Keys {
    root_token: String,
    unseal_key: String,
}

/// A version of a secret, as the server describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Version {
    /// The number of the version.
    pub version: u64,
    /// The creation time by the server's clock, RFC 3339 with nanoseconds.
    pub created_time: String,
}

impl Vault {
    pub(crate) fn new(port: u16, flavour: VaultFlavour, audit_log: String) -> Result<Self> {
        Ok(Self {
            http: reqwest::Client::builder().timeout(ANSWER_WITHIN).no_proxy().build()?,
            address: format!("http://127.0.0.1:{port}"),
            flavour,
            audit_log,
            namespace: None,
            keys: Arc::default(),
        })
    }

    /// Whether the server is `OpenBao`. `HashiCorp` Vault has no namespaces, and no LIST that
    /// returns the metadata of a whole folder.
    #[must_use]
    pub fn is_openbao(&self) -> bool {
        self.flavour == VaultFlavour::OpenBao
    }

    /// The server's address, as in `VAULT_ADDR`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A token that may do everything. It changes after a start with empty storage.
    #[must_use]
    pub fn root_token(&self) -> String {
        locked(&self.keys).root_token.clone()
    }

    /// The same client, within a namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..self.clone() }
    }

    /// The same client for another node of the cluster.
    pub(crate) fn at_node(&self, port: u16) -> Self {
        Self { address: format!("http://127.0.0.1:{port}"), ..self.clone() }
    }

    /// Creates a namespace (`OpenBao`, or Vault Enterprise).
    pub async fn create_namespace(&self, name: &str) -> Result<()> {
        self.ask(Method::POST, &format!("sys/namespaces/{name}"), Some(json!({}))).await.map(drop)
    }

    /// Seals the server, as an operator or a crash does. It then answers every request with 503.
    pub async fn seal(&self) -> Result<()> {
        self.ask(Method::PUT, "sys/seal", None).await.map(drop)
    }

    /// Unseals the server, and waits until it is ready again.
    pub async fn unseal(&self) -> Result<()> {
        eventually("Vault to be unsealed", Duration::from_secs(30), || async {
            Ok(self.make_ready().await?.then_some(()))
        })
        .await
    }

    /// Takes one step towards a ready server: initialised, unsealed, active. Returns whether the
    /// server is ready.
    pub(crate) async fn make_ready(&self) -> Result<bool> {
        match self.health().await? {
            200 => Ok(true),
            501 => {
                let one_key = json!({"secret_shares": 1, "secret_threshold": 1});
                let made = self.ask(Method::PUT, "sys/init", Some(one_key)).await?;
                *locked(&self.keys) = Keys {
                    root_token: text(&made, "/root_token")?,
                    unseal_key: text(&made, "/keys/0")?,
                };
                Ok(false)
            }
            503 => {
                self.enter_key().await?;
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// The status of `sys/health`: 200 active, 429 standby, 501 not initialised, 503 sealed.
    pub(crate) async fn health(&self) -> Result<u16> {
        let url = format!("{}/v1/sys/health", self.address);
        let answer = self.http.get(url).timeout(HEALTH_WITHIN).send().await?;
        Ok(answer.status().as_u16())
    }

    /// Enters the unseal key.
    pub(crate) async fn enter_key(&self) -> Result<()> {
        let key = json!({"key": locked(&self.keys).unseal_key});
        self.ask(Method::PUT, "sys/unseal", Some(key)).await.map(drop)
    }

    /// Enables the audit log of a server whose configuration cannot declare it.
    pub(crate) async fn enable_audit(&self) -> Result<()> {
        if self.flavour == VaultFlavour::Vault {
            let options = json!({"file_path": self.audit_log, "log_raw": "true"});
            let device = json!({"type": "file", "options": options});
            self.ask(Method::PUT, "sys/audit/tofile", Some(device)).await?;
        }
        Ok(())
    }

    /// Mounts KV version 2.
    pub async fn enable_kv2(&self, mount: &str) -> Result<()> {
        self.enable(mount, json!({"type": "kv", "options": {"version": "2"}})).await?;
        let config = format!("{mount}/config");
        // A new mount refuses requests while it prepares its storage.
        eventually("the KV mount to be prepared", ANSWER_WITHIN, || async {
            self.ask(Method::GET, &config, None).await.map(Some)
        })
        .await
        .map(drop)
    }

    /// Mounts KV version 1, which has no versions.
    pub async fn enable_kv1(&self, mount: &str) -> Result<()> {
        self.enable(mount, json!({"type": "kv", "options": {"version": "1"}})).await
    }

    /// Mounts any secrets engine; `body` as in the API, such as `{"type": "transit"}`.
    pub async fn enable(&self, mount: &str, body: Value) -> Result<()> {
        self.ask(Method::POST, &format!("sys/mounts/{mount}"), Some(body)).await.map(drop)
    }

    /// Removes a mount with all its content.
    pub async fn disable(&self, mount: &str) -> Result<()> {
        self.ask(Method::DELETE, &format!("sys/mounts/{mount}"), None).await.map(drop)
    }

    /// The secrets of a KV v2 mount.
    #[must_use]
    pub fn kv(&self, mount: &str) -> Kv {
        Kv { vault: self.clone(), mount: mount.to_owned() }
    }

    /// Sends any request of the API with the root token. `path` is without `/v1/`. Returns `Null`
    /// for an empty answer.
    ///
    /// # Errors
    /// For an answer that is no success: with its status and text.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let token = self.root_token();
        self.ask_as(&token, method, path, body).await
    }

    /// As [`Self::ask`], with another token.
    pub async fn ask_as(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value> {
        let text = self.text_of(token, method.clone(), path, body).await?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("{method} {path}: {text}"))
    }

    /// As a GET by [`Self::ask`], for an answer that is not JSON.
    pub(crate) async fn ask_text(&self, path: &str) -> Result<String> {
        self.text_of(&self.root_token(), Method::GET, path, None).await
    }

    async fn text_of(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<String> {
        let url = format!("{}/v1/{path}", self.address);
        let mut request = self.http.request(method.clone(), url);
        if !token.is_empty() {
            request = request.header("X-Vault-Token", token);
        }
        if let Some(namespace) = &self.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.with_context(|| format!("{method} {path}"))?;
        let status = answer.status();
        let text = answer.text().await?;
        if !status.is_success() {
            bail!("{method} {path}: {status} {text}");
        }
        Ok(text)
    }
}

/// The secrets of one KV v2 mount. A path is within the mount, without `data/`.
#[derive(Debug, Clone)]
pub struct Kv {
    vault: Vault,
    mount: String,
}

impl Kv {
    /// Writes a new version: this is how a test rotates a secret.
    pub async fn put(&self, path: &str, data: Value) -> Result<Version> {
        let body = json!({ "data": data });
        let answer = self.ask(Method::POST, "data", path, Some(body)).await?;
        Ok(serde_json::from_value(answer["data"].clone())?)
    }

    /// Deletes the latest version, as `kv delete` does; it can be undeleted.
    pub async fn delete_latest(&self, path: &str) -> Result<()> {
        self.ask(Method::DELETE, "data", path, None).await.map(drop)
    }

    /// Brings deleted versions back.
    pub async fn undelete(&self, path: &str, versions: &[u64]) -> Result<()> {
        let body = json!({ "versions": versions });
        self.ask(Method::PUT, "undelete", path, Some(body)).await.map(drop)
    }

    /// Removes the data of versions for good.
    pub async fn destroy(&self, path: &str, versions: &[u64]) -> Result<()> {
        let body = json!({ "versions": versions });
        self.ask(Method::PUT, "destroy", path, Some(body)).await.map(drop)
    }

    /// Removes the secret with all versions. Afterwards its path is not found.
    pub async fn delete_metadata(&self, path: &str) -> Result<()> {
        self.ask(Method::DELETE, "metadata", path, None).await.map(drop)
    }

    /// Edits the metadata, for example `{"delete_version_after": "1h"}`. Makes no new version.
    pub async fn put_metadata(&self, path: &str, metadata: Value) -> Result<()> {
        self.ask(Method::POST, "metadata", path, Some(metadata)).await.map(drop)
    }

    /// Reads the metadata, with all versions.
    pub async fn metadata(&self, path: &str) -> Result<Value> {
        let mut answer = self.ask(Method::GET, "metadata", path, None).await?;
        Ok(answer["data"].take())
    }

    async fn ask(
        &self,
        method: Method,
        part: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value> {
        self.vault.ask(method, &format!("{}/{part}/{path}", self.mount), body).await
    }
}
