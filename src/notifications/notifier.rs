//! The sink of events that makes messages and puts them into the queue.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::limit::{Admission, RateLimit};
use super::message::{Data, Message};
use super::metrics::Counts;
use super::told::Told;
use crate::election::leadership::Leadership;
use crate::events::event::Event;
use crate::events::sink::Sink;
use crate::model::notification::NotificationKind;

/// The value of the log key `worker`.
pub(super) const WORKER: &str = "notifier";

/// The most messages that wait. A message has 10 KB at most, and mostly 1 KB.
const QUEUE: usize = 200;

/// What is told, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The kinds that are sent.
    pub kinds: BTreeSet<NotificationKind>,
    /// The name of this controller in messages.
    pub source: Arc<str>,
    /// The most messages a minute.
    pub per_minute: u32,
}

/// Makes messages while this replica leads.
#[derive(Debug)]
pub struct Notifier {
    settings: Settings,
    leadership: Arc<OnceLock<Leadership>>,
    now: fn() -> Timestamp,
    queue: mpsc::Sender<Message>,
    counts: Arc<Counts>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    told: Told,
    limit: RateLimit,
    /// Whether the queue was full, and was not empty since.
    is_full: bool,
}

impl Notifier {
    /// Returns a sink, and the end of its queue. `now` returns the present by the controller's clock.
    #[must_use]
    pub fn new(
        settings: Settings,
        leadership: Arc<OnceLock<Leadership>>,
        now: fn() -> Timestamp,
        counts: Arc<Counts>,
    ) -> (Self, mpsc::Receiver<Message>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let limit = RateLimit::new(settings.per_minute);
        let state = Mutex::new(State { told: Told::default(), limit, is_full: false });
        (Self { settings, leadership, now, queue, counts, state }, waiting)
    }

    /// Returns a message about those that the rate limit left out since the last call.
    pub(super) fn take_left_out(&self) -> Option<Message> {
        let left_out = self.state().limit.take_left_out();
        if left_out.is_empty() {
            return None;
        }
        let Settings { source, per_minute, .. } = &self.settings;
        let data = Data::left_out(left_out, *per_minute);
        Some(Message::new(data, Arc::clone(source), (self.now)()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock ends the process.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the rate limit lets a message through. If not, the message is counted.
    fn admit(
        &self,
        limit: &mut RateLimit,
        kind: NotificationKind,
        data: &Data,
        now: Timestamp,
    ) -> bool {
        let admission = limit.admit(now.as_second().div_euclid(60), data.group(), kind);
        if admission == Admission::Admitted {
            return true;
        }
        self.counts.count_dropped();
        if admission == Admission::FirstLeftOut {
            warn!(
                worker = WORKER,
                "More notifications come than --notification-rate={} lets through; one message will \
                 count those that are left out",
                self.settings.per_minute
            );
        }
        false
    }

    /// Puts a message into the queue. If the queue is full, the message is dropped.
    fn enqueue(&self, is_full: &mut bool, message: Message) {
        if *is_full && self.queue.capacity() == self.queue.max_capacity() {
            *is_full = false;
            info!(worker = WORKER, "No notification waits any more");
        }
        if self.queue.try_send(message).is_ok() {
            return;
        }
        self.counts.count_dropped();
        if !std::mem::replace(is_full, true) {
            warn!(
                worker = WORKER,
                "{QUEUE} notifications wait for the webhook, and more are dropped. Check that the \
                 webhook answers"
            );
        }
    }
}

impl Sink for Notifier {
    fn on(&self, event: &Event<'_>) {
        if let Event::Removed { workload } | Event::Reloaded { workload, .. } = *event {
            self.state().told.forget(workload);
        }
        // Most events, and those of each poll, end here.
        let Some((kind, data)) = Data::of(event) else { return };
        // Each replica sees how rollouts end.
        if !self.leadership.get().is_some_and(Leadership::holds) {
            return;
        }
        let mut state = self.state();
        if !state.told.is_news(event) || !self.settings.kinds.contains(&kind) {
            return;
        }
        let now = (self.now)();
        if self.admit(&mut state.limit, kind, &data, now) {
            let message = Message::new(data, Arc::clone(&self.settings.source), now);
            self.enqueue(&mut state.is_full, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::hold::Hold;
    use crate::decide::plan::Cause;
    use crate::election::leadership::{Claim, election_channel};
    use crate::events::event::Held;
    use crate::model::fixtures::workload;
    use crate::model::workload::WorkloadId;

    /// A sink of a replica with this claim.
    fn notifier(claim: Claim, per_minute: u32) -> (Notifier, mpsc::Receiver<Message>) {
        let (candidate, leadership) = election_channel();
        candidate.say(claim);
        let led = Arc::new(OnceLock::new());
        assert!(led.set(leadership).is_ok());
        let kinds = [NotificationKind::ReloadFailed, NotificationKind::ReloadReleased];
        let (kinds, source) = (kinds.into_iter().collect(), "test".into());
        let settings = Settings { kinds, source, per_minute };
        Notifier::new(settings, led, || Timestamp::UNIX_EPOCH, Arc::default())
    }

    fn failed(workload: &WorkloadId) -> Event<'_> {
        Event::ReloadFailed { workload, cause: Cause::Found, error: "no", again: false }
    }

    fn told(queue: &mut mpsc::Receiver<Message>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.try_recv().ok()).map(|message| message.event()).collect()
    }

    #[test]
    fn only_chosen_kinds_are_told_and_only_by_the_leader() {
        let web = workload("web", &["a"]).id;
        let (notifier, mut queue) = self::notifier(Claim::Always, 10);
        let hold = Held::For(Hold::SecretGone);
        notifier.on(&Event::Held { workload: &web, hold, changed: &[], gone: &[] });
        notifier.on(&Event::NothingToReload);
        assert_eq!(told(&mut queue), [""; 0]);
        notifier.on(&Event::Released { workload: &web });
        notifier.on(&Event::Released { workload: &web });
        notifier.on(&failed(&web));
        assert_eq!(told(&mut queue), ["reload-released", "reload-failed"]);
        let (notifier, mut queue) = self::notifier(Claim::No, 10);
        notifier.on(&failed(&web));
        assert_eq!(told(&mut queue), [""; 0]);
    }

    #[test]
    fn a_flood_is_one_summary() {
        let web = workload("web", &["a"]).id;
        let (notifier, mut queue) = notifier(Claim::Always, 10);
        for _ in 0..1_000 {
            notifier.on(&failed(&web));
        }
        assert_eq!(told(&mut queue).len(), 5);
        let summary = serde_json::to_value(notifier.take_left_out()).unwrap();
        assert_eq!(summary["data"]["leftOut"]["reload-failed"], 995);
        assert!(notifier.take_left_out().is_none());
        assert_eq!(notifier.counts.by_result(), [("sent", 0), ("failed", 0), ("dropped", 995)]);
    }

    #[test]
    fn the_queue_has_a_bound_and_never_waits() {
        let web = workload("web", &["a"]).id;
        let (notifier, mut queue) = notifier(Claim::Always, 100_000);
        for _ in 0..QUEUE + 7 {
            notifier.on(&failed(&web));
        }
        assert_eq!(notifier.counts.by_result()[2], ("dropped", 7));
        assert!(notifier.state().is_full);
        assert_eq!(told(&mut queue).len(), QUEUE);
        notifier.on(&failed(&web));
        assert!(!notifier.state().is_full);
        assert_eq!(told(&mut queue).len(), 1);
    }
}
