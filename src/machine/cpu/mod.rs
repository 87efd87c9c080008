//! The processor a guest sees: the table `deterministic`, version 1 (E3).
//!
//! Nothing here comes from the host's values. A host either offers every feature of the table, or is refused by the
//! feature's name. Left out is whatever would let a guest observe something that is no function of its own state:
//! time-stamp counters, random-number instructions, performance counters, TSX, MONITOR, UMWAIT, XSAVE (its in-use
//! bitmap depends on the host), PCID, and SMAP (whose `CLAC` slot at the kernel's `#GP` entry we use, E2).

mod cpuid;
mod msr;

pub use cpuid::{TABLE_NAME, deterministic_table, missing_on_host};
pub use msr::{MsrAnswer, PASSED_RANGES, answer_read, answer_write};

/// Ticks per second of the guest's time-stamp counter, which we answer from virtual time: one tick a nanosecond.
pub const TSC_HERTZ: u64 = 1_000_000_000;
