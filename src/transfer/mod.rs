//! Moving a whole machine to another site while it runs (P6).
//!
//! ```text
//!   source                                                              target
//!     Offer ──────────────────────────────────────────────────────────▶
//!     ◀──────────────────────────── Want: which of kernel and initrd are not there
//!     those ──────────────────────────────────────────────────────────▶ made ready
//!     ◀──────────────────────────────────── what is marked there; Accept, or Refuse
//!     disk: hashes of what may differ, both ends at once ──────────────▶ replica, syncing
//!     ◀───────────────────────────────────────────────────────── which of them do
//!     what does, then what was written meanwhile, again and again ─────▶ after each pass: all taken
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
//! What may differ is what is marked at either end (D4), or everything where lineage says that marks do not tell; a replica
//! that never held anything gets all that is not zeros, unasked. The source's marks go on growing while it is copied, so
//! what an interrupted transfer has settled needs no second look but for those.
//!
//! | file | what |
//! | ---- | ---- |
//! | `frame` | what travels, bounded |
//! | `source`, `target` | both ends, each on a thread of its own |
//! | `disk` | the source's way with the disk |
//! | `share` | how a guest that writes too fast is slowed |

mod disk;
mod frame;
mod share;
mod source;
mod target;
#[cfg(test)]
mod tests;

pub use disk::Resync;
pub use frame::{
    DiskOffer, FileOffer, FrameError, LineageOffer, Offer, ResyncKind, Stream, Unfit, UnfitKind,
};
pub use source::{Go, MemorySent, News, RunningMachine, Sending, SourceError, send};
pub use target::{Arrived, Arriving, BootFile, Reception, SentFiles, TargetError, receive};

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
