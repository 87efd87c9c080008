//! Debian's packages as building material: resolved, fetched and unpacked by Debian's own client, never installed.
//!
//! ```text
//!  names ── resolve ──> Candidate ── fetch ──> Package ── extract ──> files
//!           apt-get -s              apt-get              dpkg-deb -x
//!           against an empty        download
//!           dpkg status
//! ```
//!
//! - **Resolving** asks `apt-get` what it would install on a machine that has nothing, recommendations left out, so
//!   the answer depends on the package lists alone and not on this host. A package that only a maintainer script needs
//!   can be left out by name and with a reason ([`LeftOut`]); what only it needed goes with it.
//! - **Fetching** stores each package once, by name and version, and holds it against the SHA-256 that the signed
//!   lists give, at every use.
//! - Nothing here needs root. Root is used in one place, [`requirements`], and only to install what the lab itself runs.
//!
//! The archive's signatures are checked by `apt-get update`, which wrote the lists; [`Error::NoPackageLists`] says to
//! run it.

mod apt;
mod cache;
mod dependencies;
mod error;
mod kernel;
pub mod modules;
pub mod requirements;
mod tool;

pub use cache::{Cache, hex_digest};
pub use dependencies::LeftOut;
pub use error::Error;
pub use kernel::{Kernel, KernelFlavour};
pub use tool::run as run_tool;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What every operation of this module returns.
pub type Result<T> = std::result::Result<T, Error>;

/// One package as the lists describe it, not fetched yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Name, without architecture.
    pub name: String,
    /// Version with epoch and revision.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// SHA-256 of the `.deb`, in lower-case hex.
    pub sha256: String,
}

/// One package in the cache, its bytes verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Name, without architecture.
    pub name: String,
    /// Version with epoch and revision.
    pub version: String,
    /// The `.deb` in the cache.
    pub deb_path: PathBuf,
    /// SHA-256 of the `.deb`, in lower-case hex.
    pub sha256: String,
}
