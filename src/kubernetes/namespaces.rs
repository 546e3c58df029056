//! The namespaces: one metadata-only watch, whose annotations go to the index.
//!
//! With a label selector, the API server shows only the namespaces that the selector matches. A
//! namespace that the watch shows is selected, and its workloads enter the index by a new list. A
//! namespace that is gone from the watch leaves the index with its workloads.
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
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::effects::Effects;
use super::first_list::FirstList;
use super::watching::{WORKER, Watching};
use crate::index::Index;
use crate::index::namespaces::NamespaceRules;
use crate::model::annotation::{DRY_RUN, FREEZE_UNTIL, RELOAD_WINDOWS};
use crate::model::time_rules::TimeRules;
use crate::references::time_rules;

/// The pause between two checks whether the first list is denied.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The settings of the watch, and the receivers of its reports.
#[derive(Default)]
pub struct Settings {
    /// Everything is listed again after this time.
    pub sync_period: Duration,
    /// The label selector. `None` selects all namespaces.
    pub selector: Option<Arc<str>>,
    /// Cancelled once it is known which namespaces are selected.
    pub selected: CancellationToken,
    /// Cancelled when polls may begin.
    pub synced: CancellationToken,
    /// Carries out the effects of changes.
    pub effects: Effects,
}

/// Watches the annotations of namespaces, and which namespaces are selected.
pub struct NamespaceWatch {
    watching: Watching<PartialObjectMeta<Namespace>>,
    index: Arc<Index>,
    settings: Settings,
    first_list: FirstList,
}

impl NamespaceWatch {
    /// Makes a watch, and lets polls wait for its first list.
    #[must_use]
    pub fn new(client: Client, index: Arc<Index>, settings: Settings) -> Self {
        index.namespaces().await_list();
        let watching = Watching::new(Api::all(client), "namespaces", settings.sync_period);
        let watching = match &settings.selector {
            Some(selector) => watching.with_labels(selector.to_string()),
            None => watching,
        };
        Self { watching, index, settings, first_list: FirstList::default() }
    }

    /// Watches until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.first_list.begin();
        loop {
            let is_awaited = self.first_list.is_awaited();
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = self.watching.next() => self.handle(event),
                () = self.first_list.overdue() => self.go_on_without(),
                () = sleep(LOOK_AGAIN), if is_awaited => self.look(),
            }
        }
    }

    /// Stops polls from waiting for a list that is denied.
    fn look(&mut self) {
        if self.watching.is_denied() {
            self.go_on_without();
        }
    }

    /// Stops polls from waiting for the first list. With a selector, they wait all the same: without
    /// the namespaces, no workload is watched.
    fn go_on_without(&mut self) {
        if self.index.selection().is_on() {
            self.first_list.end();
            error!(
                worker = WORKER,
                "No workload is watched yet, since the controller cannot list the namespaces that \
                 --namespace-selector selects. If the API server denies it, grant the service account \
                 list and watch on namespaces; retrying"
            );
            return;
        }
        warn!(
            worker = WORKER,
            "Going on without the annotations of namespaces: freeze-until, reload-windows and \
             dry-run of a namespace have no effect until the controller can list namespaces. Grant \
             the service account list and watch on namespaces"
        );
        self.index.namespaces().do_not_await();
        self.go_on();
    }

    fn go_on(&mut self) {
        self.first_list.end();
        if self.index.may_be_polled() {
            self.settings.synced.cancel();
        }
    }

    fn handle(&mut self, event: WatchEvent<PartialObjectMeta<Namespace>>) {
        let (namespaces, selection) = (self.index.namespaces(), self.index.selection());
        match event {
            WatchEvent::Init => {
                namespaces.begin_list();
                selection.begin_list();
            }
            WatchEvent::InitApply(object) | WatchEvent::Apply(object) => {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                take_in_annotations(&self.index, name, &object);
                // Before the first list has ended, no workload was listed.
                if selection.add(name) && self.settings.selected.is_cancelled() {
                    info!(
                        worker = WORKER,
                        "Namespace {name} is selected now; listing its workloads"
                    );
                    self.settings.effects.list_all_again();
                }
            }
            WatchEvent::InitDone => {
                // A freeze counts until no reload of the namespace can start.
                for name in selection.end_list() {
                    self.leave(&name);
                }
                namespaces.end_list();
                self.settings.selected.cancel();
                self.go_on();
            }
            WatchEvent::Delete(object) => {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                if selection.remove(name) {
                    self.leave(name);
                }
                namespaces.delete(name);
            }
        }
    }

    /// Removes the workloads of a namespace that is not selected any more.
    fn leave(&self, namespace: &str) {
        info!(
            worker = WORKER,
            "Namespace {namespace} is not selected any more; its workloads are not watched"
        );
        self.settings.effects.carry_out(&self.index.leave_namespace(namespace));
    }
}

/// Takes the annotations of a namespace into the index, and warns of those that have no effect.
pub(super) fn take_in_annotations(
    index: &Index,
    name: &str,
    object: &PartialObjectMeta<Namespace>,
) {
    let rules = rules(object);
    let notes: Vec<_> = time_rules::notes(&rules.time_rules).collect();
    if !index.namespaces().apply(name, rules) {
        return;
    }
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
    use std::sync::Mutex;

    use axum::body::Body as Answer;
    use http::Response;
    use serde_json::json;

    use super::super::scripted;
    use super::*;
    use crate::model::annotation::OptIn;
    use crate::model::kind::Kind;
    use crate::model::scope::WatchScope;
    use crate::references::environment::{Container, EnvVar};
    use crate::references::manifest::Manifest;

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
        let synced = CancellationToken::new();
        let settings = Settings {
            sync_period: Duration::from_hours(1),
            synced: synced.clone(),
            ..Settings::default()
        };
        let watch = NamespaceWatch::new(client, Arc::clone(index), settings);
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

    /// Returns an opted-in Deployment that refers to a secret.
    fn manifest(namespace: &str) -> Manifest {
        let variable = EnvVar::literal("A", "vault:secret/data/a#k");
        Manifest {
            namespace: namespace.to_owned(),
            name: "web".to_owned(),
            uid: "u".to_owned(),
            annotations: [(OptIn::Current.key(), "true")].into_iter().collect(),
            containers: vec![Container {
                name: "app".to_owned(),
                variables: vec![variable],
                ..Container::default()
            }],
            ..Manifest::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_enters_and_leaves_with_its_label() {
        let queries = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&queries);
        let event = |kind: &str, name: &str| {
            let object = json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": { "name": name, "resourceVersion": "2" },
            });
            format!("{}\n", json!({ "type": kind, "object": object }))
        };
        let events = event("ADDED", "bank") + &event("DELETED", "shop");
        let client = scripted::client(move |query| {
            let mut queries = seen.lock().unwrap();
            queries.push(query.to_owned());
            if !query.contains("watch=true") {
                return scripted::list(&[json!({ "metadata": { "name": "shop" } })], "");
            }
            // The first watch shows both events and ends. The next one stays silent.
            Answer::from(if queries.len() == 2 { events.clone() } else { String::new() })
        });
        let selector: Arc<str> = "team=payments".into();
        let index = Index::default().with_scope(&WatchScope::Selected(Arc::clone(&selector)));
        let index = Arc::new(index);
        let (selected, effects) = (CancellationToken::new(), Effects::default());
        let settings = Settings {
            sync_period: Duration::from_hours(1),
            selector: Some(selector),
            selected: selected.clone(),
            effects: effects.clone(),
            ..Settings::default()
        };
        let collector = effects.add_collector(Kind::DEPLOYMENT.into());
        let watch = NamespaceWatch::new(client, Arc::clone(&index), settings);
        let test = async {
            selected.cancelled().await;
            index.apply(manifest("shop"), Kind::DEPLOYMENT);
            index.apply(manifest("bank"), Kind::DEPLOYMENT);
            assert_eq!(index.len(), (1, 1), "only one of the two is selected");
            collector.notified().await;
            index.apply(manifest("bank"), Kind::DEPLOYMENT);
            sleep(Duration::from_secs(10)).await;
            let stored = index.workloads();
            let names: Vec<_> = stored.iter().map(|it| &*it.workload.id.namespace).collect();
            assert_eq!(names, ["bank"]);
            let queries = queries.lock().unwrap();
            assert!(queries.iter().all(|query| query.contains("labelSelector=team%3Dpayments")));
        };
        tokio::select! {
            () = watch.run(CancellationToken::new()) => panic!("it ended"),
            () = test => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_polled_while_it_is_not_known_which_namespaces_are_selected() {
        let denying = scripted::client_of(|_| scripted::status(403));
        let scope = WatchScope::Selected("team=payments".into());
        let index = Arc::new(Index::default().with_scope(&scope));
        let synced = run_for(Duration::from_mins(2), denying, &index).await;
        assert!(!synced.is_cancelled() && !index.may_be_polled());
    }
}
