//! Auth methods: how the controller gets a token.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use vaultrs::api::EndpointResult;
use vaultrs::api::auth::userpass::requests::LoginRequest as LoginWithPasswordRequest;
use vaultrs::api::token::requests::{
    LookupTokenSelfRequest, RenewTokenSelfRequest, RevokeTokenSelfRequest,
};
use vaultrs::api::token::responses::LookupTokenResponse;

use super::approle::AppRole;
use super::client::Server;
use super::endpoint::Post;
use super::failure::Failure;
use super::token::Grant;
use crate::credentials::credential::{self, Credential};
use crate::credentials::files::Files;
use crate::credentials::service_account::ServiceAccount;

pub mod cloud;
pub(super) mod error;
pub mod jwt;

use cloud::CloudLogin;
pub use error::LoginError;
use jwt::{JwtLogin, JwtSource};

const TOKEN: &str = "the token file";
const PASSWORD: &str = "the file of the password";

/// An auth method.
#[derive(Clone, Debug)]
pub enum Method {
    /// A login of the `kubernetes` or `jwt` method.
    Jwt(JwtLogin),
    /// A login of the `approle` method.
    AppRole(AppRole),
    /// A login of the `userpass` method.
    UserPass {
        /// The mount of the method, without `auth/`.
        mount: String,
        /// The user.
        username: String,
        /// The password.
        password: Credential,
    },
    /// A login of the `cert` method, with the client certificate of the connection.
    Cert {
        /// The mount of the method, without `auth/`.
        mount: String,
        /// The role; `None` lets the server pick the role that fits.
        role: Option<String>,
    },
    /// A login with an identity that a cloud gives the pod.
    Cloud(Box<CloudLogin>),
    /// A given token.
    Token(SecretString),
    /// A file that contains a token. The content may be replaced at any time.
    TokenFile(PathBuf),
    /// No token: the server is the listener of an agent or a proxy that adds its own token.
    None,
}

/// A token and its grant.
pub(super) struct Login {
    pub(super) token: SecretString,
    pub(super) grant: Grant,
    /// Whether the controller logged in for the token.
    pub(super) ours: bool,
    /// Whether the controller may and can revoke the token. A batch token cannot be revoked.
    pub(super) revocable: bool,
}

impl Method {
    /// Logs in, or looks up a given token once to learn its lifetime. Reports the login.
    pub(super) async fn login(&self, server: &Server) -> Result<Login, LoginError> {
        let outcome = self.obtain_token(server).await;
        if let Some(name) = self.login_name() {
            server.reporter().login(name, outcome.is_ok());
        }
        outcome
    }

    async fn obtain_token(&self, server: &Server) -> Result<Login, LoginError> {
        let body = match self {
            Self::Jwt(login) => login.login(server).await?,
            Self::AppRole(role) => role.login(server).await?,
            Self::UserPass { mount, username, password } => {
                login_with_password(server, mount, username, password).await?
            }
            Self::Cert { mount, role } => {
                login_with_certificate(server, mount, role.as_deref()).await?
            }
            Self::Cloud(login) => login.login(server).await?,
            Self::Token(token) => return look_up(server, token.clone()).await,
            Self::TokenFile(file) => {
                let token = credential::read_token(server.files(), TOKEN, file).await?;
                return look_up(server, token).await;
            }
            Self::None => {
                let grant = Grant { ttl: Duration::ZERO, renewable: false, uses: None };
                let token = SecretString::default();
                return Ok(Login { token, grant, ours: false, revocable: false });
            }
        };
        let (token, grant, revocable) = logged_in(&body).map_err(LoginError::Server)?;
        Ok(Login { token, grant, ours: true, revocable })
    }

    /// Reads the token file again, if the method uses one, because its content may have been
    /// replaced.
    pub(super) async fn reread(&self, files: &Files) -> Option<SecretString> {
        match self {
            Self::TokenFile(file) => credential::read_token(files, TOKEN, file).await.ok(),
            _ => None,
        }
    }

    /// Returns the credentials that a login reads from files; `None` if they cannot be read or the
    /// method has none in files.
    pub(super) async fn credentials(&self, files: &Files) -> Option<Vec<SecretString>> {
        match self {
            Self::AppRole(role) => role.credentials(files).await,
            Self::UserPass { password, .. } => {
                Some(vec![password.read(files, PASSWORD).await.ok()?])
            }
            Self::Jwt(login) => Some(vec![login.credential(files).await?]),
            Self::TokenFile(_) => Some(vec![self.reread(files).await?]),
            Self::Cloud(login) => Some(vec![login.identity.credential(files).await?]),
            Self::Cert { .. } | Self::Token(_) | Self::None => None,
        }
    }

    /// Returns the ServiceAccount whose tokens are requested for logins.
    #[must_use]
    pub fn service_account(&self) -> Option<&ServiceAccount> {
        match self {
            Self::Jwt(JwtLogin { source: JwtSource::ServiceAccount(account), .. }) => Some(account),
            _ => None,
        }
    }

    /// Whether the token is given, so that no login can replace it.
    pub(super) fn is_given(&self) -> bool {
        matches!(self, Self::Token(_) | Self::TokenFile(_))
    }

    /// Returns the name of the auth method, for metrics; `None` if there is no login.
    fn login_name(&self) -> Option<&'static str> {
        match self {
            // Vault's method `kubernetes` takes the same request.
            Self::Jwt(_) => Some("jwt"),
            Self::AppRole(_) => Some("approle"),
            Self::UserPass { .. } => Some("userpass"),
            Self::Cert { .. } => Some("cert"),
            Self::Cloud(login) => Some(login.identity.method()),
            Self::Token(_) | Self::TokenFile(_) | Self::None => None,
        }
    }

    /// Whether a few logins with wrong credentials lock out the role or user.
    pub(super) fn can_be_locked(&self) -> bool {
        matches!(self, Self::AppRole(_) | Self::UserPass { .. })
    }
}

async fn login_with_password(
    server: &Server,
    mount: &str,
    username: &str,
    password: &Credential,
) -> Result<Vec<u8>, LoginError> {
    let password = password.read(server.files(), PASSWORD).await?;
    let request = LoginWithPasswordRequest::builder()
        .mount(mount)
        .username(username)
        .password(password.expose_secret())
        .build()
        .map_err(|_| LoginError::Server(Failure::incomplete_request()))?;
    let answer = server.execute(request, "").await;
    answer.map(|answer| answer.body).map_err(|failure| LoginError::refused(mount, None, failure))
}

async fn login_with_certificate(
    server: &Server,
    mount: &str,
    role: Option<&str>,
) -> Result<Vec<u8>, LoginError> {
    // Servers call the role `name`, and the request of `vaultrs` uses another key.
    let body = json!({ "name": role.unwrap_or_default() }).to_string().into_bytes();
    let request = Post { path: format!("/auth/{mount}/login"), body: Some(body) };
    let answer = server.execute(request, "").await;
    answer.map(|answer| answer.body).map_err(|failure| LoginError::refused(mount, role, failure))
}

/// Renews a token, unless the server wants no requests.
pub(super) async fn renew(server: &Server, token: &SecretString) -> Result<Grant, Failure> {
    if server.resumes_at().is_some() {
        return Err(Failure::RateLimited);
    }
    renew_now(server, token).await
}

/// Renews a token even while the server wants no requests, because the token would end.
pub(super) async fn renew_now(server: &Server, token: &SecretString) -> Result<Grant, Failure> {
    let request =
        RenewTokenSelfRequest::builder().build().map_err(|_| Failure::incomplete_request())?;
    let answer = server.execute_now(request, token.expose_secret()).await?;
    renewed(&answer.body)
}

/// Revokes a token.
pub(super) async fn revoke(server: &Server, token: &SecretString) -> Result<(), Failure> {
    let request =
        RevokeTokenSelfRequest::builder().build().map_err(|_| Failure::incomplete_request())?;
    // A revocation also relieves a server that is overloaded.
    server.execute_now(request, token.expose_secret()).await.map(drop)
}

async fn look_up(server: &Server, token: SecretString) -> Result<Login, LoginError> {
    let request = LookupTokenSelfRequest::builder().build();
    let request = request.map_err(|_| LoginError::Server(Failure::incomplete_request()))?;
    let answer = server.execute(request, token.expose_secret()).await;
    let grant = match answer.and_then(|answer| looked_up(&answer.body)) {
        Ok(grant) => grant,
        // The policies of the token do not allow a look-up. The token is used until it is denied.
        Err(Failure::Denied) => Grant { ttl: Duration::ZERO, renewable: false, uses: None },
        Err(Failure::TokenEnded) => return Err(LoginError::GivenTokenEnded),
        Err(failure) => return Err(LoginError::Server(failure)),
    };
    Ok(Login { token, grant, ours: false, revocable: false })
}

/// The used parts of the answer to a login or a renewal.
#[derive(Deserialize)]
struct Authenticated {
    auth: Option<Auth>,
}

#[derive(Deserialize)]
struct Auth {
    client_token: String,
    lease_duration: u64,
    renewable: bool,
    #[serde(default)]
    num_uses: u64,
    #[serde(default)]
    token_type: String,
}

impl Auth {
    fn of(body: &[u8]) -> Result<Self, Failure> {
        let answer: Authenticated =
            serde_json::from_slice(body).map_err(|_| Failure::unreadable_answer())?;
        answer.auth.ok_or_else(Failure::unreadable_answer)
    }

    fn grant(&self) -> Grant {
        Grant::new(self.lease_duration, self.renewable, self.num_uses)
    }
}

/// Reads the answer to a login: the token, its grant, and whether the token can be revoked.
pub fn logged_in(body: &[u8]) -> Result<(SecretString, Grant, bool), Failure> {
    let auth = Auth::of(body)?;
    let grant = auth.grant();
    let revocable = auth.token_type != "batch";
    if credential::is_token(&auth.client_token) {
        Ok((SecretString::from(auth.client_token), grant, revocable))
    } else {
        Err(Failure::BadAnswer("its token is not printable, or too long".to_owned()))
    }
}

/// Reads the answer to a renewal.
pub fn renewed(body: &[u8]) -> Result<Grant, Failure> {
    Auth::of(body).map(|auth| auth.grant())
}

/// Reads the answer to a look-up of a given token.
pub fn looked_up(body: &[u8]) -> Result<Grant, Failure> {
    let answer: EndpointResult<LookupTokenResponse> =
        serde_json::from_slice(body).map_err(|_| Failure::unreadable_answer())?;
    let found = answer.data.ok_or_else(Failure::unreadable_answer)?;
    Ok(Grant::new(found.ttl, found.renewable.unwrap_or(false), found.num_uses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_says_what_was_granted() {
        let body = r#"{"auth":{"client_token":"hvs.x","lease_duration":60,"renewable":true,
            "num_uses":5,"accessor":"a","policies":null,"metadata":{}}}"#;
        let (token, grant, revocable) = logged_in(body.as_bytes()).unwrap();
        assert_eq!(token.expose_secret(), "hvs.x");
        assert_eq!((grant, revocable), (Grant::new(60, true, 5), true));
        let batch = r#"{"auth":{"client_token":"b.x","lease_duration":60,"renewable":false,
            "token_type":"batch"}}"#;
        let (_, grant, revocable) = logged_in(batch.as_bytes()).unwrap();
        assert_eq!((grant, revocable), (Grant::new(60, false, 0), false));
        for body in ["{}", r#"{"auth":null}"#, r#"{"auth":{"client_token":"a b"}}"#] {
            assert_eq!(logged_in(body.as_bytes()).unwrap_err().reason(), "bad_answer");
        }
    }

    #[test]
    fn debug_output_holds_no_token() {
        let method = Method::Token(SecretString::from("hvs.SECRET"));
        assert!(!format!("{method:?}").contains("SECRET"));
    }
}
