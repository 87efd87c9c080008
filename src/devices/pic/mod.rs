//! 8259A interrupt controller pair with edge/level control registers.
//!
//! Models Intel's 8259A data sheet (order 231468), wired as in a PC: the slave's INT output drives the master's
//! IR2. The ELCR ports (0x4D0, 0x4D1; Intel 82371 § 2.5.7) choose edge or level for each input and stand in for
//! ICW1's LTIM bit, which has no effect there either.
//!
//! ```text
//!   IrqLines ──sync──▶ IRR ──IMR, ISR, priority──▶ interrupt_pending ──acknowledge──▶ vector, ISR
//!               edge: latched until acknowledged          EOI clears ISR
//!               level: follows the line
//! ```
//!
//! Three choices where silicon and a machine that acts only at exits differ:
//!
//! * An edge stays latched until it is acknowledged, even if its line falls before. The chip would answer with its
//!   default IR7; keeping the request is what every PC emulation does, and it is what lets a timer [`pulse`] its
//!   line. A request that arrives while masked or in service is delivered once, afterwards: neither lost nor
//!   doubled.
//! * The master's IR2 *follows* the slave's INT instead of latching its edge. Nothing can then be left over from a
//!   slave request that went away.
//! * The two INTA pulses are one step, so a request cannot vanish between them. Spurious answers (IR7 of the
//!   master, IR7 of the slave as IRQ 15) remain the reply to an acknowledge that finds no request.
//!
//! After creation all inputs are masked and the vectors are those a BIOS sets (0x08, 0x70): the state in which
//! firmware hands the machine over.
//!
//! [`pulse`]: super::IrqLines::pulse

mod device;
#[cfg(test)]
mod tests;

pub use device::Pic;
