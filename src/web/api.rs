//! The read-only API at `/v1`: rotations, secrets and workloads. See `docs/openapi.yaml`.
//!
//! Only the leader knows the last decisions, so only the leader answers. Other replicas forward: see
//! [`super::standby`].

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{RawQuery, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use url::form_urlencoded;

use super::access::Access;
use super::answer::{Refusal, answer, refuse};
use super::standby::Standby;
use crate::election::leadership::Leadership;
use crate::model::kind::Kind;
use crate::model::workload::WorkloadId;
use crate::rollouts::rotation::RotationState;
use crate::status::api::{Page, SecretStatus, WORKLOAD_STATES};
use crate::status::report::{SecretUsers, Sources};
use crate::status::table::{RotationRow, Search, WorkloadRow};
use crate::web::tables::Tables;

/// The paths of the API.
pub const PATHS: [&str; 5] =
    ["/v1/overview", "/v1/rotations", "/v1/secret", "/v1/workloads", "/v1/workload"];

/// The number of items of a page: the default, and the most.
const USUAL_PAGE: usize = 100;
const LONGEST_PAGE: usize = 1_000;

/// The path that callers must be allowed to read for the answer that a path does not exist.
const OTHER_PATHS: &str = "/v1/";

/// The longest search, in bytes.
const LONGEST_SEARCH: usize = 200;

/// The state of the API.
#[derive(Clone)]
pub struct Api {
    sources: Sources,
    tables: Arc<Tables>,
    leadership: Arc<OnceLock<Leadership>>,
    access: Access,
    standby: Arc<Standby>,
}

impl Api {
    /// Returns the API for callers with `access`. While this replica does not lead, `standby`
    /// answers.
    #[must_use]
    pub fn new(
        sources: Sources,
        leadership: Arc<OnceLock<Leadership>>,
        access: Access,
        standby: Standby,
    ) -> Self {
        let tables = Arc::new(Tables::new(sources.clone()));
        Self { sources, tables, leadership, access, standby: Arc::new(standby) }
    }
}

/// Returns the routes of the API.
pub fn router(api: Api) -> Router {
    let [overview_at, rotations_at, secret_at, workloads_at, workload_at] = PATHS;
    Router::new()
        .route(overview_at, get(overview))
        .route(rotations_at, get(rotations))
        .route(secret_at, get(secret))
        .route(workloads_at, get(workloads))
        .route(workload_at, get(workload))
        .fallback(async || {
            refuse(StatusCode::NOT_FOUND, "notFound", format!("the paths are {}", PATHS.join(", ")))
        })
        .layer(from_fn_with_state(api.clone(), check))
        .with_state(api)
}

/// Refuses callers who may not read the path. While this replica does not lead, the leader answers,
/// or nobody.
async fn check(State(api): State<Api>, request: Request, next: Next) -> Response {
    let path = PATHS.into_iter().find(|path| *path == request.uri().path());
    let access = api.access.check(request.headers(), path.unwrap_or(OTHER_PATHS)).await;
    if let Err(refusal) = access {
        return refusal.into_response();
    }
    let is_read = path.is_some() && matches!(*request.method(), Method::GET | Method::HEAD);
    if !is_read {
        // The router refuses it, without a look at the state.
        return next.run(request).await;
    }
    let leadership = api.leadership.get();
    if !leadership.is_some_and(Leadership::holds) {
        let holder = leadership.and_then(Leadership::holder);
        let (head, _) = request.into_parts();
        return api.standby.answer(&head, holder.as_deref()).await;
    }
    if !api.sources.index.is_settled() {
        let message = "the workloads are being read; try again in a moment".to_owned();
        let refusal = refuse(StatusCode::SERVICE_UNAVAILABLE, "notReady", message);
        return refusal.for_now().into_response();
    }
    next.run(request).await
}

fn bad_request(message: String) -> Refusal {
    refuse(StatusCode::BAD_REQUEST, "badRequest", message)
}

/// The parameters of a request.
#[derive(Debug, Default)]
struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads the query of a request, in which only the parameters `known` may be, each once.
    fn read(query: Option<&str>, known: &[&str]) -> Result<Self, Refusal> {
        let mut all: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&&*name) {
                let message = format!("{name:?} is no parameter; there are {}", known.join(", "));
                return Err(bad_request(message));
            }
            if all.iter().any(|(other, _)| *other == name) {
                return Err(bad_request(format!("{name:?} is given twice")));
            }
            all.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(all))
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    fn need(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| bad_request(format!("the parameter {name:?} is missing")))
    }

    /// Returns the search that the parameter `search` means.
    fn search(&self) -> Result<Search, Refusal> {
        match self.get("search") {
            None => Ok(Search::default()),
            Some(text) if text.len() <= LONGEST_SEARCH => Ok(Search::new(text)),
            Some(_) => Err(bad_request(format!("search is longer than {LONGEST_SEARCH} bytes"))),
        }
    }

    /// Returns the page of a list that the parameters `limit` and `continue` mean.
    ///
    /// `continue` is the key of the last item of the page before. So a list that changes meanwhile
    /// shows each lasting item once. The items must be in order of their keys, and a key must never
    /// change.
    fn page<T>(&self, mut items: Vec<T>, key: impl Fn(&T) -> String) -> Result<Page<T>, Refusal> {
        let limit = match self.get("limit") {
            None => USUAL_PAGE,
            Some(text) => match text.parse() {
                Ok(limit) if (1..=LONGEST_PAGE).contains(&limit) => limit,
                _ => {
                    let message =
                        format!("limit={text:?} is not a number from 1 to {LONGEST_PAGE}");
                    return Err(bad_request(message));
                }
            },
        };
        let total = u64::try_from(items.len()).unwrap_or(u64::MAX);
        if let Some(after) = self.get("continue") {
            let seen = items.partition_point(|item| key(item).as_str() <= after);
            items.drain(..seen);
        }
        let has_more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| has_more).map(&key);
        Ok(Page { items, total, next })
    }
}

async fn overview(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    Parameters::read(query.as_deref(), &[])?;
    Ok(answer(StatusCode::OK, &api.tables.present().await.overview))
}

async fn rotations(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let known = ["search", "workloadNamespace", "state", "limit", "continue"];
    let parameters = Parameters::read(query.as_deref(), &known)?;
    let states: BTreeSet<RotationState> = match parameters.get("state") {
        None => BTreeSet::new(),
        Some(names) => names.split(',').map(rotation_state).collect::<Result<_, _>>()?,
    };
    let search = parameters.search()?;
    let table = api.tables.present().await;
    let secrets = parameters.get("workloadNamespace").map(|name| api.sources.secrets_of(name));
    let is_wanted = |row: &&RotationRow| {
        (states.is_empty() || states.contains(&row.state()))
            && secrets.as_ref().is_none_or(|secrets| secrets.contains(&row.secret))
            && row.is_found_by(&search)
    };
    let rows: Vec<&RotationRow> = table.rotations.iter().filter(is_wanted).collect();
    let page = parameters.page(rows, |row| row.key())?;
    Ok(answer(StatusCode::OK, &page.map(RotationRow::rotation)))
}

fn rotation_state(name: &str) -> Result<RotationState, Refusal> {
    RotationState::ALL.into_iter().find(|state| state.name() == name).ok_or_else(|| {
        let names = RotationState::ALL.map(RotationState::name);
        bad_request(format!("state={name:?} is none of {}", names.join(", ")))
    })
}

async fn secret(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let known = ["path", "server", "namespace", "limit", "continue"];
    let parameters = Parameters::read(query.as_deref(), &known)?;
    let path = parameters.need("path")?;
    let (server, namespace) = (parameters.get("server"), parameters.get("namespace"));
    let report = api.sources.report();
    let mut found = report.secrets(path, server, namespace);
    let Some(SecretUsers { row, users }) = found.pop() else {
        let message = format!("no watched workload refers to {path:?}");
        return Err(refuse(StatusCode::NOT_FOUND, "notFound", message));
    };
    if !found.is_empty() {
        let all = found.iter().map(|found| &found.row).chain([&row]);
        let names: Vec<_> = all
            .map(|row| {
                let namespace = row.secret.namespace.as_deref().unwrap_or("");
                format!("server={} namespace={namespace}", row.secret.connection)
            })
            .take(LONGEST_PAGE)
            .collect();
        let message = format!("several secrets have this path; add one of: {}", names.join("; "));
        return Err(bad_request(message));
    }
    let page = parameters.page(users, |(stored, _)| stored.workload.id.to_string())?;
    // Only the workloads of this page are described.
    let users = page.map(|user| report.user_of_secret(&user, &row));
    let rotation = row.rotation();
    Ok(answer(StatusCode::OK, &SecretStatus { now: report.now, rotation, users }))
}

async fn workloads(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let known = ["search", "namespace", "state", "limit", "continue"];
    let parameters = Parameters::read(query.as_deref(), &known)?;
    let states: Option<BTreeSet<&str>> =
        parameters.get("state").map(|names| names.split(',').collect());
    let unknown = states.iter().flatten().find(|name| !WORKLOAD_STATES.contains(name));
    if let Some(name) = unknown {
        let names = WORKLOAD_STATES.join(", ");
        return Err(bad_request(format!("state={name:?} is none of {names}")));
    }
    let search = parameters.search()?;
    let namespace = parameters.get("namespace");
    let table = api.tables.present().await;
    let is_wanted = |row: &&WorkloadRow| {
        states.as_ref().is_none_or(|states| states.contains(row.state()))
            && namespace.is_none_or(|namespace| row.is_in(namespace))
            && row.is_found_by(&search)
    };
    let rows: Vec<&WorkloadRow> = table.workloads.iter().filter(is_wanted).collect();
    let page = parameters.page(rows, |row| row.id().to_string())?;
    Ok(answer(StatusCode::OK, &page.map(WorkloadRow::workload)))
}

async fn workload(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let parameters = Parameters::read(query.as_deref(), &["name"])?;
    let name = parameters.need("name")?;
    let id = workload_id(name).ok_or_else(|| {
        let kinds = Kind::ALL.map(Kind::name);
        bad_request(format!(
            "name={name:?} is not NAMESPACE/KIND/NAME; KIND is {}",
            kinds.join(", ")
        ))
    })?;
    let Some(workload) = api.sources.report().workload(&id) else {
        let message = format!(
            "{id} is not watched: it does not exist, has not opted in, or refers to no secret"
        );
        return Err(refuse(StatusCode::NOT_FOUND, "notFound", message));
    };
    Ok(answer(StatusCode::OK, &workload))
}

fn workload_id(text: &str) -> Option<WorkloadId> {
    let mut parts = text.split('/');
    let (namespace, kind, name) = (parts.next()?, parts.next()?, parts.next()?);
    let kind = Kind::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(kind))?;
    let is_whole = parts.next().is_none() && !namespace.is_empty() && !name.is_empty();
    is_whole.then(|| WorkloadId { kind, namespace: namespace.into(), name: name.into() })
}

#[cfg(test)]
mod tests;
