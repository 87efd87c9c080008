//! Where a replay waits for this host's own disk, and where it is held because the log says so (P7, D5).

use antipode_disk_sync::online::Slice;

use super::Replayer;
use crate::devices::{DiskCompletion, DiskOutcome, DiskRequestId, Input};
use crate::machine::{Arrival, EpochDigests, Standing, TimelineError};
use crate::replay::catalogue::Entry;
use crate::replay::feed::{Feed, LogSource};

impl<S: LogSource> Replayer<S> {
    /// What the machine was where the log has it stand, if it is held for that.
    pub(in crate::replay) fn take_stood(&mut self) -> Option<Box<EpochDigests>> {
        self.stood.take()
    }

    /// The slice of the disk that is to be compared as it is where the VM is held, if that is why.
    pub(in crate::replay) fn take_slice(&mut self) -> Option<Slice> {
        self.slice.take()
    }

    /// Whether the log has the VM held at the exit of `standing`: it stands there, or its disk is to be watched from there.
    pub(super) fn is_held_here(&mut self, standing: Standing) -> Result<bool, TimelineError> {
        if let Some(Entry::Verify(slice)) = self.entry_here(standing)? {
            self.slice = Some(*slice);
            self.entries.pop_front();
            return Ok(true);
        }
        if self.begins_to_rest(standing)? {
            return Ok(true);
        }
        if !matches!(self.entry_here(standing)?, Some(Entry::Stand(_))) {
            return Ok(false);
        }
        if let Some((_, Entry::Stand(digests))) = self.entries.pop_front() {
            self.stood = Some(digests);
        }
        self.say_that_all_is_executed()?;
        Ok(true)
    }

    /// What the log told last is the last of its batch, and who asks for more has executed all before.
    pub(super) fn say_that_all_is_executed(&mut self) -> Result<(), TimelineError> {
        if self.entries.is_empty()
            && self.cut_off.is_none()
            && let Feed::Batch(next) = self.log.next()?
        {
            self.cut_off = Some(*next);
        }
        Ok(())
    }

    /// Waits for our own disk requests `ids`.
    ///
    /// # Errors
    /// When one has failed.
    pub fn await_writes(&mut self, ids: &[DiskRequestId]) -> std::io::Result<()> {
        for id in ids {
            loop {
                self.look_into_inbox();
                match self.disk_done.get(id) {
                    Some(DiskOutcome::Failed) => {
                        return Err(std::io::Error::other("a write of the guest has failed"));
                    }
                    Some(_) => break,
                    None => self.kicker.park(None),
                }
            }
        }
        Ok(())
    }

    /// Waits for our own request `id`, which the record says has ended.
    pub(super) fn disk_completion(
        &mut self,
        standing: Standing,
        id: DiskRequestId,
        is_done: bool,
    ) -> Result<Option<Arrival>, TimelineError> {
        let outcome = loop {
            self.look_into_inbox();
            if self.is_stopped {
                return Ok(Some(Arrival::Stop));
            }
            if let Some(outcome) = self.disk_done.remove(&id) {
                break outcome;
            }
            self.kicker.park(None);
        };
        let outcome = match (is_done, outcome) {
            // The guest saw an error then, so it sees one now (R4).
            (false, _) => DiskOutcome::Failed,
            (true, DiskOutcome::Failed) => {
                return Err(TimelineError::Disk {
                    exit: standing.exit,
                    request: id.0,
                });
            }
            (true, outcome) => outcome,
        };
        Ok(Some(Arrival::Device(Input::Disk(DiskCompletion { id, outcome }))))
    }
}
