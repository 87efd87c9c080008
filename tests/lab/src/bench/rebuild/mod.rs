//! `antipode-lab bench rebuild`: what it takes until a site that was lost follows again, and what a planned switchover
//! costs.
//!
//! ```text
//!  two sites, a tiebreaker, a client that writes to Redis all the time; the VM is protected, live at site-a
//!
//!    each round:
//!      return       site-b loses its power; the client writes on; over a narrow line site-b comes back, and is the
//!                   backup again without a command
//!      switchover   to site-b and back, each with a probe every 20 ms
//! ```
//!
//! What is measured, and why so:
//! - **The line is narrow** while a site returns: emulated hosts pack and encrypt a few MiB in a second, so on a wide one their
//!   processors would be measured. How long the bytes that travelled take on it, and the hashing of what could differ, is what a
//!   return is held against. How fast that is, is measured before: both hosts at once, beside the guest and its client, as the
//!   emulated hosts share this machine's processors then too.
//! - **Bytes that travelled** are counted by the switch, the log and all heartbeats with them: all that the live site sent the
//!   other one from its return until the VM was protected.
//! - **What could differ** is what either site has marked, and what its activity log names: the product says so, and how much of
//!   it was sent. **RAM** is sent once and what is written meanwhile again; the product says both.
//! - **A return begins** with `site run`'s first answer; the boot of its host is not the product's.
//!
//! - [`stage`]: what is done. - [`report`]: figures and bounds.

mod report;
mod stage;

use super::cli::Begun;
use crate::debian::KernelFlavour;
use crate::image::Service;
use crate::scenario::Setup;
use anyhow::Result;
use report::Samples;
use serde_json::json;
use stage::{Line, Stage};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct RebuildArgs {
    /// Returns of the backup, and switchovers there and back
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Between the sites, there and back
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=200))]
    rtt_ms: u64,
    /// What the line between the sites takes while one returns, in Mbit/s
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    line_mbit: u64,
    /// Print one line of JSON last
    #[arg(long)]
    json: bool,
}

/// Carries the command out. The exit code is 1 if a bound is broken.
pub(super) fn run(args: &RebuildArgs) -> Result<ExitCode> {
    let begun = Begun::now();
    let setup = Setup::prepare(Service::Redis, KernelFlavour::Cloud)?;
    let line = Line {
        rtt: Duration::from_millis(args.rtt_ms),
        bits_per_second: args.line_mbit * 1_000_000,
    };
    let mut samples = Samples::default();
    if let Err(error) = Stage::play(&setup, line, args.rounds, &mut samples) {
        eprintln!("lab: {error:#}");
        samples.failures.push(format!("{error:#}"));
    }
    let mut beside = json!({
        "rounds": args.rounds,
        "rtt_ms": args.rtt_ms,
        "line_mbit": args.line_mbit,
        "failures": samples.failures,
        "returns": samples.returns,
        "switchovers": samples.switchovers,
    });
    begun.tell(&mut beside);
    Ok(samples.figures().conclude(args.json, beside))
}
