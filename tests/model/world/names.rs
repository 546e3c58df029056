//! The names of servers, secrets, namespaces and processes.

use std::sync::Arc;

use vault_secrets_reloader::model::secret::{DEFAULT_CONNECTION, SecretId};
use vault_secrets_reloader::references::servers::{
    Address, Servers, UndeclaredAddress, VaultServer,
};

use crate::history::{PROCESSES, Setup};

/// The annotation by which a workload names its server.
pub(super) const ADDRESS: &str = "secrets-webhook.security.bank-vaults.io/vault-addr";

pub(super) fn address(server: usize) -> String {
    format!("https://vault-{server}:8200")
}

/// Returns the name of a server in the controller.
pub(crate) fn server_name(server: usize) -> Arc<str> {
    if server == 0 { DEFAULT_CONNECTION.into() } else { format!("vault-{server}").into() }
}

/// Returns all declared servers.
pub(crate) fn servers(count: usize) -> Servers {
    let declared = |server| VaultServer {
        name: server_name(server),
        addresses: Address::parse(&address(server)).into_iter().collect(),
        namespace: None,
    };
    Servers::new((0..count).map(declared).collect(), UndeclaredAddress::Default).unwrap()
}

/// Returns the path of a secret on its server.
pub(super) fn path(secret: usize) -> String {
    format!("secret/data/{secret}")
}

impl Setup {
    /// Returns the namespace of a workload.
    pub(super) fn namespace(&self, slot: usize) -> Arc<str> {
        if slot.is_multiple_of(self.rollouts.namespaces) { "shop".into() } else { "office".into() }
    }

    /// Returns the id of a secret in the controller.
    pub(crate) fn secret_id(&self, secret: usize) -> SecretId {
        let (server, local) = (secret / self.secrets, secret % self.secrets);
        SecretId { connection: server_name(server), namespace: None, path: path(local).into() }
    }

    /// Returns the secret of an id.
    pub(crate) fn secret_of(&self, id: &SecretId) -> usize {
        let number = |text: &str, separator| {
            let last = text.rsplit(separator).next();
            last.and_then(|number| number.parse::<usize>().ok()).unwrap_or_default()
        };
        number(&id.connection, '-') * self.secrets + number(&id.path, '/')
    }
}

/// Returns the process of a life.
pub(crate) fn process_of(life: u64) -> usize {
    usize::try_from(life).unwrap_or(0) % PROCESSES
}
