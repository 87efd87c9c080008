//! Copying a machine's RAM while it runs (P6): what it was, and then what it wrote meanwhile, until little is left.
//!
//! ```text
//!   begin_copy ─▶ all pages ─▶ take_written ─▶ those ─▶ take_written ─▶ … held: what was written last, and `save`
//! ```
//!
//! Pages are read by another thread while the guest runs ([`RamCopy`]): one that is written meanwhile is among those that
//! [`Vm::take_written`] tells of next, so it is read again, the last time while the machine is held. Each page is digested
//! as it is copied, so that both machines know a digest of all RAM when the last page is there, and go on with it from
//! epoch to epoch (R3).

use super::ram_digest::RamDigest;
use super::{RunError, Vm};
use crate::base::guest_memory::{GuestMemory, OutsideRam, RamReader};
use crate::base::units::{GuestPhys, PAGE_SIZE};

/// A page and its guest physical address.
pub type CopiedPage = (u64, Box<[u8; PAGE_SIZE]>);

impl Vm {
    /// Begins a copy of RAM: from here on it is known what is written.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(in crate::machine) fn begin_copy(&mut self) -> Result<RamCopy, RunError> {
        self.kvm.forget_written_pages()?;
        Ok(RamCopy::of(self.kvm.memory().reader()))
    }

    /// Two machines go on from here, equal: what was written to the disk is digested from here on, and what was written at
    /// all is remembered.
    pub(in crate::machine) fn begin_lockstep(&mut self) {
        self.disk_writes = 0;
        self.history.begin(self.totals.exit_count);
    }

    /// Addresses of the pages written since the copy began or this was last asked, by whomever.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(in crate::machine) fn take_written(&mut self) -> Result<Vec<u64>, RunError> {
        let pages = self.kvm.changed_pages()?;
        self.kvm.forget_written_pages()?;
        Ok(pages)
    }

    /// Takes over `digest`, which was kept while RAM was copied or filled. What is written from here on is known.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(in crate::machine) fn adopt(&mut self, digest: RamDigest) -> Result<(), RunError> {
        self.kvm.forget_written_pages()?;
        self.ram_digest = digest;
        Ok(())
    }
}

/// RAM that is being copied.
#[derive(Debug)]
pub struct RamCopy {
    ram: RamReader,
    digest: RamDigest,
}

impl RamCopy {
    /// Of what `ram` reads; the other side is zeros.
    #[must_use]
    pub fn of(ram: RamReader) -> Self {
        Self {
            ram,
            digest: RamDigest::default(),
        }
    }

    /// Addresses of all pages, ascending.
    pub fn addresses(&self) -> impl Iterator<Item = u64> + use<> {
        GuestMemory::ranges(self.ram.byte_count())
            .into_iter()
            .flat_map(|(start, length)| (start..start + length).step_by(PAGE_SIZE))
    }

    /// The page at `address` as it is now. None if it is zeros and was never copied: it is zeros on the other side too.
    ///
    /// # Errors
    /// When there is no such page.
    pub fn take(&mut self, address: u64) -> Result<Option<CopiedPage>, OutsideRam> {
        let mut content = Box::new([0; PAGE_SIZE]);
        self.ram.read(GuestPhys(address), &mut *content)?;
        let is_of_use = self.digest.set(address, &content);
        Ok(is_of_use.then_some((address, content)))
    }

    /// Nothing is left to be copied: the digest of all of it.
    #[must_use]
    pub fn finish(self) -> RamDigest {
        self.digest
    }
}

/// RAM that is being filled with what another machine holds.
#[derive(Debug)]
pub struct Filling<'a> {
    memory: &'a GuestMemory,
    digest: RamDigest,
}

impl<'a> Filling<'a> {
    /// Of `memory`, which is zeros.
    #[must_use]
    pub fn of(memory: &'a GuestMemory) -> Self {
        Self {
            memory,
            digest: RamDigest::default(),
        }
    }

    /// Puts a page in its place.
    ///
    /// # Errors
    /// When there is no such page.
    pub fn place(&mut self, address: u64, content: &[u8; PAGE_SIZE]) -> Result<(), OutsideRam> {
        self.memory.write(GuestPhys(address), content)?;
        self.digest.set(address, content);
        Ok(())
    }

    /// All is there: the digest of it.
    #[must_use]
    pub fn finish(self) -> RamDigest {
        self.digest
    }
}
