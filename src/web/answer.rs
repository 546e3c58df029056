//! Answers of the API in JSON, and refusals.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::status::api::Failure;

/// An answer to a request that is refused. It is boxed, because it is large and rare.
#[derive(Debug)]
pub(super) struct Refusal(Box<Response>);

impl Refusal {
    /// Adds a header.
    pub(super) fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.0.headers_mut().insert(name, HeaderValue::from_static(value));
        self
    }

    /// Says that the caller may try again in a second.
    pub(super) fn for_now(self) -> Self {
        self.with(RETRY_AFTER, "1")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        *self.0
    }
}

/// Returns a refusal with a code of [`crate::status::api::FAILURE_CODES`].
pub(super) fn refuse(status: StatusCode, code: &str, message: String) -> Refusal {
    Refusal(Box::new(answer(status, &Failure { code: code.to_owned(), message })))
}

/// Returns an answer in JSON.
pub(super) fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    // The types of the API always have a JSON form.
    let body = serde_json::to_vec(body).unwrap_or_default();
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, headers, body).into_response()
}
