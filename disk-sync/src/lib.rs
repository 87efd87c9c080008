//! Disk replicas: what is known of each, and how two of them become equal (D1 to D6).
//!
//! ```text
//!   disk ──▶ protocol ──▶ tree ──▶ image
//!    │  │        └──▶ decision ──┐
//!    │  └─────▶ online ────────┐ │
//!    └──▶ replica ◀────────────┴─┘
//! ```
//!
//! - [`image`]: bytes at an offset, a file or block device.
//! - [`tree`]: what names an image's content, and where two contents differ.
//! - [`replica`]: VM, lineage, state, dirty map and activity log, kept beside an image through any crash.
//! - [`decision`]: nothing, part, all, or refused: a table.
//! - [`protocol`]: a session between two ends, over any line, resumed after any interruption.
//! - [`online`]: the same under a guest that writes; pure, for the site's driver to carry out.
//! - [`disk`]: all of it for files.
//!
//! Time is a [`protocol::Clock`] and names are drawn by the caller: nothing here reads a clock or a random source.
#![forbid(unsafe_code)]

pub(crate) mod codec;
pub mod decision;
pub mod disk;
pub mod image;
mod leaf_set;
pub mod limits;
pub mod online;
pub mod protocol;
pub mod replica;
pub mod tree;
pub mod units;

pub use codec::Malformed;
pub use leaf_set::LeafSet;
