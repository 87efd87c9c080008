//! The command line: what the operator types, and what the program answers (O1).
//!
//! Two stages. `args` mirrors what was typed and nothing else; `settings` resolves it (reads the environment,
//! checks filters, opens what is named) into values that need no further checking. Each command then has a file
//! of its own. Every command ends in an [`ExitCode`] or a [`Failure`]; the documented codes are one catalogue.
//!
//! ```text
//!   argv ──args──▶ Args ──settings──▶ Settings ──command──▶ Ok(ExitCode) │ Err(Failure)
//!                                                              │             │
//!                         standard output: what was asked for ◀┘             └▶ standard error: error / where / do
//!                         (with --json one JSON line, last; of a failure too)
//! ```
//!
//! Logs go to standard error.

mod args;
mod certs;
mod disk;
mod divergence;
mod doctor;
mod exit_code;
mod failure;
mod log_reader;
mod logging;
mod manual;
mod record;
mod replay;
mod run;
mod settings;
mod signals;
mod site;
mod tiebreaker;
mod time_of_day;
mod vm;

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Parser;

pub use exit_code::ExitCode;
pub use failure::{Failure, Problem};

use args::Args;
use settings::{Action, Settings};

/// The program: takes the process's arguments and environment, answers on its standard streams.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let json = asks_for_json(&arguments);
    let mut output = io::stdout().lock();
    let outcome = match Args::try_parse_from(arguments) {
        Ok(args) => settings::resolve(args, std::env::var_os(logging::VARIABLE))
            .and_then(|settings| perform(settings, &mut output)),
        Err(answer) if answer.use_stderr() && json => Err(Failure::of_usage(&answer)),
        Err(answer) => return show_usage(&answer),
    };
    match outcome.and_then(|code| failure::written(output.flush()).map(|()| code)) {
        Ok(code) => code,
        Err(failure) => {
            show(&failure, json, &mut output);
            failure.code()
        }
    }
}

/// Whether `--json` was typed, known even where the rest was not understood.
fn asks_for_json(arguments: &[OsString]) -> bool {
    arguments
        .iter()
        .skip(1)
        .take_while(|argument| *argument != "--")
        .any(|argument| argument == "--json")
}

fn perform(settings: Settings, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    logging::start(settings.log);
    match settings.action {
        Action::Run {
            config,
            logs_written_pages,
        } => run::run(&config, logs_written_pages, settings.json, output),
        Action::Record(files) => record::record(&files, settings.json, output),
        Action::Replay(files, order) => replay::replay(&files, &order, settings.json, output),
        Action::PrintLog(log) => log_reader::print(&log, settings.json, output),
        Action::LogStatistics(log) => log_reader::statistics(&log, settings.json, output),
        Action::Doctor(folder) => doctor::doctor(&folder, settings.json, output),
        Action::Certs(request) => certs::certs(&request, settings.json, output),
        Action::Disk(request) => disk::disk(&request, settings.json, output),
        Action::Tiebreaker(request) => tiebreaker::tiebreaker(&request, settings.json, output),
        Action::Site(command) => site::site(&command, settings.json, output),
        Action::Vm(command) => vm::vm(&command, settings.json, output),
        Action::Completions(shell) => manual::write_completions(shell, output),
        Action::Man(target) => manual::write_pages(&target, settings.json, output),
    }
}

/// Shows clap's own answer: help and version on standard output, a misuse on standard error.
fn show_usage(answer: &clap::Error) -> ExitCode {
    let shown = failure::written(answer.print());
    match shown {
        _ if answer.use_stderr() => ExitCode::Usage,
        Ok(()) => ExitCode::Done,
        Err(failure) => failure.code(),
    }
}

/// Shows a failure. Where that fails too, the exit code is all that is left to say.
fn show(failure: &Failure, json: bool, output: &mut dyn Write) {
    if json {
        let _ = writeln!(output, "{}", failure.as_json()).and_then(|()| output.flush());
    } else {
        let _ = write!(io::stderr().lock(), "{failure}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_asked_for_before_the_double_dash_only() {
        let typed = |words: &[&str]| asks_for_json(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(typed(&["antipode", "man", "--json"]));
        assert!(!typed(&["--json", "man", "--", "--json"]));
    }
}
