//! Credentials: given tokens, JWTs, secret ids and passwords. No credential is ever logged.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::files::Files;

/// The longest credential, in bytes. Batch tokens and projected tokens take a few thousand bytes,
/// and servers accept no header longer than this.
const LONGEST: usize = 64 << 10;

/// A given credential.
#[derive(Clone, Debug)]
pub enum Credential {
    /// The credential itself.
    Text(SecretString),
    /// A file that contains the credential. The file is read for each use, because its content may
    /// have been replaced.
    File(PathBuf),
}

/// A file contains no credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read.
    #[error("cannot read {what} {file}: {message}")]
    Unreadable {
        /// The kind of file, for messages.
        what: &'static str,
        /// The path of the file.
        file: String,
        /// The error.
        message: String,
    },
    /// The content of the file is not a credential.
    #[error("{what} {file} holds {expected}: one line of printable characters is expected")]
    NotOne {
        /// The kind of file, for messages.
        what: &'static str,
        /// The path of the file.
        file: String,
        /// What is missing in the file.
        expected: &'static str,
    },
}

impl Credential {
    /// Reads the present credential. `what` names the kind of file in errors, for example "the file
    /// of the secret id".
    pub(crate) async fn read(
        &self,
        files: &Files,
        what: &'static str,
    ) -> Result<SecretString, CredentialError> {
        let file = match self {
            Self::Text(text) => return Ok(text.clone()),
            Self::File(file) => file,
        };
        let content = content_of(files, what, file).await?;
        // Editors and `echo` end a file with a newline, an agent does not. Spaces may be part of a
        // password.
        let line = content.trim_end_matches(['\r', '\n']);
        if is_line(line) {
            Ok(line.into())
        } else {
            Err(invalid_content(what, file, "no credential"))
        }
    }
}

/// Reads a token or a JWT from a file.
pub(crate) async fn read_token(
    files: &Files,
    what: &'static str,
    file: &Path,
) -> Result<SecretString, CredentialError> {
    let content = content_of(files, what, file).await?;
    let token = content.trim();
    if is_token(token) { Ok(token.into()) } else { Err(invalid_content(what, file, "no token")) }
}

fn invalid_content(what: &'static str, file: &Path, expected: &'static str) -> CredentialError {
    CredentialError::NotOne { what, file: file.display().to_string(), expected }
}

async fn content_of(
    files: &Files,
    what: &'static str,
    file: &Path,
) -> Result<String, CredentialError> {
    let path = file.to_owned();
    let content = files.read(move || read_to_end(&path)).await.flatten();
    content.map_err(|error| CredentialError::Unreadable {
        what,
        file: file.display().to_string(),
        message: error.to_string(),
    })
}

fn read_to_end(file: &Path) -> io::Result<String> {
    // Reading a pipe may never end.
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut content = String::new();
    // A file without an end, which is not a credential, must not be read for ever.
    File::open(file)?.take(LONGEST as u64 + 2).read_to_string(&mut content)?;
    Ok(content)
}

/// Returns whether a text can be the value of a header. `vaultrs` panics on a text that cannot.
pub(crate) fn is_token(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Returns whether a text is a single line, as the body of a request requires.
pub(crate) fn is_line(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && !text.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_of_printable_characters() {
        assert!(is_token("hvs.CAESI"));
        assert!(is_token(&"x".repeat(LONGEST)) && !is_token(&"x".repeat(LONGEST + 1)));
        for text in ["", "a b", "a\nb", "a\r", "ä", "\u{0}"] {
            assert!(!is_token(text), "{text:?}");
        }
    }

    #[test]
    fn a_password_may_hold_more_than_a_token() {
        assert!(is_line("correct horse ä") && is_line(&"x".repeat(LONGEST)));
        for text in ["", "a\nb", "a\r", "\u{0}", &"x".repeat(LONGEST + 1)] {
            assert!(!is_line(text), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_file_is_read_anew_each_time_and_never_without_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        let given = Credential::File(file.clone());
        let files = Files::default();
        for (content, expected) in [
            ("one\n", Some("one")),
            ("two\r\n", Some("two")),
            (" with spaces ", Some(" with spaces ")),
            ("a\nb", None),
            ("", None),
            (&*"x".repeat(LONGEST + 3), None),
        ] {
            std::fs::write(&file, content).unwrap();
            let read = given.read(&files, "the file").await;
            let read = read.map(|secret| secrecy::ExposeSecret::expose_secret(&secret).to_owned());
            assert_eq!(read.as_deref().ok(), expected, "{content:.20}");
        }
        std::fs::write(&file, "a\nb").unwrap();
        let error = given.read(&files, "the file").await.unwrap_err().to_string();
        assert!(
            error.ends_with("holds no credential: one line of printable characters is expected")
        );
        let endless = Credential::File("/dev/zero".into());
        let error = endless.read(&files, "the file").await.unwrap_err();
        assert_eq!(error.to_string(), "cannot read the file /dev/zero: it is no file");
        folder.close().unwrap();
        let error = given.read(&files, "the password file").await.unwrap_err().to_string();
        assert!(error.starts_with("cannot read the password file "), "{error}");
    }

    #[test]
    fn debug_output_holds_no_credential() {
        let given = Credential::Text(SecretString::from("hvs.SECRET"));
        assert!(!format!("{given:?}").contains("SECRET"));
    }
}
