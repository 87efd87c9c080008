//! What operators do to records: a backup of all, and changes of one.

use std::io::Write;
use std::path::Path;

use antipode_certs::{Existing, Name, WriteError, write_public};
use antipode_tiebreaker::service::Backup;
use antipode_tiebreaker::{Operation, Refusal, Request, RequestId};
use serde_json::json;

use super::config::Config;
use super::request::Change;
use super::show::{flush_words, state_words};
use super::{PATIENCE, answer, client, runtime};
use crate::base::clock::wall_clock_unix_micros;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, Problem, written};

/// Asks for a change, and says what became of it.
pub(super) fn change(
    config: &Config,
    asked: &Change,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let request = Request {
        // An operator's requests rise with the time of day: nobody makes two within a microsecond.
        id: RequestId(wall_clock_unix_micros()),
        expected: asked.generation,
        operation: asked.operation.clone(),
        at_unix_seconds: 0,
    };
    let mut client = client(config)?;
    let given = runtime()?.block_on(client.change(&asked.vm, &request, PATIENCE))?;
    if let Err(refusal) = given.verdict {
        let now = given.state.as_ref().map_or_else(String::new, |state| {
            format!(
                "; it is {} in generation {}",
                state_words(state),
                given.generation
            )
        });
        let what = format!(
            "{} of {} is refused: {refusal}{now}",
            asked.operation.name(),
            asked.vm
        );
        return Err(Failure::new(ExitCode::Refused, Problem::new(what, mend(refusal))));
    }
    let code = ExitCode::Done;
    written(if json {
        let mut told = answer(code);
        told["vm"] = json!(asked.vm);
        told["generation"] = json!(given.generation);
        told["state"] = json!(given.state);
        writeln!(output, "{told}")
    } else {
        let now = given
            .state
            .as_ref()
            .map_or_else(|| "unknown".to_owned(), state_words);
        let settings = match &asked.operation {
            Operation::Configure { preferred, flush } => format!(
                "\npreferred: {}; from the next pairing on, flushes at {}",
                preferred.as_ref().map_or("none", Name::as_str),
                flush_words(*flush)
            ),
            _ => String::new(),
        };
        let (vm, generation) = (&asked.vm, given.generation);
        writeln!(output, "{vm} is {now} in generation {generation}{settings}")
    })?;
    Ok(code)
}

const fn mend(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Role => "use an operator's certificate",
        Refusal::Generation => {
            "look at the record with `antipode tiebreaker vm show`, and name its generation"
        }
        Refusal::Unknown => "see `antipode tiebreaker vm list`",
        _ => "look at the record with `antipode tiebreaker vm show`",
    }
}

/// Writes every record to a new file.
pub(super) fn backup(
    config: &Config,
    file: &Path,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let mut client = client(config)?;
    let records = runtime()?.block_on(client.export(PATIENCE))?;
    let count = records.len();
    let backup = Backup::new(config.cluster.clone(), wall_clock_unix_micros(), records);
    write_public(file, &backup.to_json(), Existing::Keep).map_err(|error| match error {
        WriteError::Exists(path) => {
            let problem = Problem::new(
                "there is such a file already, and it is not overwritten",
                "name another file",
            );
            Failure::new(ExitCode::FileExists, problem.at(path.display().to_string()))
        }
        refused => refused.into(),
    })?;
    let code = ExitCode::Done;
    written(if json {
        let mut told = answer(code);
        told["file"] = json!(file);
        told["vms"] = json!(count);
        writeln!(output, "{told}")
    } else {
        writeln!(
            output,
            "{count} records of cluster {} are in {}",
            config.cluster,
            file.display()
        )
    })?;
    Ok(code)
}
