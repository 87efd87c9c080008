//! How the commands of this module end: words or one JSON object on standard output, and an exit code.

use crate::host::RunDirectory;
use anyhow::{Result, anyhow};
use serde::Serialize;
use serde_json::json;
use std::process::ExitCode;

/// The form of a command's answer.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Form {
    /// One JSON object as the last line
    #[arg(long)]
    json: bool,
}

/// Prints what a command found: as JSON one line, else `words` of it. A failure in words goes to standard error.
pub(crate) fn conclude<T: Serialize>(
    form: Form,
    outcome: Result<T>,
    words: impl Fn(&T) -> String,
) -> ExitCode {
    let outcome = outcome.and_then(|found| Ok((serde_json::to_string(&found)?, found)));
    match outcome.map(|(line, found)| if form.json { line } else { words(&found) }) {
        Ok(text) => println!("{text}"),
        Err(error) if form.json => {
            println!("{}", json!({ "ok": false, "error": format!("{error:#}") }));
            return ExitCode::FAILURE;
        }
        Err(error) => {
            eprintln!("antipode-lab: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Three decimals: what is below is noise.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Seconds with three decimals.
pub(crate) fn seconds(span: std::time::Duration) -> f64 {
    rounded(span.as_secs_f64())
}

/// The upper one of the two in the middle, if there are two; of nothing, no number.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Plays `scenario` with a directory of its own for logs and disks. A failure says where they are kept.
pub(crate) fn with_run<T>(
    lab_directory: &std::path::Path,
    name: &str,
    scenario: impl FnOnce(&RunDirectory) -> Result<T>,
) -> Result<T> {
    let run = RunDirectory::create(lab_directory, name)?;
    match scenario(&run) {
        Ok(found) => {
            run.finish();
            Ok(found)
        }
        Err(error) => {
            let logs = run.path().display();
            Err(anyhow!("{error:#}\nthe logs of this run are in {logs}"))
        }
    }
}
