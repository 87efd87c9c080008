//! A disk that forgets what was not synced, and tears what it was writing.
//!
//! A file of framed writes, each with its length and a checksum, as sled's own log is: what is torn is recognised and
//! dropped. The writes inside are the ones that the real store makes.

use std::collections::BTreeMap;

use antipode_tiebreaker::node::{Batch, Recovered};
use antipode_tiebreaker::store::journal::{Journal, Write};
use antipode_tiebreaker::store::layout::{self, Writes};
use antipode_tiebreaker::store::{ContentError, Owner};

use super::random::Random;

#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    file: Vec<u8>,
    /// What a crash leaves for certain.
    synced: usize,
    batches: u64,
    journal: Journal,
}

impl Disk {
    pub(crate) fn create(owner: &Owner, content: &Recovered) -> Self {
        let mut disk = Self::default();
        disk.write(&layout::beginning(owner, content));
        disk.sync();
        disk.batches = 1;
        disk
    }

    pub(crate) fn append(&mut self, batch: &Batch) {
        self.batches += 1;
        let writes = layout::of_batch(batch, self.batches);
        let written = match self.journal.take(writes, self.batches) {
            Write::One(key, value) => Writes {
                put: vec![(key, value)],
                ..Writes::default()
            },
            Write::All(all) => all,
        };
        self.write(&written);
    }

    pub(crate) fn sync(&mut self) {
        self.synced = self.file.len();
    }

    fn write(&mut self, writes: &Writes) {
        let mut body = vec![u8::from(writes.clears)];
        body.extend((writes.removed.len() as u32).to_be_bytes());
        let pairs = writes.put.iter().flat_map(|(key, value)| [key, value]);
        for part in writes.removed.iter().chain(pairs) {
            body.extend((part.len() as u32).to_be_bytes());
            body.extend(part);
        }
        self.file.extend((body.len() as u32).to_be_bytes());
        self.file.extend(checksum(&body).to_be_bytes());
        self.file.extend(body);
    }

    /// The power is gone: of what was not synced, any beginning is left.
    pub(crate) fn crash(&mut self, random: &mut Random) {
        let unsynced = self.file.len() - self.synced;
        let left = random.index(unsynced + 1);
        self.file.truncate(self.synced + left);
    }

    /// What is there, up to the first torn write.
    pub(crate) fn recover(&mut self) -> Result<(Owner, Recovered), ContentError> {
        let mut pairs: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut at = 0;
        while let Some((body, end)) = frame_at(&self.file, at) {
            let mut parts = Parts(&body[5..]);
            if body[0] == 1 {
                pairs.retain(|key, _| !layout::is_cleared(key));
            }
            let removed = u32::from_be_bytes(body[1..5].try_into().unwrap());
            for _ in 0..removed {
                pairs.remove(parts.next().unwrap());
            }
            while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
                pairs.insert(key.to_vec(), value.to_vec());
            }
            at = end;
        }
        self.file.truncate(at);
        self.synced = at;
        let (journal, pairs) = Journal::replay(pairs.into_iter().collect())?;
        self.journal = journal;
        let (owner, batches, content) = layout::read(pairs)?;
        self.batches = batches;
        Ok((owner, content))
    }
}

struct Parts<'b>(&'b [u8]);

impl<'b> Iterator for Parts<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        self.0 = rest;
        Some(part)
    }
}

fn frame_at(file: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (length, rest) = file.get(at..)?.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<8>()?;
    let body = rest.get(..u32::from_be_bytes(*length) as usize)?;
    (checksum(body) == u64::from_be_bytes(*sum)).then_some((body, at + 12 + body.len()))
}

/// FNV-1a: enough to know a torn write.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
