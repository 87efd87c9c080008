//! Device models: pure state machines that act only while an exit is handled.
//!
//! A model holds no thread, no descriptor and no clock. It is called with an [`AtExit`], the one moment at which
//! it may look at virtual time, guest memory and interrupt lines, and it answers with [`Effect`]s: data that the
//! machine carries to the outside world. What comes back from outside is an [`Input`], handed in at a later exit.
//! Same inputs at the same exits give the same state, so every device is replayable by construction (E1, R1).
//!
//! ```text
//!   guest ──port access──▶ Board ──▶ device ──Effect──▶ machine ──▶ workers (host buffers only)
//!   guest ◀──interrupt──── PIC  ◀── IrqLines ◀── device ◀──Input── machine ◀── workers
//! ```
//!
//! Every device has a folder with the same file names: `mod.rs` (what it models, from which manual), `device.rs`
//! (registers and behaviour), `state.rs` (its saved form, unless the registers are that themselves), `tests.rs`.

pub mod acpi_pm;
#[cfg(test)]
mod bench;
pub mod board;
pub mod hpet;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod platform;
pub mod rtc;
pub mod serial;
pub mod virtio;
pub mod virtio_blk;
pub mod virtio_net;
pub mod virtio_rng;

use serde::{Deserialize, Serialize};

use crate::base::buffer_pool::Buffer;
use crate::base::guest_memory::GuestMemory;
use crate::base::units::VirtualTime;

/// More ticks than any timer's clock has in a guest's life: bounds what a saved state may claim.
const TICKS_MAX: u64 = 1 << 62;

/// What a device model may see and do while one exit is handled.
#[derive(Debug)]
pub struct AtExit<'a> {
    /// Virtual time of this exit; the same for all devices.
    pub now: VirtualTime,
    /// Guest RAM.
    pub memory: &'a GuestMemory,
    /// Interrupt request lines into the PIC.
    pub irqs: &'a mut IrqLines,
    /// What the outside world shall do.
    pub effects: &'a mut Vec<Effect>,
}

/// A device that answers I/O ports. `port` is the absolute port number of the access's first byte, and lies in the
/// ranges that [`platform`] gives the device.
///
/// `data` is 1, 2 or 4 bytes long, as the guest's access was; it may reach past the device's last register. A model
/// must accept every port and length: what it does not decode reads as ones and ignores writes, as an ISA bus does.
pub trait PortDevice {
    /// The guest reads `data.len()` bytes at `port`.
    fn port_read(&mut self, port: u16, data: &mut [u8], at: &mut AtExit<'_>);
    /// The guest writes `data` at `port`.
    fn port_write(&mut self, port: u16, data: &[u8], at: &mut AtExit<'_>);
}

/// The ports that a read from `first` on reaches, each with the byte it answers, which reads as ones until then: a port
/// is a byte wide, and a wider access means as many ports in turn. What reaches past the last port of all is not there.
fn ports_read(first: u16, data: &mut [u8]) -> impl Iterator<Item = (u16, &mut u8)> {
    data.fill(0xFF);
    (first..=u16::MAX).zip(data)
}

/// The ports that a write from `first` on reaches, each with the byte it gets, as [`ports_read`] has them.
fn ports_written(first: u16, data: &[u8]) -> impl Iterator<Item = (u16, u8)> {
    (first..=u16::MAX).zip(data.iter().copied())
}

/// What a device asks of the outside world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A byte for the console.
    ConsoleOutput(u8),
    /// A disk request, its write data already copied out of guest memory.
    Disk(DiskRequest),
    /// A frame for the network, already copied out of guest memory.
    Transmit(Frame),
    /// The entropy device wants this many bytes, at most `limits::ENTROPY_BYTES_MAX`.
    EntropyWanted {
        /// How many bytes.
        byte_count: usize,
    },
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest broke a device's rules; its VM stops with this error.
    Fault(GuestFault),
}

/// What the outside world hands to a device at an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A received frame, with its virtio-net header.
    Frame(Frame),
    /// A disk request has ended.
    Disk(DiskCompletion),
    /// Bytes typed at the console.
    Console(Vec<u8>),
    /// Random bytes, in answer to [`Effect::EntropyWanted`].
    Entropy(Vec<u8>),
    /// The operator pressed the power button.
    PowerButton,
}

/// An Ethernet frame led by its 12-byte virtio-net header (virtio 1.2 § 5.1.6), at most `limits::FRAME_BYTES_MAX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(pub Vec<u8>);

/// Names a disk request: a serial number that its device never uses twice, not even after a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DiskRequestId(pub u64);

/// A disk request in host buffers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskRequest {
    /// Its name.
    pub id: DiskRequestId,
    /// What to do.
    pub operation: DiskOperation,
}

/// What a disk request does. Ranges are inside the disk: the device has checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskOperation {
    /// Read `byte_count` bytes from `offset`.
    Read {
        /// First byte on the disk.
        offset: u64,
        /// How many bytes.
        byte_count: usize,
    },
    /// Write `data` at `offset`.
    Write {
        /// First byte on the disk.
        offset: u64,
        /// The bytes.
        data: Buffer,
    },
    /// Make every completed write durable.
    Flush,
}

impl DiskOperation {
    /// A write's bytes; none of another request.
    #[must_use]
    pub fn written(&self) -> Option<std::ops::Range<u64>> {
        match self {
            Self::Write { offset, data } => {
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                Some(*offset..offset.saturating_add(length))
            }
            Self::Read { .. } | Self::Flush => None,
        }
    }
}

/// How a disk request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskCompletion {
    /// Which request.
    pub id: DiskRequestId,
    /// What happened.
    pub outcome: DiskOutcome,
}

/// What happened to a disk request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskOutcome {
    /// A read: the bytes.
    Read(Buffer),
    /// A write or flush: done.
    Done,
    /// The host could not do it; the guest sees an I/O error.
    Failed,
}

/// A guest that breaks a device's rules (S2). It stops its own VM and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the guest broke a rule of {device}: {what}")]
pub struct GuestFault {
    /// The device by name, as in `virtio-blk`.
    pub device: &'static str,
    /// What it did, with the offending numbers.
    pub what: String,
}

/// The sixteen interrupt request lines of the PIC pair: present levels, and rising edges not yet seen by the PIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IrqLines {
    levels: u16,
    rising: u16,
}

impl IrqLines {
    /// Drives `line` (0 to 15) high or low.
    pub fn set(&mut self, line: u8, high: bool) {
        let bit = 1_u16 << (line & 15);
        if high {
            self.rising |= bit & !self.levels;
            self.levels |= bit;
        } else {
            self.levels &= !bit;
        }
    }

    /// Drives `line` high and low again: an edge.
    pub fn pulse(&mut self, line: u8) {
        self.set(line, false);
        self.set(line, true);
        self.set(line, false);
    }

    /// Present levels, one bit a line.
    #[must_use]
    pub fn levels(&self) -> u16 {
        self.levels
    }

    /// Takes the rising edges since the last call, one bit a line.
    pub fn take_rising(&mut self) -> u16 {
        std::mem::take(&mut self.rising)
    }
}
