//! The connection to a Vault server: its settings, and the HTTP client that is created from them.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, HeaderValue};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Identity, Proxy, Url, redirect, tls};

use super::tls::{Material, Tls, TlsFileError};

/// The longest time to set up a connection, unless the time-out of a request is shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The address of a server, and how its certificate is checked.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Scheme (`http` or `https`), host and port, without a path.
    pub address: Url,
    /// The Vault namespace of the login; `None` is the root namespace.
    pub namespace: Option<Arc<str>>,
    /// Other addresses that the server may redirect to, for example the nodes of a cluster. With
    /// `None`, no redirect is followed. The token is sent along with a redirected request, so a
    /// redirect to any other address is refused.
    pub redirects: Option<Vec<Url>>,
    /// The time-out of a request.
    pub timeout: Duration,
    /// The proxy for all requests.
    pub proxy: Option<Url>,
    /// The TLS settings.
    pub tls: Tls,
}

/// The client cannot be created from its settings.
#[derive(Debug, thiserror::Error)]
pub enum ClientSetupError {
    /// The CA is not valid PEM. The field is the variable that names the CA.
    #[error("{0} contains no PEM certificate")]
    Ca(&'static str),
    /// The client certificate or its key is not valid PEM.
    #[error("VAULT_CLIENT_CERT and VAULT_CLIENT_KEY contain no PEM certificate and key")]
    Identity,
    /// The proxy cannot be used.
    #[error("the proxy for Vault cannot be used: {0}")]
    Proxy(String),
    /// A file with a certificate or a key cannot be read.
    #[error("{0}")]
    File(#[from] TlsFileError),
    /// The files with certificates and keys cannot be read in time.
    #[error("the files with certificates cannot be read: {0}")]
    Files(#[from] std::io::Error),
    /// The certificates are PEM but not valid, or the client certificate does not match its key.
    #[error("{variables} cannot be used: {message}")]
    Certificates {
        /// The variables that the certificates come from.
        variables: String,
        /// The error.
        message: String,
    },
}

/// The HTTP client, and the certificates that it was created with.
pub(super) struct Connection {
    pub(super) http: reqwest::Client,
    pub(super) material: Arc<Material>,
    /// Why the present certificates cannot be used. A problem is logged only when it changes.
    pub(super) problem: Option<String>,
}

impl Connection {
    pub(super) fn new(
        settings: &ServerSettings,
        material: Material,
    ) -> Result<Self, ClientSetupError> {
        let http = client(settings, &material)?;
        Ok(Self { http, material: Arc::new(material), problem: None })
    }

    /// Reads the certificates, and returns a new connection if they differ from `before`. Blocks
    /// while it reads the files.
    pub(super) fn changed(
        settings: &ServerSettings,
        before: &Material,
    ) -> Result<Option<Self>, ClientSetupError> {
        let material = settings.tls.read()?;
        if material == *before {
            return Ok(None);
        }
        Self::new(settings, material).map(Some)
    }
}

/// Creates the HTTP client of a server.
fn client(
    settings: &ServerSettings,
    material: &Material,
) -> Result<reqwest::Client, ClientSetupError> {
    let mut http = reqwest::Client::builder()
        .timeout(settings.timeout)
        .connect_timeout(CONNECT_TIMEOUT.min(settings.timeout))
        .redirect(redirect::Policy::none())
        // A proxy of the environment may be meant for other traffic, and would see the token.
        .no_proxy()
        .user_agent(concat!("vault-secrets-reloader/", env!("CARGO_PKG_VERSION")))
        .tls_version_min(tls::Version::TLS_1_2)
        .tls_danger_accept_invalid_certs(settings.tls.skip_verify);
    if settings.address.scheme() == "http" {
        // Without this, a client for plain HTTP fails on systems without CA files.
        http = http.tls_certs_only([]);
    } else if let Some(ca) = &material.ca {
        let no_ca = || ClientSetupError::Ca(settings.tls.authority.variable());
        let certificates = Certificate::from_pem_bundle(ca).map_err(|_| no_ca())?;
        if certificates.is_empty() {
            return Err(no_ca());
        }
        http = http.tls_certs_only(certificates);
    }
    if let Some(identity) = &material.identity {
        let identity = Identity::from_pem(identity).map_err(|_| ClientSetupError::Identity)?;
        http = http.identity(identity);
    }
    if let Some(proxy) = &settings.proxy {
        let proxy = Proxy::all(proxy.clone()).map_err(|e| ClientSetupError::Proxy(cause_of(&e)))?;
        http = http.proxy(proxy);
    }
    if settings.tls.server_name.is_some()
        && let Some(host) = settings.address.host_str()
    {
        let host = host.trim_matches(['[', ']']).to_owned();
        http = http.dns_resolver(Arc::new(AddressesOf(host)));
    }
    http.build().map_err(|error| {
        let ca = material.ca.as_ref().map(|_| settings.tls.authority.variable());
        let identity = material.identity.as_ref().map(|_| "VAULT_CLIENT_CERT, VAULT_CLIENT_KEY");
        let variables: Vec<&str> = [ca, identity].into_iter().flatten().collect();
        let variables = if variables.is_empty() {
            "The certificates of the system".to_owned()
        } else {
            variables.join(", ")
        };
        ClientSetupError::Certificates { variables, message: cause_of(&error) }
    })
}

/// Puts the name that the certificate must have into the URL of a request, because TLS takes the
/// expected name from the URL. The address of the connection and the `Host` header stay the same.
pub(super) fn name_server(request: &mut reqwest::Request, name: &str) {
    let url = request.url();
    let host = url.host_str().unwrap_or_default();
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    if let Ok(host) = HeaderValue::from_str(&host) {
        request.headers_mut().insert(HOST, host);
    }
    // The configuration refuses names that no URL can have.
    let _ = request.url_mut().set_host(Some(name));
}

/// A resolver that returns the addresses of one host for every name.
struct AddressesOf(String);

impl Resolve for AddressesOf {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The innermost cause: "connection refused" rather than "error sending request".
pub(super) fn cause_of(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(std::error::Error::source) {
        cause = Some(inner);
    }
    cause.map_or_else(|| "the connection failed".to_owned(), ToString::to_string)
}
