//! The HTTP client of `status`. Requests have a time-out, answers have a size limit, and no
//! redirect is followed, because the token would go along.

use std::error::Error as _;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderValue};
use reqwest::{StatusCode, redirect};
use url::Url;

use super::error::{RequestError, StatusError};
use super::request::{Fetch, Query};
use crate::model::text::shorten;
use crate::status::api::Failure;

/// The time-out of a request, from the connection to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest answer that is read, in bytes.
const LONGEST: usize = 16 << 20;

/// A client for the API of a controller.
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
            .user_agent(concat!("vault-secrets-reloader/", env!("CARGO_PKG_VERSION")));
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

    fn refused(&self, status: StatusCode, body: &[u8]) -> RequestError {
        let status = status.as_u16();
        match serde_json::from_slice::<Failure>(body) {
            Ok(Failure { code, message }) => {
                RequestError::Refused { status, code, message: shorten(&message) }
            }
            Err(_) => RequestError::OtherServer { address: self.shown(), status },
        }
    }
}

impl Fetch for Client {
    async fn fetch(&self, query: &Query) -> Result<Vec<u8>, RequestError> {
        let mut request = self.http.get(url_of(&self.address, query));
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
        if status.is_success() { Ok(body) } else { Err(self.refused(status, &body)) }
    }
}

/// Returns the URL of a request.
fn url_of(address: &Url, query: &Query) -> Url {
    let mut url = address.clone();
    // The addresses of HTTP servers always have path segments.
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(["v1", query.endpoint]);
    }
    if !query.parameters.is_empty() {
        url.query_pairs_mut().extend_pairs(&query.parameters);
    }
    url
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_in_the_url() {
        let parameters =
            vec![("path", "secret/data/a b&c=d".to_owned()), ("namespace", String::new())];
        let query = Query { endpoint: "secret", parameters };
        for (address, expected) in [
            (
                "http://127.0.0.1:9180",
                "http://127.0.0.1:9180/v1/secret?path=secret%2Fdata%2Fa+b%26c%3Dd&namespace=",
            ),
            (
                "https://host/reloader/",
                "https://host/reloader/v1/secret?path=secret%2Fdata%2Fa+b%26c%3Dd&namespace=",
            ),
        ] {
            assert_eq!(url_of(&Url::parse(address).unwrap(), &query).as_str(), expected);
        }
        let query = Query { endpoint: "overview", parameters: Vec::new() };
        let address = Url::parse("http://127.0.0.1:9180").unwrap();
        assert_eq!(url_of(&address, &query).as_str(), "http://127.0.0.1:9180/v1/overview");
    }
}
