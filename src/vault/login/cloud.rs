//! The login with an identity that a cloud gives the pod.

use serde_json::Value;

use super::super::client::Server;
use super::super::endpoint::Post;
use super::super::failure::Failure;
use super::error::LoginError;
use crate::cloud::{Identity, Proof};

/// A login of the methods `aws`, `gcp` or `azure`.
#[derive(Clone, Debug)]
pub struct CloudLogin {
    /// The mount of the method, without `auth/`.
    pub mount: String,
    /// The role.
    pub role: String,
    /// What the login proves.
    pub identity: Identity,
}

impl CloudLogin {
    /// Logs in. Returns the body of the answer.
    pub(in crate::vault) async fn login(&self, server: &Server) -> Result<Vec<u8>, LoginError> {
        let Self { mount, role, identity } = self;
        let Proof(mut fields) = identity.prove(role, server.files()).await?;
        fields.insert("role".to_owned(), Value::String(role.clone()));
        let body = Value::Object(fields).to_string().into_bytes();
        let request = Post { path: format!("/auth/{mount}/login"), body: Some(body) };
        match server.execute(request, "").await {
            Ok(answer) => Ok(answer.body),
            Err(failure) => {
                if matches!(failure, Failure::Denied | Failure::Refused { .. }) {
                    identity.forget().await;
                }
                Err(LoginError::refused(mount, Some(role), without_proof(failure)))
            }
        }
    }
}

/// The header of a proof that Vault may repeat in a message, by way of the error of AWS.
const REPEATED: &str = "x-amz-security-token";

/// Removes what a message of Vault may repeat of the proof.
fn without_proof(failure: Failure) -> Failure {
    match failure {
        Failure::Refused { status, mut message } => {
            if let Some(start) = message.to_ascii_lowercase().find(REPEATED) {
                message.truncate(start);
                message.push('…');
            }
            Failure::Refused { status, message }
        }
        failure => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_repeats_the_proof_is_cut() {
        let refused = |message: &str| Failure::Refused { status: 400, message: message.to_owned() };
        let canonical = "received error code 403 from STS: should have been 'POST / \
                         X-Amz-Security-Token:SECRET host'";
        assert_eq!(
            without_proof(refused(canonical)),
            refused("received error code 403 from STS: should have been 'POST / …")
        );
        for kept in [refused("client nonce mismatch"), Failure::Denied] {
            assert_eq!(without_proof(kept.clone()), kept);
        }
    }
}
