//! Access keys of AWS, and the answers that contain them.

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde::Deserialize;

use crate::credentials::credential::is_token;

/// Keys with less time left than this are replaced. Vault needs some of that time to use a signature.
const REPLACE_BEFORE: SignedDuration = SignedDuration::from_mins(5);

/// The longest time that keys are kept. The role of the pod may have been replaced meanwhile.
const LONGEST_KEPT: SignedDuration = SignedDuration::from_hours(1);

/// Access keys.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// The id of the access key.
    pub(super) id: SecretString,
    /// The secret access key.
    pub(super) secret: SecretString,
    /// The session token of temporary keys.
    pub(super) session: Option<SecretString>,
    /// When temporary keys end.
    pub(super) expires: Option<Timestamp>,
}

/// The keys in an answer of the metadata server or of a container's credential server.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    /// `Success`, where the server has such a field.
    code: Option<String>,
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<String>,
}

impl Keys {
    /// Creates keys from texts; `None` if a text cannot be such a key.
    pub(crate) fn new(id: &str, secret: &str, session: Option<&str>) -> Option<Self> {
        if ![Some(id), Some(secret), session].into_iter().flatten().all(is_token) {
            return None;
        }
        Some(Self {
            id: id.into(),
            secret: secret.into(),
            session: session.map(SecretString::from),
            expires: None,
        })
    }

    /// Reads the JSON of a metadata server or of a container's credential server.
    pub(super) fn of_json(body: &[u8]) -> Option<Self> {
        let answer: Answer = serde_json::from_slice(body).ok()?;
        if answer.code.is_some_and(|code| code != "Success") {
            return None;
        }
        let session = answer.token.as_deref().filter(|token| !token.is_empty());
        let keys = Self::new(&answer.access_key_id, &answer.secret_access_key, session)?;
        let expires = answer.expiration.map(|time| time.parse::<Timestamp>()).transpose().ok()?;
        Some(Self { expires, ..keys })
    }

    /// Reads the XML of the Security Token Service.
    pub(super) fn of_xml(body: &str) -> Option<Self> {
        let session = element(body, "SessionToken")?;
        let keys = Self::new(
            element(body, "AccessKeyId")?,
            element(body, "SecretAccessKey")?,
            Some(session),
        )?;
        Some(Self { expires: Some(element(body, "Expiration")?.parse().ok()?), ..keys })
    }

    /// Returns until when the keys are used again.
    pub(super) fn kept_until(&self, now: Timestamp) -> Timestamp {
        let longest = now.saturating_add(LONGEST_KEPT).unwrap_or(now);
        let before_end =
            |end: Timestamp| end.saturating_sub(REPLACE_BEFORE).unwrap_or(now).min(longest);
        self.expires.map_or(longest, before_end)
    }

    /// Keys without a session, for tests.
    #[cfg(test)]
    pub(super) fn of(id: &str, secret: &str) -> Self {
        Self { id: id.into(), secret: secret.into(), session: None, expires: None }
    }
}

/// Returns the text of the first element with a name. The texts that are read hold no markup: keys,
/// times and error codes.
pub(super) fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.trim())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn answers_are_read_in_each_form_of_aws() {
        let of_instance = r#"{"Code":"Success","LastUpdated":"2026-01-01T00:00:00Z","Type":"AWS-HMAC",
            "AccessKeyId":"ASIA","SecretAccessKey":"secret","Token":"session",
            "Expiration":"2026-01-01T06:00:00Z"}"#;
        let of_sts =
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>
            <AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>
            <SessionToken>session</SessionToken><Expiration>2026-01-01T06:00:00Z</Expiration>
            </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";
        for keys in [Keys::of_json(of_instance.as_bytes()), Keys::of_xml(of_sts)] {
            let keys = keys.unwrap();
            assert_eq!(keys.id.expose_secret(), "ASIA");
            assert_eq!(keys.secret.expose_secret(), "secret");
            assert_eq!(keys.session.unwrap().expose_secret(), "session");
            assert_eq!(keys.expires, Some(at("2026-01-01T06:00:00Z")));
        }
        let lasting = br#"{"AccessKeyId":"AKIA","SecretAccessKey":"secret"}"#;
        let keys = Keys::of_json(lasting).unwrap();
        assert!(keys.session.is_none() && keys.expires.is_none());
    }

    #[test]
    fn what_holds_no_keys_is_refused() {
        for body in [
            "",
            "{}",
            r#"{"Code":"AssumeRoleUnauthorizedAccess","AccessKeyId":"a","SecretAccessKey":"b"}"#,
            r#"{"AccessKeyId":"a b","SecretAccessKey":"b"}"#,
            r#"{"AccessKeyId":"a","SecretAccessKey":"b","Token":"c\nd"}"#,
            r#"{"AccessKeyId":"a","SecretAccessKey":"b","Expiration":"soon"}"#,
        ] {
            assert!(Keys::of_json(body.as_bytes()).is_none(), "{body}");
        }
        for body in ["", "<AccessKeyId>a</AccessKeyId>", "<SessionToken>", "</SessionToken>"] {
            assert!(Keys::of_xml(body).is_none(), "{body}");
        }
    }

    #[test]
    fn keys_are_kept_until_shortly_before_their_end_and_never_for_long() {
        let now = at("2026-01-01T00:00:00Z");
        for (expires, expected) in [
            (Some("2026-01-01T00:30:00Z"), "2026-01-01T00:25:00Z"),
            (Some("2026-01-01T06:00:00Z"), "2026-01-01T01:00:00Z"),
            (Some("2025-12-31T00:00:00Z"), "2025-12-30T23:55:00Z"),
            (None, "2026-01-01T01:00:00Z"),
        ] {
            let keys = Keys { expires: expires.map(at), ..Keys::of("a", "b") };
            assert_eq!(keys.kept_until(now), at(expected), "{expires:?}");
        }
    }

    #[test]
    fn debug_output_holds_no_key() {
        let keys = Keys::new("AKIASECRET", "SECRET", Some("SECRET")).unwrap();
        assert!(!format!("{keys:?}").contains("SECRET"));
    }
}
