//! The AppRole login. The secret id may be wrapped in a token that can be used only once.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use vaultrs::api::EndpointResult;
use vaultrs::api::auth::approle::requests::LoginWithApproleRequest;
use vaultrs::api::sys::requests::WrappingLookupRequest;
use vaultrs::api::sys::responses::WrappingLookupResponse;

use super::client::Server;
use super::endpoint::Post;
use super::failure::Failure;
use super::login::error::LoginError;
use crate::credentials::credential::{self, Credential};
use crate::credentials::files::Files;
use crate::model::text::shorten;

const ROLE_ID: &str = "the file of the role id";
const SECRET_ID: &str = "the file of the secret id";

/// A role for logins of machines.
#[derive(Clone, Debug)]
pub struct AppRole {
    /// The mount of the method, without `auth/`.
    pub mount: String,
    /// The role id.
    pub role_id: Credential,
    /// The secret id, unless the role requires none.
    pub secret_id: Option<AppRoleSecretId>,
}

/// A secret id, given as it is or wrapped.
#[derive(Clone, Debug)]
pub struct AppRoleSecretId {
    given: Credential,
    /// `None` if the secret id is given without a wrapping.
    wrapped: Option<Arc<Mutex<Option<Unwrapped>>>>,
}

/// The content of a wrapping token. The token can be used only once, so the content is kept for
/// later logins.
#[derive(Debug)]
struct Unwrapped {
    wrapping_token: SecretString,
    secret_id: SecretString,
}

impl AppRoleSecretId {
    /// Creates a secret id. If it `is_wrapped`, `given` is the token that wraps the secret id.
    #[must_use]
    pub fn new(given: Credential, is_wrapped: bool) -> Self {
        Self { given, wrapped: is_wrapped.then(Arc::default) }
    }

    async fn read(&self, server: &Server, mount: &str) -> Result<SecretString, LoginError> {
        let given = self.given.read(server.files(), SECRET_ID).await?;
        let Some(wrapped) = &self.wrapped else { return Ok(given) };
        let mut unwrapped = wrapped.lock().await;
        if let Some(known) = &*unwrapped
            && known.wrapping_token.expose_secret() == given.expose_secret()
        {
            return Ok(known.secret_id.clone());
        }
        let secret_id = unwrap(server, mount, &given).await?;
        *unwrapped = Some(Unwrapped { wrapping_token: given, secret_id: secret_id.clone() });
        Ok(secret_id)
    }
}

impl AppRole {
    /// Returns the role id and the given secret id or wrapping token; `None` if one cannot be read.
    pub(super) async fn credentials(&self, files: &Files) -> Option<Vec<SecretString>> {
        let mut credentials = vec![self.role_id.read(files, ROLE_ID).await.ok()?];
        if let Some(secret_id) = &self.secret_id {
            credentials.push(secret_id.given.read(files, SECRET_ID).await.ok()?);
        }
        Some(credentials)
    }

    /// Logs in. Returns the body of the answer.
    pub(super) async fn login(&self, server: &Server) -> Result<Vec<u8>, LoginError> {
        let Self { mount, role_id, secret_id } = self;
        let role_id = role_id.read(server.files(), ROLE_ID).await?;
        let secret_id = match secret_id {
            Some(secret_id) => secret_id.read(server, mount).await?,
            None => SecretString::default(),
        };
        let request = LoginWithApproleRequest::builder()
            .mount(mount)
            .role_id(role_id.expose_secret())
            .secret_id(secret_id.expose_secret())
            .build()
            .map_err(|_| LoginError::Server(Failure::incomplete_request()))?;
        let answer = server.execute(request, "").await;
        answer
            .map(|answer| answer.body)
            .map_err(|failure| LoginError::refused(mount, None, failure))
    }
}

/// Unwraps the secret id, after checking who wrapped it. A token that somebody else wrapped could
/// contain a secret id of theirs.
async fn unwrap(
    server: &Server,
    mount: &str,
    wrapping_token: &SecretString,
) -> Result<SecretString, LoginError> {
    if !credential::is_token(wrapping_token.expose_secret()) {
        return Err(LoginError::Unwrapping("the given value is not a token".to_owned()));
    }
    let wrapping_failure = |failure: Failure| {
        match failure {
        Failure::Refused { status: 400, .. } | Failure::Denied | Failure::TokenEnded => {
            LoginError::Unwrapping(
            "Vault does not know the wrapping token: it has ended, or was used before. If nobody of \
             yours did, take the secret id as stolen"
                .to_owned(),
            )
        }
        failure => LoginError::Server(failure),
    }
    };
    let look_up = WrappingLookupRequest::builder().token(wrapping_token.expose_secret()).build();
    let look_up = look_up.map_err(|_| LoginError::Server(Failure::incomplete_request()))?;
    let answer = server.execute(look_up, "").await.map_err(wrapping_failure)?;
    let path = creation_path(&answer.body).map_err(LoginError::Server)?;
    if !is_secret_id_path(&path, mount, server.namespace()) {
        return Err(LoginError::Unwrapping(format!(
            "it does not come from a role of auth/{mount}, but from {:?}: somebody may have put \
             another in its place",
            shorten(&path)
        )));
    }
    let request = Post { path: "/sys/wrapping/unwrap".to_owned(), body: None };
    let answer =
        server.execute(request, wrapping_token.expose_secret()).await.map_err(wrapping_failure)?;
    unwrapped(&answer.body).map_err(LoginError::Server)
}

/// Returns whether `path` creates secret ids of this mount. The path may begin with the Vault
/// namespace of the login. With any other prefix, the path could be a place where everybody may
/// write.
fn is_secret_id_path(path: &str, mount: &str, namespace: Option<&str>) -> bool {
    let within = namespace.and_then(|name| path.strip_prefix(name)?.strip_prefix('/'));
    let role = within.unwrap_or(path).strip_prefix(&format!("auth/{mount}/role/"));
    matches!(role.and_then(|rest| rest.split_once('/')),
        Some((name, "secret-id" | "custom-secret-id")) if !name.is_empty())
}

/// Reads which request created the wrapped content.
pub fn creation_path(body: &[u8]) -> Result<String, Failure> {
    let answer: EndpointResult<WrappingLookupResponse> =
        serde_json::from_slice(body).map_err(|_| Failure::unreadable_answer())?;
    answer.data.map(|found| found.creation_path).ok_or_else(Failure::unreadable_answer)
}

/// Reads the secret id that was wrapped.
pub fn unwrapped(body: &[u8]) -> Result<SecretString, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        secret_id: String,
    }
    let answer: Answer = serde_json::from_slice(body).map_err(|_| Failure::unreadable_answer())?;
    let secret_id = answer.data.secret_id;
    if credential::is_line(&secret_id) {
        Ok(secret_id.into())
    } else {
        Err(Failure::unreadable_answer())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_id_comes_from_a_role_of_its_mount() {
        for path in [
            "auth/approle/role/reloader/secret-id",
            "auth/approle/role/reloader/custom-secret-id",
            "team/a/auth/approle/role/reloader/secret-id",
        ] {
            assert!(is_secret_id_path(path, "approle", Some("team/a")), "{path}");
        }
        for path in [
            "sys/wrapping/wrap",
            "cubbyhole/auth/approle/role/reloader/secret-id",
            "team/a/auth/approle/role/reloader/secret-id",
            "auth/other/role/reloader/secret-id",
            "auth/approle/role//secret-id",
            "auth/approle/role/reloader/role-id",
            "secret/data/xauth/approle/role/reloader/secret-id",
            "auth/approle/role/reloader/secret-id/lookup",
            "",
        ] {
            assert!(!is_secret_id_path(path, "approle", Some("team")), "{path}");
        }
    }

    #[test]
    fn what_was_wrapped_is_one_line_and_never_shown() {
        let secret = unwrapped(br#"{"data":{"secret_id":"SECRET","secret_id_ttl":0}}"#).unwrap();
        assert_eq!(secret.expose_secret(), "SECRET");
        let id = Unwrapped { wrapping_token: secret.clone(), secret_id: secret };
        assert!(!format!("{id:?}").contains("SECRET"));
        for body in ["", "{}", r#"{"data":null}"#, r#"{"data":{"secret_id":"SEC\nRET"}}"#] {
            let failure = unwrapped(body.as_bytes()).unwrap_err();
            assert!(!failure.to_string().contains("SEC"), "{failure}");
        }
    }
}
