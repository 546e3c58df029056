//! A gateway before Vault that reads requests and answers. It shifts the server's clock, runs an
//! action between two requests of a poll, and counts the answers by their status.
//!
//! Invariant: the gateway changes times and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::future::BoxFuture;
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING,
};
use http::{HeaderName, StatusCode};
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::vault::Vault;
use crate::wait::locked;

/// An action between two requests.
type Action = BoxFuture<'static, Result<()>>;

/// The longest body, in bytes.
const LONGEST_BODY: usize = 4 << 20;

/// Headers that belong to one connection.
const OF_A_CONNECTION: [HeaderName; 4] = [CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING];

/// The fields of Vault's answers that hold a time.
const TIMES: [&str; 3] = ["created_time", "deletion_time", "updated_time"];

/// The field of Vault's health that holds the server's time, in whole seconds.
const HEALTH_TIME: &str = "server_time_utc";

/// A running gateway. It ends when this value is dropped.
#[derive(Debug)]
pub(super) struct Gateway {
    address: String,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    server: String,
    http: reqwest::Client,
    shift: SignedDuration,
    /// The shift of `Date`; zero if the gateway writes `Date` by a clock of its own.
    shift_of_date: SignedDuration,
    seen: Mutex<Seen>,
    /// Reads get their number one by one, and none during an action between two reads. So the
    /// actions of two plans run in their order.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Seen {
    /// The number of reads and LISTs of metadata so far.
    reads: usize,
    /// The actions, by the number of the read before which they run.
    plans: BTreeMap<usize, Action>,
    statuses: BTreeMap<u16, usize>,
    failed: Option<String>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Starts a gateway that shifts the server's clock ahead by `shift`.
    pub(super) async fn before(vault: &Vault, shift: SignedDuration) -> Result<Self> {
        Self::with_date(vault, shift, shift).await
    }

    /// As [`Self::before`], but the gateway writes each `Date` by its own clock.
    pub(super) async fn with_a_clock(vault: &Vault, shift: SignedDuration) -> Result<Self> {
        Self::with_date(vault, shift, SignedDuration::ZERO).await
    }

    async fn with_date(
        vault: &Vault,
        shift: SignedDuration,
        shift_of_date: SignedDuration,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(30))
            .build()?;
        let shared = Shared::new(vault.address().to_owned(), http, shift);
        let shared = Arc::new(Shared { shift_of_date, ..shared });
        let router = Router::new().fallback(pass).with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move {
            // The server ends with the gateway.
            _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, shared, serving })
    }

    /// The address, as in `VAULT_ADDR`.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Plans an action before the `after`th read or LIST of metadata from now on.
    pub(super) fn plan(&self, after: usize, action: Action) {
        let mut seen = locked(&self.shared.seen);
        let number = seen.reads + after;
        seen.plans.insert(number, action);
    }

    /// Whether all planned actions have run.
    ///
    /// # Errors
    /// When an action failed.
    pub(super) fn is_done(&self) -> Result<bool> {
        let seen = locked(&self.shared.seen);
        match &seen.failed {
            Some(error) => Err(anyhow::anyhow!("{error}")),
            None => Ok(seen.plans.is_empty()),
        }
    }

    /// The number of answers with this status so far.
    pub(super) fn answers(&self, status: u16) -> usize {
        locked(&self.shared.seen).statuses.get(&status).copied().unwrap_or_default()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if request.uri().path().contains("metadata/") {
        shared.before_a_read().await;
    }
    shared.forward(request).await.unwrap_or_else(|error| {
        let mut response = Response::new(Body::from(error.to_string()));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    })
}

impl Shared {
    fn new(server: String, http: reqwest::Client, shift: SignedDuration) -> Self {
        let (seen, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { server, http, shift, shift_of_date: shift, seen, turn }
    }

    async fn before_a_read(&self) {
        let _turn = self.turn.lock().await;
        let action = {
            let mut seen = locked(&self.seen);
            seen.reads += 1;
            let number = seen.reads;
            seen.plans.remove(&number)
        };
        if let Some(action) = action
            && let Err(error) = action.await
        {
            locked(&self.seen).failed = Some(format!("{error:#}"));
        }
    }

    async fn forward(&self, request: Request) -> Result<Response> {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, LONGEST_BODY).await?;
        let url = format!("{}{}", self.server, parts.uri);
        let headers = without_those_of_a_connection(&parts.headers);
        let sent = self.http.request(parts.method, url).headers(headers).body(body);
        let answer = sent.send().await?;
        let status = answer.status();
        *locked(&self.seen).statuses.entry(status.as_u16()).or_default() += 1;
        let mut headers = without_those_of_a_connection(answer.headers());
        let body = answer.bytes().await?;
        if let Some(date) = headers.get(DATE).and_then(|date| self.shift_date(date)) {
            headers.insert(DATE, date);
        }
        let body = match serde_json::from_slice::<Value>(&body) {
            Ok(mut value) if !self.shift.is_zero() => {
                self.shift_times(&mut value);
                serde_json::to_vec(&value)?
            }
            _ => body.to_vec(),
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }

    fn shift_date(&self, date: &HeaderValue) -> Option<HeaderValue> {
        let time = DateTimeParser::new().parse_timestamp(date.to_str().ok()?).ok()?;
        let time = time.checked_add(self.shift_of_date).ok()?;
        let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()?;
        HeaderValue::from_str(&text).ok()
    }

    fn shift_times(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if name == HEALTH_TIME
                        && let Some(time) = value.as_i64()
                    {
                        *value = time.saturating_add(self.shift.as_secs()).into();
                        continue;
                    }
                    match value.as_str().map(str::parse::<Timestamp>) {
                        Some(Ok(time)) if TIMES.contains(&name.as_str()) => {
                            if let Ok(time) = time.checked_add(self.shift) {
                                *value = Value::String(time.to_string());
                            }
                        }
                        _ => self.shift_times(value),
                    }
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.shift_times(value)),
            _ => {}
        }
    }
}

fn without_those_of_a_connection(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in OF_A_CONNECTION {
        headers.remove(name);
    }
    headers
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use serde_json::json;

    use super::*;

    fn shared(shift: SignedDuration) -> Shared {
        Shared::new(String::new(), reqwest::Client::new(), shift)
    }

    #[tokio::test]
    async fn what_takes_long_is_done_before_the_next() {
        let shared = shared(SignedDuration::ZERO);
        let done = Arc::new(Mutex::new(Vec::new()));
        let action = |number, turns| {
            let done = Arc::clone(&done);
            async move {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                locked(&done).push(number);
                Ok(())
            }
        };
        locked(&shared.seen).plans =
            BTreeMap::from([(1, action(1, 10).boxed()), (2, action(2, 0).boxed())]);
        tokio::join!(shared.before_a_read(), shared.before_a_read());
        assert_eq!(*locked(&done), [1, 2]);
    }

    #[test]
    fn times_are_shifted_and_nothing_else() {
        let shared = shared(SignedDuration::from_hours(-1));
        let versions = |hour| {
            let created = format!("2026-11-22T{hour}:51:00.123456789Z");
            json!({"data": {"versions": {"1": {"created_time": created, "deletion_time": ""}}, "x": 1}})
        };
        let mut value = versions("05");
        shared.shift_times(&mut value);
        assert_eq!(value, versions("04"));
        let mut health = json!({"server_time_utc": 10_000, "version": "2"});
        shared.shift_times(&mut health);
        assert_eq!(health, json!({"server_time_utc": 6_400, "version": "2"}));
        let date = HeaderValue::from_static("Sun, 22 Nov 2026 12:00:00 GMT");
        let shifted = shared.shift_date(&date).unwrap();
        assert_eq!(shifted, "Sun, 22 Nov 2026 11:00:00 GMT");
    }
}
