//! The nodes as they are, in a world of loss, repetition, reordering, partitions, freezes, crashes, torn writes and lost
//! disks, all drawn from a seed (T3).
//!
//! ```text
//!   clients ◀── replies ── [ network ] ◀── messages ── Node ── batches ──▶ Disk
//!      └────── demands ──▶ [  of the ] ──▶                                  ├ a crash leaves what was synced, and of the
//!      deeds: asked when,  [   seed  ]                                      │ write under way any beginning
//!             told what                                                    └ one disk may be lost: a new seat
//! ```
//!
//! After the trouble there is peace: within a bound a leader must be there, all nodes vote and agree, every client has its
//! answer. Then what clients were told is judged: no generation has two winners, and one record that does one thing at a
//! time could have told them the same. Each seed runs twice and does the same, byte by byte. Rules are left out one by one
//! ([`Flaw`]): each time a checker must find the harm.
//!
//! `ANTIPODE_SEEDS=20000` runs more seeds; `ANTIPODE_SEED=7` runs one, as often as the others.
#![expect(clippy::unwrap_used, reason = "a test: what fails is shown where it fails")]
#![expect(clippy::cast_possible_truncation, reason = "of lengths of a few bytes")]

mod clients;
mod disk;
mod history;
mod random;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use world::{Flaw, Seen, World};

const SEEDS: u64 = 1000;

fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().unwrap())
}

/// Runs one world and judges it.
fn judge(seed: u64, flaw: Flaw) -> Result<(Vec<u8>, Seen), String> {
    let run = || {
        let mut world = World::new(seed, flaw);
        world.run()?;
        history::winners(&world.deeds)?;
        history::linearizable(&world.deeds)?;
        Ok((world.trace, world.seen))
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        Err(said
            .or(panic.downcast_ref().copied())
            .unwrap_or("it panicked")
            .to_owned())
    })
}

fn judge_twice(seed: u64) -> Seen {
    let told = |outcome: Result<_, String>| {
        outcome.unwrap_or_else(|what| panic!("seed {seed}: {what}\nrepeat it with ANTIPODE_SEED={seed}"))
    };
    let (first, seen) = told(judge(seed, Flaw::None));
    let (second, _) = told(judge(seed, Flaw::None));
    assert!(first == second, "seed {seed} does not do the same twice");
    seen
}

#[test]
fn every_seed_keeps_its_promises_twice() {
    let seeds = match number("ANTIPODE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ANTIPODE_SEEDS").unwrap_or(SEEDS),
    };
    let next = AtomicU64::new(seeds.start);
    let total = std::thread::scope(|scope| {
        let work = || {
            let mut total = Seen::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return total;
                }
                let seen = judge_twice(seed);
                total.crashes += seen.crashes;
                total.torn += seen.torn;
                total.snapshots += seen.snapshots;
                total.reseats += seen.reseats;
                total.elections += seen.elections;
            }
        };
        let other = scope.spawn(work);
        let mine = work();
        let theirs = other
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        [mine, theirs]
    });
    println!("{seeds:?}: {total:?}");
    let worlds = seeds.end - seeds.start;
    if worlds >= SEEDS {
        let at_least = |what: fn(&Seen) -> u64, least: u64| {
            let count: u64 = total.iter().map(what).sum();
            assert!(
                count >= least,
                "only {count} of what must happen {least} times: {total:?}"
            );
        };
        at_least(|seen| seen.crashes, worlds);
        at_least(|seen| seen.torn, worlds / 3);
        at_least(|seen| seen.snapshots, worlds / 4);
        at_least(|seen| seen.reseats, worlds / 4);
        at_least(|seen| seen.elections, worlds);
    }
}

/// Some world among the first shows the harm of `flaw`.
#[track_caller]
fn is_caught(flaw: Flaw, seeds: u64) {
    let found = (0..seeds).find_map(|seed| judge(seed, flaw).err().map(|what| (seed, what)));
    let (seed, what) = found.unwrap_or_else(|| panic!("{flaw:?} does no harm in {seeds} worlds"));
    let line = what.lines().next().unwrap_or_default();
    println!("{flaw:?}: seed {seed}: {line}");
}

#[test]
fn batches_that_are_not_synced_are_caught() {
    is_caught(Flaw::NoSync, 100);
}

#[test]
fn words_that_leave_before_the_write_are_caught() {
    is_caught(Flaw::SpeakFirst, 1000);
}

#[test]
fn reads_that_nobody_confirms_are_caught() {
    is_caught(Flaw::ReadAnywhere, 100);
}

#[test]
fn a_wiped_node_under_its_old_id_is_caught() {
    is_caught(Flaw::SameIdAgain, 1000);
}
