//! virtio-net: the guest's network interface.
//!
//! Models virtio 1.2 § 5.1 with one receive and one transmit queue, no control queue, and the features `MAC`,
//! `STATUS`, `MRG_RXBUF`, `MTU` if configured, and the offloads that the host's TAP can do. A [`Frame`](super::Frame)
//! is led by its 12-byte header in both directions, as a TAP with `IFF_VNET_HDR` and a header size of 12 has it.
//!
//! # Transmit
//! A kick takes every chain offered, copies the frames out and returns the chains at once: nothing of the guest's is
//! held while the host sends. Bits of the header that no feature allows are cleared, `num_buffers` too, so that equal
//! frames are equal bytes at both sites (R5). A frame that no TAP would take (over-long, cut short, an offload that
//! was not negotiated) is dropped and counted, as a wire drops it; it is not worth stopping a VM for.
//!
//! # Receive
//! A frame enters the ring only when handed in at an exit (R5). Frames without a buffer wait, up to
//! `limits::RECEIVE_FRAMES_PENDING_MAX`, then further ones are dropped and counted. Only while frames wait does the
//! guest have reason to kick after a refill, so only then is it asked to. With no driver running, frames are dropped.
//!
//! What the driver has not negotiated is mended where that is cheap (a checksum left undone is filled in) and
//! dropped where it is not (segmentation offload);
//! [`PciBus::receive_offloads`](super::pci::PciBus::receive_offloads) tells the machine what the TAP may leave undone.
//!
//! [`device`] holds registers and flow, `header` the 12 bytes and the rules about them.

pub mod device;
mod header;
#[cfg(test)]
mod tests;

pub use device::{NetworkConfig, NetworkCounters, VirtioNet};
pub use header::Offloads;
