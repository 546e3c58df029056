//! One request to an API over one connection: from `status` to the leader, or from another replica.
//!
//! Architecture Invariant: an answer that is too long is not held. The caller limits the time.

use std::future::poll_fn;
use std::pin::{Pin, pin};

use http::{Request, Response};
use http_body::Body as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// An exchange without a complete answer.
#[derive(Debug)]
pub(crate) enum ExchangeError {
    /// The connection failed or ended too early, or what came is not HTTP.
    Http(hyper::Error),
    /// The body of the answer is too long.
    TooLong,
}

impl From<hyper::Error> for ExchangeError {
    fn from(error: hyper::Error) -> Self {
        Self::Http(error)
    }
}

/// Sends a request over a connection, and reads the answer to its end. Its body may have up to
/// `longest` bytes.
pub(crate) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<String>,
    longest: usize,
) -> Result<Response<Vec<u8>>, ExchangeError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let (head, mut incoming) = sender.send_request(request).await?.into_parts();
        let mut body = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut incoming).poll_frame(context)).await
        {
            let Ok(data) = frame?.into_data() else { continue };
            if body.len() + data.len() > longest {
                return Err(ExchangeError::TooLong);
            }
            body.extend_from_slice(&data);
        }
        Ok(Response::from_parts(head, body))
    };
    let mut answer = pin!(answer);
    let mut connection = pin!(connection);
    // The answer is read while the connection is driven.
    tokio::select! {
        biased;
        result = &mut answer => return result,
        // The answer, or the error, is there when the connection has ended.
        _ = &mut connection => {}
    }
    answer.await
}
