//! Reads the certificate and credential files of a server whenever they are needed. A file may be
//! on a mount that hangs.
//!
//! Architecture Invariant: no read blocks a thread of the runtime, and each read has a time-out.
//! The reads of one server take turns, so a mount that hangs blocks one thread, and no other server
//! waits for it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// The time-out of a read, including the wait for its turn.
const LONGEST_READ: Duration = Duration::from_secs(5);

/// The permit to read files of one server.
#[derive(Clone, Debug)]
pub struct Files {
    turn: Arc<Semaphore>,
    longest: Duration,
}

impl Default for Files {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), longest: LONGEST_READ }
    }
}

impl Files {
    /// Runs a read that blocks. Returns an error if the read takes too long; the next read then
    /// waits until this one has ended.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let turn = Arc::clone(&self.turn).acquire_owned();
        let reading = async {
            let turn = turn.await.map_err(io::Error::other)?;
            let reading = spawn_blocking(move || {
                let content = read();
                drop(turn);
                content
            });
            reading.await.map_err(|_| io::Error::other("the read was interrupted"))
        };
        let hangs = || io::Error::new(io::ErrorKind::TimedOut, "the file system does not answer");
        timeout(self.longest, reading).await.unwrap_or_else(|_| Err(hangs()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_mount_that_hangs_keeps_one_thread_and_the_files_of_no_other_server() {
        let files = Files { longest: Duration::from_millis(50), ..Files::default() };
        let (hold, held) = mpsc::channel::<()>();
        let reads = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&reads);
        let hangs = files.read(move || {
            counter.fetch_add(1, Ordering::Relaxed);
            held.recv()
        });
        assert_eq!(hangs.await.unwrap_err().to_string(), "the file system does not answer");
        for _ in 0..5 {
            let counter = Arc::clone(&reads);
            let read = files.read(move || counter.fetch_add(1, Ordering::Relaxed));
            assert_eq!(read.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        assert_eq!(reads.load(Ordering::Relaxed), 1, "no other has begun");
        assert_eq!(Files::default().read(|| 1).await.unwrap(), 1);
        drop(hold);
        let files = Files { longest: LONGEST_READ, ..files };
        assert_eq!(files.read(|| 2).await.unwrap(), 2, "it goes on");
    }
}
