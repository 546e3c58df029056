//! The CA of the Vault server from a Kubernetes Secret. The Secret is read at the start, and
//! watched from then on.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::client::in_time;
use super::watching::is_denied;

/// The pause between two attempts to watch the Secret, after an error.
const RETRY: Duration = Duration::from_secs(30);

/// The key that holds the CA, by the convention of `kubernetes.io/tls` Secrets.
const KEY: &str = "ca.crt";

/// The Secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaSecretError {
    /// The Secret cannot be read.
    #[error(
        "the Secret {namespace}/{name} of VAULT_TLS_SECRET cannot be read: {message}; \
         check the name, VAULT_TLS_SECRET_NS, and that the service account may get it"
    )]
    Unreadable {
        /// The namespace of the Secret.
        namespace: String,
        /// The name of the Secret.
        name: String,
        /// The message of the API server.
        message: String,
    },
    /// The Secret has no CA.
    #[error("the Secret {namespace}/{name} of VAULT_TLS_SECRET has no key {KEY}: put the CA there")]
    NoCa {
        /// The namespace of the Secret.
        namespace: String,
        /// The name of the Secret.
        name: String,
    },
}

/// A Secret that holds the CA.
pub struct CaSecret {
    api: Api<Secret>,
    namespace: String,
    name: String,
    /// The CA that was read last, in PEM.
    ca: watch::Sender<Vec<u8>>,
}

impl CaSecret {
    /// Reads the CA.
    pub async fn read(
        client: Client,
        namespace: String,
        name: String,
    ) -> Result<Self, CaSecretError> {
        let api: Api<Secret> = Api::namespaced(client, &namespace);
        let secret = match in_time(api.get(&name)).await {
            Ok(secret) => secret,
            Err(error) => {
                let message = error.to_string();
                return Err(CaSecretError::Unreadable { namespace, name, message });
            }
        };
        match ca_of(secret) {
            Some(ca) => Ok(Self { api, namespace, name, ca: watch::Sender::new(ca) }),
            None => Err(CaSecretError::NoCa { namespace, name }),
        }
    }

    /// Returns a receiver of the current CA, in PEM.
    #[must_use]
    pub fn ca(&self) -> watch::Receiver<Vec<u8>> {
        self.ca.subscribe()
    }

    /// Watches the Secret until `shutdown`. If the Secret is deleted, or loses its CA, the last CA
    /// stays in use.
    pub async fn follow(self, shutdown: CancellationToken) {
        tokio::select! {
            () = self.watch() => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn watch(&self) {
        let Self { namespace, name, .. } = self;
        let (mut is_failing, mut is_missing) = (false, false);
        let mut secrets = pin!(watch_object(self.api.clone(), name).default_backoff());
        while let Some(event) = secrets.next().await {
            match event {
                Ok(secret) => {
                    is_failing = false;
                    if let Some(ca) = secret.and_then(ca_of) {
                        is_missing = false;
                        self.ca.send_replace(ca);
                    } else if !std::mem::replace(&mut is_missing, true) {
                        warn!(
                            "The Secret {namespace}/{name} of VAULT_TLS_SECRET has no {KEY} any more. \
                             The last CA stays in use; put the CA back"
                        );
                    }
                }
                Err(error) => {
                    if is_denied(&error) && !std::mem::replace(&mut is_failing, true) {
                        warn!(
                            "Cannot watch the Secret {namespace}/{name} of VAULT_TLS_SECRET: {error}. A \
                             new CA is used after a restart, or once the service account may list and \
                             watch it"
                        );
                    }
                    sleep(RETRY).await;
                }
            }
        }
    }
}

fn ca_of(secret: Secret) -> Option<Vec<u8>> {
    let ca = secret.data?.remove(KEY)?.0;
    (!ca.is_empty()).then_some(ca)
}
