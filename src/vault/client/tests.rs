//! Redirects, names, certificates, and the offered versions of TLS.

use http::header::HOST;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::events::event::Event;
use crate::events::sink::Sink;
use crate::model::request_end::RequestEnd;
use crate::vault::tls::{Authority, Tls};

mod clock;
mod ways_in;

fn settings(redirects: Option<&[&str]>) -> ServerSettings {
    let url = |address: &&str| Url::parse(address).unwrap();
    ServerSettings {
        redirects: redirects.map(|addresses| addresses.iter().map(url).collect()),
        timeout: Duration::from_secs(1),
        ..ServerSettings::at(Url::parse("https://vault.example:8200").unwrap())
    }
}

#[test]
fn a_redirect_is_followed_to_configured_servers_alone() {
    let addresses = ["https://node-1.example:8200", "https://other.example"];
    let (all, none) = (settings(Some(&addresses)), settings(None));
    let is_configured = |url| is_configured(&all, &Url::parse(url).unwrap());
    assert!(!crate::vault::client::is_configured(&none, &none.address));
    for url in [
        "https://vault.example:8200/v1/secret/metadata/a?x=1",
        "https://node-1.example:8200/v1/a",
        "https://other.example:443/v1/a",
    ] {
        assert!(is_configured(url), "{url}");
    }
    for url in [
        "http://vault.example:8200/v1/a",
        "https://vault.example/v1/a",
        "https://vault.example:8201/v1/a",
        "https://node-2.example:8200/v1/a",
        "https://vault.example:8200@evil.example/v1/a",
        "https://vault.example.evil.example:8200/",
    ] {
        assert!(!is_configured(url), "{url}");
    }
}

#[test]
fn the_advice_about_a_redirect_can_be_followed() {
    let on_socket = ServerSettings { socket: Some("/run/vault.sock".into()), ..settings(None) };
    assert!(!redirect_advice(&on_socket).contains("VAULT_REDIRECT_ADDRS"));
    assert!(redirect_advice(&settings(None)).contains("VAULT_DISABLE_REDIRECTS"));
    let advice = redirect_advice(&settings(Some(&[])));
    assert_eq!(advice, "If it is right, add it to VAULT_REDIRECT_ADDRS");
}

#[test]
fn certificates_that_are_none_are_said_by_the_variable_they_come_from() {
    let ways = [
        (Authority::Bytes(b"no PEM".to_vec()), "VAULT_CACERT_BYTES"),
        (Authority::Followed(tokio::sync::watch::channel(Vec::new()).1), "VAULT_TLS_SECRET"),
    ];
    for (authority, variable) in ways {
        let tls = Tls { authority, ..Tls::default() };
        let settings = ServerSettings { tls, ..settings(None) };
        let said = Server::new(settings, Arc::default()).err().map(|error| error.to_string());
        assert!(said.as_ref().is_some_and(|said| said.contains(variable)), "{said:?}");
    }
}

/// Returns the versions of TLS that a client offers in its first message.
fn offered_versions(hello: &[u8]) -> Option<Vec<u16>> {
    const SUPPORTED_VERSIONS: u16 = 43;
    let number = |at: usize| Some(u16::from_be_bytes([*hello.get(at)?, *hello.get(at + 1)?]));
    // The headers of the record and of the message, a version, and a random number.
    let session = 5 + 4 + 2 + 32;
    let ciphers = session + 1 + usize::from(*hello.get(session)?);
    let compressions = ciphers + 2 + usize::from(number(ciphers)?);
    let mut at = compressions + 1 + usize::from(*hello.get(compressions)?) + 2;
    while number(at)? != SUPPORTED_VERSIONS {
        at += 4 + usize::from(number(at + 2)?);
    }
    let versions = hello.get(at + 5..at + 4 + usize::from(number(at + 2)?))?;
    Some(versions.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect())
}

#[tokio::test]
async fn no_version_of_tls_before_1_2_is_offered() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let tls = Tls { skip_verify: true, ..Tls::default() };
    let settings = ServerSettings { address: address.parse().unwrap(), tls, ..settings(None) };
    let server = Server::new(settings, Arc::default()).unwrap();
    let hear = async {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut header = [0; 5];
        client.read_exact(&mut header).await.unwrap();
        let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        client.read_exact(&mut hello).await.unwrap();
        [&header[..], &hello].concat()
    };
    let (hello, ()) = tokio::join!(hear, server.read_clock());
    let mut versions = offered_versions(&hello).unwrap();
    versions.sort_unstable();
    assert_eq!(versions, [0x0303, 0x0304]);
}

#[test]
fn a_server_is_named_as_its_certificate_is() {
    let url = Url::parse("https://10.0.0.1:8200/v1/a?b=c").unwrap();
    let mut request = reqwest::Request::new(reqwest::Method::GET, url);
    name_server(&mut request, "vault.internal");
    assert_eq!(request.url().as_str(), "https://vault.internal:8200/v1/a?b=c");
    assert_eq!(request.headers()[HOST], "10.0.0.1:8200");
}

/// Keeps the ends of requests.
#[derive(Default)]
struct Ends(Mutex<Vec<(String, &'static str, RequestEnd)>>);

impl Sink for Ends {
    fn on(&self, event: &Event<'_>) {
        if let Event::VaultRequest { server, operation, end } = *event {
            lock(&self.0).push((server.to_string(), operation, end));
        }
    }
}

#[tokio::test]
async fn each_request_is_reported_with_its_end() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let settings = ServerSettings { address: address.parse().unwrap(), ..settings(None) };
    let ends = Arc::new(Ends::default());
    let sinks: Vec<Box<dyn Sink>> = vec![Box::new(Arc::clone(&ends))];
    let server = Server::new(settings, Arc::default()).unwrap();
    let server = server.with_events("other".into(), Events::new(sinks));
    let answer = async {
        let (mut client, _) = listener.accept().await.unwrap();
        assert!(client.read(&mut [0; 1024]).await.unwrap() > 0);
        let answer = b"HTTP/1.1 429 Standby\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
        client.write_all(answer).await.unwrap();
    };
    tokio::join!(answer, server.read_clock());
    drop(listener);
    assert!(server.is_sealed().await.is_err());
    let other = |operation, end| ("other".to_owned(), operation, end);
    let expected =
        [other("health", RequestEnd::Answered(429)), other("seal_status", RequestEnd::Failed)];
    assert_eq!(*lock(&ends.0), expected);
}
