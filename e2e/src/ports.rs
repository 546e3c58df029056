//! Free loopback ports that stay reserved while a bed lives.
//!
//! Ports are taken below the range from which kernels choose the local port of outgoing
//! connections. Otherwise a stopped server could find its port taken at its next start. A lock file
//! for each port keeps beds of other processes away. The kernel drops the lock with its holder.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, Result, bail};

const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// A port on 127.0.0.1 that no other bed takes while this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// The port's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Takes any free port.
    ///
    /// # Errors
    /// When none of many tried ones is free, or the lock files cannot be written.
    pub fn any() -> Result<Self> {
        for _ in 0..500 {
            if let Some(port) = Self::try_take(fastrand::u16(RANGE))? {
                return Ok(port);
            }
        }
        bail!("no free port found on 127.0.0.1 in {RANGE:?}")
    }

    /// Takes this port.
    ///
    /// # Errors
    /// When the port is in use.
    pub fn exactly(number: u16) -> Result<Self> {
        Self::try_take(number)?.with_context(|| format!("port {number} on 127.0.0.1 is in use"))
    }

    fn try_take(number: u16) -> Result<Option<Self>> {
        let folder = std::env::temp_dir().join("vault-secrets-reloader-ports");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join(number.to_string());
        let lock =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        if lock.try_lock().is_err() || TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_err() {
            return Ok(None);
        }
        Ok(Some(Self { number, _lock: lock }))
    }
}
