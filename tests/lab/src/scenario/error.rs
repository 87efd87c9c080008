//! Why a scenario could not be played.

use crate::{debian, host, image};
use std::io;
use std::path::{Path, PathBuf};

/// What every operation of this module returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Each names what was expected, of whom, and what came instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A package, or a tool of this machine.
    #[error(transparent)]
    Debian(#[from] debian::Error),
    /// A guest image.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// A host.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// A file of this machine.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A guest, or the `antipode` that runs it, did something else than expected.
    #[error("{what}\nthe last that VM {vm} said:\n{tail}")]
    Vm {
        /// Which.
        vm: String,
        /// What was expected, and what happened.
        what: String,
        /// The end of its console and of antipode's messages.
        tail: String,
    },
    /// The service did not answer as its protocol wants it.
    #[error("asking {service} at {address}: {source}")]
    Talk {
        /// The service.
        service: image::Service,
        /// Where it should be.
        address: String,
        /// What went wrong.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err` on file operations.
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
