//! MC146818 real-time clock with 128 bytes of CMOS RAM.
//!
//! Models Motorola's MC146818A data sheet as a PC has it: index at port 0x70, data at 0x71, IRQ 8, century in byte
//! 0x32 (the FADT names it). The host's wall clock is injected once, as a number, when the VM is created; from then
//! on the time of day is that number plus virtual time plus what the guest set. Nothing here reads a clock (E8).
//!
//! ```text
//!             SET bit or divider reset             the ten time bytes are plain RAM
//!   running ───────────────────────────▶ halted    updates, alarm and update-ended interrupts stop
//!      ▲      both gone: bytes become the time │   (divider reset: the periodic interrupt too)
//!      └───────────────────────────────────────┘
//! ```
//!
//! * Releasing SET keeps the phase of the second, releasing the divider starts it at one half (data sheet, "Divider
//!   Control"): Linux writes the time with both and relies on it.
//! * "Update in progress" is 1 for the last 244 µs of each second and is a function of virtual time alone. Each poll
//!   is an exit and virtual time moves between exits, so a loop that waits for it to change always ends.
//! * Writing a time byte while the clock runs shifts the clock at once; a day that the new month does not have
//!   becomes its last. Guests that set a date halt the clock first. The weekday is a counter of its own, as in the chip.
//! * Flags are computed lazily: [`Rtc::advance`] finds what happened since the last call, [`Rtc::next_deadline`] says
//!   when an *enabled* interrupt is next due. Port 0x70 is write-only, as on a PC.
//! * Daylight saving, the square wave and NMI masking do nothing.

mod calendar;
mod device;
#[cfg(test)]
mod tests;

pub use device::{Rtc, RtcState};
