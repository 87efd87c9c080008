//! How long it takes until a copy that differs is the same again, over a line whose rate is known.

use super::LEAK_EVERY_MS;
use crate::image::Service;
use crate::scenario::Setup;
use crate::scenario::boot::READY_TIMEOUT;
use crate::scenario::report::{median, rounded};
use crate::scenario::sites::{Copies, RTT, Site, Sites, SitesPlan, VmStatus, Watcher};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::thread;
use std::time::{Duration, Instant};

/// What the line takes.
const LINE_BITS_PER_SECOND: u64 = 100_000_000;

/// Of what a repair may take: so many ways there and back, and so many milliseconds.
const REPAIR_RTTS: f64 = 2.0;
const REPAIR_MS: f64 = 100.0;

/// For how long repairs are watched, and how often it is asked for the last one.
const WATCHED: Duration = Duration::from_secs(60);
const ASKED_EVERY: Duration = Duration::from_secs(1);
const REPAIRS_LEAST: usize = 10;

/// The lossless network makes no choices; the switch wants a seed all the same.
const SEED: u64 = 1;

/// A copy that was made the same again, as its site tells.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Repaired {
    took_ms: f64,
    bytes: f64,
}

impl Repaired {
    fn told(status: &VmStatus) -> Option<(u64, Self)> {
        let repairs = status.repairs.as_ref()?;
        let number = |key: &str| repairs.last[key].as_f64();
        let told = Self {
            took_ms: number("took_ms")?,
            bytes: number("bytes")?,
        };
        Some((repairs.count, told))
    }

    /// By what it may have taken where an echo over the log's connection takes `echo_ms`.
    fn by_allowed(self, echo_ms: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate of millions")]
        let line_ms = self.bytes * 8.0 * 1_000.0 / LINE_BITS_PER_SECOND as f64;
        self.took_ms / (REPAIR_RTTS * echo_ms + line_ms + REPAIR_MS)
    }
}

/// What repairs have taken, and by what they may take: of each the median.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Repairs {
    count: usize,
    took_ms: f64,
    bytes: f64,
    by_allowed: f64,
}

impl Repairs {
    fn of(found: &[Repaired], echo_ms: f64) -> Self {
        let every = |of: &dyn Fn(&Repaired) -> f64| {
            let values: Vec<f64> = found.iter().map(of).collect();
            rounded(median(&values))
        };
        Self {
            count: found.len(),
            took_ms: every(&|one| one.took_ms),
            bytes: every(&|one| one.bytes),
            by_allowed: every(&|one| one.by_allowed(echo_ms)),
        }
    }

    /// What breaks its bound.
    pub(super) fn broken(&self) -> Option<String> {
        let by_allowed = self.by_allowed;
        let is_kept = by_allowed <= 1.0;
        (!is_kept).then(|| {
            format!(
                "a repair takes {by_allowed} of {REPAIR_RTTS} RTT + its bytes on the line + {REPAIR_MS} ms"
            )
        })
    }
}

/// Watches a guest that leaks while a client writes to it.
pub(super) fn measure(setup: &Setup) -> Result<Repairs> {
    let plan = SitesPlan {
        rtt: RTT,
        seed: SEED,
        twin: false,
        keep_frames: false,
        mortal_disks: false,
        copies: Copies {
            leak_every_ms: Some(LEAK_EVERY_MS),
            ..Copies::default()
        },
    };
    let sites = Sites::open(setup, "heal-repairs", plan)?;
    let measured = watch(&sites);
    match &measured {
        Ok(_) => sites.finish(),
        Err(_) => sites.collect_logs(),
    }
    measured
}

fn watch(sites: &Sites<'_>) -> Result<Repairs> {
    sites.start_vm(Site::A)?;
    let watcher = Watcher::start(sites.client()?, Service::Redis, "repairs", sites.logs())?;
    watcher.wait_ready(READY_TIMEOUT)?;
    sites.protect(Site::A)?;
    sites.narrow_wan(Some(LINE_BITS_PER_SECOND))?;
    let begun = Instant::now();
    let (mut found, mut last) = (Vec::new(), 0);
    while begun.elapsed() < WATCHED {
        thread::sleep(ASKED_EVERY);
        let status = sites.status(Site::B)?;
        if let Some((count, told)) = Repaired::told(&status)
            && count != last
        {
            last = count;
            found.push(told);
        }
    }
    let live = sites.status(Site::A)?;
    ensure!(live.is_protected(), "the protection was lost: {live:?}");
    watcher.wait_acked(1)?;
    watcher.finish_unharmed()?;
    ensure!(
        found.len() >= REPAIRS_LEAST,
        "the guest leaked for {} s, and {} repairs were told",
        WATCHED.as_secs(),
        found.len()
    );
    let echo_ms = live.echo_ms_p50.context("no echo was measured")?;
    let repairs = Repairs::of(&found, echo_ms);
    eprintln!("lab:   {repairs:?}");
    Ok(repairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_may_take_two_round_trips_and_what_its_bytes_take() {
        let repaired = |took_ms| Repaired {
            took_ms,
            bytes: 1_250_000.0,
        };
        assert!((repaired(300.0).by_allowed(50.0) - 1.0).abs() < 1e-9);
        let fit = Repairs::of(&[repaired(100.0), repaired(300.0), repaired(900.0)], 50.0);
        assert_eq!(fit.broken(), None);
        let slow = Repairs::of(&[repaired(100.0), repaired(301.0), repaired(900.0)], 50.0);
        assert!(slow.broken().is_some());
    }

    #[test]
    fn the_last_repair_is_read_off_the_status() {
        let status = r#"{"role":"backup","repairs":{"count":3,"last":{"took_ms":200,"bytes":4096}}}"#;
        let told = Repaired::told(&serde_json::from_str(status).unwrap());
        let expected = Repaired {
            took_ms: 200.0,
            bytes: 4096.0,
        };
        assert_eq!(told, Some((3, expected)));
        let nothing = serde_json::from_str(r#"{"role":"backup"}"#).unwrap();
        assert_eq!(Repaired::told(&nothing), None);
    }
}
