//! The login with a JWT of a ServiceAccount.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;

use super::super::client::Server;
use super::super::failure::Failure;
use super::error::LoginError;
use crate::credentials::credential::read_token;
use crate::credentials::files::Files;
use crate::credentials::service_account::ServiceAccount;

const JWT: &str = "the JWT file";

/// A login of the methods `kubernetes` or `jwt`. Both take the same request.
#[derive(Clone, Debug)]
pub struct JwtLogin {
    /// The mount of the method, without `auth/`.
    pub mount: String,
    /// The role.
    pub role: String,
    /// Where the JWT comes from.
    pub source: JwtSource,
}

/// Where the JWT of a login comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwtSource {
    /// A file. The file is read for each login, because projected tokens rotate.
    File(PathBuf),
    /// The API server, which gives a new token of this ServiceAccount for each login.
    ServiceAccount(ServiceAccount),
}

impl JwtLogin {
    /// Logs in. Returns the body of the answer.
    pub(in crate::vault) async fn login(&self, server: &Server) -> Result<Vec<u8>, LoginError> {
        let Self { mount, role, source } = self;
        let refused = |failure| LoginError::refused(mount, Some(role), failure);
        let jwt = match source {
            JwtSource::File(file) => read_token(server.files(), JWT, file).await?,
            // The login would not be sent, so it needs no token.
            JwtSource::ServiceAccount(_) if server.resumes_at().is_some() => {
                return Err(refused(Failure::RateLimited));
            }
            JwtSource::ServiceAccount(account) => {
                let requests = server.service_accounts().ok_or(LoginError::NoCluster)?;
                requests.request_token(account).await?
            }
        };
        let request = LoginWithKubernetesRequest::builder()
            .mount(mount)
            .role(role)
            .jwt(jwt.expose_secret())
            .build()
            .map_err(|_| LoginError::Server(Failure::incomplete_request()))?;
        server.execute(request, "").await.map(|answer| answer.body).map_err(refused)
    }

    /// Returns the JWT, if it comes from a file that can be read. A token that is requested for each
    /// login is never an old one, so there is nothing to compare.
    pub(in crate::vault) async fn credential(&self, files: &Files) -> Option<SecretString> {
        match &self.source {
            JwtSource::File(file) => read_token(files, JWT, file).await.ok(),
            JwtSource::ServiceAccount(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Mutex};

    use futures::future::{BoxFuture, FutureExt as _, ready};
    use serde_json::Value;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::credentials::service_account::{RequestToken, TokenRequestError};
    use crate::vault::connection::ServerSettings;

    /// Gives a token by its number, or refuses.
    #[derive(Default)]
    struct Tokens {
        requests: AtomicU32,
        is_forbidden: bool,
    }

    impl RequestToken for Tokens {
        fn request_token<'a>(
            &'a self,
            account: &'a ServiceAccount,
        ) -> BoxFuture<'a, Result<SecretString, TokenRequestError>> {
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            let answer = if self.is_forbidden {
                let (account, message) = (account.clone(), "no".to_owned());
                Err(TokenRequestError::Forbidden { account, message })
            } else {
                Ok(SecretString::from(format!("jwt-{number}")))
            };
            ready(answer).boxed()
        }
    }

    fn login() -> JwtLogin {
        let account = ServiceAccount {
            namespace: "infra".to_owned(),
            name: "vault-login".to_owned(),
            audience: Some("vault".to_owned()),
        };
        let source = JwtSource::ServiceAccount(account);
        JwtLogin { mount: "k8s".to_owned(), role: "reloader".to_owned(), source }
    }

    fn server(listener: &TcpListener) -> Server {
        let address = format!("http://{}", listener.local_addr().unwrap());
        let settings = ServerSettings::at(address.parse().unwrap());
        Server::new(settings, Arc::default()).unwrap()
    }

    /// Answers each request with a status, and keeps path and body of the request.
    async fn serve(listener: &TcpListener, status: &str, seen: &Mutex<Vec<(String, Value)>>) {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut request: Vec<u8> = Vec::new();
            let (path, body) = loop {
                client.read_buf(&mut request).await.unwrap();
                let text = String::from_utf8_lossy(&request);
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let Ok(body) = serde_json::from_str(body) else { continue };
                break (head.split(' ').nth(1).unwrap_or_default().to_owned(), body);
            };
            seen.lock().unwrap().push((path, body));
            let answer = format!(
                "HTTP/1.1 {status}\r\nretry-after: 60\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
            );
            client.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn each_login_has_a_token_of_its_own() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tokens = Arc::new(Tokens::default());
        let server = server(&listener).with_service_accounts(tokens);
        let seen = Mutex::new(Vec::new());
        let log_in = async {
            for _ in 0..2 {
                login().login(&server).await.unwrap();
            }
        };
        tokio::select! {
            () = serve(&listener, "200 OK", &seen) => {}
            () = log_in => {}
        }
        let expected = ["jwt-0", "jwt-1"].map(|jwt| {
            let body = serde_json::json!({ "jwt": jwt, "role": "reloader" });
            ("/v1/auth/k8s/login".to_owned(), body)
        });
        assert_eq!(*seen.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn without_a_token_vault_is_not_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tokens = Arc::new(Tokens { is_forbidden: true, ..Tokens::default() });
        let server = server(&listener).with_service_accounts(tokens);
        let seen = Mutex::new(Vec::new());
        let login = login();
        let error = tokio::select! {
            () = serve(&listener, "200 OK", &seen) => panic!("the server ended"),
            outcome = login.login(&server) => outcome.unwrap_err(),
        };
        assert!(error.to_string().contains("resourceName vault-login"), "{error}");
        assert!(seen.lock().unwrap().is_empty());
        assert!(login.credential(server.files()).await.is_none());
    }

    #[tokio::test]
    async fn no_token_is_requested_while_vault_wants_no_requests() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tokens = Arc::new(Tokens::default());
        let requester = Arc::clone(&tokens);
        let server = server(&listener).with_service_accounts(requester);
        let seen = Mutex::new(Vec::new());
        let log_in = async {
            for _ in 0..3 {
                let error = login().login(&server).await.unwrap_err();
                assert!(error.to_string().contains("limits the rate of requests"), "{error}");
            }
        };
        tokio::select! {
            () = serve(&listener, "429 Too Many Requests", &seen) => {}
            () = log_in => {}
        }
        assert_eq!(tokens.requests.load(Ordering::Relaxed), 1);
        assert_eq!(seen.lock().unwrap().len(), 1);
    }
}
