//! A page of a folder's metadata. Input: the status, and after the first newline the body.

use serde_json::{Value, json};
use vault_secrets_reloader::vault::answer::Answer;
use vault_secrets_reloader::vault::listing::{Page, read};
use vault_secrets_reloader::vault::metadata;

use crate::input::{first_line, now};

/// Asserts the properties that hold for any answer.
pub fn check(data: &[u8]) {
    let (status, body) = first_line(data);
    let Ok(status) = status.trim().parse() else { return };
    let page = |body: &[u8]| read(&Answer::new(status, body.to_vec()), now(), is_wanted);
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        assert!(page(body).is_err(), "it is no JSON");
        return;
    };
    // Without duplicate keys, the JSON has only one reading.
    let body = value.to_string();
    let Ok(Page { found, keys, last }) = page(body.as_bytes()) else { return };
    if status == 404 {
        assert!(found.is_empty() && keys == 0 && last.is_none());
        return;
    }
    let its = value["data"]["keys"].as_array().map_or(&[][..], Vec::as_slice);
    assert_eq!((keys, last.as_deref()), (its.len(), its.last().and_then(Value::as_str)));
    assert!(found.len() <= keys);
    for (key, seen) in found {
        assert!(is_wanted(&key) && its.contains(&json!(*key)), "{key:?}");
        // The page says the same as an answer about the secret alone.
        let alone = json!({ "data": value["data"]["key_info"][&*key] }).to_string();
        let alone = metadata::read(&Answer::new(200, alone.into_bytes()), now());
        assert_eq!(alone, Ok(seen), "{key:?}");
    }
}

fn is_wanted(key: &str) -> bool {
    !key.ends_with('/') && key != "other"
}
