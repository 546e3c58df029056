//! The errors of a login.

use super::super::credential::CredentialError;
use super::super::failure::Failure;

/// No token is to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// A file holds no credential.
    #[error("{0}")]
    Credential(#[from] CredentialError),
    /// A wrapped secret id cannot be taken out of its wrapping.
    #[error("the wrapped secret id cannot be used: {0}. Give a new one")]
    Unwrapping(String),
    /// The server refuses the login.
    #[error(
        "the login at auth/{mount}{}: Vault {failure}",
        .role.as_ref().map(|role| format!(" with role {role}")).unwrap_or_default()
    )]
    Refused {
        /// Where the method is mounted.
        mount: String,
        /// The role, where there is one.
        role: Option<String>,
        /// What the server answered.
        failure: Failure,
    },
    /// The given token is no longer good.
    #[error("the given token has ended or was revoked: give a new one")]
    GivenTokenEnded,
    /// The server cannot be asked.
    #[error("Vault {0}")]
    Server(Failure),
}

impl LoginError {
    /// The server's answer to a login was none that lets us in.
    pub(in crate::vault) fn refused(mount: &str, role: Option<&str>, failure: Failure) -> Self {
        let failure = match failure {
            // No token was sent that could have ended.
            Failure::TokenEnded => Failure::Denied,
            failure => failure,
        };
        Self::Refused { mount: mount.to_owned(), role: role.map(str::to_owned), failure }
    }
}
