//! The watch of the lease, opened again whenever it ends.
//!
//! Architecture Invariant: the watch is a hint. A waiting replica reads the lease itself if the
//! watch is silent. So a broken watch delays nothing for longer than a retry period or two.

use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use kube::Api;
use kube::api::{DynamicObject, WatchEvent, WatchParams};
use tokio::time::{Instant, sleep_until};

use super::super::client::{RequestError, in_time_of};
use crate::election::lease::Terms;

/// The longest pause between two attempts to open the watch. The pause begins with the retry
/// period, and doubles with each failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The watch may begin with any state: a state older than the known one is ignored.
const FROM_ANY: &str = "0";

type Events = BoxStream<'static, Result<WatchEvent<DynamicObject>, RequestError>>;

/// Watches one lease.
pub(super) struct LeaseWatch {
    api: Api<DynamicObject>,
    params: WatchParams,
    terms: Terms,
    events: Option<Events>,
    /// Whether the watch has shown something since it was opened.
    is_up: bool,
    failures: u32,
    not_before: Option<Instant>,
}

impl LeaseWatch {
    pub(super) fn new(api: Api<DynamicObject>, name: &str, terms: Terms) -> Self {
        let params = WatchParams::default().fields(&format!("metadata.name={name}"));
        Self { api, params, terms, events: None, is_up: false, failures: 0, not_before: None }
    }

    /// Whether the watch shows changes, as far as is known.
    pub(super) fn is_up(&self) -> bool {
        self.is_up
    }

    /// Opens the watch again after it missed a change.
    pub(super) fn renew(&mut self) {
        self.events = None;
        self.is_up = false;
    }

    /// Waits for the next event. After an error, the watch is opened again by the next call.
    pub(super) async fn next(&mut self) -> Result<WatchEvent<DynamicObject>, RequestError> {
        loop {
            if let Some(time) = self.not_before {
                sleep_until(time).await;
            }
            let events = self.events.take().unwrap_or_else(|| self.open());
            let event = self.events.insert(events).next().await;
            let event = event.map(|event| match event {
                Ok(WatchEvent::Error(status)) => Err(kube::Error::Api(status).into()),
                event => event,
            });
            match event {
                Some(Ok(event)) => {
                    self.is_up = true;
                    self.failures = 0;
                    self.not_before = None;
                    return Ok(event);
                }
                Some(Err(error)) => {
                    self.pause();
                    return Err(error);
                }
                // API servers end a watch after a while.
                None => self.pause(),
            }
        }
    }

    fn open(&self) -> Events {
        let (api, params) = (self.api.clone(), self.params.clone());
        let request_timeout = self.terms.longest_request();
        stream::once(async move {
            let events = in_time_of(request_timeout, api.watch(&params, FROM_ANY)).await?;
            Ok::<_, RequestError>(events.map_err(RequestError::from))
        })
        .try_flatten()
        .boxed()
    }

    fn pause(&mut self) {
        self.renew();
        let pause = self.terms.retry_period.saturating_mul(1 << self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + pause.min(LONGEST_PAUSE));
    }
}
