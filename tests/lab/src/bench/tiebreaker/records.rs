//! A cluster with many records: how long it takes to start, to be looked at, and to fill a node that lost its disk.

use super::HEARTBEAT_MS;
use crate::host::RunDirectory;
use crate::tiebreaker::town::{self, NODES, OPERATOR_CONFIG, Plan, Town};
use antipode_certs::{Identity, Name};
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
    /// Of the largest node, after all that.
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

/// A VM that is protected, as two sites would have made it.
fn record() -> Result<Record> {
    let site = Identity::from_uri("antipode://site/berlin")?;
    let pair = Operation::Pair {
        boot: Boot(1),
        backup: "paris".parse()?,
        pairing: PairingId(1),
        flush: Flush::Site,
    };
    let mut record = None;
    for (number, operation) in (0..).zip([Operation::Register { boot: Boot(1) }, pair]) {
        let request = Request {
            id: RequestId(number + 1),
            expected: Generation(number),
            operation,
            at_unix_seconds: 1,
        };
        record = decide(record, &request, &site).record;
    }
    record.context("a VM that was registered has a record")
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
