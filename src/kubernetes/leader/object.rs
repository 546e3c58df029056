//! The Lease as an object: which fields are read, and which are written.
//!
//! Architecture Invariant: any content that others wrote can be read, and stays beside the fields
//! that the controller writes. Times stay text, since the API server accepts times that the
//! controller cannot parse.

use kube::api::DynamicObject;
use serde_json::{Map, Value, json};

use crate::election::lease::Record;

/// The longest part of a holder's name that is logged, in characters. Anybody who may write the
/// lease chooses that name.
const LONGEST_NAME: usize = 200;

/// Returns the name of a holder for a log line.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(LONGEST_NAME).collect()
}

pub(super) fn version_of(object: &DynamicObject) -> String {
    object.metadata.resource_version.clone().unwrap_or_default()
}

/// Returns the record of a lease. Malformed fields count as absent.
pub(super) fn read(data: &Value) -> Record {
    let field = |name: &str| data.get("spec").and_then(|spec| spec.get(name));
    let text = |name: &str| field(name).and_then(Value::as_str).map(Box::from);
    let number = |name: &str| field(name).and_then(Value::as_i64);
    Record {
        holder: text("holderIdentity").unwrap_or_default(),
        duration: number("leaseDurationSeconds"),
        acquired: text("acquireTime"),
        renewed: text("renewTime"),
        transitions: number("leaseTransitions").unwrap_or_default(),
    }
}

/// Returns the object's data with its record replaced by `record`.
pub(super) fn written(data: Value, record: &Record) -> Value {
    let mut data = match data {
        Value::Object(data) => data,
        _ => Map::new(),
    };
    let mut spec = match data.remove("spec") {
        Some(Value::Object(spec)) => spec,
        _ => Map::new(),
    };
    let Record { holder, duration, acquired, renewed, transitions } = record;
    for (name, value) in [
        ("holderIdentity", json!(holder)),
        ("leaseDurationSeconds", json!(duration)),
        ("acquireTime", json!(acquired)),
        ("renewTime", json!(renewed)),
        ("leaseTransitions", json!(transitions)),
    ] {
        spec.insert(name.to_owned(), value);
    }
    data.insert("spec".to_owned(), Value::Object(spec));
    Value::Object(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_leases_are_read_as_far_as_they_can_be() {
        let table = [
            (Value::Null, Record::default()),
            (json!({}), Record::default()),
            (json!({ "spec": null }), Record::default()),
            (json!({ "spec": ["x"] }), Record::default()),
            (json!({ "spec": { "holderIdentity": null } }), Record::default()),
            (
                json!({ "spec": {
                    "holderIdentity": 7, "leaseDurationSeconds": "15", "renewTime": 1,
                    "leaseTransitions": 1.5,
                } }),
                Record::default(),
            ),
            (
                json!({ "spec": {
                    "holderIdentity": "b", "leaseDurationSeconds": -1, "leaseTransitions": 3,
                    "renewTime": "9999-12-31T23:59:59.999999Z",
                } }),
                Record {
                    holder: "b".into(),
                    duration: Some(-1),
                    acquired: None,
                    renewed: Some("9999-12-31T23:59:59.999999Z".into()),
                    transitions: 3,
                },
            ),
        ];
        for (data, record) in table {
            assert_eq!(read(&data), record, "{data}");
            // Whatever the old data was, the written record can be read.
            let mine = Record { holder: "a".into(), duration: Some(15), ..Record::default() };
            assert_eq!(read(&written(data, &mine)), mine);
        }
    }

    #[test]
    fn what_others_wrote_beside_it_stays() {
        let data = json!({ "spec": { "holderIdentity": "b", "preferredHolder": "c" }, "x": 1 });
        let mine = Record { holder: "a".into(), ..Record::default() };
        let data = written(data, &mine);
        assert_eq!(data["x"], 1);
        assert_eq!(data["spec"]["preferredHolder"], "c");
        assert_eq!(data["spec"]["holderIdentity"], "a");
    }
}
