//! Why a replica cannot be made or opened.

use std::path::PathBuf;

use super::SECTOR_BYTES;
use crate::decision::Decision;
use crate::image::OpenError;
use crate::replica::ReplicaError;

/// Why a replica cannot be made or opened. Nothing was modified.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The image cannot be opened.
    #[error(transparent)]
    Image(#[from] OpenError),
    /// There is an image without metadata.
    #[error("{path}: there is no replica's metadata", path = .0.display())]
    NoReplica(PathBuf),
    /// The metadata is there already.
    #[error("{path}: is there already", path = .0.display())]
    Exists(PathBuf),
    /// The metadata is open elsewhere.
    #[error("{path}: is in use by another process", path = .0.display())]
    InUse(PathBuf),
    /// The metadata cannot be read, made or updated.
    #[error("{path}: {source}", path = path.display())]
    Metadata {
        /// The metadata's file.
        path: PathBuf,
        /// Why.
        source: ReplicaError,
    },
    /// The image is not as long as it was.
    #[error("{path}: has {found} bytes, but its metadata is of an image of {expected}", path = path.display())]
    Length {
        /// The image.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// What its length was.
        expected: u64,
    },
    /// It shall become a copy of what is not as long.
    #[error("{path}: has {found} bytes, and what it shall be a copy of has {expected}", path = path.display())]
    OtherLength {
        /// The image.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// That of the other one.
        expected: u64,
    },
    /// It may not be used by a VM: part or all of what it should hold is missing.
    #[error("{path}: this replica is {state}, and only a clean one may go live", path = path.display())]
    NotClean {
        /// The image.
        path: PathBuf,
        /// What it is, in a word.
        state: &'static str,
    },
    /// It may not be overwritten by what it shall become a copy of.
    #[error("{path}: refused: {}", .decision.reason, path = path.display())]
    Refused {
        /// The image.
        path: PathBuf,
        /// How the two relate, and why not.
        decision: Decision,
    },
    /// What was written to the image could not be read back, or is not what was written.
    #[error("{path}: what was written to it cannot be verified: {source}", path = path.display())]
    Unverified {
        /// The image.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The image's length is none that a disk can have.
    #[error("{path}: has {bytes} bytes, which is no whole number of {SECTOR_BYTES}-byte sectors above zero", path = path.display())]
    Sectors {
        /// The image.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
}
