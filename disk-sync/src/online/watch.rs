//! What of a slice of the disk is as it was at a position, while the guest goes on writing (D5).
//!
//! ```text
//!   position P: the watch begins ── leaves with a write under way are touched
//!        │  a write is submitted  ── its leaves are touched
//!        ▼
//!   a leaf was read, and is not touched afterwards: what was read is its content at P
//! ```
//!
//! Two sites that begin at one position of the log have had the same writes submitted by then, and a leaf that no write is
//! under way to holds all of them. So two contents at P are equal, or the disks differ: a busy disk raises no false alarm,
//! and it waits for nobody.

use std::ops::Range;

use crate::units::{EXTENT_LEAVES, ImageLength, Run};

/// Leaves of one extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slice {
    /// The extent's number.
    pub extent: u64,
    /// A bit for each of its leaves.
    pub leaves: u64,
}

impl Slice {
    /// The numbers of its leaves, with the bit of each.
    pub fn numbers(self) -> impl Iterator<Item = (u64, u64)> {
        let first = self.extent.saturating_mul(EXTENT_LEAVES);
        (0..EXTENT_LEAVES)
            .map(move |place| (first.saturating_add(place), 1 << place))
            .filter(move |(_, bit)| self.leaves & bit != 0)
    }

    /// Those of its leaves that lie in `bytes`, as bits.
    #[must_use]
    pub fn touched_by(self, length: ImageLength, bytes: &Range<u64>) -> u64 {
        let run: Run = length.leaves_touched(bytes);
        let bits = self.numbers().filter(|(leaf, _)| run.indices().contains(leaf));
        bits.fold(0, |bits, (_, bit)| bits | bit)
    }

    /// Whether all of its leaves are there in an image of this length.
    #[must_use]
    pub fn is_within(self, length: ImageLength) -> bool {
        self.numbers().all(|(leaf, _)| leaf < length.leaves())
    }
}

/// Which leaves of a slice have been written to since the watch began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    slice: Slice,
    length: ImageLength,
    touched: u64,
}

impl Watch {
    /// Begins here, in an image of that length, with `under_way` being written.
    pub fn begin<'a>(
        slice: Slice,
        length: ImageLength,
        under_way: impl IntoIterator<Item = &'a Range<u64>>,
    ) -> Self {
        let mut watch = Self {
            slice,
            length,
            touched: 0,
        };
        under_way.into_iter().for_each(|bytes| watch.touch(bytes));
        watch
    }

    /// A write of `bytes` is submitted.
    pub fn touch(&mut self, bytes: &Range<u64>) {
        self.touched |= self.slice.touched_by(self.length, bytes);
    }

    /// Whether the leaf of `bit` is as it was where the watch began.
    #[must_use]
    pub const fn is_as_it_was(&self, bit: u64) -> bool {
        self.slice.leaves & bit == bit && self.touched & bit == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::LEAF_BYTES;

    #[test]
    fn a_leaf_is_as_it_was_until_a_write_to_it_is_submitted() {
        let length = ImageLength::new(100 * LEAF_BYTES).unwrap();
        let slice = Slice {
            extent: 1,
            leaves: 0b1011,
        };
        assert_eq!(slice.numbers().collect::<Vec<_>>(), [(64, 1), (65, 2), (67, 8)]);
        assert!(slice.is_within(length));
        let under_way = 65 * LEAF_BYTES - 1..65 * LEAF_BYTES + 1;
        let mut watch = Watch::begin(slice, length, [&under_way]);
        assert!(!watch.is_as_it_was(1) && !watch.is_as_it_was(2) && watch.is_as_it_was(8));
        assert!(!watch.is_as_it_was(4), "it is not of the slice");
        watch.touch(&(66 * LEAF_BYTES..67 * LEAF_BYTES));
        assert!(watch.is_as_it_was(8));
        watch.touch(&(67 * LEAF_BYTES + 7..67 * LEAF_BYTES + 8));
        assert!(!watch.is_as_it_was(8));
    }

    #[test]
    fn a_slice_that_no_image_has_is_seen() {
        let length = ImageLength::new(100 * LEAF_BYTES).unwrap();
        for (extent, leaves) in [(1, 1 << 40), (2, 1), (u64::MAX, u64::MAX)] {
            assert!(!Slice { extent, leaves }.is_within(length));
        }
    }
}
