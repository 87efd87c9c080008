//! A copy that has become another machine is made the same again, at one position (H2).
//!
//! ```text
//!   the copy that follows: held where that shows ── touched ─▶ what it may have written since both were the same
//!   the one that leads: held at a counted exit ── capture ─▶ all that either of them may have written, as it is there
//!   the copy that follows ── be_repaired ─▶ as it is there; whoever has both digests compares them
//! ```

use std::collections::BTreeSet;

use antipode_disk_sync::units::LEAF_BYTES;

use super::copy::CopiedPage;
use super::{RestoreError, RunError, Vm};
use crate::base::limits::{REPAIR_BYTES_MAX, REPAIR_CODE_BYTES};
use crate::base::parts::Parts;
use crate::base::units::{ExitOrdinal, GuestPhys, PAGE_BYTES, PAGE_SIZE};
use crate::machine::paging::read_virtual;

/// What a machine may have written since a position at which both copies were the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// That position.
    pub since: ExitOrdinal,
    /// Pages, by address.
    pub pages: BTreeSet<u64>,
    /// Leaves of the disk, by number.
    pub leaves: BTreeSet<u64>,
}

/// What the guest was about where it is held, for whoever wants to know why it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeAround {
    /// The guest's instructions that end where it stands.
    pub before: Vec<u8>,
    /// It is in user mode.
    pub is_user: bool,
}

/// All that makes one copy the other again, but for the disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Capture {
    /// Everything besides RAM.
    pub parts: Parts,
    /// Digest of what was written to the disk since lockstep began.
    pub disk_writes: u64,
    /// Pages.
    pub pages: Vec<CopiedPage>,
}

/// Why there is nothing to repair a copy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoCapture {
    /// Nobody remembers what was written since then.
    #[error("it is not known any more what was written since exit {0}")]
    TooLongAgo(ExitOrdinal),
    /// It is cheaper to begin anew.
    #[error("{0} bytes may differ, and a repair carries {REPAIR_BYTES_MAX} at the most")]
    TooMuch(u64),
    /// The copy names a page that there is not.
    #[error("it names the page at {0:#x}, where this VM has no RAM")]
    NoSuchPage(u64),
}

impl Touched {
    /// Takes in what another one tells.
    pub fn unite(&mut self, other: &Self) {
        self.pages.extend(&other.pages);
        self.leaves.extend(&other.leaves);
    }

    /// Bytes that it takes to carry it, before compression.
    #[must_use]
    pub fn byte_count(&self) -> u64 {
        let count = |set: &BTreeSet<u64>| u64::try_from(set.len()).unwrap_or(u64::MAX);
        let leaves = count(&self.leaves).saturating_mul(LEAF_BYTES);
        count(&self.pages)
            .saturating_mul(PAGE_BYTES)
            .saturating_add(leaves)
    }
}

impl Vm {
    /// What it may have written since both copies were last found to be the same, where it is held or has been found to
    /// differ. None if there is no other copy.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(in crate::machine) fn touched(&mut self) -> Result<Option<Touched>, RunError> {
        let Some(since) = self.history.last() else {
            return Ok(None);
        };
        self.touched_since(since)
    }

    /// The same, since an epoch began at `since`. None if that is not remembered.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(in crate::machine) fn touched_since(
        &mut self,
        since: ExitOrdinal,
    ) -> Result<Option<Touched>, RunError> {
        // It may write.
        self.vcpu.complete_instruction()?;
        let Some((mut pages, leaves)) = self.history.since(since) else {
            return Ok(None);
        };
        pages.extend(self.kvm.changed_pages()?);
        Ok(Some(Touched {
            since,
            pages: pages.into_iter().collect(),
            leaves: leaves.into_iter().collect(),
        }))
    }

    /// The guest's instructions before the place where it is.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(in crate::machine) fn code_around(&mut self) -> Result<CodeAround, RunError> {
        let system = self.vcpu.system_registers()?;
        let rip = self.vcpu.registers()?.rip;
        let mut before = vec![0; REPAIR_CODE_BYTES];
        let from = rip.saturating_sub(REPAIR_CODE_BYTES as u64);
        let read = read_virtual(self.kvm.memory(), system.cr3, from, &mut before);
        if read < before.len() {
            // What comes before may not be mapped; this page is.
            before.truncate(
                usize::try_from(rip % PAGE_BYTES)
                    .unwrap_or(0)
                    .min(REPAIR_CODE_BYTES),
            );
            let from = rip.saturating_sub(before.len() as u64);
            let read = read_virtual(self.kvm.memory(), system.cr3, from, &mut before);
            before.truncate(read);
        }
        Ok(CodeAround {
            before,
            is_user: !self.is_kernel_mode()?,
        })
    }

    /// What it is where it is held, with the pages at `addresses`.
    ///
    /// # Errors
    /// When KVM refuses. Within: a page that there is not.
    pub(in crate::machine) fn capture(
        &mut self,
        addresses: &BTreeSet<u64>,
    ) -> Result<Result<Capture, NoCapture>, RunError> {
        let parts = self.save()?;
        let mut pages = Vec::with_capacity(addresses.len());
        for address in addresses {
            let mut content = Box::new([0; PAGE_SIZE]);
            let is_page = address % PAGE_BYTES == 0;
            let read = self.kvm.memory().read(GuestPhys(*address), &mut *content);
            if !is_page || read.is_err() {
                return Ok(Err(NoCapture::NoSuchPage(*address)));
            }
            pages.push((*address, content));
        }
        Ok(Ok(Capture {
            parts,
            disk_writes: self.disk_writes,
            pages,
        }))
    }

    /// Becomes what was captured. Its disk has done all that it was asked for, and nobody waits for what that came to.
    ///
    /// # Errors
    /// [`RestoreError`]; the VM is of no use then.
    pub(in crate::machine) fn be_repaired(&mut self, capture: &Capture) -> Result<(), RestoreError> {
        self.vcpu.complete_instruction()?;
        self.vcpu.take_next_exit();
        drop(self.board.take_effects());
        self.posted.clear();
        (self.is_between_exits, self.is_at_exit) = (false, true);
        for (address, content) in &capture.pages {
            let written = self.kvm.memory().write(GuestPhys(*address), &**content);
            written.map_err(|_| RestoreError::NoSuchPage(*address))?;
        }
        self.restore(capture.parts.clone())?;
        self.disk_writes = capture.disk_writes;
        Ok(())
    }
}
