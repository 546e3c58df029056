//! The record: for each secret of a workload, the version that its pods started with, or a later
//! one. The record is the only state of the controller, and is stored in the workload.
//!
//! The PATCH that reloads a workload writes a new mark on the pod template. The same request writes
//! the record, with that mark, to the workload's own metadata. While both marks agree, the record
//! belongs to the present template. If they differ, another template was put in place. Without a
//! valid record nothing is known, which never counts as a change.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::secret::{Version, to_base36};

/// The format that this release writes, and the only format that it reads.
const FORMAT: u32 = 1;

/// The content of the record annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The uid of the workload that the record was written for. Objects are cloned, restored and
    /// exported with their annotations. A record with another uid does not count.
    pub uid: String,
    /// The mark that the same PATCH put on the template.
    pub mark: String,
    /// When the workload was reloaded, by the API server's clock, in whole seconds. Records of
    /// releases before 1.1 have no time.
    pub at: Option<Timestamp>,
    /// The number of reloads before this one that followed each other as soon as they could.
    pub streak: u32,
    /// Whether the workload was not healthy before the reload, and not because of an earlier one.
    pub was_unhealthy: bool,
    /// The versions by [`crate::model::secret::SecretId::hash64`], in order of the hash, each once.
    pub versions: Versions,
}

/// Versions of secrets, by the hash of the secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions(Box<[(u64, Version)]>);

impl Versions {
    /// Returns the version of one secret.
    #[must_use]
    pub fn get(&self, secret: u64) -> Option<Version> {
        let index = self.0.binary_search_by_key(&secret, |(hash, _)| *hash).ok()?;
        self.0.get(index).map(|(_, version)| *version)
    }

    /// Returns the number of secrets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no version.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps the versions of some secrets, and forgets the others.
    pub fn retain(&mut self, secrets: impl IntoIterator<Item = u64>) {
        *self = secrets.into_iter().filter_map(|hash| Some((hash, self.get(hash)?))).collect();
    }

    /// Returns all versions, in order of the hash.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Version)> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<(u64, Version)> for Versions {
    fn from_iter<I: IntoIterator<Item = (u64, Version)>>(iter: I) -> Self {
        Self(BTreeMap::from_iter(iter).into_iter().collect())
    }
}

/// The content of a valid record, for the workload on which it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The versions.
    pub versions: Versions,
    /// Whether the mark of the record is the mark of the present template.
    pub of_this_template: bool,
    /// See [`Record::at`].
    pub at: Option<Timestamp>,
    /// See [`Record::streak`].
    pub streak: u32,
    /// See [`Record::was_unhealthy`].
    pub was_unhealthy: bool,
}

/// Why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RecordError {
    /// The text is not in the form that this controller writes.
    #[error("it is not a record of this controller")]
    Malformed,
    /// Another release with another format wrote the record.
    #[error("its format is {0}, and this release reads format {FORMAT}")]
    OtherFormat(u32),
}

/// The JSON of the annotation. A thousand secrets take about 34 kB of the 256 KiB that all
/// annotations of an object share. Hence the short names.
#[derive(Serialize, Deserialize)]
struct Wire {
    v: u32,
    uid: String,
    mark: String,
    // Releases before 1.1 ignore these three fields.
    /// Seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    streak: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unhealthy: bool,
    secrets: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Format {
    v: u32,
}

impl Record {
    /// Reads the annotation.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        let Format { v } = serde_json::from_str(text).map_err(|_| RecordError::Malformed)?;
        if v != FORMAT {
            return Err(RecordError::OtherFormat(v));
        }
        let wire: Wire = serde_json::from_str(text).map_err(|_| RecordError::Malformed)?;
        let versions = wire
            .secrets
            .iter()
            .map(|(hash, version)| {
                Some((u64::from_str_radix(hash, 36).ok()?, version.parse().ok()?))
            })
            .collect::<Option<Versions>>()
            .ok_or(RecordError::Malformed)?;
        let at = wire.at.and_then(|at| Timestamp::from_second(at).ok());
        Ok(Self {
            uid: wire.uid,
            mark: wire.mark,
            at,
            streak: wire.streak.unwrap_or(0),
            was_unhealthy: wire.unhealthy,
            versions,
        })
    }

    /// Returns the text of the annotation.
    #[must_use]
    pub fn encode(&self) -> String {
        let wire = Wire {
            v: FORMAT,
            uid: self.uid.clone(),
            mark: self.mark.clone(),
            at: self.at.map(Timestamp::as_second),
            streak: Some(self.streak).filter(|streak| *streak > 0),
            unhealthy: self.was_unhealthy,
            secrets: self
                .versions
                .iter()
                .map(|(hash, version)| (to_base36(u128::from(hash)), version.compact()))
                .collect(),
        };
        // A map of strings always has a JSON form.
        serde_json::to_string(&wire).unwrap_or_default()
    }

    /// Returns the content for a workload with this uid and this mark on its template. Returns
    /// `None` if the record was written for another workload.
    #[must_use]
    pub fn of(self, uid: &str, mark: Option<&str>) -> Option<Recorded> {
        (self.uid == uid).then(|| Recorded {
            of_this_template: mark == Some(&self.mark),
            at: self.at,
            streak: self.streak,
            was_unhealthy: self.was_unhealthy,
            versions: self.versions,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> Version {
        Version { number, created: "2026-11-22T05:51:00.123456789Z".parse().unwrap() }
    }

    fn record() -> Record {
        Record {
            uid: "6f0e".to_owned(),
            mark: "m1".to_owned(),
            at: Timestamp::from_second(1_795_000_000).ok(),
            streak: 0,
            was_unhealthy: false,
            versions: [(u64::MAX, version(2)), (1, version(1))].into_iter().collect(),
        }
    }

    #[test]
    fn a_record_survives_its_annotation() {
        let text = record().encode();
        assert_eq!(
            text,
            r#"{"v":1,"uid":"6f0e","mark":"m1","at":1795000000,"secrets":{"1":"1@dn1i6pp0smj9","3w5e11264sgsf":"2@dn1i6pp0smj9"}}"#
        );
        assert_eq!(Record::parse(&text), Ok(record()));
        // Releases before 1.1 wrote no time.
        let earlier = text.replace(r#""at":1795000000,"#, "");
        assert_eq!(Record::parse(&earlier), Ok(Record { at: None, ..record() }));
        assert!(!Record { at: None, ..record() }.encode().contains("at"));
        let later = Record { streak: 3, was_unhealthy: true, ..record() };
        assert_eq!(Record::parse(&later.encode()), Ok(later));
    }

    #[test]
    fn what_cannot_be_read_is_said_and_never_a_panic() {
        for text in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"v":1}"#,
            r#"{"v":"1","uid":"","mark":"","secrets":{}}"#,
            r#"{"v":1,"uid":"","mark":"","secrets":{"!":"1@1"}}"#,
            r#"{"v":1,"uid":"","mark":"","secrets":{"1":"one"}}"#,
            r#"{"v":1,"uid":"","mark":"","secrets":{"zzzzzzzzzzzzzzzzzzz":"1@1"}}"#,
            r#"{"v":1,"uid":"","mark":"","secrets":[]}"#,
        ] {
            assert_eq!(Record::parse(text), Err(RecordError::Malformed), "{text:?}");
        }
        assert_eq!(
            Record::parse(r#"{"v":2,"anything":["else"]}"#),
            Err(RecordError::OtherFormat(2))
        );
    }

    #[test]
    fn a_record_of_another_workload_is_none() {
        assert_eq!(record().of("other", Some("m1")), None);
        assert_eq!(record().of("6f0e", Some("m1")).map(|r| r.of_this_template), Some(true));
        assert_eq!(record().of("6f0e", Some("m0")).map(|r| r.of_this_template), Some(false));
        assert_eq!(record().of("6f0e", None).map(|r| r.of_this_template), Some(false));
    }

    #[test]
    fn a_thousand_secrets_fit_into_a_fraction_of_the_annotations_limit() {
        let versions = (0..1000).map(|n| (u64::MAX - n, version(n))).collect();
        let text = Record { versions, ..record() }.encode();
        assert!(text.len() < 40_000, "{} bytes", text.len());
    }
}
