//! A replay that has found another machine waits for what makes it the same again (H2).

use super::{Replayer, ToldPages, unreadable};
use crate::base::units::ExitOrdinal;
use crate::machine::TimelineError;
use crate::replay::catalogue::{Entry, OutputKind};
use crate::replay::checks::Rolling;
use crate::replay::feed::{Feed, LogSource};
use crate::replay::repair::{Repair, Staging};

impl<S: LogSource> Replayer<S> {
    /// Leaves out all that the log tells until there is a whole repair of that number; answers with it, and where it is of.
    /// From there on the log is followed again. Each output that is left out, which nobody has made here, is told to
    /// `left_out`: where, and its digest.
    ///
    /// # Errors
    /// When the log ends before, or the operator stops the VM; or what comes is no repair.
    pub(in crate::replay) fn await_repair(
        &mut self,
        number: u64,
        left_out: &mut dyn FnMut(ExitOrdinal, OutputKind, u64),
    ) -> Result<(ExitOrdinal, Repair), TimelineError> {
        (self.stood, self.slice, self.hold_at, self.rested) = (None, None, None, None);
        let mut staging = Staging::default();
        // What was read already lies before the repair was asked for.
        let mut passed = std::mem::take(&mut self.entries);
        loop {
            for (exit, entry) in passed {
                match entry {
                    Entry::Output { kind, digest } => left_out(exit, kind, digest),
                    Entry::Checkpoints { flushes_wait, .. } => {
                        (self.rests, self.flushes_wait) = (true, flushes_wait)
                    }
                    Entry::Replays => self.rests = false,
                    Entry::Repair(piece) => {
                        let whole = staging.take(piece).map_err(unreadable)?;
                        if let Some(repair) = whole.filter(|repair| repair.number == number) {
                            self.go_on_from(exit);
                            return Ok((exit, repair));
                        }
                    }
                    _ => {}
                }
            }
            if self.end.is_some() || !self.read_some()? {
                return Err(TimelineError::Ended(self.through));
            }
            passed = std::mem::take(&mut self.entries);
        }
    }

    /// Reads the next batch. False where no more will come.
    pub(super) fn read_some(&mut self) -> Result<bool, TimelineError> {
        while self.cut_off.is_none() {
            self.look_into_inbox();
            // Asked first: what has come by then is still looked at.
            let is_given_up = self.log.is_given_up();
            match self.log.next()? {
                Feed::Batch(batch) => self.cut_off = Some(*batch),
                Feed::Waiting if self.is_stopped => return Err(TimelineError::Stopped),
                Feed::Waiting if !is_given_up => self.kicker.park(None),
                Feed::Waiting | Feed::Ended => return Ok(false),
            }
        }
        self.read_batch()
    }

    /// It is the machine of exit `at`, and the repair was the last of its batch.
    pub(super) fn go_on_from(&mut self, at: ExitOrdinal) {
        self.rolling = Rolling::default();
        self.told_pages = ToldPages::default();
        self.checks.clear();
        self.checks_from = at.get() + 1;
        (self.through, self.rests_at) = (at, at);
    }

    /// What our own disk requests came to that the other machine made is nobody's.
    pub(in crate::replay) fn forget_disk(&mut self) {
        self.look_into_inbox();
        self.disk_done.clear();
    }
}
