//! Why a host could not be made or used.

use crate::agent::client;
use crate::debian;
use crate::switch;
use std::io;
use std::path::{Path, PathBuf};

/// What every operation of this module returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Each names what failed, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A package.
    #[error(transparent)]
    Debian(#[from] debian::Error),
    /// A file or directory of the lab.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A process that could not be started.
    #[error("cannot start {program}: {source}; is it installed and in PATH?")]
    Start {
        /// Which.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A build that failed; cargo has said why on standard error.
    #[error("building {what} failed ({status}); the compiler's messages are above")]
    Build {
        /// The binary.
        what: String,
        /// cargo's exit status.
        status: std::process::ExitStatus,
    },
    /// QEMU ended before the host was up.
    #[error("host {host} ended while booting ({status}): {message}\nits console is in {console}")]
    Ended {
        /// Which.
        host: String,
        /// QEMU's exit status.
        status: std::process::ExitStatus,
        /// What QEMU said.
        message: String,
        /// The console log.
        console: PathBuf,
    },
    /// The host did not come up in time.
    #[error("host {host} did not come up: {source}\nthe end of its console ({console}):\n{tail}")]
    Boot {
        /// Which.
        host: String,
        /// The console log.
        console: PathBuf,
        /// Its last lines.
        tail: String,
        /// What was waited for.
        source: client::Error,
    },
    /// The agent of a running host.
    #[error("host {host}: {source}")]
    Agent {
        /// Which.
        host: String,
        /// What it said.
        source: client::Error,
    },
    /// A program in a host ended badly where it must not.
    #[error("host {host}: {command} ended with {status}: {stderr}")]
    Command {
        /// Which host.
        host: String,
        /// What ran.
        command: String,
        /// How it ended.
        status: crate::agent::message::ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// A signal that could not be sent to QEMU.
    #[error("host {host}: cannot signal its process: {source}")]
    Signal {
        /// Which.
        host: String,
        /// Why not.
        source: nix::Error,
    },
    /// The switch.
    #[error(transparent)]
    Switch(#[from] switch::client::Error),
}

impl Error {
    /// For `map_err` on file operations.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
