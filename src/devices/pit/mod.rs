//! 8254 programmable interval timer, with port 0x61 (gate and output of channel 2).
//!
//! Models Intel's 8254 data sheet (order 231164) and "system control port B" of the PC.
//!
//! All arithmetic is in whole ticks of the input clock since the VM was created, `now.ticks_at(PIT_HERTZ)`. A
//! counter remembers the tick at which its count was loaded (the first one after the write, as in the data sheet);
//! its value, its output and every later edge follow from that by arithmetic. So nothing has to run between exits,
//! and a period of *n* ticks is *n* ticks for ever: deadlines come from the load instant and never drift.
//!
//! ```text
//!   control word ──▶ stopped ──count written──▶ counting ──gate low──▶ paused (modes 0, 4) or stopped (2, 3)
//!                       ▲     (1, 5: gate rises)    │                     │
//!                       └───── control word ────────┴──◀── gate high ─────┘
//! ```
//!
//! Channel 0 raises IRQ 0 when its output rises: [`Pit::next_deadline`] says when, [`Pit::advance`] does it. Periods
//! that all passed since the last exit give one edge, because the PIC would merge them anyway.
//!
//! What differs from silicon, because no software can rely on it:
//!
//! * The output also rises when a control word ends mode 0; IRQ 0 does not, as nothing came due.
//! * In mode 3 a new count takes over at the end of the whole period, not of the half.
//! * The refresh bit of port 0x61 is derived from time alone; channel 1 drives nothing.

mod counter;
mod device;
#[cfg(test)]
mod tests;

pub use device::Pit;
