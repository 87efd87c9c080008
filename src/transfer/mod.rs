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
//! | `share` | how a guest that writes too fast is slowed |

mod frame;
mod share;
mod source;
mod target;
#[cfg(test)]
mod tests;

pub use frame::{DiskOffer, FrameError, LineageOffer, Offer, Stream, Unfit, UnfitKind};
pub use source::{Go, News, RunningMachine, Sending, SourceError, send};
pub use target::{Arrived, Arriving, Reception, TargetError, receive};

use crate::base::parts::Parts;
use crate::base::units::ExitOrdinal;

/// Everything that a machine is which stands still, besides its RAM and its disk.
#[derive(Debug)]
pub struct Stunned {
    /// Addresses of pages that were written since they were last asked for.
    pub written: Vec<u64>,
    /// All else.
    pub parts: Parts,
    /// The last counted exit.
    pub position: ExitOrdinal,
    /// The digest of all registers.
    pub vcpu: [u8; 32],
}
