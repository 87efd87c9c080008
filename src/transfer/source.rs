//! The end that has the machine.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use antipode_disk_sync::LeafSet;
use antipode_disk_sync::image::Image;
use antipode_disk_sync::online::{Next, Passes, StunBudget};
use serde::{Deserialize, Serialize};

use super::Stunned;
use super::disk::{Resync, Work};
use super::frame::{FrameError, Head, LineageOffer, Offer, ResyncKind, Stream};
use super::share::{SHARE_MIN, Share};
use crate::base::clock::HostClock;
use crate::base::units::PAGE_SIZE;
use crate::machine::workers::Disk;
use crate::machine::{RamCopy, RamDigest};

/// Bytes of a file in one frame.
const FILE_PIECE_BYTES: usize = 1 << 20;
/// Pages that are read for one frame.
const PAGES_AT_ONCE: usize = 256;
/// How long the rest of RAM may take in the stun: half of a second (P6) together with that of the disk.
const RAM_STUN: StunBudget = StunBudget(Duration::from_millis(300));
/// Rounds after which RAM will not calm down any more, however slow the guest is.
const RAM_ROUNDS_MAX: u32 = 32;
/// While the stun is waited for, a guest that is slowed stands still this often.
const SLICE: Duration = Duration::from_millis(20);

/// The machine that is copied while it runs. Each answers when the guest stood at a position; none if it has ended.
pub trait RunningMachine {
    /// All of RAM is to be copied, by what is answered: from here on it is known what is written.
    fn begin_copy(&self) -> Option<RamCopy>;
    /// Addresses of the pages that were written since this was last asked.
    fn take_written(&self) -> Option<Vec<u64>>;
    /// It stands still for `span`, soon; nobody waits for that.
    fn rest(&self, span: Duration) -> Option<()>;
    /// It stands still from here on.
    fn stun(&self) -> Option<Stunned>;
    /// All of its RAM was copied while it stood still, and this is its digest.
    fn adopt(&self, digest: RamDigest) -> Option<()>;
}

/// What the source waits for before it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// To copy RAM.
    Ram,
    /// To stun the guest.
    Stun,
}

/// What the source tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// So many bytes of this phase are done, of so many known by now.
    Progress {
        /// Done.
        done_bytes: u64,
        /// In all.
        total_bytes: u64,
    },
    /// What there is to be done for the disk; again, with what it came to, when the guest stands still.
    Resync(Resync),
    /// What it took to copy RAM, when the guest stands still.
    Memory(MemorySent),
    /// What is left of the disk fits the stun.
    DiskInSync,
    /// What is left of RAM fits the stun.
    RamInSync,
    /// The guest stands still.
    Stunned,
    /// The target is the same machine.
    PeerReady,
}

/// What it took to copy RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySent {
    /// Bytes of the pages that were not zero when they were first looked at.
    pub once_bytes: u64,
    /// Bytes of all pages that were sent, those written meanwhile once more, before compression.
    pub sent_bytes: u64,
}

/// Why a machine was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The connection, or the other site.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A file of the machine cannot be read.
    #[error("{path} cannot be read: {source}", path = path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// The host's error.
        source: std::io::Error,
    },
    /// The disk cannot be read.
    #[error("the disk cannot be read: {0}")]
    Disk(#[from] std::io::Error),
    /// RAM cannot be read.
    #[error("the VM's memory cannot be read: {0}")]
    Ram(std::io::Error),
    /// The disk keeps no marks.
    #[error("the disk is no replica; `antipode disk create` makes it one")]
    NoReplica,
    /// RAM is written to faster than it can be copied.
    #[error(
        "the guest writes its memory faster than the connection takes it, even at {SHARE_MIN} % of its time: {left_bytes} bytes were left after \
         {RAM_ROUNDS_MAX} rounds; protect it when it does less, or over a faster line"
    )]
    NeverCalm {
        /// What would have been left for the stun.
        left_bytes: u64,
    },
    /// The machine has ended.
    #[error("the VM has ended")]
    Ended,
    /// The transfer was given up.
    #[error("it was given up")]
    GivenUp,
}

/// What is to be sent.
#[derive(Debug)]
pub struct Sending<'a> {
    /// What the machine is made of.
    pub offer: Offer,
    /// The kernel's file.
    pub kernel: &'a Path,
    /// The initrd's, if there is one.
    pub initrd: Option<&'a Path>,
    /// The disk, if there is one.
    pub disk: Option<&'a Disk>,
}

/// Sends a machine to its end: when this returns well, the other site is the same machine at the same position, and the
/// guest stands still here.
///
/// # Errors
/// [`SourceError`]; the other site has nothing that could run.
pub fn send(
    stream: &mut Stream,
    sending: &Sending<'_>,
    machine: &dyn RunningMachine,
    clock: &dyn HostClock,
    tell: &mut dyn FnMut(News),
    go: &Receiver<Go>,
) -> Result<(), SourceError> {
    let mut source = Source {
        stream,
        machine,
        clock,
        disk: sending.disk,
        work: None,
        tell,
        go,
        share: Share::default(),
        memory: None,
        slowed_until: Duration::ZERO,
    };
    source.offer(sending)?;
    source.send_disk()?;
    source.wait_for(Go::Ram)?;
    let (copy, left) = source.send_ram()?;
    source.wait_for(Go::Stun)?;
    source.send_rest(copy, left)
}

pub(super) struct Source<'a> {
    pub(super) stream: &'a mut Stream,
    machine: &'a dyn RunningMachine,
    clock: &'a dyn HostClock,
    pub(super) disk: Option<&'a Disk>,
    /// What the target's replica needs, once it has accepted.
    pub(super) work: Option<Work>,
    pub(super) tell: &'a mut dyn FnMut(News),
    go: &'a Receiver<Go>,
    share: Share,
    memory: Option<MemorySent>,
    /// Up to when the guest has stood still for its part.
    slowed_until: Duration,
}

impl Source<'_> {
    fn wait_for(&mut self, what: Go) -> Result<(), SourceError> {
        loop {
            match self.go.recv_timeout(SLICE) {
                Ok(found) if found == what => return Ok(()),
                Err(RecvTimeoutError::Timeout) => self.slow()?,
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return Err(SourceError::GivenUp),
            }
        }
    }

    /// Has the guest stand still for its part of the time since this was last done.
    fn slow(&mut self) -> Result<(), SourceError> {
        let now = self.now();
        let span = now.saturating_sub(std::mem::replace(&mut self.slowed_until, now));
        match self.share.rest_of(span) {
            Some(rest) => self.machine.rest(rest).ok_or(SourceError::Ended),
            None => Ok(()),
        }
    }

    pub(super) fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.monotonic_ns())
    }

    /// Tells how far it is, sees whether it is still wanted, and slows the guest if it must be slowed.
    pub(super) fn progress(&mut self, done_bytes: u64, total_bytes: u64) -> Result<(), SourceError> {
        (self.tell)(News::Progress {
            done_bytes,
            total_bytes,
        });
        match self.go.try_recv() {
            Err(TryRecvError::Empty) => self.slow(),
            _ => Err(SourceError::GivenUp),
        }
    }

    /// Waits until the target has taken all that was sent: what is still on its way says nothing of how fast the line is, and
    /// would be waited for in the stun.
    pub(super) fn sync(&mut self) -> Result<(), SourceError> {
        self.stream.put(&Head::Sync, &[])?;
        match self.stream.take()? {
            (Head::Synced, _) => self.slow(),
            (other, _) => Err(FrameError::OutOfTurn(other.name()).into()),
        }
    }

    fn offer(&mut self, sending: &Sending<'_>) -> Result<(), SourceError> {
        self.stream
            .put(&Head::Offer(Box::new(sending.offer.clone())), &[])?;
        let (wants_kernel, wants_initrd) = match self.stream.take()? {
            (Head::Want { kernel, initrd }, _) => (kernel, initrd),
            (other, _) => return Err(FrameError::OutOfTurn(other.name()).into()),
        };
        if wants_kernel {
            self.send_file(sending.kernel, &Head::Kernel)?;
        }
        if let Some(initrd) = sending.initrd.filter(|_| wants_initrd) {
            self.send_file(initrd, &Head::Initrd)?;
        }
        let Some(disk) = self.disk else {
            return match self.stream.take()? {
                (Head::Accept { resync: None }, _) => Ok(()),
                (other, _) => Err(FrameError::OutOfTurn(other.name()).into()),
            };
        };
        let (kind, marks) = self.accepted(disk)?;
        self.work = Some(Work::of(disk, kind, marks)?);
        Ok(())
    }

    /// How the target has accepted, and what it has marked.
    fn accepted(&mut self, disk: &Disk) -> Result<(ResyncKind, LeafSet), SourceError> {
        let mut marks = LeafSet::none(disk.image().length());
        loop {
            match self.stream.take()? {
                (Head::Marks { first }, bytes) if marks.unite_bytes(first, &bytes) => {}
                (Head::Accept { resync: Some(kind) }, _) => return Ok((kind, marks)),
                (other, _) => return Err(FrameError::OutOfTurn(other.name()).into()),
            }
        }
    }

    fn send_file(&mut self, path: &Path, head: &Head) -> Result<(), SourceError> {
        let bytes = std::fs::read(path).map_err(|source| SourceError::File {
            path: path.to_owned(),
            source,
        })?;
        for piece in bytes.chunks(FILE_PIECE_BYTES) {
            self.stream.put(head, piece)?;
        }
        Ok(())
    }

    /// Rounds over RAM until what is left fits the stun: the copy so far, and that. A guest that writes faster than the line
    /// takes is slowed until it fits, and stays slow until the stun (P6).
    fn send_ram(&mut self) -> Result<(RamCopy, Vec<u64>), SourceError> {
        let mut copy = self.machine.begin_copy().ok_or(SourceError::Ended)?;
        let mut left: Vec<u64> = copy.addresses().collect();
        let mut passes = Passes::new(RAM_STUN);
        for _ in 0..RAM_ROUNDS_MAX {
            let begun = self.now();
            let sent = self.send_pages(&mut copy, &left)?;
            if let Some(disk) = self.disk {
                let leaves = self.take_written(disk)?;
                self.send_leaves(disk, &leaves, false)?;
            }
            self.sync()?;
            let took = self.now().saturating_sub(begun);
            left = self.machine.take_written().ok_or(SourceError::Ended)?;
            let left_bytes = bytes_in(&left);
            match passes.after(sent, took, left_bytes) {
                Next::Stun => {
                    (self.tell)(News::RamInSync);
                    return Ok((copy, left));
                }
                Next::Pass {
                    writer_bytes_per_second,
                } => self.share.follow(writer_bytes_per_second, left_bytes, took),
            }
        }
        Err(SourceError::NeverCalm {
            left_bytes: bytes_in(&left),
        })
    }

    /// Reads and sends the pages at `addresses`. Answers how many bytes were sent.
    fn send_pages(&mut self, copy: &mut RamCopy, addresses: &[u64]) -> Result<u64, SourceError> {
        let total = bytes_in(addresses);
        let (mut looked_at, mut sent) = (0, 0);
        for addresses in addresses.chunks(PAGES_AT_ONCE) {
            let mut body = Vec::with_capacity(addresses.len() * (8 + PAGE_SIZE));
            for address in addresses {
                let taken = copy.take(*address);
                let taken = taken.map_err(|outside| SourceError::Ram(std::io::Error::other(outside)))?;
                if let Some((address, page)) = taken {
                    body.extend_from_slice(&address.to_le_bytes());
                    body.extend_from_slice(&*page);
                    sent += PAGE_SIZE as u64;
                }
            }
            if !body.is_empty() {
                self.stream.put(&Head::Pages, &body)?;
            }
            looked_at += bytes_in(addresses);
            self.progress(looked_at, total)?;
        }
        // The first pass is over all of it.
        let memory = self.memory.get_or_insert(MemorySent {
            once_bytes: sent,
            sent_bytes: 0,
        });
        memory.sent_bytes += sent;
        Ok(sent)
    }

    /// The guest stands still: the rest of it.
    fn send_rest(&mut self, mut copy: RamCopy, left: Vec<u64>) -> Result<(), SourceError> {
        let machine = self.machine.stun().ok_or(SourceError::Ended)?;
        self.share = Share::default();
        (self.tell)(News::Stunned);
        let rest: BTreeSet<u64> = left.into_iter().chain(machine.written).collect();
        let rest: Vec<u64> = rest.into_iter().collect();
        self.send_pages(&mut copy, &rest)?;
        if let Some(memory) = self.memory {
            (self.tell)(News::Memory(memory));
        }
        let digest = copy.finish();
        let ram = digest.sums();
        self.machine.adopt(digest).ok_or(SourceError::Ended)?;
        let lineage = match self.disk {
            Some(disk) => {
                let leaves = self.take_written(disk)?;
                self.send_leaves(disk, &leaves, false)?;
                self.tell_resync(disk);
                let lineage = disk.lineage().ok_or(SourceError::NoReplica)?;
                Some(LineageOffer::from(&lineage))
            }
            None => None,
        };
        for part in machine.parts.iter() {
            let head = Head::Part {
                name: part.name.clone(),
                version: part.version,
            };
            self.stream.put(&head, &part.content)?;
        }
        let head = Head::Machine {
            position: machine.position.get(),
            vcpu: machine.vcpu,
            lineage,
        };
        self.stream.put(&head, &ram.to_bytes())?;
        match self.stream.take()? {
            (Head::Ready, _) => {}
            (other, _) => return Err(FrameError::OutOfTurn(other.name()).into()),
        }
        (self.tell)(News::PeerReady);
        Ok(())
    }
}

/// Bytes of the pages at `addresses`.
fn bytes_in(addresses: &[u64]) -> u64 {
    (addresses.len() * PAGE_SIZE) as u64
}
