//! Who may do what: ServiceAccounts, their tokens, kubeconfigs and roles.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::Request;
use serde_json::{Value, json};

use crate::certificates::ACCOUNT_PUBLIC_KEY;
use crate::cluster::Cluster;
use crate::command_lines::RELOADER_USER;
use crate::kubeconfig::{inline, kubeconfig_text};

impl Cluster {
    /// The public key that verifies the tokens of `ServiceAccounts`, as PEM.
    pub fn account_public_key(&self) -> Result<String> {
        let file = self.folder.join(ACCOUNT_PUBLIC_KEY);
        std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    }

    /// Writes a kubeconfig file for a token.
    pub fn kubeconfig_for(&self, user: &str, token: &str) -> Result<PathBuf> {
        self.write_kubeconfig(user, &inline(token))
    }

    /// Writes a kubeconfig file that names a file with the token, which may be replaced.
    pub fn kubeconfig_for_file(&self, user: &str, token_file: &Path) -> Result<PathBuf> {
        self.write_kubeconfig(user, &format!("tokenFile: {}", token_file.display()))
    }

    /// Writes a kubeconfig file for a token at another address, such as that of a gateway.
    pub fn kubeconfig_at(&self, address: &str, user: &str, token: &str) -> Result<PathBuf> {
        let path =
            self.folder.join(format!("kubeconfig-{user}-{}", address.replace([':', '/'], "-")));
        let text = kubeconfig_text(self.port, &self.ca, user, &inline(token));
        std::fs::write(&path, text.replace(&self.address(), address))?;
        Ok(path)
    }

    fn write_kubeconfig(&self, user: &str, credential: &str) -> Result<PathBuf> {
        let path = self.folder.join(format!("kubeconfig-{}", user.replace([':', '/'], "-")));
        std::fs::write(&path, kubeconfig_text(self.port, &self.ca, user, credential))?;
        Ok(path)
    }

    /// Requests a token of a `ServiceAccount` by a `TokenRequest`. The API server's shortest
    /// lifetime is 10 minutes.
    pub async fn request_token(
        &self,
        namespace: &str,
        account: &str,
        life: Duration,
    ) -> Result<String> {
        self.request_token_for(&[], namespace, account, life).await
    }

    /// As [`Self::request_token`], for these audiences. Without one, the token is for the API server.
    pub async fn request_token_for(
        &self,
        audiences: &[&str],
        namespace: &str,
        account: &str,
        life: Duration,
    ) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": life.as_secs(), "audiences": audiences},
        });
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&body)?)?;
        let answer: Value = self.client.request(request).await?;
        crate::json::text(&answer, "/status/token")
    }

    /// Creates a `ServiceAccount`.
    pub async fn create_service_account(&self, namespace: &str, name: &str) -> Result<()> {
        let account = json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"namespace": namespace, "name": name},
        });
        self.apply_object(&account, "serviceaccounts").await.map(drop)
    }

    /// Returns the token with which Vault sends a `TokenReview`.
    pub(crate) async fn token_reviewer(&self) -> Result<String> {
        self.create_namespace("vault").await?;
        self.create_service_account("vault", "vault").await?;
        self.bind(
            "vault-token-review",
            "system:auth-delegator",
            &json!({
                "kind": "ServiceAccount", "namespace": "vault", "name": "vault",
            }),
        )
        .await?;
        self.request_token("vault", "vault", Duration::from_hours(24)).await
    }

    /// Grants a `ServiceAccount` what the chart grants the controller.
    pub async fn grant_reloader(&self, namespace: &str, account: &str) -> Result<()> {
        let subject = json!({"kind": "ServiceAccount", "namespace": namespace, "name": account});
        self.bind(&format!("reloader-{namespace}-{account}"), RELOADER_USER, &subject).await
    }

    /// Grants a `ClusterRole` to a subject in all namespaces, by a `ClusterRoleBinding` of this name.
    pub async fn bind(&self, name: &str, role: &str, subject: &Value) -> Result<()> {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role,
            },
            "subjects": [subject],
        });
        self.apply_object(&binding, "clusterrolebindings").await.map(drop)
    }
}
