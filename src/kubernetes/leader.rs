//! The leader task: contends for the Lease, tells the reloader how long this replica leads, and
//! releases the lease at the end. The decisions are in [`crate::election::lease`].
//!
//! Architecture Invariant: each write carries the resource version of the object that was
//! evaluated, so of several concurrent writes one succeeds. A replica that does not lead writes
//! nothing while another replica leads.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ApiResource, DynamicObject, PostParams, WatchEvent};
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::client::{RequestError, in_time_of};
use crate::election::leadership::{Candidate, Claim};
use crate::election::lease::{Contender, Record, Step, Terms};
use crate::heartbeat::{Heartbeat, Heartbeats, LONGEST_STEP, Stuck};

mod object;
mod watch;

use object::{read, shown, version_of, written};
use watch::LeaseWatch;

/// The worker name in log lines.
const WORKER: &str = "leader";

/// The longest random delay of a waiting replica before it writes the lease. The delays differ, so
/// that the other replicas see the first write before they try.
const STAND_BACK: Duration = Duration::from_millis(100);

/// How long the release of the lease waits for the reloader to finish its writes.
const RELEASE_AFTER: Duration = Duration::from_millis(300);

/// How long the release may take. The process must end within two seconds.
const RELEASE_WITHIN: Duration = Duration::from_secs(1);

/// Which lease to contend for, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The identity of this process. Two processes never have the same.
    pub identity: String,
    /// The namespace of the lease.
    pub namespace: String,
    /// The name of the lease.
    pub name: String,
    /// The durations of the election.
    pub terms: Terms,
}

impl Settings {
    /// Settings for the lease `name`. `replica` is the name that other replicas log. Without a
    /// `namespace`, the lease is in the namespace of the pod, or of the kubeconfig.
    #[must_use]
    pub fn new(
        client: &Client,
        terms: Terms,
        name: String,
        namespace: Option<String>,
        replica: &str,
    ) -> Self {
        // A restarted pod is another process, too.
        let identity = format!("{replica}_{}", uuid::Uuid::new_v4());
        let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        Self { identity, namespace, name, terms }
    }

    /// Makes a contender that knows nothing of the lease.
    fn contender(&self) -> Contender {
        Contender::new(&self.identity, self.terms, STAND_BACK.mul_f64(fastrand::f64()))
    }
}

/// Contends for the lease.
pub struct Leader {
    api: Api<DynamicObject>,
    settings: Settings,
    candidacy: Candidate,
    /// A process with a stuck loop must not lead.
    heartbeats: Heartbeats,
    heartbeat: Heartbeat,
    contender: Contender,
    /// The object as it was last seen. Fields that others wrote into the object are written back.
    object: Option<DynamicObject>,
    watch: LeaseWatch,
    /// Whether a write is in progress, or was interrupted.
    is_write_unconfirmed: bool,
    is_leading: bool,
    /// The holder that was logged last.
    rival: Option<Box<str>>,
    /// The error that was logged last.
    last_error: Option<String>,
    may_watch: bool,
}

impl Leader {
    /// Makes a leader that does not run yet.
    #[must_use]
    pub fn new(
        client: Client,
        settings: Settings,
        candidacy: Candidate,
        heartbeats: Heartbeats,
    ) -> Self {
        let Settings { identity: _, namespace, name, terms } = &settings;
        let api = Api::namespaced_with(client, namespace, &ApiResource::erase::<Lease>(&()));
        let contender = settings.contender();
        let heartbeat = heartbeats.add("leader election", LONGEST_STEP);
        let watch = LeaseWatch::new(api.clone(), name, *terms);
        Self {
            api,
            settings,
            candidacy,
            heartbeats,
            heartbeat,
            contender,
            object: None,
            watch,
            is_write_unconfirmed: false,
            is_leading: false,
            rival: None,
            last_error: None,
            may_watch: true,
        }
    }

    /// Runs until `shutdown`, and releases the lease after the reloader has `ended`.
    pub async fn run(mut self, shutdown: CancellationToken, ended: impl Future<Output = ()>) {
        let contend = async {
            self.candidacy.stands().await;
            self.contend_forever().await;
        };
        tokio::select! {
            () = contend => {}
            () = shutdown.cancelled() => {}
        }
        // The reloader begins nothing any more. Requests in progress get time to finish.
        let _ = timeout(RELEASE_AFTER, ended).await;
        if timeout(RELEASE_WITHIN, self.release()).await.is_err() {
            warn!(
                worker = WORKER,
                "Cannot release {}: no answer. It expires by itself",
                self.lease()
            );
        }
    }

    /// Contends for the lease, except while a loop of this process is stuck.
    async fn contend_forever(&mut self) {
        loop {
            let stuck = self.contend().await;
            self.stand_down(&stuck).await;
        }
    }

    /// Contends for the lease, and renews it, until a loop of this process is stuck.
    async fn contend(&mut self) -> Stuck {
        loop {
            if let Some(stuck) = self.heartbeats.stuck() {
                return stuck;
            }
            self.heartbeat.works();
            let now = Instant::now();
            self.report_changes(now);
            let time = match self.contender.step(now.into_std(), self.watch.is_up()) {
                Step::Wait(time) => Instant::from_std(time),
                Step::Look => {
                    self.look().await;
                    continue;
                }
                step @ (Step::Create | Step::Take | Step::Renew) => {
                    self.write(&step).await;
                    continue;
                }
            };
            let end = self.contender.leads_until(now.into_std()).map(Instant::from_std);
            let wake = end.map_or(time, |end| end.min(time));
            let event = tokio::select! {
                event = self.watch.next() => event,
                () = sleep_until(wake) => continue,
            };
            match event {
                Ok(event) => self.take_in(event),
                Err(error) => self.is_not_watched(&error),
            }
        }
    }

    /// Leaves the lease to other replicas while a loop of this process is stuck.
    async fn stand_down(&mut self, stuck: &Stuck) {
        error!(
            worker = WORKER,
            "{stuck}. Releasing {}, so that another replica leads",
            self.lease()
        );
        if timeout(RELEASE_WITHIN, self.release()).await.is_err() {
            warn!(
                worker = WORKER,
                "Cannot release {}: no answer. It expires by itself",
                self.lease()
            );
        }
        self.is_leading = false;
        while self.heartbeats.stuck().is_some() {
            self.heartbeat.works();
            sleep(self.settings.terms.retry_period).await;
        }
        info!(worker = WORKER, "No loop of the controller is stuck any more");
        // The known state of the lease is outdated.
        self.contender = self.settings.contender();
        self.watch.renew();
    }

    /// Tells the reloader what has changed, and logs it.
    fn report_changes(&mut self, now: Instant) {
        let until = self.contender.leads_until(now.into_std());
        let rival = self.contender.other_holder().map(Box::from);
        self.candidacy.say(until.map_or(Claim::No, |end| Claim::Until(Instant::from_std(end))));
        self.candidacy.name_holder(rival.as_deref());
        match (self.is_leading, until.is_some()) {
            (false, true) => info!(worker = WORKER, "Leading"),
            (true, false) => self.log_lost_leadership(rival.as_deref()),
            (false, false) if rival != self.rival => {
                if let Some(name) = &rival {
                    info!(worker = WORKER, "Waiting to lead; {} leads", shown(name));
                }
            }
            _ => {}
        }
        self.is_leading = until.is_some();
        self.rival = rival;
    }

    fn log_lost_leadership(&self, rival: Option<&str>) {
        let lease = self.lease();
        if let Some(name) = rival {
            warn!(worker = WORKER, "Not leading any more: {} has taken {lease}", shown(name));
        } else {
            warn!(
                worker = WORKER,
                "Not leading any more: {lease} could not be renewed for {} s. What changes meanwhile is \
                 reloaded by who leads next",
                self.settings.terms.renew_deadline.as_secs_f64()
            );
        }
    }

    async fn look(&mut self) {
        self.contender.looks(Instant::now().into_std());
        let answer =
            in_time_of(self.request_timeout(), self.api.get_opt(&self.settings.name)).await;
        match answer {
            Ok(Some(object)) => {
                self.recovered();
                if self.see(object) && self.watch.is_up() {
                    // The watch should have shown this change.
                    self.watch.renew();
                }
            }
            Ok(None) => {
                self.recovered();
                self.contender.saw_none(None, Instant::now().into_std());
                self.object = None;
            }
            Err(error) => self.failed("get", &error),
        }
    }

    async fn write(&mut self, step: &Step) {
        let sent = Instant::now().into_std();
        self.contender.writes(sent);
        let record = self.contender.claim(Timestamp::now());
        let answer = self.send(step, &record, self.request_timeout()).await;
        match answer {
            Ok(object) => {
                self.recovered();
                let (version, record) = (version_of(&object), read(&object.data));
                let now = Instant::now().into_std();
                self.contender.has_written(&version, record, sent, now);
                self.object = Some(object);
            }
            Err(error) if is_conflict(step, &error) => {
                debug!(worker = WORKER, "Conflict: another writer changed {}", self.lease());
                self.contender.met_conflict();
            }
            Err(error) => {
                let verb = if *step == Step::Create { "create" } else { "update" };
                self.failed(verb, &error);
            }
        }
    }

    /// Writes the lease over the version that was last seen.
    async fn send(
        &mut self,
        step: &Step,
        record: &Record,
        within: Duration,
    ) -> Result<DynamicObject, RequestError> {
        let params = PostParams::default();
        let Settings { name, namespace, .. } = &self.settings;
        self.is_write_unconfirmed = true;
        let known = self.object.as_ref().filter(|_| *step != Step::Create);
        let answer = if let Some(object) = known {
            let data = written(object.data.clone(), record);
            let object = DynamicObject { data, ..object.clone() };
            in_time_of(within, self.api.replace(name, &params, &object)).await
        } else {
            let object = DynamicObject::new(name, &ApiResource::erase::<Lease>(&()));
            let object = object.within(namespace).data(written(Value::Null, record));
            in_time_of(within, self.api.create(&params, &object)).await
        };
        self.is_write_unconfirmed = matches!(answer, Err(RequestError::Timeout(_)));
        answer
    }

    /// Returns the time limit of the next request. A request must not outlast the leadership.
    fn request_timeout(&self) -> Duration {
        let now = Instant::now().into_std();
        let limit = self.settings.terms.longest_request();
        let left = self.contender.leads_until(now).map(|end| end.saturating_duration_since(now));
        left.map_or(limit, |left| left.min(limit))
    }

    fn take_in(&mut self, event: WatchEvent<DynamicObject>) {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.see(object);
            }
            WatchEvent::Deleted(object) => {
                let now = Instant::now().into_std();
                if self.contender.saw_none(Some(&version_of(&object)), now) {
                    self.object = None;
                }
            }
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => {}
        }
    }

    /// Takes in a state of the lease. Returns whether the record differs from the one before.
    fn see(&mut self, object: DynamicObject) -> bool {
        let record = read(&object.data);
        let before = self.object.as_ref().map(|before| read(&before.data));
        let is_other = before.is_some_and(|before| before != record);
        let now = Instant::now().into_std();
        let is_news = self.contender.saw(&version_of(&object), record, now);
        if is_news {
            self.object = Some(object);
        }
        is_news && is_other
    }

    /// Releases the lease, so that no replica has to wait for its expiry.
    async fn release(&mut self) {
        self.candidacy.say(Claim::No);
        let within = RELEASE_WITHIN / 2;
        // An interrupted write may have succeeded, and others may write the object.
        for _ in 0..2 {
            if std::mem::take(&mut self.is_write_unconfirmed)
                && let Ok(Some(object)) =
                    in_time_of(within, self.api.get_opt(&self.settings.name)).await
            {
                self.see(object);
            }
            if !self.contender.holds() {
                return;
            }
            let record = self.contender.release(Timestamp::now());
            match self.send(&Step::Renew, &record, within).await {
                Ok(_) => {
                    info!(worker = WORKER, "Released {}", self.lease());
                    return;
                }
                Err(error) if is_conflict(&Step::Renew, &error) => self.is_write_unconfirmed = true,
                Err(error) => {
                    warn!(
                        worker = WORKER,
                        "Cannot release {}: {error}. It expires by itself",
                        self.lease()
                    );
                    return;
                }
            }
        }
    }

    fn lease(&self) -> String {
        format!("the lease {}/{}", self.settings.namespace, self.settings.name)
    }

    /// Logs an error once.
    fn failed(&mut self, verb: &str, failure: &RequestError) {
        let message = match failure {
            RequestError::Timeout(_) => "no answer in time".to_owned(),
            RequestError::Kube(_) => failure.to_string(),
        };
        if self.last_error.as_ref() == Some(&message) {
            return;
        }
        if failure.is_forbidden() {
            error!(
                worker = WORKER,
                "May not {verb} {}: {message}. Nothing is polled until it may: {}",
                self.lease(),
                self.advice()
            );
        } else {
            warn!(worker = WORKER, "Cannot {verb} {}: {message}. Retrying", self.lease());
        }
        self.last_error = Some(message);
    }

    fn recovered(&mut self) {
        if self.last_error.take().is_some() {
            info!(worker = WORKER, "Reached {} again", self.lease());
        }
    }

    fn is_not_watched(&mut self, failure: &RequestError) {
        if failure.is_forbidden() && std::mem::take(&mut self.may_watch) {
            error!(
                worker = WORKER,
                "May not watch {}: {failure}. It is looked at now and then instead: {}",
                self.lease(),
                self.advice()
            );
        } else {
            debug!(worker = WORKER, "{} is not watched: {failure}. Retrying", self.lease());
        }
    }

    fn advice(&self) -> String {
        format!(
            "grant get, create, update, watch on leases.coordination.k8s.io in namespace {}, or set \
             --leader-elect=false where there is one replica",
            self.settings.namespace
        )
    }
}

fn is_conflict(step: &Step, error: &RequestError) -> bool {
    // For a replace, 404 means that the object was deleted. For a create, 404 means that the
    // namespace is missing.
    matches!((error.code(), step), (409, _) | (404, Step::Take | Step::Renew))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::body::Body as Answer;
    use http::{Method, Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use tower::{BoxError, service_fn};

    use super::super::scripted::status;
    use super::*;
    use crate::election::leadership::election_channel;

    /// Returns a client of an API server that keeps one Lease, and the kept object.
    fn client() -> (Client, Arc<Mutex<Option<Value>>>) {
        let lease: Arc<Mutex<Option<Value>>> = Arc::default();
        let kept = Arc::clone(&lease);
        let server = service_fn(move |request: Request<Body>| {
            let kept = Arc::clone(&kept);
            async move {
                sleep(Duration::from_millis(10)).await;
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let mut lease = kept.lock().unwrap();
                if head.method != Method::GET {
                    let mut object: Value = serde_json::from_slice(&body)?;
                    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
                    let before = lease.as_ref().map_or(Value::Null, &version);
                    if version(&object) != before {
                        return Ok(status(409));
                    }
                    let number: u64 = before.as_str().map_or(Ok(0), str::parse)?;
                    object["metadata"]["resourceVersion"] = (number + 1).to_string().into();
                    *lease = Some(object);
                } else if head.uri.query().is_some_and(|query| query.contains("watch")) {
                    return Ok(Response::new(Answer::empty()));
                }
                let answer = lease.as_ref().map(|lease| Answer::from(lease.to_string()));
                Ok::<_, BoxError>(answer.map_or_else(|| status(404), Response::new))
            }
        });
        (Client::new(server, "default"), lease)
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_a_loop_that_is_stuck_leaves_the_lease_to_others_until_it_moves() {
        let seconds = Duration::from_secs;
        let terms =
            Terms { duration: seconds(15), renew_deadline: seconds(10), retry_period: seconds(2) };
        let (client, lease) = client();
        let settings = Settings::new(&client, terms, "lease".to_owned(), None, "me");
        let (candidacy, leadership) = election_channel();
        let heartbeats = Heartbeats::default();
        let reloader = heartbeats.add("reloader", seconds(60));
        let mut leader = Leader::new(client, settings, candidacy, heartbeats);
        let holder = || lease.lock().unwrap().as_ref().map(|lease| read(lease).holder);
        let test = async {
            reloader.works();
            for _ in 0..6 {
                sleep(seconds(9)).await;
                let holder = holder().unwrap();
                assert!(leadership.holds() && holder.starts_with("me_"), "{holder:?}");
            }
            sleep(seconds(10)).await;
            for _ in 0..10 {
                assert!(!leadership.holds());
                assert_eq!(holder().as_deref(), Some(""));
                sleep(seconds(60)).await;
            }
            reloader.waits_for_others();
            sleep(seconds(10)).await;
            assert!(leadership.holds());
        };
        tokio::select! {
            () = leader.contend_forever() => panic!("it runs until the end"),
            () = test => {}
        }
    }

    #[test]
    fn a_lease_that_is_gone_is_a_conflict_and_a_namespace_that_is_gone_an_error() {
        let error = |code| {
            let status = json!({ "code": code, "message": "so it is" });
            RequestError::from(kube::Error::Api(serde_json::from_value(status).unwrap()))
        };
        for (step, code, expected) in [
            (Step::Renew, 409, true),
            (Step::Take, 404, true),
            (Step::Create, 409, true),
            (Step::Create, 404, false),
            (Step::Renew, 403, false),
            (Step::Renew, 500, false),
        ] {
            assert_eq!(is_conflict(&step, &error(code)), expected, "{step:?} {code}");
        }
    }
}
