//! Events on workloads: what their owners should know of their references.
//!
//! An Event is named after what it tells, so that the same is not told again by another replica, or
//! after a restart, while the API server still has it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::client::{RequestError, in_time};
use super::watching::retry_delay;
use crate::core::notice::Untold;
use crate::core::store::Store;
use crate::core::workload::WorkloadId;
use crate::reloader::Leadership;

/// Who tells it, as Events name it.
const CONTROLLER: &str = "vault-secrets-reloader";

/// Between two Events, and between two looks whether there is one to write: a start beside many odd
/// workloads must not press the API server.
const PACE: Duration = Duration::from_millis(100);

/// What the API server refused is tried again after so long. It may be one namespace's quota; after so
/// many refusals in a row it is the permission, and the others wait as well.
const REFUSED_RETRY: Duration = Duration::from_mins(10);
const REFUSALS: u32 = 3;

/// Events on one workload that are written at once, and the time in which one more may be: what
/// client-go allows. A workload that is changed all the time is not told of each time.
const BURST: u32 = 25;
const ONE_MORE_IN: Duration = Duration::from_mins(5);

/// Workloads that it is kept of how many Events they had. Beyond that, those that had few are
/// forgotten first.
const MOST_KEPT: usize = 4096;

/// The longest name of an object.
const LONGEST_NAME: usize = 253;

/// Writes Events, while this replica leads.
pub struct EventWriter {
    client: Client,
    store: Arc<Store>,
    leadership: Leadership,
    replica: String,
    now: fn() -> Timestamp,
    failures: u32,
    refusals: u32,
    /// What was refused, and when to try it again.
    refused: VecDeque<(Instant, Untold)>,
    /// How many Events each workload may have, as of when.
    allowed: HashMap<WorkloadId, (u32, Instant)>,
    /// The workloads that had as many as they may, and when they may have one more.
    resting: VecDeque<(Instant, WorkloadId)>,
}

impl EventWriter {
    /// A writer for what the store has to tell; Events name the replica.
    #[must_use]
    pub fn new(
        client: Client,
        store: Arc<Store>,
        leadership: Leadership,
        replica: String,
        now: fn() -> Timestamp,
    ) -> Self {
        Self {
            client,
            store,
            leadership,
            replica,
            now,
            failures: 0,
            refusals: 0,
            refused: VecDeque::new(),
            allowed: HashMap::new(),
            resting: VecDeque::new(),
        }
    }

    /// Writes until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let writing = async {
            loop {
                self.leadership.gained().await;
                while let Some((_, untold)) =
                    self.refused.pop_front_if(|(again, _)| *again <= Instant::now())
                {
                    self.store.notices().give_back(&untold);
                }
                while let Some((_, id)) =
                    self.resting.pop_front_if(|(end, _)| *end <= Instant::now())
                {
                    self.store.notices().wake(&id);
                }
                let pause = match self.store.notices().next() {
                    Some(untold) if self.leadership.holds() => self.tell(untold).await,
                    Some(untold) => {
                        self.store.notices().give_back(&untold);
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

    /// Writes one Event. Answers how long to wait then.
    async fn tell(&mut self, untold: Untold) -> Duration {
        let event = event_of(&untold, &self.replica, (self.now)());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &untold.workload.namespace);
        let answer = in_time(api.create(&PostParams::default(), &event)).await;
        let code = answer.as_ref().err().map_or(201, RequestError::code);
        match (code, answer) {
            (401 | 403, Err(error)) => self.refused(untold, &error),
            (0 | 429 | 500.., Err(error)) => {
                self.failures = self.failures.saturating_add(1);
                debug!("Cannot write an Event on {}: {error}. Retrying", untold.workload);
                self.store.notices().give_back(&untold);
                retry_delay(self.failures)
            }
            // Written; or told already; or never to be written, as where the namespace is gone.
            _ => {
                (self.failures, self.refusals) = (0, 0);
                self.count(untold.workload);
                PACE
            }
        }
    }

    /// Notes that a workload had one Event more.
    fn count(&mut self, id: WorkloadId) {
        let now = Instant::now();
        let since = |time: Instant| now.saturating_duration_since(time);
        let more = |time| u32::try_from(since(time).as_millis() / ONE_MORE_IN.as_millis());
        if self.allowed.len() >= MOST_KEPT {
            self.allowed.retain(|_, (left, time)| *left + more(*time).unwrap_or(BURST) < BURST);
        }
        if self.allowed.len() >= MOST_KEPT {
            self.allowed.retain(|_, (left, _)| *left <= BURST / 2);
        }
        let (left, time) = self.allowed.entry(id.clone()).or_insert((BURST, now));
        let more = more(*time).unwrap_or(BURST);
        *left = left.saturating_add(more).min(BURST).saturating_sub(1);
        if more > 0 {
            *time = now;
        }
        if *left == 0 {
            self.store.notices().rest(&id);
            self.resting.push_back((now + ONE_MORE_IN, id));
        }
    }

    fn refused(&mut self, untold: Untold, error: &RequestError) -> Duration {
        self.failures = 0;
        self.refusals = self.refusals.saturating_add(1);
        self.refused.push_back((Instant::now() + REFUSED_RETRY, untold));
        if self.refusals < REFUSALS {
            return PACE;
        }
        if self.refusals == REFUSALS {
            warn!(
                "May not write Events: {error}. Grant it create on events.events.k8s.io, or set \
                 --record-events=false; all is in the log as well"
            );
        }
        REFUSED_RETRY
    }
}

fn event_of(untold: &Untold, replica: &str, now: Timestamp) -> Event {
    let Untold { workload, uid, notice, digest } = untold;
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
        action: Some("Collecting".to_owned()),
        reason: Some(notice.reason.to_owned()),
        note: Some(notice.message.clone()),
        type_: Some(if notice.is_warning { "Warning" } else { "Normal" }.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("apps/v1".to_owned()),
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

    use super::super::scripted::{client_of, status};
    use super::*;
    use crate::core::notice::{Notice, Part};
    use crate::core::workload::{Kind, WorkloadId};
    use crate::reloader::{Claim, contended};

    fn workload(name: &str) -> WorkloadId {
        WorkloadId { kind: Kind::Deployment, namespace: "shop".into(), name: name.into() }
    }

    fn odd(store: &Store, name: &str) {
        let notice = Notice { reason: "NoKey", is_warning: true, message: "variable A".to_owned() };
        store.notices().set(&workload(name), "u", Part::Manifest, vec![notice]);
    }

    /// A writer whose server answers by these statuses in turn, and with success when they are used up;
    /// how many requests it got.
    fn writer(
        answers: &[u16],
        leadership: Leadership,
    ) -> (EventWriter, Arc<Store>, Arc<Mutex<u32>>) {
        let answers = Arc::new(Mutex::new(answers.to_vec()));
        let requests = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&requests);
        let client = client_of(move |request| {
            assert_eq!(request.uri().path(), "/apis/events.k8s.io/v1/namespaces/shop/events");
            *counter.lock().unwrap() += 1;
            let mut answers = answers.lock().unwrap();
            if answers.is_empty() {
                return Response::new(Answer::from(json!({ "metadata": {} }).to_string()));
            }
            status(answers.remove(0))
        });
        let store = Arc::new(Store::default());
        let now = || Timestamp::UNIX_EPOCH;
        let writer = EventWriter::new(client, Arc::clone(&store), leadership, "r".to_owned(), now);
        (writer, store, requests)
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
        // One that another replica has written, and a failure.
        let (writer, store, requests) = writer(&[409, 500], Leadership::always());
        for name in ["a", "b", "c"] {
            odd(&store, name);
        }
        run_for(writer, Duration::from_mins(1)).await;
        assert_eq!(*requests.lock().unwrap(), 4);
        assert_eq!(store.notices().next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_permission_the_server_is_left_alone() {
        let (writer, store, requests) = writer(&[403; 5], Leadership::always());
        for number in 0..20 {
            odd(&store, &number.to_string());
        }
        let early = async {
            sleep(Duration::from_mins(9)).await;
            assert_eq!(*requests.lock().unwrap(), 3);
        };
        // Two more, ten minutes apart, and then all.
        tokio::join!(run_for(writer, Duration::from_mins(45)), early);
        assert_eq!(*requests.lock().unwrap(), 25);
        assert_eq!(store.notices().next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_quota_of_one_namespace_keeps_none_of_the_others_waiting() {
        let (writer, store, requests) = writer(&[403, 403], Leadership::always());
        for name in ["a", "b", "c", "d"] {
            odd(&store, name);
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
        let (writer, store, requests) = writer(&[], Leadership::always());
        let busy = async {
            for number in 0..2_400 {
                let message = format!("variable {number}");
                let notice = Notice { reason: "NoKey", is_warning: true, message };
                store.notices().set(&workload("busy"), "u", Part::Manifest, vec![notice]);
                sleep(Duration::from_millis(500)).await;
            }
        };
        let other = async {
            sleep(Duration::from_secs(5)).await;
            let before = *requests.lock().unwrap();
            odd(&store, "web");
            // The server takes a second for each.
            sleep(Duration::from_secs(4)).await;
            let told = *requests.lock().unwrap() - before;
            assert!((2..=5).contains(&told), "{told}");
            assert_eq!(store.notices().untold_of(&workload("web")), 0);
        };
        tokio::join!(run_for(writer, Duration::from_mins(20)), busy, other);
        // One of the other workload, and of this one at first many, and then one in five minutes.
        let requests = *requests.lock().unwrap();
        assert!((1 + BURST + 3..=1 + BURST + 4).contains(&requests), "{requests}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_lead_writes_none() {
        let (candidacy, leadership) = contended();
        let (writer, store, requests) = writer(&[], leadership);
        odd(&store, "a");
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
        let store = Store::default();
        let long = "x".repeat(253);
        for name in ["web", &long] {
            let event = |_: u32| {
                odd(&store, name);
                let untold = store.notices().next().unwrap();
                store.notices().forget(&untold.workload);
                event_of(&untold, "r", Timestamp::UNIX_EPOCH)
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
