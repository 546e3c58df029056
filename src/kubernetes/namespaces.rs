//! The namespaces: one metadata-only watch, whose annotations go to the index.
//!
//! Polls wait for the first list, so that a start reloads nothing that a namespace freezes. They do
//! not wait if the list is denied, or takes too long: a controller that may not read namespaces goes
//! on without their annotations, and says so.
//!
//! Architecture Invariant: this module writes the namespaces of the index and nothing else.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event as WatchEvent;
use kube::{Api, Client};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::watching::{WORKER, Watching};
use crate::index::Index;
use crate::index::namespaces::NamespaceRules;
use crate::model::annotation::{DRY_RUN, FREEZE_UNTIL, RELOAD_WINDOWS};
use crate::model::time_rules::TimeRules;
use crate::references::time_rules;

/// Polls do not wait longer than this for the first list, as for the kinds of workloads.
const LISTED_WITHIN: Duration = Duration::from_secs(30);

/// The pause between two checks whether the first list is denied or overdue.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Watches the annotations of namespaces.
pub struct NamespaceWatch {
    watching: Watching<PartialObjectMeta<Namespace>>,
    index: Arc<Index>,
    /// Cancelled when polls may begin.
    synced: CancellationToken,
    /// When the first list is overdue. `None` once polls do not wait for it.
    overdue_at: Option<Instant>,
}

impl NamespaceWatch {
    /// Makes a watch, and lets polls wait for its first list.
    #[must_use]
    pub fn new(
        client: Client,
        index: Arc<Index>,
        synced: CancellationToken,
        sync_period: Duration,
    ) -> Self {
        index.namespaces().await_list();
        let watching = Watching::new(Api::all(client), "namespaces", sync_period);
        Self { watching, index, synced, overdue_at: None }
    }

    /// Watches until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.overdue_at = Some(Instant::now() + LISTED_WITHIN);
        loop {
            let is_awaited = self.overdue_at.is_some();
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = self.watching.next() => self.handle(event),
                () = sleep(LOOK_AGAIN), if is_awaited => self.look(),
            }
        }
    }

    /// Stops polls from waiting for a list that is denied or overdue.
    fn look(&mut self) {
        let is_overdue = self.overdue_at.is_some_and(|time| time <= Instant::now());
        if is_overdue || self.watching.is_denied() {
            warn!(
                worker = WORKER,
                "Going on without the annotations of namespaces: freeze-until, reload-windows and \
                 dry-run of a namespace have no effect until the controller can list namespaces. Grant \
                 the service account list and watch on namespaces"
            );
            self.index.namespaces().do_not_await();
            self.go_on();
        }
    }

    fn go_on(&mut self) {
        self.overdue_at = None;
        if self.index.may_be_polled() {
            self.synced.cancel();
        }
    }

    fn handle(&mut self, event: WatchEvent<PartialObjectMeta<Namespace>>) {
        let namespaces = self.index.namespaces();
        match event {
            WatchEvent::Init => namespaces.begin_list(),
            WatchEvent::InitApply(object) | WatchEvent::Apply(object) => {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                let rules = rules(&object);
                let notes: Vec<_> = time_rules::notes(&rules.time_rules).collect();
                if namespaces.apply(name, rules) {
                    for note in notes {
                        warn!(
                            worker = WORKER,
                            reason = note.reason.code(),
                            "Namespace {name}: {}: {}",
                            note.origin,
                            note.reason.advice()
                        );
                    }
                }
            }
            WatchEvent::InitDone => {
                namespaces.end_list();
                self.go_on();
            }
            WatchEvent::Delete(object) => {
                namespaces.delete(object.metadata.name.as_deref().unwrap_or_default());
            }
        }
    }
}

/// Returns what the annotations of a namespace say.
fn rules(object: &PartialObjectMeta<Namespace>) -> NamespaceRules {
    let annotations = object.metadata.annotations.as_ref();
    let text = |name: &str| annotations.and_then(|all| all.get(name)).map(String::as_str);
    NamespaceRules {
        dry_run: text(DRY_RUN) == Some("true"),
        time_rules: TimeRules::new(text(FREEZE_UNTIL), text(RELOAD_WINDOWS)),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body as Answer;
    use http::Response;
    use serde_json::json;

    use super::super::scripted;
    use super::*;
    use crate::model::kind::Kind;

    /// Returns an index whose workloads are all listed.
    fn listed() -> Arc<Index> {
        let index = Arc::new(Index::default());
        for kind in Kind::ALL {
            index.begin_list(kind);
            index.end_list(kind);
        }
        index
    }

    /// Runs a watch for a time.
    async fn run_for(time: Duration, client: Client, index: &Arc<Index>) -> CancellationToken {
        let (synced, period) = (CancellationToken::new(), Duration::from_hours(1));
        let watch = NamespaceWatch::new(client, Arc::clone(index), synced.clone(), period);
        assert!(!index.may_be_polled());
        let run = watch.run(CancellationToken::new());
        assert!(tokio::time::timeout(time, run).await.is_err(), "it ended");
        synced
    }

    #[tokio::test(start_paused = true)]
    async fn the_annotations_are_known_before_the_first_poll() {
        let client = scripted::client(|query| {
            if query.contains("watch=true") {
                return Answer::empty();
            }
            let annotations = json!({
                FREEZE_UNTIL: "2026-12-24", RELOAD_WINDOWS: "never", DRY_RUN: "true", "a": "b",
            });
            let named = |name: &str, annotations| json!({ "metadata": { "name": name, "annotations": annotations } });
            let plain = json!({ "metadata": { "name": "plain" } });
            scripted::list(&[named("shop", annotations), plain], "")
        });
        let index = listed();
        let synced = run_for(Duration::from_secs(2), client, &index).await;
        assert!(synced.is_cancelled());
        let rules = index.namespaces().of("shop").unwrap();
        assert_eq!(
            *rules,
            NamespaceRules {
                dry_run: true,
                time_rules: TimeRules::new(Some("2026-12-24"), Some("never")),
            }
        );
        assert!(index.namespaces().of("plain").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn polls_do_not_wait_for_a_list_that_is_denied_or_hangs() {
        let denying = scripted::client_of(|_| scripted::status(403));
        let failing = scripted::client_of(|_| scripted::status(500));
        let hanging =
            scripted::client_after(Duration::from_hours(1), |_| Response::new(Answer::empty()));
        let (soon, late) = (Duration::from_secs(4), Duration::from_secs(32));
        assert!(run_for(soon, denying, &listed()).await.is_cancelled());
        for client in [failing, hanging] {
            assert!(!run_for(soon, client.clone(), &listed()).await.is_cancelled());
            assert!(run_for(late, client, &listed()).await.is_cancelled());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn polls_wait_for_the_workloads_all_the_same() {
        let client = scripted::client(|query| {
            let is_watch = query.contains("watch=true");
            if is_watch { Answer::empty() } else { scripted::list(&[], "") }
        });
        let index = Arc::new(Index::default());
        let synced = run_for(Duration::from_secs(5), client, &index).await;
        assert!(!synced.is_cancelled());
        assert!(index.namespaces().may_be_polled());
    }
}
