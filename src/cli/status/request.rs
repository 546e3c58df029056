//! The requests of `status`, and how lists are followed page by page.

use std::time::Duration;

use serde::de::DeserializeOwned;
use url::Url;

use super::error::RequestError;
use crate::model::text::shorten;
use crate::model::workload::WorkloadId;
use crate::status::api::{Overview, Page, Rotation, SecretStatus, User, WorkloadStatus};

/// The time-out of a request, from the connection to the end of the answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest answer that is read, in bytes.
pub(super) const LONGEST: usize = 16 << 20;

/// The user agent of all requests.
pub(super) const AGENT: &str = concat!("vault-secrets-reloader/", env!("CARGO_PKG_VERSION"));

/// The number of items on a page.
const PAGE: &str = "500";

/// The largest number of pages that are read of one list.
const MOST_PAGES: usize = 100;

/// The states of rotations that are not complete.
const OPEN_STATES: &str = "stopped,missing,held,running,unknown";

/// A request to the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// The path below `/v1/`.
    pub(super) endpoint: &'static str,
    /// The query parameters.
    pub(super) parameters: Vec<(&'static str, String)>,
}

impl Query {
    fn new(endpoint: &'static str) -> Self {
        Self { endpoint, parameters: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.parameters.push((name, value.into()));
        self
    }

    /// Returns the URL of the request.
    pub(super) fn url(&self, address: &Url) -> Url {
        let mut url = address.clone();
        // The addresses of HTTP servers always have path segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["v1", self.endpoint]);
        }
        if !self.parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.parameters);
        }
        url
    }
}

/// Sends requests to the API.
pub(super) trait Fetch {
    /// Returns the body of a successful answer.
    fn fetch(&self, query: &Query) -> impl Future<Output = Result<Vec<u8>, RequestError>>;
}

/// The secret that the command line names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SecretName {
    /// The API path.
    pub(super) path: String,
    /// The name of the Vault server. Without a name, any server.
    pub(super) server: Option<String>,
    /// The Vault namespace; an empty name is the root namespace. Without a name, any namespace.
    pub(super) namespace: Option<String>,
}

impl SecretName {
    fn query(&self, limit: &str) -> Query {
        let mut query = Query::new("secret").with("path", self.path.as_str());
        if let Some(server) = &self.server {
            query = query.with("server", server.as_str());
        }
        if let Some(namespace) = &self.namespace {
            query = query.with("namespace", namespace.as_str());
        }
        query.with("limit", limit)
    }
}

/// Requests the overview.
pub(super) async fn overview(api: &impl Fetch) -> Result<Overview, RequestError> {
    read(api, &Query::new("overview")).await
}

/// Requests all rotations that are not complete.
pub(super) async fn open_rotations(api: &impl Fetch) -> Result<Page<Rotation>, RequestError> {
    let query = Query::new("rotations").with("state", OPEN_STATES).with("limit", PAGE);
    let mut list: Page<Rotation> = read(api, &query).await?;
    for _ in 1..MOST_PAGES {
        let Some(next) = list.next.take() else { break };
        let page: Page<Rotation> = read(api, &query.clone().with("continue", next)).await?;
        list.items.extend(page.items);
        list.next = page.next;
    }
    Ok(list)
}

/// Requests a workload.
pub(super) async fn workload(
    api: &impl Fetch,
    id: &WorkloadId,
) -> Result<WorkloadStatus, RequestError> {
    read(api, &Query::new("workload").with("name", id.to_string())).await
}

/// Requests the rotation of a secret, with the first of its workloads.
pub(super) async fn rotation(
    api: &impl Fetch,
    secret: &SecretName,
) -> Result<SecretStatus, RequestError> {
    read(api, &secret.query("1")).await.map_err(name_flags)
}

/// Requests the rotation of a secret, with its workloads. The last page tells the state. The pages are
/// in order of the names; the result has the worst state first.
pub(super) async fn secret(
    api: &impl Fetch,
    secret: &SecretName,
) -> Result<SecretStatus, RequestError> {
    let query = secret.query(PAGE);
    let mut status: SecretStatus = read(api, &query).await.map_err(name_flags)?;
    for _ in 1..MOST_PAGES {
        let Some(next) = status.users.next.take() else { break };
        let page: SecretStatus = read(api, &query.clone().with("continue", next)).await?;
        (status.now, status.rotation) = (page.now, page.rotation);
        status.users.items.extend(page.users.items);
        status.users.total = page.users.total;
        status.users.next = page.users.next;
    }
    status.users.items.sort_by_cached_key(User::key);
    Ok(status)
}

/// Adds the flags that tell secrets with the same path apart.
fn name_flags(error: RequestError) -> RequestError {
    match error {
        RequestError::Refused { status: 400, code, message } if !message.contains("--server") => {
            let message = message.trim_end_matches('.');
            let message = format!("{message}. Choose one with --server and --vault-namespace");
            RequestError::Refused { status: 400, code, message }
        }
        other => other,
    }
}

async fn read<T: DeserializeOwned>(api: &impl Fetch, query: &Query) -> Result<T, RequestError> {
    let body = api.fetch(query).await?;
    serde_json::from_slice(&body)
        .map_err(|error| RequestError::Malformed(shorten(&error.to_string())))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::model::kind::Kind;

    /// An API that answers each request by a function.
    struct Answering<F> {
        answer: F,
        asked: RefCell<Vec<Query>>,
    }

    impl<F: Fn(&Query) -> Result<String, RequestError>> Fetch for Answering<F> {
        async fn fetch(&self, query: &Query) -> Result<Vec<u8>, RequestError> {
            self.asked.borrow_mut().push(query.clone());
            (self.answer)(query).map(String::into_bytes)
        }
    }

    fn answering<F: Fn(&Query) -> Result<String, RequestError>>(answer: F) -> Answering<F> {
        Answering { answer, asked: RefCell::default() }
    }

    fn parameter<'a>(query: &'a Query, name: &str) -> Option<&'a str> {
        let found = query.parameters.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str())
    }

    fn rotation_json(path: &str, next: &str) -> String {
        format!(
            r#"{{"items": [{{"secret": {{"server": "default", "path": "{path}"}},
                "state": "running", "revocable": false, "workloads": {{"running": 1}}}}], "total": 900{next}}}"#
        )
    }

    #[tokio::test]
    async fn a_list_is_followed_to_its_last_page() {
        let api = answering(|query| {
            Ok(match parameter(query, "continue") {
                None => rotation_json("a", r#", "continue": "2""#),
                Some("2") => rotation_json("b", r#", "continue": "3""#),
                _ => rotation_json("c", ""),
            })
        });
        let list = open_rotations(&api).await.unwrap();
        let paths: Vec<_> = list.items.iter().map(|item| item.secret.path.as_str()).collect();
        assert_eq!((paths, list.total, list.next), (vec!["a", "b", "c"], 900, None));
        let asked = api.asked.borrow();
        assert!(asked.iter().all(|query| parameter(query, "limit") == Some("500")), "{asked:?}");
    }

    #[tokio::test]
    async fn a_list_without_an_end_is_cut() {
        let api = answering(|_| Ok(rotation_json("a", r#", "continue": "again""#)));
        let list = open_rotations(&api).await.unwrap();
        assert_eq!(list.items.len(), MOST_PAGES);
        assert_eq!(list.next.as_deref(), Some("again"));
    }

    #[tokio::test]
    async fn the_last_page_of_a_secret_tells_its_state() {
        let page = |state: &str, (name, of_user): (&str, &str), next: &str| {
            format!(
                r#"{{"secret": {{"server": "default", "path": "a"}}, "state": "{state}",
                    "now": "2026-03-01T10:01:00Z", "revocable": true,
                    "workloads": {{"complete": 2}}, "users": {{"items": [{{"workload": "{name}",
                    "state": "{of_user}", "message": "m"}}], "total": 2{next}}}}}"#
            )
        };
        let api = answering(|query| {
            Ok(match parameter(query, "continue") {
                None => page("running", ("n/Deployment/a", "complete"), r#", "continue": "2""#),
                Some(_) => page("complete", ("n/Deployment/b", "silent"), ""),
            })
        });
        let (path, server) = ("a".to_owned(), Some("eu".to_owned()));
        let name = SecretName { path, server, namespace: Some(String::new()) };
        let status = secret(&api, &name).await.unwrap();
        assert_eq!(status.rotation.state, "complete");
        let names: Vec<_> = status.users.items.iter().map(|user| user.workload.as_str()).collect();
        assert_eq!(names, ["n/Deployment/b", "n/Deployment/a"], "the worst state is first");
        let asked = api.asked.borrow();
        let first = asked.first().unwrap();
        assert_eq!((first.endpoint, parameter(first, "path")), ("secret", Some("a")));
        assert_eq!(parameter(first, "server"), Some("eu"));
        assert_eq!(parameter(first, "namespace"), Some(""), "the root namespace");
    }

    #[tokio::test]
    async fn a_workload_is_asked_for_by_its_full_name() {
        let api = answering(|_| {
            Ok(r#"{"workload": "shop/Deployment/web", "reloads": 0, "secrets": [],
                "findings": [], "newerField": 1}"#
                .to_owned())
        });
        let (kind, namespace, name) = (Kind::DEPLOYMENT, "shop".into(), "web".into());
        let status = workload(&api, &WorkloadId { kind, namespace, name }).await.unwrap();
        assert_eq!(status.workload, "shop/Deployment/web");
        let asked = api.asked.borrow();
        assert_eq!(parameter(asked.first().unwrap(), "name"), Some("shop/Deployment/web"));
    }

    #[tokio::test]
    async fn an_ambiguous_path_names_the_flags() {
        let refused = |status: u16, code: &str| RequestError::Refused {
            status,
            code: code.to_owned(),
            message: "Two secrets have this path.".to_owned(),
        };
        for (error, expected) in [
            (
                refused(400, "badRequest"),
                "Two secrets have this path. Choose one with --server and --vault-namespace",
            ),
            (refused(404, "notFound"), "Two secrets have this path"),
            (
                refused(401, "unauthorized"),
                "Two secrets have this path. Give a token with --token-file",
            ),
        ] {
            let api = answering(|_| Err(error.clone()));
            let error = secret(&api, &SecretName::default()).await.unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_no_json_names_the_flag() {
        let api = answering(|_| Ok("<html>".to_owned()));
        let error = overview(&api).await.unwrap_err();
        assert!(matches!(error, RequestError::Malformed(_)), "{error}");
        assert!(error.to_string().ends_with(". Check --address or --port"), "{error}");
    }

    #[test]
    fn values_are_encoded_in_the_url() {
        let parameters =
            vec![("path", "secret/data/a b&c=d".to_owned()), ("namespace", String::new())];
        let query = Query { endpoint: "secret", parameters };
        for (address, expected) in [
            (
                "http://127.0.0.1:9180",
                "http://127.0.0.1:9180/v1/secret?path=secret%2Fdata%2Fa+b%26c%3Dd&namespace=",
            ),
            (
                "https://host/reloader/",
                "https://host/reloader/v1/secret?path=secret%2Fdata%2Fa+b%26c%3Dd&namespace=",
            ),
        ] {
            assert_eq!(query.url(&Url::parse(address).unwrap()).as_str(), expected);
        }
        let query = Query { endpoint: "overview", parameters: Vec::new() };
        let address = Url::parse("http://127.0.0.1:9180").unwrap();
        assert_eq!(query.url(&address).as_str(), "http://127.0.0.1:9180/v1/overview");
    }
}
