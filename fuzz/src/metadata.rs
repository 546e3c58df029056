//! KV v2 metadata. Input: the status, and after the first newline the body.

use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use vault_secrets_reloader::model::reload_policy::ReloadPolicy;
use vault_secrets_reloader::model::secret::Version;
use vault_secrets_reloader::vault::answer::Answer;
use vault_secrets_reloader::vault::metadata::{Metadata, read};

use crate::input::{first_line, now};

/// Asserts the properties that hold for any answer.
pub fn check(data: &[u8]) {
    let (status, body) = first_line(data);
    let Ok(status) = status.trim().parse() else { return };
    let seen = read(&Answer::new(status, body.to_vec()), now());
    let text = std::str::from_utf8(body).unwrap_or_default();
    let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
    assert!(is_json || seen.is_err(), "{seen:?} of what is no JSON");
    let Ok(value) = serde_json::from_str::<Value>(text) else { return };
    // Without duplicate keys, the JSON has only one reading.
    let seen = read(&Answer::new(status, value.to_string().into_bytes()), now()).ok();
    assert_eq!(seen, read_slowly(status, &value), "{status} {value}");
}

/// Returns the metadata of a well-formed answer, and `None` for any other answer.
fn read_slowly(status: u16, body: &Value) -> Option<Metadata> {
    let body = body.as_object()?;
    if status == 404 {
        let is_bare = body.get("errors")?.as_array()?.is_empty()
            && match body.get("warnings") {
                None | Some(Value::Null) => true,
                Some(warnings) => warnings.as_array()?.is_empty(),
            };
        return is_bare.then_some(Metadata::Missing);
    }
    if !(200..300).contains(&status) {
        return None;
    }
    let data = body.get("data")?.as_object()?;
    let current = data.get("current_version")?.as_u64()?;
    let nothing = Map::new();
    let versions = match data.get("versions")? {
        Value::Null => &nothing,
        versions => versions.as_object()?,
    };
    let mut latest = None;
    for (key, entry) in versions {
        let number: u64 = key.parse().ok()?;
        if number == 0 || number.to_string() != *key {
            return None;
        }
        let entry = Entry::of(entry)?;
        if latest.as_ref().is_none_or(|(highest, _)| number > *highest) {
            latest = Some((number, entry));
        }
    }
    let Some((number, entry)) = latest else {
        return (current == 0).then_some(Metadata::Missing);
    };
    if number != current {
        return None;
    }
    if entry.destroyed {
        return Some(Metadata::Destroyed);
    }
    if !entry.deletion_time.is_empty()
        && entry.deletion_time.parse::<jiff::Timestamp>().ok()? <= now()
    {
        return Some(Metadata::Deleted);
    }
    let created = entry.created_time.parse().ok()?;
    // Metadata of another form than texts by name say nothing.
    let custom = data.get("custom_metadata").and_then(Value::as_object);
    let custom = custom.filter(|custom| custom.values().all(Value::is_string));
    let entries = custom.into_iter().flatten();
    let entries = entries.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    Some(Metadata::Live(Version { number, created }, ReloadPolicy::of(entries)))
}

struct Entry<'a> {
    created_time: &'a str,
    deletion_time: &'a str,
    destroyed: bool,
}

impl<'a> Entry<'a> {
    fn of(entry: &'a Value) -> Option<Self> {
        let entry = entry.as_object()?;
        Some(Self {
            created_time: entry.get("created_time")?.as_str()?,
            deletion_time: entry.get("deletion_time").map_or(Some(""), Value::as_str)?,
            destroyed: entry.get("destroyed").map_or(Some(false), Value::as_bool)?,
        })
    }
}
