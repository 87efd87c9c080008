//! A copy that executes nothing and becomes, now and then, what the other one is (H4): on the side that leads, and on its own.

use std::collections::BTreeSet;

use super::repairing::{differs, digests_of, disk_failed};
use super::{Course, Thread};
use crate::base::units::ExitOrdinal;
use crate::machine::launch::LaunchError;
use crate::machine::workers::Round;
use crate::machine::{Outcome, RunError, TimelineError, Touched};
use crate::protocol::mode::Step;
use crate::replay::{Awaited, CHECKPOINT, OutputKind, Repair, differences};
use crate::site::guest::orders::FromVcpu;

impl Thread {
    /// A VM that leads puts into its log where it is held what `step` says.
    pub(super) fn checkpoint(&mut self, step: Step) -> Result<(), LaunchError> {
        let position = self.vm.totals().exit_count;
        if !matches!(self.course, Course::Leading(_)) {
            return Ok(());
        }
        let outcome = match step {
            Step::Begin => self.begin_checkpoints(position).map(|()| Ok(0))?,
            Step::Take => self.take_checkpoint(position)?,
            Step::End => {
                let taken = self.take_checkpoint(position)?;
                if let (Ok(_), Course::Leading(recorder)) = (&taken, &mut self.course) {
                    recorder.end_checkpoints(position).map_err(RunError::from)?;
                }
                taken
            }
        };
        let outcome = outcome.map(|byte_count| (position, byte_count));
        let _ = self.ways.reports.send(FromVcpu::Checkpointed { step, outcome });
        Ok(())
    }

    fn begin_checkpoints(&mut self, position: ExitOrdinal) -> Result<(), LaunchError> {
        let digests = digests_of(&mut self.vm)?;
        if let Course::Leading(recorder) = &mut self.course {
            let begun = recorder.begin_checkpoints(position, digests);
            begun.map_err(RunError::from)?;
        }
        self.checkpointed_at = position;
        Ok(())
    }

    /// All that was written since the last one. The copy has written nothing.
    fn take_checkpoint(&mut self, position: ExitOrdinal) -> Result<Result<u64, String>, LaunchError> {
        let theirs = Touched {
            since: self.checkpointed_at,
            pages: BTreeSet::new(),
            leaves: BTreeSet::new(),
        };
        let checkpoint = match self.capture(CHECKPOINT, &theirs)? {
            Ok(checkpoint) => checkpoint,
            Err(why) => return Ok(Err(why)),
        };
        if let Course::Leading(recorder) = &mut self.course {
            recorder.repair(position, &checkpoint).map_err(RunError::from)?;
        }
        self.checkpointed_at = position;
        Ok(Ok(checkpoint.byte_count()))
    }

    /// A copy that executes nothing becomes what the VM that leads is where it is held, by a checkpoint that nobody waits for.
    pub(super) fn bring_the_other_here(&mut self) -> Result<(), LaunchError> {
        let Course::Leading(recorder) = &self.course else {
            return Ok(());
        };
        if !recorder.rests_on_checkpoints() {
            return Ok(());
        }
        let position = self.vm.totals().exit_count;
        if let Err(why) = self.take_checkpoint(position)? {
            tracing::error!("the other site's copy cannot become what this one is at {position}: {why}");
        }
        Ok(())
    }

    /// If the log has this copy execute nothing, it becomes what the checkpoints say until it follows again, or nothing more will
    /// come. Answers how its guest has ended, if it has.
    pub(super) fn rest_with_the_other(&mut self) -> Result<Option<Outcome>, LaunchError> {
        self.begin_to_rest()?;
        if matches!(&self.course, Course::Following(standby) if standby.rests()) {
            // Before it asks for more: what it is handed from here on it has not executed.
            self.tell_that_it_rests();
        }
        loop {
            let Course::Following(standby) = &mut self.course else {
                return Ok(None);
            };
            if !standby.rests() {
                return Ok(None);
            }
            let is_marked = !standby.flushes_wait();
            let vm = &mut self.vm;
            let awaited = standby.await_checkpoint(&mut |exit, kind, digest| {
                if kind == OutputKind::Frame {
                    vm.left_out(exit, digest);
                }
            });
            match awaited {
                Ok(Awaited::Checkpoint(position, checkpoint)) => {
                    self.become_checkpoint(position, &checkpoint, is_marked)?;
                    self.tell_that_it_rests();
                }
                Ok(Awaited::Slice(slice)) => {
                    let at = self.vm.totals().exit_count;
                    self.watch(Round { at, slice });
                }
                Ok(Awaited::Replays) => {
                    let _ = self.ways.reports.send(FromVcpu::Follows);
                }
                Ok(Awaited::Nothing) => {
                    self.tell_that_it_rests();
                    return Ok(None);
                }
                Ok(Awaited::Ended(through, outcome)) => {
                    let position = self.vm.totals().exit_count;
                    if position != through {
                        return Err(differs(position, "its guest has ended since the last checkpoint"));
                    }
                    return Ok(Some(Outcome::of_the_other(&outcome)));
                }
                // It is told so again when it runs.
                Err(TimelineError::Stopped) => return Ok(None),
                Err(error) => return Err(RunError::from(error).into()),
            }
        }
    }

    /// While leaves of its disk are written, in no order of the guest's, the replica is nobody's if it `is_marked`. Where no flush
    /// ends before they are durable, any part of them is what a power cut of the guest's own host could leave (P8).
    fn become_checkpoint(
        &mut self,
        position: ExitOrdinal,
        checkpoint: &Repair,
        is_marked: bool,
    ) -> Result<(), LaunchError> {
        let disk = self
            .vm
            .disk()
            .filter(|_| is_marked && !checkpoint.leaves.is_empty());
        let marks = disk.as_ref().and_then(|disk| disk.begin_repair()).transpose();
        let marks = marks.map_err(|error| error.to_string());
        let marks = marks.map_err(disk_failed("marking the disk before a checkpoint"))?;
        self.become_the_same(position, checkpoint)?;
        if let (Some(disk), Some(marks)) = (disk, marks) {
            let cleared = disk.end_repair(marks).map_err(|error| error.to_string());
            cleared.map_err(disk_failed("clearing the disk's mark behind a checkpoint"))?;
        }
        Ok(())
    }

    /// Checkpoints begin from a copy that is the same.
    fn begin_to_rest(&mut self) -> Result<(), LaunchError> {
        let Course::Following(standby) = &mut self.course else {
            return Ok(());
        };
        let Some(there) = standby.take_rested() else {
            return Ok(());
        };
        let position = self.vm.totals().exit_count;
        let here = digests_of(&mut self.vm)?;
        if let Some(what) = differences(&there, &here) {
            let what = format!("where checkpoints begin, {what}");
            return self.be_repaired(position, &what, Some(&there.differing(&here)));
        }
        Ok(())
    }

    fn tell_that_it_rests(&self) {
        let position = self.vm.totals().exit_count;
        let _ = self.ways.reports.send(FromVcpu::Rests { position });
    }
}
