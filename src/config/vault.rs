//! The configuration of the connection to a Vault server: address, proxy, TLS, Vault namespace.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;

use super::address::{self, ServerAddress};
use super::auth;
use super::cloud;
use super::environment::Environment;
use super::error::{ConfigError, error, error_without_value};
use super::proxy::is_exempt;
use super::requests;
use super::value::{duration, file_path};
use crate::model::secret::DEFAULT_CONNECTION;
use crate::references::servers::Address;
use crate::vault::connection::ServerSettings;
use crate::vault::login::Method;
use crate::vault::tls::{Authority, Identity, Tls};

/// The default address of the server.
const DEFAULT_ADDRESS: &str = "https://vault:8200";

/// The warning about a server whose certificate is not verified.
const NOT_VERIFIED: &str = "VAULT_SKIP_VERIFY is set: the certificate of Vault is not verified, \
                            so another server can pose as Vault and take the token";

/// A Vault server and the settings of its use.
#[derive(Debug)]
pub struct Connection {
    /// The name of the server: see [`VaultServer::name`].
    pub name: Arc<str>,
    /// How the server is reached.
    pub server: ServerSettings,
    /// The auth method that gives the controller a token.
    pub method: Method,
    /// The token is renewed when its remaining lifetime is no longer than this.
    pub threshold: Duration,
    /// The Kubernetes Secret that holds the CA of the server.
    pub ca_secret: Option<CaSecret>,
    /// Whether a missing secret holds no reload back.
    pub ignore_missing: bool,
}

impl Connection {
    /// Whether this is the default server. A fault in its settings keeps the process from starting.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self.name == *DEFAULT_CONNECTION
    }
}

/// A Kubernetes Secret that holds a CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaSecret {
    /// The namespace of the Secret.
    pub namespace: String,
    /// The name of the Secret.
    pub name: String,
}

/// Returns the settings of a server from its variables. `threshold` is the default renewal
/// threshold of its token.
pub(super) fn connection(
    name: &str,
    env: &Environment<'_>,
    threshold: Duration,
    warnings: &mut Vec<String>,
) -> Result<Connection, ConfigError> {
    let mut server = server(env, warnings)?;
    if env.get("AUTH_NAMESPACE").is_some() {
        server.namespace = namespace(env, "AUTH_NAMESPACE")?;
    }
    let own_threshold = env.get("TOKEN_RENEW_THRESHOLD");
    let own_threshold = own_threshold.map(|(name, text)| duration(&name, &text)).transpose()?;
    let method = auth::method(env, server.address.scheme() == "https")?;
    if let Method::Cloud(login) = &method {
        warnings.extend(cloud::warning(&login.identity).map(str::to_owned));
    }
    Ok(Connection {
        name: name.into(),
        method,
        server,
        threshold: own_threshold.unwrap_or(threshold),
        ca_secret: env.text("TLS_SECRET").map(|name| CaSecret {
            namespace: env.text("TLS_SECRET_NS").unwrap_or_else(|| "default".to_owned()),
            name,
        }),
        ignore_missing: env.boolean("IGNORE_MISSING_SECRETS")?,
    })
}

/// Returns the addresses that workloads may name for the server. With an agent, these are the
/// address of the agent and, if it is set, the address of the server behind the agent. Workloads
/// cannot name a Unix socket.
pub(super) fn addresses(env: &Environment<'_>) -> Vec<Address> {
    let agent = env.text("AGENT_ADDR");
    let address = env.text("ADDR").or_else(|| agent.is_none().then(|| DEFAULT_ADDRESS.to_owned()));
    [agent, address].into_iter().flatten().filter_map(|text| Address::parse(&text)).collect()
}

/// Returns how the server is reached, from its variables.
fn server(
    env: &Environment<'_>,
    warnings: &mut Vec<String>,
) -> Result<ServerSettings, ConfigError> {
    let (name, address) = env
        .get("AGENT_ADDR")
        .or_else(|| env.get("ADDR"))
        .unwrap_or_else(|| ("VAULT_ADDR".to_owned(), DEFAULT_ADDRESS.to_owned()));
    let ServerAddress { url, socket } = address::server(&name, &address)?;
    if socket.is_some() {
        address::refuse_with_socket(env, &name)?;
    } else {
        requests::refuse_srv_lookup(env, &address)?;
    }
    if url.path().ends_with("/v1") {
        warnings.push(format!(
            "{name} ends with /v1: requests go to {url}/v1/; remove it, unless Vault is behind such a \
             path"
        ));
    }
    let proxy = proxy(env, &url, socket.is_some(), warnings)?;
    let timeout = match env.get("CLIENT_TIMEOUT") {
        // The official client takes a bare number as seconds.
        Some((name, text)) => match text.parse() {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => duration(&name, &text)?,
        },
        None => Duration::from_secs(10),
    };
    let tls = tls(env, url.scheme() == "https", proxy.is_some())?;
    if tls.skip_verify {
        warnings.push(NOT_VERIFIED.to_owned());
    }
    // What a socket leads to cannot be reached in another way.
    let redirects = redirects(env, url.scheme())?.filter(|_| socket.is_none());
    let defaults = ServerSettings::at(url);
    Ok(ServerSettings {
        socket,
        namespace: namespace(env, "NAMESPACE")?,
        redirects,
        timeout,
        proxy,
        tls,
        headers: requests::headers(env)?,
        rate: requests::rate(env)?,
        retries: requests::retries(env, warnings)?.unwrap_or(defaults.retries),
        ..defaults
    })
}

/// Returns the proxy, and warns of a proxy for other traffic that would get the requests to Vault, too.
fn proxy(
    env: &Environment<'_>,
    url: &Url,
    is_socket: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<Url>, ConfigError> {
    let proxy = env.get("PROXY_ADDR").or_else(|| env.get("HTTP_PROXY"));
    if let Some((name, text)) = proxy {
        return address::without_path(&name, &text).map(Some);
    }
    let of_all = if url.scheme() == "https" { "HTTPS_PROXY" } else { "HTTP_PROXY" };
    let is_set = [of_all, &of_all.to_lowercase()].iter().any(|it| env.other(it).is_some());
    let is_listed = || {
        let listed = env.other("NO_PROXY").or_else(|| env.other("no_proxy"));
        listed.is_some_and(|listed| is_exempt(&listed, url))
    };
    if !is_socket && is_set && !is_listed() {
        warnings.push(format!(
            "{of_all} is set, but requests to Vault do not use it; to send them through a proxy, \
             set VAULT_PROXY_ADDR"
        ));
    }
    Ok(None)
}

/// Reads a Vault namespace. `None` means the root namespace.
pub(super) fn namespace(
    env: &Environment<'_>,
    suffix: &str,
) -> Result<Option<Arc<str>>, ConfigError> {
    let Some((name, text)) = env.get(suffix) else { return Ok(None) };
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(error(&name, &text, "not a namespace: printable ASCII is expected"));
    }
    Ok(Some(text.trim_matches('/')).filter(|name| !name.is_empty()).map(Arc::from))
}

/// Returns the other addresses that the server may redirect to; `None` if no redirect is followed.
fn redirects(env: &Environment<'_>, scheme: &str) -> Result<Option<Vec<Url>>, ConfigError> {
    let is_off = env.boolean("DISABLE_REDIRECTS")?;
    let Some((name, list)) = env.get("REDIRECT_ADDRS") else {
        return Ok((!is_off).then(Vec::new));
    };
    for (other, is_set) in
        [("DISABLE_REDIRECTS", is_off), ("TLS_SERVER_NAME", env.get("TLS_SERVER_NAME").is_some())]
    {
        if is_set {
            return Err(error_without_value(
                &name,
                &format!("does not go with VAULT_{other}; remove one of them"),
            ));
        }
    }
    let addresses = list.split(',').map(str::trim).filter(|text| !text.is_empty());
    let address = |text| match address::with_path(&name, text)? {
        url if url.scheme() == scheme => Ok(url),
        _ => Err(error(&name, text, &format!("must use {scheme}, as VAULT_ADDR does"))),
    };
    addresses.map(address).collect::<Result<_, _>>().map(Some)
}

fn tls(env: &Environment<'_>, is_tls: bool, has_proxy: bool) -> Result<Tls, ConfigError> {
    let server_name = env.get("TLS_SERVER_NAME");
    if let Some((name, text)) = &server_name {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if !text.chars().all(is_plain) || text.parse::<IpAddr>().is_ok() {
            return Err(error(name, text, "not the name of a host"));
        }
        if has_proxy {
            return Err(error(name, text, "does not go with VAULT_PROXY_ADDR; remove one of them"));
        }
    }
    Ok(Tls {
        authority: authority(env)?,
        identity: identity(env)?,
        server_name: server_name.map(|(_, name)| name).filter(|_| is_tls),
        skip_verify: env.boolean("SKIP_VERIFY")?,
    })
}

/// Returns the CA that verifies the server's certificate.
fn authority(env: &Environment<'_>) -> Result<Authority, ConfigError> {
    if let Some((name, file)) = env.get("CACERT") {
        return Ok(Authority::File(file_path(&name, &file)?.into()));
    }
    if let Some(bytes) = env.text("CACERT_BYTES") {
        return Ok(Authority::Bytes(bytes.into_bytes()));
    }
    Ok(env.text("CAPATH").map_or(Authority::System, |folder| Authority::Folder(folder.into())))
}

/// Returns the files of the client's certificate and key.
fn identity(env: &Environment<'_>) -> Result<Option<Identity>, ConfigError> {
    match (env.get("CLIENT_CERT"), env.get("CLIENT_KEY")) {
        (None, None) => Ok(None),
        (Some((cert_name, certificate)), Some((key_name, key))) => Ok(Some(Identity {
            certificate: PathBuf::from(file_path(&cert_name, &certificate)?),
            key: PathBuf::from(file_path(&key_name, &key)?),
        })),
        (Some((name, _)), None) => Err(error_without_value(&name, "VAULT_CLIENT_KEY is missing")),
        (None, Some((name, _))) => Err(error_without_value(&name, "VAULT_CLIENT_CERT is missing")),
    }
}
