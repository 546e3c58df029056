//! The process group of all processes of a bed, and the guardian that ends the group.
//!
//! Two helpers run beside the servers. The anchor is `cat`, the leader of the group, so that the
//! group exists while servers come and go. The guardian is a shell in a group of its own, where no
//! Ctrl-C reaches it. The guardian reads a pipe whose other end this process holds. However this
//! process ends, the kernel closes that end. The guardian then kills the group and removes the
//! bed's folder.
//!
//! Invariant: no member of the group outlives the process that made the [`ProcessGroup`].

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::wait::locked;

/// A file of this name in a bed's folder keeps the folder from being removed.
pub(crate) const KEEP: &str = ".keep";

/// The guardian's script. `$1` is the group, `$2` the folder. Killed processes may still be dying
/// when the folder is removed, so the removal is tried again.
const GUARDIAN: &str = r#"
trap "" INT TERM HUP
cat >/dev/null
kill -s KILL -- "-$1" 2>/dev/null
[ -e "$2/.keep" ] && exit 0
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf -- "$2" 2>/dev/null
    [ -e "$2" ] || exit 0
    sleep 0.1
done
"#;

/// A process group that ends with this process.
#[derive(Debug)]
pub struct ProcessGroup {
    id: Pid,
    helpers: Mutex<Vec<Child>>,
}

impl ProcessGroup {
    /// Makes a group. Its end also removes `folder`.
    ///
    /// # Errors
    /// When `cat` or `/bin/sh` cannot be started.
    pub fn start(folder: &Path) -> Result<Self> {
        let anchor = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start `cat`, the anchor of the process group")?;
        let id = Pid::from_child(&anchor);
        let guardian = Command::new("/bin/sh")
            .args(["-c", GUARDIAN, "bed-guardian"])
            .arg(id.as_raw_nonzero().to_string())
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start `/bin/sh`, the guardian of the process group")?;
        Ok(Self { id, helpers: Mutex::new(vec![guardian, anchor]) })
    }

    /// The number of the group.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.id.as_raw_nonzero().get()
    }

    /// Makes `command` start within the group.
    pub fn join(&self, command: &mut Command) {
        command.process_group(self.id());
    }

    /// The processes of the group that have not ended, the anchor included.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn members(&self) -> Result<Vec<u32>> {
        members_of(self.id())
    }

    /// Kills every process of the group at once.
    pub(crate) fn kill(&self) {
        // An error means that the group is gone already.
        _ = kill_process_group(self.id, Signal::KILL);
    }

    /// Ends the guardian. From now on, no process watches over the group.
    pub(crate) fn dismiss(&self) {
        for mut helper in locked(&self.helpers).drain(..) {
            // The guardian leads a group of its own, with its `cat`.
            _ = kill_process_group(Pid::from_child(&helper), Signal::KILL);
            _ = helper.wait();
        }
    }
}

/// The processes of a group that have not ended.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn members_of(group: i32) -> Result<Vec<u32>> {
    let mut members = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that ends during the read is skipped.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name, in parentheses, may hold anything; then come state, parent, group.
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let has_ended = matches!(fields.first(), None | Some(&"Z" | &"X"));
        if !has_ended && fields.get(2).and_then(|field| field.parse().ok()) == Some(group) {
            members.push(pid);
        }
    }
    Ok(members)
}
