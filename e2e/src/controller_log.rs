//! The log of a controller, read line by line.
//!
//! Invariant: lines of one stream are in the order in which they were written; lines of the two
//! streams are in the order in which they were read.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::wait::locked;

/// The stream of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// debug and info.
    Stdout,
    /// warn and error.
    Stderr,
}

/// A line of the controller's log.
#[derive(Debug, Clone)]
pub struct Line {
    /// The stream of the line.
    pub stream: Stream,
    /// The line, without its newline.
    pub text: String,
    /// The time at which the line was read.
    pub at: Instant,
}

/// The lines of one process, and the threads that read them.
#[derive(Debug, Default)]
pub(crate) struct Log {
    lines: Arc<Mutex<Vec<Line>>>,
    /// Changes with each line. A test that waits for a line is woken at once, and costs nothing
    /// until then.
    growth: Arc<watch::Sender<()>>,
    readers: Vec<JoinHandle<()>>,
}

impl Log {
    /// Reads a stream to its end in a thread of its own. The lines also go to a file.
    pub(crate) fn follow(
        &mut self,
        stream: Stream,
        source: impl Read + Send + 'static,
        mut file: File,
    ) {
        let (lines, growth) = (Arc::clone(&self.lines), Arc::clone(&self.growth));
        self.readers.push(std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut bytes = Vec::new();
            while matches!(source.read_until(b'\n', &mut bytes), Ok(1..)) {
                // The file is only for people, so a full disk must not stop a test.
                _ = file.write_all(&bytes);
                let text = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
                locked(&lines).push(Line { stream, text, at: Instant::now() });
                growth.send_replace(());
                bytes.clear();
            }
        }));
    }

    /// Waits until all lines of an ended process were read.
    pub(crate) fn finish(&mut self) {
        for reader in self.readers.drain(..) {
            // A reader that failed has written an error to stderr.
            _ = reader.join();
        }
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        locked(&self.lines).clone()
    }

    pub(crate) fn lines_matching(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<Line> {
        locked(&self.lines).iter().filter(|line| is_wanted(&line.text)).cloned().collect()
    }

    /// Waits for a line among those from `from` on.
    pub(crate) async fn wait_for(
        &self,
        what: &str,
        within: Duration,
        from: usize,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Line> {
        let what = format!("a line of the controller: {what}");
        let mut next = from;
        self.until(&what, within, |lines| {
            let found = lines.iter().skip(next).find(|line| is_wanted(&line.text));
            next = next.max(lines.len());
            found.cloned()
        })
        .await
    }

    /// Waits until `look` finds something in the lines.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        within: Duration,
        mut look: impl FnMut(&[Line]) -> Option<T>,
    ) -> Result<T> {
        let mut growth = self.growth.subscribe();
        let found = async {
            loop {
                growth.borrow_and_update();
                let found = look(&locked(&self.lines));
                if let Some(found) = found {
                    return found;
                }
                if growth.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        timeout(within, found)
            .await
            .map_err(|_| anyhow!("waited {within:?} for {what}"))
            .with_context(|| self.end())
    }

    /// The last lines, for an error.
    pub(crate) fn end(&self) -> String {
        let lines = locked(&self.lines);
        let last = lines.iter().skip(lines.len().saturating_sub(40));
        let last: Vec<&str> = last.map(|line| line.text.as_str()).collect();
        format!("the controller's last lines:\n{}", last.join("\n"))
    }
}
