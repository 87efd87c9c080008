//! virtio 1.2 over PCI: the transport that virtio-blk, virtio-net and virtio-rng share.
//!
//! Models virtio 1.2 (OASIS CS01) § 2 (status, features, split virtqueues) and § 4.1 (virtio over PCI), modern only.
//! [`device`] holds the registers, [`ring`] the virtqueues, [`chain`] the descriptor chains.
//!
//! # Why everything sits in one I/O-port BAR
//! A port access leaves the guest as `KVM_EXIT_IO` with port, width and value spelt out; a memory-mapped one makes
//! KVM decode and emulate the instruction first. Linux maps virtio capabilities through `pci_iomap_range`, which
//! takes either kind, so all five structures lie in BAR 0, 256 bytes:
//!
//! ```text
//!   0x00 common configuration   60 bytes
//!   0x40 notifications           4 bytes a queue (the queue is told by the port, the value is not looked at)
//!   0x60 ISR                     1 byte, a read clears it and lowers INTA#
//!   0x80 device configuration   64 bytes
//! ```
//!
//! There is no MSI: interrupts are level-triggered INTA# into the 8259, active while an ISR bit is set.
//!
//! # Few exits
//! The guest stands still while a device works, so a queue never needs to be silenced for a batch. What saves exits:
//! `EVENT_IDX` both ways; notifications of a receive queue stay off until a frame waits for a buffer; every input
//! (completion, frame) also serves the rings, which makes a later kick needless; a batch of inputs ends in one
//! look at whether the guest wants an interrupt.
//!
//! # Life of a device
//! ```text
//!   Reset ─ACKNOWLEDGE, DRIVER─▶ Probed ─FEATURES_OK, kept only if sound─▶ Negotiated ─DRIVER_OK─▶ Running
//!     ▲                                                                                              │
//!     └───────────── the guest writes 0 to the status, from any state ◀── Dead ◀── a broken rule ────┘
//! ```
//! Rings and buffers are touched in *Running* alone, and only while the command register makes the function bus
//! master. *Dead* ignores everything but reset: the guest broke a rule (S2), which is told by
//! [`Effect::Fault`](super::Effect::Fault), and by `DEVICE_NEEDS_RESET` in the status.
//!
//! # Bounds
//! Work at one exit is bounded: a device takes at most as many chains as were available when it first looked, or as
//! the frames handed to it need, so rings that a guest lays over each other cannot spin it. A chain has at most
//! `limits::VIRTQUEUE_SIZE_MAX` descriptors. Every buffer is checked against RAM when its chain is taken. A head that
//! the device still holds cannot be offered again, so what a queue keeps is bounded too.

pub mod chain;
pub mod device;
pub mod ring;
mod state;
#[cfg(test)]
pub(crate) mod test_guest;
#[cfg(test)]
mod tests;

pub use chain::{Chain, ChainState};
pub use device::{Identity, VirtioDevice, VirtioPci};
pub use ring::{RingFault, Virtqueue};

/// A constant of `virtio-bindings`, all of which are 32 bits wide, as the byte it is on the wire.
pub(super) const fn byte(constant: u32) -> u8 {
    assert!(constant <= 0xFF);
    constant.to_le_bytes()[0]
}

/// A constant of `virtio-bindings` as the 16-bit word it is on the wire.
pub(super) const fn word(constant: u32) -> u16 {
    assert!(constant <= 0xFFFF);
    let [low, high, _, _] = constant.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// A feature bit's mask, from its number in `virtio-bindings`.
#[must_use]
pub const fn feature(number: u32) -> u64 {
    1 << number
}
