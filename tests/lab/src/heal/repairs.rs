//! How long it takes until a copy that differs is the same again, over a line whose rate is known.

use super::LEAK_EVERY_MS;
use crate::image::Service;
use crate::scenario::Setup;
use crate::scenario::boot::READY_TIMEOUT;
use crate::scenario::report::{median, rounded};
use crate::scenario::sites::{Copies, RTT, Site, Sites, SitesPlan, Watcher};
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

/// What repairs have taken, as the copy's site tells of each, and by what they may take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Repairs {
    /// How many were told of, of how many.
    told: usize,
    count: u64,
    /// The median.
    took_ms: f64,
    /// What one took of the line, on average.
    wire_bytes: f64,
    by_allowed: f64,
}

impl Repairs {
    /// Of those that took so long and were told, of `count`, over which `wire_bytes` have travelled and an echo took `echo_ms`.
    fn of(told_ms: &[f64], (count, wire_bytes): (u64, u64), echo_ms: f64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "bytes of minutes")]
        let (wire_bytes, rate) = (
            wire_bytes as f64 / count.max(1) as f64,
            LINE_BITS_PER_SECOND as f64,
        );
        let allowed_ms = REPAIR_RTTS * echo_ms + wire_bytes * 8.0 * 1_000.0 / rate + REPAIR_MS;
        let took_ms = median(told_ms);
        Self {
            told: told_ms.len(),
            count,
            took_ms: rounded(took_ms),
            wire_bytes: rounded(wire_bytes),
            by_allowed: rounded(took_ms / allowed_ms),
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
    let protected = sites.protect(Site::A)?;
    sites.narrow_wan(Some(LINE_BITS_PER_SECOND))?;
    let begun = Instant::now();
    let (mut told_ms, mut last) = (Vec::new(), 0);
    while begun.elapsed() < WATCHED {
        thread::sleep(ASKED_EVERY);
        let repairs = sites.status(Site::B)?.repairs;
        if let Some(repairs) = repairs.filter(|repairs| repairs.count > last) {
            last = repairs.count;
            told_ms.extend(repairs.last["took_ms"].as_f64());
        }
    }
    let live = sites.status(Site::A)?;
    ensure!(
        live.is_protected() && live.generation == protected.generation,
        "a copy was not repaired: {live:?}"
    );
    watcher.wait_acked(1)?;
    watcher.finish_unharmed()?;
    ensure!(
        told_ms.len() >= REPAIRS_LEAST,
        "the guest leaked for {} s, and {} repairs were told",
        WATCHED.as_secs(),
        told_ms.len()
    );
    let echo_ms = live.echo_ms_p50.context("no echo was measured")?;
    let modes = live.modes.context("the status tells nothing of modes")?;
    let repairs = Repairs::of(&told_ms, (last, modes.repair_bytes()), echo_ms);
    eprintln!("lab:   {repairs:?}");
    Ok(repairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_may_take_two_round_trips_and_what_its_bytes_take() {
        // 100 + 100 + 100 ms.
        let of = |told_ms: &[f64]| Repairs::of(told_ms, (4, 5_000_000), 50.0);
        let fit = of(&[100.0, 300.0, 900.0]);
        assert!(
            (fit.by_allowed - 1.0).abs() < 1e-9 && fit.broken().is_none(),
            "{fit:?}"
        );
        assert!(of(&[100.0, 301.0, 900.0]).broken().is_some());
    }
}
