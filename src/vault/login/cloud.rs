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
        if server.resumes_at().is_some() {
            // The login would not be sent, so the cloud is not asked.
            return Err(LoginError::refused(mount, Some(role), Failure::RateLimited));
        }
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use reqwest::Url;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::cloud::gcp::{Gcp, GcpKind};
    use crate::vault::connection::ServerSettings;

    /// Answers each request, and counts the requests.
    async fn serve(listener: &TcpListener, answer: &str, requests: &AtomicU32) {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut request: Vec<u8> = Vec::new();
            loop {
                let read = client.read_buf(&mut request).await.unwrap();
                assert_ne!(read, 0, "half a request");
                let end: &[u8] = if request.starts_with(b"POST") { b"}" } else { b"\r\n\r\n" };
                if request.ends_with(end) {
                    break;
                }
            }
            requests.fetch_add(1, Ordering::Relaxed);
            client.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    fn address_of(listener: &TcpListener) -> Url {
        format!("http://{}", listener.local_addr().unwrap()).parse().unwrap()
    }

    #[tokio::test]
    async fn the_cloud_is_not_asked_while_vault_wants_no_requests() {
        let google = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let vault = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let identity = Identity::Gcp(Gcp { metadata: address_of(&google), kind: GcpKind::Gce });
        let login = CloudLogin { mount: "gcp".to_owned(), role: "reloader".to_owned(), identity };
        let server = Server::new(ServerSettings::at(address_of(&vault)), Arc::default()).unwrap();
        let (proofs, logins) = (AtomicU32::new(0), AtomicU32::new(0));
        let log_in = async {
            for _ in 0..3 {
                let error = login.login(&server).await.unwrap_err();
                assert!(error.to_string().contains("limits the rate of requests"), "{error}");
            }
        };
        let token = "HTTP/1.1 200 OK\r\nmetadata-flavor: Google\r\nconnection: close\r\n\
                     content-length: 5\r\n\r\na.b.c";
        let refusal = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 60\r\nconnection: close\r\n\
                       content-length: 2\r\n\r\n{}";
        tokio::select! {
            () = serve(&google, token, &proofs) => {}
            () = serve(&vault, refusal, &logins) => {}
            () = log_in => {}
        }
        let counts = (proofs.load(Ordering::Relaxed), logins.load(Ordering::Relaxed));
        assert_eq!(counts, (1, 1));
    }

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
