//! Watches that never end: lists in pages followed by a watch, begun again after every failure.
//!
//! Architecture Invariant: whatever answers in the place of the API server, a watch neither ends
//! nor hangs, and it repeats no request without a pause.

use std::borrow::Cow;
use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, error, info};

use super::bounds::is_too_long;
use crate::heartbeat::Heartbeat;
use crate::model::text::shorten;

/// The worker name in log lines.
pub(super) const WORKER: &str = "collector";

/// Objects per page of a list. A page is held in memory as a whole, at about 3 kB an object. If a
/// page is too long for the client, the list begins again with a quarter of the objects. A page of
/// one object always fits. Each list that ends multiplies the page size by four, up to this limit.
const PAGE: u32 = 250;

/// A list that shows nothing for this time begins again: its server is gone, or hangs.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// The limits of a list, in time and in objects. A longer list is given up, and begun again later.
/// Ten thousand workloads take seconds. Kubernetes is designed for clusters of 150,000 pods.
const LONGEST_LIST: Duration = Duration::from_mins(10);
const MOST_OBJECTS: u32 = 200_000;

/// The pause after an error: doubled from the first to the last of these.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// After this time without an error, the back-off begins again.
const QUIET: Duration = Duration::from_mins(1);

/// A watch of all objects of a resource.
pub(super) struct Watching<K> {
    /// What is watched, in log lines: the resource as in RBAC rules, and its namespace if there is one.
    resource: Cow<'static, str>,
    /// All objects are listed again after this time.
    sync_period: Duration,
    api: Api<K>,
    /// Only the objects that this label selector selects are watched.
    labels: Option<String>,
    heartbeat: Heartbeat,
    events: Option<Open<K>>,
    page: u32,
    is_failing: bool,
    is_denied: bool,
    /// Since when the API server denies each attempt.
    denied_since: Option<Instant>,
    failures: u32,
    last_failure: Option<Instant>,
    pause: Option<Instant>,
    /// When a list was requested last.
    last_asked: Option<Instant>,
}

/// The stream of one list and the watch after it.
struct Open<K> {
    events: BoxStream<'static, watcher::Result<Event<K>>>,
    /// The list in progress.
    list: Option<ListSoFar>,
    /// When all objects are listed again.
    end: Instant,
    /// When the stream last showed something.
    heard: Instant,
}

impl<K> Watching<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    /// Makes a watch of the objects of an API. `resource` names them in log lines.
    pub(super) fn new(
        api: Api<K>,
        resource: impl Into<Cow<'static, str>>,
        sync_period: Duration,
    ) -> Self {
        Self {
            resource: resource.into(),
            sync_period,
            api,
            labels: None,
            heartbeat: Heartbeat::default(),
            events: None,
            page: PAGE,
            is_failing: false,
            is_denied: false,
            denied_since: None,
            failures: 0,
            last_failure: None,
            pause: None,
            last_asked: None,
        }
    }

    /// Returns the same watch, which reports its progress to `heartbeat`.
    pub(super) fn with_heartbeat(self, heartbeat: Heartbeat) -> Self {
        Self { heartbeat, ..self }
    }

    /// Returns the same watch, of the objects that a label selector selects.
    pub(super) fn with_labels(self, selector: String) -> Self {
        Self { labels: Some(selector), ..self }
    }

    /// Lists all objects again: at once, unless a list was requested within the last minute.
    pub(super) fn list_soon(&mut self) {
        let begin = self.last_asked.map_or_else(Instant::now, |last| last + QUIET);
        if let Some(open) = &mut self.events {
            open.end = open.end.min(begin.max(Instant::now()));
            self.last_asked = Some(open.end);
        }
    }

    /// Whether the watch shows nothing at present, since the API server refuses or fails.
    pub(super) fn is_failing(&self) -> bool {
        self.is_failing
    }

    /// Whether it shows nothing since the service account lacks the permission.
    pub(super) fn is_denied(&self) -> bool {
        self.is_failing && self.is_denied
    }

    /// For how long the API server has denied each attempt. Zero if the last denial is a while ago:
    /// a watch that shows nothing may work.
    pub(super) fn denied_for(&self) -> Duration {
        let since = self.denied_since.filter(|_| self.is_denied() && self.has_failed_lately());
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn has_failed_lately(&self) -> bool {
        self.last_failure.is_some_and(|time| time.elapsed() <= QUIET)
    }

    /// Returns the next event. Cancelling the call loses no event.
    pub(super) async fn next(&mut self) -> Event<K> {
        loop {
            if let Some(pause) = self.pause {
                self.heartbeat.waits_until(pause);
                sleep_until(pause).await;
                self.pause = None;
            }
            let page = self.page;
            let open = self.events.get_or_insert_with(|| Open {
                events: watcher(
                    self.api.clone(),
                    watcher::Config {
                        label_selector: self.labels.clone(),
                        ..watcher::Config::default().page_size(page)
                    },
                )
                .boxed(),
                list: Some(ListSoFar::begin()),
                heard: Instant::now(),
                // The period is up to a tenth longer, so that the lists of several kinds do not
                // coincide.
                end: Instant::now() + self.sync_period.mul_f64(1.0 + fastrand::f64() / 10.0),
            });
            let silence = open.heard + LONGEST_SILENCE;
            let limit = open.list.as_ref().map_or(open.end, |list| silence.min(list.ends));
            self.heartbeat.waits_until(limit);
            match timeout_at(limit, open.events.next()).await {
                Ok(Some(Ok(event))) => {
                    open.take_in(&event);
                    if open.list.as_ref().is_some_and(ListSoFar::is_too_long) {
                        self.failed("the list has no end");
                        self.events = None;
                        continue;
                    }
                    match &event {
                        Event::Init | Event::InitApply(_) => {}
                        Event::InitDone => {
                            self.recovered();
                            self.page = (self.page * 4).min(PAGE);
                        }
                        Event::Apply(_) | Event::Delete(_) => self.recovered(),
                    }
                    return event;
                }
                Ok(Some(Err(error))) => {
                    if open.list.is_some() && self.page > 1 && is_too_long(&error) {
                        self.page = (self.page / 4).max(1);
                        self.events = None;
                        debug!(worker = WORKER, "Listing {}, {} a page", self.resource, self.page);
                        continue;
                    }
                    self.is_denied = is_denied(&error);
                    let since = self.denied_since.filter(|_| self.has_failed_lately());
                    let since = since.unwrap_or_else(Instant::now);
                    self.denied_since = self.is_denied.then_some(since);
                    self.failed(&error.to_string());
                }
                Err(_) if open.list.is_some() => {
                    self.failed("the API server does not answer");
                    // The silence was pause enough.
                    self.pause = None;
                    self.events = None;
                }
                Ok(None) | Err(_) => {
                    debug!(worker = WORKER, "Listing all {} again", self.resource);
                    self.events = None;
                }
            }
        }
    }

    fn failed(&mut self, message: &str) {
        if !self.is_failing {
            error!(
                worker = WORKER,
                "Cannot watch {}: {}. What is known is kept; retrying",
                self.resource,
                shorten(message)
            );
        }
        self.is_failing = true;
        // A server whose lists work and whose watches fail must not be listed without a pause.
        if !self.has_failed_lately() {
            self.failures = 0;
        }
        self.last_failure = Some(Instant::now());
        self.failures = self.failures.saturating_add(1);
        self.pause = Some(Instant::now() + retry_delay(self.failures));
    }

    fn recovered(&mut self) {
        self.denied_since = None;
        if self.is_failing {
            info!(worker = WORKER, "Watching {} again", self.resource);
            self.is_failing = false;
        }
    }
}

impl<K> Open<K> {
    fn take_in(&mut self, event: &Event<K>) {
        self.heard = Instant::now();
        match (event, &mut self.list) {
            (Event::Init, list) => *list = Some(ListSoFar::begin()),
            (Event::InitApply(_), Some(list)) => list.objects += 1,
            (Event::InitApply(_), None) => {}
            (Event::InitDone | Event::Apply(_) | Event::Delete(_), list) => *list = None,
        }
    }
}

/// Returns how log lines name a resource: in all namespaces, or in one.
pub(super) fn in_namespace(resource: &'static str, namespace: Option<&str>) -> Cow<'static, str> {
    namespace
        .map_or(Cow::Borrowed(resource), |name| format!("{resource} in namespace {name}").into())
}

/// Returns the random pause after this many failures in a row.
pub(super) fn retry_delay(failures: u32) -> Duration {
    let (first, last) = RETRY;
    let delay = first.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(last);
    delay.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// Whether the API server refuses a list or a watch for lack of a permission.
pub(super) fn is_denied(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed};
    match error {
        InitialListFailed(error) | watcher::Error::WatchStartFailed(error) | WatchFailed(error) => {
            matches!(error, kube::Error::Api(status) if status.code == 403)
        }
        WatchError(status) => status.code == 403,
        NoResourceVersion => false,
    }
}

/// A list in progress.
struct ListSoFar {
    ends: Instant,
    objects: u32,
}

impl ListSoFar {
    fn begin() -> Self {
        Self { ends: Instant::now() + LONGEST_LIST, objects: 0 }
    }

    fn is_too_long(&self) -> bool {
        self.objects > MOST_OBJECTS || Instant::now() >= self.ends
    }
}

#[cfg(test)]
mod tests {
    //! Tests against servers that answer by a script.

    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Mutex};

    use axum::body::Body as Answer;

    use super::super::scripted::{client, page};
    use super::*;
    use crate::kubernetes::object::Object;
    use crate::model::kind::Kind;

    fn watching(
        script: impl Fn(&str) -> Answer + Clone + Send + Sync + 'static,
    ) -> Watching<Object> {
        let api = Api::all_with(client(script), &Kind::DEPLOYMENT);
        Watching::new(api, "deployments", Duration::from_hours(1))
    }

    async fn until_listed(watching: &mut Watching<Object>) -> usize {
        let mut objects = 0;
        loop {
            match watching.next().await {
                Event::Init => objects = 0,
                Event::InitApply(_) => objects += 1,
                Event::InitDone => return objects,
                Event::Apply(_) | Event::Delete(_) => {}
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_whose_pages_go_on_for_ever_is_given_up() {
        let token = Arc::new(AtomicU32::new(0));
        let endless =
            move |_: &str| page(&["web"], &token.fetch_add(1, Ordering::Relaxed).to_string());
        let mut watching = watching(endless);
        let began = Instant::now();
        while !watching.is_failing {
            // A cancelled call continues where it stopped.
            let next = tokio::time::timeout(Duration::from_millis(700), watching.next()).await;
            assert!(!matches!(next, Ok(Event::InitDone)));
        }
        let took = began.elapsed();
        assert!(took >= LONGEST_LIST && took < LONGEST_LIST * 2, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_is_too_long_is_asked_for_in_parts() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let mut watching = watching(move |query| {
            let parameter = |name: &str| {
                let mut parameters = query.split('&').filter_map(|p| p.split_once('='));
                parameters.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
            };
            let Some(limit) = parameter("limit").and_then(|limit| limit.parse::<u32>().ok()) else {
                return Answer::empty();
            };
            seen.lock().unwrap().push(limit);
            match (limit, parameter("continue")) {
                (2.., _) => Answer::from("x".repeat(17 << 20)),
                (_, None) => page(&["a"], "next"),
                (_, Some(_)) => page(&["b"], ""),
            }
        });
        assert_eq!(until_listed(&mut watching).await, 2);
        assert_eq!(*asked.lock().unwrap(), [250, 62, 15, 3, 1, 1]);
        assert_eq!(watching.page, 4, "the next list is tried with more");
        assert!(!watching.is_failing);
    }

    #[tokio::test(start_paused = true)]
    async fn watches_that_end_at_once_are_not_begun_without_a_pause() {
        let watches = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&watches);
        let mut watching = watching(move |query| {
            if query.contains("watch=true") {
                counter.fetch_add(1, Ordering::Relaxed);
                return Answer::empty();
            }
            page(&[], "")
        });
        let end = Instant::now() + Duration::from_mins(1);
        while timeout_at(end, watching.next()).await.is_ok() {}
        // A second for the answer, and a second as the shortest watch.
        let watches = watches.load(Ordering::Relaxed);
        assert!((25..=31).contains(&watches), "{watches} watches in a minute");
    }

    #[tokio::test(start_paused = true)]
    async fn giving_up_a_wait_halfway_does_not_shorten_a_pause() {
        let requests = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&requests);
        let mut watching = watching(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            Answer::from("no JSON")
        });
        let end = Instant::now() + Duration::from_mins(2);
        while Instant::now() < end {
            let _ = tokio::time::timeout(Duration::from_millis(100), watching.next()).await;
        }
        let requests = requests.load(Ordering::Relaxed);
        assert!((8..=40).contains(&requests), "{requests} requests in two minutes");
    }
}
