//! The process that holds the bed of `up`, and runs commands for clients.
//!
//! A client sends one line over a socket: `down`, `deploy`, `demo` or `demo-terminal`. The output
//! of the command goes back over the same socket until it is closed.

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

/// The mark at the end of the output of a failed command. A terminal does not show it.
pub(crate) const FAILED: &str = "\u{0}failed\u{0}";

/// The controllers on the bed.
#[derive(Debug, Default)]
struct Running {
    pod: Option<Pod>,
    demo: Option<Controller>,
}

/// Starts the bed, writes its state to a file, and serves clients until the command to end.
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
    // This is the last step, because `down` waits for it.
    _ = std::fs::remove_file(place.state());
    Ok(())
}

/// Runs the command of one client. Returns whether the bed must end.
async fn serve(stream: UnixStream, bed: &Bed, running: &mut Running) -> Result<bool> {
    let (input, mut output) = stream.into_split();
    let mut line = String::new();
    // A client that only checks whether the supervisor runs sends nothing.
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
                // The command goes on after its client went away.
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
            // Two controllers on the same workloads would take reloads away from each other.
            running.demo = None;
            running.pod = None;
            running.demo = Some(demo::run(bed, say).await?);
            Ok(())
        }
        _ => bail!("unknown: {what}"),
    }
}
