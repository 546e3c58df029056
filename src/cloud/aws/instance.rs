//! The metadata server of an EC2 instance, in its second version: each request needs a session token.

use http::{HeaderValue, Method, StatusCode};
use reqwest::{Request, Url};
use secrecy::{ExposeSecret as _, SecretString};

use super::super::error::CloudError;
use super::super::http::{Answer, Service};
use super::super::proof::LONGEST_TEXT;
use super::keys::Keys;
use crate::credentials::credential::is_token;

const NAME: &str = "the metadata server of EC2";

/// The header of the session token.
const TOKEN: &str = "x-aws-ec2-metadata-token";

/// The header that asks for a session token.
const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";

/// The lifetime of a session token, in seconds. One login takes a few requests.
const LIFETIME: &str = "60";

const ROLES: &str = "/latest/meta-data/iam/security-credentials/";

/// The longest name of a role.
const LONGEST_ROLE: usize = 64;

/// The metadata server of the instance that the pod runs on.
#[derive(Clone, Debug)]
pub(crate) struct Instance(Service);

impl Instance {
    /// The metadata server at an address.
    pub(crate) fn new(address: Url) -> Self {
        Self(Service { name: NAME, address })
    }

    /// Returns the keys of the role that is attached to the instance.
    pub(super) async fn keys(&self) -> Result<Keys, CloudError> {
        let token = self.token().await?;
        let no_role = "no IAM role is attached to the instance; attach one, or give the pod a role";
        let roles = self.get(ROLES, &token).await?;
        if roles.status == StatusCode::NOT_FOUND {
            return Err(self.0.error(no_role));
        }
        let roles = self.text(roles)?;
        let role = roles.lines().next().map(str::trim).filter(|role| is_role(role));
        let role = role.ok_or_else(|| self.0.error(no_role))?;
        let answer = self.get(&format!("{ROLES}{role}"), &token).await?;
        let keys = self.text(answer)?;
        Keys::of_json(keys.as_bytes()).ok_or_else(|| {
            self.0.error(format!("gives no keys for the role {role}; look at its trust policy"))
        })
    }

    /// Returns the signed identity document of the instance, on one line.
    pub(super) async fn signed_document(&self) -> Result<String, CloudError> {
        let token = self.token().await?;
        let answer = self.get("/latest/dynamic/instance-identity/pkcs7", &token).await?;
        let document: String = self.text(answer)?.split_whitespace().collect();
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
        if (1..=LONGEST_TEXT).contains(&document.len()) && document.bytes().all(is_base64) {
            Ok(document)
        } else {
            Err(self.0.error("its identity document is not PKCS #7 in base64"))
        }
    }

    /// Asks for a session token.
    async fn token(&self) -> Result<SecretString, CloudError> {
        let mut request = Request::new(Method::PUT, self.0.url("/latest/api/token", &[]));
        request.headers_mut().insert(TTL, HeaderValue::from_static(LIFETIME));
        let token = self.0.read(request).await.map_err(|mut error| {
            if let CloudError::Service { problem, .. } = &mut error {
                problem.push_str(
                    "; allow pods to use IMDSv2 (hop limit 2), or give the pod a role (IRSA or Pod \
                     Identity)",
                );
            }
            error
        })?;
        let token = String::from_utf8(token).unwrap_or_default();
        let token = token.trim();
        if is_token(token) { Ok(token.into()) } else { Err(self.0.error("gives no session token")) }
    }

    async fn get(&self, path: &str, token: &SecretString) -> Result<Answer, CloudError> {
        let mut request = Request::new(Method::GET, self.0.url(path, &[]));
        let mut value = HeaderValue::from_str(token.expose_secret())
            .map_err(|_| self.0.error("gives no session token"))?;
        value.set_sensitive(true);
        request.headers_mut().insert(TOKEN, value);
        self.0.send(request).await
    }

    /// Returns the text of a successful answer.
    fn text(&self, answer: Answer) -> Result<String, CloudError> {
        if !answer.status.is_success() {
            let status = answer.status.as_u16();
            return Err(self.0.error(format!("answers with the status {status}")));
        }
        String::from_utf8(answer.body).map_err(|_| self.0.error("gives an answer that is no text"))
    }
}

/// Whether a text is the name of a role, so that it can be part of a path.
fn is_role(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
    (1..=LONGEST_ROLE).contains(&text.len()) && text.bytes().all(is_plain)
}
