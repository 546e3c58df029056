//! `up`, `down` and the other commands that talk to the process that holds the bed.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use e2e::binaries::Binaries;
use e2e::{Bed, Options, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::place::{Place, UpState};
use super::say::Say;
use super::supervisor::FAILED;

/// Starts a bed in the background, or finds the running one, and prints how to talk to it.
pub(crate) async fn up(say: &mut Say) -> Result<()> {
    let state = ensure_up(say).await?;
    say.line(&state.exports());
    Ok(())
}

/// Runs `up`, and then the demo in the process that holds the bed.
pub(crate) async fn demo(say: &mut Say) -> Result<()> {
    let state = ensure_up(say).await?;
    let is_terminal = if say.is_terminal() { "demo-terminal" } else { "demo" };
    ask_supervisor(is_terminal, say).await?;
    say.line("\nEverything is left running. To talk to it:\n");
    say.line(&state.exports());
    say.line(&format!("alias kubectl={}", state.kubectl().display()));
    say.line("\nTo end it: make down");
    Ok(())
}

/// Ends the bed of `up`.
pub(crate) async fn down(say: &mut Say) -> Result<()> {
    let place = Place::find()?;
    if running(&place).await.is_none() {
        say.line("no bed is up");
        return Ok(());
    }
    ask_supervisor("down", say).await?;
    eventually("the end of the bed", Duration::from_secs(30), || async {
        Ok((!fs::exists(place.state())?).then_some(()))
    })
    .await?;
    say.line("the bed has ended");
    Ok(())
}

/// Runs a bed in the foreground.
pub(crate) async fn hold(say: &mut Say) -> Result<()> {
    let bed = Bed::start(Options::new()).await?;
    say.line(&UpState::of(&bed).exports());
    say.line(&format!("export BED_GROUP={}", bed.group().id()));
    say.line(&format!("export BED_FOLDER={}", bed.folder().display()));
    say.line("ready; Ctrl-C ends it");
    Ok(tokio::signal::ctrl_c().await?)
}

/// Sends a command to the process that holds the bed, and prints its output.
///
/// # Errors
/// When no bed is up, or the supervisor reports that the command failed.
pub(crate) async fn ask_supervisor(what: &str, say: &mut Say) -> Result<()> {
    let place = Place::find()?;
    let mut stream = UnixStream::connect(place.socket())
        .await
        .context("no bed is up; start one with `make up`")?;
    stream.write_all(format!("{what}\n").as_bytes()).await?;
    let mut bytes = vec![0; 16_384];
    // Bytes are kept until they are complete text, because the socket may cut a letter in two.
    let mut pending = Vec::new();
    let mut has_failed = false;
    loop {
        let length = stream.read(&mut bytes).await?;
        if length == 0 {
            break;
        }
        pending.extend_from_slice(&bytes[..length]);
        let whole = pending.utf8_chunks().next().map_or(0, |chunk| chunk.valid().len());
        let rest = pending.split_off(whole);
        let text = String::from_utf8(std::mem::replace(&mut pending, rest))?;
        has_failed |= text.contains(FAILED);
        say.raw(&text.replace(FAILED, ""));
    }
    if has_failed {
        bail!("{what} failed");
    }
    Ok(())
}

async fn ensure_up(say: &mut Say) -> Result<UpState> {
    let place = Place::find()?;
    if let Some(state) = running(&place).await {
        say.line("# a bed is up already");
        return Ok(state);
    }
    // The programs are built here, where the messages are seen, and not in the background.
    Binaries::find()?;
    _ = fs::remove_file(place.state());
    _ = fs::remove_file(place.socket());
    say.line(
        "# starting etcd, kube-apiserver, kube-controller-manager, kube-scheduler, KWOK and Vault",
    );
    let began = Instant::now();
    let log = File::create(place.log())?;
    let mut supervisor = Command::new(std::env::current_exe()?)
        .arg("supervise")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A Ctrl-C for a later command of the terminal must not reach this process.
        .process_group(0)
        .spawn()?;
    let state = eventually("the bed to be ready", Duration::from_mins(3), || {
        let ended = supervisor.try_wait();
        let state = place.read();
        async move { Ok(if ended?.is_some() { Some(None) } else { state.map(Some) }) }
    })
    .await?;
    let Some(state) = state else {
        let log = fs::read_to_string(place.log()).unwrap_or_default();
        bail!("the bed did not start:\n{log}");
    };
    say.line(&format!("# ready after {:.1} s", began.elapsed().as_secs_f32()));
    Ok(state)
}

async fn running(place: &Place) -> Option<UpState> {
    UnixStream::connect(place.socket()).await.ok()?;
    place.read()
}
