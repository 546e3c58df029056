//! The HTTP client of the webhook. The URL, the headers and the CA are read from files for each
//! request, so that a mounted Secret can be replaced at any time.
//!
//! Architecture Invariant: the URL and the headers are secrets. An error names the host of the webhook
//! at most, and never a path, a query or a header. An answer is not logged either, because it may
//! repeat the path.

use std::error::Error as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Url, redirect, tls};

use super::template::Body;
use crate::credentials::files::Files;
use crate::vault::answer::retry_after;

/// The flags that name the files.
const URL_FLAG: &str = "--notification-url-file";
const HEADERS_FLAG: &str = "--notification-headers-file";
const CA_FLAG: &str = "--notification-ca-file";

/// The longest file with a URL or with headers, in bytes.
const LONGEST_FILE: u64 = 64 << 10;

/// The longest file with CA certificates, in bytes. The CAs of a system have 250 KB.
const LONGEST_CA: u64 = 1 << 20;

/// The time-out of a request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time to set up a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Headers that belong to the connection, and that the client sets.
const OWN_HEADERS: [&str; 6] =
    ["connection", "content-length", "host", "te", "transfer-encoding", "upgrade"];

/// The files that say where messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// The file with the URL.
    pub url_file: PathBuf,
    /// The file with headers, one `Name: value` a line.
    pub headers_file: Option<PathBuf>,
    /// The file with the CA certificates, in PEM. `None` means those of the system.
    pub ca_file: Option<PathBuf>,
}

/// A message was not sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// A file cannot be read.
    #[error("{flag} cannot be read: {message}")]
    File {
        /// The flag that names the file.
        flag: &'static str,
        /// The error.
        message: String,
    },
    /// The content of a file cannot be used.
    #[error("{flag}: {problem}")]
    Setting {
        /// The flag that names the file.
        flag: &'static str,
        /// The problem and the remedy, without the content.
        problem: String,
    },
    /// The webhook did not answer.
    #[error("{origin} is out of reach: {cause}")]
    Unreachable {
        /// Scheme, host and port of the webhook.
        origin: String,
        /// The error.
        cause: String,
    },
    /// The webhook did not answer in time.
    #[error("{origin} does not answer")]
    Timeout {
        /// Scheme, host and port of the webhook.
        origin: String,
    },
    /// The webhook redirects to another address.
    #[error("{origin} answers with a redirect ({status}), which is not followed. Correct the URL")]
    Redirect {
        /// Scheme, host and port of the webhook.
        origin: String,
        /// The HTTP status.
        status: u16,
    },
    /// The webhook refused the message.
    #[error("{origin} answers with the status {status}")]
    Status {
        /// Scheme, host and port of the webhook.
        origin: String,
        /// The HTTP status.
        status: u16,
        /// How long the webhook wants no requests.
        retry_after: Option<Duration>,
    },
}

impl SendError {
    /// Whether another attempt may succeed.
    pub(super) fn is_temporary(&self) -> bool {
        match self {
            Self::File { .. } | Self::Unreachable { .. } | Self::Timeout { .. } => true,
            Self::Setting { .. } | Self::Redirect { .. } => false,
            Self::Status { status, .. } => matches!(*status, 408 | 429 | 500..=599),
        }
    }

    /// How long the webhook wants no requests.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { status: 429 | 503, retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// A client for one webhook.
pub struct Client {
    settings: Arc<ClientSettings>,
    timeout: Duration,
    files: Files,
    connection: Option<Connection>,
}

/// The HTTP client, and what it was created for.
struct Connection {
    is_plain: bool,
    ca: Option<Vec<u8>>,
    http: reqwest::Client,
}

/// The content of the files.
struct Target {
    url: Url,
    headers: HeaderMap,
    ca: Option<Vec<u8>>,
}

impl Client {
    /// Returns a client without reading the files.
    #[must_use]
    pub fn new(settings: ClientSettings) -> Self {
        let settings = Arc::new(settings);
        Self { settings, timeout: TIMEOUT, files: Files::default(), connection: None }
    }

    /// Returns the client with another time-out.
    #[cfg(test)]
    pub(super) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Reads the files, and checks that they can be used. Sends nothing.
    pub async fn check(&mut self) -> Result<(), SendError> {
        let target = self.target().await?;
        self.connect(&target).await.map(drop)
    }

    /// Sends a body.
    pub(super) async fn post(&mut self, body: &Body) -> Result<(), SendError> {
        let target = self.target().await?;
        let http = self.connect(&target).await?;
        let Target { url, headers: others, .. } = target;
        let origin = url.origin().ascii_serialization();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(body.content_type));
        for (name, value) in &others {
            headers.insert(name, value.clone());
        }
        let sent = http.post(url).headers(headers).body(body.text.clone()).send().await;
        let response = match sent {
            Ok(response) => response,
            Err(error) if error.is_timeout() => return Err(SendError::Timeout { origin }),
            Err(error) => return Err(SendError::Unreachable { origin, cause: cause_of(&error) }),
        };
        let text =
            |name: HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok());
        let status = response.status();
        if status.is_success() {
            Ok(())
        } else if status.is_redirection() {
            Err(SendError::Redirect { origin, status: status.as_u16() })
        } else {
            let retry_after = text(RETRY_AFTER).and_then(|later| retry_after(later, text(DATE)));
            Err(SendError::Status { origin, status: status.as_u16(), retry_after })
        }
    }

    async fn target(&self) -> Result<Target, SendError> {
        let settings = Arc::clone(&self.settings);
        let read = self.files.read(move || Target::read(&settings)).await;
        read.unwrap_or_else(|error| Err(unreadable(URL_FLAG, &error)))
    }

    /// Returns the HTTP client for a target. The client is created again if the CA changed.
    async fn connect(&mut self, target: &Target) -> Result<reqwest::Client, SendError> {
        let is_plain = target.url.scheme() == "http";
        if let Some(Connection { http, .. }) = self
            .connection
            .as_ref()
            .filter(|known| known.is_plain == is_plain && known.ca == target.ca)
        {
            return Ok(http.clone());
        }
        let (timeout, ca) = (self.timeout, target.ca.clone());
        let created = self.files.read(move || Connection::new(is_plain, ca, timeout)).await;
        let connection = created.unwrap_or_else(|error| Err(unreadable(CA_FLAG, &error)))?;
        let http = connection.http.clone();
        self.connection = Some(connection);
        Ok(http)
    }
}

impl Connection {
    /// Creates an HTTP client, and blocks while it reads the CAs of the system.
    fn new(is_plain: bool, ca: Option<Vec<u8>>, timeout: Duration) -> Result<Self, SendError> {
        let mut http = reqwest::Client::builder()
            .timeout(timeout)
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .redirect(redirect::Policy::none())
            // A proxy of the environment may be meant for other traffic.
            .no_proxy()
            // Messages are rare.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("vault-secrets-reloader/", env!("CARGO_PKG_VERSION")))
            .tls_version_min(tls::Version::TLS_1_2);
        if is_plain {
            // Without this, a client for plain HTTP fails on systems without CA files.
            http = http.tls_certs_only([]);
        } else if let Some(ca) = &ca {
            let certificates = Certificate::from_pem_bundle(ca).unwrap_or_default();
            if certificates.is_empty() {
                return Err(setting(CA_FLAG, "the file contains no PEM certificate"));
            }
            http = http.tls_certs_only(certificates);
        }
        match http.build() {
            Ok(http) => Ok(Self { is_plain, ca, http }),
            Err(error) => Err(setting(CA_FLAG, &cause_of(&error))),
        }
    }
}

impl Target {
    /// Reads the files, and blocks while it reads.
    fn read(settings: &ClientSettings) -> Result<Self, SendError> {
        let ClientSettings { url_file, headers_file, ca_file } = settings;
        let url = url_of(&read_text(URL_FLAG, url_file)?)?;
        let headers = match headers_file {
            Some(file) => headers_of(&read_text(HEADERS_FLAG, file)?)?,
            None => HeaderMap::new(),
        };
        let ca = ca_file.as_ref().map(|file| read_file(CA_FLAG, file, LONGEST_CA));
        Ok(Self { url, headers, ca: ca.transpose()? })
    }
}

fn setting(flag: &'static str, problem: &str) -> SendError {
    SendError::Setting { flag, problem: problem.to_owned() }
}

fn unreadable(flag: &'static str, error: &std::io::Error) -> SendError {
    SendError::File { flag, message: error.to_string() }
}

fn read_file(flag: &'static str, file: &Path, longest: u64) -> Result<Vec<u8>, SendError> {
    let read = || {
        // Reading a pipe may never end.
        if !std::fs::metadata(file)?.is_file() {
            return Err(std::io::Error::other("it is no file"));
        }
        let mut content = Vec::new();
        // Reading one byte more shows that the file is too long.
        File::open(file)?.take(longest + 1).read_to_end(&mut content)?;
        Ok(content)
    };
    let content = read().map_err(|error| unreadable(flag, &error))?;
    if content.len() as u64 > longest {
        return Err(setting(flag, &format!("the file is longer than {longest} bytes")));
    }
    Ok(content)
}

fn read_text(flag: &'static str, file: &Path) -> Result<String, SendError> {
    let content = read_file(flag, file, LONGEST_FILE)?;
    String::from_utf8(content).map_err(|_| setting(flag, "the file is not UTF-8"))
}

/// Parses the URL of the webhook.
fn url_of(text: &str) -> Result<Url, SendError> {
    let wrong = || setting(URL_FLAG, "the file holds no URL; write https://HOST/PATH on one line");
    let text = text.trim();
    if text.contains(char::is_whitespace) {
        return Err(wrong());
    }
    let url = Url::parse(text).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(setting(URL_FLAG, "the URL in the file is neither https nor http"));
    }
    Ok(url)
}

/// Parses headers, one a line. Empty lines and lines that begin with `#` are left out.
fn headers_of(text: &str) -> Result<HeaderMap, SendError> {
    let mut headers = HeaderMap::new();
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong =
            |problem: &str| setting(HEADERS_FLAG, &format!("line {}: {problem}", index + 1));
        let (name, value) =
            line.split_once(':').ok_or_else(|| wrong("no header; write Name: value"))?;
        let name = HeaderName::from_bytes(name.trim().as_bytes())
            .map_err(|_| wrong("what is before the colon is not the name of a header"))?;
        if OWN_HEADERS.contains(&name.as_str()) {
            return Err(wrong("the controller sets this header; remove the line"));
        }
        let mut value = HeaderValue::from_str(value.trim())
            .map_err(|_| wrong("the value has characters that no header may have"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// The innermost cause, which does not repeat the URL: "connection refused" rather than "error sending
/// request for url".
fn cause_of(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(std::error::Error::source) {
        cause = Some(inner);
    }
    cause.map_or_else(|| "the connection failed".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notifications::listener::{Answer, Listener, SECRET};

    const BODY: &str = "{\"a\":\"ä\"}";

    fn body() -> Body {
        Body { content_type: "application/json", text: BODY.to_owned() }
    }

    /// Returns a client whose files are in a folder, which has to be kept.
    fn client(url: &str, headers: &str) -> (Client, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let (url_file, headers_file) = (folder.path().join("url"), folder.path().join("headers"));
        std::fs::write(&url_file, url).unwrap();
        std::fs::write(&headers_file, headers).unwrap();
        let settings = ClientSettings { url_file, headers_file: Some(headers_file), ca_file: None };
        (Client::new(settings).with_timeout(Duration::from_secs(30)), folder)
    }

    #[tokio::test]
    async fn a_body_is_sent_with_the_headers_of_the_file() {
        let (listener, server) = Listener::start([]).await;
        let headers = "# of the service\nAuthorization: Bearer secret\n\n content-type: text/x\n";
        let (mut client, _folder) = client(&format!("{}\n", listener.url()), headers);
        let sent = async { client.post(&body()).await };
        assert_eq!(listener.during(server, sent).await, Ok(()));
        let received = &listener.received()[0];
        assert_eq!((received.method.as_str(), received.body.as_str()), ("POST", BODY));
        assert!(received.path.contains(SECRET));
        let header = |name: &str| received.headers[name].to_str().unwrap();
        assert_eq!(header("authorization"), "Bearer secret");
        assert_eq!(header("content-type"), "text/x", "the file takes precedence");
        assert!(header("user-agent").starts_with("vault-secrets-reloader/"));
    }

    #[tokio::test]
    async fn files_are_read_again_for_each_request() {
        let (listener, server) = Listener::start([]).await;
        let (mut client, folder) = client("no URL", "");
        let sent = async {
            assert!(client.post(&body()).await.is_err());
            std::fs::write(folder.path().join("url"), listener.url()).unwrap();
            std::fs::write(folder.path().join("headers"), "a: 1").unwrap();
            client.post(&body()).await
        };
        assert_eq!(listener.during(server, sent).await, Ok(()));
        assert_eq!(listener.received()[0].headers["a"], "1");
    }

    #[tokio::test]
    async fn no_error_holds_the_path_of_the_url() {
        let (listener, server) =
            Listener::start([Answer::Status(404), Answer::Redirect, Answer::Wait, Answer::Hang])
                .await;
        let (mut client, _folder) = client(listener.url(), "");
        let mut errors = Vec::new();
        let sent = async {
            for _ in 0..3 {
                errors.extend(client.post(&body()).await.err());
            }
            client.timeout = Duration::from_millis(50);
            client.connection = None;
            errors.extend(client.post(&body()).await.err());
        };
        listener.during(server, sent).await;
        // The listener is gone.
        client.connection = None;
        errors.extend(client.post(&body()).await.err());
        let origin = listener.origin().to_owned();
        let retry_after = Some(Duration::from_secs(7));
        let SendError::Unreachable { cause, .. } = &errors[4] else { panic!("{errors:?}") };
        let expected = [
            SendError::Status { origin: origin.clone(), status: 404, retry_after: None },
            SendError::Redirect { origin: origin.clone(), status: 302 },
            SendError::Status { origin: origin.clone(), status: 429, retry_after },
            SendError::Timeout { origin: origin.clone() },
            SendError::Unreachable { origin, cause: cause.clone() },
        ];
        assert_eq!(errors, expected);
        assert_eq!(listener.received().len(), 4, "no redirect is followed");
        for error in errors {
            assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
        }
    }

    #[tokio::test]
    async fn files_that_cannot_be_used_are_named_without_their_content() {
        let good = "https://hooks.example/services/secret";
        let table = [
            ("", "", "--notification-url-file: the file holds no URL"),
            ("hooks.example/secret", "", "--notification-url-file: the file holds no URL"),
            ("https://a/secret https://b", "", "--notification-url-file: the file holds no URL"),
            ("ftp://hooks.example/secret", "", "neither https nor http"),
            ("file:///secret", "", "neither https nor http"),
            (good, "a: b\nsecret", "--notification-headers-file: line 2: no header"),
            (good, "se cret: b", "line 1: what is before the colon"),
            (good, "a: secret\u{7}", "line 1: the value has characters"),
            (good, "Host: secret", "line 1: the controller sets this header"),
        ];
        for (url, headers, expected) in table {
            let (client, _folder) = client(url, headers);
            let error = client.target().await.map(drop).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let (client, folder) = client(good, "");
        assert!(client.target().await.is_ok());
        std::fs::write(folder.path().join("url"), vec![b'a'; 65_537]).unwrap();
        let error = client.target().await.map(drop).unwrap_err().to_string();
        assert!(error.contains("longer than 65536 bytes"), "{error}");
        std::fs::remove_file(folder.path().join("url")).unwrap();
        let error = client.target().await.map(drop).unwrap_err();
        assert!(matches!(error, SendError::File { .. }) && error.is_temporary(), "{error}");
    }

    #[tokio::test]
    async fn a_ca_without_a_certificate_is_refused() {
        let (client, folder) = client("https://hooks.example/a", "");
        let ca_file = Some(folder.path().join("headers"));
        let mut client = Client::new(ClientSettings { ca_file, ..(*client.settings).clone() });
        let error = client.check().await.unwrap_err().to_string();
        assert_eq!(error, "--notification-ca-file: the file contains no PEM certificate");
    }
}
