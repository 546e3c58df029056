//! The process that holds the bed of `up`, and does there what others ask for.
//!
//! One line over a socket says what: `down`, `deploy`, `demo`, `demo-terminal`. What is said about
//! it goes back over the same socket until it is closed.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use e2e::deploy::deploy;
use e2e::kubelet::Pod;
use e2e::{Bed, Controller, Options};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use super::demo;
use super::place::{API_PORT, Place, UpState, VAULT_PORT};
use super::say::Say;

/// Ends what is said when it failed; a terminal does not show it.
pub(crate) const FAILED: &str = "\u{0}failed\u{0}";

/// What runs on the bed beside its servers.
#[derive(Debug, Default)]
struct Running {
    pod: Option<Pod>,
    demo: Option<Controller>,
}

/// Starts the bed, says so in a file, and serves until it is told to end.
pub(crate) async fn supervise() -> Result<()> {
    let place = Place::find()?;
    let bed = Bed::start(Options::new().at(place.bed(), API_PORT, VAULT_PORT)).await?;
    let listener = UnixListener::bind(place.socket()).context("cannot listen on the socket")?;
    UpState::of(&bed).write(&place)?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut running = Running::default();
    loop {
        tokio::select! {
            connection = listener.accept() => {
                if serve(connection?.0, &bed, &mut running).await? {
                    break;
                }
            }
            _ = terminated.recv() => break,
        }
    }
    drop(running);
    drop(bed);
    _ = std::fs::remove_file(place.socket());
    // Last, since this is what `down` waits for.
    _ = std::fs::remove_file(place.state());
    Ok(())
}

/// Does what one client asks for; true when the bed is to end.
async fn serve(stream: UnixStream, bed: &Bed, running: &mut Running) -> Result<bool> {
    let (input, mut output) = stream.into_split();
    let mut line = String::new();
    // A client that only looks whether somebody listens says nothing.
    let read = timeout(Duration::from_secs(2), BufReader::new(input).read_line(&mut line)).await;
    if !matches!(read, Ok(Ok(1..))) {
        return Ok(false);
    }
    let (sender, mut said) = unbounded_channel::<String>();
    let (done, writing) = (
        async move {
            let what = line.trim().to_owned();
            let mut say = Say::to_client(sender, what == "demo-terminal");
            if let Err(error) = run(&what, bed, running, &mut say).await {
                say.raw(&format!("bed: {error:#}\n{FAILED}"));
            }
            what == "down"
        },
        async move {
            while let Some(text) = said.recv().await {
                // A client that went away does not end what it asked for.
                _ = output.write_all(text.as_bytes()).await;
            }
        },
    );
    Ok(tokio::join!(done, writing).0)
}

async fn run(what: &str, bed: &Bed, running: &mut Running, say: &mut Say) -> Result<()> {
    match what {
        "down" => Ok(()),
        "deploy" => {
            if let Some(mut pod) = running.pod.take() {
                pod.controller.terminate().await?;
                say.line("the pod that ran before has ended");
            }
            if running.demo.take().is_some() {
                say.line("the controller of the demo has ended");
            }
            let values = [("reloaderRunPeriod", "5s"), ("logLevel", "debug")];
            let pod = deploy(bed, &values, &mut |text| say.line(text)).await?;
            say.line(&format!("health: http://{}/", pod.controller.address()));
            say.line(&format!("log: {}", pod.controller.log_file().display()));
            running.pod = Some(pod);
            Ok(())
        }
        "demo" | "demo-terminal" => {
            // Two that watch the same workloads would take each other's reloads away.
            running.demo = None;
            running.pod = None;
            running.demo = Some(demo::run(bed, say).await?);
            Ok(())
        }
        _ => bail!("unknown: {what}"),
    }
}
