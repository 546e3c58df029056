//! The CA of the Vault server, where it is kept in a Kubernetes Secret.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use super::client::in_time;

/// The key that holds the CA, by the convention of `kubernetes.io/tls` Secrets.
const KEY: &str = "ca.crt";

/// The Secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaSecretError {
    /// It cannot be read.
    #[error(
        "the Secret {namespace}/{name} of VAULT_TLS_SECRET cannot be read: {message}; \
         check the name, VAULT_TLS_SECRET_NS, and that the service account may get it"
    )]
    Unreadable {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What the API server said.
        message: String,
    },
    /// It has no CA.
    #[error("the Secret {namespace}/{name} of VAULT_TLS_SECRET has no key {KEY}: put the CA there")]
    NoCa {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Reads the CA, in PEM.
pub async fn read(client: Client, namespace: &str, name: &str) -> Result<Vec<u8>, CaSecretError> {
    let unreadable = |message: String| CaSecretError::Unreadable {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        message,
    };
    let api: Api<Secret> = Api::namespaced(client, namespace);
    let secret = in_time(api.get(name)).await.map_err(|error| unreadable(error.to_string()))?;
    let ca = secret.data.and_then(|mut data| data.remove(KEY)).map(|bytes| bytes.0);
    ca.filter(|ca| !ca.is_empty()).ok_or_else(|| CaSecretError::NoCa {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}
