//! What an operator is shown of a verification.

use antipode_disk_sync::units::{ImageLength, LEAF_BYTES};
use serde::{Deserialize, Serialize};

use crate::base::limits::VERIFY_DIFFERENCES_SHOWN_MAX;
use crate::base::units::ExitOrdinal;

/// Whether it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It goes on.
    Running,
    /// Everything was compared but for what is unknown.
    Complete,
    /// It ended before that.
    Ended,
}

/// Why it ended before everything was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// By command.
    #[error("it was cancelled")]
    Cancelled,
    /// The roles turn round, or the VM has no backup any more.
    #[error("the pairing has ended, or its roles turn round")]
    PairingOver,
    /// What was under way on it is lost.
    #[error("the logging channel was lost")]
    ChannelLost,
    /// A round came to no end.
    #[error("the other site did not come to it in time")]
    NoAnswer,
    /// There is no mending this leaf by leaf.
    #[error("the disks differ in too many places: end the protection, and compare and sync the whole disk")]
    TooDifferent,
}

/// Something that differed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Where it begins, in bytes; it is a leaf of 64 KiB.
    pub offset: u64,
    /// At which of the guest's exits it was last seen to differ.
    pub exit: u64,
    /// Whether it was found to be equal since.
    pub mended: bool,
}

/// A verification, as `vm status --json` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether it is over.
    pub state: State,
    /// Why it ended too early.
    pub because: Option<Ended>,
    /// How often the disk has been gone through; what the guest wrote to meanwhile is compared in the next pass. None where it is over.
    pub pass: u32,
    /// Bytes of the disk.
    pub total_bytes: u64,
    /// Bytes that were compared.
    pub compared_bytes: u64,
    /// Bytes that could not be compared because the guest never left them alone.
    pub unknown_bytes: u64,
    /// Leaves that differed.
    pub differed: u64,
    /// Those of them that were mended, and have been found to be equal.
    pub mended: u64,
    /// The first of those that differed.
    pub differences: Vec<Difference>,
    /// When it began, in seconds since 1970.
    pub began: i64,
    /// When it ended.
    pub ended: Option<i64>,
}

impl Report {
    /// Whether the disks are known to differ.
    #[must_use]
    pub const fn differs(&self) -> bool {
        self.differed > self.mended
    }
}

/// Bytes of so many leaves.
pub(super) fn bytes_of(length: ImageLength, leaves: u64) -> u64 {
    leaves.saturating_mul(LEAF_BYTES).min(length.bytes())
}

/// Those that are named.
pub(super) fn named(found: impl Iterator<Item = (u64, ExitOrdinal, bool)>) -> Vec<Difference> {
    found
        .take(VERIFY_DIFFERENCES_SHOWN_MAX)
        .map(|(leaf, position, mended)| Difference {
            offset: leaf.saturating_mul(LEAF_BYTES),
            exit: position.get(),
            mended,
        })
        .collect()
}
