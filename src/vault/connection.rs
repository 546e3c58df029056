//! The connection to a Vault server: its settings, and the HTTP client that is created from them.

use std::borrow::Cow;
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, HeaderMap, HeaderValue};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Identity, Proxy, Url, redirect, tls};

use super::headers::{Headers, HeadersError};
use super::limiter::RateLimit;
use super::tls::{Material, Tls, TlsFileError};

/// The longest time to set up a connection, unless the time-out of a request is shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a request is sent again after an error, unless a variable says otherwise. The official
/// client has the same default.
const DEFAULT_RETRIES: u32 = 2;

/// How a server is reached, and how its certificate is checked.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Scheme (`http` or `https`), host and port. The path, if there is one, precedes `/v1/` in all
    /// requests.
    pub address: Url,
    /// The Unix socket that requests are sent through. The address then is only the `Host` header.
    pub socket: Option<PathBuf>,
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
    /// Headers that are added to all requests.
    pub headers: Headers,
    /// The limit on the rate of requests.
    pub rate: Option<RateLimit>,
    /// How often a request of a poll is sent again after an error.
    pub retries: u32,
}

impl ServerSettings {
    /// Returns the settings of a server at an address, with a default for everything else.
    #[must_use]
    pub fn at(address: Url) -> Self {
        Self {
            address,
            socket: None,
            namespace: None,
            redirects: Some(Vec::new()),
            timeout: Duration::from_secs(10),
            proxy: None,
            tls: Tls::default(),
            headers: Headers::None,
            rate: None,
            retries: DEFAULT_RETRIES,
        }
    }

    /// Returns the address as the operator wrote it, for log lines.
    #[must_use]
    pub fn shown_address(&self) -> Cow<'_, str> {
        match &self.socket {
            Some(socket) => format!("unix://{}", socket.display()).into(),
            None => self.address.as_str().into(),
        }
    }

    /// The path that precedes `/v1/`, without a trailing slash; empty for most servers.
    pub(super) fn prefix(&self) -> &str {
        self.address.path().trim_end_matches('/')
    }

    /// Returns the URL of an API path, given without `v1/`.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.address.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path.split('/'));
        }
        url
    }
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
    /// The headers cannot be read.
    #[error("{0}")]
    Headers(#[from] HeadersError),
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

/// The present content of the files that the settings name.
#[derive(PartialEq, Eq)]
pub(super) struct Content {
    pub(super) material: Material,
    pub(super) headers: HeaderMap,
}

impl Content {
    /// Reads the files, and blocks while it reads.
    fn read(settings: &ServerSettings) -> Result<Self, ClientSetupError> {
        Ok(Self { material: settings.tls.read()?, headers: settings.headers.read()? })
    }
}

/// The HTTP client, and the files that it was created with.
pub(super) struct Connection {
    pub(super) http: reqwest::Client,
    pub(super) content: Arc<Content>,
    /// Why the present files cannot be used. A problem is logged only when it changes.
    pub(super) problem: Option<String>,
}

impl Connection {
    /// Creates a connection. Blocks while it reads the files.
    pub(super) fn new(settings: &ServerSettings) -> Result<Self, ClientSetupError> {
        Self::of(settings, Content::read(settings)?)
    }

    /// Reads the files, and returns a new connection if they differ from `before`. Blocks while it
    /// reads.
    pub(super) fn changed(
        settings: &ServerSettings,
        before: &Content,
    ) -> Result<Option<Self>, ClientSetupError> {
        let content = Content::read(settings)?;
        if content == *before {
            return Ok(None);
        }
        Self::of(settings, content).map(Some)
    }

    fn of(settings: &ServerSettings, content: Content) -> Result<Self, ClientSetupError> {
        let http = client(settings, &content)?;
        Ok(Self { http, content: Arc::new(content), problem: None })
    }
}

/// Creates the HTTP client of a server.
fn client(
    settings: &ServerSettings,
    content: &Content,
) -> Result<reqwest::Client, ClientSetupError> {
    let material = &content.material;
    let mut http = reqwest::Client::builder()
        .timeout(settings.timeout)
        .connect_timeout(CONNECT_TIMEOUT.min(settings.timeout))
        .redirect(redirect::Policy::none())
        // A proxy of the environment may be meant for other traffic, and would see the token.
        .no_proxy()
        .user_agent(concat!("vault-secrets-reloader/", env!("CARGO_PKG_VERSION")))
        .default_headers(content.headers.clone())
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
    if let Some(socket) = &settings.socket {
        http = http.unix_socket(socket.clone());
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
