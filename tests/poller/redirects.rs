//! Redirects and proxies: where requests and credentials go.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response};
use axum::routing::any;
use secrecy::SecretString;
use serde_json::json;
use tokio::task::JoinSet;
use vault_secrets_reloader::engine::ports::Vault as _;
use vault_secrets_reloader::vault::connection::ServerSettings;
use vault_secrets_reloader::vault::login::Method;
use vault_secrets_reloader::vault::pace::Pace;

use super::{Fake, answer, asks_for, at, count, granted, jwt, poller_at, poller_with, serve};

#[tokio::test]
async fn a_redirect_is_followed_to_a_server_that_is_configured_and_to_no_other() {
    let token = || Method::Token(SecretString::from("token"));
    let fake = Fake::new(|_, _| None);
    let (node, _tasks) = serve(Router::new().fallback(answer).with_state(fake.clone())).await;
    let (front, _front) = serve_redirects(&node).await;
    let asks = asks_for((0..3).map(|number| format!("secret/data/{number}")), None);
    let timeout = Duration::from_secs(5);

    let mut alone = poller_at(&front, &[], token(), timeout, Pace::default());
    let polled = vault_secrets_reloader::engine::ports::Vault::poll(&mut alone, &asks).await;
    assert_eq!(polled.failed.len(), 3);
    assert!(fake.asked.lock().unwrap().is_empty(), "no token went there");
    let mut poller = poller_at(&front, &[&node], token(), timeout, Pace::default());
    let polled = vault_secrets_reloader::engine::ports::Vault::poll(&mut poller, &asks).await;
    assert_eq!(count(&polled), HashMap::from([("live", 3)]));
    poller.close().await;
}

/// A server that redirects all that it is asked to another.
async fn serve_redirects(target: &str) -> (String, JoinSet<()>) {
    let target = target.to_owned();
    let redirect = any(move |request: Request<Body>| async move {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let answer = Response::builder().status(307).header("location", target + &path);
        answer.body(Body::empty()).unwrap()
    });
    serve(Router::new().fallback(redirect)).await
}

#[tokio::test]
async fn a_login_shows_its_credentials_to_servers_that_are_configured_alone() {
    let shown: Arc<Mutex<Vec<serde_json::Value>>> = Arc::default();
    let login = {
        let shown = Arc::clone(&shown);
        move |body: String| async move {
            shown.lock().unwrap().push(serde_json::from_str(&body).unwrap());
            granted("fresh")
        }
    };
    let revoke = async || Response::builder().status(204).body(Body::empty()).unwrap();
    let router = Router::new()
        .route("/v1/auth/kubernetes/login", any(login))
        .route("/v1/auth/token/revoke-self", any(revoke))
        .fallback(answer)
        .with_state(Fake::new(|_, _| None));
    let (node, _tasks) = serve(router).await;
    let (front, _front) = serve_redirects(&node).await;
    let asks = asks_for((0..3).map(|number| format!("secret/data/{number}")), None);
    let timeout = Duration::from_secs(5);

    let (method, _jwt) = jwt();
    let mut alone = poller_at(&front, &[], method, timeout, Pace::default());
    assert!(alone.poll(&asks).await.observations.is_empty());
    assert!(shown.lock().unwrap().is_empty(), "no JWT went there");
    let (method, _jwt) = jwt();
    let mut poller = poller_at(&front, &[&node], method, timeout, Pace::default());
    assert_eq!(count(&poller.poll(&asks).await), HashMap::from([("live", 3)]));
    assert_eq!(*shown.lock().unwrap(), [json!({ "jwt": "jwt", "role": "r" })]);
    poller.close().await;
}

#[tokio::test]
async fn a_proxy_is_asked_in_place_of_the_server() {
    let fake = Fake::new(|_, _| None);
    let hosts: Arc<Mutex<HashSet<String>>> = Arc::default();
    let requests = {
        let (fake, hosts) = (fake.clone(), Arc::clone(&hosts));
        move |request: Request<Body>| {
            hosts.lock().unwrap().insert(request.uri().to_string());
            answer(State(fake), request)
        }
    };
    let (proxy, _tasks) = serve(Router::new().fallback(requests)).await;
    let proxy = Some(proxy.parse().unwrap());
    let settings = ServerSettings { proxy, ..at("http://vault.invalid:8200") };
    let method = Method::Token(SecretString::from("token"));
    let mut poller = poller_with(settings, method, Pace::default());
    let asks = asks_for((0..3).map(|number| format!("secret/data/{number}")), None);
    assert_eq!(count(&poller.poll(&asks).await), HashMap::from([("live", 3)]));
    let hosts = hosts.lock().unwrap().clone();
    assert!(hosts.iter().all(|url| url.starts_with("http://vault.invalid:8200/v1/")), "{hosts:?}");
    poller.close().await;
}
