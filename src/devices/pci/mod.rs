//! The PCI bus: configuration mechanism 1, a host bridge, and the virtio devices of this VM.
//!
//! Models PCI Local Bus 3.0 § 3.2.2.3.2 (mechanism 1), § 6.1 to 6.2 (header type 0, command, status, BAR sizing) and
//! § 6.7 (capabilities), as far as a driver of an I/O-port device needs them. Bus 0 alone, function 0 of each slot
//! alone; all else reads as ones.
//!
//! ```text
//!   0xCF8 CONFIG_ADDRESS  enable │ bus │ slot │ function │ register      dword writes only
//!   0xCFC CONFIG_DATA     byte, word or dword of the register chosen
//!   platform::PCI_IO_WINDOW   by the BARs that are present: 256 bytes each, decoded while command.IO is set
//! ```
//!
//! The slots, and the interrupt line that each INTA# is wired to, come from [`platform`](super::platform). As
//! firmware would, the board comes up with BARs assigned and I/O decoding on. A guest may move a BAR; outside the
//! window it is unreachable, and of two BARs that overlap the lower slot's answers. There is no MSI: with it, the
//! 8259 would have to be something else (E1, E4).
//!
//! [`PciBus`] is what the machine talks to: ports in, effects out, and the inputs that come back.

pub mod config_space;
mod device;
#[cfg(test)]
mod tests;

pub use device::{PciBus, PciCounters, PciDevices};
