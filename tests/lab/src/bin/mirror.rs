//! `antipode-lab-mirror`: two replicas under a writer that never stops. See `antipode_lab::mirror`.

use antipode_lab::mirror::{alone, backup, primary};
use anyhow::Result;
use clap::Parser;
use serde_json::json;
use std::process::ExitCode;

/// Two replicas under a writer that never stops
#[derive(Debug, Parser)]
enum Cli {
    /// Has the guest, clones its disk and compares it; prints what came of it as JSON
    Primary(primary::Args),
    /// Executes the primary's log
    Backup(backup::Args),
    /// Writes to a replica whose other one is lost; prints how many leaves
    Alone(alone::Args),
}

fn main() -> ExitCode {
    let carried_out = || -> Result<()> {
        match Cli::parse() {
            Cli::Primary(args) => println!("{}", serde_json::to_string(&primary::run(&args)?)?),
            Cli::Backup(args) => backup::run(&args)?,
            Cli::Alone(args) => println!("{}", json!({ "leaves": alone::run(&args)? })),
        }
        Ok(())
    };
    match carried_out() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("antipode-lab-mirror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
