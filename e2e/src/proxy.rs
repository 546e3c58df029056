//! A proxy before a server. It counts requests that an audit device does not log, such as requests
//! to a sealed server. It also makes outages that only the controller sees, and links that deliver
//! nothing.
//!
//! Invariant: while the proxy is cut, no connection through it is open.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::vault::Vault;

/// The end of the first line of each request.
const REQUEST_LINE_END: &[u8] = b" HTTP/1.1\r\n";

/// The treatment of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Connections stay open, but nothing that clients send reaches the server.
    Held,
    Cut,
}

/// A running proxy. Its connections end when this value is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy before a Vault server, on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn before(vault: &Vault) -> Result<Self> {
        let server = vault.address().strip_prefix("http://").context("not plain HTTP")?;
        Self::before_address(server).await
    }

    /// As [`Self::before`], before any server: `host:port`. The server need not run yet.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn before_address(server: &str) -> Result<Self> {
        let server = server.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let requests = Arc::new(AtomicUsize::new(0));
        let (state, seen) = watch::channel(State::Open);
        let counter = Arc::clone(&requests);
        let connections = Arc::<AtomicUsize>::default();
        let connected = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                connected.fetch_add(1, Ordering::Relaxed);
                let (server, counter, mut seen) = (server.clone(), counter.clone(), seen.clone());
                tokio::spawn(async move {
                    let gate = seen.clone();
                    tokio::select! {
                        // An error only ends the connection.
                        _ = serve(client, &server, &counter, gate) => {}
                        _ = seen.wait_for(|state| *state == State::Cut) => {}
                    }
                });
            }
        });
        Ok(Self { address, connections, requests, state, accepting })
    }

    /// The proxy's address, as in `VAULT_ADDR`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The number of connections so far, including those that were closed at once.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The number of requests so far, answered or not.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Closes all connections, and closes each new one at once.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Keeps all connections open, and delivers no data that clients send from now on.
    pub fn hold(&self) {
        self.state.send_replace(State::Held);
    }

    /// Ends a [`Self::cut`] or a [`Self::hold`]. Held data is delivered.
    pub fn mend(&self) {
        self.state.send_replace(State::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn serve(
    mut client: TcpStream,
    server: &str,
    counter: &AtomicUsize,
    mut gate: watch::Receiver<State>,
) -> Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let requests = async {
        let mut buffer = vec![0; 16_384];
        // The end of the data read before, because a line may be cut in two.
        let mut kept = Vec::new();
        loop {
            let length = from_client.read(&mut buffer).await?;
            if length == 0 {
                return Ok(to_server.shutdown().await?);
            }
            kept.extend_from_slice(&buffer[..length]);
            let ends = kept.windows(REQUEST_LINE_END.len()).filter(|w| *w == REQUEST_LINE_END);
            counter.fetch_add(ends.count(), Ordering::Relaxed);
            kept.drain(..kept.len().saturating_sub(REQUEST_LINE_END.len() - 1));
            gate.wait_for(|state| *state != State::Held).await?;
            to_server.write_all(&buffer[..length]).await?;
        }
    };
    let answers = async {
        copy(&mut from_server, &mut to_client).await?;
        // The client must see that the server has closed the connection.
        anyhow::Ok(to_client.shutdown().await?)
    };
    tokio::try_join!(requests, answers).map(drop)
}
