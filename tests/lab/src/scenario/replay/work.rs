//! What a guest is given to do while it is recorded: work that reaches its disk, then rest, round after round.

use super::super::boot::CONSOLE_TIMEOUT;
use super::super::clients::Clients;
use super::super::{Setup, Stage, Vm};
use super::LOG;
use crate::load::clients::Amount as Talked;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::time::{Duration, Instant};

/// Values that the clients write in a round, then read, and how many of them there are.
const VALUES: usize = 60;
const CLIENTS: usize = 3;

/// Between two rounds, so that the guest sleeps.
const REST: Duration = Duration::from_millis(300);

/// Processes of Debian's own programs, dynamically linked, one round: pipes, a storm, a signal, sleeps.
const SHELL_ROUND: &str = "for i in 1 2 3 4 5; do head -c 20000 /dev/urandom | gzip | sha256sum; \
                           seq 1 200 | sort -r | tail -n 1; tar cf - /etc | gzip -1 | wc -c; \
                           perl -e 'print $$ % 7, qq(\\n)'; done > /data/round; \
                           for i in 1 2 3 4 5 6 7 8; do env true & done; wait; \
                           sleep 9 & kill -TERM $!; wait; sleep 0.05; sync";

/// Programs that a shell round starts.
const SHELL_ROUND_EXECS: u64 = 5 * 10 + 8 * 2 + 1 + 1 + 1;

/// What a recording has to show for.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Amount {
    /// Rounds of work for the guest in each recording, at least
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: u64,
    /// Go on until each recording has so many exits
    #[arg(long, value_name = "N", default_value_t = 0)]
    exits: u64,
    /// Then leave the guest alone for so long, and measure what the log takes
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    idle: u64,
}

impl Amount {
    /// So many rounds and nothing else.
    pub(super) const fn rounds(rounds: u64) -> Self {
        Self {
            rounds,
            exits: 0,
            idle: 0,
        }
    }
}

/// What a guest has done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    /// Rounds of work, and the time that they took, without the rests between them.
    pub(super) rounds: u64,
    pub(super) working: Duration,
    /// Programs started on the console.
    pub(super) execs: u64,
    /// While it was left alone.
    pub(super) idle: Option<Idleness>,
}

/// What the log took while the guest did nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Idleness {
    pub(super) seconds: f64,
    pub(super) bytes: f64,
    pub(super) expiries: f64,
}

/// What `antipode replay --stats --json` says of a log.
#[derive(Debug, Deserialize)]
struct LogStatistics {
    exits: u64,
    guest_seconds: f64,
    file_bytes: u64,
    entries: std::collections::BTreeMap<String, Kind>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    count: u64,
}

impl LogStatistics {
    /// Of the log as far as it is written: the guest is still being recorded.
    fn now(stage: &Stage) -> Result<Self> {
        // What is being written ends in the middle, which is an exit code of its own.
        let script = format!("cp {LOG} {LOG}.now && {{ antipode replay {LOG}.now --stats --json || true; }}");
        let text = stage.site().shell(&script)?;
        let line = text.lines().last().unwrap_or_default();
        serde_json::from_str(line).with_context(|| format!("the log's statistics: {text}"))
    }

    fn expiries(&self) -> u64 {
        self.entries.get("expiry").map_or(0, |kind| kind.count)
    }
}

/// Lets the guest of `stage` work as much as `amount` says.
pub(super) fn work(setup: &Setup, stage: &Stage, vm: &mut Vm, amount: &Amount) -> Result<Done> {
    let clients = Clients::install(setup, stage)?;
    let mut done = Done::default();
    let mut goal = amount.rounds;
    let mut exits_before = None;
    while done.rounds < goal {
        let (round, begun) = (done.rounds, Instant::now());
        match &clients {
            Some(clients) => {
                clients.talk(
                    Talked::Values(VALUES),
                    CLIENTS,
                    &format!("{round}-{}", std::process::id()),
                )?;
            }
            None => {
                vm.type_text(&format!("{SHELL_ROUND}; echo done:$((round={round}))\n"))?;
                vm.wait_for(&format!("done:{round}"), CONSOLE_TIMEOUT)?;
                done.execs += SHELL_ROUND_EXECS;
            }
        }
        done.rounds += 1;
        done.working += begun.elapsed();
        std::thread::sleep(REST);
        if done.rounds == goal && amount.exits > 0 {
            let exits = LogStatistics::now(stage)?.exits;
            let round = done.rounds;
            goal += missing_rounds(round, exits_before.replace((round, exits)), exits, amount.exits);
        }
    }
    if amount.idle > 0 {
        let before = LogStatistics::now(stage)?;
        std::thread::sleep(Duration::from_secs(amount.idle));
        let after = LogStatistics::now(stage)?;
        done.idle = Some(Idleness {
            seconds: after.guest_seconds - before.guest_seconds,
            bytes: number(after.file_bytes - before.file_bytes),
            expiries: number(after.expiries() - before.expiries()),
        });
    }
    Ok(done)
}

/// No count of an idle span comes near the bound.
fn number(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// How many more rounds make `wanted` exits, by what the rounds since `before` (round and exits) have made.
fn missing_rounds(round: u64, before: Option<(u64, u64)>, exits: u64, wanted: u64) -> u64 {
    let missing = wanted.saturating_sub(exits);
    match before {
        // The boot has made exits too: a round is not known yet.
        None => missing.min(1),
        Some((round_before, exits_before)) => {
            let each = (exits - exits_before) / (round - round_before).max(1);
            missing.div_ceil(each.max(1)).min(round)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rounds_that_are_missing_follow_from_what_the_last_ones_made() {
        assert_eq!(missing_rounds(3, None, 9_000, 9_000), 0);
        assert_eq!(missing_rounds(3, None, 9_000, 20_000), 1);
        assert_eq!(missing_rounds(4, Some((3, 9_000)), 10_000, 12_500), 3);
        assert_eq!(
            missing_rounds(4, Some((3, 9_000)), 10_000, 200_000),
            4,
            "no further than known"
        );
        assert_eq!(missing_rounds(4, Some((3, 9_000)), 10_000, 10_000), 0);
    }
}
