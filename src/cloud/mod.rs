//! The identity that a cloud gives the pod, as the fields of a login at Vault.
//!
//! Architecture Invariant: requests go only to addresses that the cloud documents or that the operator
//! sets. No credential is logged or part of an error.

use serde_json::{Map, Value};

use crate::credentials::files::Files;

pub mod aws;
pub mod azure;
pub mod error;
pub mod gcp;
pub(crate) mod http;

pub use error::CloudError;

/// The longest text of a cloud that becomes part of a login, in bytes.
pub(crate) const LONGEST_TEXT: usize = 64 << 10;

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

/// The fields of a login that prove the identity, without the role. They are secret.
pub(crate) struct Proof(pub(crate) Map<String, Value>);

impl Identity {
    /// Returns a new proof of the identity for a login with `role`.
    pub(crate) async fn prove(&self, role: &str, files: &Files) -> Result<Proof, CloudError> {
        match self {
            Self::Aws(aws) => aws.prove(files).await,
            Self::Gcp(gcp) => gcp.prove(role).await,
            Self::Azure(azure) => azure.prove(files).await,
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

/// Puts the fields of a proof together.
pub(crate) fn proof<const N: usize>(fields: [(&str, String); N]) -> Proof {
    let fields = fields.into_iter().map(|(name, text)| (name.to_owned(), Value::String(text)));
    Proof(fields.collect())
}
