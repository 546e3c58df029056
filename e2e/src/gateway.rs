//! A gateway before a server. It forwards requests, answers some itself without an end or with an
//! error, and leaves others without an answer. It may serve the server behind a path, and ask for a
//! header. Before several servers, it is a load balancer.
//!
//! Invariant: each request has a connection of its own, so that a streamed answer delays no other
//! request.

use std::str::FromStr as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::wait::locked;

/// An answer without an end.
#[derive(Debug, Clone)]
pub struct Endless {
    /// Its first bytes.
    pub begin: String,
    /// The bytes that follow, repeated for ever.
    pub again: String,
    /// The time between two pieces.
    pub pause: Duration,
}

impl Endless {
    /// Returns an answer that is written as fast as it is read, in pieces of 64 KiB.
    #[must_use]
    pub fn fast(begin: &str, again: &str) -> Self {
        let again = again.repeat((64 << 10) / again.len().max(1) + 1);
        Self { begin: begin.to_owned(), again, pause: Duration::ZERO }
    }

    /// Returns an answer of a byte now and then.
    #[must_use]
    pub fn slow(begin: &str) -> Self {
        let pause = Duration::from_millis(100);
        Self { begin: begin.to_owned(), again: " ".to_owned(), pause }
    }
}

/// The rules for requests.
#[derive(Debug, Default)]
struct Rules {
    /// Requests whose target contains the text get the answer without an end.
    endless: Vec<(String, Endless)>,
    /// The treatment of PATCHes, if not all are forwarded.
    patches: Option<Patches>,
    /// The path that the server is behind.
    path: String,
    /// The header that each request must have.
    required: Option<(HeaderName, HeaderValue)>,
    /// The requests that get an error.
    failing: Option<Failing>,
}

/// The requests that get an error: the next ones whose target contains a text.
#[derive(Debug)]
struct Failing {
    target: String,
    status: u16,
    left: usize,
}

/// The number of PATCHes that are still treated in each way. All later PATCHes are held.
#[derive(Debug)]
struct Patches {
    answered: usize,
    unanswered: usize,
}

/// The treatment of one request.
#[derive(Debug)]
enum Treatment {
    /// The request and its answer are forwarded.
    Pass,
    /// The request is not forwarded, and gets an answer without an end.
    Stream(Endless),
    /// The request is forwarded, and its answer is not.
    Swallow,
    /// The request is neither forwarded nor answered.
    Hold,
}

impl Rules {
    /// Removes the path of the server from a target. Returns the status of the answer to a request that
    /// is not forwarded.
    fn admit(&mut self, target: &mut String, headers: &HeaderMap) -> Option<u16> {
        if let Some((name, value)) = &self.required
            && headers.get(name) != Some(value)
        {
            return Some(401);
        }
        match target.strip_prefix(&self.path) {
            Some(rest) if rest.starts_with('/') => *target = rest.to_owned(),
            _ => return Some(404),
        }
        let failing = self.failing.as_mut().filter(|failing| target.contains(&failing.target))?;
        failing.left = failing.left.checked_sub(1)?;
        Some(failing.status)
    }

    fn treat(&mut self, method: &Method, target: &str) -> Treatment {
        if let Some((_, endless)) = self.endless.iter().find(|(part, _)| target.contains(part)) {
            return Treatment::Stream(endless.clone());
        }
        match &mut self.patches {
            Some(patches) if method == Method::PATCH => {
                if patches.answered > 0 {
                    patches.answered -= 1;
                    Treatment::Pass
                } else if patches.unanswered > 0 {
                    patches.unanswered -= 1;
                    Treatment::Swallow
                } else {
                    Treatment::Hold
                }
            }
            _ => Treatment::Pass,
        }
    }
}

/// The counts of requests that were not simply forwarded and answered.
#[derive(Debug, Default)]
struct Counters {
    streamed: AtomicUsize,
    held: AtomicUsize,
    refused: AtomicUsize,
}

/// A request that a server has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// Path and query.
    pub target: String,
    /// The index of the server, from 0.
    pub server: usize,
    /// The HTTP status of the answer.
    pub status: u16,
}

/// The servers behind a gateway.
#[derive(Debug)]
struct Servers {
    addresses: Vec<String>,
    turns: Mutex<Turns>,
    answered: Mutex<Vec<Answered>>,
}

/// The turns of the servers.
#[derive(Debug)]
struct Turns {
    /// The servers that get requests.
    among: Vec<usize>,
    next: usize,
}

impl Servers {
    fn new(addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|address| address.trim_end_matches('/').to_owned());
        let addresses: Vec<String> = addresses.collect();
        let among = (0..addresses.len()).collect();
        let turns = Mutex::new(Turns { among, next: 0 });
        Self { addresses, turns, answered: Mutex::default() }
    }

    /// Returns the servers for one request: first the server whose turn it is, then the servers to
    /// try instead.
    fn turn(&self) -> Vec<usize> {
        let mut turns = locked(&self.turns);
        let mut order = turns.among.clone();
        if !order.is_empty() {
            let first = turns.next % order.len();
            order.rotate_left(first);
        }
        turns.next = turns.next.wrapping_add(1);
        order
    }

    /// Sends a request to the server whose turn it is. If that server refuses the connection, sends
    /// the request to the next one.
    async fn send(&self, client: &reqwest::Client, request: &Request) -> Result<reqwest::Response> {
        let mut refusal = None;
        for server in self.turn() {
            let url = format!("{}{}", self.addresses[server], request.target);
            let attempt = client.request(request.method.clone(), url);
            let attempt = attempt.headers(request.headers.clone()).body(request.body.clone());
            match attempt.send().await {
                Err(error) if error.is_connect() => refusal = Some(error),
                answer => {
                    let answer = answer?;
                    let (target, status) = (request.target.clone(), answer.status().as_u16());
                    locked(&self.answered).push(Answered { target, server, status });
                    return Ok(answer);
                }
            }
        }
        Err(refusal.map_or_else(|| anyhow!("no server"), Into::into))
    }
}

/// A request to forward.
#[derive(Debug)]
struct Request {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// A running gateway; its connections end when this value is dropped.
#[derive(Debug)]
pub struct Gateway {
    address: String,
    rules: Arc<Mutex<Rules>>,
    counters: Arc<Counters>,
    servers: Arc<Servers>,
    accepting: JoinHandle<()>,
}

impl Gateway {
    /// Starts a gateway on a free port of 127.0.0.1, before a server with this address. `ca` is the
    /// CA of a server with TLS.
    ///
    /// # Errors
    /// When no port is free, or the CA is invalid.
    pub async fn before(server: &str, ca: Option<&str>) -> Result<Self> {
        Self::before_all(&[server], ca).await
    }

    /// As [`Self::before`], before several servers, which get requests in turn. A server that
    /// refuses the connection is skipped.
    ///
    /// # Errors
    /// When no port is free, or the CA is invalid.
    pub async fn before_all(servers: &[&str], ca: Option<&str>) -> Result<Self> {
        // The client itself decides about redirects.
        let redirects = reqwest::redirect::Policy::none();
        let mut client = reqwest::Client::builder().no_proxy().redirect(redirects);
        if let Some(ca) = ca {
            client = client.tls_certs_only([reqwest::Certificate::from_pem(ca.as_bytes())?]);
        }
        let client = client.build()?;
        let servers = Arc::new(Servers::new(servers));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let rules = Arc::<Mutex<Rules>>::default();
        let counters = Arc::<Counters>::default();
        let (shared, counted) = (Arc::clone(&rules), Arc::clone(&counters));
        let behind = Arc::clone(&servers);
        let accepting = tokio::spawn(async move {
            // The connections end with this task.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (client, servers) = (client.clone(), Arc::clone(&behind));
                let (rules, counters) = (Arc::clone(&shared), Arc::clone(&counted));
                connections.spawn(async move {
                    // An error only ends the connection.
                    drop(serve(stream, &client, &servers, &rules, &counters).await);
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, rules, counters, servers, accepting })
    }

    /// The gateway's address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on, requests whose target contains a text get an answer without an end.
    pub fn stream(&self, target: &str, answer: Endless) {
        locked(&self.rules).endless.push((target.to_owned(), answer));
    }

    /// From now on, the server is behind a path, such as `/vault`. All other paths are not found.
    pub fn serve_behind(&self, path: &str) {
        path.clone_into(&mut locked(&self.rules).path);
    }

    /// From now on, requests without this header are not forwarded.
    ///
    /// # Errors
    /// When no header can have this name or value.
    pub fn require(&self, name: &str, value: &str) -> Result<()> {
        let required = (HeaderName::from_str(name)?, HeaderValue::from_str(value)?);
        locked(&self.rules).required = Some(required);
        Ok(())
    }

    /// The next `times` requests whose target contains a text get an error, and are not forwarded.
    pub fn fail(&self, target: &str, status: u16, times: usize) {
        let failing = Failing { target: target.to_owned(), status, left: times };
        locked(&self.rules).failing = Some(failing);
    }

    /// From now on, `answered` PATCHes are forwarded and answered. The next `unanswered` PATCHes
    /// are forwarded and never answered. All later PATCHes are neither forwarded nor answered. So a
    /// test that kills the client knows each of its applied PATCHes.
    pub fn hold_patches(&self, answered: usize, unanswered: usize) {
        locked(&self.rules).patches = Some(Patches { answered, unanswered });
    }

    /// From now on, all requests are forwarded and answered. Requests that are held already stay
    /// held.
    pub fn mend(&self) {
        *locked(&self.rules) = Rules::default();
    }

    /// From now on, only these servers get requests, in turn.
    pub fn direct(&self, servers: &[usize]) {
        locked(&self.servers.turns).among = servers.to_vec();
    }

    /// Returns the requests that servers have answered so far, in the order of their answers.
    #[must_use]
    pub fn answered(&self) -> Vec<Answered> {
        locked(&self.servers.answered).clone()
    }

    /// The number of answers without an end that have begun so far.
    #[must_use]
    pub fn streamed(&self) -> usize {
        self.counters.streamed.load(Ordering::Relaxed)
    }

    /// The number of requests that got an error from the gateway so far.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.counters.refused.load(Ordering::Relaxed)
    }

    /// The number of requests that were neither forwarded nor answered so far.
    #[must_use]
    pub fn held(&self) -> usize {
        self.counters.held.load(Ordering::Relaxed)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    stream: TcpStream,
    client: &reqwest::Client,
    servers: &Servers,
    rules: &Mutex<Rules>,
    counters: &Counters,
) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { bail!("no request") };
    let (method, mut target) = (Method::from_bytes(method.as_bytes())?, target.to_owned());
    let mut headers = HeaderMap::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "host" | "connection" => {}
            "content-length" => length = value.trim().parse()?,
            name => {
                headers.append(HeaderName::from_str(name)?, HeaderValue::from_str(value.trim())?);
            }
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let refusal = locked(rules).admit(&mut target, &headers);
    if let Some(status) = refusal {
        counters.refused.fetch_add(1, Ordering::Relaxed);
        let answer =
            format!("HTTP/1.1 {status} No\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
        stream.write_all(answer.as_bytes()).await?;
        return Ok(stream.shutdown().await?);
    }
    let treatment = locked(rules).treat(&method, &target);
    let request = Request { method, target, headers, body };
    let mut answer = match treatment {
        Treatment::Pass => servers.send(client, &request).await?,
        Treatment::Stream(endless) => {
            counters.streamed.fetch_add(1, Ordering::Relaxed);
            return pour(stream.get_mut(), &endless).await;
        }
        Treatment::Swallow => {
            servers.send(client, &request).await?;
            return wait_for_the_end(&mut stream).await;
        }
        Treatment::Hold => {
            counters.held.fetch_add(1, Ordering::Relaxed);
            return wait_for_the_end(&mut stream).await;
        }
    };
    let mut head = format!("HTTP/1.1 {}\r\n", answer.status());
    for (name, value) in answer.headers() {
        if !["connection", "transfer-encoding"].contains(&name.as_str()) {
            head.extend([name.as_str(), ": ", value.to_str().context("a header")?, "\r\n"]);
        }
    }
    head.push_str("connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    while let Some(chunk) = answer.chunk().await? {
        stream.write_all(&chunk).await?;
    }
    Ok(stream.shutdown().await?)
}

/// Waits until the client has closed the connection.
async fn wait_for_the_end(stream: &mut BufReader<TcpStream>) -> Result<()> {
    while stream.read(&mut [0; 256]).await? > 0 {}
    Ok(())
}

/// Writes until the client closes the connection.
async fn pour(stream: &mut TcpStream, endless: &Endless) -> Result<()> {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n".to_owned();
    stream.write_all((head + &endless.begin).as_bytes()).await?;
    loop {
        stream.write_all(endless.again.as_bytes()).await?;
        tokio::time::sleep(endless.pause).await;
    }
}
