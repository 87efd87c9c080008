//! What was typed, flag by flag. Nothing is resolved here.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use super::certs::CertsCommand;
use super::exit_code;

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
