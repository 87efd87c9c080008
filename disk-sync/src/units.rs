//! Quantities of an image. Three sizes cut it up, each a power of two and a multiple of the one before.
//!
//! ```text
//!   leaf    64 KiB   what is hashed, compared and sent; one bit of a dirty map
//!   region   1 MiB   16 leaves: what is compared first
//!   extent   4 MiB   64 leaves, one word of a dirty map
//! ```
//!
//! A fourth one follows from the image's length: a **zone** is what the activity log counts, an extent or, of an image above
//! 256 GiB, as many of them as it takes to have at most [`ZONES_MAX`] zones.
//!
//! The last leaf, region, extent and zone of an image may be short.

use std::ops::Range;

use crate::limits::{IMAGE_BYTES_MAX, ZONES_MAX};

/// Bytes of a mebibyte.
pub const MEBIBYTE: u64 = 1024 * 1024;

/// Bytes of a leaf. Below 16 KiB the lanes of BLAKE3 starve; above, a changed sector drags more along.
pub const LEAF_BYTES: u64 = 64 * 1024;

/// Bytes of a region.
pub const REGION_BYTES: u64 = MEBIBYTE;

/// Bytes of an extent.
pub const EXTENT_BYTES: u64 = 4 * MEBIBYTE;

/// Leaves of a whole region.
pub const REGION_LEAVES: usize = 16;

/// Leaves of a whole extent.
pub const EXTENT_LEAVES: u64 = 64;

const _: () = assert!(LEAF_BYTES * REGION_LEAVES as u64 == REGION_BYTES);
const _: () = assert!(LEAF_BYTES * EXTENT_LEAVES == EXTENT_BYTES);
const _: () = assert!(usize::BITS == 64, "lengths of images are counted in usize");

/// A count of bytes in memory.
#[expect(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits, as is asserted above"
)]
#[must_use]
pub(crate) const fn in_memory(count: u64) -> usize {
    count as usize
}

/// A count of things in memory.
#[must_use]
pub(crate) const fn on_disk(count: usize) -> u64 {
    count as u64
}

/// The bytes of an image, from 0 to the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageLength(u64);

/// An image of more bytes than are supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an image of {0} bytes is larger than the {IMAGE_BYTES_MAX} bytes that are supported")]
pub struct TooLong(pub u64);

impl ImageLength {
    /// An image of `bytes`.
    ///
    /// # Errors
    /// [`TooLong`].
    pub const fn new(bytes: u64) -> Result<Self, TooLong> {
        if bytes > IMAGE_BYTES_MAX {
            return Err(TooLong(bytes));
        }
        Ok(Self(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Its leaves, the last of which may be short.
    #[must_use]
    pub const fn leaves(self) -> u64 {
        self.0.div_ceil(LEAF_BYTES)
    }

    /// Its regions, the last of which may be short.
    #[must_use]
    pub const fn regions(self) -> u64 {
        self.0.div_ceil(REGION_BYTES)
    }

    /// Its extents, the last of which may be short.
    #[must_use]
    pub const fn extents(self) -> u64 {
        self.0.div_ceil(EXTENT_BYTES)
    }

    /// Extents of a whole zone: a power of two.
    const fn extents_per_zone(self) -> u64 {
        self.extents().div_ceil(ZONES_MAX as u64).next_power_of_two()
    }

    /// Its zones, the last of which may be short.
    #[must_use]
    pub(crate) fn zones(self) -> u32 {
        zone_number(self.extents().div_ceil(self.extents_per_zone()))
    }

    /// The leaves of the zone, and those that would follow if it is short.
    #[must_use]
    pub(crate) fn leaves_of_zone(self, zone: u32) -> Run {
        let count = self.extents_per_zone() * EXTENT_LEAVES;
        Run::new(u64::from(zone) * count, count)
    }

    /// The zones that `bytes` touch.
    #[must_use]
    pub(crate) fn zones_touched(self, bytes: &Range<u64>) -> Range<u32> {
        let zone_bytes = self.extents_per_zone() * EXTENT_BYTES;
        let first = bytes.start / zone_bytes;
        let end = if bytes.is_empty() {
            first
        } else {
            bytes.end.div_ceil(zone_bytes)
        };
        zone_number(first)..zone_number(end)
    }

    /// Where the bytes of `leaves` lie.
    #[must_use]
    pub fn bytes_of(self, leaves: &Run) -> Range<u64> {
        let end = leaves.end().saturating_mul(LEAF_BYTES).min(self.0);
        (leaves.first * LEAF_BYTES).min(end)..end
    }

    /// The leaves of the region.
    #[must_use]
    pub fn leaves_of(self, region: u64) -> Run {
        let first = region * on_disk(REGION_LEAVES);
        Run::new(
            first,
            self.leaves().saturating_sub(first).min(on_disk(REGION_LEAVES)),
        )
    }

    /// Every leaf.
    #[must_use]
    pub fn all_leaves(self) -> Run {
        Run::new(0, self.leaves())
    }

    /// The leaves that `bytes` touch.
    #[must_use]
    pub fn leaves_touched(self, bytes: &Range<u64>) -> Run {
        let end = bytes.end.min(self.0).div_ceil(LEAF_BYTES);
        let first = (bytes.start / LEAF_BYTES).min(end);
        Run::new(first, if bytes.is_empty() { 0 } else { end - first })
    }
}

/// What lies beyond every image is in its last zone: nobody may write there anyway.
fn zone_number(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Some leaves, or regions, in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// The first.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Run {
    /// `count` from `first` on.
    #[must_use]
    pub const fn new(first: u64, count: u64) -> Self {
        Self { first, count }
    }

    /// The one after the last.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }

    /// Each of them.
    #[must_use]
    pub const fn indices(&self) -> Range<u64> {
        self.first..self.end()
    }
}
