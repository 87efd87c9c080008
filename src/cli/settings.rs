//! What was typed, resolved: every value checked, the environment taken into account.

use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;

use clap_complete::Shell;
use tracing_subscriber::EnvFilter;

use super::args::{Args, Command};
use super::failure::{Failure, Problem};
use super::site::SiteCommand;
use super::vm::VmCommand;
use super::{ExitCode, certs, disk, logging, tiebreaker};
use crate::base::units::ExitOrdinal;
use crate::replay::Position;

/// What to do and how to speak of it.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) json: bool,
    pub(super) log: EnvFilter,
    pub(super) action: Action,
}

/// A command whose arguments are known to be good.
#[derive(Debug)]
pub(super) enum Action {
    Run {
        config: PathBuf,
        logs_written_pages: bool,
    },
    Record(RecordFiles),
    Replay(RecordFiles, ReplayOrder),
    PrintLog(PathBuf),
    LogStatistics(PathBuf),
    Doctor(PathBuf),
    Certs(certs::Request),
    Disk(disk::Request),
    Tiebreaker(tiebreaker::Request),
    Site(SiteCommand),
    Vm(VmCommand),
    Completions(Shell),
    Man(ManTarget),
}

/// The files of a record and of its replay.
#[derive(Debug)]
pub(super) struct RecordFiles {
    /// The VM's configuration.
    pub(super) config: PathBuf,
    /// The log.
    pub(super) log: PathBuf,
    /// The saved machine that it goes on from, if it does.
    pub(super) from: Option<PathBuf>,
    /// Where RAM and registers go at the end.
    pub(super) dump: Option<PathBuf>,
}

/// How to replay.
#[derive(Debug)]
pub(super) struct ReplayOrder {
    /// The seed of the noise, if there shall be any.
    pub(super) noise: Option<u64>,
    /// Where to stop.
    pub(super) until: Option<Position>,
    /// Exits from which to go on by single steps.
    pub(super) step: Range<ExitOrdinal>,
    /// Where to save the machine as it is then.
    pub(super) save: Option<PathBuf>,
}

/// Where manual pages go.
#[derive(Debug)]
pub(super) enum ManTarget {
    /// The main page to standard output.
    StandardOutput,
    /// Every page into this folder, which exists.
    Folder(PathBuf),
}

/// Resolves `args`; `log_variable` is what the environment says about logging.
pub(super) fn resolve(args: Args, log_variable: Option<OsString>) -> Result<Settings, Failure> {
    let Args { json, log, command } = args;
    Ok(Settings {
        json,
        log: logging::filter(log, log_variable)?,
        action: match command {
            Command::Run {
                config,
                log_written_pages,
            } => Action::Run {
                config,
                logs_written_pages: log_written_pages,
            },
            Command::Record {
                config,
                output: log,
                from,
                dump,
            } => Action::Record(RecordFiles {
                config,
                log,
                from,
                dump,
            }),
            Command::Replay {
                input,
                config: Some(config),
                from,
                until,
                step,
                save,
                noise,
                dump,
                ..
            } => {
                let files = RecordFiles {
                    config,
                    log: input,
                    from,
                    dump,
                };
                let order = ReplayOrder {
                    noise,
                    until,
                    step: step.unwrap_or_default(),
                    save,
                };
                Action::Replay(files, possible(order)?)
            }
            Command::Replay {
                input, print: true, ..
            } => Action::PrintLog(input),
            Command::Replay { input, .. } => Action::LogStatistics(input),
            Command::Doctor { disk } => Action::Doctor(existing_folder(disk)?),
            Command::Certs(command) => Action::Certs(certs::resolve(command)?),
            Command::Disk(command) => Action::Disk(disk::resolve(command)?),
            Command::Tiebreaker(command) => Action::Tiebreaker(tiebreaker::resolve(command)?),
            Command::Site(command) => Action::Site(command),
            Command::Vm(command) => Action::Vm(command),
            Command::Completions { shell } => Action::Completions(shell),
            Command::Man { folder: None } => Action::Man(ManTarget::StandardOutput),
            Command::Man { folder: Some(folder) } => Action::Man(ManTarget::Folder(existing_folder(folder)?)),
        },
    })
}

/// `order`, unless it asks for a machine saved where none can be.
fn possible(order: ReplayOrder) -> Result<ReplayOrder, Failure> {
    if order.save.is_some() && order.until.is_some_and(|position| position.instructions > 0) {
        let problem = Problem::new(
            "a machine is saved at an exit, not between two",
            "give --until the number of an exit, without +",
        );
        return Err(Failure::new(ExitCode::Usage, problem));
    }
    Ok(order)
}

fn existing_folder(folder: PathBuf) -> Result<PathBuf, Failure> {
    if folder.is_dir() {
        return Ok(folder);
    }
    let problem = Problem::new("there is no such folder", "create it, or name another")
        .at(folder.display().to_string());
    Err(Failure::new(ExitCode::Usage, problem))
}
