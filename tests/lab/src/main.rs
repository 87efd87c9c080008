//! Entry of the lab's command line.

use std::process::ExitCode;

use clap::Parser;

/// Two whole datacenters on one machine: emulated hosts, a shaped network, faults and checkers.
#[derive(Parser)]
#[command(version)]
enum Command {
    /// Build a guest image from Debian's packages, or find it in the cache.
    Image(antipode_lab::image::cli::Args),
}

fn main() -> ExitCode {
    let Command::Image(args) = Command::parse();
    match antipode_lab::image::cli::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("antipode-lab: {error}");
            ExitCode::FAILURE
        }
    }
}
