//! The console port around `vm_superio::Serial`.

use std::collections::VecDeque;
use std::convert::Infallible;

use vm_superio::serial::{NoEvents, SerialState};

use super::super::{AtExit, Effect, PortDevice, platform, ports_read, ports_written};
use crate::base::limits::CONSOLE_INPUT_BYTES_MAX;

const FIRST_PORT: u16 = *platform::SERIAL_PORTS.start();
const IDENTIFICATION: u8 = 2;

const ENABLE_RECEIVE: u8 = 1 << 0;
const ENABLE_TRANSMIT: u8 = 1 << 1;
const MODEM_OUT2: u8 = 1 << 3;
const MODEM_LOOPBACK: u8 = 1 << 4;
const LINE_DATA_READY: u8 = 1 << 0;
/// Interrupt identification (PC16550D, table II), with the two bits that say the FIFOs are on.
const IDENTIFIED_RECEIVE: u8 = 0xC4;
const IDENTIFIED_TRANSMIT: u8 = 0xC2;
const IDENTIFIED_NONE: u8 = 0xC1;
/// The transmit interrupt in vm-superio's identification register.
const PENDING_TRANSMIT: u8 = 1 << 1;

/// vm-superio's trigger: unused, since the line is a level derived from the registers.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoTrigger;

impl vm_superio::Trigger for NoTrigger {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The console's serial port.
#[derive(Debug)]
pub struct Serial {
    pub(super) uart: vm_superio::Serial<NoTrigger, NoEvents, Vec<u8>>,
    /// Typed bytes that wait for room in the FIFO.
    pub(super) backlog: VecDeque<u8>,
}

impl Default for Serial {
    fn default() -> Self {
        Self::new()
    }
}

impl Serial {
    /// A port as after reset.
    #[must_use]
    pub fn new() -> Self {
        Self {
            uart: vm_superio::Serial::new(NoTrigger, Vec::new()),
            backlog: VecDeque::new(),
        }
    }

    /// How many bytes [`Serial::console_input`] takes now.
    #[must_use]
    pub fn input_room(&self) -> usize {
        CONSOLE_INPUT_BYTES_MAX - self.backlog.len()
    }

    /// Bytes typed at the console. Takes as many as there is room for, drops the rest, and says how many it took.
    pub fn console_input(&mut self, bytes: &[u8], at: &mut AtExit<'_>) -> usize {
        let taken = bytes.len().min(self.input_room());
        self.backlog.extend(&bytes[..taken]);
        self.settle(at);
        taken
    }

    /// Moves input to the FIFO and output to the world, and drives the line.
    fn settle(&mut self, at: &mut AtExit<'_>) {
        let room = self.uart.fifo_capacity().min(self.backlog.len());
        if room > 0 {
            let (front, _) = self.backlog.make_contiguous().split_at(room);
            // In loopback mode the port takes nothing from outside; the bytes wait.
            let taken = self.uart.enqueue_raw_bytes(front).unwrap_or(0);
            self.backlog.drain(..taken);
        }
        at.effects
            .extend(self.uart.writer_mut().drain(..).map(Effect::ConsoleOutput));
        at.irqs.set(platform::SERIAL_IRQ, interrupts(&self.uart.state()));
    }

    fn identify(&mut self) -> u8 {
        let state = self.uart.state();
        if receive_pending(&state) {
            IDENTIFIED_RECEIVE
        } else if transmit_pending(&state) {
            // Reading acknowledges the transmit interrupt, if that is the one reported.
            self.uart.read(IDENTIFICATION);
            IDENTIFIED_TRANSMIT
        } else {
            IDENTIFIED_NONE
        }
    }
}

fn receive_pending(state: &SerialState) -> bool {
    state.interrupt_enable & ENABLE_RECEIVE != 0 && state.line_status & LINE_DATA_READY != 0
}

fn transmit_pending(state: &SerialState) -> bool {
    state.interrupt_enable & ENABLE_TRANSMIT != 0 && state.interrupt_identification & PENDING_TRANSMIT != 0
}

fn interrupts(state: &SerialState) -> bool {
    // Loopback disconnects OUT2 from its pin.
    let gated_on = state.modem_control & (MODEM_OUT2 | MODEM_LOOPBACK) == MODEM_OUT2;
    gated_on && (receive_pending(state) || transmit_pending(state))
}

/// The register at `port`, if it is one of this port's.
fn register(port: u16) -> Option<u8> {
    if !platform::SERIAL_PORTS.contains(&port) {
        return None;
    }
    u8::try_from(port - FIRST_PORT).ok()
}

impl PortDevice for Serial {
    fn port_read(&mut self, port: u16, data: &mut [u8], at: &mut AtExit<'_>) {
        for (port, byte) in ports_read(port, data) {
            match register(port) {
                Some(IDENTIFICATION) => *byte = self.identify(),
                Some(offset) => *byte = self.uart.read(offset),
                None => {}
            }
            self.settle(at);
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8], at: &mut AtExit<'_>) {
        for (port, byte) in ports_written(port, data) {
            if let Some(offset) = register(port) {
                let written = self.uart.write(offset, byte);
                debug_assert!(written.is_ok(), "neither a Vec nor an idle trigger refuses");
            }
            self.settle(at);
        }
    }
}
