//! Who calls the status API, and what they may read: a `TokenReview`, and then a
//! `SubjectAccessReview`.
//!
//! Architecture Invariant: the answer of a `TokenReview` repeats the token. So no text of an answer
//! becomes a part of an error, and `kube`, which logs answers that it cannot parse, parses none.

use futures::future::{BoxFuture, FutureExt as _};
use http::Request;
use http::header::CONTENT_TYPE;
use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::{Client, RequestError, in_time};
use crate::model::text::shorten;
use crate::status::ports::{Callers, Review, ReviewError};

/// A kind of review: its path, and its name for messages.
#[derive(Clone, Copy)]
struct Kind {
    path: &'static str,
    name: &'static str,
}

const TOKEN_REVIEWS: Kind = Kind {
    path: "/apis/authentication.k8s.io/v1/tokenreviews",
    name: "tokenreviews.authentication.k8s.io",
};

const ACCESS_REVIEWS: Kind = Kind {
    path: "/apis/authorization.k8s.io/v1/subjectaccessreviews",
    name: "subjectaccessreviews.authorization.k8s.io",
};

/// Asks the API server about callers.
pub struct CallerReviewer {
    client: Client,
    audience: String,
}

impl CallerReviewer {
    /// Accepts tokens for this audience.
    #[must_use]
    pub fn new(client: Client, audience: String) -> Self {
        Self { client, audience }
    }

    async fn ask(&self, token: &str, path: &str) -> Result<Review, ReviewError> {
        let Some(user) = self.user_of(token).await? else { return Ok(Review::Unknown) };
        let name = shorten(user.username.as_deref().unwrap_or_default());
        Ok(if self.may_get(user, path).await? {
            Review::Allowed
        } else {
            Review::Denied { user: name.into() }
        })
    }

    /// Returns the user of a token for the audience.
    async fn user_of(&self, token: &str) -> Result<Option<UserInfo>, ReviewError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![self.audience.clone()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let answer = self.create(TOKEN_REVIEWS, &review).await?;
        Ok(answer.status.and_then(|status| authenticated(status, &self.audience)))
    }

    /// Returns whether a user may `get` a path.
    async fn may_get(&self, user: UserInfo, path: &str) -> Result<bool, ReviewError> {
        let UserInfo { extra, groups, uid, username } = user;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                extra,
                groups,
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(path.to_owned()),
                    verb: Some("get".to_owned()),
                }),
                uid,
                user: username,
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = self.create(ACCESS_REVIEWS, &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }

    /// Creates a review, and returns it with the answer of the API server.
    async fn create<T: Serialize + DeserializeOwned>(
        &self,
        kind: Kind,
        review: &T,
    ) -> Result<T, ReviewError> {
        let failed =
            |cause: &str| ReviewError::Failed { resource: kind.name, cause: cause.to_owned() };
        let body = serde_json::to_vec(review).map_err(|_| failed("it has no JSON form"))?;
        let request = Request::post(kind.path).header(CONTENT_TYPE, "application/json").body(body);
        let request = request.map_err(|_| failed("the request cannot be built"))?;
        match in_time(self.client.request_text(request)).await {
            Ok(text) => {
                serde_json::from_str(&text).map_err(|_| failed("its answer cannot be parsed"))
            }
            Err(error) if error.is_forbidden() => Err(ReviewError::Forbidden(kind.name)),
            Err(RequestError::Timeout(_)) => Err(ReviewError::TimedOut),
            Err(error) => Err(match error.code() {
                0 => failed("it cannot be reached"),
                code => failed(&format!("status {code}")),
            }),
        }
    }
}

impl Callers for CallerReviewer {
    fn review<'a>(
        &'a self,
        token: &'a str,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Review, ReviewError>> {
        self.ask(token, path).boxed()
    }
}

/// Returns the user of a reviewed token. An API server that ignores audiences names none in its
/// answer: such a token is for the API server, and not for this controller.
fn authenticated(status: TokenReviewStatus, audience: &str) -> Option<UserInfo> {
    let TokenReviewStatus { audiences, authenticated, error: _, user } = status;
    let is_for_us = audiences.is_some_and(|all| all.iter().any(|one| one == audience));
    let has_name = |user: &UserInfo| user.username.as_deref().is_some_and(|name| !name.is_empty());
    user.filter(has_name).filter(|_| authenticated == Some(true) && is_for_us)
}

#[cfg(test)]
mod tests {
    use axum::body::Body as Answer;
    use http::Response;
    use serde_json::{Value, json};

    use super::super::scripted::{client_of, status};
    use super::*;

    const TOKEN: &str = "aaa.bbb.ccc";

    fn token_review(status: &Value) -> Response<Answer> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {},
            "spec": { "token": TOKEN }, "status": status,
        });
        Response::new(Answer::from(review.to_string()))
    }

    fn access_review(status: &Value) -> Response<Answer> {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
            "spec": {}, "status": status,
        });
        Response::new(Answer::from(review.to_string()))
    }

    /// Returns what the API server says by its answers to both reviews.
    async fn review(
        of_token: fn() -> Response<Answer>,
        of_access: fn() -> Response<Answer>,
    ) -> Result<Review, ReviewError> {
        let client = client_of(move |request| {
            if request.uri().path().ends_with("/tokenreviews") { of_token() } else { of_access() }
        });
        let reviewer = CallerReviewer::new(client, "ours".to_owned());
        reviewer.review(TOKEN, "/v1/overview").await
    }

    fn known() -> Response<Answer> {
        let user =
            json!({ "username": "ci", "uid": "1", "groups": ["g"], "extra": { "a": ["b"] } });
        let status = json!({ "authenticated": true, "audiences": ["ours"], "user": user });
        token_review(&status)
    }

    fn allowed() -> Response<Answer> {
        access_review(&json!({ "allowed": true }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_is_known_for_our_audience_and_may_get_the_path() {
        assert_eq!(review(known, allowed).await, Ok(Review::Allowed));
        let denied = Ok(Review::Denied { user: "ci".into() });
        let refusals: [fn() -> Response<Answer>; 3] = [
            || access_review(&json!({ "allowed": false })),
            || access_review(&json!({ "allowed": true, "denied": true })),
            || access_review(&Value::Null),
        ];
        for of_access in refusals {
            assert_eq!(review(known, of_access).await, denied);
        }
        let unknown: [fn() -> Response<Answer>; 6] = [
            || token_review(&json!({ "authenticated": false, "error": "expired" })),
            || token_review(&json!({ "audiences": ["ours"], "user": { "username": "ci" } })),
            || token_review(&json!({ "authenticated": true, "user": { "username": "ci" } })),
            || {
                let user = json!({ "username": "ci" });
                let audiences = json!(["theirs"]);
                token_review(
                    &json!({ "authenticated": true, "audiences": audiences, "user": user }),
                )
            },
            || token_review(&json!({ "authenticated": true, "audiences": ["ours"], "user": {} })),
            || token_review(&Value::Null),
        ];
        for of_token in unknown {
            assert_eq!(review(of_token, allowed).await, Ok(Review::Unknown));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_names_the_remedy_and_no_token() {
        for (found, expected) in [
            (review(|| status(403), allowed).await, "create tokenreviews.authentication.k8s.io."),
            (review(known, || status(403)).await, "create subjectaccessreviews."),
            (
                review(|| status(500), allowed).await,
                "tokenreviews.authentication.k8s.io: status 500",
            ),
            (
                review(|| token_review(&json!([TOKEN])), allowed).await,
                "its answer cannot be parsed",
            ),
        ] {
            let error = found.unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains(TOKEN), "{error}");
        }
    }
}
