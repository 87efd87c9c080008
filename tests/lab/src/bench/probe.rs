//! What the host's kernel counts about a machine's process. Parsing is pure; the texts come from [`SAMPLE_SCRIPT`].

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

/// Prints three parts for the process in `$pid`, parted by lines of `--`: the host's uptime, each thread's
/// `schedstat`, and KVM's counters for its VM.
///
/// `schedstat` counts nanoseconds really run; `utime` and `stime` of `stat` are the same sum, cut to ticks of 10 ms.
pub(super) const SAMPLE_SCRIPT: &str = "cat /proc/uptime; echo --; cat /proc/$pid/task/*/schedstat; echo --; \
     cd /sys/kernel/debug/kvm/$pid-* && grep -s . * || true";

/// One moment of a machine's process.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// The host's uptime.
    pub(super) uptime_seconds: f64,
    /// Processor time of all threads so far, the guest's included.
    pub(super) cpu_seconds: f64,
    /// KVM's counters.
    pub(super) kvm: BTreeMap<String, u64>,
}

impl Sample {
    /// Reads what the script printed.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let lines: Vec<&str> = text.lines().collect();
        let mut parts = lines.split(|line| *line == "--");
        let mut part = || parts.next().context("a part of the sample is missing");
        let uptime = part()?.first().and_then(|line| line.split_whitespace().next());
        let uptime = uptime.context("no uptime")?;
        let uptime_seconds = uptime.parse().with_context(|| format!("uptime `{uptime}`"))?;
        let mut cpu_seconds = 0.0;
        let threads = part()?;
        ensure!(!threads.is_empty(), "the process has no threads: it has ended");
        for line in threads {
            let word = line.split_whitespace().next().unwrap_or_default();
            let nanoseconds: f64 = word.parse().with_context(|| format!("schedstat `{line}`"))?;
            cpu_seconds += nanoseconds / 1e9;
        }
        let kvm = part()?.iter().filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        });
        Ok(Self {
            uptime_seconds,
            cpu_seconds,
            kvm: kvm.collect(),
        })
    }

    /// How much each counter has grown since `earlier`, for `count` requests; what did not grow is left out.
    pub(super) fn kvm_growth(&self, earlier: &Self, count: f64) -> BTreeMap<String, f64> {
        let grown = self.kvm.iter().filter_map(|(name, now)| {
            let before = earlier.kvm.get(name).copied().unwrap_or_default();
            let growth = now.checked_sub(before).filter(|growth| *growth > 0)?;
            #[expect(
                clippy::cast_precision_loss,
                reason = "counters of seconds are far below 2^52"
            )]
            let each = growth as f64 / count;
            Some((name.clone(), (each * 1_000.0).round() / 1_000.0))
        });
        grown.collect()
    }
}

/// Proportional memory (`Pss`) of a process beyond guest RAM, in MiB, from its `smaps`. A mapping as large as guest RAM
/// is guest RAM; what it holds beyond that, if the kernel merged a neighbour into it, counts.
pub(super) fn memory_beyond_guest_mib(smaps: &str, guest_mib: u32) -> f64 {
    let guest_kib = f64::from(guest_mib) * 1_024.0;
    let (mut beyond_kib, mut size_kib) = (0.0, 0.0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (name, value) = (words.next(), words.next());
        let value: Option<f64> = value.and_then(|word| word.parse().ok());
        match (name, value) {
            (Some("Size:"), Some(value)) => size_kib = value,
            (Some("Pss:"), Some(value)) if size_kib >= guest_kib => {
                beyond_kib += (value - guest_kib).max(0.0);
            }
            (Some("Pss:"), Some(value)) => beyond_kib += value,
            _ => {}
        }
    }
    beyond_kib / 1_024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_sums_threads_and_reads_counters() {
        let text = "12.50 3.0\n--\n1500000000 5 6\n500000000 1 2\n--\nexits:100\nio_exits:40\nnested_run:0\n";
        let later = Sample::parse(text).unwrap();
        assert!((later.uptime_seconds - 12.5).abs() < 1e-9 && (later.cpu_seconds - 2.0).abs() < 1e-9);
        let earlier = Sample {
            kvm: [("exits".to_owned(), 60)].into(),
            ..Sample::default()
        };
        let growth = later.kvm_growth(&earlier, 10.0);
        assert_eq!(
            growth,
            [("exits".to_owned(), 4.0), ("io_exits".to_owned(), 4.0)].into()
        );
        // A host may show no counters, and a shell cuts the last line's end off.
        assert!(
            Sample::parse("1 2\n--\n500000000 1 2\n--")
                .unwrap()
                .kvm
                .is_empty()
        );
        for text in ["1 2\n--\n", "1 2\n--\n--", "--\n7 1 2\n--"] {
            assert!(Sample::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn guest_memory_is_not_counted_and_the_rest_is() {
        let mapping = |size: u32, pss: u32| {
            format!("7f00-7f01 rw-p 0 00:00 0 \nSize: {size} kB\nRss: 1 kB\nPss: {pss} kB\nPss_Dirty: 9 kB\n")
        };
        let smaps = [mapping(256 << 10, 100 << 10), mapping(4096, 2048)].concat();
        assert!((memory_beyond_guest_mib(&smaps, 256) - 2.0).abs() < 1e-9);
        let merged = mapping((256 << 10) + 8192, (256 << 10) + 1024);
        assert!((memory_beyond_guest_mib(&merged, 256) - 1.0).abs() < 1e-9);
    }
}
