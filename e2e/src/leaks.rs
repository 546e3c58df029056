//! Searches the log of a controller for credentials. No credential may be in the log, at any level.
//! The log of each controller of each scenario is searched at the end of the scenario.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::OnceLock;

use regex::Regex;

/// The suffixes of variables that hold a credential, or name a file with one.
const CREDENTIALS: [&str; 13] = [
    "TOKEN",
    "TOKEN_FILE",
    "TOKEN_PATH",
    "JWT_FILE",
    "SECRET_ID",
    "SECRET_ID_FILE",
    "PASSWORD",
    "PASSWORD_FILE",
    "HEADERS",
    "HEADERS_FILE",
    "SECRET_ACCESS_KEY",
    "NONCE",
    "NONCE_FILE",
];

/// The shortest credential that is searched for. A test may use a password such as `b`.
const SHORTEST: usize = 6;

/// Returns the parts of `log` that look like a token of either server, a JWT or a private key.
fn shapes(log: &str) -> impl Iterator<Item = &str> {
    static SHAPES: OnceLock<Option<Regex>> = OnceLock::new();
    let shapes = SHAPES.get_or_init(|| {
        let of_servers = r"\b(?:hv[sbr]\.[A-Za-z0-9_-]{20,}|[sbr]\.[A-Za-z0-9]{20,})";
        let others = r"\beyJ[A-Za-z0-9_-]{10,}\.|PRIVATE KEY";
        Regex::new(&format!("{of_servers}|{others}")).ok()
    });
    shapes.iter().flat_map(move |shapes| shapes.find_iter(log)).map(|found| found.as_str())
}

/// Returns the credentials in variables, or in files that they name. A part of a JWT also reveals
/// data, so each of its parts counts.
fn given(env: &BTreeMap<String, OsString>) -> Vec<String> {
    let mut given = Vec::new();
    for (name, value) in env {
        if CREDENTIALS.iter().any(|end| name.ends_with(end)) {
            let text = value.to_string_lossy();
            match std::fs::read_to_string(Path::new(value)) {
                Ok(content) => given.extend(content.trim().split('.').map(str::to_owned)),
                Err(_) => given.push(text.trim().to_owned()),
            }
        }
    }
    given.retain(|text| text.len() >= SHORTEST);
    given
}

/// Returns the lines of a log that hold a credential, whole or in part. The credentials are those
/// of `env`, and the `others`, which became known during the scenario.
pub(crate) fn find<'l>(
    log: &'l str,
    env: &BTreeMap<String, OsString>,
    others: &[String],
) -> Vec<&'l str> {
    let mut given = given(env);
    given.extend_from_slice(others);
    let is_leak = |line: &&str| {
        shapes(line).next().is_some() || given.iter().any(|secret| line.contains(secret))
    };
    log.lines().filter(is_leak).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str, value: &str) -> BTreeMap<String, OsString> {
        BTreeMap::from([(name.to_owned(), value.into())])
    }

    #[test]
    fn credentials_are_found_whatever_surrounds_them() {
        let nothing = BTreeMap::new();
        for text in [
            "token=hvs.CAESIJ1234567890abcdefghij",
            r#"{"client_token":"s.AbCdEfGhIjKlMnOpQrStUvWx"}"#,
            "jwt eyJhbGciOiJSUzI1NiIsImtpZCI6IiJ9.eyJhdWQi",
            "-----BEGIN RSA PRIVATE KEY-----",
        ] {
            let log = format!("before\nof {text} it\nafter");
            assert_eq!(find(&log, &nothing, &[]).len(), 1, "{text}");
        }
        assert_eq!(find("it was root-token", &env("BAO_TOKEN", "root-token"), &[]).len(), 1);
        assert_eq!(find("b 4f1c-99", &env("VAULT_SECRET_ID", "4f1c-99\n"), &[]).len(), 1);
        assert_eq!(find("b 4f1c-99", &nothing, &["4f1c-99".to_owned()]).len(), 1);
    }

    #[test]
    fn files_that_variables_name_are_looked_into() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter-2\n").unwrap();
        let path = file.path().to_string_lossy().into_owned();
        let env = env("VAULT_PASSWORD_FILE", &path);
        assert_eq!(find("hunter-2", &env, &[]), ["hunter-2"]);
        assert_eq!(find(&format!("no such file: {path}"), &env, &[]), [""; 0]);
    }

    #[test]
    fn what_operators_need_is_no_leak() {
        let lines = "auth/kubernetes/login\nsecret/data/mysql#MYSQL_PASSWORD\nService/vault-0.vault.svc\n\
                     https://vault.example.internal:8200";
        assert_eq!(find(lines, &env("VAULT_USERNAME", "mysql"), &[]), [""; 0]);
    }
}
