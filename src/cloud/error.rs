//! The errors of the clouds. None holds a credential or an answer's body.

use crate::credentials::credential::CredentialError;

/// The cloud does not prove the identity of the pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// A file contains no credential.
    #[error("{0}")]
    Credential(#[from] CredentialError),
    /// A server of the cloud gives no usable answer.
    #[error("{service} at {address}: {problem}")]
    Service {
        /// The name of the service, such as "the metadata server of Google Cloud".
        service: &'static str,
        /// Scheme, host and port.
        address: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// No source of credentials applies.
    #[error("{0}")]
    NoCredentials(String),
}
