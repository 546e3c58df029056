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
mod tests;
