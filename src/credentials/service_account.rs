//! Tokens of ServiceAccounts: the trait through which a login gets one. `kubernetes/` implements it.

use std::fmt;

use futures::future::BoxFuture;
use secrecy::SecretString;

/// A ServiceAccount whose tokens log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// The namespace of the ServiceAccount. The configuration checks that it is a DNS label.
    pub namespace: String,
    /// The name of the ServiceAccount. The configuration checks that it is a DNS subdomain.
    pub name: String,
    /// The audience of its tokens. `None` is the audience of the API server.
    pub audience: Option<String>,
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name, audience: _ } = self;
        write!(formatter, "{namespace}/{name}")
    }
}

/// The API server gives no token. No text repeats a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRequestError {
    /// The service account of the controller lacks the permission.
    #[error(
        "the controller may not request a token of the ServiceAccount {account}: {message}. Add to a \
         Role in namespace {}, and bind it to the controller's service account: verb create, \
         resource serviceaccounts/token, resourceName {}. The chart does so for \
         VAULT_JWT_SERVICE_ACCOUNT in env and vaultServers",
        .account.namespace, .account.name
    )]
    Forbidden {
        /// The ServiceAccount whose token was requested.
        account: ServiceAccount,
        /// The message of the API server.
        message: String,
    },
    /// The ServiceAccount does not exist.
    #[error(
        "the ServiceAccount {0} does not exist: create it, or correct VAULT_JWT_SERVICE_ACCOUNT"
    )]
    Missing(ServiceAccount),
    /// The API server failed, refused the request, or could not be reached.
    #[error("the API server gives no token of the ServiceAccount {account}: {cause}")]
    Failed {
        /// The ServiceAccount whose token was requested.
        account: ServiceAccount,
        /// The cause.
        cause: String,
    },
}

/// Requests tokens of ServiceAccounts.
pub trait RequestToken: Send + Sync {
    /// Returns a new token that ends after a few minutes. The token logs in once.
    fn request_token<'a>(
        &'a self,
        account: &'a ServiceAccount,
    ) -> BoxFuture<'a, Result<SecretString, TokenRequestError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_account_and_the_remedy() {
        let account = ServiceAccount {
            namespace: "infra".to_owned(),
            name: "vault-login".to_owned(),
            audience: None,
        };
        let (message, cause) = ("no (status 403)".to_owned(), "it cannot be reached".to_owned());
        for (error, parts) in [
            (
                TokenRequestError::Forbidden { account: account.clone(), message },
                &[
                    "may not request a token of the ServiceAccount infra/vault-login: no (status 403)",
                    "in namespace infra",
                    "create",
                    "serviceaccounts/token",
                    "resourceName vault-login",
                ][..],
            ),
            (
                TokenRequestError::Missing(account.clone()),
                &["infra/vault-login does not exist", "VAULT_JWT_SERVICE_ACCOUNT"],
            ),
            (
                TokenRequestError::Failed { account, cause },
                &["gives no token of the ServiceAccount infra/vault-login: it cannot be reached"],
            ),
        ] {
            let text = error.to_string();
            for part in parts {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
    }
}
