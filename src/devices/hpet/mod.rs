//! High-precision event timer (HPET): the timer that lets an idle guest sleep.
//!
//! Models the IA-PC HPET specification 1.0a with one block of three 32-bit timers at 10 MHz. It is here for one
//! reason: the PIT's 16-bit counts wake an idle Linux 37 times a second, and each waking costs a dozen exits; the
//! HPET's reach of minutes lets it sleep until it has something to do.
//!
//! ```text
//!   legacy routing off: the PIT drives IRQ 0, the RTC drives IRQ 8; timers here raise nothing
//!   legacy routing on:  timer 0 drives IRQ 0, timer 1 drives IRQ 8; PIT and RTC are cut off (§ 2.3.9.1)
//! ```
//!
//! Like the PIT's, all arithmetic is in whole ticks since the VM was created: the main counter is a base plus elapsed
//! ticks, a match is the next tick at which counter and comparator are equal, and nothing runs between exits.
//!
//! The guest reads the registers from a page of memory, without an exit ([`Hpet::registers`]); only writes come here.
//! What the page shows changes at exits alone, so a guest that reads the counter twice between two exits reads the same
//! time twice. A comparator that the guest derives from the counter therefore never lies in the past it can see.
//!
//! What differs from silicon, because a PIC-only board has no use for it: no routing to an I/O APIC and no message
//! interrupts; in legacy mode both timers are edge-triggered, whatever their type bit says.

mod device;
#[cfg(test)]
mod tests;

pub use device::{EVENT_TIMER_BLOCK, Hpet};
