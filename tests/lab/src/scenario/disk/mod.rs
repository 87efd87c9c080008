//! `cargo lab disk`: two hosts with a disk each, and 80 ms between them; made equal, interrupted in every way, and
//! compared under a writer that never stops.
//!
//! ```text
//!   digest ─▶ first sync ─▶ nothing to do ─▶ partial ─▶ after a crash of the survivor ─▶ line cut, resumed
//!          ─▶ kill -9 of either end, again and again, resumed ─▶ power cut of either host, resumed
//!          ─▶ cloned, compared and mended under a writer that never stops
//! ```
//!
//! Each host's replica is a whole block device, a file of this machine: so what is judged is read here, byte for byte,
//! from outside the hosts and not by our digests. A host's power cut loses what its kernel had not flushed.
//!
//! - `ends`: the hosts, and commands on them. - `cases`: what is played. - `native`: digests of this machine, for a rate.

mod cases;
mod ends;
mod native;

use super::report::{Form, conclude, rounded, seconds, with_run};
use crate::debian::requirements;
use crate::host::Materials;
use anyhow::{Context, Result};
use cases::Tally;
use ends::Ends;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Instant;

/// Make two disks equal over a long line, interrupt that in every way, and compare them under a busy writer
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave the long cases out: kills and power cuts of either end
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    form: Form,
}

/// Plays everything and says what happened.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    conclude(args.form, play(args.quick), |found| {
        format!(
            "Two disks were equal after each of {} cases and {} interruptions.",
            found["cases"], found["crash_points"]
        )
    })
}

fn play(is_quick: bool) -> Result<Value> {
    requirements::ensure()?;
    let materials = Materials::prepare()?;
    let mirror = materials.build_binary("antipode-lab-mirror")?;
    let started = Instant::now();
    with_run(&materials.lab_directory, "disk", |run| {
        let antipode = materials.antipode.as_deref().context("no antipode was built")?;
        let rate = native::rate_vs_b3sum(antipode, run.path())?;
        let mut tally = Tally::default();
        let mut ends = Ends::open(&materials, &mirror, run)?;
        cases::play(&mut ends, &mut tally, is_quick)?;
        Ok(json!({
            "ok": true,
            "cases": tally.cases.len(),
            "left_out": if is_quick { &cases::LONG_CASES[..] } else { &[] },
            "crash_points": tally.crash_points,
            "mismatches": tally.mismatches,
            "resumed": tally.resumed,
            "wire_ratio": rounded(tally.wire_ratio),
            "rate_vs_b3sum": rounded(rate),
            "bytes_not_sent_again": tally.bytes_not_sent_again,
            "online": tally.online,
            "seconds": tally.cases,
            "took_s": seconds(started.elapsed()),
        }))
    })
}
