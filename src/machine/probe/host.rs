//! Probes of the host beside KVM: the processor's counters and the disk.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::Finding;
use crate::base::clock::HostClock;

/// Synchronous writes of the disk probe.
const SYNC_WRITES: usize = 32;
const BLOCK_BYTES: usize = 4096;

/// Whether the processor's counters could name positions (the `pmu` clock, E5): a conditional-branch counter must
/// exist for the host kernel to offer.
#[must_use]
pub fn probe_pmu() -> Finding {
    let pmu = Path::new("/sys/bus/event_source/devices/cpu");
    if pmu.exists() {
        return Finding::Works;
    }
    Finding::Fails(
        "the host kernel offers no processor counters (/sys/bus/event_source/devices/cpu is missing)".into(),
    )
}

/// How fast a disk makes writes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskProbe {
    /// Median time of a 4 KiB write made durable.
    pub median: Duration,
    /// The slowest of them.
    pub slowest: Duration,
}

/// Measures durable 4 KiB writes in `folder`, in a file that vanishes afterwards.
///
/// # Errors
/// When the folder cannot be written.
pub fn probe_disk(folder: &Path, clock: &impl HostClock) -> std::io::Result<DiskProbe> {
    let path = folder.join(format!(".antipode-doctor-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    let measured = measure(&file, clock);
    std::fs::remove_file(&path)?;
    measured
}

fn measure(mut file: &File, clock: &impl HostClock) -> std::io::Result<DiskProbe> {
    let block = [0x5A; BLOCK_BYTES];
    let mut spans = Vec::with_capacity(SYNC_WRITES);
    for _ in 0..SYNC_WRITES {
        let start = clock.monotonic_ns();
        file.write_all(&block)?;
        file.sync_data()?;
        spans.push(Duration::from_nanos(clock.monotonic_ns() - start));
    }
    spans.sort_unstable();
    let slowest = spans.last().copied().unwrap_or_default();
    Ok(DiskProbe {
        median: spans[spans.len() / 2],
        slowest,
    })
}
