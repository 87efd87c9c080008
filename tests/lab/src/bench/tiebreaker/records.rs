//! A cluster with many records: how long it takes to start, to be looked at, and to fill a node that lost its disk.

use super::HEARTBEAT_MS;
use crate::host::RunDirectory;
use crate::tiebreaker::town::{self, NODES, OPERATOR_CONFIG, Plan, Town};
use antipode_certs::{Identity, Name, Role};
use antipode_tiebreaker::limits::HISTORY_MOVES_MAX;
use antipode_tiebreaker::service::Backup;
use antipode_tiebreaker::{
    Boot, Flush, Generation, Operation, PairingId, Record, Request, RequestId, decide,
};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// Times that the status is asked for.
const LOOKS: usize = 5;

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) count: u32,
    /// From a process's start to its word that it listens, the longest of the nodes.
    pub(super) start: Duration,
    /// `antipode tiebreaker status --json`, as a process, from its start to its end; the median.
    pub(super) status: Duration,
    /// From the start of a node that lost its disk until it has all records.
    pub(super) snapshot: Duration,
    /// The most that any node has had in memory through all that.
    pub(super) resident_bytes: u64,
}

/// Makes a cluster of `count` records and measures it.
pub(super) fn measure(run: &RunDirectory, antipode: &Path, count: u32) -> Result<Figures> {
    let backup = run.path().join("backup.json");
    let records = (0..count)
        .map(|number| Ok((format!("vm-{number:05}").parse()?, record()?)))
        .collect::<Result<BTreeMap<Name, Record>>>()?;
    std::fs::write(&backup, Backup::new("lab".parse()?, 1, records).to_json())?;
    let plan = Plan {
        number: 3,
        heartbeat_ms: HEARTBEAT_MS,
        one_way: Duration::ZERO,
        backup: Some(backup),
    };
    let mut town = Town::build(run, antipode, plan)?;
    town.operator()?;
    let mut figures = Figures {
        count,
        ..Figures::default()
    };
    for index in 0..NODES.len() {
        town.kill(index)?;
        let begun = Instant::now();
        town.start(index)?;
        figures.start = figures.start.max(begun.elapsed());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut client = town.client("operator/bench")?;
    let leader = runtime.block_on(town::leader(&mut client, PATIENCE))?;
    figures.status = status(&town, antipode, count)?;

    let lost = (0..NODES.len()).find(|index| *index != leader).unwrap_or(0);
    town.kill(lost)?;
    town.lose_disk(lost)?;
    let begun = Instant::now();
    town.start(lost)?;
    let name = NODES[lost].parse()?;
    runtime.block_on(async {
        loop {
            let status = client.status(&name, Duration::from_millis(500)).await;
            if status.is_ok_and(|status| status.records == u64::from(count)) {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "node {name} never has all records");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })?;
    figures.snapshot = begun.elapsed();
    figures.resident_bytes = town.resident_bytes()?.into_iter().max().unwrap_or(0);
    Ok(figures)
}

/// A VM that is protected, and has been for long: as two sites would have made it that took over from each other until
/// its history is full.
fn record() -> Result<Record> {
    const MOVES: u64 = 2 * HISTORY_MOVES_MAX as u64;
    let names: [Name; 2] = ["berlin".parse()?, "paris".parse()?];
    let mut record = None;
    for number in 0..MOVES {
        // The holder pairs, the other one claims: it is the holder then.
        let turn = usize::try_from(number / 2)? % 2;
        let (holder, other) = (&names[turn], &names[1 - turn]);
        let pair = |boot| Operation::Pair {
            boot,
            backup: other.clone(),
            pairing: PairingId(number),
            flush: Flush::Site,
        };
        let (by, operation) = match number {
            0 => (holder, Operation::Register { boot: Boot(1) }),
            _ if number % 2 == 1 => (holder, pair(Boot(number))),
            _ => {
                let claim = Operation::Claim {
                    pairing: PairingId(number - 1),
                    boot: Boot(number + 1),
                };
                (holder, claim)
            }
        };
        let request = Request {
            id: RequestId(number + 1),
            expected: Generation(number),
            operation,
            at_unix_seconds: 1_795_249_800,
        };
        let by = Identity {
            role: Role::Site,
            name: by.clone(),
        };
        let outcome = decide(record, &request, &by);
        ensure!(
            outcome.answer.verdict.is_ok(),
            "change {number} is refused: {:?}",
            outcome.answer
        );
        record = outcome.record;
    }
    let record: Record = record.context("a VM that was registered has a record")?;
    ensure!(
        record.history.len() == HISTORY_MOVES_MAX && record.remembered.len() == names.len(),
        "the record is shorter than those of real VMs"
    );
    Ok(record)
}

fn status(town: &Town, antipode: &Path, count: u32) -> Result<Duration> {
    let mut took = Vec::new();
    for _ in 0..LOOKS {
        let begun = Instant::now();
        let output = Command::new(antipode)
            .args(["tiebreaker", "status", "--json", "--config", OPERATOR_CONFIG])
            .current_dir(town.folder())
            .stderr(Stdio::inherit())
            .output()?;
        took.push(begun.elapsed());
        let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let shown = said["vms"].as_array().map_or(0, Vec::len);
        ensure!(shown == count as usize, "status shows {shown} VMs of {count}");
    }
    took.sort();
    Ok(took[LOOKS / 2])
}
