//! Frames of the bulk connection.
//!
//! ```text
//!   frame   length of the head (u32), of the body before compression (u32), of the body (u32)
//!           head, as `postcard` writes it · body, compressed by zstd where it is not empty
//! ```
//!
//! Integers are little-endian. Lengths are checked before anything is taken for them, and a head has no more than the
//! texts of an offer in it.

use std::io::{self, Read, Write};

use antipode_disk_sync::replica::{GenerationId, Lineage};
use serde::{Deserialize, Serialize};

use crate::base::limits::{STATE_PART_BYTES_MAX, TRANSFER_HEAD_BYTES_MAX};
use crate::machine::config::Kept;
use crate::machine::launch::Birth;

/// What is sent is seldom sent twice, and the line is faster than a dear compression.
const COMPRESSION_LEVEL: i32 = 1;
const COMPRESSION_SLACK: usize = 1024;
const LENGTHS_BYTES: usize = 12;

/// A disk that is to be copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskOffer {
    /// Its length in bytes.
    pub byte_count: u64,
    /// The source's replica.
    pub replica: [u8; 16],
    /// What it holds as the transfer begins; none as long as no machine runs on it.
    pub lineage: Option<LineageOffer>,
    /// What the other site's replica alone holds may be lost: an operator says so.
    pub discard: bool,
}

/// A file that a machine boots from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOffer {
    /// Its length.
    pub byte_count: u64,
    /// BLAKE3 of its content.
    pub hash: [u8; 32],
}

impl FileOffer {
    /// Of a file with this content.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self {
            byte_count: content.len() as u64,
            hash: *blake3::hash(content).as_bytes(),
        }
    }

    /// Whether that is the file's content.
    pub(super) fn is_of(&self, content: &[u8]) -> bool {
        self.byte_count == content.len() as u64 && *self == Self::of(content)
    }
}

/// What a machine is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The VM's name.
    pub vm: String,
    /// Guest RAM in bytes.
    pub memory_bytes: u64,
    /// What the configuration adds to the kernel's command line.
    pub cmdline: String,
    /// The kernel's file.
    pub kernel: FileOffer,
    /// The initrd's, if there is one.
    pub initrd: Option<FileOffer>,
    /// The disk, if there is one.
    pub disk: Option<DiskOffer>,
    /// TAP interface and address of the network card, if there is one.
    pub network: Option<(String, [u8; 6])>,
    /// Whether its outputs leave only when the other copy has made them too.
    pub verifies_output: bool,
    /// How that is kept the same.
    pub kept: Kept,
    /// What chance and the host gave the machine.
    pub birth: Birth,
}

/// What a replica's content is: its current name, and those before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineageOffer {
    /// Now.
    pub current: [u8; 16],
    /// What it was when it was last equal to another replica, if it has gone on alone since.
    pub base: Option<[u8; 16]>,
    /// Before, the latest first.
    pub history: Vec<[u8; 16]>,
}

impl From<&Lineage> for LineageOffer {
    fn from(lineage: &Lineage) -> Self {
        Self {
            current: lineage.current.0,
            base: lineage.base.map(|base| base.0),
            history: lineage.history.iter().map(|name| name.0).collect(),
        }
    }
}

impl From<&LineageOffer> for Lineage {
    fn from(offer: &LineageOffer) -> Self {
        Self {
            current: GenerationId(offer.current),
            base: offer.base.map(GenerationId),
            history: offer.history.iter().copied().map(GenerationId).collect(),
        }
    }
}

/// How much of the target's replica is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResyncKind {
    /// It never held anything: all that is not zeros is sent.
    New,
    /// It is equal already, but for what the source has marked.
    Nothing,
    /// What is marked at either is compared.
    Partial,
    /// Everything is compared.
    Full,
}

/// What a frame is; its body is told with each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Head {
    /// No body.
    Offer(Box<Offer>),
    /// Which of the files the target does not have yet. No body.
    Want {
        /// The kernel's.
        kernel: bool,
        /// The initrd's.
        initrd: bool,
    },
    /// A piece of the kernel.
    Kernel,
    /// A piece of the initrd.
    Initrd,
    /// What the target has marked, by extents from this one on, as a set of leaves has it.
    Marks {
        /// The first.
        first: u64,
    },
    /// The target is ready; its marks were told before. No body.
    Accept {
        /// How much of its replica is looked at, if there is one.
        resync: Option<ResyncKind>,
    },
    /// Hashes of leaves, each (32 bytes) after the leaf's number (8 bytes).
    Hashes,
    /// Of the hashes that came first and are not answered, a byte for each: 0 if the target's leaf has the same.
    Differ,
    /// All that differs of the leaves in the oldest so many frames of hashes has been sent. No body.
    Settled {
        /// Those that this was said of before do not count.
        frames: u32,
    },
    /// Answer when all that came before has been taken. No body.
    Sync,
    /// The answer. No body.
    Synced,
    /// The bytes of one leaf of the disk.
    Leaf {
        /// Which.
        index: u64,
    },
    /// Pages, each after its address (8 bytes).
    Pages,
    /// A part of the machine.
    Part {
        /// Its name.
        name: String,
        /// Its version.
        version: u16,
    },
    /// All parts are there, the machine stands at this position. The body is RAM's digest.
    Machine {
        /// The last counted exit.
        position: u64,
        /// The registers' digest.
        vcpu: [u8; 32],
        /// What the disk is, if there is one.
        lineage: Option<LineageOffer>,
    },
    /// The machine is the one that was sent. No body.
    Ready,
    /// It cannot be done, and why. No body.
    Refuse(Unfit),
}

/// Why a site does not become the machine that is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{why}")]
pub struct Unfit {
    /// Of which kind.
    pub kind: UnfitKind,
    /// In words.
    pub why: String,
}

impl Unfit {
    /// Of this kind, in words.
    pub fn new(kind: UnfitKind, why: impl ToString) -> Self {
        let why = why.to_string();
        Self { kind, why }
    }
}

/// Kinds of reasons why a site does not become the machine that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnfitKind {
    /// Its replica is of another VM or another history, and may not be overwritten.
    OtherDisk,
    /// What has arrived is not the machine that was sent.
    OtherMachine,
    /// Its host fails it.
    Host,
    /// Nothing more is wanted.
    GivenUp,
}

impl UnfitKind {
    /// The name used in JSON of what was refused; none where nobody has done anything wrong.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::OtherDisk => Some("other-disk"),
            Self::OtherMachine => Some("other-machine"),
            Self::Host | Self::GivenUp => None,
        }
    }
}

/// Why there is no next frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection broke.
    #[error("the connection to the other site broke: {0}")]
    Io(#[from] io::Error),
    /// What came is no frame.
    #[error("the other site sent what is no frame: {0}")]
    Malformed(String),
    /// What came is not what comes here.
    #[error("the other site sent {0} out of turn")]
    OutOfTurn(&'static str),
    /// The other site cannot go on.
    #[error("the other site: {0}")]
    Refused(Unfit),
}

impl Head {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Offer(_) => "an offer",
            Self::Want { .. } => "what it lacks",
            Self::Kernel => "a piece of a kernel",
            Self::Initrd => "a piece of an initrd",
            Self::Marks { .. } => "marks",
            Self::Accept { .. } => "an acceptance",
            Self::Hashes => "hashes",
            Self::Differ => "differences",
            Self::Settled { .. } => "the end of what differs",
            Self::Sync => "a question how far it is",
            Self::Synced => "the word that all was taken",
            Self::Leaf { .. } => "a leaf of a disk",
            Self::Pages => "pages",
            Self::Part { .. } => "a part",
            Self::Machine { .. } => "a machine",
            Self::Ready => "readiness",
            Self::Refuse(_) => "a refusal",
        }
    }
}

/// A connection that carries frames both ways.
pub struct Stream {
    reader: Box<dyn Read + Send>,
    writer: Box<dyn Write + Send>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

impl Stream {
    /// Over a connection's both ways.
    #[must_use]
    pub fn over(reader: Box<dyn Read + Send>, writer: Box<dyn Write + Send>) -> Self {
        Self { reader, writer }
    }

    pub(super) fn put(&mut self, head: &Head, body: &[u8]) -> Result<(), FrameError> {
        let head = postcard::to_allocvec(head).map_err(|error| FrameError::Malformed(error.to_string()))?;
        let packed = if body.is_empty() {
            Vec::new()
        } else {
            zstd::bulk::compress(body, COMPRESSION_LEVEL)?
        };
        let mut frame = Vec::with_capacity(LENGTHS_BYTES + head.len() + packed.len());
        for length in [head.len(), body.len(), packed.len()] {
            let length = u32::try_from(length).map_err(io::Error::other)?;
            frame.extend_from_slice(&length.to_le_bytes());
        }
        frame.extend_from_slice(&head);
        frame.extend_from_slice(&packed);
        self.writer.write_all(&frame)?;
        Ok(self.writer.flush()?)
    }

    /// The next frame. A refusal is an error.
    pub(super) fn take(&mut self) -> Result<(Head, Vec<u8>), FrameError> {
        let malformed = |what: &str| FrameError::Malformed(what.to_owned());
        let mut lengths = [0; LENGTHS_BYTES];
        self.reader.read_exact(&mut lengths)?;
        let mut numbers = lengths.chunks_exact(4).map(|bytes| {
            let mut word = [0; 4];
            word.copy_from_slice(bytes);
            usize::try_from(u32::from_le_bytes(word)).unwrap_or(usize::MAX)
        });
        let mut next = || numbers.next().unwrap_or_default();
        let (head, raw, packed) = (next(), next(), next());
        if head > TRANSFER_HEAD_BYTES_MAX
            || raw > STATE_PART_BYTES_MAX
            || packed > raw + COMPRESSION_SLACK
            || (raw == 0) != (packed == 0)
        {
            return Err(malformed("its lengths are out of bounds"));
        }
        let mut bytes = vec![0; head];
        self.reader.read_exact(&mut bytes)?;
        let head = match postcard::take_from_bytes(&bytes) {
            Ok((head, [])) => head,
            Ok(_) => return Err(malformed("its head is longer than what it says")),
            Err(error) => return Err(malformed(&error.to_string())),
        };
        if let Head::Refuse(why) = head {
            return Err(FrameError::Refused(why));
        }
        if raw == 0 {
            return Ok((head, Vec::new()));
        }
        // As bytes come, never on a length's word.
        let mut body = Vec::new();
        let count = (&mut self.reader).take(packed as u64).read_to_end(&mut body)?;
        if count < packed {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let body = zstd::bulk::decompress(&body, raw).map_err(|error| malformed(&error.to_string()))?;
        if body.len() != raw {
            return Err(malformed("its body has another length than it says"));
        }
        Ok((head, body))
    }
}
