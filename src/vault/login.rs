//! The ways in: how the controller comes by a token.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use vaultrs::api::AuthInfo;

use super::client::{Failure, Server, vaultrs_failure};
use super::token::Grant;

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
                let client = server.vaultrs("").map_err(LoginError::Server)?;
                let login =
                    vaultrs::auth::kubernetes::login(&client, mount, role, jwt.expose_secret());
                let auth = login.await.map_err(|error| LoginError::Refused {
                    mount: mount.clone(),
                    role: role.clone(),
                    failure: match vaultrs_failure(&error) {
                        // No token was sent that could have ended.
                        Failure::TokenEnded => Failure::Denied,
                        failure => failure,
                    },
                })?;
                let grant = grant_of(&auth);
                let token = SecretString::from(auth.client_token);
                if !is_token(token.expose_secret()) {
                    let failure = Failure::BadAnswer("its token is not printable".to_owned());
                    return Err(LoginError::Server(failure));
                }
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
    let client = server.vaultrs(token.expose_secret())?;
    let auth = vaultrs::token::renew_self(&client, None).await;
    auth.map(|auth| grant_of(&auth)).map_err(|error| vaultrs_failure(&error))
}

/// Revokes a token.
pub(super) async fn revoke(server: &Server, token: &SecretString) -> Result<(), Failure> {
    let client = server.vaultrs(token.expose_secret())?;
    vaultrs::token::revoke_self(&client).await.map_err(|error| vaultrs_failure(&error))
}

async fn look_up(server: &Server, token: SecretString) -> Result<Login, LoginError> {
    let client = server.vaultrs(token.expose_secret()).map_err(LoginError::Server)?;
    let grant = match vaultrs::token::lookup_self(&client).await {
        Ok(found) => Grant {
            ttl: Duration::from_secs(found.ttl),
            renewable: found.renewable.unwrap_or(false),
        },
        Err(error) => match vaultrs_failure(&error) {
            // Its policies do not let it look itself up: it is used until it is denied.
            Failure::Denied => Grant { ttl: Duration::ZERO, renewable: false },
            Failure::TokenEnded => return Err(LoginError::GivenTokenEnded),
            failure => return Err(LoginError::Server(failure)),
        },
    };
    Ok(Login { token, grant, ours: false })
}

fn grant_of(auth: &AuthInfo) -> Grant {
    Grant { ttl: Duration::from_secs(auth.lease_duration), renewable: auth.renewable }
}

async fn read_token(what: &'static str, file: &PathBuf) -> Result<SecretString, LoginError> {
    let name = file.display().to_string();
    let content = tokio::fs::read_to_string(file).await.map_err(|error| LoginError::File {
        what,
        file: name.clone(),
        message: error.to_string(),
    })?;
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
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_of_printable_characters() {
        assert!(is_token("hvs.CAESI"));
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
