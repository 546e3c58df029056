//! The Security Token Service of AWS: the signed request that Vault forwards, and keys for the token of
//! a service account.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use jiff::Timestamp;
use reqwest::{Request, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use url::form_urlencoded::Serializer;

use super::super::error::CloudError;
use super::super::http::Service;
use super::super::proof::{Proof, proof};
use super::keys::{Keys, element};
use super::signature::{Scope, authorization};

const NAME: &str = "the Security Token Service of AWS";

const VERSION: &str = "2011-06-15";

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// The header that binds a signed request to one Vault server.
const SERVER_ID: &str = "X-Vault-AWS-IAM-Server-ID";

/// The longest code of an error, in bytes. The codes of AWS are single words.
const LONGEST_CODE: usize = 64;

/// The Security Token Service of a region.
#[derive(Clone, Debug)]
pub(crate) struct Sts {
    region: String,
    service: Service,
    /// The service that gives keys for the token of a service account.
    exchange: Service,
}

impl Sts {
    /// The service at an address, for requests that are signed for `region`.
    pub(crate) fn new(region: String, address: Url) -> Self {
        let service = Service { name: NAME, address };
        Self { region, exchange: service.clone(), service }
    }

    /// Returns the same service, with another address for exchanging tokens for keys. Vault sends the
    /// signed request, and the pod sends the exchange. The two may reach different endpoints.
    pub(crate) fn exchanging_at(mut self, address: Url) -> Self {
        self.exchange.address = address;
        self
    }

    /// Returns the login that contains the signed request `GetCallerIdentity`. Vault sends that request,
    /// and AWS tells Vault who signed it. `server_id` is what Vault expects in its own header.
    pub(super) fn caller_identity(
        &self,
        keys: &Keys,
        server_id: Option<&str>,
        time: Timestamp,
    ) -> Proof {
        let body = form(&[("Action", "GetCallerIdentity"), ("Version", VERSION)]);
        let url = self.service.url("/", &[]);
        let scope = Scope { region: &self.region, service: "sts", time };
        let mut headers = vec![
            ("Content-Type", FORM.to_owned()),
            ("Host", authority(&url)),
            ("X-Amz-Date", scope.date()),
        ];
        if let Some(session) = &keys.session {
            headers.push(("X-Amz-Security-Token", session.expose_secret().to_owned()));
        }
        if let Some(server_id) = server_id {
            headers.push((SERVER_ID, server_id.to_owned()));
        }
        let names: Vec<String> =
            headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        let signed: BTreeMap<&str, String> =
            names.iter().map(String::as_str).zip(headers.iter().map(|(_, v)| v.clone())).collect();
        headers.push(("Authorization", authorization(keys, &scope, &signed, &body)));
        let headers: Map<String, Value> =
            headers.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        proof([
            ("iam_http_request_method", "POST".to_owned()),
            ("iam_request_url", STANDARD.encode(url.as_str())),
            ("iam_request_body", STANDARD.encode(body)),
            ("iam_request_headers", STANDARD.encode(Value::Object(headers).to_string())),
        ])
    }

    /// Returns the keys of a role for the token of a service account.
    pub(super) async fn assume_role(
        &self,
        role: &str,
        session: &str,
        token: &SecretString,
    ) -> Result<Keys, CloudError> {
        let body = form(&[
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", VERSION),
            ("RoleArn", role),
            ("RoleSessionName", session),
            ("WebIdentityToken", token.expose_secret()),
        ]);
        let mut request = Request::new(Method::POST, self.exchange.url("/", &[]));
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(FORM));
        *request.body_mut() = Some(body.into());
        let answer = self.exchange.send(request).await?;
        let text = String::from_utf8_lossy(&answer.body);
        if !answer.status.is_success() {
            let is_code = |code: &&str| {
                code.len() <= LONGEST_CODE && code.bytes().all(|byte| byte.is_ascii_alphanumeric())
            };
            let code = element(&text, "Code").filter(is_code).unwrap_or("no code");
            let status = answer.status.as_u16();
            return Err(self.exchange.error(format!(
                "refuses the role {role} (status {status}, {code}); look at the trust policy of the role"
            )));
        }
        Keys::of_xml(&text).ok_or_else(|| self.exchange.error("its answer contains no keys"))
    }
}

/// Returns the host as in the header `Host`: without the port, if that is the usual one.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn form(fields: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(fields).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(proof: &Proof, field: &str) -> String {
        let text = proof.0[field].as_str().unwrap();
        String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
    }

    fn signed(address: &str, session: Option<&str>, server_id: Option<&str>) -> Proof {
        let keys = Keys::new("AKIDEXAMPLE", "secret", session).unwrap();
        let sts = Sts::new("eu-west-1".to_owned(), address.parse().unwrap());
        sts.caller_identity(&keys, server_id, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn the_login_contains_the_signed_request_in_the_form_that_vault_reads() {
        let proof = signed("https://sts.eu-west-1.amazonaws.com", Some("token"), Some("vault.a"));
        assert_eq!(proof.0["iam_http_request_method"], "POST");
        assert_eq!(decoded(&proof, "iam_request_url"), "https://sts.eu-west-1.amazonaws.com/");
        let body = decoded(&proof, "iam_request_body");
        assert_eq!(body, "Action=GetCallerIdentity&Version=2011-06-15");
        let headers: Value = serde_json::from_str(&decoded(&proof, "iam_request_headers")).unwrap();
        assert_eq!(headers["Host"], "sts.eu-west-1.amazonaws.com");
        assert_eq!(headers["X-Amz-Date"], "20260101T000000Z");
        assert_eq!(headers["X-Amz-Security-Token"], "token");
        assert_eq!(headers["X-Vault-AWS-IAM-Server-ID"], "vault.a");
        let authorization = headers["Authorization"].as_str().unwrap();
        let expected = "AWS4-HMAC-SHA256 \
             Credential=AKIDEXAMPLE/20260101/eu-west-1/sts/aws4_request, SignedHeaders=content-type;\
             host;x-amz-date;x-amz-security-token;x-vault-aws-iam-server-id, Signature=";
        assert!(authorization.starts_with(expected), "{authorization}");
        assert_eq!(headers.as_object().unwrap().len(), 6);
    }

    #[test]
    fn keys_without_a_session_and_a_server_without_an_id_have_no_header() {
        let proof = signed("http://127.0.0.1:8001", None, None);
        assert_eq!(decoded(&proof, "iam_request_url"), "http://127.0.0.1:8001/");
        let headers: Value = serde_json::from_str(&decoded(&proof, "iam_request_headers")).unwrap();
        assert_eq!(headers["Host"], "127.0.0.1:8001");
        assert_eq!(headers.as_object().unwrap().len(), 4);
    }
}
