//! A wire between the controller and a server, which fails in the ways of networks. The wire
//! forwards bytes without reading them, so TLS passes through.
//!
//! Invariant: while the wire refuses, no connection through it is open.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::Result;
use fastrand::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::wait::locked;

/// A limit in bytes: a server's part of a TLS handshake is shorter, and an object of the API server
/// is longer.
const HANDSHAKE: usize = 2500;

/// The effect of the wire on connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    /// The wire forwards everything.
    Fair,
    /// All connections are closed, and each new one is closed at once.
    Refusing,
    /// Requests pass, and answers are held. The server's part of a TLS handshake passes, because a
    /// client would never send its request without it.
    Holding,
    /// As `Holding`, on connections that are older than this weather. New connections are fine.
    HoldingOld,
    /// Each connection is closed after a random number of bytes of answers, less than this number.
    Cutting(usize),
}

#[derive(Debug, Clone, Copy)]
struct State {
    weather: Weather,
    since: Instant,
    /// The present era. Connections of an earlier era are closed.
    era: u64,
}

/// A running wire. Its connections end when this value is dropped.
#[derive(Debug)]
pub(super) struct Wire {
    port: u16,
    state: watch::Sender<State>,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    rng: Mutex<Rng>,
    cuts: AtomicUsize,
}

impl Wire {
    /// Starts a wire to a server on a port of 127.0.0.1.
    pub(super) async fn to(port: u16, rng: Rng) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own_port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            server: SocketAddr::from(([127, 0, 0, 1], port)),
            rng: Mutex::new(rng),
            cuts: AtomicUsize::new(0),
        });
        let (state, seen) =
            watch::channel(State { weather: Weather::Fair, since: Instant::now(), era: 0 });
        let accepting = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let (shared, seen) = (Arc::clone(&shared), seen.clone());
                    tokio::spawn(async move { shared.serve(client, seen).await });
                }
            }
        });
        Ok(Self { port: own_port, state, shared, accepting })
    }

    /// The port of the wire.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn set(&self, weather: Weather) {
        self.state.send_modify(|state| {
            *state = State { weather, since: Instant::now(), ..*state };
        });
    }

    /// Closes all connections. New connections pass.
    pub(super) fn drop_connections(&self) {
        self.state.send_modify(|state| state.era += 1);
    }

    /// The number of answers that were cut so far.
    pub(super) fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set(Weather::Refusing);
    }
}

impl Shared {
    async fn serve(&self, mut client: TcpStream, mut state: watch::Receiver<State>) {
        let era = state.borrow().era;
        if state.borrow().weather == Weather::Refusing {
            return;
        }
        let Ok(mut server) = TcpStream::connect(self.server).await else { return };
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        // The end of either direction is the end of both: HTTP needs no half-open connection.
        tokio::select! {
            _ = carry(from_client, to_server) => {}
            _ = self.answer(from_server, to_client, state.clone()) => {}
            _ = state.wait_for(|now| now.era != era || now.weather == Weather::Refusing) => {}
        }
    }

    async fn answer(
        &self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        mut state: watch::Receiver<State>,
    ) -> Result<()> {
        let mut buffer = vec![0; 16_384];
        let (mut left, mut passed) = (None, 0);
        let opened = Instant::now();
        loop {
            let length = from.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            passed += length;
            let may_pass = passed <= HANDSHAKE;
            let passes = |now: &State| match now.weather {
                Weather::Holding => may_pass,
                Weather::HoldingOld => may_pass || opened > now.since,
                Weather::Fair | Weather::Refusing | Weather::Cutting(_) => true,
            };
            let weather = state.wait_for(passes).await?.weather;
            let Weather::Cutting(below) = weather else {
                left = None;
                to.write_all(&buffer[..length]).await?;
                continue;
            };
            let rest = left.unwrap_or_else(|| locked(&self.rng).usize(..below.max(1)));
            to.write_all(&buffer[..length.min(rest)]).await?;
            if length >= rest {
                self.cuts.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            left = Some(rest - length);
        }
    }
}

async fn carry(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<()> {
    copy(&mut from, &mut to).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Starts a server that answers each byte with a thousand bytes, and a wire to it.
    async fn start() -> (Wire, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut byte = [0];
                    while matches!(client.read(&mut byte).await, Ok(1)) {
                        if client.write_all(&[byte[0]; 1000]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        (Wire::to(port, Rng::with_seed(1)).await.unwrap(), serving)
    }

    async fn connect(wire: &Wire) -> TcpStream {
        TcpStream::connect(("127.0.0.1", wire.port())).await.unwrap()
    }

    /// Returns the number of bytes that arrive before the connection ends or the answer is
    /// complete.
    async fn ask(connection: &mut TcpStream) -> usize {
        let mut answer = vec![0; 1000];
        let mut length = 0;
        if connection.write_all(&[7]).await.is_err() {
            return 0;
        }
        while length < 1000 {
            match connection.read(&mut answer[length..]).await {
                Ok(0) | Err(_) => break,
                Ok(more) => length += more,
            }
        }
        length
    }

    #[tokio::test]
    async fn each_weather_does_what_it_says() {
        let (wire, _serving) = start().await;
        let mut first = connect(&wire).await;
        assert_eq!(ask(&mut first).await, 1000);

        wire.drop_connections();
        assert_eq!(ask(&mut first).await, 0);
        let mut second = connect(&wire).await;
        assert_eq!(ask(&mut second).await, 1000);
        assert_eq!(ask(&mut second).await, 1000);

        wire.set(Weather::Holding);
        let waited = timeout(Duration::from_millis(100), ask(&mut second)).await;
        assert!(waited.is_err(), "no answer passes");
        wire.set(Weather::Fair);
        let mut answer = vec![0; 1000];
        second.read_exact(&mut answer).await.unwrap();

        wire.set(Weather::Cutting(900));
        assert!(ask(&mut second).await < 1000);
        assert_eq!(wire.cuts(), 1);

        wire.set(Weather::Refusing);
        assert_eq!(ask(&mut connect(&wire).await).await, 0);
        wire.set(Weather::Fair);
        assert_eq!(ask(&mut connect(&wire).await).await, 1000);
    }
}
