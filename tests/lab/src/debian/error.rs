//! What can go wrong with packages, sorted by who can mend it.

use std::path::PathBuf;

/// Why packages could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host has no package lists.
    #[error("no Debian package lists in {directory}: run `apt-get update` as root, then try again")]
    NoPackageLists {
        /// Where they were looked for.
        directory: PathBuf,
    },
    /// A wanted package is not in the lists.
    #[error("{detail}: not in this host's package lists; if they are old, run `apt-get update` as root")]
    UnknownPackage {
        /// The client's own words.
        detail: String,
    },
    /// The archive no longer has the version that the lists name, or could not be reached.
    #[error(
        "cannot download {package}: {detail}; if the package lists are old, run `apt-get update` as root"
    )]
    Download {
        /// `name=version` of what was asked for.
        package: String,
        /// The client's own words.
        detail: String,
    },
    /// A package in the cache is not the one that the lists describe.
    #[error("{path} has SHA-256 {actual}, the package lists say {expected}: delete it, then try again")]
    Corrupt {
        /// The file in the cache.
        path: PathBuf,
        /// From the lists.
        expected: String,
        /// Of the file.
        actual: String,
    },
    /// A program of this host is missing.
    #[error("{program} is not installed on this host: install the Debian package {package}")]
    MissingProgram {
        /// What was to be run.
        program: String,
        /// The package that holds it.
        package: String,
    },
    /// A program ran and failed.
    #[error("`{command}` failed ({status}): {stderr}")]
    Tool {
        /// Program and arguments.
        command: String,
        /// Exit code or signal.
        status: String,
        /// Its standard error, trimmed.
        stderr: String,
    },
    /// A program or a file said something that this module does not understand.
    #[error("{source_name}: {detail}")]
    Malformed {
        /// Program or file.
        source_name: String,
        /// What was expected.
        detail: String,
    },
    /// A kernel module is neither built in nor among the files.
    #[error("kernel {release} has no module {module}")]
    NoModule {
        /// The name asked for.
        module: String,
        /// The kernel's release.
        release: String,
    },
    /// Packages are missing and this user may not install them.
    #[error(
        "missing Debian packages: {names}; as root, run: apt-get update && apt-get install --yes {names}"
    )]
    Requirements {
        /// Names, separated by blanks.
        names: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl Error {
    /// For `map_err`: a failed file operation, by what was tried.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
