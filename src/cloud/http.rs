//! The HTTP clients for the servers of clouds. Requests have time-outs, answers have a size limit,
//! redirects are not followed, and no proxy is used.

use std::error::Error as _;
use std::sync::OnceLock;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use reqwest::{Url, redirect};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::error::CloudError;
use crate::model::text::shorten;

/// The time-out of a request, with its answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest time to set up a connection. A metadata server is on the same machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest answer that is read, in bytes. Tokens and signed documents take a few thousand.
const LONGEST_ANSWER: usize = 256 << 10;

/// The client for plain HTTP.
static PLAIN: OnceLock<reqwest::Client> = OnceLock::new();

/// The client for HTTPS.
static TLS: OnceLock<reqwest::Client> = OnceLock::new();

/// A service of a cloud.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// The name, for errors.
    pub(crate) name: &'static str,
    /// The address, without the path of a request.
    pub(crate) address: Url,
}

/// An answer of a service. Its body may be secret.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Service {
    /// Returns the error about this service.
    pub(crate) fn error(&self, problem: impl AsRef<str>) -> CloudError {
        CloudError::Service {
            service: self.name,
            address: self.address.origin().ascii_serialization(),
            problem: shorten(problem.as_ref()),
        }
    }

    /// Returns the URL of a path and a query at this service.
    pub(crate) fn url(&self, path: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.address.clone();
        url.set_path(&format!("{}{path}", self.address.path().trim_end_matches('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// Sends a request, and returns an answer of any status.
    pub(crate) async fn send(&self, request: reqwest::Request) -> Result<Answer, CloudError> {
        let client = self.client().await?;
        let exchange = async {
            let mut response = client.execute(request).await?;
            let (status, headers) = (response.status(), response.headers().clone());
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                if body.len() + chunk.len() > LONGEST_ANSWER {
                    return Ok(None);
                }
                body.extend_from_slice(&chunk);
            }
            Ok(Some(Answer { status, headers, body }))
        };
        match timeout(TIMEOUT, exchange).await {
            Err(_) => Err(self.error("does not answer")),
            Ok(Err(error)) => Err(self.unreachable(&error)),
            Ok(Ok(None)) => Err(self.error("its answer is too long")),
            Ok(Ok(Some(answer))) => Ok(answer),
        }
    }

    /// Sends a request, and returns the body of a successful answer.
    pub(crate) async fn read(&self, request: reqwest::Request) -> Result<Vec<u8>, CloudError> {
        let answer = self.send(request).await?;
        if answer.status.is_success() {
            Ok(answer.body)
        } else {
            Err(self.error(format!("answers with the status {}", answer.status.as_u16())))
        }
    }

    /// Returns the client for the scheme of the address. The first request creates it.
    async fn client(&self) -> Result<reqwest::Client, CloudError> {
        let is_tls = self.address.scheme() == "https";
        let created = if is_tls { &TLS } else { &PLAIN };
        if let Some(client) = created.get() {
            return Ok(client.clone());
        }
        let client = if is_tls {
            // This reads the CAs of the system, which blocks.
            let creation = spawn_blocking(|| create_client(true));
            let Ok(Ok(client)) = timeout(TIMEOUT, creation).await else {
                return Err(self.error("the CAs of the system cannot be read in time"));
            };
            client
        } else {
            create_client(false)
        };
        let client = client.map_err(|error| self.unreachable(&error))?;
        Ok(created.get_or_init(|| client).clone())
    }

    fn unreachable(&self, error: &reqwest::Error) -> CloudError {
        // The text of the error itself repeats the URL.
        let mut cause = error.source();
        while let Some(next) = cause.and_then(|cause| cause.source()) {
            cause = Some(next);
        }
        self.error(cause.map_or_else(|| "out of reach".to_owned(), ToString::to_string))
    }
}

/// Creates a client. Logins are rare, so no connection stays open between requests.
fn create_client(is_tls: bool) -> reqwest::Result<reqwest::Client> {
    let mut client = reqwest::Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT)
        .pool_max_idle_per_host(0);
    if !is_tls {
        // Without this, a client for plain HTTP fails on systems without CA files.
        client = client.tls_certs_only([]);
    }
    client.build()
}

#[cfg(test)]
mod tests {
    use super::super::stand_in::{StandIn, answer_of};
    use super::*;

    #[tokio::test]
    async fn the_client_of_a_scheme_is_created_once() {
        let server = StandIn::start().await;
        let service = Service { name: "the service", address: server.address() };
        let request = || reqwest::Request::new(http::Method::GET, service.url("/", &[]));
        let answers = [answer_of("200 OK", "", "a"), answer_of("200 OK", "", "b")];
        let (bodies, _) = server
            .answer(&answers, async {
                let first = service.read(request()).await;
                assert!(PLAIN.get().is_some());
                (first.unwrap(), service.read(request()).await.unwrap())
            })
            .await;
        assert_eq!(bodies, (b"a".to_vec(), b"b".to_vec()));

        let mut address = server.address();
        address.set_scheme("https").unwrap();
        let service = Service { name: "the service", address };
        service.client().await.unwrap();
        assert!(TLS.get().is_some());
    }
}
