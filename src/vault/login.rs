//! The ways in: how the controller comes by a token.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::de::IgnoredAny;
use tokio::io::AsyncReadExt as _;
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;
use vaultrs::api::token::requests::{
    LookupTokenSelfRequest, RenewTokenSelfRequest, RevokeTokenSelfRequest,
};
use vaultrs::api::token::responses::LookupTokenResponse;
use vaultrs::api::{AuthInfo, EndpointResult};

use super::client::{Failure, Server};
use super::token::Grant;

/// The longest token or JWT, in bytes. Batch tokens and projected tokens take a few thousand, and
/// servers take no longer header than this.
const LONGEST_TOKEN: usize = 64 << 10;

/// A way to come by a token.
#[derive(Clone, Debug)]
pub enum Method {
    /// A login of the `kubernetes` or `jwt` method: the two take the same request.
    Jwt {
        /// Where the method is mounted, without `auth/`.
        mount: String,
        /// The role.
        role: String,
        /// The file with the JWT. It is read for each login, because projected tokens rotate.
        file: PathBuf,
    },
    /// A token that was given.
    Token(SecretString),
    /// A file that holds a token, and whose content may be replaced at any time.
    TokenFile(PathBuf),
}

/// No token is to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// A file cannot be read.
    #[error("cannot read {what} {file}: {message}")]
    File {
        /// What the file is.
        what: &'static str,
        /// Its path.
        file: String,
        /// Why.
        message: String,
    },
    /// What a file holds is no token.
    #[error("{what} {file} holds no token: one line of printable characters is expected")]
    NotAToken {
        /// What the file is.
        what: &'static str,
        /// Its path.
        file: String,
    },
    /// The server refuses the login.
    #[error("the login at auth/{mount} with role {role}: Vault {failure}")]
    Refused {
        /// Where the method is mounted.
        mount: String,
        /// The role.
        role: String,
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

/// A token with what was granted.
pub(super) struct Login {
    pub(super) token: SecretString,
    pub(super) grant: Grant,
    /// Whether we logged in for it, and so may revoke it.
    pub(super) ours: bool,
}

impl Method {
    /// Logs in, or takes the token that was given and asks once how long it lives.
    pub(super) async fn login(&self, server: &Server) -> Result<Login, LoginError> {
        match self {
            Self::Jwt { mount, role, file } => {
                let jwt = read_token("the JWT file", file).await?;
                let request = LoginWithKubernetesRequest::builder()
                    .mount(mount)
                    .role(role)
                    .jwt(jwt.expose_secret())
                    .build()
                    .map_err(|_| LoginError::Server(unaskable()))?;
                let answer =
                    server.execute(request, "").await.map_err(|failure| LoginError::Refused {
                        mount: mount.clone(),
                        role: role.clone(),
                        failure: match failure {
                            // No token was sent that could have ended.
                            Failure::TokenEnded => Failure::Denied,
                            failure => failure,
                        },
                    })?;
                let (token, grant) = logged_in(&answer.body).map_err(LoginError::Server)?;
                Ok(Login { token, grant, ours: true })
            }
            Self::Token(token) => look_up(server, token.clone()).await,
            Self::TokenFile(file) => {
                look_up(server, read_token("the token file", file).await?).await
            }
        }
    }

    /// The content of the token file, where that is the way in: it may have been replaced.
    pub(super) async fn reread(&self) -> Option<SecretString> {
        match self {
            Self::TokenFile(file) => read_token("the token file", file).await.ok(),
            Self::Jwt { .. } | Self::Token(_) => None,
        }
    }
}

/// Renews a token.
pub(super) async fn renew(server: &Server, token: &SecretString) -> Result<Grant, Failure> {
    let request = RenewTokenSelfRequest::builder().build().map_err(|_| unaskable())?;
    let answer = server.execute(request, token.expose_secret()).await?;
    renewed(&answer.body)
}

/// Revokes a token.
pub(super) async fn revoke(server: &Server, token: &SecretString) -> Result<(), Failure> {
    let request = RevokeTokenSelfRequest::builder().build().map_err(|_| unaskable())?;
    server.execute(request, token.expose_secret()).await.map(drop)
}

async fn look_up(server: &Server, token: SecretString) -> Result<Login, LoginError> {
    let request = LookupTokenSelfRequest::builder().build();
    let request = request.map_err(|_| LoginError::Server(unaskable()))?;
    let answer = server.execute(request, token.expose_secret()).await;
    let grant = match answer.and_then(|answer| looked_up(&answer.body)) {
        Ok(grant) => grant,
        // Its policies do not let it look itself up: it is used until it is denied.
        Err(Failure::Denied) => Grant { ttl: Duration::ZERO, renewable: false },
        Err(Failure::TokenEnded) => return Err(LoginError::GivenTokenEnded),
        Err(failure) => return Err(LoginError::Server(failure)),
    };
    Ok(Login { token, grant, ours: false })
}

fn unaskable() -> Failure {
    Failure::Unaskable("the request is not complete".to_owned())
}

/// Reads the answer to a login.
pub fn logged_in(body: &[u8]) -> Result<(SecretString, Grant), Failure> {
    let auth = auth_of(body)?;
    let grant = grant_of(&auth);
    if is_token(&auth.client_token) {
        Ok((SecretString::from(auth.client_token), grant))
    } else {
        Err(Failure::BadAnswer("its token is not printable, or too long".to_owned()))
    }
}

/// Reads the answer to a renewal.
pub fn renewed(body: &[u8]) -> Result<Grant, Failure> {
    auth_of(body).map(|auth| grant_of(&auth))
}

/// Reads what the server says of a token that it was given.
pub fn looked_up(body: &[u8]) -> Result<Grant, Failure> {
    let answer: EndpointResult<LookupTokenResponse> =
        serde_json::from_slice(body).map_err(|_| unreadable())?;
    let found = answer.data.ok_or_else(unreadable)?;
    let renewable = found.renewable.unwrap_or(false);
    Ok(Grant { ttl: Duration::from_secs(found.ttl), renewable })
}

fn auth_of(body: &[u8]) -> Result<AuthInfo, Failure> {
    let answer: EndpointResult<IgnoredAny> =
        serde_json::from_slice(body).map_err(|_| unreadable())?;
    answer.auth.ok_or_else(unreadable)
}

/// The error of the decoder is left out: it can hold a part of the answer, and so a token.
fn unreadable() -> Failure {
    Failure::BadAnswer("not of the expected form".to_owned())
}

fn grant_of(auth: &AuthInfo) -> Grant {
    Grant { ttl: Duration::from_secs(auth.lease_duration), renewable: auth.renewable }
}

async fn read_token(what: &'static str, file: &PathBuf) -> Result<SecretString, LoginError> {
    let name = file.display().to_string();
    let unreadable = |error: std::io::Error| LoginError::File {
        what,
        file: name.clone(),
        message: error.to_string(),
    };
    let mut content = String::new();
    // A file without an end is no token, but must not be read for ever.
    let longest = LONGEST_TOKEN as u64 + 2;
    let opened = tokio::fs::File::open(file).await.map_err(unreadable)?;
    opened.take(longest).read_to_string(&mut content).await.map_err(unreadable)?;
    // Editors and `echo` end a file with a newline, an agent does not.
    let token = content.trim();
    if is_token(token) {
        Ok(SecretString::from(token))
    } else {
        Err(LoginError::NotAToken { what, file: name })
    }
}

/// Whether a text can stand in a header: `vaultrs` panics on one that cannot.
pub(crate) fn is_token(text: &str) -> bool {
    (1..=LONGEST_TOKEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_of_printable_characters() {
        assert!(is_token("hvs.CAESI"));
        assert!(is_token(&"x".repeat(LONGEST_TOKEN)) && !is_token(&"x".repeat(LONGEST_TOKEN + 1)));
        for text in ["", "a b", "a\nb", "a\r", "ä", "\u{0}"] {
            assert!(!is_token(text), "{text:?}");
        }
    }

    #[test]
    fn debug_output_holds_no_token() {
        let method = Method::Token(SecretString::from("hvs.SECRET"));
        assert!(!format!("{method:?}").contains("SECRET"));
    }
}
