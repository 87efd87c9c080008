//! `antipode-lab bench tiebreaker`: three of our nodes and three of Debian's `etcd`, side by side on this machine.
//!
//! ```text
//!  both clusters, links of 1 ms there and back:
//!    each round   one client, one change after another:  ours │ bare commits, their parts │ etcd
//!                 many clients, for seconds:             ours │ etcd
//!    then         our leader is killed, again and again, and frozen as often
//!  a cluster of ours with 10,000 records: start, status, memory; a node loses its disk
//! ```
//!
//! What is measured, and why so:
//! - **A change** is a compare-and-set. Ours: `pair` and `claim` in turn, the claims are timed; for throughput
//!   `cancel_pair`, which raises the generation as well. etcd's: a transaction that compares a key's version and puts.
//! - **What Raft needs** is the client's round trip to the leader, a round trip between nodes, and two syncs: the leader's
//!   and a follower's. That is measured in one piece, by a bare commit: sockets and files do it, through a proxy like those
//!   between the nodes. So what waking a process costs on this machine is in it, as it is in any commit. Its parts are
//!   probed by themselves too: an echo through such a proxy, and the sync by three writers at once, as all nodes share this
//!   disk; claims are held to their sum as well.
//! - **etcd speaks plain HTTP/2**, between nodes and with clients; ours is mutual TLS. Its clients speak to its leader.
//!   Heartbeats and election timeouts are the same.
//! - **Leader loss**: from the kill or the freeze to the answer of a claim that was asked at that moment.
//!
//! - [`ours`]: our cluster. - [`records`]: the one with many records. - [`etcd`]: the other cluster. - [`probe`]: disk and
//!   link. - [`report`]: figures, bounds, and their two forms.

mod etcd;
mod ours;
mod probe;
mod records;
mod report;

use super::summary;
use crate::debian::Cache;
use crate::host::antipode_alone;
use crate::scenario::report::with_run;
use crate::tiebreaker::town::{Plan, Town};
use anyhow::Result;
use etcd::Etcd;
use ours::{Loss, Ours};
use report::Samples;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Of a link, each way: a millisecond there and back.
const ONE_WAY: Duration = Duration::from_micros(500);

/// Milliseconds between heartbeats: the default of both.
const HEARTBEAT_MS: u64 = 100;

/// Changes that each cluster makes one after another, each round.
const CHANGES: u64 = 200;

/// Clients that press a cluster at once, and for how long.
const CLIENTS: usize = 16;
const PRESSURE: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(super) struct TiebreakerArgs {
    /// Runs of each cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Times that our leader is killed, and times that it is frozen
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    kills: u32,
    /// Records of the cluster with many
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=16_000))]
    records: u32,
    /// The `antipode` to measure (default: build this workspace's)
    #[arg(long, value_name = "FILE")]
    antipode: Option<PathBuf>,
    /// Print one line of JSON last
    #[arg(long)]
    json: bool,
}

/// Carries the command out. The exit code is 1 if a bound is broken.
pub(super) fn run(args: &TiebreakerArgs) -> Result<ExitCode> {
    let (lab_directory, antipode) = antipode_alone(args.antipode.as_deref())?;
    let program = etcd::program(&Cache::of_workspace()?)?;
    let samples = with_run(&lab_directory, "bench-tiebreaker", |run| {
        let mut samples = Samples::default();
        let plan = Plan {
            number: 0,
            heartbeat_ms: HEARTBEAT_MS,
            one_way: ONE_WAY,
            backup: None,
        };
        let mut ours = Ours::new(Town::build(run, &antipode, plan)?)?;
        let mut rival = Etcd::build(run, &program, 1)?;
        for round in 0..args.rounds {
            samples.claims.extend(ours.claims(CHANGES)?);
            samples.syncs.extend(probe::syncs(run.path(), CHANGES)?);
            samples.round_trips.extend(probe::round_trips(2, CHANGES)?);
            samples
                .bare_commits
                .extend(probe::bare_commits(run.path(), 2, CHANGES)?);
            samples.transactions.extend(rival.transactions(CHANGES)?);
            samples.claims_per_s.push(ours.pressed()?);
            samples.transactions_per_s.push(rival.pressed()?);
            eprintln!("lab: round {} of {}", round + 1, args.rounds);
        }
        drop(rival);
        for _ in 0..args.kills {
            samples.leader_kills.push(ours.lose_leader(Loss::Kill)?);
            samples.leader_freezes.push(ours.lose_leader(Loss::Freeze)?);
        }
        drop(ours);
        samples.records = records::measure(run, &antipode, args.records)?;
        Ok(samples)
    })?;
    let report = report::Report::of(&samples);
    if args.json {
        println!("{}", report.to_json());
    } else {
        report.show();
    }
    Ok(summary::exit_code(&report.broken()))
}
