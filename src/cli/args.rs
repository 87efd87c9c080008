//! What was typed, flag by flag. Nothing is resolved here.

use std::ops::Range;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use super::certs::CertsCommand;
use super::disk::DiskCommand;
use super::exit_code;
use super::site::SiteCommand;
use super::tiebreaker::TiebreakerCommand;
use super::vm::VmCommand;
use crate::base::units::ExitOrdinal;
use crate::replay::Position;

/// `FROM..TO`.
fn exits(text: &str) -> Result<Range<ExitOrdinal>, String> {
    let ends = text
        .split_once("..")
        .and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    let (from, to) = ends.ok_or("give two exits, such as 5000..5010")?;
    Ok(ExitOrdinal::new(from)..ExitOrdinal::new(to))
}

/// Keeps one virtual machine alive across two datacenters.
#[derive(Debug, Parser)]
#[command(name = "antipode", version, after_long_help = exit_code::help())]
pub(super) struct Args {
    /// Show results and errors as one line of JSON, last on standard output.
    #[arg(long, global = true)]
    pub(super) json: bool,

    /// What to log on standard error: error, warn, info, debug, trace, or a filter such as
    /// `warn,antipode::machine=debug`. The environment's `ANTIPODE_LOG` says the same; this flag goes before it.
    #[arg(long, global = true, value_name = "FILTER")]
    pub(super) log: Option<String>,

    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Boot a VM, unprotected, with its console on this terminal (`Ctrl-A x` stops it).
    Run {
        /// The VM's configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Let KVM log the pages that the guest writes, as `record` does: to measure what that costs.
        #[arg(long, hide = true)]
        log_written_pages: bool,
    },
    /// Boot a VM as `run` does, and log everything that makes its execution what it is.
    Record {
        /// The VM's configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The log, a new file.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// Go on from this saved machine instead of booting. The disk must be as it was when that was saved.
        #[arg(long, value_name = "STATE")]
        from: Option<PathBuf>,
        /// Write RAM and registers at the end into this folder.
        #[arg(long, value_name = "FOLDER")]
        dump: Option<PathBuf>,
    },
    /// Execute a record again, bit for bit, on the files it was made with. The disk must be as it was at the beginning.
    Replay {
        /// The log.
        #[arg(value_name = "LOG")]
        input: PathBuf,
        /// The configuration file of the same VM; its network stays unconnected.
        #[arg(long, value_name = "FILE", required_unless_present_any = ["print", "stats"])]
        config: Option<PathBuf>,
        /// Execute nothing; show every entry of the log: position, what, and how many bytes.
        #[arg(long, conflicts_with_all = ["config", "noise", "dump", "stats", "from", "until", "step"])]
        print: bool,
        /// Execute nothing; show how often each kind of entry occurs and what it takes.
        #[arg(long, conflicts_with_all = ["config", "noise", "dump", "from", "until", "step"])]
        stats: bool,
        /// The saved machine that the record went on from, if it did.
        #[arg(long, value_name = "STATE", requires = "config")]
        from: Option<PathBuf>,
        /// Stop at this counted exit, all that belongs there handled; with `EXIT+N`, at N instructions behind it.
        #[arg(long, value_name = "POSITION", requires = "config")]
        until: Option<Position>,
        /// Go through these exits, `FROM..TO`, by single steps: it must make no difference.
        #[arg(long, value_name = "EXITS", requires = "config", value_parser = exits)]
        step: Option<Range<ExitOrdinal>>,
        /// Save the machine as it is then, all but its disk's content, as a new file.
        #[arg(long, value_name = "STATE", requires = "until")]
        save: Option<PathBuf>,
        /// Disturb the replay by signals at random moments that follow from this number: it must not notice.
        #[arg(long, value_name = "SEED")]
        noise: Option<u64>,
        /// Write RAM and registers at the end into this folder.
        #[arg(long, value_name = "FOLDER")]
        dump: Option<PathBuf>,
    },
    /// Say what this host can do for Antipode, and what it cannot.
    Doctor {
        /// Where to measure durable writes.
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        disk: PathBuf,
    },
    /// Make, show, renew and check the certificates that sites, tiebreakers and operators prove themselves with.
    #[command(subcommand)]
    Certs(CertsCommand),
    /// Make, show, compare and sync the replicas of a VM's disk.
    #[command(subcommand)]
    Disk(DiskCommand),
    /// Run a node of the tiebreaker, or ask one.
    #[command(subcommand)]
    Tiebreaker(TiebreakerCommand),
    /// Serve a site: start its VMs, and answer the other site.
    #[command(subcommand)]
    Site(SiteCommand),
    /// Make, start, protect, stop and show VMs of a site.
    #[command(subcommand)]
    Vm(VmCommand),
    /// Write a shell's completions to standard output.
    Completions {
        /// For which shell.
        shell: Shell,
    },
    /// Write the manual page to standard output, or one page a command into a folder.
    Man {
        /// An existing folder, such as `/usr/local/share/man/man1`.
        folder: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Args::command().debug_assert();
    }
}
