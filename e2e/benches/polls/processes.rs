//! A reloader as a whole process, ours or another one: what its first poll costs, and an unchanged one.
//!
//! Nothing is asked of it but that it asks Vault: where a poll begins and ends is seen in the audit log.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use e2e::command_lines::RELOADER_USER;
use e2e::{Bed, Controller, ControllerOptions, Mark};

use crate::cost::{Cost, median};

/// Between two polls, as the flag has it.
const PERIOD: &str = "10s";
/// A poll is over when nothing was asked for so long.
const QUIET: Duration = Duration::from_secs(2);
/// A poll begins within this.
const BEGINS_WITHIN: Duration = Duration::from_mins(1);
/// How often Vault's audit log is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// How many unchanged polls are measured; the median counts.
const POLLS: usize = 3;

/// What a process costs.
pub(crate) struct Took {
    /// From its start to the end of its first poll.
    pub(crate) first: Cost,
    /// A poll that finds nothing to do.
    pub(crate) unchanged: Cost,
}

/// Runs a reloader and measures it.
pub(crate) async fn measure(bed: &Bed, options: ControllerOptions) -> Result<Took> {
    let options = options.flag("--reloader-run-period", PERIOD).flag("--log-level", "info");
    let since = Since::now(bed, None).await?;
    let mut controller = Controller::spawn(bed, &options).await?;
    let first = since.a_poll(bed, &controller).await?;
    let mut unchanged = Vec::new();
    for _ in 0..POLLS {
        let since = Since::now(bed, Some(&controller)).await?;
        unchanged.push(since.a_poll(bed, &controller).await?);
    }
    controller.terminate().await?;
    Ok(Took { first, unchanged: median(unchanged)? })
}

/// The moment before a poll.
struct Since {
    mark: Mark,
    lines: usize,
    cpu: Duration,
}

impl Since {
    async fn now(bed: &Bed, controller: Option<&Controller>) -> Result<Self> {
        let (lines, cpu) = match controller {
            Some(controller) => (controller.lines().len(), controller.cpu()?),
            None => Default::default(),
        };
        Ok(Self { mark: bed.mark().await?, lines, cpu })
    }

    /// Waits for the next poll and its end.
    async fn a_poll(self, bed: &Bed, controller: &Controller) -> Result<Cost> {
        let Self { mark, lines, cpu } = self;
        let wall = next_poll(bed, controller).await?;
        let requests = bed.vault_requests_since(&mark)?;
        let mut api = bed.api_requests_since(&mark).await?;
        api.retain(|request| request.user == RELOADER_USER);
        Ok(Cost {
            requests: requests.len(),
            logins: requests.iter().filter(|request| request.is_login()).count(),
            audit_bytes: bed.vault_mark().bytes_since(mark),
            wall,
            cpu: controller.cpu()?.saturating_sub(cpu),
            api_requests: Some(api.len()),
            lines: Some(controller.lines().len() - lines),
        })
    }
}

/// How long it is from the first request of the next poll to its last.
async fn next_poll(bed: &Bed, controller: &Controller) -> Result<Duration> {
    let (started, before) = (Instant::now(), bed.vault_mark());
    while bed.vault_mark() == before {
        if started.elapsed() > BEGINS_WITHIN {
            bail!("no poll within {BEGINS_WITHIN:?}; {}", controller.last_lines());
        }
        tokio::time::sleep(LOOK).await;
    }
    let (began, mut last, mut seen) = (Instant::now(), Instant::now(), bed.vault_mark());
    while last.elapsed() < QUIET {
        tokio::time::sleep(LOOK).await;
        let now = bed.vault_mark();
        if now != seen {
            (last, seen) = (Instant::now(), now);
        }
    }
    Ok(last.saturating_duration_since(began))
}
