//! 16550A serial port: COM1 at 0x3F8, IRQ 4, the console.
//!
//! The registers are those of [`vm_superio::Serial`]; around it this folder adds what a console of a replayable
//! machine needs:
//!
//! ```text
//!   guest ──THR──▶ vm-superio ──▶ Effect::ConsoleOutput
//!   guest ◀──RBR── FIFO (64 bytes) ◀── backlog (CONSOLE_INPUT_BYTES_MAX) ◀── console_input
//! ```
//!
//! * Output leaves at the very exit that wrote it; the transmitter is always empty.
//! * Input that the FIFO has no room for waits in the backlog and follows as the guest reads. The worker that reads
//!   the terminal asks [`Serial::input_room`] first; bytes beyond the room are refused, not kept.
//! * IRQ 4 is a *level* derived from the registers after every access: (data ready and enabled, or transmitter empty,
//!   enabled and not yet identified), and OUT2 set, which gates the line on a PC. vm-superio only reports moments at
//!   which an interrupt begins, and its identification register forgets a receive interrupt once read; a 16550
//!   reports it until the data is taken (National PC16550D, table II). So the identification register is answered
//!   here from the same two conditions as the line.
//!
//! As in vm-superio, the FIFOs are always on and FCR is ignored, and the line speed means nothing.

mod device;
mod state;
#[cfg(test)]
mod tests;

pub use device::Serial;
pub use state::SerialState;
