//! A page of a folder: the metadata of many secrets in one answer.

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
    /// What it says of the keys that are wanted. That a key is not among them says nothing of its
    /// secret: a policy can leave keys out without a word.
    pub found: Vec<(Box<str>, Metadata)>,
    /// How many keys it has.
    pub keys: usize,
    /// Its last key, after which the next page begins.
    pub last: Option<String>,
}

/// Reads the answer to `LIST <mount>/detailed-metadata/<folder>`. `now` is the present by the server's
/// clock.
pub fn read(
    answer: &Answer,
    now: Timestamp,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Page, Failure> {
    // What the decoder skips it does not look at: all of it is to be text.
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
        // One that cannot be read is asked for alone, and its trouble is its own.
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
        let live = Metadata::Live(crate::model::secret::Version { number: 2, created });
        let found: Vec<(Box<str>, Metadata)> = vec![
            ("a".into(), live),
            ("b".into(), Metadata::Deleted),
            // Written, and without a version yet.
            ("c".into(), Metadata::Missing),
            // Of the others nothing is said: what cannot be read, or was left out.
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
