//! How often the server is asked for its time.

use std::sync::atomic::AtomicU32;

use tokio::net::TcpListener;
use tokio::time::{advance, pause, resume};

use super::*;

/// Answers requests for the clock, the first one after `delay`, and counts them.
async fn tell_time(listener: &TcpListener, delay: Duration, requests: &AtomicU32) {
    let body = r#"{"server_time_utc":1700000000}"#;
    let length = body.len();
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        assert!(client.read(&mut [0; 1024]).await.unwrap() > 0);
        if requests.fetch_add(1, Ordering::Relaxed) == 0 {
            pause();
            advance(delay).await;
            resume();
        }
        client.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn a_slow_answer_about_the_clock_is_followed_by_one_more_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let settings = ServerSettings {
        address: address.parse().unwrap(),
        timeout: Duration::from_secs(30),
        ..settings(None)
    };
    let server = Server::new(settings, Arc::default()).unwrap();
    let requests = AtomicU32::new(0);
    let delay = QUICK_CLOCK + Duration::from_millis(1);
    tokio::select! {
        () = tell_time(&listener, delay, &requests) => {}
        () = server.read_clock() => {}
    }
    assert_eq!(requests.into_inner(), 2);
}
