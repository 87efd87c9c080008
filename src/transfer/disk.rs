//! The disk, as its source sends it: what may differ is compared first, then what was written meanwhile follows.

use antipode_disk_sync::LeafSet;
use antipode_disk_sync::disk::leaf_hash;
use antipode_disk_sync::image::Image;
use antipode_disk_sync::online::{Next, Passes, StunBudget};
use antipode_disk_sync::units::Run;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

use super::frame::{FrameError, Head, ResyncKind};
use super::source::{News, Source, SourceError};
use crate::machine::workers::Disk;

/// How long the rest of the disk may take in the stun.
const DISK_STUN: StunBudget = StunBudget(Duration::from_millis(200));
/// Leaves that are compared at a time: 16 MiB.
const LEAVES_COMPARED: usize = 256;
/// Frames of hashes that may be unanswered: both ends hash meanwhile, and the line carries what differs.
pub(super) const COMPARED_AHEAD: usize = 16;
/// Frames of hashes after which the target settles what was compared, durably: 256 MiB.
pub(super) const COMPARED_SETTLED: u32 = 16;
/// Extents whose marks are told in one frame.
pub(super) const MARKS_EXTENTS: usize = 128 * 1024;
/// Bytes of a leaf's number, and of its hash.
const NUMBER_BYTES: usize = 8;
const HASH_BYTES: usize = 32;

/// What it took to make the other site's replica equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    /// How much was looked at.
    pub kind: ResyncKind,
    /// Bytes that were marked, at either end, when it began.
    pub planned_bytes: u64,
    /// The same, with what was written until the machine stood still.
    pub changed_bytes: u64,
    /// Bytes of the disk that were sent, before compression.
    pub sent_bytes: u64,
}

/// What the target is filled with.
#[derive(Debug)]
pub(super) struct Work {
    kind: ResyncKind,
    planned_bytes: u64,
    /// All that may differ, as known by now.
    changed: LeafSet,
    sent_bytes: u64,
}

impl Work {
    /// For a target that has accepted in this way, with what it has marked.
    pub(super) fn of(disk: &Disk, kind: ResyncKind, marks: LeafSet) -> Result<Self, SourceError> {
        // From here on all that is written is known; what was before is marked, or everything is looked at.
        disk.take_written().ok_or(SourceError::NoReplica)?;
        let mut changed = marks;
        match kind {
            ResyncKind::New | ResyncKind::Full => changed.insert(&disk.image().length().all_leaves()),
            ResyncKind::Nothing | ResyncKind::Partial => {
                changed.unite(&disk.marks().ok_or(SourceError::NoReplica)?);
            }
        }
        Ok(Self {
            kind,
            planned_bytes: bytes_of(disk, &changed),
            changed,
            sent_bytes: 0,
        })
    }

    fn told(&self, disk: &Disk) -> News {
        News::Resync(Resync {
            kind: self.kind,
            planned_bytes: self.planned_bytes,
            changed_bytes: bytes_of(disk, &self.changed),
            sent_bytes: self.sent_bytes,
        })
    }
}

impl Source<'_> {
    /// What may differ, then passes over the disk until what is left fits the stun.
    pub(super) fn send_disk(&mut self) -> Result<(), SourceError> {
        if let Some(disk) = self.disk {
            let begun = self.now();
            let mut sent = self.send_what_differs(disk)?;
            self.sync()?;
            let mut took = self.now().saturating_sub(begun);
            let mut passes = Passes::new(DISK_STUN);
            loop {
                let leaves = self.take_written(disk)?;
                // A comparison says nothing of how fast the line is.
                let next = sent.map(|sent| passes.after(sent, took, bytes_of(disk, &leaves)));
                let begun = self.now();
                match next {
                    Some(Next::Stun) => {
                        // What the last pass left is sent with the RAM.
                        self.send_leaves(disk, &leaves, false)?;
                        break;
                    }
                    // The guest is slowed where the rate says so; it converges then (D3).
                    Some(Next::Pass {
                        writer_bytes_per_second,
                    }) => disk.limit_writes(writer_bytes_per_second),
                    None => {}
                }
                sent = Some(self.send_leaves(disk, &leaves, false)?);
                self.sync()?;
                took = self.now().saturating_sub(begun);
            }
        }
        (self.tell)(News::DiskInSync);
        Ok(())
    }

    /// Makes equal what may differ. Answers how many bytes were sent for all that was looked at, if that says how fast the
    /// line is.
    fn send_what_differs(&mut self, disk: &Disk) -> Result<Option<u64>, SourceError> {
        let Some(work) = &self.work else {
            return Err(FrameError::OutOfTurn("an acceptance without a disk").into());
        };
        let (kind, leaves) = (work.kind, work.changed.clone());
        (self.tell)(work.told(disk));
        if kind == ResyncKind::New {
            return self.send_leaves(disk, &leaves, true).map(Some);
        }
        self.send_what_differs_of(disk, &leaves)?;
        Ok(None)
    }

    /// Compares `leaves` and sends what the target has otherwise. Answers are waited for only where many are missing.
    fn send_what_differs_of(&mut self, disk: &Disk, leaves: &LeafSet) -> Result<(), SourceError> {
        let length = disk.image().length();
        let (total, mut done, mut unsettled) = (bytes_of(disk, leaves), 0, 0);
        let leaves: Vec<u64> = leaves.runs().flat_map(|run| run.indices()).collect();
        let mut unanswered = VecDeque::new();
        let mut chunks = leaves.chunks(LEAVES_COMPARED);
        loop {
            let next = chunks.next();
            if let Some(asked) = next {
                self.ask_about(disk, asked)?;
                unanswered.push_back(asked);
            }
            if next.is_some() && unanswered.len() < COMPARED_AHEAD {
                self.progress(done, total)?;
                continue;
            }
            let Some(asked) = unanswered.pop_front() else {
                return Ok(());
            };
            let differ = self.answer_about(asked.len())?;
            for (index, differs) in asked.iter().zip(differ) {
                let range = length.bytes_of(&Run::new(*index, 1));
                done += range.end - range.start;
                if differs != 0 {
                    self.send_leaf(disk, *index, false)?;
                    self.progress(done, total)?;
                }
            }
            self.progress(done, total)?;
            unsettled += 1;
            if unsettled == COMPARED_SETTLED {
                self.stream.put(&Head::Settled { frames: unsettled }, &[])?;
                unsettled = 0;
            }
        }
    }

    fn ask_about(&mut self, disk: &Disk, leaves: &[u64]) -> Result<(), SourceError> {
        let mut body = Vec::with_capacity(leaves.len() * (NUMBER_BYTES + HASH_BYTES));
        for index in leaves {
            body.extend_from_slice(&index.to_le_bytes());
            body.extend_from_slice(&leaf_hash(disk.image(), *index)?);
        }
        Ok(self.stream.put(&Head::Hashes, &body)?)
    }

    /// Of the leaves that were asked about before all others, `count` of them, whether the target has each otherwise.
    fn answer_about(&mut self, count: usize) -> Result<Vec<u8>, SourceError> {
        match self.stream.take()? {
            (Head::Differ, differ) if differ.len() == count => Ok(differ),
            (other, _) => Err(FrameError::OutOfTurn(other.name()).into()),
        }
    }

    /// What was written since this was last asked.
    pub(super) fn take_written(&mut self, disk: &Disk) -> Result<LeafSet, SourceError> {
        let written = disk.take_written().ok_or(SourceError::NoReplica)?;
        if let Some(work) = &mut self.work {
            work.changed.unite(&written);
        }
        Ok(written)
    }

    /// Says what it took. The guest stands still.
    pub(super) fn tell_resync(&mut self, disk: &Disk) {
        if let Some(work) = &self.work {
            (self.tell)(work.told(disk));
        }
    }

    /// Sends `leaves`; without those of zeros, where the target is zeros too. Answers how many bytes were read.
    pub(super) fn send_leaves(
        &mut self,
        disk: &Disk,
        leaves: &LeafSet,
        skips_zeros: bool,
    ) -> Result<u64, SourceError> {
        let image = disk.image();
        let total = bytes_of(disk, leaves);
        let mut done = 0;
        let mut hole_until = 0;
        for index in leaves.runs().flat_map(|run| run.indices()) {
            let range = image.length().bytes_of(&Run::new(index, 1));
            done += range.end - range.start;
            if skips_zeros && range.end <= hole_until {
                continue;
            }
            if skips_zeros {
                match image.data_from(range.start)? {
                    Some(data) if data.start >= range.end => {
                        hole_until = data.start;
                        continue;
                    }
                    None => {
                        hole_until = u64::MAX;
                        continue;
                    }
                    Some(_) => {}
                }
            }
            self.send_leaf(disk, index, skips_zeros)?;
            self.progress(done, total)?;
        }
        self.progress(total, total)?;
        Ok(total)
    }

    /// Sends a leaf, unless it is zeros and those are skipped.
    fn send_leaf(&mut self, disk: &Disk, index: u64, skips_zeros: bool) -> Result<(), SourceError> {
        let image = disk.image();
        let range = image.length().bytes_of(&Run::new(index, 1));
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or_default()];
        image.read_at(range.start, &mut bytes)?;
        if skips_zeros && bytes.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        self.stream.put(&Head::Leaf { index }, &bytes)?;
        if let Some(work) = &mut self.work {
            work.sent_bytes += range.end - range.start;
        }
        Ok(())
    }
}

/// The leaves' numbers and hashes that a frame names.
pub(super) fn parse_hashes(body: &[u8]) -> Result<Vec<(u64, [u8; HASH_BYTES])>, FrameError> {
    let malformed = || FrameError::Malformed("hashes end within a hash".to_owned());
    let (records, rest) = body.as_chunks::<{ NUMBER_BYTES + HASH_BYTES }>();
    if !rest.is_empty() || records.len() > LEAVES_COMPARED {
        return Err(malformed());
    }
    let parse = |record: &[u8]| -> Option<(u64, [u8; HASH_BYTES])> {
        let (index, hash) = record.split_first_chunk()?;
        Some((u64::from_le_bytes(*index), hash.try_into().ok()?))
    };
    records
        .iter()
        .map(|record| parse(record).ok_or_else(malformed))
        .collect()
}

pub(super) fn bytes_of(disk: &Disk, leaves: &LeafSet) -> u64 {
    let length = disk.image().length();
    leaves
        .runs()
        .map(|run| length.bytes_of(&run))
        .map(|range| range.end - range.start)
        .sum()
}
