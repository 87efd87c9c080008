//! A store that remembers every operation, and what a power cut after any of them may have left.

use std::io;
use std::sync::{Arc, Mutex};

use super::store::Store;
use crate::units::in_memory;

/// A disk writes its sectors whole.
const SECTOR: usize = 512;

#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Write(u64, Vec<u8>),
    Sync,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct SimStore {
    first: Vec<u8>,
    operations: Arc<Mutex<Vec<Operation>>>,
    /// Operations that succeed before all fail.
    pub(crate) left: Option<Arc<Mutex<u64>>>,
}

impl SimStore {
    pub(crate) fn of(content: Vec<u8>) -> Self {
        Self {
            first: content,
            ..Self::default()
        }
    }

    pub(crate) fn operations(&self) -> usize {
        self.operations.lock().unwrap().len()
    }

    /// Where it was synced.
    pub(crate) fn syncs(&self) -> Vec<usize> {
        let operations = self.operations.lock().unwrap();
        let is_sync =
            |(at, operation): (usize, &Operation)| matches!(operation, Operation::Sync).then_some(at);
        operations.iter().enumerate().filter_map(is_sync).collect()
    }

    /// The same history, but for one sync that did nothing.
    pub(crate) fn without_sync(&self, at: usize) -> Self {
        let mut operations = self.operations.lock().unwrap().clone();
        operations[at] = Operation::Write(0, Vec::new());
        Self {
            first: self.first.clone(),
            operations: Arc::new(Mutex::new(operations)),
            left: None,
        }
    }

    fn count(&self) -> io::Result<()> {
        let Some(left) = &self.left else { return Ok(()) };
        let mut left = left.lock().unwrap();
        if *left == 0 {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        *left -= 1;
        Ok(())
    }

    fn content(&self) -> Vec<u8> {
        let mut content = self.first.clone();
        for operation in self.operations.lock().unwrap().iter() {
            apply(&mut content, operation);
        }
        content
    }

    /// What may be found after a power cut when `done` operations had been made: all that was synced, and of the
    /// writes since then any subset, or one of them cut off at a sector.
    pub(crate) fn after_cut(&self, done: usize) -> Vec<Vec<u8>> {
        let operations = self.operations.lock().unwrap();
        let done = &operations[..done];
        let synced = done
            .iter()
            .rposition(|operation| matches!(operation, Operation::Sync))
            .map_or(0, |at| at + 1);
        let mut durable = self.first.clone();
        done[..synced]
            .iter()
            .for_each(|operation| apply(&mut durable, operation));
        let pending = &done[synced..];
        assert!(
            pending.len() <= 10,
            "too many unsynced writes to try every subset"
        );
        let mut found = Vec::new();
        for subset in 0..1_u32 << pending.len() {
            let mut content = durable.clone();
            for (index, operation) in pending.iter().enumerate() {
                if subset >> index & 1 == 1 {
                    apply(&mut content, operation);
                }
            }
            found.push(content);
        }
        for operation in pending {
            let Operation::Write(offset, bytes) = operation else {
                continue;
            };
            for cut in (SECTOR..bytes.len()).step_by(SECTOR) {
                for part in [&bytes[..cut], &bytes[cut..]] {
                    let at = if part.len() == cut {
                        *offset
                    } else {
                        *offset + cut as u64
                    };
                    let mut content = durable.clone();
                    apply(&mut content, &Operation::Write(at, part.to_vec()));
                    found.push(content);
                }
            }
        }
        found
    }
}

fn apply(content: &mut [u8], operation: &Operation) {
    if let Operation::Write(offset, bytes) = operation {
        content[in_memory(*offset)..][..bytes.len()].copy_from_slice(bytes);
    }
}

impl Store for SimStore {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.copy_from_slice(&self.content()[in_memory(offset)..][..buffer.len()]);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.count()?;
        let write = Operation::Write(offset, bytes.to_vec());
        self.operations.lock().unwrap().push(write);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.count()?;
        self.operations.lock().unwrap().push(Operation::Sync);
        Ok(())
    }
}
