//! Requests tokens of ServiceAccounts for logins to Vault: a `TokenRequest` for each login.
//!
//! Architecture Invariant: the answer holds a token. So no text of an answer that is a success becomes
//! a part of an error, and `kube`, which logs answers that it cannot parse, does not parse it.

use futures::future::{BoxFuture, FutureExt as _};
use http::Request;
use http::header::CONTENT_TYPE;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, RequestError, in_time};
use crate::credentials::credential::is_token;
use crate::credentials::service_account::{RequestToken, ServiceAccount, TokenRequestError};

/// The lifetime of a token, in seconds: the shortest that the API server grants. A login takes
/// seconds.
const LIFETIME: u32 = 600;

/// The used part of an answer.
#[derive(Deserialize)]
struct Answer {
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    token: String,
}

/// Requests tokens from the API server.
pub struct TokenRequester {
    client: Client,
}

impl TokenRequester {
    /// Requests tokens with this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    async fn request(&self, account: &ServiceAccount) -> Result<SecretString, TokenRequestError> {
        let failed = |cause: &str| TokenRequestError::Failed {
            account: account.clone(),
            cause: cause.to_owned(),
        };
        let ServiceAccount { namespace, name, audience } = account;
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        // Without an audience, the API server takes its own.
        let audiences: Vec<&str> = audience.as_deref().into_iter().collect();
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": { "audiences": audiences, "expirationSeconds": LIFETIME },
        });
        let body = body.to_string().into_bytes();
        let request = Request::post(path).header(CONTENT_TYPE, "application/json").body(body);
        let request = request.map_err(|_| failed("the request cannot be built"))?;
        let answer = in_time(self.client.request_text(request)).await;
        let text = answer.map_err(|error| refused(account, &error))?;
        let answer: Answer =
            serde_json::from_str(&text).map_err(|_| failed("its answer cannot be parsed"))?;
        let token = answer.status.token;
        if is_token(&token) { Ok(token.into()) } else { Err(failed("its answer holds no token")) }
    }
}

impl RequestToken for TokenRequester {
    fn request_token<'a>(
        &'a self,
        account: &'a ServiceAccount,
    ) -> BoxFuture<'a, Result<SecretString, TokenRequestError>> {
        self.request(account).boxed()
    }
}

fn refused(account: &ServiceAccount, error: &RequestError) -> TokenRequestError {
    let (account, message) = (account.clone(), error.to_string());
    match error.code() {
        403 => TokenRequestError::Forbidden { account, message },
        404 => TokenRequestError::Missing(account),
        _ => TokenRequestError::Failed { account, cause: message },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::body::Body as Answer;
    use http::{Method, Response};
    use secrecy::ExposeSecret as _;
    use serde_json::Value;

    use tokio::time::Duration;

    use super::super::scripted::{client_after, client_of, status};
    use super::*;

    const TOKEN: &str = "aaa.bbb.ccc";

    fn account() -> ServiceAccount {
        let audience = Some("vault".to_owned());
        ServiceAccount { namespace: "infra".to_owned(), name: "vault-login".to_owned(), audience }
    }

    fn answer(status: &Value) -> Response<Answer> {
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
            "spec": { "audiences": ["vault"], "expirationSeconds": 600 }, "status": status,
        });
        Response::new(Answer::from(request.to_string()))
    }

    async fn request(
        script: impl Fn() -> Response<Answer> + Clone + Send + Sync + 'static,
    ) -> Result<SecretString, TokenRequestError> {
        let client = client_of(move |_| script());
        TokenRequester::new(client).request_token(&account()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_requested_of_the_named_account() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let client = client_of(move |request| {
            let line = (request.method().clone(), request.uri().to_string());
            log.lock().unwrap().push(line);
            answer(&json!({ "token": TOKEN, "expirationTimestamp": "2026-01-31T12:00:00Z" }))
        });
        let token = TokenRequester::new(client).request_token(&account()).await.unwrap();
        assert_eq!(token.expose_secret(), TOKEN);
        let path = "/api/v1/namespaces/infra/serviceaccounts/vault-login/token".to_owned();
        assert_eq!(*seen.lock().unwrap(), [(Method::POST, path)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_without_a_token_is_an_error_that_repeats_none_of_it() {
        let answers: [fn() -> Response<Answer>; 5] = [
            || answer(&json!({ "token": "" })),
            || answer(&json!({ "token": format!("{TOKEN} {TOKEN}") })),
            || answer(&json!({ "token": [TOKEN] })),
            || answer(&Value::Null),
            || Response::new(Answer::from(TOKEN)),
        ];
        for script in answers {
            let error = request(script).await.unwrap_err();
            assert!(matches!(error, TokenRequestError::Failed { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("infra/vault-login") && !text.contains(TOKEN), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_says_what_is_missing() {
        let message = "so it is (status 403)".to_owned();
        let forbidden = TokenRequestError::Forbidden { account: account(), message };
        assert_eq!(request(|| status(403)).await.unwrap_err(), forbidden);
        let missing = TokenRequestError::Missing(account());
        assert_eq!(request(|| status(404)).await.unwrap_err(), missing);
        for code in [401, 422, 500] {
            let error = request(move || status(code)).await.unwrap_err();
            let cause = format!("so it is (status {code})");
            assert_eq!(error, TokenRequestError::Failed { account: account(), cause });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_does_not_answer_is_not_awaited_for_ever() {
        let client = client_after(Duration::from_hours(1), |_| status(500));
        let error = TokenRequester::new(client).request_token(&account()).await.unwrap_err();
        assert!(error.to_string().ends_with("no answer within 10 s"), "{error}");
    }
}
