//! The identity that a cloud gives the pod, as the fields of a login at Vault.
//!
//! Architecture Invariant: requests go only to addresses that the cloud documents or that the operator
//! sets. No credential is logged or part of an error.

use secrecy::SecretString;

use crate::credentials::files::Files;

pub mod aws;
pub mod azure;
pub mod error;
pub mod gcp;
pub(crate) mod http;
mod proof;
#[cfg(test)]
mod stand_in;
mod text;

pub use error::CloudError;
pub(crate) use proof::Proof;

/// The identity of the pod in a cloud.
#[derive(Clone, Debug)]
pub enum Identity {
    /// An identity of Amazon Web Services.
    Aws(aws::Aws),
    /// An identity of Google Cloud.
    Gcp(gcp::Gcp),
    /// An identity of Microsoft Azure.
    Azure(azure::Azure),
}

impl Identity {
    /// Returns a new proof of the identity for a login with `role`.
    pub(crate) async fn prove(&self, role: &str, files: &Files) -> Result<Proof, CloudError> {
        match self {
            Self::Aws(aws) => aws.prove(files).await,
            Self::Gcp(gcp) => gcp.prove(role).await,
            Self::Azure(azure) => azure.prove(files).await,
        }
    }

    /// Returns the credential that a proof reads from a file; `None` if it cannot be read or there is
    /// none. An operator may replace it after a login that failed.
    pub(crate) async fn credential(&self, files: &Files) -> Option<SecretString> {
        match self {
            Self::Aws(aws) => aws.credential(files).await,
            Self::Gcp(_) => None,
            Self::Azure(azure) => azure.credential(files).await,
        }
    }

    /// Forgets what the last proof was made with, because Vault refused that proof.
    pub(crate) async fn forget(&self) {
        if let Self::Aws(aws) = self {
            aws.forget().await;
        }
    }

    /// The name of the auth method, for metrics: the type of the mount in Vault.
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Self::Aws(_) => "aws",
            Self::Gcp(_) => "gcp",
            Self::Azure(_) => "azure",
        }
    }
}
