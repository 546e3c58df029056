//! The annotations of the named namespaces, if only these are watched. Each namespace is read by its
//! name once a minute: a Role of the namespace can grant that, but no list and no watch.
//!
//! Polls wait for the first round, as they wait for the first list of [`super::namespaces`].
//!
//! Architecture Invariant: this module writes the namespaces of the index and nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::client::{RequestError, in_time};
use super::first_list::{FirstList, LISTED_WITHIN};
use super::namespaces::take_in_annotations;
use super::watching::WORKER;
use crate::index::Index;

/// The pause between two rounds. An annotation has an effect within this time. With the most
/// namespaces, the API server gets two requests a second.
const READ_EVERY: Duration = Duration::from_mins(1);

/// The pause between two rounds while polls wait for the first one. A read that fails once must not end
/// their wait, since the namespace may freeze reloads.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// How many namespaces are read at once.
const READS_AT_A_TIME: usize = 4;

type Answer = Result<PartialObjectMeta<Namespace>, RequestError>;

/// Reads the annotations of the named namespaces.
pub struct NamespaceReader {
    api: Api<Namespace>,
    names: Arc<[Arc<str>]>,
    index: Arc<Index>,
    /// Cancelled when polls may begin.
    synced: CancellationToken,
    /// The namespaces that could not be read the last time.
    unreadable: BTreeSet<Arc<str>>,
    /// The first round.
    first_list: FirstList,
}

impl NamespaceReader {
    /// Makes a reader of the namespaces with these names, and lets polls wait for its first round.
    #[must_use]
    pub fn new(
        client: Client,
        names: Arc<[Arc<str>]>,
        index: Arc<Index>,
        synced: CancellationToken,
    ) -> Self {
        index.namespaces().await_list();
        let (unreadable, first_list) = (BTreeSet::new(), FirstList::default());
        Self { api: Api::all(client), names, index, synced, unreadable, first_list }
    }

    /// Reads until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.first_list.begin();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.read_all() => {}
            }
            let pause = if self.first_list.is_awaited() { READ_AGAIN } else { READ_EVERY };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(pause) => {}
                () = self.first_list.overdue() => self.go_on_without(),
            }
        }
    }

    /// Reads each namespace once. Polls may begin if each read had an answer, or was denied.
    async fn read_all(&mut self) {
        let reads: Vec<_> = self.names.iter().map(|name| self.read(name)).collect();
        let mut answers = stream::iter(reads).buffer_unordered(READS_AT_A_TIME);
        let mut are_answered = true;
        loop {
            tokio::select! {
                next = answers.next() => match next {
                    Some((name, answer)) => are_answered &= self.take_in(&name, answer),
                    None => break,
                },
                () = self.first_list.overdue() => self.go_on_without(),
            }
        }
        if are_answered && self.first_list.is_awaited() {
            self.go_on();
        }
    }

    fn read(&self, name: &Arc<str>) -> BoxFuture<'static, (Arc<str>, Answer)> {
        let (api, name) = (self.api.clone(), Arc::clone(name));
        Box::pin(async move {
            let answer = in_time(api.get_metadata(&name)).await;
            (name, answer)
        })
    }

    /// Stops polls from waiting for the first round.
    fn go_on_without(&mut self) {
        warn!(
            worker = WORKER,
            "Going on without some annotations of namespaces, since the API server did not answer \
             within {} s",
            LISTED_WITHIN.as_secs()
        );
        self.go_on();
    }

    fn go_on(&mut self) {
        self.first_list.end();
        self.index.namespaces().do_not_await();
        if self.index.may_be_polled() {
            self.synced.cancel();
        }
    }

    /// Takes in an answer. Returns `false` if it is worth reading the namespace again soon.
    fn take_in(&mut self, name: &Arc<str>, answer: Answer) -> bool {
        match answer {
            Ok(object) => {
                if self.unreadable.remove(name) {
                    info!(worker = WORKER, "The annotations of namespace {name} are read again");
                }
                take_in_annotations(&self.index, name, &object);
                true
            }
            Err(error) if error.code() == 404 => {
                self.index.namespaces().delete(name);
                true
            }
            Err(error) => {
                let is_final = error.is_forbidden();
                if self.unreadable.insert(Arc::clone(name)) {
                    warn!(
                        worker = WORKER,
                        "Cannot read namespace {name}: {error}. What is known of its annotations \
                         freeze-until, reload-windows and dry-run is kept; retrying. If the API server \
                         denies it, grant the service account get on this namespace by a Role in it"
                    );
                }
                is_final
            }
        }
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
    use crate::model::annotation::DRY_RUN;
    use crate::model::kind::Kind;
    use crate::model::scope::{ListScope, WatchScope};

    /// Returns names, and an index whose workloads in these namespaces are all listed.
    fn listed(names: &[&str]) -> (Arc<[Arc<str>]>, Arc<Index>) {
        let names: Arc<[Arc<str>]> = names.iter().map(|name| Arc::from(*name)).collect();
        let index = Index::default().with_scope(&WatchScope::Named(Arc::clone(&names)));
        for kind in Kind::ALL {
            for name in names.iter() {
                let list = ListScope { kind, namespace: Some(Arc::clone(name)) };
                index.begin_list(list.clone());
                index.end_list(list);
            }
        }
        (names, Arc::new(index))
    }

    /// Runs a reader for a time. Returns whether polls may begin then.
    async fn run_for(time: Duration, client: Client, names: &[&str]) -> (Arc<Index>, bool) {
        let (names, index) = listed(names);
        let synced = CancellationToken::new();
        let reader = NamespaceReader::new(client, names, Arc::clone(&index), synced.clone());
        assert!(!index.may_be_polled());
        let run = reader.run(CancellationToken::new());
        assert!(tokio::time::timeout(time, run).await.is_err(), "it ended");
        (index, synced.is_cancelled())
    }

    #[tokio::test(start_paused = true)]
    async fn each_namespace_is_read_by_its_name_before_the_first_poll_and_once_a_minute() {
        let paths = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&paths);
        let client = scripted::client_of(move |request| {
            let path = request.uri().path().to_owned();
            seen.lock().unwrap().push(path.clone());
            match path.as_str() {
                "/api/v1/namespaces/shop" => {
                    let annotations = json!({ DRY_RUN: "true" });
                    let metadata = json!({ "name": "shop", "annotations": annotations });
                    Response::new(Answer::from(json!({ "metadata": metadata }).to_string()))
                }
                "/api/v1/namespaces/denied" => scripted::status(403),
                _ => scripted::status(404),
            }
        });
        let names = ["shop", "denied", "gone"];
        let (index, is_synced) = run_for(Duration::from_secs(150), client, &names).await;
        assert!(is_synced);
        assert!(index.namespaces().of("shop").is_some_and(|rules| rules.dry_run));
        assert!(index.namespaces().of("denied").is_none());
        let mut paths = paths.lock().unwrap().clone();
        paths.sort();
        let of = |name: &str| vec![format!("/api/v1/namespaces/{name}"); 3];
        let mut expected: Vec<String> = names.into_iter().flat_map(of).collect();
        expected.sort();
        assert_eq!(paths, expected, "three rounds, and no list");
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_read_that_fails_is_repeated_before_polls_begin() {
        let failing = || scripted::client_of(|_| scripted::status(500));
        assert!(!run_for(Duration::from_secs(25), failing(), &["shop"]).await.1);
        assert!(run_for(Duration::from_secs(35), failing(), &["shop"]).await.1);
        let requests = Arc::new(Mutex::new(0));
        let once = scripted::client_of(move |_| {
            let mut requests = requests.lock().unwrap();
            *requests += 1;
            if *requests == 1 {
                return scripted::status(500);
            }
            let metadata = json!({ "name": "shop", "annotations": { DRY_RUN: "true" } });
            Response::new(Answer::from(json!({ "metadata": metadata }).to_string()))
        });
        let (index, is_synced) = run_for(Duration::from_secs(15), once, &["shop"]).await;
        assert!(is_synced && index.namespaces().of("shop").is_some_and(|rules| rules.dry_run));
    }

    #[tokio::test(start_paused = true)]
    async fn polls_do_not_wait_for_an_api_server_that_hangs() {
        let hanging =
            || scripted::client_after(Duration::from_hours(1), |_| Response::new(Answer::empty()));
        let names: Vec<String> = (0..40).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(!run_for(Duration::from_secs(25), hanging(), &names).await.1);
        assert!(run_for(Duration::from_secs(35), hanging(), &names).await.1);
    }
}
