//! Signature version 4 of AWS, for requests that are a POST to the path `/` without a query.
//!
//! These are few enough that a crate for all requests of AWS would not pay. The tests compare the
//! signatures with those that AWS publishes.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use jiff::Timestamp;
use secrecy::ExposeSecret as _;

use super::keys::Keys;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What a signature is valid for.
pub(super) struct Scope<'a> {
    /// The region.
    pub(super) region: &'a str,
    /// The service.
    pub(super) service: &'a str,
    /// The time of the request. AWS accepts a few minutes of difference.
    pub(super) time: Timestamp,
}

impl Scope<'_> {
    /// Returns the value of the header `X-Amz-Date`.
    pub(super) fn date(&self) -> String {
        self.time.strftime("%Y%m%dT%H%M%SZ").to_string()
    }

    fn day(&self) -> String {
        self.time.strftime("%Y%m%d").to_string()
    }
}

/// Returns the value of the header `Authorization`. `headers` are the signed headers: names in small
/// letters, values without spaces at their ends or in a row. `host` and `x-amz-date` must be among them.
pub(super) fn authorization(
    keys: &Keys,
    scope: &Scope<'_>,
    headers: &BTreeMap<&str, String>,
    body: &str,
) -> String {
    let mut canonical = String::from("POST\n/\n\n");
    for (name, value) in headers {
        canonical.extend([*name, ":", value.as_str(), "\n"]);
    }
    let names = headers.keys().copied().collect::<Vec<_>>().join(";");
    canonical.extend(["\n", names.as_str(), "\n"]);
    canonical.push_str(&hex(digest(&SHA256, body.as_bytes()).as_ref()));

    let (region, service, day) = (scope.region, scope.service, scope.day());
    let credential_scope = format!("{day}/{region}/{service}/aws4_request");
    let hashed = hex(digest(&SHA256, canonical.as_bytes()).as_ref());
    let to_sign = format!("{ALGORITHM}\n{}\n{credential_scope}\n{hashed}", scope.date());

    let secret = format!("AWS4{}", keys.secret.expose_secret());
    let mut key = sign(secret.as_bytes(), &day);
    for part in [region, service, "aws4_request", &to_sign] {
        key = sign(key.as_ref(), part);
    }
    format!(
        "{ALGORITHM} Credential={}/{credential_scope}, SignedHeaders={names}, Signature={}",
        keys.id.expose_secret(),
        hex(key.as_ref())
    )
}

fn sign(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The session token of AWS's test `post-sts-header-before`.
    const SESSION: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKW\
                           HGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4\
                           IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE\
                           8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yj\
                           c8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";

    /// The hash of the body in AWS's test `post-x-www-form-urlencoded`.
    const HASH: &str = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e";

    #[test]
    fn signatures_are_those_that_aws_publishes() {
        let keys = Keys::of("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let time = "2015-08-30T12:36:00Z".parse().unwrap();
        let scope = Scope { region: "us-east-1", service: "service", time };
        let form = [
            ("content-length", "13"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("x-amz-content-sha256", HASH),
        ];
        for (own, body, signed, signature) in [
            (
                &[][..],
                "",
                "host;x-amz-date",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                &[("x-amz-security-token", SESSION)],
                "",
                "host;x-amz-date;x-amz-security-token",
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
            (
                &form,
                "Param1=value1",
                "content-length;content-type;host;x-amz-content-sha256;x-amz-date",
                "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
            ),
        ] {
            let mut headers: BTreeMap<&str, String> =
                own.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            headers.insert("host", "example.amazonaws.com".to_owned());
            headers.insert("x-amz-date", scope.date());
            assert_eq!(
                authorization(&keys, &scope, &headers, body),
                format!(
                    "AWS4-HMAC-SHA256 \
                     Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                     SignedHeaders={signed}, Signature={signature}"
                )
            );
        }
    }
}
