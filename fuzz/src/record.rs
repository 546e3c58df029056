//! The record in an annotation. Input: the annotation.

use serde_json::Value;
use vault_secrets_reloader::model::record::{Record, RecordError};

/// Asserts the properties that hold for any annotation.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let format = serde_json::from_str::<Value>(text).ok().and_then(|value| value["v"].as_u64());
    match Record::parse(text) {
        Ok(record) => {
            assert_eq!(format, Some(1), "{text:?}");
            let encoded = record.encode();
            assert_eq!(Record::parse(&encoded), Ok(record.clone()), "{encoded}");
            let hashes: Vec<u64> = record.versions.iter().map(|(hash, _)| hash).collect();
            assert!(hashes.is_sorted_by(|a, b| a < b), "{hashes:?}");
            for (hash, version) in record.versions.iter() {
                assert_eq!(record.versions.get(hash), Some(version));
            }
            let uid = record.uid.clone();
            let mark = record.mark.clone();
            assert!(record.clone().of(&format!("{uid}x"), Some(&mark)).is_none());
            assert!(record.of(&uid, Some(&mark)).is_some_and(|recorded| recorded.of_this_template));
        }
        Err(RecordError::OtherFormat(other)) => assert_ne!(other, 1),
        Err(RecordError::Malformed) => {}
    }
}
