//! An image in memory for tests: it forgets what was not flushed, and fails where it is told to.

use std::collections::BTreeSet;
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
    /// Whether flushes fail.
    pub(crate) flush_fails: bool,
    /// Bytes after which reads come back short.
    pub(crate) ends_at: Option<u64>,
}

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    durable: Vec<u8>,
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
                faults: Faults::default(),
                bytes_read: 0,
            }),
        }
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
        let bad = state.faults.unreadable.iter().any(|leaf| {
            let start = leaf * LEAF_BYTES;
            start < end && offset < start + LEAF_BYTES
        });
        if bad {
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
        Ok(())
    }

    fn write_zeros(&self, range: Range<u64>) -> io::Result<()> {
        self.write_at(range.start, &vec![0; in_memory(range.end - range.start)])
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.faults.flush_fails {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        state.durable = state.bytes.clone();
        Ok(())
    }

    fn data_from(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let state = self.state();
        let data = |leaf: &u64| {
            let range =
                in_memory(leaf * LEAF_BYTES)..in_memory(((leaf + 1) * LEAF_BYTES).min(self.length.bytes()));
            state.bytes[range].iter().any(|&byte| byte != 0)
        };
        let leaves = self.length.leaves();
        let Some(first) = (offset / LEAF_BYTES..leaves).find(data) else {
            return Ok(None);
        };
        let end = (first..leaves).find(|leaf| !data(leaf)).unwrap_or(leaves);
        let start = (first * LEAF_BYTES).max(offset);
        Ok(Some(start..(end * LEAF_BYTES).min(self.length.bytes())))
    }
}
