//! Copying a machine's RAM while it runs (P6): what it was, and then what it wrote meanwhile, until little is left.
//!
//! ```text
//!   begin_copy ─▶ copy_pages of all RAM ─▶ take_written ─▶ copy_pages ─▶ take_written ─▶ … held: the rest, and `save`
//! ```
//!
//! Each page is digested as it is copied, so that both machines know a digest of all RAM when the last page is there, and
//! go on with it from epoch to epoch (R3).

use super::ram_digest::{RamDigest, RamSums};
use super::{RunError, Vm};
use crate::base::guest_memory::GuestMemory;
use crate::base::units::{GuestPhys, PAGE_BYTES, PAGE_SIZE};

/// A page and its guest physical address.
pub type CopiedPage = (u64, Box<[u8; PAGE_SIZE]>);

impl Vm {
    /// Begins a copy of RAM: from here on it is known what is written.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(in crate::machine) fn begin_copy(&mut self) -> Result<(), RunError> {
        self.kvm.forget_written_pages()?;
        self.ram_digest = RamDigest::default();
        Ok(())
    }

    /// Two machines go on from here: what was written to the disk is digested from here on.
    pub(in crate::machine) fn begin_lockstep(&mut self) {
        self.disk_writes = 0;
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

    /// The pages at `addresses` as they are now. Those of zeros are left out that were never copied: they are zeros on the
    /// other side too.
    ///
    /// # Errors
    /// When a page is none of RAM's.
    pub(in crate::machine) fn copy_pages(&mut self, addresses: &[u64]) -> Result<Vec<CopiedPage>, RunError> {
        let mut pages = Vec::with_capacity(addresses.len());
        for address in addresses {
            let mut content = Box::new([0; PAGE_SIZE]);
            let read = self.kvm.memory().read(GuestPhys(*address), &mut *content);
            read.map_err(|outside| RunError::Host {
                what: "reading a page to copy it",
                source: std::io::Error::other(outside),
            })?;
            let is_zero = content.iter().all(|byte| *byte == 0);
            if !is_zero || self.ram_digest.knows(*address) {
                self.ram_digest.set(*address, &content);
                pages.push((*address, content));
            }
        }
        Ok(pages)
    }

    /// The digest of all pages copied or written in a finished epoch.
    pub(in crate::machine) fn ram_sums(&self) -> RamSums {
        self.ram_digest.sums()
    }

    /// Takes over `digest`, which was kept while RAM was filled. What is written from here on is known.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(in crate::machine) fn adopt(&mut self, digest: RamDigest) -> Result<(), RunError> {
        self.begin_copy()?;
        self.ram_digest = digest;
        Ok(())
    }
}

/// Addresses of all pages of RAM, ascending.
pub fn all_pages(memory: &GuestMemory) -> impl Iterator<Item = u64> + use<> {
    GuestMemory::ranges(memory.byte_count())
        .into_iter()
        .flat_map(|(start, length)| (start..start + length).step_by(PAGE_SIZE))
        .map(|address| address / PAGE_BYTES * PAGE_BYTES)
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
    pub fn place(
        &mut self,
        address: u64,
        content: &[u8; PAGE_SIZE],
    ) -> Result<(), crate::base::guest_memory::OutsideRam> {
        self.memory.write(GuestPhys(address), content)?;
        self.digest.set(address, content);
        Ok(())
    }

    /// The digest of what it holds.
    #[must_use]
    pub fn sums(&self) -> RamSums {
        self.digest.sums()
    }

    /// All is there.
    #[must_use]
    pub fn finish(self) -> RamDigest {
        self.digest
    }
}
