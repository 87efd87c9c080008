//! `antipode record`: `run`, with a log that [`super::replay`] can execute again.

use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use super::exit_code::ExitCode;
use super::failure::{Failure, Problem, written};
use super::run::{as_json, exit_code_of, open_entropy, show};
use super::settings::RecordFiles;
use super::signals::Signals;
use crate::machine::config;
use crate::machine::launch::{Connection, PreparedVm};
use crate::replay::{LogWriter, MachineDigests, Recipe, Recorder, dump};

/// Records the VM that `files.config` describes, to its end.
pub(super) fn record(files: &RecordFiles, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let config = config::load(&files.config)?;
    let vm = PreparedVm::from_config(&config, Connection::Tap)?.preemptible();
    let signals = Signals::block()?;
    let mut entropy = open_entropy()?;
    let birth = vm.birth(&mut entropy)?;
    let recipe = Recipe::of(&config, vm.cmdline().as_str(), &birth)
        .map_err(|error| log_refused(&files.log, &error))?;
    let log = LogWriter::create(&files.log, &recipe).map_err(|error| log_refused(&files.log, &error))?;
    let exit_cost = PreparedVm::exit_cost();
    let mut vm = vm.start(&birth)?;
    signals.serve(vm.inbox().clone());
    let mut recorder = Recorder::new(vm.live(entropy, exit_cost)?, log);
    let report = vm.run(&mut recorder)?;
    let digests = MachineDigests::of(&mut vm)?;
    let logged = recorder
        .finish(report.outcome.name(), report.totals.virtual_time, digests)
        .map_err(|error| log_refused(&files.log, &error))?;
    if let Some(folder) = &files.dump {
        dump(&mut vm, folder)?;
    }
    let code = exit_code_of(&report.outcome);
    let shown = if json {
        let mut summary = as_json(&report, code);
        summary["log_entries"] = json!(logged.entries);
        summary["log_expiries"] = json!(logged.expiries);
        summary["preemptions"] = json!(logged.preemptions);
        summary["log_bytes"] = json!(logged.bytes);
        writeln!(output, "{summary}")
    } else {
        let mut error = io::stderr().lock();
        show(&report, &mut error).and_then(|()| {
            writeln!(
                error,
                "  log: {} entries, {} bytes, in {}",
                logged.entries,
                logged.bytes,
                files.log.display()
            )
        })
    };
    written(shown).map(|()| code)
}

/// Something about the log is wrong.
pub(super) fn log_refused(log: &Path, error: &impl std::fmt::Display) -> Failure {
    let code = ExitCode::LogRefused;
    let problem = Problem::new(format!("the log is refused: {error}"), code.remedy());
    Failure::new(code, problem.at(log.display().to_string()))
}
