//! The end that becomes the machine.

use std::collections::VecDeque;

use antipode_disk_sync::LeafSet;
use antipode_disk_sync::decision::Outcome;
use antipode_disk_sync::disk::SyncTarget;
use antipode_disk_sync::units::Run;

use super::disk::{COMPARED_AHEAD, COMPARED_SETTLED, MARKS_EXTENTS, parse_hashes};
use super::frame::{FileOffer, FrameError, Head, LineageOffer, Offer, ResyncKind, Stream, Unfit, UnfitKind};
use crate::base::limits::KERNEL_FILE_BYTES_MAX;
use crate::base::parts::{Part, Parts};
use crate::base::units::{ExitOrdinal, PAGE_SIZE};
use crate::machine::{CopiedPage, RamSums};

/// A machine on its way in, piece by piece.
#[derive(Debug)]
pub enum Arriving {
    /// Pages of its RAM.
    Pages(Vec<CopiedPage>),
    /// All else. RAM and the disk are whole by then.
    Machine(Box<Arrived>),
}

/// Everything that a machine is besides its RAM and its disk, and what its RAM must be.
#[derive(Debug)]
pub struct Arrived {
    /// All else.
    pub parts: Parts,
    /// The last counted exit.
    pub position: ExitOrdinal,
    /// The digest of all RAM.
    pub ram: RamSums,
    /// The digest of all registers.
    pub vcpu: [u8; 32],
}

/// Why a machine was not received.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The connection, or the other site.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// This site cannot become that machine.
    #[error(transparent)]
    Refused(Unfit),
}

/// A file that a machine boots from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootFile {
    /// The kernel's.
    Kernel,
    /// The initrd's.
    Initrd,
}

impl BootFile {
    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
        }
    }
}

/// Files that a machine boots from, where they were sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SentFiles {
    /// The kernel's content.
    pub kernel: Option<Vec<u8>>,
    /// The initrd's.
    pub initrd: Option<Vec<u8>>,
}

/// What this site makes of an offer.
pub trait Reception {
    /// What a file is that is here from before; it need not be sent if it is the one that is offered.
    fn kept(&self, file: BootFile) -> Option<FileOffer>;

    /// Makes ready what the offer names, with the files that were sent. Answers with the disk that is to be filled.
    ///
    /// # Errors
    /// Why it cannot be. Then the replica that is there is as it was.
    fn prepare(&mut self, offer: &Offer, files: SentFiles) -> Result<Option<SyncTarget>, Unfit>;

    /// Takes a piece of the machine. False if nobody takes it any more.
    fn take(&mut self, piece: Arriving) -> bool;

    /// Something has arrived: the other site is there. Said for every frame.
    ///
    /// # Errors
    /// Why nothing more is wanted.
    fn heard(&mut self) -> Result<(), Unfit>;

    /// Waits until the machine is what was sent.
    ///
    /// # Errors
    /// What it is not.
    fn restored(&mut self) -> Result<(), Unfit>;
}

/// Receives a machine to its end: when this returns well, this site is that machine.
///
/// # Errors
/// [`TargetError`]; the source was told, if it can be reached.
pub fn receive(stream: &mut Stream, reception: &mut dyn Reception) -> Result<(), TargetError> {
    let outcome = Target {
        stream,
        reception,
        disk: None,
        compared: VecDeque::new(),
        parts: Vec::new(),
    }
    .serve();
    if let Err(TargetError::Refused(why)) = &outcome {
        // If this is lost too, the source sees the connection end.
        let _ = stream.put(&Head::Refuse(why.clone()), &[]);
    }
    outcome
}

struct Target<'a> {
    stream: &'a mut Stream,
    reception: &'a mut dyn Reception,
    disk: Option<SyncTarget>,
    /// What was compared, frame by frame; what differs in it is on its way.
    compared: VecDeque<Vec<u64>>,
    parts: Vec<Part>,
}

impl Target<'_> {
    fn serve(&mut self) -> Result<(), TargetError> {
        let offer = match self.stream.take()? {
            (Head::Offer(offer), _) => *offer,
            (other, _) => return Err(FrameError::OutOfTurn(other.name()).into()),
        };
        let files = self.take_files(&offer)?;
        let disk = self.reception.prepare(&offer, files);
        self.disk = disk.map_err(TargetError::Refused)?;
        let resync = self.disk.as_ref().map(resync_of);
        self.tell_marks()?;
        self.stream.put(&Head::Accept { resync }, &[])?;
        loop {
            let frame = self.stream.take()?;
            self.reception.heard().map_err(TargetError::Refused)?;
            match frame {
                (Head::Hashes, body) => self.compare(&body)?,
                (Head::Settled { frames }, _) => self.settle(frames)?,
                (Head::Sync, _) => self.stream.put(&Head::Synced, &[])?,
                (Head::Leaf { index }, body) => self.write_leaf(index, &body)?,
                (Head::Pages, body) => {
                    let paused = self.disk.as_mut().map_or(Ok(()), SyncTarget::pause);
                    paused.map_err(disk_fails)?;
                    let pages = parse_pages(&body)?;
                    self.hand_on(Arriving::Pages(pages))?;
                }
                (Head::Part { name, version }, content) => self.parts.push(Part {
                    name,
                    version,
                    content,
                }),
                (
                    Head::Machine {
                        position,
                        vcpu,
                        lineage,
                    },
                    ram,
                ) => {
                    return self.finish(position, vcpu, lineage, &ram);
                }
                (other, _) => return Err(FrameError::OutOfTurn(other.name()).into()),
            }
        }
    }

    /// Kernel and initrd, where they are not here already.
    fn take_files(&mut self, offer: &Offer) -> Result<SentFiles, TargetError> {
        let initrd_bytes = offer.initrd.map(|initrd| initrd.byte_count);
        if offer.kernel.byte_count > KERNEL_FILE_BYTES_MAX || initrd_bytes > Some(offer.memory_bytes) {
            return Err(FrameError::Malformed("no machine boots from files that long".to_owned()).into());
        }
        let lacks = |file, offered: &FileOffer| self.reception.kept(file).as_ref() != Some(offered);
        let kernel = Some(offer.kernel).filter(|offered| lacks(BootFile::Kernel, offered));
        let initrd = offer.initrd.filter(|offered| lacks(BootFile::Initrd, offered));
        let want = Head::Want {
            kernel: kernel.is_some(),
            initrd: initrd.is_some(),
        };
        self.stream.put(&want, &[])?;
        let mut take = |kind, offered: Option<FileOffer>| {
            let content = offered.map(|offered| self.take_file(&kind, &offered));
            content.transpose()
        };
        Ok(SentFiles {
            kernel: take(Head::Kernel, kernel)?,
            initrd: take(Head::Initrd, initrd)?,
        })
    }

    fn take_file(&mut self, kind: &Head, offered: &FileOffer) -> Result<Vec<u8>, TargetError> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < offered.byte_count {
            match self.stream.take()? {
                (head, piece) if head == *kind && !piece.is_empty() => bytes.extend(piece),
                (other, _) => return Err(FrameError::OutOfTurn(other.name()).into()),
            }
        }
        if !offered.is_of(&bytes) {
            return Err(FrameError::Malformed("a file is not the one that was offered".to_owned()).into());
        }
        Ok(bytes)
    }

    /// A replica that is all zeros has no marks that matter.
    fn tell_marks(&mut self) -> Result<(), TargetError> {
        let Some(disk) = self.disk.as_ref().filter(|disk| !disk.is_blank()) else {
            return Ok(());
        };
        for first in (0..disk.length().extents()).step_by(MARKS_EXTENTS) {
            let bytes = disk.marks().bytes(first, MARKS_EXTENTS as u64);
            if bytes.iter().any(|byte| *byte != 0) {
                self.stream.put(&Head::Marks { first }, &bytes)?;
            }
        }
        Ok(())
    }

    /// Says which leaves differ.
    fn compare(&mut self, body: &[u8]) -> Result<(), TargetError> {
        let disk = self
            .disk
            .as_mut()
            .ok_or(FrameError::OutOfTurn("hashes of a disk"))?;
        if self.compared.len() == COMPARED_AHEAD + usize::try_from(COMPARED_SETTLED).unwrap_or_default() {
            return Err(FrameError::Malformed("more hashes than may be unsettled".to_owned()).into());
        }
        let mut compared = Vec::new();
        let mut differ = Vec::new();
        for (index, hash) in parse_hashes(body)? {
            let found = disk.leaf_hash(index).map_err(disk_fails)?;
            compared.push(index);
            differ.push(u8::from(found != hash));
        }
        self.compared.push_back(compared);
        Ok(self.stream.put(&Head::Differ, &differ)?)
    }

    /// All that differs in the oldest `frames` is here.
    fn settle(&mut self, frames: u32) -> Result<(), TargetError> {
        let disk = self
            .disk
            .as_mut()
            .ok_or(FrameError::OutOfTurn("the end of what differs"))?;
        let frames = usize::try_from(frames).unwrap_or(usize::MAX);
        if frames > self.compared.len() {
            return Err(FrameError::Malformed("the end of hashes that did not come".to_owned()).into());
        }
        let mut settled = LeafSet::none(disk.length());
        for index in self.compared.drain(..frames).flatten() {
            settled.insert(&Run::new(index, 1));
        }
        disk.settle(&settled).map_err(disk_fails)
    }

    fn write_leaf(&mut self, index: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let disk = self
            .disk
            .as_mut()
            .ok_or(FrameError::OutOfTurn("a leaf of a disk"))?;
        disk.write_leaf(index, bytes).map_err(disk_fails)
    }

    fn hand_on(&mut self, piece: Arriving) -> Result<(), TargetError> {
        if self.reception.take(piece) {
            return Ok(());
        }
        // Whoever takes no more says why.
        self.reception.restored().map_err(TargetError::Refused)
    }

    fn finish(
        &mut self,
        position: u64,
        vcpu: [u8; 32],
        lineage: Option<LineageOffer>,
        ram: &[u8],
    ) -> Result<(), TargetError> {
        let ram = ram
            .try_into()
            .map_err(|_| FrameError::Malformed("RAM's digest has another length".to_owned()))?;
        match (self.disk.take(), lineage) {
            (Some(disk), Some(lineage)) => disk
                .finish(lineage.current, lineage.history)
                .map_err(disk_fails)?,
            (None, None) => {}
            _ => return Err(FrameError::Malformed("the disk that was offered is another".to_owned()).into()),
        }
        let parts: Parts = std::mem::take(&mut self.parts).into_iter().collect();
        self.hand_on(Arriving::Machine(Box::new(Arrived {
            parts,
            position: ExitOrdinal::new(position),
            ram: RamSums::from_bytes(ram),
            vcpu,
        })))?;
        self.reception.restored().map_err(TargetError::Refused)?;
        Ok(self.stream.put(&Head::Ready, &[])?)
    }
}

fn resync_of(disk: &SyncTarget) -> ResyncKind {
    match disk.decision().outcome {
        _ if disk.is_blank() => ResyncKind::New,
        Outcome::Nothing => ResyncKind::Nothing,
        Outcome::Partial => ResyncKind::Partial,
        // What is refused is no target.
        Outcome::Full | Outcome::Refuse => ResyncKind::Full,
    }
}

fn disk_fails(error: impl std::fmt::Display) -> TargetError {
    TargetError::Refused(Unfit::new(UnfitKind::Host, format!("the disk here: {error}")))
}

fn parse_pages(body: &[u8]) -> Result<Vec<CopiedPage>, FrameError> {
    let records = body.chunks_exact(8 + PAGE_SIZE);
    if !records.remainder().is_empty() {
        return Err(FrameError::Malformed("pages end within a page".to_owned()));
    }
    let parse = |record: &[u8]| -> Option<CopiedPage> {
        let (address, page) = record.split_first_chunk()?;
        Some((u64::from_le_bytes(*address), Box::new(page.try_into().ok()?)))
    };
    records
        .map(|record| {
            parse(record).ok_or_else(|| FrameError::Malformed("pages end within a page".to_owned()))
        })
        .collect()
}
