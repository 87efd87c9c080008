//! `disk sync` and `verify`: the end that begins.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use antipode_certs::PeerRule;
use antipode_certs::tls::LiveCredentials;
use antipode_disk_sync::decision::Outcome;
use antipode_disk_sync::disk::{Disk, sync_here};
use antipode_disk_sync::protocol::{Clock, Link, Options, Report, Role};
use antipode_disk_sync::tree::Threads;
use antipode_disk_sync::units::{LEAF_BYTES, REGION_BYTES};
use indicatif::HumanBytes;
use serde_json::json;

use super::progress::Bar;
use super::request::{Far, Proven, Sync, Where};
use super::{Monotonic, done, failures, seconds};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, written};
use crate::cli::time_of_day::TimeOfDay;

pub(super) fn sync(sync: &Sync, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let begun = Monotonic.now();
    let options = |compress| Options {
        consent: sync.consent,
        dry_run: sync.dry_run,
        compress,
        bytes_per_second: sync.bytes_per_second,
        threads: Threads::all(),
    };
    let bar = Bar::new(if sync.dry_run { "comparing" } else { "syncing" }, 0, json);
    let report = match &sync.ends {
        Where::Here { source, target } => {
            let source = Disk::open(source.clone(), Role::Source, sync.dry_run)?;
            let target = Disk::open(target.clone(), Role::Target, sync.dry_run)?;
            // Compression saves bytes on a line; here there is none.
            sync_here(source, target, &options(false), &Monotonic, &mut |status| {
                bar.show(status)
            })?
        }
        Where::There { ours, role, other } => {
            let live = credentials(&other.proof)?;
            let disk = Disk::open(ours.clone(), *role, sync.dry_run)?;
            let link = connect(other, &live)?;
            disk.run(*role, link, &options(true), &Monotonic, &mut |status| {
                bar.show(status)
            })?
        }
    };
    drop(bar);
    let took = Monotonic.now().saturating_sub(begun);
    let tally = report.finish.tally;
    let differs = tally.leaves_sent + tally.leaves_cleared > 0;
    let code = if sync.is_verify && differs {
        ExitCode::DisksDiffer
    } else {
        ExitCode::Done
    };
    written(tell(&report, sync, code, took, json, output)).map(|()| code)
}

/// A connection to where `disk serve` runs.
pub(super) fn connect(far: &Far, live: &Arc<LiveCredentials>) -> Result<Link, Failure> {
    Link::connect(&far.address, live, far.proof.rule.clone())
        .map_err(|error| failures::of_link(&far.address, &error))
}

pub(super) fn credentials(proof: &Proven) -> Result<Arc<LiveCredentials>, Failure> {
    let ours = PeerRule::AnyOf(antipode_certs::Role::ALL.to_vec());
    Ok(LiveCredentials::open(
        proof.paths.clone(),
        &ours,
        Arc::new(TimeOfDay),
    )?)
}

fn tell(
    report: &Report,
    sync: &Sync,
    code: ExitCode,
    took: Duration,
    json: bool,
    output: &mut dyn Write,
) -> io::Result<()> {
    if json {
        let told = as_json(report, code, took);
        return writeln!(output, "{told}");
    }
    let tally = report.finish.tally;
    let decided = report.finish.decision;
    let (outcome, reason) = decided.map_or((Outcome::Full, ""), |found| (found.outcome, found.reason));
    let compared = HumanBytes(tally.regions * REGION_BYTES);
    let differing = HumanBytes((tally.leaves_sent + tally.leaves_cleared) * LEAF_BYTES);
    let (_, packed) = report.status.data_bytes;
    if outcome == Outcome::Nothing {
        return writeln!(output, "nothing to do: {reason}");
    }
    match (sync.is_verify, code, sync.dry_run) {
        (true, ExitCode::Done, _) => writeln!(output, "they are equal: {compared} compared"),
        (true, ..) => writeln!(output, "they differ in {differing} of {compared}"),
        (_, _, true) => writeln!(
            output,
            "{compared} would be compared ({reason}); {differing} differ, {} would be sent",
            HumanBytes(packed)
        ),
        _ => writeln!(
            output,
            "equal: {compared} compared ({reason}), {differing} differed, {} sent in {:.1} s",
            HumanBytes(report.status.bytes_sent),
            took.as_secs_f64()
        ),
    }
}

pub(super) fn as_json(report: &Report, code: ExitCode, took: Duration) -> serde_json::Value {
    let (decision, tally, status) = (report.finish.decision, report.finish.tally, report.status);
    let mut told = done(code);
    told["outcome"] = json!(decision.map(|decision| decision.outcome.word()));
    told["relation"] = json!(decision.map(|decision| decision.relation.word()));
    told["reason"] = json!(decision.map(|decision| decision.reason));
    told["bytes_compared"] = json!(tally.regions * REGION_BYTES);
    told["leaves_sent"] = json!(tally.leaves_sent);
    told["leaves_cleared"] = json!(tally.leaves_cleared);
    told["data_bytes"] = json!(status.data_bytes.0);
    told["data_bytes_packed"] = json!(status.data_bytes.1);
    told["bytes_sent"] = json!(status.bytes_sent);
    told["bytes_received"] = json!(status.bytes_received);
    told["dry_run"] = json!(report.finish.dry_run);
    told["root"] = json!(report.finish.root.map(|root| root.to_string()));
    told["seconds"] = json!(seconds(took));
    told
}
