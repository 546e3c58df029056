//! The identity of the pod in Google Cloud: an identity token of the metadata server, or a JWT that
//! the IAM credentials API signs for a service account.
//!
//! On GKE, pods reach the metadata server of GKE at the same address.

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use reqwest::{Request, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::error::CloudError;
use super::http::{Answer, Service};
use super::proof::{Proof, proof};
use super::text::{is_code, jwt};
use crate::credentials::credential::is_token;

const METADATA: &str = "the metadata server of Google Cloud";
const IAM: &str = "the IAM credentials API of Google Cloud";

/// The service account of the pod at the metadata server.
const ACCOUNT: &str = "/computeMetadata/v1/instance/service-accounts/default";

/// The header of requests to the metadata server, and of its answers.
const FLAVOR: &str = "metadata-flavor";

/// The lifetime of a JWT that the API signs, in seconds. A role of Vault allows 15 minutes unless it
/// sets `max_jwt_exp`. The rest is for clocks that differ.
const LIFETIME: i64 = 600;

/// The longest name of a service account, in bytes. Google allows fewer.
const LONGEST_ACCOUNT: usize = 320;

const UNDOCUMENTED: &str = "its answer is not as documented";

/// The identity of the pod in Google Cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gcp {
    /// The address of the metadata server.
    pub metadata: Url,
    /// What a login proves.
    pub kind: GcpKind,
}

/// What a login proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GcpKind {
    /// An identity token of the metadata server.
    Gce,
    /// A JWT of a service account.
    Iam {
        /// The service account; `None` for that of the pod.
        service_account: Option<String>,
        /// The address of the IAM credentials API.
        endpoint: Url,
    },
}

#[derive(Deserialize)]
struct AccessToken {
    access_token: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignedJwt {
    signed_jwt: String,
}

/// The documented error of Google's APIs.
#[derive(Deserialize)]
struct Refusal {
    error: RefusalStatus,
}

#[derive(Deserialize)]
struct RefusalStatus {
    status: String,
}

impl Gcp {
    /// Returns the JWT for a login with `role`.
    pub(crate) async fn prove(&self, role: &str) -> Result<Proof, CloudError> {
        let jwt = match &self.kind {
            GcpKind::Gce => self.identity_token(role).await?,
            GcpKind::Iam { service_account, endpoint } => {
                let account = match service_account {
                    Some(account) => account.clone(),
                    None => self.service_account().await?,
                };
                self.sign_jwt(endpoint, &account, role).await?
            }
        };
        Ok(proof([("jwt", jwt)]))
    }

    fn metadata_server(&self) -> Service {
        Service { name: METADATA, address: self.metadata.clone() }
    }

    /// Reads a value of the pod's service account from the metadata server.
    async fn read_metadata(
        &self,
        name: &str,
        query: &[(&str, &str)],
    ) -> Result<Vec<u8>, CloudError> {
        let service = self.metadata_server();
        let url = service.url(&format!("{ACCOUNT}/{name}"), query);
        let mut request = Request::new(Method::GET, url);
        request.headers_mut().insert(FLAVOR, HeaderValue::from_static("Google"));
        let answer = service.send(request).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Err(service.error(
                "knows no service account of the pod (status 404); attach one to the node, or, on \
                 GKE, link one to the Kubernetes service account",
            ));
        }
        if !answer.status.is_success() {
            let status = answer.status.as_u16();
            return Err(service.error(format!("answers with the status {status}")));
        }
        // Another server at this address must not decide which JWT is sent to Vault.
        let flavor = answer.headers.get(FLAVOR).map(HeaderValue::as_bytes);
        if flavor != Some(b"Google".as_slice()) {
            return Err(service.error(
                "its answer has no header Metadata-Flavor: Google, so another server answers \
                 there; check GCE_METADATA_HOST and the network of the pod",
            ));
        }
        Ok(answer.body)
    }

    async fn identity_token(&self, role: &str) -> Result<String, CloudError> {
        // Vault checks the end of the audience. The text before it is the one of Vault's
        // documentation.
        let audience = format!("http://vault/{role}");
        let query = [("audience", audience.as_str()), ("format", "full")];
        let body = self.read_metadata("identity", &query).await?;
        let text = String::from_utf8(body).unwrap_or_default();
        let jwt = jwt(&text).map(str::to_owned);
        jwt.ok_or_else(|| self.metadata_server().error(UNDOCUMENTED))
    }

    /// Returns the name of the pod's service account.
    async fn service_account(&self) -> Result<String, CloudError> {
        let body = self.read_metadata("email", &[]).await?;
        let text = String::from_utf8(body).unwrap_or_default();
        let account = text.trim();
        // Without a link to a service account, GKE names the workload identity pool.
        if !account.contains('@') || !is_account(account) {
            return Err(self.metadata_server().error(
                "names no service account that can sign a JWT; set VAULT_GCP_SERVICE_ACCOUNT, or, \
                 on GKE, link a service account to the Kubernetes service account by the \
                 annotation iam.gke.io/gcp-service-account",
            ));
        }
        Ok(account.to_owned())
    }

    async fn access_token(&self) -> Result<SecretString, CloudError> {
        let body = self.read_metadata("token", &[]).await?;
        let token = serde_json::from_slice(&body).ok();
        let token = token.map(|AccessToken { access_token }| access_token);
        match token.filter(|token| is_token(token)) {
            Some(token) => Ok(token.into()),
            None => Err(self.metadata_server().error(UNDOCUMENTED)),
        }
    }

    /// Lets the IAM credentials API sign a JWT of a service account.
    async fn sign_jwt(
        &self,
        endpoint: &Url,
        account: &str,
        role: &str,
    ) -> Result<String, CloudError> {
        let token = self.access_token().await?;
        let service = Service { name: IAM, address: endpoint.clone() };
        let now = Timestamp::now().as_second();
        let audience = format!("vault/{role}");
        let claims = json!({"sub": account, "aud": audience, "iat": now, "exp": now + LIFETIME});
        let path = format!("/v1/projects/-/serviceAccounts/{account}:signJwt");
        let mut request = Request::new(Method::POST, service.url(&path, &[]));
        let bearer = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()));
        let mut bearer = bearer.map_err(|_| service.error("the access token is no header"))?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(json!({"payload": claims.to_string()}).to_string().into());
        let answer = service.send(request).await?;
        if !answer.status.is_success() {
            return Err(service.error(refusal(&answer, account)));
        }
        let signed = serde_json::from_slice(&answer.body).ok();
        let signed = signed.map(|SignedJwt { signed_jwt }| signed_jwt);
        let signed = signed.as_deref().and_then(jwt).map(str::to_owned);
        signed.ok_or_else(|| service.error(UNDOCUMENTED))
    }
}

/// Whether a text can be the email address or the id of a service account. The text becomes a part
/// of a path.
pub(crate) fn is_account(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    (1..=LONGEST_ACCOUNT).contains(&text.len()) && text.bytes().all(is_plain)
}

/// Describes a refusal of the IAM credentials API.
fn refusal(answer: &Answer, account: &str) -> String {
    let code = serde_json::from_slice(&answer.body).ok();
    let code = code.map(|Refusal { error }| error.status).filter(|code| is_code(code));
    let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
    let status = answer.status.as_u16();
    if status == 403 {
        format!(
            "answers with the status 403{code}: the pod may not sign for {account}; grant it \
             roles/iam.serviceAccountTokenCreator on that service account, and nodes the scope \
             cloud-platform"
        )
    } else {
        format!("answers with the status {status}{code}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::stand_in::{StandIn, answer_of};
    use super::*;

    const EMAIL: &str = "reloader@project-1.iam.gserviceaccount.com";
    const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl";

    fn google(status: &str, body: &str) -> String {
        answer_of(status, "Metadata-Flavor: Google\r\n", body)
    }

    fn gce(server: &StandIn) -> Gcp {
        Gcp { metadata: server.address(), kind: GcpKind::Gce }
    }

    fn iam(server: &StandIn, service_account: Option<&str>) -> Gcp {
        let service_account = service_account.map(str::to_owned);
        let kind = GcpKind::Iam { service_account, endpoint: server.address() };
        Gcp { metadata: server.address(), kind }
    }

    async fn prove(
        server: &StandIn,
        gcp: &Gcp,
        answers: &[String],
    ) -> (Result<String, String>, Vec<String>) {
        let (proof, requests) = server.answer(answers, gcp.prove("the role")).await;
        let jwt = proof.map(|Proof(fields)| {
            assert_eq!(fields.len(), 1, "Vault refuses any other field");
            fields["jwt"].as_str().unwrap().to_owned()
        });
        (jwt.map_err(|error| error.to_string()), requests)
    }

    #[tokio::test]
    async fn an_identity_token_is_asked_for_as_vault_documents_it() {
        let server = StandIn::start().await;
        let answers = [google("200 OK", &format!("{JWT}\n"))];
        let (jwt, requests) = prove(&server, &gce(&server), &answers).await;
        assert_eq!(jwt.as_deref(), Ok(JWT));
        let target = "GET /computeMetadata/v1/instance/service-accounts/default/identity\
                      ?audience=http%3A%2F%2Fvault%2Fthe+role&format=full HTTP/1.1\r\n";
        assert!(requests[0].starts_with(target), "{}", requests[0]);
        let head = requests[0].to_lowercase();
        assert!(head.contains("\r\nmetadata-flavor: google\r\n"), "{head}");
    }

    #[tokio::test]
    async fn a_jwt_is_signed_for_the_service_account_of_the_pod() {
        let server = StandIn::start().await;
        let token = r#"{"access_token":"ya29.SECRET","expires_in":3599,"token_type":"Bearer"}"#;
        let signed = format!(r#"{{"keyId":"1","signedJwt":"{JWT}"}}"#);
        let answers =
            [google("200 OK", EMAIL), google("200 OK", token), answer_of("200 OK", "", &signed)];
        let began = Timestamp::now().as_second();
        let (jwt, requests) = prove(&server, &iam(&server, None), &answers).await;
        assert_eq!(jwt.as_deref(), Ok(JWT));
        let paths: Vec<&str> =
            requests.iter().map(|it| it.split_whitespace().nth(1).unwrap()).collect();
        let sign = format!("/v1/projects/-/serviceAccounts/{EMAIL}:signJwt");
        assert_eq!(
            paths,
            [format!("{ACCOUNT}/email").as_str(), &format!("{ACCOUNT}/token"), &sign]
        );
        let (head, body) = requests[2].split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST ") && head.contains("Bearer ya29.SECRET"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let claims: serde_json::Value =
            serde_json::from_str(body["payload"].as_str().unwrap()).unwrap();
        assert_eq!(claims["sub"], EMAIL);
        assert_eq!(claims["aud"], "vault/the role");
        let (issued, expires) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
        assert!((began..began + 60).contains(&issued) && expires == issued + 600, "{claims}");
    }

    #[tokio::test]
    async fn a_given_service_account_is_not_asked_for() {
        let server = StandIn::start().await;
        let signed = format!(r#"{{"signedJwt":"{JWT}"}}"#);
        let answers = [
            google("200 OK", r#"{"access_token":"ya29.SECRET"}"#),
            answer_of("200 OK", "", &signed),
        ];
        let (jwt, requests) = prove(&server, &iam(&server, Some("1234")), &answers).await;
        assert_eq!(jwt.as_deref(), Ok(JWT));
        assert!(requests[1].starts_with("POST /v1/projects/-/serviceAccounts/1234:signJwt "));
    }

    #[tokio::test]
    async fn other_answers_of_the_metadata_server_are_errors_without_their_text() {
        let not_found = "knows no service account of the pod (status 404)";
        for (answer, expected) in [
            (answer_of("200 OK", "", JWT), "no header Metadata-Flavor: Google"),
            (answer_of("200 OK", "Metadata-Flavor: Other\r\n", JWT), "no header Metadata-Flavor"),
            (google("200 OK", "SECRET"), UNDOCUMENTED),
            (google("200 OK", &"x".repeat(300 << 10)), "its answer is too long"),
            (google("302 Found", "SECRET"), "answers with the status 302"),
            (google("404 Not Found", "SECRET"), not_found),
            (google("500 Internal Server Error", "SECRET"), "answers with the status 500"),
        ] {
            let server = StandIn::start().await;
            let (jwt, _) = prove(&server, &gce(&server), &[answer]).await;
            let error = jwt.unwrap_err();
            let origin = server.address().origin().ascii_serialization();
            assert!(error.starts_with(&format!("{METADATA} at {origin}: ")), "{error}");
            assert!(error.contains(expected) && !error.contains("SECRET"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_name_that_is_no_service_account_is_refused() {
        for name in ["project-1.svc.id.goog", "", "a@b/../c", "a b@c", "a@b?c"] {
            let server = StandIn::start().await;
            let (jwt, _) = prove(&server, &iam(&server, None), &[google("200 OK", name)]).await;
            let error = jwt.unwrap_err();
            assert!(error.contains("set VAULT_GCP_SERVICE_ACCOUNT"), "{name}: {error}");
        }
    }

    #[tokio::test]
    async fn a_refusal_to_sign_shows_the_code_and_nothing_else() {
        let denied = r#"{"error":{"code":403,"message":"SECRET","status":"PERMISSION_DENIED"}}"#;
        let odd = r#"{"error":{"status":"SECRET eyJh.eyJz.c2"}}"#;
        for (status, body, expected) in [
            ("403 Forbidden", denied, "status 403 (PERMISSION_DENIED): the pod may not sign for"),
            ("403 Forbidden", "SECRET", "status 403: the pod may not sign for"),
            ("429 Too Many Requests", odd, "answers with the status 429"),
            ("200 OK", r#"{"signedJwt":"SECRET"}"#, UNDOCUMENTED),
            ("200 OK", "SECRET", UNDOCUMENTED),
        ] {
            let server = StandIn::start().await;
            let answers = [
                google("200 OK", r#"{"access_token":"ya29.SECRET"}"#),
                answer_of(status, "", body),
            ];
            let (jwt, _) = prove(&server, &iam(&server, Some(EMAIL)), &answers).await;
            let error = jwt.unwrap_err();
            assert!(error.contains(expected) && !error.contains("SECRET"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_access_token_that_is_no_token_is_not_sent() {
        for body in [r#"{"access_token":"a\nb"}"#, r#"{"access_token":""}"#, "{}"] {
            let server = StandIn::start().await;
            let answers = [google("200 OK", body)];
            let (jwt, requests) = prove(&server, &iam(&server, Some(EMAIL)), &answers).await;
            assert!(jwt.unwrap_err().ends_with(UNDOCUMENTED), "{body}");
            assert_eq!(requests.len(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_is_not_waited_for() {
        let server = StandIn::start().await;
        let (jwt, _) = prove(&server, &gce(&server), &[]).await;
        assert!(jwt.unwrap_err().starts_with(METADATA));
    }
}
