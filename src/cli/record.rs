//! `antipode record`: `run`, with a log that [`super::replay`] can execute again.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::exit_code::ExitCode;
use super::failure::{Failure, Problem, written};
use super::run::{as_json, exit_code_of, open_entropy, seconds, show};
use super::settings::RecordFiles;
use super::signals::Signals;
use crate::machine::config;
use crate::machine::launch::{Birth, Connection, LaunchError, PreparedVm, StartedVm};
use crate::replay::{LogWriter, MachineDigests, Origin, Recipe, Recorder, SavedMachine, dump};

/// Records the VM that `files.config` describes, to its end.
pub(super) fn record(files: &RecordFiles, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let config = config::load(&files.config)?;
    let vm = PreparedVm::from_config(&config, Connection::Tap)?.preemptible();
    let signals = Signals::block()?;
    let mut entropy = open_entropy()?;
    let origin = open_origin(files)?;
    let mut birth = vm.birth(&mut entropy)?;
    if let Some(origin) = &origin {
        let offloads = birth.offloads;
        birth = origin.head().recipe.birth.clone();
        birth.offloads = offloads;
    }
    let mut recipe = Recipe::of(&config, vm.cmdline().as_str(), &birth)
        .map_err(|error| log_refused(&files.log, &error))?;
    if let Some(origin) = &origin {
        let same = origin.head().recipe.expect_same(&recipe);
        same.map_err(|error| state_refused(files, &error))?;
        recipe.from = Some(origin_of(origin));
    }
    let log = LogWriter::create(&files.log, &recipe).map_err(|error| log_refused(&files.log, &error))?;
    let exit_cost = PreparedVm::exit_cost();
    let mut vm = begin(vm, &birth, origin)?;
    signals.serve(vm.inbox().clone());
    let mut recorder = Recorder::new(vm.live(entropy, exit_cost)?, log, &vm.totals());
    let report = vm.run(&mut recorder)?;
    let digests = MachineDigests::of(&mut vm)?;
    let (log_bytes, logged) = recorder
        .finish(report.outcome.name(), report.totals.virtual_time, digests.clone())
        .and_then(|(mut log, logged)| log.sync().map(|()| (log.byte_count(), logged)))
        .map_err(|error| log_refused(&files.log, &error))?;
    if let Some(folder) = &files.dump {
        dump(&mut vm, folder)?;
    }
    let code = exit_code_of(&report.outcome);
    let shown = if json {
        let mut summary = as_json(&report, code);
        put_digests(&mut summary, &digests);
        summary["log_entries"] = json!(logged.entries);
        summary["log_expiries"] = json!(logged.expiries);
        summary["preemptions"] = json!(logged.preemptions);
        summary["log_bytes"] = json!(log_bytes);
        summary["digest_seconds"] = json!(seconds(logged.digest_time));
        writeln!(output, "{summary}")
    } else {
        let mut error = io::stderr().lock();
        show(&report, &mut error).and_then(|()| {
            writeln!(
                error,
                "  log: {} entries, {} bytes, in {}",
                logged.entries,
                log_bytes,
                files.log.display()
            )
        })
    };
    written(shown).map(|()| code)
}

/// The saved machine that `files` name, if they name one.
pub(super) fn open_origin(files: &RecordFiles) -> Result<Option<SavedMachine>, Failure> {
    let open = |path: &PathBuf| SavedMachine::open(path).map_err(|error| state_refused(files, &error));
    files.from.as_ref().map(open).transpose()
}

/// How a log refers to `origin`.
pub(super) fn origin_of(origin: &SavedMachine) -> Origin {
    Origin {
        state: origin.name(),
        exit: origin.head().exit,
    }
}

/// Starts `vm` at its boot, or as `origin`.
pub(super) fn begin(
    vm: PreparedVm,
    birth: &Birth,
    origin: Option<SavedMachine>,
) -> Result<StartedVm, LaunchError> {
    match origin {
        Some(origin) => vm.resume(birth, |memory| origin.restore(memory)),
        None => vm.start(birth),
    }
}

/// Adds to a summary what the machine is at its end.
pub(super) fn put_digests(summary: &mut serde_json::Value, digests: &MachineDigests) {
    let hex = |digest| json!(blake3::Hash::from_bytes(digest).to_hex().as_str());
    summary["ram_blake3"] = hex(digests.ram);
    summary["vcpu_blake3"] = hex(digests.vcpu);
}

/// Something about the saved machine to go on from is wrong.
fn state_refused(files: &RecordFiles, error: &impl std::fmt::Display) -> Failure {
    let code = ExitCode::StateRefused;
    let problem = Problem::new(format!("the saved machine is refused: {error}"), code.remedy());
    let place = files.from.as_deref().unwrap_or(Path::new("--from"));
    Failure::new(code, problem.at(place.display().to_string()))
}

/// Something about the log is wrong.
pub(super) fn log_refused(log: &Path, error: &impl std::fmt::Display) -> Failure {
    let code = ExitCode::LogRefused;
    let problem = Problem::new(format!("the log is refused: {error}"), code.remedy());
    Failure::new(code, problem.at(log.display().to_string()))
}
