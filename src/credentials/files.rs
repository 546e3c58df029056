//! Reads the certificate and credential files of a server whenever they are needed. A file may be
//! on a mount that hangs.
//!
//! Architecture Invariant: no read blocks a thread of the runtime, and each read has a time-out.
//! The reads of one server take turns, so a mount that hangs blocks one thread, and no other server
//! waits for it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
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

/// Reads a file of at most `longest` bytes, and blocks while it reads. `longest` is a multiple of
/// 1,024. Returns an error that names the limit if the file is longer.
pub(crate) fn read_at_most(file: &Path, longest: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    // Reading one byte more shows that the file is too long.
    File::open(file)?.take(longest as u64 + 1).read_to_end(&mut content)?;
    if content.len() > longest {
        let limit = longest >> 10;
        return Err(io::Error::other(format!("it is longer than {limit} KiB")));
    }
    Ok(content)
}

/// Reads a text as [`read_at_most`] does.
pub(crate) fn read_text_at_most(file: &Path, longest: usize) -> io::Result<String> {
    let content = read_at_most(file, longest)?;
    String::from_utf8(content).map_err(|_| io::Error::other("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "x".repeat(2 << 10)).unwrap();
        assert_eq!(read_text_at_most(&file, 2 << 10).unwrap().len(), 2 << 10);
        let error = read_text_at_most(&file, 1 << 10).unwrap_err();
        assert_eq!(error.to_string(), "it is longer than 1 KiB");
        let endless = read_at_most(Path::new("/dev/zero"), 1 << 10).unwrap_err();
        assert_eq!(endless.to_string(), "it is longer than 1 KiB");
        std::fs::write(&file, [0xff]).unwrap();
        let error = read_text_at_most(&file, 1 << 10).unwrap_err();
        assert_eq!(error.to_string(), "it is not UTF-8");
    }

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
