//! Entry of the lab's command line.

use antipode_lab::{bench, heal, host, image, playground, scenario, switch, tiebreaker};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Two whole datacenters on one machine: emulated hosts, a shaped network, faults and checkers
#[derive(Debug, Parser)]
#[command(name = "antipode-lab", bin_name = "cargo lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(playground::cli::UpArgs),
    Shell(playground::cli::ShellArgs),
    Exec(playground::cli::ExecArgs),
    Link(playground::cli::LinkArgs),
    Links(playground::cli::LinksArgs),
    Capture(playground::cli::CaptureArgs),
    Host(host::cli::Args),
    CheckHosts(host::check::Args),
    Image(image::cli::Args),
    Boot(scenario::boot::Args),
    Bench(bench::cli::Args),
    Demo(scenario::failover::Args),
    Disk(scenario::disk::Args),
    Endings(scenario::endings::Args),
    Faults(scenario::faults::Args),
    Guests(scenario::guests::Args),
    Heal(heal::Args),
    Refusals(scenario::refusals::Args),
    Replay(scenario::replay::Args),
    Tiebreaker(tiebreaker::Args),
    #[command(hide = true)]
    Switch(switch::cli::Args),
}

fn main() -> ExitCode {
    let success = |()| ExitCode::SUCCESS;
    let done = match Cli::parse().command {
        Command::Up(args) => playground::cli::up(&args),
        Command::Shell(args) => playground::cli::shell(&args),
        Command::Exec(args) => playground::cli::exec(&args),
        Command::Link(args) => playground::cli::link(&args).map(success),
        Command::Links(args) => playground::cli::links(&args).map(success),
        Command::Capture(args) => playground::cli::capture(&args).map(success),
        Command::Host(args) => host::cli::run(&args),
        Command::Bench(args) => bench::cli::run(&args),
        Command::CheckHosts(args) => host::check::run(&args).map(success),
        Command::Image(args) => image::cli::run(&args).map(success).map_err(Into::into),
        Command::Boot(args) => Ok(scenario::boot::run(&args)),
        Command::Demo(args) => Ok(scenario::failover::run(&args)),
        Command::Disk(args) => Ok(scenario::disk::run(&args)),
        Command::Faults(args) => Ok(scenario::faults::run(&args)),
        Command::Endings(args) => Ok(scenario::endings::run(&args)),
        Command::Heal(args) => Ok(heal::run(&args)),
        Command::Guests(args) => Ok(scenario::guests::run(&args)),
        Command::Refusals(args) => Ok(scenario::refusals::run(&args)),
        Command::Replay(args) => Ok(scenario::replay::run(&args)),
        Command::Tiebreaker(args) => Ok(tiebreaker::run(&args)),
        Command::Switch(args) => switch::cli::run(&args).map(success),
    };
    done.unwrap_or_else(|error| {
        eprintln!("antipode-lab: {error:#}");
        ExitCode::FAILURE
    })
}
