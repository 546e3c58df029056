//! What this process uses: CPU time, memory and file descriptors. The metrics have the names that
//! all programs have for Prometheus.
//!
//! The numbers are read from `/proc/self`. On systems without it, only the start is shown. The kernel
//! answers from memory. The reads block all the same, so they belong on a thread that may block.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};

/// The ticks of a second in `/proc`. On each architecture that Rust builds for, the kernel counts
/// in hundredths of a second there.
const TICKS: f64 = 100.0;

/// The metrics of this process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMetrics {
    started: f64,
}

/// What a process uses. A number that cannot be read is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Usage {
    cpu_seconds: Option<f64>,
    virtual_bytes: Option<u64>,
    resident_bytes: Option<u64>,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
}

impl ProcessMetrics {
    /// Returns the metrics of a process that started at this time, in seconds since 1970.
    #[must_use]
    pub fn new(started: f64) -> Self {
        Self { started }
    }
}

impl Usage {
    /// Reads what this process uses. Blocks.
    fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        // One of the descriptors is that of the folder.
        let open = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
        let open_fds = open.and_then(|open| u64::try_from(open.saturating_sub(1)).ok());
        Self {
            cpu_seconds: cpu_seconds(&stat),
            virtual_bytes: bytes(&status, "VmSize:"),
            resident_bytes: bytes(&status, "VmRSS:"),
            open_fds,
            // Without a limit, there is no number.
            max_fds: getrlimit(Resource::Nofile).current,
        }
    }
}

/// Returns the CPU time in user space and in the kernel, from `/proc/self/stat`.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name of the program is in parentheses, and may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok().map(f64::from);
    Some((ticks()? + ticks()?) / TICKS)
}

/// Returns a size in bytes, from `/proc/self/status`.
fn bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Usage { cpu_seconds, virtual_bytes, resident_bytes, open_fds, max_fds } = Usage::read();
        let encoder = &mut encoder;
        let help = "When the process started, in seconds since 1970";
        show(encoder, "process_start_time_seconds", help, &ConstGauge::new(self.started))?;
        if let Some(seconds) = cpu_seconds {
            let help = "The CPU time of the process in user space and in the kernel";
            show(encoder, "process_cpu_seconds", help, &ConstCounter::new(seconds))?;
        }
        for (name, help, number) in [
            ("process_virtual_memory_bytes", "The size of the address space", virtual_bytes),
            ("process_resident_memory_bytes", "The memory in use", resident_bytes),
            ("process_open_fds", "The number of open file descriptors", open_fds),
            ("process_max_fds", "The most file descriptors that may be open", max_fds),
        ] {
            if let Some(number) = number {
                show(encoder, name, help, &ConstGauge::new(number))?;
            }
        }
        Ok(())
    }
}

fn show(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &dyn EncodeMetric,
) -> fmt::Result {
    let encoder = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(encoder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_the_kernel_are_read() {
        let stat = "7 (a) b ) S 1 7 7 0 -1 4194560 900 0 0 0 150 75 0 0 20 0 4 0 99 1000 25";
        assert_eq!(cpu_seconds(stat), Some(2.25));
        let status = "Name:\tx\nVmPeak:\t     9 kB\nVmSize:\t    12 kB\nVmRSS:\t     3 kB\n";
        assert_eq!(bytes(status, "VmSize:"), Some(12 << 10));
        assert_eq!(bytes(status, "VmRSS:"), Some(3 << 10));
        for broken in ["", ")", "1 (x) S 1 2", "VmRSS:", "VmRSS:\t3", "VmRSS:\tx kB"] {
            assert_eq!((cpu_seconds(broken), bytes(broken, "VmRSS:")), (None, None), "{broken}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_something() {
        let Usage { cpu_seconds, virtual_bytes, resident_bytes, open_fds, .. } = Usage::read();
        assert!(cpu_seconds.is_some_and(|seconds| seconds < 1e6));
        assert!(resident_bytes.is_some_and(|bytes| bytes > 1 << 16));
        assert!(virtual_bytes >= resident_bytes);
        assert!(open_fds.is_some_and(|open| (1..100_000).contains(&open)));
    }
}
