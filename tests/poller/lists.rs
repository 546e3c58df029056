//! Folders that are listed, and secrets that a list does not show.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Response;
use secrecy::SecretString;
use serde_json::json;
use vault_secrets_reloader::decide::clock::ServerClock;
use vault_secrets_reloader::decide::observation::Observation;
use vault_secrets_reloader::engine::ports::Vault as _;
use vault_secrets_reloader::model::secret::Version;
use vault_secrets_reloader::vault::client::Server;
use vault_secrets_reloader::vault::login::Method;
use vault_secrets_reloader::vault::pace::Pace;
use vault_secrets_reloader::vault::poller::Poller;

use super::{Bench, Fake, Script, answer, asks_for, at, closed, count, count_in, json_of, serve};

/// How many LISTs were asked for.
fn lists(bench: &Bench) -> usize {
    count_in(&bench.fake, "/detailed-metadata/")
}

#[tokio::test]
async fn a_server_that_cannot_list_is_asked_to_once_however_many_folders_there_are() {
    let mut bench = Bench::new(|_, _| None).await;
    let paths = || (0..60).map(|number| format!("secret/data/{}/{number}", number % 20));
    let polled = bench.poll_paths(paths(), None).await;
    assert_eq!(count(&polled), HashMap::from([("live", 60)]));
    assert_eq!((lists(&bench), bench.asked()), (1, 62));
    bench.poll_paths(paths(), None).await;
    assert_eq!((lists(&bench), bench.asked()), (0, 60));
    bench.poller.close().await;
}

/// A page with these keys, of which each is at version 7.
pub(crate) fn page_of(keys: impl Iterator<Item = String>) -> Response<Body> {
    let keys: Vec<String> = keys.collect();
    let versions = json!({ "7": { "created_time": "2026-11-22T06:00:00Z" } });
    let info = json!({ "current_version": 7, "versions": versions });
    let info: HashMap<_, _> = keys.iter().map(|key| (key, &info)).collect();
    json_of(200, &json!({ "data": { "keys": keys, "key_info": info } }))
}

#[tokio::test]
async fn what_goes_first_is_no_secret_that_its_folder_shows() {
    let mut bench = Bench::new(|_, path| {
        let is_list = path == "secret/detailed-metadata/";
        is_list.then(|| page_of((0..3).map(|number| number.to_string())))
    })
    .await;
    let paths = || ["0", "1", "2", "other/3"].into_iter().map(|key| format!("secret/data/{key}"));
    bench.poll_paths(paths(), None).await;
    for _ in 0..5 {
        let polled = bench.poll_paths(paths(), None).await;
        assert_eq!(count(&polled), HashMap::from([("live", 4)]));
        let asked = bench.fake.asked.lock().unwrap().clone();
        assert_eq!(asked, ["secret/metadata/other/3", "secret/detailed-metadata/"]);
    }
    bench.poller.close().await;
}

/// How the script of a server limits the rate of LISTs.
fn limited(path: &str) -> Option<Response<Body>> {
    path.contains("/detailed-metadata/").then(|| {
        let answer = Response::builder().status(429).header("Retry-After", "0");
        answer.body(Body::from(r#"{"errors":[]}"#)).unwrap()
    })
}

#[tokio::test]
async fn a_list_that_stays_limited_is_given_up_and_what_it_holds_read_alone() {
    let mut bench = Bench::new(|_, path| limited(path)).await;
    let paths = || (0..60).map(|number| format!("secret/data/{}/{number}", number % 20));
    let polled = bench.poll_paths(paths(), None).await;
    assert_eq!(count(&polled), HashMap::from([("live", 60)]));
    assert_eq!(lists(&bench), 7, "as often as a GET, and no other folder");
    let polled = bench.poll_paths(paths(), None).await;
    assert_eq!(count(&polled), HashMap::from([("live", 60)]));
    assert_eq!(lists(&bench), 0);
    bench.poller.close().await;
}

#[tokio::test]
async fn a_list_that_is_limited_once_is_asked_for_again_and_not_replaced_by_many_gets() {
    let mut bench = Bench::new(|number, path| {
        if number == 3 {
            return limited(path);
        }
        let is_list = path.contains("/detailed-metadata/");
        is_list.then(|| page_of((0..60).map(|key| key.to_string())))
    })
    .await;
    let paths = || (0..60).map(|number| format!("secret/data/a/{number}"));
    for expected in [4, 2] {
        let polled = bench.poll_paths(paths(), None).await;
        assert_eq!(count(&polled), HashMap::from([("live", 60)]));
        assert_eq!(bench.asked(), expected);
    }
    bench.poller.close().await;
}

#[tokio::test]
async fn a_list_whose_requests_end_without_an_answer_is_no_outage() {
    // As OpenBao 2.2 does for a folder with folders in it.
    let mut bench = Bench::new(|_, path| path.contains("/detailed-metadata/").then(closed)).await;
    for _ in 0..4 {
        let paths = (0..40).map(|number| format!("secret/data/{}/{number}", number % 4));
        let polled = bench.poll_paths(paths, None).await;
        assert_eq!(count(&polled), HashMap::from([("live", 40)]));
    }
    bench.poller.close().await;
}

#[tokio::test]
async fn a_poll_that_is_spread_lists_first_and_goes_on_where_it_stopped() {
    // A folder with three keys, of which one may be read alone, and three secrets of others.
    let lists: Script = |_, path| {
        let is_list = path == "secret/detailed-metadata/all/";
        is_list.then(|| page_of(["a", "b", "c"].map(str::to_owned).into_iter()))
    };
    let pace =
        Pace { is_spread: true, longest_poll: Duration::from_millis(1500), ..Pace::default() };
    let fake = Fake::new(lists);
    let (address, _tasks) = serve(Router::new().fallback(answer).with_state(fake.clone())).await;
    let server = Arc::new(Server::new(at(&address), Arc::<ServerClock>::default()).unwrap());
    let method = Method::Token(SecretString::from("token"));
    // A minute for six: one each 8 seconds.
    let period = Duration::from_mins(1);
    let mut poller = Poller::new(server, method, period, period, pace, false);
    let paths = ["all/a", "all/b", "all/c", "x/1", "y/2", "z/3"];
    let asks = asks_for(paths.iter().map(|path| format!("secret/data/{path}")), None);
    let polled = poller.poll(&asks).await;
    let lists = count_in(&fake, "/detailed-metadata/all/");
    assert_eq!((lists, count_in(&fake, "secret/metadata/")), (1, 1));
    assert_eq!(polled.failed.len() + count(&polled)["live"], 6);
    // What follows at once waits for the turn that the first left open.
    let (left, had): (Vec<_>, Vec<_>) =
        asks.into_iter().partition(|ask| polled.failed.contains(&ask.secret));
    fake.asked.lock().unwrap().clear();
    let polled = poller.poll(&left).await;
    assert_eq!(polled.failed.len(), left.len());
    assert!(fake.asked.lock().unwrap().iter().all(|path| !path.contains("secret/metadata/")));
    // Whoever was answered and is asked for again does not wait, whether alone or in a folder.
    let polled = poller.poll(&had).await;
    assert_eq!(count(&polled), HashMap::from([("live", had.len())]));
    // The next poll of everything does not wait for the end of this round, folders least of all.
    poller.rest().await;
    fake.asked.lock().unwrap().clear();
    poller.poll(&had).await;
    assert_eq!(count_in(&fake, "/detailed-metadata/all/"), 1);
    poller.close().await;
}

#[tokio::test]
async fn a_short_page_is_not_the_end_and_what_no_page_shows_is_read_alone() {
    let mut bench = Bench::new(|number, path| {
        if !path.contains("/detailed-metadata/") {
            return None;
        }
        // After the mount and the first secret.
        let keys = match number {
            3 => &["00", "01"][..],
            4 => &["02", "03", "04"],
            _ => return Some(json_of(404, &json!({ "errors": [] }))),
        };
        Some(page_of(keys.iter().map(|key| (*key).to_owned())))
    })
    .await;
    let polled = bench.poll_paths((0..10).map(|n| format!("secret/data/{n:02}")), None).await;
    assert_eq!(count(&polled), HashMap::from([("live", 10)]));
    assert_eq!(lists(&bench), 3);
    let listed = polled
        .observations
        .values()
        .filter(|observation| matches!(observation, Observation::Live(Version { number: 7, .. })));
    // The first secret, whichever it is, is read alone.
    assert!((4..=5).contains(&listed.count()));
    bench.poller.close().await;
}
