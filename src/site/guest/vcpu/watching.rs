//! Where both copies begin to watch their disks, at one position of the log (D5).

use antipode_disk_sync::online::Slice;

use super::{Course, Thread};
use crate::machine::launch::LaunchError;
use crate::machine::workers::Round;
use crate::site::guest::orders::FromVcpu;

impl Thread {
    /// A VM that leads puts it into its log where it is held that `slice` is compared as it is here. A copy that executes nothing is
    /// brought here first.
    pub(super) fn verify(&mut self, slice: Slice) -> Result<(), LaunchError> {
        self.bring_the_other_here()?;
        let at = self.vm.totals().exit_count;
        if let Course::Leading(recorder) = &mut self.course {
            recorder.verify(at, slice);
            self.watch(Round { at, slice });
        }
        Ok(())
    }

    /// Watches what the log says, if that is why the VM is held.
    pub(super) fn verify_with_the_other(&mut self) {
        let at = self.vm.totals().exit_count;
        if let Course::Following(standby) = &mut self.course
            && let Some(slice) = standby.take_slice()
        {
            self.watch(Round { at, slice });
        }
    }

    /// The guest is between two exits: it has handed in all that it asks for by then, and asks for no more meanwhile.
    pub(super) fn watch(&self, round: Round) {
        if let Some(disk) = self.vm.disk() {
            disk.watch(round);
        }
        let _ = self.ways.reports.send(FromVcpu::Watches(round));
    }
}
