//! The addresses of services that get a credential.

use std::net::IpAddr;

use reqwest::Url;

use super::super::error::{ConfigError, error, error_without_value};

/// Parses the address of a service that gets a credential: HTTPS, or HTTP on this machine. `name` is
/// the variable, for the error.
pub(super) fn guarded(name: &str, text: &str) -> Result<Url, ConfigError> {
    let url = address(name, text)?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_local = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if url.scheme() != "https" && !is_local {
        return Err(error(name, text, "must use https: the service gets a credential"));
    }
    Ok(url)
}

/// Parses the address of a service, without a path.
pub(super) fn address(name: &str, text: &str) -> Result<Url, ConfigError> {
    if text.contains('@') {
        return Err(error_without_value(name, "holds a user or a password; remove them"));
    }
    let wrong = || error(name, text, "not an address; write https://HOST, without a path");
    let url = Url::parse(text).map_err(|_| wrong())?;
    let is_plain = ["http", "https"].contains(&url.scheme())
        && url.has_host()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none();
    if is_plain { Ok(url) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_goes_to_https_or_to_this_machine() {
        for text in [
            "https://iam.example.com",
            "https://iam.example.com:8443/",
            "http://127.0.0.1:8080",
            "http://[::1]:8080",
            "http://localhost",
        ] {
            assert!(guarded("A", text).is_ok(), "{text}");
        }
        for text in [
            "",
            "iam.example.com",
            "http://iam.example.com",
            "http://127.0.0.1.example.com",
            "ftp://iam.example.com",
            "https://iam.example.com/v1",
            "https://iam.example.com?a=b",
            "https://user:password@iam.example.com",
        ] {
            let problem = guarded("A", text).unwrap_err().to_string();
            assert!(problem.starts_with('A') && !problem.contains("password@"), "{problem}");
        }
        assert!(address("A", "http://metadata.example.com").is_ok());
    }
}
