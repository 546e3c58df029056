//! The permissions on the bed's Vault server: policies, tokens, login by `auth/kubernetes`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aws_lc_rs::digest::{SHA256, digest};
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};

use crate::binaries::Binaries;
use crate::cluster::Cluster;
use crate::json::text;
use crate::vault::Vault;

/// The name of the controller's policy of least privilege. Every bed has it for the mount `secret`.
pub const RELOADER_POLICY: &str = "reloader";

/// The README, which shows users the policy to write.
const README: &str = include_str!("../../README.md");

/// The start of the policy's rules in the README.
const RULE: &str = "path \"secret/";

/// A token to create. The default: the policy [`RELOADER_POLICY`], a day, renewable.
#[derive(Debug, Clone, Serialize)]
pub struct TokenRequest {
    /// The policies.
    pub policies: Vec<String>,
    /// The lifetime, such as `1h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// The longest lifetime with renewals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explicit_max_ttl: Option<String>,
    /// The period of a periodic token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period: Option<String>,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// The number of requests that the token is good for; 0 for any number.
    pub num_uses: u32,
    /// `service` or `batch`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// A name that audit lines show.
    pub display_name: String,
    /// Whether the policy `default` is left out.
    pub no_default_policy: bool,
}

impl Default for TokenRequest {
    fn default() -> Self {
        Self {
            policies: vec![RELOADER_POLICY.to_owned()],
            ttl: Some("24h".to_owned()),
            explicit_max_ttl: None,
            period: None,
            renewable: true,
            num_uses: 0,
            kind: "service",
            display_name: "reloader".to_owned(),
            no_default_policy: false,
        }
    }
}

/// A token, and an accessor that names the token without showing it.
#[derive(Debug, Clone)]
pub struct Token {
    /// The token itself.
    pub token: String,
    /// The accessor; empty for a batch token, which has none.
    pub accessor: String,
}

/// A role of `auth/kubernetes`: the `ServiceAccount` that may log in, and its policies.
#[derive(Debug, Clone)]
pub struct KubernetesRole {
    /// The role's name, as in `VAULT_ROLE`.
    pub name: String,
    /// The namespace of the `ServiceAccount`.
    pub namespace: String,
    /// The name of the `ServiceAccount`.
    pub service_account: String,
    /// The policies that its tokens have.
    pub policies: Vec<String>,
    /// The lifetime of its tokens, such as `60s`.
    pub token_ttl: String,
    /// The longest lifetime of its tokens with renewals; `0` for the server's limit.
    pub token_max_ttl: String,
    /// The audience that the `ServiceAccount`'s token must have; empty for that of the API server.
    pub audience: String,
}

impl KubernetesRole {
    /// Returns a role with the controller's policy and tokens of an hour.
    #[must_use]
    pub fn new(name: &str, namespace: &str, service_account: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            policies: vec![RELOADER_POLICY.to_owned()],
            token_ttl: "1h".to_owned(),
            token_max_ttl: "0".to_owned(),
            audience: String::new(),
        }
    }
}

impl Vault {
    /// Returns the rules of the README for one KV v2 mount. All scenarios run with these rules.
    #[must_use]
    pub fn reloader_rules(mount: &str) -> String {
        let rules = README.lines().filter_map(|line| line.trim().strip_prefix(RULE));
        let rules: Vec<String> = rules.map(|rest| format!("path \"{mount}/{rest}\n")).collect();
        rules.concat()
    }

    /// Prepares the server as in every bed: the audit log, KV v2 at `secret/`, and the controller's
    /// policy.
    pub(crate) async fn prepare(&self) -> Result<()> {
        self.enable_audit().await?;
        self.enable_kv2("secret").await?;
        self.put_policy(RELOADER_POLICY, &Self::reloader_rules("secret")).await
    }

    /// Writes a policy. The change affects existing tokens at once.
    pub async fn put_policy(&self, name: &str, rules: &str) -> Result<()> {
        let body = json!({ "policy": rules });
        self.ask(Method::PUT, &format!("sys/policies/acl/{name}"), Some(body)).await.map(drop)
    }

    /// Creates a token.
    pub async fn create_token(&self, request: &TokenRequest) -> Result<Token> {
        let body = serde_json::to_value(request)?;
        let answer = self.ask(Method::POST, "auth/token/create", Some(body)).await?;
        Ok(Token {
            token: text(&answer, "/auth/client_token")?,
            accessor: text(&answer, "/auth/accessor").unwrap_or_default(),
        })
    }

    /// Revokes a token, and all tokens and leases that were created with it.
    pub async fn revoke(&self, token: &str) -> Result<()> {
        let body = json!({ "token": token });
        self.ask(Method::POST, "auth/token/revoke", Some(body)).await.map(drop)
    }

    /// Revokes the token that has this accessor.
    pub async fn revoke_accessor(&self, accessor: &str) -> Result<()> {
        let body = json!({ "accessor": accessor });
        self.ask(Method::POST, "auth/token/revoke-accessor", Some(body)).await.map(drop)
    }

    /// Revokes every token but the root token.
    pub(crate) async fn revoke_all(&self) -> Result<()> {
        let own = self.lookup(&self.root_token()).await?;
        let own = text(&own, "/accessor")?;
        for accessor in self.accessors().await?.iter().filter(|accessor| **accessor != own) {
            // A token that expires meanwhile is gone too.
            drop(self.revoke_accessor(accessor).await);
        }
        Ok(())
    }

    /// Revokes all tokens that came from a login path, such as `auth/kubernetes/login`.
    pub async fn revoke_prefix(&self, prefix: &str) -> Result<()> {
        self.ask(Method::PUT, &format!("sys/leases/revoke-prefix/{prefix}"), None).await.map(drop)
    }

    /// Returns the server's data of a token: `ttl`, `policies`, `num_uses`.
    ///
    /// # Errors
    /// Also when the token is not valid: revoked, expired, or never made.
    pub async fn lookup(&self, token: &str) -> Result<Value> {
        let body = json!({ "token": token });
        let mut answer = self.ask(Method::POST, "auth/token/lookup", Some(body)).await?;
        Ok(answer["data"].take())
    }

    /// Returns the accessors of all valid tokens, to count the tokens that a controller left
    /// behind.
    pub async fn accessors(&self) -> Result<Vec<String>> {
        let answer = self.ask(Method::GET, "auth/token/accessors?list=true", None).await?;
        Ok(serde_json::from_value(answer["data"]["keys"].clone())?)
    }

    /// Returns the number of tokens that each auth method created since the server started,
    /// including `token`.
    pub async fn tokens_created(&self) -> Result<BTreeMap<String, u64>> {
        let metrics = self.ask_text("sys/metrics?format=prometheus").await?;
        let mut made = BTreeMap::new();
        for line in metrics.lines().filter(|line| line.starts_with("vault_token_creation{")) {
            let method =
                line.split("auth_method=\"").nth(1).and_then(|rest| rest.split('"').next());
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
            if let (Some(method), Some(count)) = (method, count) {
                *made.entry(method.to_owned()).or_default() += count;
            }
        }
        Ok(made)
    }

    /// Enables `auth/kubernetes` at `mount` against the bed's API server: each login there is a
    /// real `TokenReview`, by the `ServiceAccount` `vault` in the namespace `vault`.
    pub async fn enable_kubernetes_auth(&self, cluster: &Cluster, mount: &str) -> Result<()> {
        let reviewer = cluster.token_reviewer().await?;
        self.enable_auth("kubernetes", mount).await?;
        let config = json!({
            "kubernetes_host": cluster.address(),
            "kubernetes_ca_cert": cluster.ca(),
            "token_reviewer_jwt": reviewer,
            "disable_local_ca_jwt": true,
        });
        self.ask(Method::POST, &format!("auth/{mount}/config"), Some(config)).await.map(drop)
    }

    /// Enables an auth method at `mount`, by its plugin if the server does not have it built in.
    pub async fn enable_auth(&self, method: &str, mount: &str) -> Result<()> {
        if let Some(plugin) = Binaries::find()?.auth_plugin(method) {
            self.register_auth_plugin(method, &plugin).await?;
        }
        let body = json!({ "type": method });
        self.ask(Method::POST, &format!("sys/auth/{mount}"), Some(body)).await.map(drop)
    }

    /// Registers a plugin under the name of the auth method that is built into other builds of
    /// Vault.
    async fn register_auth_plugin(&self, method: &str, plugin: &Path) -> Result<()> {
        let content =
            fs::read(plugin).with_context(|| format!("cannot read {}", plugin.display()))?;
        let digest = digest(&SHA256, &content);
        let sha256 =
            digest.as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let body =
            json!({"command": plugin.file_name().map(OsStr::to_string_lossy), "sha256": sha256});
        let path = format!("sys/plugins/catalog/auth/{method}");
        self.ask(Method::PUT, &path, Some(body)).await.map(drop)
    }

    /// Whether an auth method is enabled at `mount`.
    pub async fn is_auth_enabled(&self, mount: &str) -> Result<bool> {
        let enabled = self.ask(Method::GET, "sys/auth", None).await?;
        Ok(enabled["data"].get(format!("{mount}/")).is_some())
    }

    /// Writes a role of `auth/kubernetes` at `mount`.
    pub async fn put_kubernetes_role(&self, mount: &str, role: &KubernetesRole) -> Result<()> {
        let body = json!({
            "bound_service_account_names": [role.service_account],
            "bound_service_account_namespaces": [role.namespace],
            "token_policies": role.policies,
            "token_ttl": role.token_ttl,
            "token_max_ttl": role.token_max_ttl,
            "audience": role.audience,
        });
        let path = format!("auth/{mount}/role/{}", role.name);
        self.ask(Method::POST, &path, Some(body)).await.map(drop)
    }

    /// Returns the remaining lifetime of a token.
    pub async fn ttl(&self, token: &str) -> Result<Duration> {
        let seconds = self.lookup(token).await?["ttl"].as_u64().unwrap_or_default();
        Ok(Duration::from_secs(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the rules in a longer text, without comments and spaces.
    fn rules(text: &str) -> String {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
        let text: String = lines.flat_map(str::chars).filter(|c| !c.is_whitespace()).collect();
        let rules = text.split("path\"").skip(1).filter_map(|rule| rule.split_once('}'));
        rules.map(|(rule, _)| ["path\"", rule, "}"].concat()).collect()
    }

    #[test]
    fn the_policy_reads_and_lists_metadata_and_nothing_else() {
        let expected = r#"path"secret/metadata/*"{capabilities=["read"]}path"secret/detailed-metadata/*"{capabilities=["list"]}"#;
        assert_eq!(rules(&Vault::reloader_rules("secret")), expected);
        let elsewhere = [
            include_str!("../../deploy/examples/vault-policy.hcl"),
            include_str!("../../deploy/charts/vault-secrets-reloader/README.md"),
            include_str!("../../docs/vault-access.md"),
            include_str!("../../deploy/charts/vault-secrets-reloader/templates/NOTES.txt"),
        ];
        for text in elsewhere {
            assert_eq!(rules(text), expected);
        }
    }
}
