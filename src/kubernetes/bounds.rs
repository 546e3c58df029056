//! Limits on the answers of the API server. `kube` holds a whole answer in memory, and the
//! unfinished line of a watch, of any length. The bodies that `kube` reads end at these limits.
//!
//! Architecture Invariant: whatever answers in the place of the API server, no answer of unlimited
//! length is held, and no request is repeated without a pause.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::{FutureExt, Map};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{BoxError, Layer, Service};

/// The longest answer, and the longest line of a watch, in bytes. One object must fit: etcd stores
/// at most 1.5 MiB, and a character can take six bytes in JSON. The caller makes sure that a page
/// of a list fits: see [`is_too_long`].
const LONGEST: usize = 16 << 20;

/// The shortest duration of a watch. `kube` begins the next watch at once, so a server that ends
/// each watch would be asked without a pause. Errors are not delayed, since a pause follows them
/// anyway.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

/// An answer, or a line of a watch, is longer than the limit.
#[derive(Debug, thiserror::Error)]
#[error("the answer is longer than {} MiB", LONGEST >> 20)]
struct TooLong;

/// Whether an error came from an answer that was too long. The caller then asks for fewer objects
/// at a time.
pub(super) fn is_too_long(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        // The sources of an I/O error leave out the error that it wraps.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        error.is::<TooLong>() || wrapped.is_some_and(|error| is_too_long(error))
    })
}

/// Adds the limits to a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct BoundsLayer;

impl<S> Layer<S> for BoundsLayer {
    type Service = Bounds<S>;

    fn layer(&self, inner: S) -> Bounds<S> {
        Bounds { inner }
    }
}

/// A client with limited answers.
#[derive(Clone, Debug)]
pub(super) struct Bounds<S> {
    inner: S,
}

impl<S, R, B> Service<Request<R>> for Bounds<S>
where
    S: Service<Request<R>, Response = Response<B>>,
{
    type Response = Response<BoundedBody<B>>;
    type Error = S::Error;
    type Future = Map<
        S::Future,
        Box<dyn FnOnce(Result<Response<B>, S::Error>) -> Result<Self::Response, S::Error> + Send>,
    >;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let mut parameters = request.uri().query().unwrap_or_default().split('&');
        let is_watch = parameters.any(|parameter| parameter == "watch=true");
        self.inner.call(request).map(Box::new(move |answer| {
            answer.map(|answer| {
                // A refusal is an ordinary answer, and the caller reads it to its end.
                let is_watch = is_watch && answer.status().is_success();
                let not_before = is_watch.then(|| Instant::now() + SHORTEST_WATCH);
                answer.map(|body| BoundedBody::new(body, not_before))
            })
        }))
    }
}

/// A body that ends with an error once it is too long.
#[derive(Debug)]
pub(super) struct BoundedBody<B> {
    inner: B,
    /// The length since the beginning, or since the last end of a line of a watch.
    length: usize,
    /// For a watch, the earliest time of its end.
    not_before: Option<Instant>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<B> BoundedBody<B> {
    fn new(inner: B, not_before: Option<Instant>) -> Self {
        Self { inner, length: 0, not_before, pause: None }
    }

    /// Counts a piece of the body.
    fn take(&mut self, piece: &[u8]) -> Result<(), TooLong> {
        let line_end = piece.iter().rposition(|byte| *byte == b'\n');
        self.length = match line_end.filter(|_| self.not_before.is_some()) {
            Some(end) => piece.len() - end - 1,
            None => self.length + piece.len(),
        };
        if self.length > LONGEST { Err(TooLong) } else { Ok(()) }
    }
}

impl<B> Body for BoundedBody<B>
where
    B: Body<Error: Into<BoxError>, Data: AsRef<[u8]>> + Unpin,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = &mut *self;
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(context));
            return Poll::Ready(None);
        }
        match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
            Some(Ok(frame)) => {
                let counted = frame.data_ref().map_or(Ok(()), |data| this.take(data.as_ref()));
                Poll::Ready(Some(counted.map(|()| frame).map_err(Into::into)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            None => {
                let Some(time) = this.not_before.filter(|time| Instant::now() < *time) else {
                    return Poll::Ready(None);
                };
                ready!(this.pause.insert(Box::pin(sleep_until(time))).as_mut().poll(context));
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.not_before.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body as Plain;
    use futures::stream;
    use tower::service_fn;

    use super::*;

    /// Returns how much a client reads of an answer, and when the answer ended.
    async fn read(path: &'static str, body: Plain) -> (Result<usize, BoxError>, Duration) {
        let body = std::sync::Mutex::new(Some(body));
        let server = service_fn(move |_: Request<()>| {
            let body = body.lock().unwrap().take().unwrap();
            async move { Ok::<_, BoxError>(Response::new(body)) }
        });
        let mut client = BoundsLayer.layer(server);
        let began = Instant::now();
        let answer = client.call(Request::get(path).body(()).unwrap()).await.unwrap();
        let mut body = answer.into_body();
        let mut length = 0;
        while let Some(frame) = std::future::poll_fn(|c| Pin::new(&mut body).poll_frame(c)).await {
            match frame {
                Ok(frame) => length += frame.data_ref().map_or(0, axum::body::Bytes::len),
                Err(error) => return (Err(error), began.elapsed()),
            }
        }
        (Ok(length), began.elapsed())
    }

    /// Returns a body of pieces of one MiB each.
    fn pieces(count: usize, piece: &str) -> Plain {
        let piece = piece.repeat((1 << 20) / piece.len());
        Plain::from_stream(stream::iter((0..count).map(move |_| Ok::<_, BoxError>(piece.clone()))))
    }

    const LIST: &str = "/apis/apps/v1/deployments?limit=250";
    const WATCH: &str = "/apis/apps/v1/deployments?&watch=true&resourceVersion=1";

    #[tokio::test(start_paused = true)]
    async fn a_refused_watch_is_not_held_back() {
        let server = service_fn(|_: Request<()>| async {
            let refusal = Response::builder().status(403).body(Plain::from("{}")).unwrap();
            Ok::<_, BoxError>(refusal)
        });
        let began = Instant::now();
        let request = Request::get(WATCH).body(()).unwrap();
        let mut body = BoundsLayer.layer(server).call(request).await.unwrap().into_body();
        while std::future::poll_fn(|c| Pin::new(&mut body).poll_frame(c)).await.is_some() {}
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_an_end() {
        assert_eq!(read(LIST, pieces(16, "x")).await.0.unwrap(), LONGEST);
        for (path, piece) in [(LIST, "x"), (LIST, "x\n"), (WATCH, "x")] {
            let error = read(path, pieces(usize::MAX, piece)).await.0.unwrap_err();
            assert!(is_too_long(&*error), "{path}: {error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_may_be_of_any_length_if_its_lines_are_not() {
        let lines = pieces(40, &format!("{}\n", "x".repeat(4095)));
        assert_eq!(read(WATCH, lines).await.0.unwrap(), 40 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_ends_at_once_is_not_begun_anew_at_once() {
        assert_eq!(read(WATCH, Plain::empty()).await.1, SHORTEST_WATCH);
        assert_eq!(read(LIST, Plain::empty()).await.1, Duration::ZERO);
        let later = stream::once(async {
            tokio::time::sleep(SHORTEST_WATCH * 2).await;
            Ok::<_, BoxError>("x\n")
        });
        assert_eq!(read(WATCH, Plain::from_stream(later)).await.1, SHORTEST_WATCH * 2);
    }

    #[test]
    fn the_cause_is_found_however_it_is_wrapped() {
        let list = kube::Error::Service(Box::new(TooLong));
        assert!(is_too_long(&kube::runtime::watcher::Error::InitialListFailed(list)));
        let watch = kube::Error::Service(Box::new(TooLong));
        let watch = kube::Error::ReadEvents(std::io::Error::other(watch));
        assert!(is_too_long(&kube::runtime::watcher::Error::WatchFailed(watch)));
        assert!(!is_too_long(&kube::Error::ReadEvents(std::io::Error::other("another"))));
    }
}
