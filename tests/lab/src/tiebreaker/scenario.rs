//! The command, its answer, and the bounds that it holds the tiebreaker to.

use super::contest::{Contest, Tally};
use super::fault::Fault;
use super::town::{Plan, Town};
use crate::host::antipode_alone;
use crate::scenario::report::{Form, conclude, seconds, with_run};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Milliseconds between heartbeats: a fifth of what is usual, so that a thousand rounds are soon over.
const HEARTBEAT_MS: u64 = 20;

/// Let two sites claim a VM again and again while the tiebreaker's leader is killed, frozen and cut off
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rounds to play
    #[arg(long, default_value_t = 1000)]
    rounds: u64,
    /// One round in so many has a fault
    #[arg(long, value_name = "ROUNDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    fault_every: u64,
    /// What the faults are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Use this `antipode` instead of building one
    #[arg(long, value_name = "FILE")]
    antipode: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
}

/// Plays the rounds and says what they have shown.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let words = |found: &Value| {
        format!(
            "{} rounds: one winner in each, nothing that was granted is lost, the longest wait {} ms.",
            found["rounds"], found["unavailable_ms_max"]
        )
    };
    conclude(args.form, play(args), words)
}

fn play(args: &Args) -> Result<Value> {
    let (lab_directory, built) = antipode_alone(args.antipode.as_deref())?;
    with_run(&lab_directory, "tiebreaker", |run| {
        let started = Instant::now();
        let plan = Plan {
            number: 0,
            heartbeat_ms: HEARTBEAT_MS,
            one_way: Duration::ZERO,
            backup: None,
        };
        let mut town = Town::build(run, &built, plan)?;
        let mut contest = Contest::new(&mut town, args.seed)?;
        contest.play(args.rounds, args.fault_every)?;
        let tally = contest.tally;
        let resident = town.resident_bytes()?.into_iter().max().unwrap_or(0);
        check(&tally)?;
        Ok(told(&tally, resident, started.elapsed()))
    })
}

/// What must hold whatever goes wrong.
fn check(tally: &Tally) -> Result<()> {
    ensure!(
        tally.double_wins == 0,
        "{} rounds had two winners",
        tally.double_wins
    );
    ensure!(tally.lost_acked == 0, "{} grants were lost", tally.lost_acked);
    ensure!(
        tally.unexplained == 0,
        "{} answers fit to no winner",
        tally.unexplained
    );
    Ok(())
}

fn told(tally: &Tally, resident: u64, took: Duration) -> Value {
    let mut calm = tally.calm.clone();
    calm.sort();
    let at = |part: usize| calm.get(calm.len() * part / 100).map(|span| milliseconds(*span));
    let faults: serde_json::Map<String, Value> = tally
        .faults
        .iter()
        .map(|(fault, count)| (fault.name().to_owned(), json!(count)))
        .collect();
    let longest: serde_json::Map<String, Value> = tally
        .longest
        .iter()
        .map(|(fault, span)| {
            let name = fault.map_or("none", Fault::name);
            (name.to_owned(), json!(milliseconds(*span).ceil()))
        })
        .collect();
    let longest_of_all = tally.longest.values().max().copied().unwrap_or_default();
    json!({
        "ok": true,
        "rounds": tally.rounds,
        "double_wins": tally.double_wins,
        "lost_acked": tally.lost_acked,
        "unavailable_ms_max": milliseconds(longest_of_all).ceil(),
        "unavailable_ms_max_by_fault": longest,
        "faults": faults,
        "wins": { "a": tally.wins[0], "b": tally.wins[1] },
        "claim_ms_p50": at(50),
        "claim_ms_p99": at(99),
        "heartbeat_ms": HEARTBEAT_MS,
        "resident_bytes_max": resident,
        "took_s": seconds(took),
    })
}

fn milliseconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}
