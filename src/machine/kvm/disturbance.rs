//! What a busy host does to a VM's memory, done on purpose.
//!
//! None of it changes what a byte of RAM is; all of it changes when KVM faults pages in, and which.

use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::{KvmError, KvmVm};

/// Bytes that are paged out or moved at once: a huge page of the host.
const CHUNK_BYTES: u64 = 2 << 20;

/// Something that a host may do to a VM's memory at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// The log of written pages is switched off and on again. What it held is kept.
    RestartPageLog,
    /// The host may put a chunk of RAM into its swap, if it has one.
    PageOut {
        /// Which, counted through RAM again and again.
        chunk: u64,
    },
    /// The host moves a chunk of RAM into one huge page, if it can.
    Move {
        /// Which, counted through RAM again and again.
        chunk: u64,
    },
}

impl KvmVm {
    /// Lets `disturbance` happen to a guest that is at rest. Answers whether the host took part.
    ///
    /// # Errors
    /// When KVM refuses to give or to restart its log.
    pub fn disturb(&self, disturbance: Disturbance) -> Result<bool, KvmError> {
        match disturbance {
            Disturbance::RestartPageLog => self.restart_page_log().map(|()| true),
            Disturbance::PageOut { chunk } => Ok(self.advise_chunk(chunk, MmapAdvise::MADV_PAGEOUT)),
            Disturbance::Move { chunk } => Ok(self.collapse_chunk(chunk)),
        }
    }

    /// What the guest has written so far is kept with what we have.
    fn restart_page_log(&self) -> Result<(), KvmError> {
        let written = self.written_pages()?;
        for region in self.memory().ram().iter() {
            let start = region.start_addr().0;
            let inside = written
                .iter()
                .filter_map(|address| usize::try_from(address.checked_sub(start)?).ok())
                .filter(|offset| *offset < region.size());
            inside.for_each(|offset| (**region).bitmap().mark_dirty(offset, 1));
        }
        self.map(self.memory().ram(), 0, 0)?;
        self.map(self.memory().ram(), 0, kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES)
    }

    /// Host address and length of a chunk of RAM, aligned for the host where RAM is.
    fn chunk(&self, chunk: u64) -> Option<(NonNull<u8>, usize)> {
        let offset = chunk % (self.memory().byte_count() / CHUNK_BYTES).max(1) * CHUNK_BYTES;
        let mut before = 0;
        let region = self.memory().ram().iter().find(|region| {
            let is_here = offset < before + region.len();
            if !is_here {
                before += region.len();
            }
            is_here
        })?;
        let length = CHUNK_BYTES.min(before + region.len() - offset);
        let start = region
            .as_ptr()
            .wrapping_add(usize::try_from(offset - before).ok()?);
        Some((NonNull::new(start)?, usize::try_from(length).ok()?))
    }

    fn advise_chunk(&self, chunk: u64, advice: MmapAdvise) -> bool {
        let Some((start, length)) = self.chunk(chunk) else {
            return false;
        };
        // SAFETY: the range is part of one live anonymous mapping, whose bytes the advice leaves as they are.
        unsafe { madvise(start.cast(), length, advice) }.is_ok()
    }

    fn collapse_chunk(&self, chunk: u64) -> bool {
        let Some((start, length)) = self.chunk(chunk) else {
            return false;
        };
        // SAFETY: as in `advise_chunk`; `nix` does not know this advice yet.
        unsafe { libc::madvise(start.as_ptr().cast(), length, libc::MADV_COLLAPSE) == 0 }
    }
}
