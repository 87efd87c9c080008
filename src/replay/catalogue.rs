//! The catalogue: one enum of everything that a replay must know (R1).

use antipode_disk_sync::online::Slice;

use crate::base::units::VirtualTime;
use crate::devices::DiskRequestId;
use crate::machine::EpochDigests;
use crate::machine::kvm::PostedWrite;

/// One entry of the log. Each says what a replay does with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The exit being handled read this time. The replay answers it.
    TimeRead(VirtualTime),
    /// It was this late, and due timers expired. The replay lets them.
    Expiry(VirtualTime),
    /// A frame came in, with its virtio-net header. The replay delivers the bytes.
    Frame(Vec<u8>),
    /// A disk request ended well, or failed. The replay waits for its own request of that name, and delivers its own
    /// data: what a disk holds is state, and no log carries it (R4).
    Disk {
        /// Which request.
        id: DiskRequestId,
        /// Whether it was done; else the guest saw an I/O error.
        is_done: bool,
    },
    /// Bytes typed at the console. The replay types them.
    Console(Vec<u8>),
    /// Random bytes for the guest's entropy device. The replay gives the same.
    Entropy(Vec<u8>),
    /// The power button was pressed. The replay presses it.
    PowerButton,
    /// The operator stopped the VM. The replay stops.
    Stop,
    /// A page as a guest left it that was stopped while it computed (H1). The replay keeps it for the resumption.
    Page {
        /// Guest physical address, a multiple of the page's size.
        address: u64,
        /// What it differs in from the page that the log last told of, as `super::page_delta` says.
        delta: Vec<u8>,
    },
    /// After all its pages: the vCPU of that guest, and what it wrote without an exit. The replay does not execute the
    /// stretch but becomes its result; the point counts as the next exit.
    Resume {
        /// The vCPU, as [`crate::machine::kvm::VcpuState`] writes it.
        vcpu: Vec<u8>,
        /// What it wrote, and where.
        posted: Vec<PostedWrite>,
    },
    /// An epoch ended before this exit was handled. The replay compares what it is then.
    Epoch(Box<EpochDigests>),
    /// Both copies stand still here, all that came before at this exit done; which of them goes on is said elsewhere (P7).
    /// The replay holds the VM, and compares what it is.
    Stand(Box<EpochDigests>),
    /// A slice of the disk is compared as it is here, all that came before at this exit asked for (D5). The replay holds the VM
    /// for as long as it takes to begin to watch its own disk.
    Verify(Slice),
    /// A piece of what makes a copy the same again that was found to differ (H2), or of a checkpoint (H4). The replay stages
    /// it, if it waits for that.
    Repair(RepairPiece),
    /// From here on the log tells what leaves, and checkpoints, and nothing that enters (H4). The replay compares what it is,
    /// executes nothing more, and becomes what the checkpoints say.
    Checkpoints {
        /// What the machine is here.
        digests: Box<EpochDigests>,
        /// No flush of the guest ends before a checkpoint behind it is durable at the other site (P8).
        flushes_wait: bool,
    },
    /// The log tells again what enters, from where the last checkpoint is of. The replay goes on.
    Replays,
    /// The guest asked its disk to make durable what it wrote. The replay has its own disk do that. A backup need not know
    /// what else comes at this exit to begin (P8).
    Flush,
    /// Something left the VM. The replay compares and sends nothing.
    Output {
        /// What.
        kind: OutputKind,
        /// Of its bytes.
        digest: u64,
    },
}

/// A piece of a repair; they come in this order, and all belong to one exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepairPiece {
    /// Of what the machine is besides its RAM: the next bytes of a part.
    Part {
        /// The part's name.
        name: String,
        /// Its version.
        version: u16,
        /// Bytes.
        content: Vec<u8>,
    },
    /// A page.
    Page {
        /// Guest physical address, a multiple of the page's size.
        address: u64,
        /// What it holds; nothing for zeros.
        content: Vec<u8>,
    },
    /// A leaf of the disk.
    Leaf {
        /// Its number.
        number: u64,
        /// What it holds.
        content: Vec<u8>,
    },
    /// The last one.
    End {
        /// Which of the copy's wishes it answers; none for a checkpoint, as [`crate::replay::CHECKPOINT`].
        number: u64,
        /// Digest of what was written to the disk.
        disk_writes: u64,
        /// What the machine is then.
        digests: Box<EpochDigests>,
    },
}

/// What kind of thing left a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// A frame.
    Frame,
    /// Console bytes.
    Console,
    /// The machine switched itself off.
    PowerOff,
}

impl OutputKind {
    /// For messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frame => "a frame",
            Self::Console => "console output",
            Self::PowerOff => "power-off",
        }
    }
}

impl Entry {
    /// Bytes of content that it carries, beyond its position and its kind.
    #[must_use]
    pub const fn content_bytes(&self) -> usize {
        match self {
            Self::Frame(bytes)
            | Self::Console(bytes)
            | Self::Entropy(bytes)
            | Self::Page { delta: bytes, .. }
            | Self::Resume { vcpu: bytes, .. }
            | Self::Repair(
                RepairPiece::Part { content: bytes, .. }
                | RepairPiece::Page { content: bytes, .. }
                | RepairPiece::Leaf { content: bytes, .. },
            ) => bytes.len(),
            Self::TimeRead(_)
            | Self::Expiry(_)
            | Self::Disk { .. }
            | Self::PowerButton
            | Self::Stop
            | Self::Epoch(_)
            | Self::Stand(_)
            | Self::Verify(_)
            | Self::Checkpoints { .. }
            | Self::Replays
            | Self::Flush
            | Self::Repair(RepairPiece::End { .. })
            | Self::Output { .. } => 0,
        }
    }

    /// The kind, for messages and statistics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::TimeRead(_) => "time-read",
            Self::Expiry(_) => "expiry",
            Self::Frame(_) => "frame",
            Self::Disk { .. } => "disk",
            Self::Console(_) => "console",
            Self::Entropy(_) => "entropy",
            Self::PowerButton => "power-button",
            Self::Stop => "stop",
            Self::Page { .. } => "page",
            Self::Resume { .. } => "resume",
            Self::Epoch(_) => "epoch",
            Self::Stand(_) => "stand",
            Self::Verify(_) => "verify",
            Self::Flush => "flush",
            Self::Repair(_) => "repair",
            Self::Checkpoints { .. } => "checkpoints",
            Self::Replays => "replays",
            Self::Output { .. } => "output",
        }
    }
}
