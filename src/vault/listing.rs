//! Reads a page of a folder: the metadata of many secrets in one answer.

use std::borrow::Cow;
use std::collections::HashMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::{Answer, failure_of};
use super::failure::Failure;
use super::metadata::{self, Metadata};
use crate::model::text::shorten;

/// A page of a folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The metadata of the wanted keys. A missing key says nothing about its secret, because a
    /// policy can omit keys silently.
    pub found: Vec<(Box<str>, Metadata)>,
    /// The number of keys in the page.
    pub keys: usize,
    /// The last key. The next page begins after it.
    pub last: Option<String>,
}

/// Reads the answer to `LIST <mount>/detailed-metadata/<folder>`. `now` is the present time of the
/// server's clock.
pub fn read(
    answer: &Answer,
    now: Timestamp,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Page, Failure> {
    // The JSON decoder does not check the parts that it skips, so check that the whole body is
    // UTF-8.
    let text = std::str::from_utf8(&answer.body).unwrap_or_default();
    if answer.status == 404 && metadata::is_bare_not_found(text) {
        return Ok(Page::default());
    }
    if let Some(failure) = failure_of(answer.status, &answer.body) {
        return Err(failure);
    }
    let Envelope { data } = serde_json::from_str(text)
        .map_err(|error| Failure::BadAnswer(shorten(&format!("list: {error}"))))?;
    let Data { keys, key_info } = data;
    let found = keys.iter().filter(|key| is_wanted(key)).filter_map(|key| {
        // A secret with unreadable metadata is read alone, and its error concerns that secret only.
        let metadata = metadata::of(key_info.get(key)?.get(), now).ok()?;
        Some((key.as_ref().into(), metadata))
    });
    Ok(Page {
        found: found.collect(),
        keys: keys.len(),
        last: keys.last().map(|key| key.clone().into_owned()),
    })
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    keys: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    key_info: HashMap<Cow<'a, str>, &'a RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(status: u16, body: &str) -> Result<Page, Failure> {
        let now = "2026-11-25T12:00:00Z".parse().unwrap();
        read(&Answer::new(status, body.as_bytes().to_vec()), now, |key| key != "other")
    }

    #[test]
    fn a_page_says_of_each_key_that_is_wanted_what_its_metadata_say() {
        let version = |number: u64, deleted: &str| {
            format!(
                r#"{{"current_version":{number},"versions":{{"{number}":{{"created_time":"2026-11-22T06:00:00Z","deletion_time":"{deleted}"}}}}}}"#
            )
        };
        let body = format!(
            r#"{{"data":{{"keys":["a","b","c","d","e","other","sub/"],"key_info":{{"a":{},"b":{},"c":{{"current_version":0,"versions":{{}}}},"d":{{"current_version":7}},"other":1,"sub/":{{}}}}}}}}"#,
            version(2, ""),
            version(1, "2026-11-23T06:00:00Z"),
        );
        let created = "2026-11-22T06:00:00Z".parse().unwrap();
        let version = crate::model::secret::Version { number: 2, created };
        let live = Metadata::Live(version, crate::model::reload_policy::ReloadPolicy::NONE);
        let found: Vec<(Box<str>, Metadata)> = vec![
            ("a".into(), live),
            ("b".into(), Metadata::Deleted),
            // The secret was created, and has no version yet.
            ("c".into(), Metadata::Missing),
            // The other keys are not found: their metadata are unreadable or were omitted.
        ];
        assert_eq!(page(200, &body), Ok(Page { found, keys: 7, last: Some("sub/".to_owned()) }));
    }

    #[test]
    fn what_is_no_page_is_told_from_an_empty_one() {
        assert_eq!(page(404, r#"{"errors":[]}"#), Ok(Page::default()));
        let table = [
            (404, r#"{"warnings":["Invalid path for a versioned K/V secrets engine"]}"#, "refused"),
            (403, r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#, "denied"),
            (200, r#"{"data":{"keys":["a"],"key_info":[]}}"#, "bad_answer"),
            (200, r#"{"data":{"current_version":1,"versions":{}}}"#, "bad_answer"),
            (200, "", "bad_answer"),
        ];
        for (status, body, reason) in table {
            let failure = page(status, body).unwrap_err();
            assert_eq!(failure.reason(), reason, "{status} {body}");
        }
    }
}
