//! Moving a whole machine to another site while it runs (P6).
//!
//! ```text
//!   source                                                              target
//!     Offer, kernel and initrd ───────────────────────────────────────▶ made ready
//!     ◀─────────────────────────────────────────────────────── Accept, or Refuse
//!     disk: all of it, then what was written meanwhile, again and again ▶ replica, syncing
//!       DiskInSync ─▶ driver ─▶ Go::Ram
//!     RAM: all of it, then what was written meanwhile; disk likewise ──▶ kept
//!       RamInSync ─▶ driver ─▶ Go::Stun
//!     the guest stands still: the rest of both, and all else ──────────▶ replica flushed and clean; restored
//!     ◀────────────────────────────────────────────── Ready, or Refuse by what differs
//! ```
//!
//! Nothing of it is undone at the source: whenever it fails, the guest runs on there. The target's replica says `syncing`
//! from before its first byte is overwritten until all of it is there, durably.
//!
//! | file | what |
//! | ---- | ---- |
//! | `frame` | what travels, bounded |
//! | `source`, `target` | both ends, each on a thread of its own |

mod frame;
mod source;
mod target;
#[cfg(test)]
mod tests;

pub use frame::{DiskOffer, FrameError, LineageOffer, Offer, Stream};
pub use source::{Go, News, RunningMachine, Sending, SourceError, send};
pub use target::{Arriving, Reception, TargetError, receive};

use crate::base::parts::Parts;
use crate::base::units::ExitOrdinal;
use crate::machine::{CopiedPage, RamSums};

/// Pages, and how many are still to be copied.
#[derive(Debug)]
pub struct Copied {
    /// Those that were asked for.
    pub pages: Vec<CopiedPage>,
    /// How many more are known of.
    pub left: usize,
}

/// Everything that a machine is besides the RAM that was copied before and its disk, and digests of all of it.
#[derive(Debug)]
pub struct StunnedMachine {
    /// Pages that were not copied before.
    pub pages: Vec<CopiedPage>,
    /// All else.
    pub parts: Parts,
    /// The last counted exit.
    pub position: ExitOrdinal,
    /// Of all RAM.
    pub ram: RamSums,
    /// Of all registers.
    pub vcpu: [u8; 32],
}
