//! The HTTP client of `status --address`. Requests have a time-out, answers have a size limit, and no
//! redirect is followed, because the token would go along.

use std::error::Error as _;

use http::header::{AUTHORIZATION, HeaderValue};
use reqwest::redirect;
use url::Url;

use super::error::{RequestError, StatusError};
use super::request::{AGENT, Fetch, LONGEST, Query, TIMEOUT};
use crate::model::text::shorten;

/// A client for the API of a controller at an address.
pub(super) struct Client {
    http: reqwest::Client,
    address: Url,
    authorization: Option<HeaderValue>,
}

impl Client {
    /// Creates the client without sending a request.
    pub(super) fn new(
        address: Url,
        authorization: Option<HeaderValue>,
    ) -> Result<Self, StatusError> {
        let mut http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(redirect::Policy::none())
            // A proxy of the environment would see the token.
            .no_proxy()
            .user_agent(AGENT);
        if address.scheme() == "http" {
            // Without this, a client for plain HTTP fails on systems without CA files.
            http = http.tls_certs_only([]);
        }
        let http = http.build().map_err(|error| StatusError::Setup(cause_of(&error)))?;
        Ok(Self { http, address, authorization })
    }

    /// Returns the address for messages.
    fn shown(&self) -> String {
        self.address.as_str().trim_end_matches('/').to_owned()
    }

    fn failed(&self, error: &reqwest::Error) -> RequestError {
        if error.is_timeout() {
            RequestError::TimedOut(self.shown())
        } else {
            RequestError::Unreachable { address: self.shown(), cause: cause_of(error) }
        }
    }
}

impl Fetch for Client {
    async fn fetch(&self, query: &Query) -> Result<Vec<u8>, RequestError> {
        let mut request = self.http.get(query.url(&self.address));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let mut response = request.send().await.map_err(|error| self.failed(&error))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(&error))? {
            if body.len() + chunk.len() > LONGEST {
                return Err(RequestError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        RequestError::check(status, body, || self.shown())
    }
}

/// The innermost cause: "connection refused" rather than "error sending request".
fn cause_of(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(std::error::Error::source) {
        cause = Some(inner);
    }
    let cause = cause.map_or_else(|| "the connection failed".to_owned(), ToString::to_string);
    shorten(&cause)
}
