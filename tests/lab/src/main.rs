//! Entry of the lab's command line.

use antipode_lab::{host, switch};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Two whole datacenters on one machine: emulated hosts, a shaped network, faults and checkers
#[derive(Debug, Parser)]
#[command(name = "antipode-lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Host(host::cli::Args),
    Switch(switch::cli::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Host(args) => host::cli::run(&args),
        Command::Switch(args) => switch::cli::run(&args).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("antipode-lab: {error:#}");
        ExitCode::FAILURE
    })
}
