//! The same load on one guest, kept the same by replay and by checkpoints in turn.

use crate::image::Service;
use crate::load::clients::Amount;
use crate::scenario::Setup;
use crate::scenario::boot::READY_TIMEOUT;
use crate::scenario::clients::Clients;
use crate::scenario::report::median;
use crate::scenario::sites::{Copies, Modes, RTT, Site, Sites, SitesPlan, VmStatus, Watcher};
use crate::scenario::stage::GUEST_ADDRESS;
use crate::scenario::vm::Kept;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::thread;
use std::time::Duration;

/// Both ways, in the order of a round.
const WAYS: [Kept; 2] = [Kept::Replay, Kept::Checkpoint];

/// How long clients write values and read them back, and how many there are.
const TALKING: Duration = Duration::from_secs(20);
const CLIENTS: usize = 8;

/// Before it: what making the protection left to do settles.
const SETTLING: Duration = Duration::from_secs(3);

/// The lossless network makes no choices; the switch wants a seed all the same.
const SEED: u64 = 1;

/// One load under one of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Way {
    pub(super) mode: &'static str,
    pub(super) values_per_s: f64,
    pub(super) bytes_per_value: f64,
    pub(super) hold_ms_p50: f64,
    pub(super) hold_ms_p99: f64,
}

/// Measures both, `rounds` times.
pub(super) fn measure(setup: &Setup, rounds: u32) -> Result<Vec<Way>> {
    let plan = SitesPlan {
        rtt: RTT,
        seed: SEED,
        twin: false,
        keep_frames: false,
        mortal_disks: false,
        copies: Copies {
            mode: Some(WAYS[0]),
            ..Copies::default()
        },
    };
    let sites = Sites::open(setup, "heal-ways", plan)?;
    let measured = measure_on(&sites, rounds);
    match &measured {
        Ok(_) => sites.finish(),
        Err(_) => sites.collect_logs(),
    }
    measured
}

fn measure_on(sites: &Sites<'_>, rounds: u32) -> Result<Vec<Way>> {
    sites.start_vm(Site::A)?;
    let watcher = Watcher::start(sites.client()?, Service::Redis, "ready", sites.logs())?;
    watcher.wait_ready(READY_TIMEOUT)?;
    watcher.wait_acked(1)?;
    watcher.finish_unharmed()?;
    let mut ways = Vec::new();
    for round in 1..=rounds {
        for kept in WAYS {
            sites.unprotect(Site::A)?;
            sites.keep_same_by(Site::A, kept)?;
            let way = measure_one(sites, kept).with_context(|| format!("{}, round {round}", kept.name()))?;
            eprintln!(
                "lab:   {}, round {round} of {rounds}: {:.1} values/s, {:.0} bytes a value, outputs held {:.1} ms (p50)",
                way.mode, way.values_per_s, way.bytes_per_value, way.hold_ms_p50
            );
            ways.push(way);
        }
    }
    Ok(ways)
}

fn measure_one(sites: &Sites<'_>, kept: Kept) -> Result<Way> {
    let begun = sites.protect(Site::A)?;
    thread::sleep(SETTLING);
    let clients =
        Clients::of(sites.client()?, Service::Redis, GUEST_ADDRESS).context("Redis serves no port")?;
    let before = modes(&sites.status(Site::A)?, kept)?.bytes();
    let talked = clients.talk(Amount::Span(TALKING), CLIENTS, kept.name())?;
    let after = sites.status(Site::A)?;
    ensure!(
        after.is_protected() && after.generation == begun.generation,
        "the protection was lost: {after:?}"
    );
    let modes = modes(&after, kept)?;
    let way = modes.of(kept);
    #[expect(clippy::cast_precision_loss, reason = "thousands, and bytes of seconds")]
    let (values, bytes) = (talked.values as f64, (modes.bytes() - before) as f64);
    ensure!(values > 0.0, "no value was written");
    Ok(Way {
        mode: kept.name(),
        values_per_s: values / talked.seconds,
        bytes_per_value: bytes / values,
        hold_ms_p50: way.hold_ms_p50.context("no output was held")?,
        hold_ms_p99: way.hold_ms_p99.context("no output was held")?,
    })
}

fn modes(status: &VmStatus, kept: Kept) -> Result<Modes> {
    let modes = status
        .modes
        .clone()
        .context("the status tells nothing of modes")?;
    ensure!(
        modes.mode == kept.name(),
        "the copy is kept the same by {}, not by {}",
        modes.mode,
        kept.name()
    );
    Ok(modes)
}

/// By checkpoints ÷ by replay: bytes for a value, and the median output's wait.
pub(super) fn ratios(ways: &[Way]) -> Result<(f64, f64)> {
    let rounds: Vec<[&Way; 2]> = ways.chunks_exact(2).map(|round| [&round[0], &round[1]]).collect();
    ensure!(!rounds.is_empty(), "nothing was measured");
    let ratio = |of: fn(&Way) -> f64| {
        let ratios: Vec<f64> = rounds
            .iter()
            .map(|[replay, checkpoint]| of(checkpoint) / of(replay))
            .collect();
        median(&ratios)
    };
    Ok((ratio(|way| way.bytes_per_value), ratio(|way| way.hold_ms_p50)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(mode: &'static str, bytes_per_value: f64, hold_ms_p50: f64) -> Way {
        Way {
            mode,
            values_per_s: 1.0,
            bytes_per_value,
            hold_ms_p50,
            hold_ms_p99: 100.0,
        }
    }

    #[test]
    fn a_round_is_compared_with_itself_and_the_median_counts() {
        assert!(ratios(&[]).is_err());
        let rounds = [(100.0, 300.0), (10.0, 20.0), (1.0, 9.0)];
        let ways: Vec<Way> = rounds
            .iter()
            .flat_map(|(replay, checkpoint)| {
                [way("replay", *replay, 40.0), way("checkpoint", *checkpoint, 80.0)]
            })
            .collect();
        assert_eq!(ratios(&ways).unwrap(), (3.0, 2.0));
    }
}
