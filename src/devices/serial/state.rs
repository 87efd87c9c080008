//! The port's saved form.

use serde::{Deserialize, Serialize};
use vm_superio::serial::NoEvents;

use super::device::{NoTrigger, Serial};
use crate::base::limits::CONSOLE_INPUT_BYTES_MAX;

/// Registers in the order of their ports, the divisor behind them, then what waits to be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    modem_control: u8,
    line_status: u8,
    modem_status: u8,
    scratch: u8,
    baud_divisor: [u8; 2],
    fifo: Vec<u8>,
    backlog: Vec<u8>,
}

impl Serial {
    /// The saved form.
    #[must_use]
    pub fn save(&self) -> SerialState {
        let uart = self.uart.state();
        SerialState {
            interrupt_enable: uart.interrupt_enable,
            interrupt_identification: uart.interrupt_identification,
            line_control: uart.line_control,
            modem_control: uart.modem_control,
            line_status: uart.line_status,
            modem_status: uart.modem_status,
            scratch: uart.scratch,
            baud_divisor: [uart.baud_divisor_low, uart.baud_divisor_high],
            fifo: uart.in_buffer,
            backlog: self.backlog.iter().copied().collect(),
        }
    }

    /// The port that `state` is of.
    ///
    /// # Errors
    /// What cannot be.
    pub fn restored(state: SerialState) -> Result<Self, &'static str> {
        let [baud_divisor_low, baud_divisor_high] = state.baud_divisor;
        let uart = vm_superio::serial::SerialState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.fifo,
        };
        let uart = vm_superio::Serial::from_state(&uart, NoTrigger, NoEvents, Vec::new());
        if state.backlog.len() > CONSOLE_INPUT_BYTES_MAX {
            return Err("more is typed than the port holds");
        }
        Ok(Self {
            uart: uart.map_err(|_| "its FIFO is overfull")?,
            backlog: state.backlog.into(),
        })
    }
}
