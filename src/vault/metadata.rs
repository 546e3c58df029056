//! KV v2 metadata: reads the state of a secret from an answer of the server.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::answer::{Answer, failure_of};
use super::failure::Failure;
use super::read_error::ReadError;
use crate::model::reload_policy::{PolicyKey, ReloadPolicy};
use crate::model::secret::Version;
use crate::model::text::shorten;

/// The state of a secret according to its metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata {
    /// The latest version can be read. The owner of the secret has a say in its reloads.
    Live(Version, ReloadPolicy),
    /// The secret does not exist, or has no version.
    Missing,
    /// The latest version is deleted.
    Deleted,
    /// The latest version is destroyed.
    Destroyed,
}

impl Metadata {
    /// Returns the live version, or why there is none.
    pub(super) fn live(self) -> Result<(Version, ReloadPolicy), ReadError> {
        match self {
            Self::Live(version, policy) => Ok((version, policy)),
            Self::Missing => Err(ReadError::Missing),
            Self::Deleted => Err(ReadError::Deleted),
            Self::Destroyed => Err(ReadError::Destroyed),
        }
    }
}

/// Reads the answer to `GET <mount>/metadata/<path>`. `now` is the present time of the server's
/// clock.
pub fn read(answer: &Answer, now: Timestamp) -> Result<Metadata, Failure> {
    // The JSON decoder does not check the parts that it skips, so check that the whole body is
    // UTF-8.
    let text = std::str::from_utf8(&answer.body).unwrap_or_default();
    if answer.status == 404 && is_bare_not_found(text) {
        return Ok(Metadata::Missing);
    }
    if let Some(failure) = failure_of(answer.status, &answer.body) {
        return Err(failure);
    }
    let Envelope { data } = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
    data.observe(now)
}

/// Reads the metadata of one secret within a longer answer.
pub(super) fn of(text: &str, now: Timestamp) -> Result<Metadata, Failure> {
    serde_json::from_str::<Data<'_>>(text).map_err(|error| unreadable(&error))?.observe(now)
}

/// The text of a decoder error can contain a part of the answer, of any length.
fn unreadable(error: &serde_json::Error) -> Failure {
    Failure::BadAnswer(shorten(&format!("metadata: {error}")))
}

/// Returns whether the body is exactly `{"errors":[]}`, the answer for a missing secret. Any
/// message in the body means something else: the mount is missing, the path is not KV v2, or the
/// namespace is wrong. None of these says that the secret is gone.
pub(super) fn is_bare_not_found(body: &str) -> bool {
    #[derive(Deserialize)]
    struct NotFound {
        errors: Vec<IgnoredAny>,
        #[serde(default)]
        warnings: Option<Vec<IgnoredAny>>,
    }
    serde_json::from_str::<NotFound>(body).is_ok_and(|NotFound { errors, warnings }| {
        errors.is_empty() && warnings.unwrap_or_default().is_empty()
    })
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    current_version: u64,
    #[serde(borrow)]
    versions: Latest<'a>,
    #[serde(borrow, default)]
    custom_metadata: Option<&'a RawValue>,
}

/// The entry with the highest number. Other entries are skipped while they are read.
#[derive(Default)]
struct Latest<'a>(Option<(u64, Entry<'a>)>);

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    created_time: Cow<'a, str>,
    #[serde(borrow, default)]
    deletion_time: Cow<'a, str>,
    #[serde(default)]
    destroyed: bool,
}

impl Data<'_> {
    fn observe(self, now: Timestamp) -> Result<Metadata, Failure> {
        let bad = |what: &str| Failure::BadAnswer(format!("metadata: {what}"));
        let Some((number, entry)) = self.versions.0 else {
            return if self.current_version == 0 {
                Ok(Metadata::Missing)
            } else {
                Err(bad("the current version is not among the versions"))
            };
        };
        if number != self.current_version {
            return Err(bad("the current version is not the latest"));
        }
        if entry.destroyed {
            return Ok(Metadata::Destroyed);
        }
        // A `deletion_time` in the future means that the version will be deleted, and is live until
        // then.
        if !entry.deletion_time.is_empty() {
            let time: Timestamp =
                entry.deletion_time.parse().map_err(|_| bad("deletion_time is not a time"))?;
            if time <= now {
                return Ok(Metadata::Deleted);
            }
        }
        let created = entry.created_time.parse().map_err(|_| bad("created_time is not a time"))?;
        let policy = self.custom_metadata.map_or(ReloadPolicy::NONE, policy);
        Ok(Metadata::Live(Version { number, created }, policy))
    }
}

/// Reads what the owner of the secret says about reloads. Metadata of another form say nothing: they
/// must not keep the version from being known.
fn policy(custom_metadata: &RawValue) -> ReloadPolicy {
    // Most secrets have other keys, or none.
    if !custom_metadata.get().contains(PolicyKey::Mode.name()) {
        return ReloadPolicy::NONE;
    }
    let entries: Result<BTreeMap<Cow<'_, str>, Cow<'_, str>>, _> =
        serde_json::from_str(custom_metadata.get());
    let entries = entries.unwrap_or_default();
    ReloadPolicy::of(entries.iter().map(|(key, value)| (&**key, &**value)))
}

impl<'de: 'a, 'a> Deserialize<'de> for Latest<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Versions;
        impl<'de> Visitor<'de> for Versions {
            type Value = Latest<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the versions of a secret")
            }

            fn visit_unit<E>(self) -> Result<Latest<'de>, E> {
                Ok(Latest(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Latest<'de>, A::Error> {
                let mut latest: Option<(u64, Entry<'de>)> = None;
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    let number = key.parse().map_err(serde::de::Error::custom)?;
                    // Versions are counted from 1, and each number has one spelling.
                    if number == 0 || key.starts_with(['+', '0']) {
                        return Err(serde::de::Error::custom("not a version number"));
                    }
                    let entry = map.next_value()?;
                    if latest.as_ref().is_none_or(|(highest, _)| number > *highest) {
                        latest = Some((number, entry));
                    }
                }
                Ok(Latest(latest))
            }
        }
        deserializer.deserialize_any(Versions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::reload_policy::ReloadMode;

    fn answer(status: u16, body: &str) -> Answer {
        Answer::new(status, body.into())
    }

    fn observe(body: &str) -> Result<Metadata, Failure> {
        read(&answer(200, body), "2026-11-22T12:00:00Z".parse().unwrap())
    }

    fn versions(current: u64, versions: &str) -> String {
        format!(r#"{{"data":{{"current_version":{current},"versions":{{{versions}}}}}}}"#)
    }

    const LIVE: &str =
        r#"{"created_time":"2026-11-22T05:51:00.123456789Z","deletion_time":"","destroyed":false}"#;

    #[test]
    fn the_latest_version_counts() {
        let live = |number| {
            let created = "2026-11-22T05:51:00.123456789Z".parse().unwrap();
            Ok(Metadata::Live(Version { number, created }, ReloadPolicy::NONE))
        };
        assert_eq!(observe(&versions(1, &format!(r#""1":{LIVE}"#))), live(1));
        let ten = r#"{"created_time":"2020-01-01T00:00:00Z"}"#;
        assert_eq!(
            observe(&versions(10, &format!(r#""9":{ten},"10":{LIVE},"8":{ten}"#))),
            live(10)
        );
        let later =
            LIVE.replace(r#""deletion_time":"""#, r#""deletion_time":"2026-11-22T12:00:01Z""#);
        assert_eq!(observe(&versions(1, &format!(r#""1":{later}"#))), live(1));
    }

    #[test]
    fn what_a_new_pod_could_not_read_is_gone() {
        let deleted =
            LIVE.replace(r#""deletion_time":"""#, r#""deletion_time":"2026-11-22T12:00:00Z""#);
        let destroyed = LIVE.replace("false", "true");
        let one = |entry: &str| observe(&versions(1, &format!(r#""1":{entry}"#)));
        assert_eq!(one(&deleted), Ok(Metadata::Deleted));
        assert_eq!(one(&destroyed), Ok(Metadata::Destroyed));
        assert_eq!(observe(&versions(0, "")), Ok(Metadata::Missing));
        assert_eq!(
            observe(r#"{"data":{"current_version":0,"versions":null}}"#),
            Ok(Metadata::Missing)
        );
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(read(&answer(404, r#"{"errors":[]}"#), now), Ok(Metadata::Missing));
    }

    #[test]
    fn the_owner_of_the_secret_has_a_say() {
        let policy = |custom_metadata: &str| {
            let body = versions(1, &format!(r#""1":{LIVE}"#));
            let with = format!(r#"{{"data":{{"custom_metadata":{custom_metadata},"#);
            match observe(&body.replace(r#"{"data":{"#, &with)) {
                Ok(Metadata::Live(_, policy)) => policy,
                other => panic!("{custom_metadata}: {other:?}"),
            }
        };
        assert_eq!(policy(r#"{"reload":"urgent"}"#).mode, ReloadMode::Urgent);
        assert_eq!(
            policy(r#"{"team":"db","reload-first":"2"}"#).first,
            std::num::NonZeroU32::new(2)
        );
        for nothing in ["null", "{}", "[]", "7", r#""reload""#, r#"{"reload":["urgent"]}"#] {
            assert_eq!(policy(nothing), ReloadPolicy::NONE, "{nothing}");
        }
    }

    #[test]
    fn only_the_bare_404_means_missing() {
        for body in [
            "",
            "{}",
            "<html></html>",
            r#"{"errors":null}"#,
            r#"{"errors":["no handler for route"]}"#,
            r#"{"errors":[],"warnings":["Invalid path for a versioned K/V secrets engine"]}"#,
            r#"{"errors":[],"warnings":"Invalid path for a versioned K/V secrets engine"}"#,
            r#"{"errors":[],"warnings":[1]}"#,
        ] {
            let failure = read(&answer(404, body), Timestamp::UNIX_EPOCH).unwrap_err();
            assert_eq!(failure.reason(), "refused", "{body:?}");
        }
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_an_error_and_never_a_change() {
        for body in [
            "",
            "null",
            "{}",
            r#"{"data":{}}"#,
            &versions(2, &format!(r#""1":{LIVE}"#)),
            &versions(1, ""),
            &versions(1, r#""1":{"created_time":"yesterday"}"#),
            &versions(1, r#""1":{"created_time":"2026-11-22T05:51:00Z","deletion_time":"soon"}"#),
            &versions(1, r#""one":{"created_time":"2026-11-22T05:51:00Z"}"#),
            &versions(1, r#""1":null"#),
            r#"{"data":{"current_version":0}}"#,
            &versions(0, &format!(r#""0":{LIVE}"#)),
            &versions(1, &format!(r#""+1":{LIVE}"#)),
            &versions(1, &format!(r#""01":{LIVE}"#)),
        ] {
            assert_eq!(observe(body).unwrap_err().reason(), "bad_answer", "{body:?}");
        }
    }

    #[test]
    fn what_is_no_text_is_no_answer() {
        let broken = |text: &str| {
            let mut body = text.as_bytes().to_vec();
            let place = body.iter().position(|byte| *byte == b'~').unwrap();
            body[place] = 0xff;
            body
        };
        let missing = broken(r#"{"errors":[],"x":"~"}"#);
        assert!(read(&Answer::new(404, missing), Timestamp::UNIX_EPOCH).is_err());
        let live =
            versions(1, &format!(r#""1":{LIVE}"#)).replace(r#"{"data""#, r#"{"x":"~","data""#);
        assert!(read(&Answer::new(200, broken(&live)), Timestamp::UNIX_EPOCH).is_err());
    }

    #[test]
    fn what_is_said_of_an_odd_answer_has_an_end() {
        let odd = format!(r#"{{"data":{{"current_version":"{}"}}}}"#, "x".repeat(1 << 20));
        assert!(observe(&odd).unwrap_err().to_string().len() < 1000);
    }

    #[test]
    fn ten_thousand_versions_are_read_for_one() {
        let mut all: Vec<String> = (1..=10_000).map(|n| format!(r#""{n}":{LIVE}"#)).collect();
        all.reverse();
        let metadata = observe(&versions(10_000, &all.join(",")));
        assert!(matches!(metadata, Ok(Metadata::Live(Version { number: 10_000, .. }, _))));
    }
}
