//! The replica of a copy that differs, while that is repaired (H2).

use antipode_disk_sync::LeafSet;
use antipode_disk_sync::online::{Live, LiveError};

use super::disk::Disk;

impl Disk {
    /// What wrote to it was not the machine that it is of; none of a disk that is no replica.
    ///
    /// # Errors
    /// [`LiveError`].
    pub fn begin_repair(&self) -> Option<Result<LeafSet, LiveError>> {
        self.live().map(Live::begin_repair)
    }

    /// It is that machine's again, durably, with its marks of then.
    ///
    /// # Errors
    /// [`LiveError`].
    pub fn end_repair(&self, marks: LeafSet) -> Result<(), LiveError> {
        self.live().map_or(Ok(()), |live| live.end_repair(marks))
    }
}
