//! A stand-in for a server of a cloud, for tests.

use std::cell::RefCell;

use reqwest::Url;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A server on a free port of 127.0.0.1.
pub(crate) struct StandIn {
    listener: TcpListener,
}

impl StandIn {
    pub(crate) async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn address(&self) -> Url {
        let address = self.listener.local_addr().unwrap();
        Url::parse(&format!("http://{address}")).unwrap()
    }

    /// Answers requests in turn while a client runs. A request beyond these answers gets none.
    /// Returns the client's outcome and the requests.
    pub(crate) async fn answer<T>(
        &self,
        answers: &[String],
        client: impl Future<Output = T>,
    ) -> (T, Vec<String>) {
        let requests = RefCell::new(Vec::new());
        let serving = async {
            for answer in answers {
                let (mut stream, _) = self.listener.accept().await.unwrap();
                let request = read_request(&mut stream).await;
                requests.borrow_mut().push(request);
                // A client may have read enough before the end.
                drop(stream.write_all(answer.as_bytes()).await);
            }
            std::future::pending::<()>().await;
        };
        let outcome = tokio::select! {
            outcome = client => outcome,
            () = serving => unreachable!("it waits for ever"),
        };
        (outcome, requests.into_inner())
    }
}

/// Returns an answer with a status line such as `200 OK`, more headers, and a body.
pub(crate) fn answer_of(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\n\r\n{body}")
}

/// Reads a request with its body.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).await.unwrap();
        bytes.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            assert_ne!(length, 0, "half a request: {text}");
            continue;
        };
        let lengths = head.lines().filter_map(|line| line.split_once(": "));
        let mut lengths = lengths.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let wanted = lengths.next().map_or(0, |(_, value)| value.parse().unwrap());
        if body.len() >= wanted {
            return text;
        }
    }
}
