//! Reads the API server's clock from the `Date` header of each answer.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::DATE;
use http::{Request, Response};
use jiff::Timestamp;
use tower::{Layer, Service};

use crate::decide::clock::ServerClock;

/// Wraps a client in [`Clocked`].
#[derive(Clone, Debug)]
pub(super) struct ClockedLayer(pub(super) Arc<ServerClock>);

impl<S> Layer<S> for ClockedLayer {
    type Service = Clocked<S>;

    fn layer(&self, inner: S) -> Clocked<S> {
        Clocked { inner, clock: Arc::clone(&self.0) }
    }
}

/// A client that notes the time of its server.
#[derive(Clone, Debug)]
pub(super) struct Clocked<S> {
    inner: S,
    clock: Arc<ServerClock>,
}

impl<S, A, B> Service<Request<A>> for Clocked<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let clock = Arc::clone(&self.clock);
        let sent = Timestamp::now();
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await?;
            if let Some(date) = answer.headers().get(DATE).and_then(|date| date.to_str().ok()) {
                clock.observe_date(date, sent, Timestamp::now());
            }
            Ok(answer)
        }
        .boxed()
    }
}
