//! Servers behind a path, behind a Unix socket, and behind a proxy that asks for headers.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use super::*;
use crate::vault::endpoint::Post;
use crate::vault::headers::Headers;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";

/// Answers one request, and returns its first line and its headers in lower case.
async fn answer_one(mut client: impl AsyncRead + AsyncWrite + Unpin) -> String {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut buffer = [0; 1024];
        let length = client.read(&mut buffer).await.unwrap();
        assert!(length > 0, "the connection was closed");
        head.extend_from_slice(&buffer[..length]);
    }
    client.write_all(OK).await.unwrap();
    // The client may have closed the connection already.
    drop(client.shutdown().await);
    String::from_utf8(head).unwrap().to_lowercase()
}

/// Returns the requests that a server gets.
async fn answer_some(listener: &TcpListener, count: usize) -> Vec<String> {
    let mut heads = Vec::new();
    while heads.len() < count {
        let (client, _) = listener.accept().await.unwrap();
        heads.push(answer_one(client).await);
    }
    heads
}

/// A client of a server that listens on this machine.
fn server_at(listener: &TcpListener, path: &str, headers: Headers) -> Server {
    let address = format!("http://{}{path}", listener.local_addr().unwrap());
    let defaults = ServerSettings::at(address.parse().unwrap());
    Server::new(ServerSettings { headers, ..defaults }, Arc::default()).unwrap()
}

async fn get(server: &Server) -> Result<Answer, Failure> {
    let token = SecretString::from("token");
    server.get("secret/metadata/a b", &[("list", "true")], None, &token, None).await
}

async fn log_in(server: &Server) -> Result<Answer, Failure> {
    let post = Post { path: "/auth/team/login".to_owned(), body: None };
    server.execute(post, "").await
}

#[tokio::test]
async fn behind_a_path_each_request_begins_with_the_path() {
    for path in ["", "/vault", "/a/b"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = server_at(&listener, path, Headers::None);
        let send = async {
            get(&server).await.unwrap();
            server.read_clock_once().await;
            // The answer says nothing about the seal.
            drop(server.is_sealed().await);
            log_in(&server).await.unwrap();
        };
        let (heads, ()) = tokio::join!(answer_some(&listener, 4), send);
        let lines: Vec<&str> = heads.iter().filter_map(|head| head.lines().next()).collect();
        let expected = [
            format!("get {path}/v1/secret/metadata/a%20b?list=true http/1.1"),
            format!("get {path}/v1/sys/health http/1.1"),
            format!("get {path}/v1/sys/seal-status http/1.1"),
            format!("post {path}/v1/auth/team/login http/1.1"),
        ];
        assert_eq!(lines, expected);
    }
}

#[test]
fn behind_a_path_a_redirect_to_another_path_is_not_followed() {
    let nodes = vec![Url::parse("https://node.example:8200").unwrap()];
    let address = Url::parse("https://gw.example/vault").unwrap();
    let settings = ServerSettings { redirects: Some(nodes), ..ServerSettings::at(address) };
    let is_configured = |url: &str| is_configured(&settings, &Url::parse(url).unwrap());
    for url in [
        "https://gw.example/vault/v1/a?x=1",
        "https://gw.example:443/vault/v1/a",
        "https://node.example:8200/v1/a",
    ] {
        assert!(is_configured(url), "{url}");
    }
    for url in [
        "https://gw.example/v1/a",
        "https://gw.example/vaults/v1/a",
        "https://gw.example/vault/../v1/a",
        "https://gw.example/vault/%2e%2e/v1/a",
        "http://gw.example/vault/v1/a",
    ] {
        assert!(!is_configured(url), "{url}");
    }
}

#[tokio::test]
async fn requests_go_through_a_socket_to_localhost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let defaults = ServerSettings::at("http://localhost".parse().unwrap());
    let settings = ServerSettings { socket: Some(path.clone()), ..defaults };
    let server = Server::new(settings, Arc::default()).unwrap();
    assert_eq!(server.address(), format!("unix://{}", path.display()));
    let hear = async {
        let (client, _) = listener.accept().await.unwrap();
        answer_one(client).await
    };
    let (head, ()) = tokio::join!(hear, server.read_clock_once());
    assert!(head.starts_with("get /v1/sys/health http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: localhost\r\n"), "{head}");
}

#[tokio::test]
async fn headers_are_sent_with_each_request_and_follow_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("headers");
    let write = |value: &str| std::fs::write(&file, format!("{{\"X-Access\": \"{value}\"}}"));
    write("one").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = server_at(&listener, "", Headers::File(file.clone()));
    let send = async {
        get(&server).await.unwrap();
        log_in(&server).await.unwrap();
        server.read_clock_once().await;
        write("two").unwrap();
        server.refresh().await;
        get(&server).await.unwrap();
        // What cannot be sent does not replace what can.
        write("three\\n").unwrap();
        server.refresh().await;
        get(&server).await.unwrap();
    };
    let (heads, ()) = tokio::join!(answer_some(&listener, 5), send);
    for (head, value) in heads.iter().zip(["one", "one", "one", "two", "two"]) {
        assert!(head.contains(&format!("\r\nx-access: {value}\r\n")), "{head}");
    }
}

#[test]
fn without_a_file_with_headers_there_is_no_client() {
    let defaults = ServerSettings::at("http://localhost".parse().unwrap());
    let settings = ServerSettings { headers: Headers::File("/no/such".into()), ..defaults };
    let error = Server::new(settings, Arc::default()).err().unwrap().to_string();
    assert!(error.starts_with("VAULT_HEADERS_FILE: /no/such cannot be read"), "{error}");
}
