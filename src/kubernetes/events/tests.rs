//! Tests of the Events that are written, and of how many.

use std::sync::Mutex;

use axum::body::Body as Answer;
use http::Response;
use serde_json::json;

use super::super::scripted::{client_after, client_of, status};
use super::*;
use crate::election::leadership::{Claim, election_channel};
use crate::index::findings::FindingSource;
use crate::model::kind::Kind;
use crate::model::workload::WorkloadId;

fn workload(name: &str) -> WorkloadId {
    WorkloadId { kind: Kind::DEPLOYMENT, namespace: "shop".into(), name: name.into() }
}

fn odd(index: &Index, name: &str) {
    let notice = Finding { reason: "NoKey", is_warning: true, message: "variable A".to_owned() };
    index.findings().set(&workload(name), "u", FindingSource::Manifest, vec![notice]);
}

/// Returns a writer, its index and the number of requests. The server answers by these statuses
/// in turn, and then with success.
fn writer(answers: &[u16], leadership: Leadership) -> (EventWriter, Arc<Index>, Arc<Mutex<u32>>) {
    let answers = Arc::new(Mutex::new(answers.to_vec()));
    let requests = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&requests);
    let client = client_of(move |request| {
        let path = request.uri().path();
        assert!(path.starts_with("/apis/events.k8s.io/v1/namespaces/shop/events"), "{path}");
        *counter.lock().unwrap() += 1;
        let mut answers = answers.lock().unwrap();
        if answers.is_empty() {
            return Response::new(Answer::from(json!({ "metadata": {} }).to_string()));
        }
        status(answers.remove(0))
    });
    let index = Arc::new(Index::default());
    let now = || Timestamp::UNIX_EPOCH;
    let writer = EventWriter::new(client, Arc::clone(&index), leadership, "r".to_owned(), now);
    (writer, index, requests)
}

async fn run_for(writer: EventWriter, time: Duration) {
    let end = CancellationToken::new();
    let stop = async {
        sleep(time).await;
        end.cancel();
    };
    tokio::join!(writer.run(end.clone()), stop);
}

#[tokio::test(start_paused = true)]
async fn each_is_written_once_and_again_where_it_could_not_be() {
    // Another replica has written the first Event. The second answer is a failure.
    let (writer, index, requests) = writer(&[409, 500], Leadership::always());
    for name in ["a", "b", "c"] {
        odd(&index, name);
    }
    run_for(writer, Duration::from_mins(1)).await;
    assert_eq!(*requests.lock().unwrap(), 5);
    assert_eq!(index.findings().next(), None);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_ten_are_written_in_a_second() {
    let requests = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&requests);
    let client = client_after(Duration::ZERO, move |_| {
        *counter.lock().unwrap() += 1;
        Response::new(Answer::from(json!({ "metadata": {} }).to_string()))
    });
    let index = Arc::new(Index::default());
    for number in 0..100 {
        odd(&index, &number.to_string());
    }
    let (leadership, now) = (Leadership::always(), || Timestamp::UNIX_EPOCH);
    let writer = EventWriter::new(client, index, leadership, "r".to_owned(), now);
    run_for(writer, Duration::from_secs(5)).await;
    let requests = *requests.lock().unwrap();
    assert!((40..=51).contains(&requests), "{requests}");
}

#[tokio::test(start_paused = true)]
async fn without_the_permission_the_server_is_left_alone() {
    let (writer, index, requests) = writer(&[403; 5], Leadership::always());
    for number in 0..20 {
        odd(&index, &number.to_string());
    }
    let early = async {
        sleep(Duration::from_mins(9)).await;
        assert_eq!(*requests.lock().unwrap(), 3);
    };
    // Two more requests ten minutes apart, and then all.
    tokio::join!(run_for(writer, Duration::from_mins(45)), early);
    assert_eq!(*requests.lock().unwrap(), 25);
    assert_eq!(index.findings().next(), None);
}

#[tokio::test(start_paused = true)]
async fn the_quota_of_one_namespace_keeps_none_of_the_others_waiting() {
    let (writer, index, requests) = writer(&[403, 403], Leadership::always());
    for name in ["a", "b", "c", "d"] {
        odd(&index, name);
    }
    let early = async {
        sleep(Duration::from_mins(1)).await;
        assert_eq!(*requests.lock().unwrap(), 4);
    };
    tokio::join!(run_for(writer, Duration::from_mins(15)), early);
    assert_eq!(*requests.lock().unwrap(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_changes_all_the_time_is_told_of_now_and_then() {
    let (writer, index, requests) = writer(&[], Leadership::always());
    let busy = async {
        for number in 0..2_400 {
            let message = format!("variable {number}");
            let notice = Finding { reason: "NoKey", is_warning: true, message };
            index.findings().set(&workload("busy"), "u", FindingSource::Manifest, vec![notice]);
            sleep(Duration::from_millis(500)).await;
        }
    };
    let other = async {
        sleep(Duration::from_secs(5)).await;
        let before = *requests.lock().unwrap();
        odd(&index, "web");
        // The server takes a second for each Event.
        sleep(Duration::from_secs(4)).await;
        let told = *requests.lock().unwrap() - before;
        assert!((2..=5).contains(&told), "{told}");
        assert_eq!(index.findings().untold_of(&workload("web")), 0);
    };
    tokio::join!(run_for(writer, Duration::from_mins(20)), busy, other);
    // One Event of the other workload. Of the busy workload, a burst, and then one Event in
    // five minutes.
    let requests = *requests.lock().unwrap();
    assert!((1 + BURST + 3..=1 + BURST + 4).contains(&requests), "{requests}");
}

/// The Events of an API server that keeps each for an hour after its last write. `written` has
/// all writes in order.
#[derive(Default)]
struct Kept {
    events: HashMap<String, (Instant, i64)>,
    written: Vec<String>,
    may_patch: bool,
}

fn writer_of(kept: &Arc<Mutex<Kept>>, leadership: Leadership) -> (EventWriter, Arc<Index>) {
    let kept = Arc::clone(kept);
    let client = client_of(move |request| {
        let mut kept = kept.lock().unwrap();
        let now = Instant::now();
        kept.events.retain(|_, (time, _)| now.duration_since(*time).as_secs() < 3600);
        let method = request.method().as_str();
        let path = request.uri().path();
        let path = path.strip_prefix("/apis/events.k8s.io/v1/namespaces/shop/events");
        let name = path.unwrap().trim_start_matches('/').to_owned();
        kept.written.push(method.to_owned());
        match method {
            "POST" if kept.events.contains_key("one") => return status(409),
            "POST" => drop(kept.events.insert("one".to_owned(), (now, 1))),
            "PATCH" if !kept.may_patch => return status(403),
            "PATCH" => {
                assert!(name.starts_with("web."), "{name}");
                let Some((time, count)) = kept.events.get_mut("one") else {
                    return status(404);
                };
                (*time, *count) = (now, *count + 1);
            }
            _ => panic!("{method}"),
        }
        Response::new(Answer::from(json!({ "metadata": {} }).to_string()))
    });
    let index = Arc::new(Index::default());
    let now = || Timestamp::UNIX_EPOCH;
    let writer = EventWriter::new(client, Arc::clone(&index), leadership, "r".to_owned(), now);
    (writer, index)
}

#[tokio::test(start_paused = true)]
async fn an_event_lasts_as_long_as_what_it_tells() {
    let kept = Arc::new(Mutex::new(Kept { may_patch: true, ..Kept::default() }));
    let (writer, index) = writer_of(&kept, Leadership::always());
    odd(&index, "web");
    let test = async {
        for minute in 1..=6 * 60 {
            sleep(Duration::from_mins(1)).await;
            let (time, times) = kept.lock().unwrap().events["one"];
            assert!(time.elapsed() < Duration::from_hours(1), "after {minute} min");
            assert_eq!(times, 1 + minute / 30 - i64::from(minute % 30 == 0), "{minute}");
        }
        let before = kept.lock().unwrap().written.len();
        // The API server deletes the Events early.
        kept.lock().unwrap().events.clear();
        sleep(Duration::from_mins(20)).await;
        assert_eq!(kept.lock().unwrap().written[before..], ["PATCH", "POST"]);
        index.findings().forget(&workload("web"));
        let before = kept.lock().unwrap().written.len();
        sleep(Duration::from_hours(6)).await;
        assert_eq!(kept.lock().unwrap().written.len(), before, "what is over is not told");
    };
    tokio::join!(run_for(writer, Duration::from_hours(13)), test);
}

#[tokio::test(start_paused = true)]
async fn what_another_process_wrote_is_written_again_by_the_next_leader() {
    let kept = Arc::new(Mutex::new(Kept { may_patch: true, ..Kept::default() }));
    for _ in 0..2 {
        let (writer, index) = writer_of(&kept, Leadership::always());
        odd(&index, "web");
        run_for(writer, Duration::from_mins(20)).await;
    }
    assert_eq!(kept.lock().unwrap().written, ["POST", "POST", "PATCH"]);
    assert_eq!(kept.lock().unwrap().events["one"].1, 2);
}

#[tokio::test(start_paused = true)]
async fn without_the_permission_to_patch_it_is_written_again_when_it_was_dropped() {
    let kept = Arc::new(Mutex::new(Kept::default()));
    let (writer, index) = writer_of(&kept, Leadership::always());
    odd(&index, "web");
    run_for(writer, Duration::from_mins(95)).await;
    // The Event still exists after half an hour, and not after an hour.
    let written = kept.lock().unwrap().written.clone();
    assert_eq!(written, ["POST", "PATCH", "POST", "POST"]);
}

#[tokio::test(start_paused = true)]
async fn what_lasts_leaves_room_for_what_is_new() {
    let (writer, index, requests) = writer(&[], Leadership::always());
    let message = |number: u32| format!("variable {number}");
    let of = |number| Finding { reason: "NoKey", is_warning: true, message: message(number) };
    let many: Vec<_> = (0..20).map(of).collect();
    index.findings().set(&workload("busy"), "u", FindingSource::Manifest, many);
    let later = async {
        sleep(Duration::from_hours(10)).await;
        let before = *requests.lock().unwrap();
        // One Event in five minutes.
        assert!(before <= BURST + 10 * 12, "{before}");
        let new: Vec<_> = (100..105).map(of).collect();
        index.findings().set(&workload("busy"), "u", FindingSource::Vault, new);
        sleep(Duration::from_mins(1)).await;
        assert_eq!(index.findings().untold_of(&workload("busy")), 0);
    };
    tokio::join!(run_for(writer, Duration::from_hours(11)), later);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_writes_none() {
    let (candidacy, leadership) = election_channel();
    let (writer, index, requests) = writer(&[], leadership);
    odd(&index, "a");
    let later = async {
        sleep(Duration::from_mins(1)).await;
        assert_eq!(*requests.lock().unwrap(), 0);
        candidacy.say(Claim::Always);
    };
    tokio::join!(run_for(writer, Duration::from_mins(2)), later);
    assert_eq!(*requests.lock().unwrap(), 1);
}

#[test]
fn the_same_has_the_same_name_and_one_that_fits() {
    let index = Index::default();
    let long = "x".repeat(253);
    for name in ["web", &long] {
        let event = |_: u32| {
            odd(&index, name);
            let finding = index.findings().next().unwrap();
            index.findings().forget(&finding.workload);
            event_of(&finding, "r", Timestamp::UNIX_EPOCH)
        };
        let (event, again) = (event(1), event(2));
        assert_eq!(event, again);
        let name = event.metadata.name.unwrap();
        assert!(name.len() <= LONGEST_NAME && name.starts_with(&name[..3]), "{name}");
        assert_eq!(event.regarding.unwrap().uid.as_deref(), Some("u"));
        assert_eq!(
            (event.reason.as_deref(), event.type_.as_deref()),
            (Some("NoKey"), Some("Warning"))
        );
    }
}
