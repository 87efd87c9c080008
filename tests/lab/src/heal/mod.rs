//! `cargo lab heal`: copies that differ, again and again, and what each way of keeping them the same costs.
//!
//! ```text
//!   failovers   Redis, beside a program that executes RDRAND once a second: the live site's power goes at a moment drawn from the seed, × N
//!   repairs     Redis, the same leak, a line of 100 Mbit/s: what each repair takes
//!   ways        Redis, the same load: by replay │ by checkpoints, in turn on the same guest
//!   loop        a guest that computes: unprotected beside its twin │ protected, left alone for 4, 10 and 20 ms, and for as long as it is worth
//! ```
//!
//! - **A failover is right** if the client lost nothing that it was told, its connection lived, and each frame that one site let out
//!   the other has made or was told of: as for [any fault](crate::scenario::faults). It is right too if the other site was refused to
//!   go live, with the reason: the site that was lost starts then when it is back, and what was acknowledged is there. What is
//!   *silently wrong* is what neither holds for.
//! - **A repair** may take two round trips (as an echo measures them), what its bytes take on the line, and 100 ms. Of those that the
//!   copy's site tells of, the median counts.
//! - **Ways** are compared by what the log took for each value that was written and read back, and by how long its outputs
//!   waited. Of the rounds' ratios the median counts.
//! - **The loop** is compared with the same loop unprotected, which nothing kicks: a stricter base than kicks alone.

mod repairs;
mod ways;

use crate::bench::ft;
use crate::debian::KernelFlavour;
use crate::image::Service;
use crate::scenario::Setup;
use crate::scenario::faults::{self, Tally};
use crate::scenario::report::{Form, conclude, rounded};
use crate::scenario::sites::Copies;
use anyhow::{Result, ensure};
use repairs::Repairs;
use serde::Serialize;
use std::process::ExitCode;
use std::time::Instant;
use ways::Way;

/// Between two leaks.
const LEAK_EVERY_MS: u64 = 1000;

/// What every failover is of.
const FAILOVER: &str = "power-cut-live";

/// At most one failover in so many may come in the quarter of a second in which a copy differs.
const REFUSED_SHARE: u64 = 2;

/// For how long a guest that computes is left alone, where that is said.
const WAITS_MS: [u64; 3] = [4, 10, 20];

/// What must be left of a loop's speed.
const LOOP_RATIO_MIN: f64 = 0.88;

/// Let a guest leak, cut the power of live sites, and compare replay with checkpoints
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many live sites lose their power
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=1000))]
    failovers: u64,
    /// What the choices are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs of each load that is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    #[command(flatten)]
    form: Form,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Summary {
    ok: bool,
    /// Times that the guest that computes was stopped to be told of.
    preemptions: u64,
    /// Copies that were made the same again.
    repairs: u64,
    repair: Repairs,
    failovers: u64,
    /// Of those, how often the other site was refused to go live, with the reason.
    refused: u64,
    silently_wrong: usize,
    violations: usize,
    loop_ratio: f64,
    /// The same, where it is said how long it is left alone.
    loop_ratio_by_wait: Vec<Loop>,
    /// Bytes of log for a value, by checkpoints ÷ by replay.
    checkpoint_vs_replay_bytes: f64,
    /// The median output's wait, the same.
    checkpoint_vs_replay_hold: f64,
    ways: Vec<Way>,
    took_s: u64,
}

/// A loop's speed in lockstep.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Loop {
    /// How long the guest was left alone before it was stopped to be told of; for as long as it is worth, if that is not said.
    preempt_after_ms: Option<u64>,
    /// Of its speed unprotected.
    ratio: f64,
    preemptions: u64,
}

fn loop_at(setup: &Setup, preempt_after_ms: Option<u64>, rounds: u32) -> Result<Loop> {
    let copies = Copies {
        preempt_after_ms,
        ..Copies::default()
    };
    let looped = ft::loop_ratio(setup, copies, rounds)?;
    let found = Loop {
        preempt_after_ms,
        ratio: rounded(looped.ratio),
        preemptions: looped.preemptions,
    };
    eprintln!("lab:   {found:?}");
    Ok(found)
}

/// Does all of it and says what it has shown.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    conclude(args.form, heal(args), |summary| {
        format!(
            "{} sites lost their power under copies that were repaired {} times, and none of what the client was told is lost; {} times the other \
             site was refused to go live with a copy that differed. A loop has {:.2} of its speed. Checkpoints take {:.1} times the bytes of \
             replay, and outputs wait {:.1} times as long.",
            summary.failovers,
            summary.repairs,
            summary.refused,
            summary.loop_ratio,
            summary.checkpoint_vs_replay_bytes,
            summary.checkpoint_vs_replay_hold
        )
    })
}

fn heal(args: &Args) -> Result<Summary> {
    let begun = Instant::now();
    let redis = Setup::prepare(Service::Redis, KernelFlavour::Cloud)?;
    let copies = Copies {
        leak_every_ms: Some(LEAK_EVERY_MS),
        ..Copies::default()
    };
    let seeds = args.seed..args.seed.saturating_add(args.failovers);
    let tally = faults::play_named(&redis, &[FAILOVER], seeds, copies)?;
    check(&tally)?;
    // None, or this would have ended.
    let wrong = tally.violations.len();
    let repair = repairs::measure(&redis)?;
    let ways = ways::measure(&redis, args.rounds)?;
    let (bytes, hold) = ways::ratios(&ways)?;
    let compute = Setup::prepare(Service::Compute, KernelFlavour::Cloud)?;
    let waits = WAITS_MS
        .iter()
        .map(|wait_ms| loop_at(&compute, Some(*wait_ms), args.rounds));
    let waits = waits.collect::<Result<Vec<Loop>>>()?;
    let looped = loop_at(&compute, None, args.rounds)?;
    ensure!(
        waits.is_sorted_by(|shorter, longer| shorter.preemptions > longer.preemptions),
        "a guest that is left alone for longer is not stopped less often: {waits:?}"
    );
    let is_slow = looped.ratio < LOOP_RATIO_MIN;
    let slow = is_slow.then(|| format!("a loop has less than {LOOP_RATIO_MIN} of its speed"));
    let broken: Vec<String> = repair.broken().into_iter().chain(slow).collect();
    let summary = Summary {
        ok: true,
        preemptions: looped.preemptions,
        repairs: tally.repairs,
        repair,
        failovers: tally.played,
        refused: tally.refused,
        silently_wrong: wrong,
        violations: wrong,
        loop_ratio: looped.ratio,
        loop_ratio_by_wait: waits,
        checkpoint_vs_replay_bytes: rounded(bytes),
        checkpoint_vs_replay_hold: rounded(hold),
        ways,
        took_s: begun.elapsed().as_secs(),
    };
    ensure!(broken.is_empty(), "{}: {summary:?}", broken.join("; "));
    Ok(summary)
}

/// Nothing was wrong, and there was something that could have been.
fn check(tally: &Tally) -> Result<()> {
    ensure!(
        tally.violations.is_empty(),
        "{} violations in {} failovers, after {} repairs:\n{}",
        tally.violations.len(),
        tally.played,
        tally.repairs,
        tally.violations.join("\n")
    );
    ensure!(
        tally.repairs >= tally.played,
        "the guest leaked, and its copy was repaired {} times in {} failovers",
        tally.repairs,
        tally.played
    );
    ensure!(
        tally.refused * REFUSED_SHARE <= tally.played,
        "in {} of {} failovers the other site was refused to go live",
        tally.refused,
        tally.played
    );
    Ok(())
}
