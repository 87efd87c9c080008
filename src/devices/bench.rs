//! A bench for register-level tests: everything an [`AtExit`] needs, and `in`/`out` as a guest would issue them.

use std::time::Duration;

use super::{AtExit, Effect, IrqLines, PortDevice};
use crate::base::guest_memory::GuestMemory;
use crate::base::units::VirtualTime;

/// Holds what devices see while an exit is handled; tests move its clock.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) now: VirtualTime,
    pub(crate) irqs: IrqLines,
    pub(crate) effects: Vec<Effect>,
    memory: GuestMemory,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            now: VirtualTime::ZERO,
            irqs: IrqLines::default(),
            effects: Vec::new(),
            memory: GuestMemory::allocate(1 << 20).unwrap(),
        }
    }

    /// One exit, at the bench's present time.
    pub(crate) fn at(&mut self) -> AtExit<'_> {
        AtExit {
            now: self.now,
            memory: &self.memory,
            irqs: &mut self.irqs,
            effects: &mut self.effects,
        }
    }

    /// Lets virtual time pass.
    pub(crate) fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
    }

    /// Whether `line` rose since the last call that asked; forgets the edges of all lines.
    pub(crate) fn rose(&mut self, line: u8) -> bool {
        self.irqs.take_rising() & (1 << line) != 0
    }

    /// Whether `line` is high.
    pub(crate) fn is_high(&self, line: u8) -> bool {
        self.irqs.levels() & (1 << line) != 0
    }

    pub(crate) fn outb(&mut self, device: &mut impl PortDevice, port: u16, value: u8) {
        device.port_write(port, &[value], &mut self.at());
    }

    pub(crate) fn outw(&mut self, device: &mut impl PortDevice, port: u16, value: u16) {
        device.port_write(port, &value.to_le_bytes(), &mut self.at());
    }

    pub(crate) fn inb(&mut self, device: &mut impl PortDevice, port: u16) -> u8 {
        let mut data = [0];
        device.port_read(port, &mut data, &mut self.at());
        data[0]
    }

    pub(crate) fn inw(&mut self, device: &mut impl PortDevice, port: u16) -> u16 {
        let mut data = [0; 2];
        device.port_read(port, &mut data, &mut self.at());
        u16::from_le_bytes(data)
    }

    pub(crate) fn inl(&mut self, device: &mut impl PortDevice, port: u16) -> u32 {
        let mut data = [0; 4];
        device.port_read(port, &mut data, &mut self.at());
        u32::from_le_bytes(data)
    }
}
