//! `antipode replay`: executes a record again and compares, to its end or to a position.

use std::io::Write;

use serde_json::json;

use super::divergence::diverged;
use super::exit_code::ExitCode;
use super::failure::{Failure, Problem};
use super::record::{begin, log_refused, open_origin, origin_of, put_digests};
use super::run::{answer, host_failure};
use super::settings::{RecordFiles, ReplayOrder};
use super::signals::Signals;
use crate::machine::launch::{Connection, LaunchError, PreparedVm, RunReport};
use crate::machine::{Outcome, RunError, TimelineError, config};
use crate::replay::{End, LogReader, MachineDigests, NoiseCounts, Recipe, Replayer, dump, save_machine};

/// Replays `files.log` on the VM that `files.config` describes, as `order` says.
pub(super) fn replay(
    files: &RecordFiles,
    order: &ReplayOrder,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let config = config::load(&files.config)?;
    let log = LogReader::open(&files.log).map_err(|error| log_refused(&files.log, &error))?;
    let recipe = log.recipe().clone();
    let vm = PreparedVm::from_config(&config, Connection::None)?.preemptible();
    let cmdline = vm.cmdline().as_str().to_owned();
    let present = || Recipe::of(&config, &cmdline, &recipe.birth);
    let origin = open_origin(files)?;
    let from = origin.as_ref().map(origin_of);
    present()
        .and_then(|present| recipe.expect_same(&Recipe { from, ..present }))
        .map_err(|error| log_refused(&files.log, &error))?;
    let signals = Signals::block()?;
    let mut vm = begin(vm, &recipe.birth, origin)?;
    signals.serve(vm.inbox().clone());
    let mut replayer = Replayer::new(log, vm.kicker(), vm.inbox().clone())
        .until(order.until)
        .stepping_from(order.step.clone());
    if let Some(seed) = order.noise {
        replayer = replayer
            .disturbed_by(seed)
            .map_err(|error| host_failure("starting the noise", error))?;
    }
    let ended = vm.run(&mut replayer);
    if let Some(folder) = &files.dump {
        dump(&mut vm, folder)?;
    }
    let report = match ended {
        Err(LaunchError::Run(RunError::Timeline(error @ TimelineError::Diverged { exit, .. }))) => {
            return Err(diverged(files, &mut vm, exit, &[error.to_string()]));
        }
        ended => ended?,
    };
    let digests = MachineDigests::of(&mut vm)?;
    if report.outcome == Outcome::Held {
        if let Some(path) = &order.save {
            let written = replayer.await_writes(&vm.unfinished_writes());
            written.map_err(|error| host_failure("waiting for the guest's disk writes", error))?;
            let recipe = present().map_err(|error| log_refused(&files.log, &error))?;
            save_machine(&mut vm, recipe, path)?;
        }
        return answer(&report, json, output, |summary| {
            put_replay(summary, &digests, replayer.noise())
        });
    }
    if let Some(position) = order.until {
        let what = format!(
            "the record ends at exit {}, before {position}",
            report.totals.exit_count
        );
        let code = ExitCode::RecordEnded;
        return Err(Failure::new(
            code,
            Problem::new(what, "name a position within the record"),
        ));
    }
    let differences = replayer
        .end()
        .map_or_else(Vec::new, |end| differences(end, &report, &digests));
    if !differences.is_empty() {
        return Err(diverged(files, &mut vm, report.totals.exit_count, &differences));
    }
    answer(&report, json, output, |summary| {
        put_replay(summary, &digests, replayer.noise())
    })
}

/// Adds to a summary what the machine is at the end of a replay, and what `noise` was made.
fn put_replay(summary: &mut serde_json::Value, digests: &MachineDigests, noise: Option<NoiseCounts>) {
    put_digests(summary, digests);
    if let Some(noise) = noise {
        summary["noise"] = json!({
            "page_log_restarts": noise.page_log_restarts,
            "page_outs": noise.page_outs,
            "moves": noise.moves,
            "cut_batches": noise.cut_batches,
        });
    }
}

/// What of the end of this execution is not as it was.
fn differences(end: &End, report: &RunReport, digests: &MachineDigests) -> Vec<String> {
    let parts = [
        (
            "how it ended",
            end.outcome == report.outcome.name(),
            format!("{} then, {} now", end.outcome, report.outcome.name()),
        ),
        (
            "virtual time",
            end.virtual_time == report.totals.virtual_time,
            format!(
                "{:?} then, {:?} now",
                end.virtual_time, report.totals.virtual_time
            ),
        ),
        ("RAM", end.digests.ram == digests.ram, "another digest".to_owned()),
        (
            "registers",
            end.digests.vcpu == digests.vcpu,
            "another digest".to_owned(),
        ),
    ];
    parts
        .into_iter()
        .filter(|(_, is_same, _)| !is_same)
        .map(|(part, _, how)| format!("the replay went as recorded, but at its end differs in {part}: {how}"))
        .collect()
}
