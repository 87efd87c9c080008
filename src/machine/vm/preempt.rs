//! Between two counted exits: what the guest does there without one, and how a guest that computes there is stopped (H1).

use super::{Kick, Resumption, RunError, Timeline, Vm};
use crate::base::limits::POSTED_WRITES_MAX;
use crate::base::units::{GuestPhys, PAGE_SIZE};
use crate::devices::GuestFault;
use crate::machine::kvm::{Exit, PostedWrite, WritePlace};
use crate::machine::outcome::Outcome;

impl Vm {
    /// Starts a stretch between two exits. Only here does the guest see what it posted to its clock: when a posted write
    /// is noticed depends on the host.
    pub(super) fn forget_posted_writes(&mut self) -> Result<(), RunError> {
        let sets_clock = |write: &PostedWrite| matches!(write.place, WritePlace::Memory(_));
        let is_clock_set = self.posted.iter().any(sets_clock);
        self.posted.clear();
        if is_clock_set { self.show_hpet() } else { Ok(()) }
    }

    /// What was posted since the last counted exit is kept for a pre-emption, and no sound driver posts so much.
    pub(super) fn judge_posted_writes(&self) -> Option<Outcome> {
        (self.posted.len() > POSTED_WRITES_MAX).then(|| {
            Outcome::DeviceFault(GuestFault {
                device: "the ports of PIC, PIT, clock, serial line or PCI",
                what: format!("{POSTED_WRITES_MAX} writes to them and nothing else"),
            })
        })
    }

    /// A kick has stopped the guest: the exit that this is, if the point shall be a position.
    pub(super) fn take_kick(&mut self, timeline: &mut dyn Timeline) -> Result<Option<Exit>, RunError> {
        self.totals.kicks += 1;
        match timeline.kicked(self.standing())? {
            Kick::Arrival => self.is_between_exits = false,
            Kick::Noise => self.is_between_exits = true,
            Kick::Disturb(disturbance) => {
                timeline.disturbed(disturbance, self.kvm.disturb(disturbance)?);
                self.is_between_exits = true;
            }
            Kick::Preempt => {
                let addresses = self.kvm.written_pages()?;
                if timeline.is_worth_preempting(self.standing(), addresses.len())? {
                    let done = self.resumption(addresses)?;
                    timeline.preempted(self.standing(), done)?;
                    return Ok(Some(Exit::Preempted));
                }
                self.is_between_exits = true;
            }
        }
        Ok(None)
    }

    /// What the guest did since the last counted exit, with the pages at `addresses`.
    fn resumption(&mut self, addresses: Vec<u64>) -> Result<Resumption, RunError> {
        let memory = self.kvm.memory();
        let mut pages = Vec::new();
        for address in addresses {
            let mut content = Box::new([0; PAGE_SIZE]);
            memory
                .read(GuestPhys(address), &mut *content)
                .map_err(|outside| RunError::Host {
                    what: "reading a page that the guest wrote",
                    source: std::io::Error::other(outside),
                })?;
            pages.push((address, content));
        }
        Ok(Resumption {
            vcpu: self.vcpu.save()?,
            posted: self.posted.clone(),
            pages,
        })
    }

    /// Makes the guest what it was in the end of a stretch that is not executed here.
    pub(super) fn become_resumed(
        &mut self,
        resumption: &Resumption,
        timeline: &mut dyn Timeline,
    ) -> Result<Exit, RunError> {
        self.vcpu.complete_instruction()?;
        for write in &resumption.posted {
            self.post(*write, timeline);
        }
        for (address, content) in &resumption.pages {
            self.kvm
                .memory()
                .write(GuestPhys(*address), &**content)
                .map_err(|outside| RunError::Host {
                    what: "writing a page of the record",
                    source: std::io::Error::other(outside),
                })?;
        }
        self.vcpu.restore(&resumption.vcpu)?;
        Ok(Exit::Preempted)
    }
}
