//! What the switch and the disks say about two sites, whatever the sites say themselves (L4). Pure, but for the files.
//!
//! ```text
//!   capture ── sightings ──▶ who sent the VM's frames, and when ──▶ reigns ── against who may have ──▶ violations
//!   kept frames ── as on a cable ──▶ what the winner has made ───────────────────────┘
//!   two disks ── differing ──▶ leaves that are not the same
//! ```
//!
//! - [`frames`]: the VM's frames in a capture. - [`live`]: who was live, and frames that split the brain.
//! - [`made`]: what the winner's guest has made. - [`cable`]: a guest's frames as a cable carries them.
//! - [`replicas`]: two disks, byte for byte.

pub mod cable;
pub mod frames;
pub mod live;
pub mod made;
pub mod replicas;
