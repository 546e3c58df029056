//! Answers of the server: the meaning of a status, and the messages that come with it.

use std::time::Duration;

use http::header::HeaderValue;
use tokio::sync::OwnedSemaphorePermit;

use super::failure::Failure;
use crate::decide::clock::parse_date;
use crate::model::text::shorten;

/// An answer with any status.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// How long the server wants no requests.
    pub pause: Option<Duration>,
    /// The state of the storage that the answer was read from.
    pub index: Option<HeaderValue>,
    /// The time of the answer, by the clock of the server or of a proxy in front of it.
    pub(super) date: Option<HeaderValue>,
    /// The permit to hold a long body, released with the answer.
    pub(super) turn: Option<OwnedSemaphorePermit>,
}

impl Answer {
    /// Creates an answer without headers.
    #[must_use]
    pub fn new(status: u16, body: Vec<u8>) -> Self {
        Self { status, body, pause: None, index: None, date: None, turn: None }
    }
}

/// Reads `Retry-After`: seconds, or a date. `date` is the present time of the clock that gave the
/// date.
#[must_use]
pub fn retry_after(text: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = parse_date(text.trim())?.duration_since(parse_date(date?)?);
    Some(Duration::try_from(until).unwrap_or_default())
}

/// The longest pause that an answer can cause before one request asks again. A wrong value from one
/// machine of many must not stop all reloads for an hour.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(5);

/// The pause after a rate limit without `Retry-After`.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(1);

/// Returns how long the server wants no requests, by the status and `Retry-After` of an answer.
#[must_use]
pub fn pause(status: u16, retry_after: Option<Duration>) -> Option<Duration> {
    let pause = match status {
        429 => retry_after.or(Some(RATE_LIMIT_PAUSE)),
        503 => retry_after,
        _ => None,
    };
    pause.map(|pause| pause.min(LONGEST_RETRY_AFTER))
}

/// Returns the failure that a status stands for; `None` if the answer can be read.
#[must_use]
pub fn failure_of(status: u16, body: &[u8]) -> Option<Failure> {
    match status {
        200..=299 => None,
        403 => Some(denial_of(body)),
        429 => Some(Failure::RateLimited),
        // 472 and 473 are other kinds of standbys.
        503 if is_namespace_locked(body) => Some(Failure::NamespaceLocked),
        472 | 473 | 503 => Some(Failure::Sealed),
        500.. => Some(Failure::Server(status)),
        _ => Some(Failure::Refused { status, message: said(body) }),
    }
}

/// Maps a 403. Servers report a denial by a policy as an entry of a list of errors. They report an
/// unknown token by the bare words "permission denied", or by "invalid token". They report a
/// missing mount like a mount that no policy grants, so that nobody can find out which mounts
/// exist.
fn denial_of(body: &[u8]) -> Failure {
    let said = said(body);
    if said.to_ascii_lowercase().contains("preflight capability check") {
        Failure::NoMount
    } else if said == "permission denied" || said.contains("invalid token") {
        Failure::TokenEnded
    } else {
        Failure::Denied
    }
}

/// Returns whether a 503 is about a Vault namespace: "API access to this namespace has been locked by
/// an administrator", or that the namespace is sealed.
fn is_namespace_locked(body: &[u8]) -> bool {
    let said = said(body).to_ascii_lowercase();
    said.contains("namespace") && ["locked", "sealed"].iter().any(|word| said.contains(word))
}

/// Returns the server's `errors` and `warnings` on one line.
#[must_use]
pub fn said(body: &[u8]) -> String {
    #[derive(Default, serde::Deserialize)]
    struct Said {
        #[serde(default)]
        errors: Option<Vec<String>>,
        #[serde(default)]
        warnings: Option<Vec<String>>,
    }
    let Said { errors, warnings } = serde_json::from_slice(body).unwrap_or_default();
    let words: Vec<String> = [errors, warnings].into_iter().flatten().flatten().collect();
    shorten(&words.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_meaning() {
        let table = [
            (200, None),
            (204, None),
            (403, Some("denied")),
            (400, Some("refused")),
            (404, Some("refused")),
            (429, Some("rate_limited")),
            (472, Some("sealed")),
            (503, Some("sealed")),
            (500, Some("server_error")),
            (502, Some("server_error")),
        ];
        for (status, reason) in table {
            assert_eq!(failure_of(status, b"").as_ref().map(Failure::reason), reason, "{status}");
        }
    }

    #[test]
    fn a_locked_namespace_is_told_from_a_server_that_is_not_ready() {
        let locked = r#"{"errors":["API access to this namespace has been locked by an administrator - \"team/\" must be unlocked to gain access."]}"#;
        let sealed = r#"{"errors":["Vault is sealed"]}"#;
        for (status, body, expected) in [
            (503, locked, Failure::NamespaceLocked),
            (503, r#"{"errors":["namespace is sealed"]}"#, Failure::NamespaceLocked),
            (503, sealed, Failure::Sealed),
            (503, "<html>no namespace here</html>", Failure::Sealed),
            (500, locked, Failure::Server(500)),
        ] {
            assert_eq!(failure_of(status, body.as_bytes()), Some(expected), "{body}");
        }
    }

    #[test]
    fn a_server_is_left_alone_for_as_long_as_it_says() {
        let seconds = Duration::from_secs;
        let table = [
            (429, None, Some(RATE_LIMIT_PAUSE)),
            (429, Some(seconds(7)), Some(seconds(7))),
            (429, Some(seconds(300)), Some(seconds(300))),
            (503, Some(seconds(86_400)), Some(LONGEST_RETRY_AFTER)),
            (503, None, None),
            (503, Some(seconds(7)), Some(seconds(7))),
            (500, Some(seconds(7)), None),
            (200, Some(seconds(7)), None),
        ];
        for (status, retry_after, expected) in table {
            assert_eq!(pause(status, retry_after), expected, "{status} {retry_after:?}");
        }
    }

    #[test]
    fn a_server_may_say_when_to_come_back_by_a_date() {
        let date = Some("Wed, 25 Nov 2026 12:00:00 GMT");
        let table = [
            ("7", None, Some(7)),
            (" 120 ", date, Some(120)),
            ("Wed, 25 Nov 2026 12:01:30 GMT", date, Some(90)),
            ("Wed, 25 Nov 2026 11:00:00 GMT", date, Some(0)),
            ("Wed, 25 Nov 2026 12:01:30 GMT", None, None),
            ("soon", date, None),
            ("-1", date, None),
            ("", date, None),
        ];
        for (text, date, seconds) in table {
            assert_eq!(retry_after(text, date), seconds.map(Duration::from_secs), "{text:?}");
        }
    }

    #[test]
    fn a_token_that_is_not_known_is_told_from_a_policy() {
        let table = [
            (r#"{"errors":["permission denied"]}"#, Failure::TokenEnded),
            (
                r#"{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}"#,
                Failure::TokenEnded,
            ),
            (r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#, Failure::Denied),
            (
                r#"{"errors":["preflight capability check returned 403, please ensure client's policies grant access to path \"none/\""]}"#,
                Failure::NoMount,
            ),
            ("", Failure::Denied),
        ];
        for (body, expected) in table {
            assert_eq!(failure_of(403, body.as_bytes()), Some(expected), "{body}");
        }
    }

    #[test]
    fn what_the_server_says_is_one_line() {
        let body = br#"{"errors":["1 error occurred:\n\t* bad path\n\n"],"warnings":["and so"]}"#;
        assert_eq!(said(body), "1 error occurred: * bad path ; and so");
        for body in ["", "<html>", "[]", r#"{"errors":null}"#] {
            assert_eq!(said(body.as_bytes()), "", "{body:?}");
        }
    }

    #[test]
    fn what_the_server_says_has_an_end() {
        let body = serde_json::json!({ "errors": ["x".repeat(1 << 20)] }).to_string();
        assert!(said(body.as_bytes()).len() < 500);
    }
}
