//! Headers that the operator adds to all requests, for example the credential of a proxy in front
//! of Vault. Their values are secrets.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The most headers. An access proxy asks for one or two.
const MOST: usize = 32;

/// The longest value of a header, in bytes. Common servers and proxies refuse longer ones.
const LONGEST_VALUE: usize = 8 << 10;

/// The longest text that is read, in bytes. Common servers accept no more headers.
const LONGEST_TEXT: usize = 64 << 10;

/// The start of the headers that only the controller sets.
const OF_VAULT: &str = "x-vault-";

/// Headers that belong to one connection or to the form of a request or an answer.
const OF_CONNECTION: [&str; 13] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The source of the headers.
#[derive(Clone, Debug, Default)]
pub enum Headers {
    /// No headers are added.
    #[default]
    None,
    /// The headers themselves. All values are marked as sensitive, so that debug output omits them.
    Given(HeaderMap),
    /// A file with the headers. It is read again at run time, because credentials are replaced.
    File(PathBuf),
}

/// Headers that cannot be sent. The text never contains a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HeadersError(String);

impl Headers {
    /// Reads the present headers, and blocks while it reads a file: see [`crate::credentials::files`].
    pub fn read(&self) -> Result<HeaderMap, HeadersError> {
        let file = match self {
            Self::None => return Ok(HeaderMap::new()),
            Self::Given(headers) => return Ok(headers.clone()),
            Self::File(file) => file,
        };
        let of_file = |problem: &dyn std::fmt::Display| {
            HeadersError(format!("VAULT_HEADERS_FILE: {} {problem}", file.display()))
        };
        let text = read_to_end(file)
            .map_err(|problem| of_file(&format_args!("cannot be read: {problem}")))?;
        parse(&text).map_err(|problem| of_file(&problem))
    }
}

/// Parses headers as the official client does: a JSON object of names and texts.
pub fn parse(text: &str) -> Result<HeaderMap, HeadersError> {
    let refused = |problem: String| Err(HeadersError(problem));
    if text.len() > LONGEST_TEXT {
        return refused("is longer than 64 KiB; remove headers".to_owned());
    }
    let Ok(named) = serde_json::from_str::<BTreeMap<String, String>>(text) else {
        // The error of the decoder may contain a part of a value.
        return refused(
            "is not a JSON object of names and texts; write {\"NAME\": \"VALUE\"}".to_owned(),
        );
    };
    if named.len() > MOST {
        return refused(format!("has more than {MOST} headers; remove some"));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in named {
        let Ok(name) = name.parse::<HeaderName>() else {
            return refused("has a name that no header can have".to_owned());
        };
        let shown = name.as_str().to_owned();
        if shown.starts_with(OF_VAULT) {
            return refused(format!(
                "has the header {shown}, which only the controller sets; remove it"
            ));
        }
        if OF_CONNECTION.contains(&shown.as_str()) {
            return refused(format!(
                "has the header {shown}, which belongs to a single connection; remove it"
            ));
        }
        if value.len() > LONGEST_VALUE {
            return refused(format!("has a value of the header {shown} longer than 8 KiB"));
        }
        let text = Some(value).filter(|value| value.is_ascii());
        let Some(mut value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) else {
            return refused(format!(
                "has a value of the header {shown} that is not one line of printable ASCII"
            ));
        };
        value.set_sensitive(true);
        if headers.insert(name, value).is_some() {
            return refused(format!("has the header {shown} twice; remove one of them"));
        }
    }
    Ok(headers)
}

fn read_to_end(file: &Path) -> io::Result<String> {
    // Reading a pipe may never end.
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut text = String::new();
    // One byte more than allowed, so that a longer file is refused and not cut.
    File::open(file)?.take(LONGEST_TEXT as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_an_object_of_names_and_texts() {
        let headers =
            parse(r#"{"CF-Access-Client-Id": "id", "authorization": "Basic x"}"#).unwrap();
        assert_eq!(headers.len(), 2);
        assert_eq!(headers["cf-access-client-id"], "id");
        assert_eq!(headers["authorization"], "Basic x");
        assert!(headers.values().all(HeaderValue::is_sensitive));
        assert!(parse("{}").unwrap().is_empty());
    }

    #[test]
    fn headers_that_cannot_be_sent_are_refused_without_their_values() {
        let long = format!(r#"{{"a": "HIDDEN{}"}}"#, "x".repeat(LONGEST_VALUE));
        let longer = format!(r#"{{"a": "HIDDEN{}"}}"#, "x".repeat(LONGEST_TEXT));
        let many: Vec<String> =
            (0..=MOST).map(|number| format!(r#""a{number}": "HIDDEN""#)).collect();
        let many = format!("{{{}}}", many.join(","));
        for (text, expected) in [
            ("HIDDEN", "is not a JSON object"),
            (r#"["HIDDEN"]"#, "is not a JSON object"),
            (r#"{"a": ["HIDDEN"]}"#, "is not a JSON object"),
            (r#"{"a": 1}"#, "is not a JSON object"),
            (r#"{"a b": "HIDDEN"}"#, "a name that no header can have"),
            (r#"{"": "HIDDEN"}"#, "a name that no header can have"),
            (r#"{"X-Vault-Token": "HIDDEN"}"#, "x-vault-token, which only the controller sets"),
            (r#"{"x-vault-namespace": "HIDDEN"}"#, "which only the controller sets"),
            (r#"{"Host": "HIDDEN"}"#, "host, which belongs to a single connection"),
            (r#"{"Transfer-Encoding": "HIDDEN"}"#, "which belongs to a single connection"),
            (r#"{"a": "HIDDEN\n"}"#, "the header a that is not one line"),
            (r#"{"a": "HIDDEN\u00e4"}"#, "the header a that is not one line"),
            (r#"{"a": "HIDDEN", "A": "x"}"#, "the header a twice"),
            (&long, "longer than 8 KiB"),
            (&longer, "longer than 64 KiB"),
            (&many, "more than 32 headers"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:.40}: {error}");
            assert!(!error.contains("HIDDEN"), "{error}");
        }
    }

    #[test]
    fn a_file_is_read_as_it_is_now_and_named_in_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        let file = Headers::File(path.clone());
        let error = file.read().unwrap_err().to_string();
        assert!(error.starts_with("VAULT_HEADERS_FILE: ") && error.contains("cannot be read"));
        for value in ["one", "two"] {
            std::fs::write(&path, format!("{{\"a\": \"{value}\"}}\n")).unwrap();
            assert_eq!(file.read().unwrap()["a"], value);
        }
        std::fs::write(&path, "HIDDEN").unwrap();
        let error = file.read().unwrap_err().to_string();
        assert!(error.contains("is not a JSON object") && !error.contains("HIDDEN"), "{error}");
        std::fs::write(&path, " ".repeat(LONGEST_TEXT + 2)).unwrap();
        assert!(file.read().unwrap_err().to_string().contains("longer than 64 KiB"));
        let endless = Headers::File("/dev/zero".into());
        assert!(endless.read().unwrap_err().to_string().contains("it is no file"));
    }

    #[test]
    fn debug_output_holds_no_value() {
        let shown = format!("{:?}", Headers::Given(parse(r#"{"a": "HIDDEN"}"#).unwrap()));
        assert!(shown.contains('a') && !shown.contains("HIDDEN"), "{shown}");
    }
}
