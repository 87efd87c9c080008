//! Where both copies stand at one position, so that their roles may turn round (P7).

use super::repairing::{differs, digests_of};
use super::{Course, Thread};
use crate::machine::RunError;
use crate::machine::launch::LaunchError;
use crate::replay::differences;
use crate::site::guest::orders::{FromVcpu, Order};

impl Thread {
    /// Waits until it is said how to go on.
    pub(super) fn stand_still(mut self) -> Result<Self, LaunchError> {
        loop {
            match self.ways.orders.recv() {
                Ok(
                    order @ (Order::Lead { .. }
                    | Order::GoAlone
                    | Order::Follow { .. }
                    | Order::GoOn
                    | Order::End),
                ) => return self.carry_out(order),
                Ok(Order::Adopt { digest }) => self.vm.adopt(*digest)?,
                // It stands still already.
                Ok(
                    Order::BeginCopy { .. }
                    | Order::TakeWritten { .. }
                    | Order::Rest { .. }
                    | Order::StandStill
                    | Order::Verify { .. }
                    | Order::Repair { .. }
                    | Order::Checkpoint(_)
                    | Order::BeRepaired
                    | Order::Stun { .. },
                ) => {}
                Err(_) => return Ok(self),
            }
        }
    }

    /// What a VM is that leads goes into its log where it is held, and its disk does all that it was asked for. False if
    /// it does not lead.
    pub(super) fn stand(&mut self) -> Result<bool, LaunchError> {
        let position = self.vm.totals().exit_count;
        let Course::Leading(recorder) = &mut self.course else {
            return Ok(false);
        };
        let digests = digests_of(&mut self.vm)?;
        recorder.stand(position, digests).map_err(RunError::from)?;
        self.settle_disk("making the disk durable where the guest stands still")?;
        let _ = self.ways.reports.send(FromVcpu::Stands { position });
        Ok(true)
    }

    /// Whether the VM is held because the log says that the other copy stands here. It is the same machine then.
    pub(super) fn stands_with_the_other(&mut self) -> Result<bool, LaunchError> {
        let Course::Following(standby) = &mut self.course else {
            return Ok(false);
        };
        let Some(there) = standby.take_stood() else {
            return Ok(false);
        };
        let position = self.vm.totals().exit_count;
        let here = digests_of(&mut self.vm)?;
        if let Some(what) = differences(&there, &here) {
            return Err(differs(position, &format!("where both stand still, {what}")));
        }
        let _ = self.ways.reports.send(FromVcpu::Stands { position });
        Ok(true)
    }
}
