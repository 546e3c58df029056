//! The addresses of Vault servers and proxies.

use std::path::PathBuf;

use reqwest::Url;

use super::environment::Environment;
use super::error::{ConfigError, error, error_without_value};

/// The start of the address of a Unix socket.
const SOCKET: &str = "unix://";

/// The longest path of a Unix socket, in bytes. Linux accepts no longer one.
const LONGEST_SOCKET: usize = 107;

/// Variables that have no effect on a Unix socket: TLS, proxies and redirects.
const NOT_WITH_SOCKET: [&str; 10] = [
    "CACERT",
    "CACERT_BYTES",
    "CAPATH",
    "CLIENT_CERT",
    "CLIENT_KEY",
    "TLS_SECRET",
    "TLS_SERVER_NAME",
    "PROXY_ADDR",
    "HTTP_PROXY",
    "REDIRECT_ADDRS",
];

/// The address of a server.
pub(super) struct ServerAddress {
    /// The URL of requests, without `/v1/`.
    pub(super) url: Url,
    /// The Unix socket that the requests are sent through.
    pub(super) socket: Option<PathBuf>,
}

/// Parses the address of a server: `https://HOST:PORT`, with a path if the server is behind one, or
/// `unix:///PATH`.
pub(super) fn server(name: &str, text: &str) -> Result<ServerAddress, ConfigError> {
    match text.strip_prefix(SOCKET) {
        None => Ok(ServerAddress { url: with_path(name, text)?, socket: None }),
        Some(path) => {
            let socket = Some(socket(name, text, path)?);
            // The official client sends the same host.
            Ok(ServerAddress { url: http(name, "http://localhost")?, socket })
        }
    }
}

fn socket(name: &str, text: &str, path: &str) -> Result<PathBuf, ConfigError> {
    if !path.starts_with('/') || path.ends_with('/') || path.contains(char::is_control) {
        return Err(error(name, text, "not the path of a socket; write unix:///PATH"));
    }
    if path.len() > LONGEST_SOCKET {
        let problem = format!("is longer than {LONGEST_SOCKET} bytes; move the socket");
        return Err(error(name, text, &problem));
    }
    Ok(path.into())
}

/// Refuses variables that have no effect because the address is a Unix socket. `name` is the variable
/// with the address.
pub(super) fn refuse_with_socket(env: &Environment<'_>, name: &str) -> Result<(), ConfigError> {
    let mut others: Vec<String> =
        NOT_WITH_SOCKET.iter().filter_map(|suffix| env.get(suffix)).map(|(name, _)| name).collect();
    for suffix in ["SKIP_VERIFY", "SRV_LOOKUP"] {
        if env.boolean(suffix)? {
            others.extend(env.get(suffix).map(|(name, _)| name));
        }
    }
    match others.first() {
        None => Ok(()),
        Some(other) => {
            let problem = format!("does not go with the Unix socket of {name}; remove one of them");
            Err(error_without_value(other, &problem))
        }
    }
}

/// Parses an address of HTTP that may have a path. Trailing slashes are removed.
pub(super) fn with_path(name: &str, text: &str) -> Result<Url, ConfigError> {
    let mut url = http(name, text)?;
    if url.query().is_some() || url.fragment().is_some() {
        let problem = "holds a query or a fragment; write https://HOST:PORT/PATH";
        return Err(error(name, text, problem));
    }
    let path = path_of(text).trim_end_matches('/');
    // The parser of URLs resolves `..` and decodes characters. A path that it reads differently from
    // a proxy would lead elsewhere.
    if path != url.path().trim_end_matches('/') || !path.split('/').skip(1).all(is_plain) {
        let problem = "holds a path with a part that is empty, `.` or `..`, or has a character other \
                       than letters, digits and -._~; write https://HOST:PORT/PATH";
        return Err(error(name, text, problem));
    }
    url.set_path(path);
    Ok(url)
}

/// Parses an address of HTTP without a path.
pub(super) fn without_path(name: &str, text: &str) -> Result<Url, ConfigError> {
    let url = http(name, text)?;
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(error(
            name,
            text,
            "holds a path, which is not supported; write https://HOST:PORT",
        ));
    }
    Ok(url)
}

/// Whether the text of an address names a port.
pub(super) fn has_port(text: &str) -> bool {
    let authority = authority_and_path(text).0;
    authority.rsplit(']').next().unwrap_or_default().contains(':')
}

fn http(name: &str, text: &str) -> Result<Url, ConfigError> {
    if text.contains('@') {
        return Err(error_without_value(name, "holds a user or a password; remove them"));
    }
    let url = Url::parse(text)
        .map_err(|_| error(name, text, "not an address; write https://HOST:PORT"))?;
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return Err(error(name, text, "not an address of HTTP; write https://HOST:PORT"));
    }
    Ok(url)
}

/// The path of an address as it is written.
fn path_of(text: &str) -> &str {
    authority_and_path(text).1
}

fn authority_and_path(text: &str) -> (&str, &str) {
    let rest = text.trim().split_once("://").map_or("", |(_, rest)| rest);
    rest.split_at(rest.find(['/', '\\']).unwrap_or(rest.len()))
}

fn is_plain(part: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    !part.is_empty() && part != "." && part != ".." && part.chars().all(is_plain)
}
