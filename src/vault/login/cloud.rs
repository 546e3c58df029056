//! The login with an identity that a cloud gives the pod.

use serde_json::Value;

use super::super::client::Server;
use super::super::endpoint::Post;
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
        let answer = server.execute(request, "").await;
        answer
            .map(|answer| answer.body)
            .map_err(|failure| LoginError::refused(mount, Some(role), failure))
    }
}
