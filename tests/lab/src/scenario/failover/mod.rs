//! `cargo lab demo`: a datacenter dies, and the TCP session lives.
//!
//! ```text
//!   two sites, three tiebreaker nodes, a client ─▶ a guest starts at site-a ─▶ the client writes, without a pause
//!   ─▶ `vm protect`: disk, memory, lockstep at site-b ─▶ site-a's power is cut ─▶ site-b goes live
//!   ─▶ site-a is back: the VM is protected again, by itself ─▶ site-b's power is cut ─▶ site-a goes live
//!   ─▶ site-b is back, likewise
//!   ─▶ the client reads back all that it was told ─▶ the switch's frames and the tiebreaker's record are judged
//! ```
//!
//! - `play`: what is done, and what came of it. - `board`, `view`: what a person sees meanwhile.

mod board;
mod play;
mod view;

use super::Setup;
use super::report::{Form, conclude};
use super::sites::{RTT, VmStatus};
use crate::debian::KernelFlavour;
use crate::image::Service;
use anyhow::{Result, ensure};
use play::{Loss, Outcome};
use serde::Serialize;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;
use view::View;

const OPENING: &str = "\
Each of two datacenters will lose its power and get it back, and a TCP connection into them will go on.

  client ──────────┬──────────────────────┐
                   │                      │
                site-a ──── 40 ms ──── site-b      two emulated hosts with KVM, each under `antipode site run`
                   └── 3 tiebreaker nodes ┘        they decide which single site may be live
";

/// Watch a datacenter die and a TCP session live
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the guest runs
    #[arg(long, value_enum, default_value = "redis")]
    service: Service,
    /// All chance in the network follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    form: Form,
}

/// What came of it, in the order in which it is told.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Summary {
    ok: bool,
    rtt_ms: u64,
    acked: u64,
    lost: u64,
    regressed: u64,
    connection_survived: bool,
    failovers: u64,
    reprotected: u64,
    resync_bytes: u64,
    changed_bytes: u64,
    reprotect_start_ms_max: u64,
    reprotect_ms_max: u64,
    unasked_failovers: u64,
    gap_ms_max: u64,
    detection_ms: Option<f64>,
    claim_ms: Option<f64>,
    going_live_ms: Option<f64>,
    output_hold_ms_p50: Option<f64>,
    output_hold_ms_p99: Option<f64>,
    echo_ms_p50: Option<f64>,
    echo_ms_p99: Option<f64>,
    stun_ms: Option<f64>,
    split_frames: u64,
}

/// Plays it and tells what happens.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    println!("{OPENING}");
    let outcome = play_all(args);
    let summary = outcome.and_then(|outcome| {
        println!("\n{}", epilogue(&outcome));
        judged(&outcome)
    });
    conclude(args.form, summary, |_| {
        "Nothing that the client was told is lost, and its connection never ended.".to_owned()
    })
}

fn play_all(args: &Args) -> Result<Outcome> {
    ensure!(
        args.service.port().is_some(),
        "the demo is played with a service that has a port: {} has none",
        args.service
    );
    let view = View::new(RTT);
    view.say(&format!(
        "making ready: a {} guest, and a static antipode",
        args.service
    ));
    let setup = Setup::prepare(args.service, KernelFlavour::Cloud)?;
    let outcome = play::play(&setup, &view, RTT, args.seed);
    view.end();
    outcome
}

/// The figures, or what is wrong with them.
fn judged(outcome: &Outcome) -> Result<Summary> {
    let violations = outcome.violations();
    ensure!(violations.is_empty(), "{}", violations.join("; "));
    let report = &outcome.client;
    Ok(Summary {
        ok: true,
        rtt_ms: u64::try_from(RTT.as_millis()).unwrap_or(u64::MAX),
        acked: report.sequence.acked,
        lost: report.sequence.lost.unwrap_or(u64::MAX),
        regressed: report.sequence.regressed,
        connection_survived: report.connection_survived,
        failovers: outcome.failovers(),
        reprotected: outcome.losses.len() as u64,
        resync_bytes: outcome.resync().0,
        changed_bytes: outcome.resync().1,
        reprotect_start_ms_max: longest(outcome, |loss| loss.start),
        reprotect_ms_max: longest(outcome, |loss| loss.protect),
        unasked_failovers: outcome.unasked_failovers(),
        gap_ms_max: report.probe.gap_ms_max,
        detection_ms: slowest(outcome, |after| after.detection_ms),
        claim_ms: slowest(outcome, |after| after.claim_ms),
        going_live_ms: slowest(outcome, |after| after.going_live_ms),
        output_hold_ms_p50: outcome.before.output_hold_ms_p50,
        output_hold_ms_p99: outcome.before.output_hold_ms_p99,
        echo_ms_p50: outcome.before.echo_ms_p50,
        echo_ms_p99: outcome.before.echo_ms_p99,
        stun_ms: outcome.before.stun_ms,
        split_frames: outcome.judgement.split_frames,
    })
}

/// The longest of the times that the losses took, in milliseconds.
fn longest(outcome: &Outcome, span: impl Fn(&Loss) -> Duration) -> u64 {
    let spans = outcome.losses.iter().map(|loss| span(loss).as_millis());
    spans
        .max()
        .and_then(|most| u64::try_from(most).ok())
        .unwrap_or(u64::MAX)
}

/// The same of what the sites that went live have measured.
fn slowest(outcome: &Outcome, figure: impl Fn(&VmStatus) -> Option<f64>) -> Option<f64> {
    let figures = outcome.losses.iter().map(|loss| figure(&loss.after));
    figures.collect::<Option<Vec<_>>>()?.into_iter().reduce(f64::max)
}

fn epilogue(outcome: &Outcome) -> String {
    let mut text = String::from("What happened\n");
    let losses = outcome.losses.iter().flat_map(loss);
    let facts = protection(outcome)
        .into_iter()
        .chain(losses)
        .chain(client(outcome));
    for (name, value) in facts {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {name:<44}{value}");
    }
    text
}

fn milliseconds(value: Option<f64>) -> String {
    value.map_or("unknown".to_owned(), |value| format!("{value:.1} ms"))
}

fn protection(outcome: &Outcome) -> Vec<(&'static str, String)> {
    let before = &outcome.before;
    let both = |half, most| format!("{}, {}", milliseconds(half), milliseconds(most));
    vec![
        (
            "guest boot, to its service ready",
            format!("{:.1} s", outcome.boot.as_secs_f32()),
        ),
        (
            "from unprotected to protected",
            format!("{:.1} s", outcome.protect.as_secs_f32()),
        ),
        ("  the guest stood still for", milliseconds(before.stun_ms)),
        (
            "  longest silence of the guest in it",
            format!("{} ms", outcome.silence_ms),
        ),
        (
            "an output was held, 50 and 99 of 100",
            both(before.output_hold_ms_p50, before.output_hold_ms_p99),
        ),
        (
            "  an echo between the sites, beside it",
            both(before.echo_ms_p50, before.echo_ms_p99),
        ),
    ]
}

fn loss(loss: &Loss) -> Vec<(&'static str, String)> {
    let after = &loss.after;
    let steps = [after.detection_ms, after.claim_ms, after.going_live_ms];
    let (sent, changed) = loss.resync();
    vec![
        (
            "power cut to the other site live",
            format!("{:.2} s ({} was lost)", loss.failover.as_secs_f32(), loss.lost),
        ),
        (
            "  noticed, claimed, gone live in",
            steps.map(milliseconds).join(" + "),
        ),
        (
            "  it is back: protection begins, and stands",
            format!(
                "{:.1} s, {:.1} s",
                loss.start.as_secs_f32(),
                loss.protect.as_secs_f32()
            ),
        ),
        (
            "  its disk: could differ, sent",
            format!(
                "{} KiB, {} KiB",
                board::grouped(changed >> 10),
                board::grouped(sent >> 10)
            ),
        ),
    ]
}

fn client(outcome: &Outcome) -> Vec<(&'static str, String)> {
    let report = &outcome.client;
    let reigns: Vec<String> = outcome
        .judgement
        .reigns
        .iter()
        .map(|reign| {
            let site = reign.port.trim_end_matches(".lan");
            format!("{site} ({} frames)", reign.frames)
        })
        .collect();
    vec![
        (
            "longest silence of the guest (20 ms probe)",
            format!("{} ms", report.probe.gap_ms_max),
        ),
        (
            "longest silence of the connection",
            format!("{} ms", report.sequence.gap_ms_max),
        ),
        (
            "writes acknowledged over one connection",
            board::grouped(report.sequence.acked),
        ),
        (
            "  lost, or gone backwards",
            format!(
                "{}, {}",
                report.sequence.lost.unwrap_or(u64::MAX),
                report.sequence.regressed
            ),
        ),
        ("live, by the frames that the switch saw", reigns.join(", then ")),
        (
            "  frames of a site that was live no more",
            outcome.judgement.split_frames.to_string(),
        ),
    ]
}
