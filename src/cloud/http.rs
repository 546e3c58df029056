//! The HTTP client for the servers of a cloud. Requests have time-outs, answers have a size limit,
//! redirects are not followed, and no proxy is used unless the settings name one.

use std::error::Error as _;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use reqwest::{Url, redirect};

use super::error::CloudError;
use crate::model::text::shorten;

/// The time-out of a request, with its answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest time to set up a connection. A metadata server is on the same machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest answer that is read, in bytes. Tokens and signed documents take a few thousand.
const LONGEST_ANSWER: usize = 256 << 10;

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
        let client = client().map_err(|error| self.unreachable(&error))?;
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
        match tokio::time::timeout(TIMEOUT, exchange).await {
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

    fn unreachable(&self, error: &reqwest::Error) -> CloudError {
        // The text of the error itself repeats the URL.
        let mut cause = error.source();
        while let Some(next) = cause.and_then(|cause| cause.source()) {
            cause = Some(next);
        }
        self.error(cause.map_or_else(|| "out of reach".to_owned(), ToString::to_string))
    }
}

/// Makes a client for one request. Logins are rare, and no connection needs to stay open.
fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT)
        .pool_max_idle_per_host(0)
        .build()
}
