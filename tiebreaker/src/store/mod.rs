//! What a node must never forget, on disk (T1).
//!
//! ```text
//!   DATA/store/           sled: one tree (`layout` says which keys, `journal` how batches wait to become them)
//!   DATA/witness          the number of the last batch that was durable
//!
//!   write(batch) ── insert or apply_batch ── flush ── fdatasync of sled's file ── witness ──▶ Ok: whatever depends on it may be said
//! ```
//!
//! - **Durable means fdatasync.** sled's own flush ends in `sync_file_range`, which moves pages to the device and leaves it
//!   the choice when to keep them; after it we sync the file ourselves. Folders are synced after they are made. A test
//!   watches the system calls.
//! - **All or nothing.** A batch is one key or one transaction of sled; a torn one is as if it had never been.
//! - **Nothing is mended.** What cannot be read, does not fit together, belongs to another node or cluster, or has lost
//!   what the witness saw is refused ([`StoreError`]), today and when it is opened again. The way back is a new seat
//!   (`antipode tiebreaker rejoin`): a node that may have forgotten a vote must not vote under the same id. sled itself
//!   empties what it takes for a torn end when it opens, before anything of it can be judged: whoever wants to look into
//!   damaged data copies it first.
//! - **The witness costs no wait.** It is written after each batch and not synced, so it never knows more than the disk,
//!   and a crash of the process does not lose it. sled takes a damaged end of its log for a torn write and drops it: the
//!   witness tells the two apart.
//! - **A full disk** fails the write. The node stops and says so; what was durable stays, and when there is room it goes
//!   on from there.

mod disk;
pub mod journal;
pub mod layout;

use std::io;
use std::path::PathBuf;

use antipode_certs::Name;
use serde::{Deserialize, Serialize};

pub use disk::DiskStore;

use crate::node::{Batch, NodeId, RecoveredError};

/// Where batches go.
pub trait Store {
    /// Writes `batch`, all or nothing. When this returns, it is durable.
    ///
    /// # Errors
    /// Where it may not be. The store is not to be used any more then, only opened anew.
    fn write(&mut self, batch: &Batch) -> Result<(), StoreError>;
}

/// Whose a store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The cluster's name.
    pub cluster: Name,
    /// Which life of the cluster: 0 of a new one; of one restored from a backup, the moment at which it was taken, in
    /// microseconds. Nodes of different lives do not talk to each other.
    pub era: u64,
    /// The node's seat.
    pub name: Name,
    /// The node's id.
    pub id: NodeId,
}

/// A store that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is none.
    #[error("there is no tiebreaker's data in {}", .0.display())]
    Missing(PathBuf),
    /// There is one where a new one was to be made.
    #[error("there is data in {} already", .0.display())]
    Exists(PathBuf),
    /// Another process has it open.
    #[error("another process uses the data in {}", .0.display())]
    Locked(PathBuf),
    /// Of another cluster or node.
    #[error("the data in {} is of {found}, but the configuration is of {expected}", path.display())]
    Foreign {
        /// Where.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// Unreadable, or its parts do not fit together.
    #[error("the data in {} is damaged: {what}", path.display())]
    Corrupt {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Of a later version of this program.
    #[error("the data in {} was written by a later version of antipode", .0.display())]
    Newer(PathBuf),
    /// There is no room.
    #[error("the disk of {} is full", .0.display())]
    Full(PathBuf),
    /// The host failed.
    #[error("the data in {} cannot be read or written: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// What to do next.
    #[must_use]
    pub const fn mend(&self) -> &'static str {
        match self {
            Self::Missing(_) => {
                "of a new cluster, run `antipode tiebreaker init`; if this node has lost its disk, `antipode tiebreaker rejoin`"
            }
            Self::Exists(_) => "name another folder, or move it away if this node shall begin anew",
            Self::Locked(_) => "stop the other process",
            Self::Foreign { .. } => "name the right folder or the right configuration",
            Self::Corrupt { .. } => {
                "move the folder away and run `antipode tiebreaker rejoin`: the node returns under a new id"
            }
            Self::Newer(_) => "upgrade this node",
            Self::Full(_) => "make room; the node goes on by itself",
            Self::Io { .. } => "mend the disk or its rights; if it is lost, `antipode tiebreaker rejoin`",
        }
    }
}

/// What is wrong with the content of a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// Of a later version.
    #[error("it was written by a later version of antipode")]
    Newer,
    /// A key that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A value that cannot be read.
    #[error("{0} cannot be read")]
    Unreadable(String),
    /// A key that this program never wrote.
    #[error("key {0:?} is unknown")]
    UnknownKey(Vec<u8>),
    /// Parts that do not fit together.
    #[error(transparent)]
    Unfit(#[from] RecoveredError),
}

#[cfg(test)]
mod tests;
