//! A replay that executes nothing: it becomes what the log's checkpoints say (H4).
//!
//! ```text
//!   following ── Checkpoints ─▶ rests ── pieces, the last one ─▶ becomes, rests ── Replays ─▶ following
//!                                 └── nothing more will come: what is not whole is dropped, and it stands where it is
//! ```

use antipode_disk_sync::online::Slice;

use super::{Replayer, unreadable};
use crate::base::units::ExitOrdinal;
use crate::machine::{EpochDigests, Standing, TimelineError};
use crate::replay::catalogue::{Entry, OutputKind};
use crate::replay::feed::LogSource;
use crate::replay::repair::{CHECKPOINT, Repair, Staging};

/// What a copy that rests has waited for.
#[derive(Debug)]
pub enum Awaited {
    /// A checkpoint, whole, of that exit.
    Checkpoint(ExitOrdinal, Box<Repair>),
    /// The slice of the disk is to be compared as it is at the last checkpoint.
    Slice(Slice),
    /// It follows again, from where it is.
    Replays,
    /// Nothing more will come. It stands where it is.
    Nothing,
    /// The guest has ended at that exit; and the name of the outcome.
    Ended(ExitOrdinal, String),
}

impl<S: LogSource> Replayer<S> {
    /// Whether the log has it execute nothing more from the exit of `standing` on.
    pub(super) fn begins_to_rest(&mut self, standing: Standing) -> Result<bool, TimelineError> {
        if !matches!(self.entry_here(standing)?, Some(Entry::Checkpoints { .. })) {
            return Ok(false);
        }
        if let Some((
            _,
            Entry::Checkpoints {
                digests,
                flushes_wait,
            },
        )) = self.entries.pop_front()
        {
            self.rested = Some(digests);
            (self.rests, self.flushes_wait) = (true, flushes_wait);
            self.rests_at = standing.exit;
        }
        self.say_that_all_is_executed()?;
        Ok(true)
    }

    /// What the machine was where it was to rest, if it is held for that.
    pub(in crate::replay) fn take_rested(&mut self) -> Option<Box<EpochDigests>> {
        self.rested.take()
    }

    /// Whether it executes nothing.
    pub(in crate::replay) const fn rests(&self) -> bool {
        self.rests
    }

    /// Whether no flush of the guest ends before the checkpoint behind it is durable here.
    pub(in crate::replay) const fn flushes_wait(&self) -> bool {
        self.flushes_wait
    }

    /// Waits for the next checkpoint, or for the end of them. Each output on the way is told to `left_out`.
    ///
    /// # Errors
    /// When the operator stops the VM; or what comes is none.
    pub(in crate::replay) fn await_checkpoint(
        &mut self,
        left_out: &mut dyn FnMut(ExitOrdinal, OutputKind, u64),
    ) -> Result<Awaited, TimelineError> {
        loop {
            while let Some((exit, entry)) = self.entries.pop_front() {
                match entry {
                    Entry::Output { kind, digest } => left_out(exit, kind, digest),
                    Entry::Repair(piece) => {
                        let whole = self.staging.take(piece).map_err(unreadable)?;
                        if let Some(repair) = whole.filter(|repair| repair.number == CHECKPOINT) {
                            self.go_on_from(exit);
                            self.say_that_all_is_executed()?;
                            return Ok(Awaited::Checkpoint(exit, Box::new(repair)));
                        }
                    }
                    Entry::Verify(slice) => return Ok(Awaited::Slice(slice)),
                    Entry::Replays => {
                        self.rests = false;
                        return Ok(Awaited::Replays);
                    }
                    _ => {}
                }
            }
            if let Some(end) = &self.end {
                return Ok(Awaited::Ended(self.through, end.outcome.clone()));
            }
            if !self.read_some()? {
                // What has come of the next one is nobody's, and what was executed on the way to it.
                self.staging = Staging::default();
                self.go_on_from(self.rests_at);
                return Ok(Awaited::Nothing);
            }
        }
    }
}
