//! The loop that sends messages.
//!
//! Messages are sent one after the other. A message that cannot be sent is tried again for a few
//! minutes, and then given up. Meanwhile the messages behind it wait in the queue.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::client::{Client, SendError};
use super::message::Message;
use super::metrics::Counts;
use super::notifier::{Notifier, WORKER};
use super::retry::Retry;
use super::template::{Body, Template, built_in};

/// How often a message counts those that the rate limit left out.
const SUMMARY_EVERY: Duration = Duration::from_mins(1);

/// Sends the messages of a queue.
pub struct Sender {
    queue: mpsc::Receiver<Message>,
    /// The other end of the queue, which stays open.
    notifier: Arc<Notifier>,
    client: Client,
    template: Template,
    retry: Retry,
    counts: Arc<Counts>,
    /// Why messages are not sent at present. A problem is logged only when it changes.
    problem: Option<String>,
    /// Whether it was logged that the template makes no body.
    is_template_reported: bool,
}

impl Sender {
    /// Returns a sender of the messages that the notifier puts into the queue.
    #[must_use]
    pub fn new(
        queue: mpsc::Receiver<Message>,
        notifier: Arc<Notifier>,
        client: Client,
        template: Template,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            queue,
            notifier,
            client,
            template,
            retry: Retry::default(),
            counts,
            problem: None,
            is_template_reported: false,
        }
    }

    /// Sends messages until `shutdown`. Messages that wait then are lost.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut summaries = interval(SUMMARY_EVERY);
        summaries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                Some(message) = self.queue.recv() => Some(message),
                _ = summaries.tick() => self.notifier.take_left_out(),
                () = shutdown.cancelled() => return,
            };
            let Some(message) = message else { continue };
            tokio::select! {
                () = self.deliver(&message) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Sends a message, and tries again until it is sent or given up.
    async fn deliver(&mut self, message: &Message) {
        let body = self.body(message);
        let began = Instant::now();
        let mut failures = 0;
        loop {
            let error = match self.client.post(&body).await {
                Ok(()) => {
                    self.counts.count_sent();
                    if self.problem.take().is_some() {
                        info!(worker = WORKER, "Notifications are sent again");
                    }
                    return;
                }
                Err(error) => error,
            };
            failures += 1;
            let pause = self.retry.pause(&error, failures, began.elapsed(), fastrand::f64());
            let Some(pause) = pause else {
                self.give_up(message, &error);
                return;
            };
            debug!(
                worker = WORKER,
                notification = message.event(),
                "A notification was not sent: {error}. Trying again in {} ms",
                pause.as_millis()
            );
            sleep(pause).await;
        }
    }

    fn give_up(&mut self, message: &Message, error: &SendError) {
        self.counts.count_failed();
        let problem = error.to_string();
        if self.problem.as_ref() != Some(&problem) {
            warn!(
                worker = WORKER,
                notification = message.event(),
                "A notification was given up: {problem}. Check the webhook and the files of the \
                 --notification flags; later notifications are tried"
            );
            self.problem = Some(problem);
        }
    }

    /// Returns the body of a message: the built-in one if the template makes none.
    fn body(&mut self, message: &Message) -> Body {
        self.template.body(message).unwrap_or_else(|problem| {
            if !std::mem::replace(&mut self.is_template_reported, true) {
                warn!(
                    worker = WORKER,
                    notification = message.event(),
                    "--notification-template-file makes no body: {problem}. The built-in body is sent"
                );
            }
            built_in(message)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::OnceLock;

    use jiff::Timestamp;

    use super::*;
    use crate::decide::plan::Cause;
    use crate::election::leadership::Leadership;
    use crate::events::event::Event;
    use crate::events::sink::Sink as _;
    use crate::model::fixtures::workload;
    use crate::model::notification::NotificationKind;
    use crate::model::workload::WorkloadId;
    use crate::notifications::client::ClientSettings;
    use crate::notifications::listener::{Answer, Listener};
    use crate::notifications::notifier::Settings;

    /// Pauses that no test notices.
    const RETRY: Retry = Retry {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(1),
        give_up_after: Duration::from_mins(1),
        attempts: 3,
    };

    /// A sender to a webhook, with the folder of its files, which has to be kept.
    fn sender(url: &str, timeout: Duration) -> (Sender, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let url_file = folder.path().join("url");
        std::fs::write(&url_file, url).unwrap();
        let settings = ClientSettings { url_file, headers_file: None, ca_file: None };
        let client = Client::new(settings).with_timeout(timeout);
        let led = Arc::new(OnceLock::from(Leadership::always()));
        let kinds = BTreeSet::from(NotificationKind::CHOICES);
        let settings = Settings { kinds, source: "test".into(), per_minute: 4 };
        let counts = Arc::default();
        let clock = || Timestamp::UNIX_EPOCH;
        let (notifier, queue) = Notifier::new(settings, led, clock, Arc::clone(&counts));
        let template = Template::built_in();
        let sender = Sender::new(queue, Arc::new(notifier), client, template, counts);
        (Sender { retry: RETRY, ..sender }, folder)
    }

    fn failed(workload: &WorkloadId) -> Event<'_> {
        Event::ReloadFailed { workload, cause: Cause::Found, error: "no", again: false }
    }

    fn counts(sender: &Sender) -> [u64; 3] {
        sender.counts.by_result().map(|(_, count)| count)
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_message_is_sent_again_as_it_was_until_it_is_accepted() {
        let (listener, server) = Listener::start([Answer::Status(503); 2]).await;
        let (mut sender, _folder) = sender(listener.url(), LONG);
        let message = &Message::examples()[0];
        listener.during(server, sender.deliver(message)).await;
        let received = listener.received();
        assert_eq!(received.len(), 3);
        assert!(received.iter().all(|it| it.body == built_in(message).text), "{received:?}");
        assert_eq!((counts(&sender), &sender.problem), ([1, 0, 0], &None));
    }

    #[tokio::test]
    async fn a_message_that_is_refused_or_never_answered_is_given_up() {
        let answers = [Answer::Status(400), Answer::Hang, Answer::Hang, Answer::Hang];
        let (listener, server) = Listener::start(answers).await;
        let (mut sender, _folder) = sender(listener.url(), Duration::from_millis(500));
        let message = &Message::examples()[0];
        let sent = async {
            sender.deliver(message).await;
            assert_eq!(listener.received().len(), 1, "no other answer is to be expected");
            assert!(sender.problem.as_ref().is_some_and(|it| it.contains("the status 400")));
            sender.deliver(message).await;
            assert_eq!(listener.received().len(), 4);
            assert_eq!(counts(&sender), [0, 2, 0]);
            sender
        };
        let sender = listener.during(server, sent).await;
        assert!(sender.problem.is_some_and(|problem| problem.contains("does not answer")));
    }

    #[tokio::test]
    async fn what_is_in_the_queue_is_sent_in_order() {
        let (listener, server) = Listener::start([Answer::Status(500)]).await;
        let (mut sender, _folder) = sender(listener.url(), LONG);
        let text = "[{{ subject }}]".to_owned();
        sender.template = Template::compile("a", text).unwrap();
        let (web, api) = (workload("web", &["a"]).id, workload("api", &["a"]).id);
        for workload in [&web, &api] {
            sender.notifier.on(&failed(workload));
        }
        let shutdown = CancellationToken::new();
        let work = async {
            tokio::select! {
                () = sender.run(shutdown.clone()) => panic!("the sender ended"),
                () = listener.wait_for(3) => {}
            }
        };
        listener.during(server, work).await;
        let bodies: Vec<_> = listener.received().into_iter().map(|it| it.body).collect();
        let (web, api) = ("[\"shop/Deployment/web\"]", "[\"shop/Deployment/api\"]");
        assert_eq!(bodies, [web, web, api]);
    }

    #[test]
    fn a_template_that_fails_later_is_replaced_by_the_built_in_body() {
        let (mut sender, _folder) = sender("http://127.0.0.1:1", LONG);
        let text = "{% if source == \"test\" %}no JSON{% else %}1{% endif %}";
        sender.template = Template::compile("a", text.to_owned()).unwrap();
        let web = workload("web", &["a"]).id;
        sender.notifier.on(&failed(&web));
        let message = sender.queue.try_recv().unwrap();
        assert_eq!(sender.body(&message), built_in(&message));
        assert!(sender.is_template_reported);
    }
}
