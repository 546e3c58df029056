//! The HTTP client of `status` without `--address`: each request goes over a forwarded port of the
//! leader's pod.
//!
//! Each request reads the Lease and has a connection of its own, so a new leader is found by the
//! next request.

use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue, USER_AGENT};
use http::{Request, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use url::Url;

use super::error::{RequestError, StatusError};
use super::request::{AGENT, Fetch, LONGEST, Query, TIMEOUT};
use crate::kubernetes::forward::LeaderFinder;
use crate::model::text::shorten;
use crate::status::exchange::{self, ExchangeError};

/// The address of the API in the pod. Without a token, the API accepts requests to `localhost`.
const ADDRESS: &str = "http://localhost";

/// A client for the API of the leader.
pub(super) struct ForwardedClient {
    leader: LeaderFinder,
    address: Url,
    authorization: Option<HeaderValue>,
}

impl ForwardedClient {
    /// Creates the client without sending a request.
    pub(super) fn new(
        leader: LeaderFinder,
        authorization: Option<HeaderValue>,
    ) -> Result<Self, StatusError> {
        let address = Url::parse(ADDRESS).map_err(|error| StatusError::Setup(error.to_string()))?;
        Ok(Self { leader, address, authorization })
    }
}

impl Fetch for ForwardedClient {
    async fn fetch(&self, query: &Query) -> Result<Vec<u8>, RequestError> {
        let request = request_of(&query.url(&self.address), self.authorization.as_ref())?;
        let mut port = self.leader.open().await?;
        let result = timeout(TIMEOUT, exchange(port.stream(), request)).await;
        match result {
            Ok(Ok((status, body))) => RequestError::check(status, body, || port.to_string()),
            Ok(Err(ExchangeError::TooLong)) => Err(RequestError::TooLong),
            Ok(Err(ExchangeError::Http(error))) => Err(port.unreachable(&error).into()),
            Err(_) => Err(port.silent().into()),
        }
    }
}

/// Returns the request for a URL. Only the path and the query of the URL are sent.
fn request_of(
    url: &Url,
    authorization: Option<&HeaderValue>,
) -> Result<Request<String>, RequestError> {
    let target = url
        .query()
        .map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let target: Uri = target.parse().map_err(|error: http::uri::InvalidUri| {
        RequestError::Unsendable(shorten(&error.to_string()))
    })?;
    let mut request = Request::new(String::new());
    *request.uri_mut() = target;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static("localhost"));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some(authorization) = authorization {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    Ok(request)
}

/// Sends a request over a connection, and reads the answer to its end.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<String>,
) -> Result<(StatusCode, Vec<u8>), ExchangeError> {
    let response = exchange::exchange(stream, request, LONGEST).await?;
    Ok((response.status(), response.into_body()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn request(parameters: Vec<(&'static str, String)>) -> Request<String> {
        let query = Query { endpoint: "secret", parameters };
        let token = HeaderValue::from_static("Bearer abc");
        request_of(&query.url(&Url::parse(ADDRESS).unwrap()), Some(&token)).unwrap()
    }

    /// Reads the head of a request.
    async fn head(stream: &mut DuplexStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// Sends a request to a server that answers by a text and closes the connection. Returns the
    /// head of the request, and the result.
    async fn ask(answer: &str) -> (String, Result<(StatusCode, Vec<u8>), ExchangeError>) {
        let (stream, mut server) = duplex(64);
        let serve = async move {
            let head = head(&mut server).await;
            // The client may have seen enough.
            let _ = server.write_all(answer.as_bytes()).await;
            head
        };
        let request = request(vec![("path", "secret/data/a b".to_owned())]);
        tokio::join!(serve, exchange(stream, request))
    }

    #[tokio::test]
    async fn a_request_is_sent_over_a_stream_and_answered() {
        let body = "x".repeat(100_000);
        for answer in [
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}"),
            format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            ),
        ] {
            let (head, result) = ask(&answer).await;
            let (status, found) = result.unwrap();
            assert_eq!((status.as_u16(), found.len()), (200, body.len()));
            assert!(head.starts_with("GET /v1/secret?path=secret%2Fdata%2Fa+b HTTP/1.1\r\n"));
            let head = head.to_ascii_lowercase();
            for line in ["\r\nhost: localhost\r\n", "\r\nauthorization: bearer abc\r\n"] {
                assert!(head.contains(line), "{head}");
            }
        }
    }

    #[tokio::test]
    async fn a_refusal_of_the_api_is_told() {
        for (status, code, remedy, is_transient) in [
            ("503 Service Unavailable", "notLeader", "", true),
            ("429 Too Many Requests", "tooManyRequests", "", true),
            ("401 Unauthorized", "unauthorized", ". Give a token with --token-file", false),
            ("403 Forbidden", "forbidden", ". Or give another token with --token-file", false),
        ] {
            let body = format!(r#"{{"code": "{code}", "message": "this is why"}}"#);
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
            let (status, body) = ask(&answer).await.1.unwrap();
            let error = RequestError::check(status, body, String::new).unwrap_err();
            assert_eq!(error.to_string(), format!("this is why{remedy}"));
            assert_eq!(error.is_transient(), is_transient, "{code}");
        }
    }

    #[tokio::test]
    async fn what_is_no_complete_answer_is_an_error() {
        for answer in
            ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", "SSH-2.0-OpenSSH_9.0\r\n\r\n"]
        {
            let result = ask(answer).await.1;
            assert!(matches!(result, Err(ExchangeError::Http(_))), "{answer:?}: {result:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_has_an_end() {
        let (stream, mut server) = duplex(1 << 20);
        let serve = async move {
            head(&mut server).await;
            let _ = server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let piece = vec![b'x'; 1 << 20];
            while server.write_all(&piece).await.is_ok() {}
        };
        let ((), result) = tokio::join!(serve, exchange(stream, request(Vec::new())));
        assert!(matches!(result, Err(ExchangeError::TooLong)), "{result:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_not_waited_for() {
        let (stream, _server) = duplex(1 << 20);
        assert!(timeout(TIMEOUT, exchange(stream, request(Vec::new()))).await.is_err());
    }

    #[test]
    fn a_name_that_fits_into_no_request_is_an_error() {
        let query = Query { endpoint: "secret", parameters: vec![("path", "x".repeat(1 << 17))] };
        let error = request_of(&query.url(&Url::parse(ADDRESS).unwrap()), None).unwrap_err();
        assert!(matches!(error, RequestError::Unsendable(_)), "{error}");
    }
}
