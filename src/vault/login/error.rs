//! The errors of a login.

use super::super::failure::Failure;
use crate::cloud::CloudError;
use crate::credentials::credential::CredentialError;
use crate::credentials::service_account::TokenRequestError;

/// No token is available.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// A file contains no credential.
    #[error("{0}")]
    Credential(#[from] CredentialError),
    /// The cloud does not prove the identity of the pod.
    #[error("{0}")]
    Cloud(#[from] CloudError),
    /// The API server gives no token of a ServiceAccount.
    #[error("{0}")]
    TokenRequest(#[from] TokenRequestError),
    /// There is no API server that could give a token of a ServiceAccount.
    #[error(
        "there is no cluster to request a token from: give a token in a file by VAULT_JWT_FILE"
    )]
    NoCluster,
    /// A wrapped secret id cannot be unwrapped.
    #[error("the wrapped secret id cannot be used: {0}. Give a new one")]
    Unwrapping(String),
    /// The server refuses the login.
    #[error(
        "the login at auth/{mount}{}: Vault {failure}",
        .role.as_ref().map(|role| format!(" with role {role}")).unwrap_or_default()
    )]
    Refused {
        /// The mount of the method.
        mount: String,
        /// The role, if there is one.
        role: Option<String>,
        /// The server's answer.
        failure: Failure,
    },
    /// The given token is no longer valid.
    #[error("the given token has ended or was revoked: give a new one")]
    GivenTokenEnded,
    /// The server does not answer the request.
    #[error("Vault {0}")]
    Server(Failure),
}

impl LoginError {
    /// Returns the error for a login that the server did not accept.
    pub(in crate::vault) fn refused(mount: &str, role: Option<&str>, failure: Failure) -> Self {
        let failure = match failure {
            // A login sends no token, so no token can have ended.
            Failure::TokenEnded => Failure::Denied,
            failure => failure,
        };
        Self::Refused { mount: mount.to_owned(), role: role.map(str::to_owned), failure }
    }
}
