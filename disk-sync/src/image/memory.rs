//! An image in memory for tests: it forgets what was not flushed, and fails where it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use super::Image;
use crate::units::{ImageLength, LEAF_BYTES, in_memory};

#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Leaves that cannot be read.
    pub(crate) unreadable: BTreeSet<u64>,
    /// Writes that succeed before the disk is full.
    pub(crate) writes_left: Option<u64>,
    /// Whether flushes fail. What was to be made durable then stays in memory, and no later flush writes it.
    pub(crate) flush_fails: bool,
    /// Whether flushes make nothing durable and say that they did.
    pub(crate) flush_lies: bool,
    /// Leaves that cannot be read once they were read so many times.
    pub(crate) unreadable_after: BTreeMap<u64, u32>,
    /// Bytes after which reads come back short.
    pub(crate) ends_at: Option<u64>,
}

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Leaves that were written to since the last flush.
    dirty: BTreeSet<u64>,
    faults: Faults,
    bytes_read: u64,
}

#[derive(Debug)]
pub(crate) struct MemoryImage {
    length: ImageLength,
    state: Mutex<State>,
}

impl MemoryImage {
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self {
            length: ImageLength::new(bytes.len() as u64).unwrap(),
            state: Mutex::new(State {
                durable: bytes.clone(),
                bytes,
                dirty: BTreeSet::new(),
                faults: Faults::default(),
                bytes_read: 0,
            }),
        }
    }

    fn range_of(&self, leaf: u64) -> Range<usize> {
        in_memory(leaf * LEAF_BYTES)..in_memory(((leaf + 1) * LEAF_BYTES).min(self.length.bytes()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    pub(crate) fn bytes_read(&self) -> u64 {
        self.state().bytes_read
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// The host loses its power: what was not flushed is gone.
    pub(crate) fn power_cut(&self) {
        let mut state = self.state();
        state.bytes = state.durable.clone();
        state.dirty.clear();
        state.faults = Faults::default();
    }
}

impl Image for MemoryImage {
    fn length(&self) -> ImageLength {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        let end = offset + buffer.len() as u64;
        let is_read = |leaf: u64| {
            let start = leaf * LEAF_BYTES;
            start < end && offset < start + LEAF_BYTES
        };
        let mut is_bad = state.faults.unreadable.iter().any(|leaf| is_read(*leaf));
        for (leaf, left) in &mut state.faults.unreadable_after {
            if is_read(*leaf) {
                is_bad |= *left == 0;
                *left = left.saturating_sub(1);
            }
        }
        if is_bad {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        if state.faults.ends_at.is_some_and(|ends_at| end > ends_at) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        state.bytes_read += buffer.len() as u64;
        buffer.copy_from_slice(&state.bytes[in_memory(offset)..in_memory(end)]);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if let Some(left) = &mut state.faults.writes_left {
            if *left == 0 {
                return Err(io::Error::from_raw_os_error(nix::libc::ENOSPC));
            }
            *left -= 1;
        }
        state.bytes[in_memory(offset)..][..bytes.len()].copy_from_slice(bytes);
        let end = offset + bytes.len() as u64;
        state.dirty.extend(offset / LEAF_BYTES..end.div_ceil(LEAF_BYTES));
        Ok(())
    }

    fn write_zeros(&self, range: Range<u64>) -> io::Result<()> {
        self.write_at(range.start, &vec![0; in_memory(range.end - range.start)])
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state();
        let written = std::mem::take(&mut state.dirty);
        if state.faults.flush_fails {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        if !state.faults.flush_lies {
            let State { bytes, durable, .. } = &mut *state;
            for leaf in written {
                let range = self.range_of(leaf);
                durable[range.clone()].copy_from_slice(&bytes[range]);
            }
        }
        Ok(())
    }

    fn forget_cached(&self, range: Range<u64>) {
        let mut state = self.state();
        let State {
            bytes,
            durable,
            dirty,
            ..
        } = &mut *state;
        for leaf in range.start / LEAF_BYTES..range.end.div_ceil(LEAF_BYTES) {
            if !dirty.contains(&leaf) {
                let range = self.range_of(leaf);
                bytes[range.clone()].copy_from_slice(&durable[range]);
            }
        }
    }

    fn data_from(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let state = self.state();
        let data = |leaf: &u64| state.bytes[self.range_of(*leaf)].iter().any(|&byte| byte != 0);
        let leaves = self.length.leaves();
        let Some(first) = (offset / LEAF_BYTES..leaves).find(data) else {
            return Ok(None);
        };
        let end = (first..leaves).find(|leaf| !data(leaf)).unwrap_or(leaves);
        let start = (first * LEAF_BYTES).max(offset);
        Ok(Some(start..(end * LEAF_BYTES).min(self.length.bytes())))
    }
}
