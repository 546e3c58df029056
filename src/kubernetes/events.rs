//! Events on workloads: findings about their references and reloads, for the owners of the workloads.
//!
//! The name of an Event is derived from its finding. So neither another replica nor a restarted
//! controller writes a second Event. By default, the API server deletes an Event after an hour.
//! While the finding lasts, the controller renews the Event before that, as one more of a series.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::client::{RequestError, in_time};
use super::watching::retry_delay;
use crate::election::leadership::Leadership;
// `Event` is the object of the API here.
use crate::events::event::Event as ControllerEvent;
use crate::events::sink::Events;
use crate::index::Index;
use crate::index::findings::{Finding, UnreportedFinding};
use crate::model::workload::WorkloadId;

/// The name of the controller in Events.
const CONTROLLER: &str = "vault-secrets-reloader";

/// The pause between two Events, and between two checks for an Event to write. A start with many
/// findings must not overload the API server.
const PACE: Duration = Duration::from_millis(100);

/// The pause before a refused Event is tried again. One refusal may come from the quota of one
/// namespace. After `REFUSALS` refusals in a row the permission is missing, and all Events wait.
const REFUSED_RETRY: Duration = Duration::from_mins(10);
const REFUSALS: u32 = 3;

/// The rate limit of Events for one workload: a burst, and the time in which one more is allowed.
/// client-go has the same limit. A workload that changes all the time does not get an Event for
/// each change.
const BURST: u32 = 25;
const ONE_MORE_IN: Duration = Duration::from_mins(5);

/// The pause before an Event is renewed: well before the API server deletes the Event.
const AGAIN_AFTER: Duration = Duration::from_mins(30);

/// Events of each workload that are reserved for new findings. Renewals do not use them.
const LEFT_FOR_NEW: u32 = 5;

/// The number of workloads with a stored rate limit. Beyond that, workloads with few Events are
/// forgotten first.
const MOST_KEPT: usize = 4096;

/// The longest name of an object, in characters.
const LONGEST_NAME: usize = 253;

/// Writes Events while this replica leads.
pub struct EventWriter {
    client: Client,
    index: Arc<Index>,
    leadership: Leadership,
    replica: String,
    now: fn() -> Timestamp,
    events: Events,
    failures: u32,
    refusals: u32,
    /// The refused findings, and when to try each again.
    refused: VecDeque<(Instant, UnreportedFinding)>,
    /// The number of Events that each workload may have, and the time of that number.
    allowed: HashMap<WorkloadId, (u32, Instant)>,
    /// The workloads that used up their Events, and when each may have one more.
    resting: VecDeque<(Instant, WorkloadId)>,
    /// The written Events, and when to renew each. The earliest comes first.
    written: VecDeque<(Instant, Written)>,
    /// Whether the last Event was a renewal. Renewals and new Events take turns.
    was_renewal: bool,
    /// Whether the service account may not change Events. Logged once.
    is_final: bool,
}

/// An Event that was written.
#[derive(Clone, Debug)]
struct Written {
    workload: WorkloadId,
    /// See [`UnreportedFinding::digest`].
    digest: u64,
    /// How often the Event was written, as far as this process knows.
    times: i32,
}

impl EventWriter {
    /// Makes a writer of the findings in `index`. Events name `replica`.
    #[must_use]
    pub fn new(
        client: Client,
        index: Arc<Index>,
        leadership: Leadership,
        replica: String,
        now: fn() -> Timestamp,
    ) -> Self {
        Self {
            client,
            index,
            leadership,
            replica,
            now,
            events: Events::default(),
            failures: 0,
            refusals: 0,
            refused: VecDeque::new(),
            allowed: HashMap::new(),
            resting: VecDeque::new(),
            written: VecDeque::new(),
            was_renewal: false,
            is_final: false,
        }
    }

    /// Reports each Event that is written to `events`.
    #[must_use]
    pub fn with_events(self, events: Events) -> Self {
        Self { events, ..self }
    }

    /// Writes Events until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let writing = async {
            loop {
                self.leadership.gained().await;
                while let Some((_, finding)) =
                    self.refused.pop_front_if(|(again, _)| *again <= Instant::now())
                {
                    self.index.findings().give_back(&finding);
                }
                while let Some((_, id)) =
                    self.resting.pop_front_if(|(end, _)| *end <= Instant::now())
                {
                    self.index.findings().wake(&id);
                }
                let due = if self.was_renewal { None } else { self.due_renewal() };
                self.was_renewal = due.is_some();
                let next = due.or_else(|| Some((self.index.findings().next()?, 0)));
                let next = next.or_else(|| self.due_renewal());
                let pause = match next {
                    Some((finding, times)) if self.leadership.holds() => {
                        self.write_event(finding, times).await
                    }
                    Some((finding, 0)) => {
                        self.index.findings().give_back(&finding);
                        PACE
                    }
                    Some((finding, times)) => {
                        self.schedule_renewal(&finding, times, Duration::ZERO);
                        PACE
                    }
                    None => PACE * 10,
                };
                sleep(pause).await;
            }
        };
        tokio::select! {
            () = writing => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Returns the Event to renew now, and how often that Event was written.
    fn due_renewal(&mut self) -> Option<(UnreportedFinding, i32)> {
        while let Some((_, written)) =
            self.written.pop_front_if(|(again, _)| *again <= Instant::now())
        {
            let Written { workload, digest, times } = &written;
            let Some(finding) = self.index.findings().still(workload, *digest) else { continue };
            if self.left(workload) > LEFT_FOR_NEW {
                return Some((finding, *times));
            }
            self.written.push_back((Instant::now() + AGAIN_AFTER, written));
        }
        None
    }

    fn schedule_renewal(&mut self, finding: &UnreportedFinding, times: i32, after: Duration) {
        let UnreportedFinding { workload, digest, .. } = finding;
        let written = Written { workload: workload.clone(), digest: *digest, times };
        let entry = (Instant::now() + after, written);
        if after.is_zero() {
            self.written.push_front(entry);
        } else {
            self.written.push_back(entry);
        }
    }

    /// Writes one Event, which was written `before` times. Returns how long to wait before the
    /// next.
    async fn write_event(&mut self, finding: UnreportedFinding, before: i32) -> Duration {
        let event = event_of(&finding, &self.replica, (self.now)());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &finding.workload.namespace);
        let mut times = before.saturating_add(1);
        let mut answer = if before == 0 || self.is_final {
            self.create(&api, &event).await
        } else {
            self.observe(&api, &event, times).await
        };
        match answer.as_ref().err().map(RequestError::code) {
            // Another process wrote the Event, or this one before a restart.
            Some(409) if !self.is_final => {
                times = times.max(2);
                answer = self.observe(&api, &event, times).await;
            }
            // The API server has deleted the Event.
            Some(404) if before > 0 => {
                times = 1;
                answer = self.create(&api, &event).await;
            }
            _ => {}
        }
        self.report(&finding.notice, answer.is_ok());
        let code = answer.as_ref().err().map_or(201, RequestError::code);
        match (code, answer) {
            (401 | 403, Err(error)) if before == 0 && times == 1 => self.refused(finding, &error),
            (0 | 429 | 500.., Err(error)) => {
                self.failures = self.failures.saturating_add(1);
                debug!("Cannot write an Event on {}: {error}. Retrying", finding.workload);
                if before == 0 {
                    self.index.findings().give_back(&finding);
                } else {
                    self.schedule_renewal(&finding, before, Duration::ZERO);
                }
                retry_delay(self.failures)
            }
            // The Event is written, or exists already, or can never be written: the namespace may
            // be gone.
            (code, answer) => {
                (self.failures, self.refusals) = (0, 0);
                if let (401 | 403, Err(error)) = (code, answer)
                    && times > 1
                    && !std::mem::replace(&mut self.is_final, true)
                {
                    warn!(
                        "May not write Events again: {error}. Grant the service account patch on \
                         events.events.k8s.io; until then Events of lasting findings are missing \
                         for a part of every hour"
                    );
                }
                self.count(finding.workload.clone());
                self.index.findings().told(&finding);
                self.schedule_renewal(&finding, times, AGAIN_AFTER);
                PACE
            }
        }
    }

    fn report(&self, notice: &Finding, is_success: bool) {
        let Finding { reason, is_warning, .. } = *notice;
        self.events.emit(&ControllerEvent::EventWritten { reason, is_warning, is_success });
    }

    async fn create(&self, api: &Api<Event>, event: &Event) -> Result<(), RequestError> {
        in_time(api.create(&PostParams::default(), event)).await.map(drop)
    }

    /// Updates the series of an existing Event.
    async fn observe(
        &self,
        api: &Api<Event>,
        event: &Event,
        times: i32,
    ) -> Result<(), RequestError> {
        let name = event.metadata.name.as_deref().unwrap_or_default();
        let series = EventSeries { count: times, last_observed_time: MicroTime((self.now)()) };
        let patch = Patch::Merge(json!({ "series": series }));
        in_time(api.patch(name, &PatchParams::default(), &patch)).await.map(drop)
    }

    /// Returns how many Events a workload may have now.
    fn left(&self, id: &WorkloadId) -> u32 {
        self.allowed.get(id).map_or(BURST, |(left, time)| {
            left.saturating_add(more_since(*time, Instant::now())).min(BURST)
        })
    }

    /// Counts one Event of a workload.
    fn count(&mut self, id: WorkloadId) {
        let now = Instant::now();
        if self.allowed.len() >= MOST_KEPT {
            self.allowed.retain(|_, (left, time)| *left + more_since(*time, now) < BURST);
        }
        if self.allowed.len() >= MOST_KEPT {
            self.allowed.retain(|_, (left, _)| *left <= BURST / 2);
        }
        let (left, time) = self.allowed.entry(id.clone()).or_insert((BURST, now));
        let more = more_since(*time, now);
        *left = left.saturating_add(more).min(BURST).saturating_sub(1);
        if more > 0 {
            *time = now;
        }
        if *left == 0 {
            self.index.findings().rest(&id);
            self.resting.push_back((now + ONE_MORE_IN, id));
        }
    }

    fn refused(&mut self, finding: UnreportedFinding, error: &RequestError) -> Duration {
        self.failures = 0;
        self.refusals = self.refusals.saturating_add(1);
        self.refused.push_back((Instant::now() + REFUSED_RETRY, finding));
        if self.refusals < REFUSALS {
            return PACE;
        }
        if self.refusals == REFUSALS {
            warn!(
                "May not write Events: {error}. Grant the service account create on \
                 events.events.k8s.io, or set --record-events=false; the log has all findings, too"
            );
        }
        REFUSED_RETRY
    }
}

/// Returns how many Events a workload was allowed since `time`.
fn more_since(time: Instant, now: Instant) -> u32 {
    let since = now.saturating_duration_since(time);
    u32::try_from(since.as_millis() / ONE_MORE_IN.as_millis()).unwrap_or(BURST).min(BURST)
}

fn event_of(finding: &UnreportedFinding, replica: &str, now: Timestamp) -> Event {
    let UnreportedFinding { workload, uid, notice, source, digest } = finding;
    let suffix = format!(".{digest:016x}");
    let mut name = workload.name.to_string();
    name.truncate(LONGEST_NAME - suffix.len());
    Event {
        metadata: ObjectMeta {
            namespace: Some(workload.namespace.to_string()),
            name: Some(format!("{}{suffix}", name.trim_end_matches(['.', '-']))),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        action: Some(source.action().to_owned()),
        reason: Some(notice.reason.to_owned()),
        note: Some(notice.message.clone()),
        type_: Some(if notice.is_warning { "Warning" } else { "Normal" }.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(workload.kind.api_version()),
            kind: Some(workload.kind.name().to_owned()),
            namespace: Some(workload.namespace.to_string()),
            name: Some(workload.name.to_string()),
            uid: Some(uid.to_string()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(replica.chars().take(128).collect()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::body::Body as Answer;
    use http::Response;
    use serde_json::json;

    use super::super::scripted::{client_after, client_of, status};
    use super::*;
    use crate::election::leadership::{Claim, election_channel};
    use crate::index::findings::FindingSource;
    use crate::model::kind::Kind;
    use crate::model::workload::WorkloadId;

    fn workload(name: &str) -> WorkloadId {
        WorkloadId { kind: Kind::DEPLOYMENT, namespace: "shop".into(), name: name.into() }
    }

    fn odd(index: &Index, name: &str) {
        let notice =
            Finding { reason: "NoKey", is_warning: true, message: "variable A".to_owned() };
        index.findings().set(&workload(name), "u", FindingSource::Manifest, vec![notice]);
    }

    /// Returns a writer, its index and the number of requests. The server answers by these statuses
    /// in turn, and then with success.
    fn writer(
        answers: &[u16],
        leadership: Leadership,
    ) -> (EventWriter, Arc<Index>, Arc<Mutex<u32>>) {
        let answers = Arc::new(Mutex::new(answers.to_vec()));
        let requests = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&requests);
        let client = client_of(move |request| {
            let path = request.uri().path();
            assert!(path.starts_with("/apis/events.k8s.io/v1/namespaces/shop/events"), "{path}");
            *counter.lock().unwrap() += 1;
            let mut answers = answers.lock().unwrap();
            if answers.is_empty() {
                return Response::new(Answer::from(json!({ "metadata": {} }).to_string()));
            }
            status(answers.remove(0))
        });
        let index = Arc::new(Index::default());
        let now = || Timestamp::UNIX_EPOCH;
        let writer = EventWriter::new(client, Arc::clone(&index), leadership, "r".to_owned(), now);
        (writer, index, requests)
    }

    async fn run_for(writer: EventWriter, time: Duration) {
        let end = CancellationToken::new();
        let stop = async {
            sleep(time).await;
            end.cancel();
        };
        tokio::join!(writer.run(end.clone()), stop);
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_written_once_and_again_where_it_could_not_be() {
        // Another replica has written the first Event. The second answer is a failure.
        let (writer, index, requests) = writer(&[409, 500], Leadership::always());
        for name in ["a", "b", "c"] {
            odd(&index, name);
        }
        run_for(writer, Duration::from_mins(1)).await;
        assert_eq!(*requests.lock().unwrap(), 5);
        assert_eq!(index.findings().next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_ten_are_written_in_a_second() {
        let requests = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&requests);
        let client = client_after(Duration::ZERO, move |_| {
            *counter.lock().unwrap() += 1;
            Response::new(Answer::from(json!({ "metadata": {} }).to_string()))
        });
        let index = Arc::new(Index::default());
        for number in 0..100 {
            odd(&index, &number.to_string());
        }
        let (leadership, now) = (Leadership::always(), || Timestamp::UNIX_EPOCH);
        let writer = EventWriter::new(client, index, leadership, "r".to_owned(), now);
        run_for(writer, Duration::from_secs(5)).await;
        let requests = *requests.lock().unwrap();
        assert!((40..=51).contains(&requests), "{requests}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_permission_the_server_is_left_alone() {
        let (writer, index, requests) = writer(&[403; 5], Leadership::always());
        for number in 0..20 {
            odd(&index, &number.to_string());
        }
        let early = async {
            sleep(Duration::from_mins(9)).await;
            assert_eq!(*requests.lock().unwrap(), 3);
        };
        // Two more requests ten minutes apart, and then all.
        tokio::join!(run_for(writer, Duration::from_mins(45)), early);
        assert_eq!(*requests.lock().unwrap(), 25);
        assert_eq!(index.findings().next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_quota_of_one_namespace_keeps_none_of_the_others_waiting() {
        let (writer, index, requests) = writer(&[403, 403], Leadership::always());
        for name in ["a", "b", "c", "d"] {
            odd(&index, name);
        }
        let early = async {
            sleep(Duration::from_mins(1)).await;
            assert_eq!(*requests.lock().unwrap(), 4);
        };
        tokio::join!(run_for(writer, Duration::from_mins(15)), early);
        assert_eq!(*requests.lock().unwrap(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_workload_that_changes_all_the_time_is_told_of_now_and_then() {
        let (writer, index, requests) = writer(&[], Leadership::always());
        let busy = async {
            for number in 0..2_400 {
                let message = format!("variable {number}");
                let notice = Finding { reason: "NoKey", is_warning: true, message };
                index.findings().set(&workload("busy"), "u", FindingSource::Manifest, vec![notice]);
                sleep(Duration::from_millis(500)).await;
            }
        };
        let other = async {
            sleep(Duration::from_secs(5)).await;
            let before = *requests.lock().unwrap();
            odd(&index, "web");
            // The server takes a second for each Event.
            sleep(Duration::from_secs(4)).await;
            let told = *requests.lock().unwrap() - before;
            assert!((2..=5).contains(&told), "{told}");
            assert_eq!(index.findings().untold_of(&workload("web")), 0);
        };
        tokio::join!(run_for(writer, Duration::from_mins(20)), busy, other);
        // One Event of the other workload. Of the busy workload, a burst, and then one Event in
        // five minutes.
        let requests = *requests.lock().unwrap();
        assert!((1 + BURST + 3..=1 + BURST + 4).contains(&requests), "{requests}");
    }

    /// The Events of an API server that keeps each for an hour after its last write. `written` has
    /// all writes in order.
    #[derive(Default)]
    struct Kept {
        events: HashMap<String, (Instant, i64)>,
        written: Vec<String>,
        may_patch: bool,
    }

    fn writer_of(kept: &Arc<Mutex<Kept>>, leadership: Leadership) -> (EventWriter, Arc<Index>) {
        let kept = Arc::clone(kept);
        let client = client_of(move |request| {
            let mut kept = kept.lock().unwrap();
            let now = Instant::now();
            kept.events.retain(|_, (time, _)| now.duration_since(*time).as_secs() < 3600);
            let method = request.method().as_str();
            let path = request.uri().path();
            let path = path.strip_prefix("/apis/events.k8s.io/v1/namespaces/shop/events");
            let name = path.unwrap().trim_start_matches('/').to_owned();
            kept.written.push(method.to_owned());
            match method {
                "POST" if kept.events.contains_key("one") => return status(409),
                "POST" => drop(kept.events.insert("one".to_owned(), (now, 1))),
                "PATCH" if !kept.may_patch => return status(403),
                "PATCH" => {
                    assert!(name.starts_with("web."), "{name}");
                    let Some((time, count)) = kept.events.get_mut("one") else {
                        return status(404);
                    };
                    (*time, *count) = (now, *count + 1);
                }
                _ => panic!("{method}"),
            }
            Response::new(Answer::from(json!({ "metadata": {} }).to_string()))
        });
        let index = Arc::new(Index::default());
        let now = || Timestamp::UNIX_EPOCH;
        let writer = EventWriter::new(client, Arc::clone(&index), leadership, "r".to_owned(), now);
        (writer, index)
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_lasts_as_long_as_what_it_tells() {
        let kept = Arc::new(Mutex::new(Kept { may_patch: true, ..Kept::default() }));
        let (writer, index) = writer_of(&kept, Leadership::always());
        odd(&index, "web");
        let test = async {
            for minute in 1..=6 * 60 {
                sleep(Duration::from_mins(1)).await;
                let (time, times) = kept.lock().unwrap().events["one"];
                assert!(time.elapsed() < Duration::from_hours(1), "after {minute} min");
                assert_eq!(times, 1 + minute / 30 - i64::from(minute % 30 == 0), "{minute}");
            }
            let before = kept.lock().unwrap().written.len();
            // The API server deletes the Events early.
            kept.lock().unwrap().events.clear();
            sleep(Duration::from_mins(20)).await;
            assert_eq!(kept.lock().unwrap().written[before..], ["PATCH", "POST"]);
            index.findings().forget(&workload("web"));
            let before = kept.lock().unwrap().written.len();
            sleep(Duration::from_hours(6)).await;
            assert_eq!(kept.lock().unwrap().written.len(), before, "what is over is not told");
        };
        tokio::join!(run_for(writer, Duration::from_hours(13)), test);
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_process_wrote_is_written_again_by_the_next_leader() {
        let kept = Arc::new(Mutex::new(Kept { may_patch: true, ..Kept::default() }));
        for _ in 0..2 {
            let (writer, index) = writer_of(&kept, Leadership::always());
            odd(&index, "web");
            run_for(writer, Duration::from_mins(20)).await;
        }
        assert_eq!(kept.lock().unwrap().written, ["POST", "POST", "PATCH"]);
        assert_eq!(kept.lock().unwrap().events["one"].1, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_permission_to_patch_it_is_written_again_when_it_was_dropped() {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let (writer, index) = writer_of(&kept, Leadership::always());
        odd(&index, "web");
        run_for(writer, Duration::from_mins(95)).await;
        // The Event still exists after half an hour, and not after an hour.
        let written = kept.lock().unwrap().written.clone();
        assert_eq!(written, ["POST", "PATCH", "POST", "POST"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_lasts_leaves_room_for_what_is_new() {
        let (writer, index, requests) = writer(&[], Leadership::always());
        let message = |number: u32| format!("variable {number}");
        let of = |number| Finding { reason: "NoKey", is_warning: true, message: message(number) };
        let many: Vec<_> = (0..20).map(of).collect();
        index.findings().set(&workload("busy"), "u", FindingSource::Manifest, many);
        let later = async {
            sleep(Duration::from_hours(10)).await;
            let before = *requests.lock().unwrap();
            // One Event in five minutes.
            assert!(before <= BURST + 10 * 12, "{before}");
            let new: Vec<_> = (100..105).map(of).collect();
            index.findings().set(&workload("busy"), "u", FindingSource::Vault, new);
            sleep(Duration::from_mins(1)).await;
            assert_eq!(index.findings().untold_of(&workload("busy")), 0);
        };
        tokio::join!(run_for(writer, Duration::from_hours(11)), later);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_lead_writes_none() {
        let (candidacy, leadership) = election_channel();
        let (writer, index, requests) = writer(&[], leadership);
        odd(&index, "a");
        let later = async {
            sleep(Duration::from_mins(1)).await;
            assert_eq!(*requests.lock().unwrap(), 0);
            candidacy.say(Claim::Always);
        };
        tokio::join!(run_for(writer, Duration::from_mins(2)), later);
        assert_eq!(*requests.lock().unwrap(), 1);
    }

    #[test]
    fn the_same_has_the_same_name_and_one_that_fits() {
        let index = Index::default();
        let long = "x".repeat(253);
        for name in ["web", &long] {
            let event = |_: u32| {
                odd(&index, name);
                let finding = index.findings().next().unwrap();
                index.findings().forget(&finding.workload);
                event_of(&finding, "r", Timestamp::UNIX_EPOCH)
            };
            let (event, again) = (event(1), event(2));
            assert_eq!(event, again);
            let name = event.metadata.name.unwrap();
            assert!(name.len() <= LONGEST_NAME && name.starts_with(&name[..3]), "{name}");
            assert_eq!(event.regarding.unwrap().uid.as_deref(), Some("u"));
            assert_eq!(
                (event.reason.as_deref(), event.type_.as_deref()),
                (Some("NoKey"), Some("Warning"))
            );
        }
    }
}
