//! Where a replayer's batches come from: a file that has all of them, or a channel that brings them.

use super::batch::Batch;
use crate::base::units::ExitOrdinal;
use crate::machine::TimelineError;

/// What a source has next.
#[derive(Debug)]
pub enum Feed {
    /// The next batch.
    Batch(Box<Batch>),
    /// Nothing yet; whoever brings more wakes the vCPU's thread.
    Waiting,
    /// Nothing, and nothing will come.
    Ended,
}

/// Where batches come from.
pub trait LogSource: std::fmt::Debug {
    /// The position that the first batch goes on from.
    fn begins_at(&self) -> ExitOrdinal;

    /// What comes next.
    ///
    /// # Errors
    /// When it cannot be read.
    fn next(&mut self) -> Result<Feed, TimelineError>;

    /// Whether no repair is to be waited for that has not come by now (H2).
    fn is_given_up(&self) -> bool;
}
