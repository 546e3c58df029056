//! The text of kubeconfig files.

use base64::Engine as _;

/// Returns the lines of a user with a token.
pub(crate) fn inline(token: &str) -> String {
    format!("token: {token}")
}

/// Returns a kubeconfig of one cluster and one user, whose credential is given as YAML.
pub(crate) fn kubeconfig_text(port: u16, ca: &str, user: &str, credential: &str) -> String {
    let ca = base64::engine::general_purpose::STANDARD.encode(ca);
    format!(
        "apiVersion: v1
kind: Config
current-context: bed
clusters:
- name: bed
  cluster:
    server: https://127.0.0.1:{port}
    certificate-authority-data: {ca}
contexts:
- name: bed
  context:
    cluster: bed
    user: {user:?}
users:
- name: {user:?}
  user:
    {credential}
"
    )
}
