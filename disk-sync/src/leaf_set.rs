//! A set of leaves, as one bit each: 2 MiB for 1 TiB. Dirty maps and lists of work are such sets.

use crate::online::Slice;
use crate::units::{EXTENT_LEAVES, ImageLength, REGION_LEAVES, Run, in_memory, on_disk};

/// A set of an image's leaves. A word holds the leaves of one extent.
#[derive(Clone, PartialEq, Eq)]
pub struct LeafSet {
    length: ImageLength,
    words: Vec<u64>,
}

impl std::fmt::Debug for LeafSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.runs()).finish()
    }
}

impl LeafSet {
    /// No leaf of an image of this length.
    #[must_use]
    pub fn none(length: ImageLength) -> Self {
        Self {
            length,
            words: vec![0; in_memory(length.extents())],
        }
    }

    /// Every leaf.
    #[must_use]
    pub fn all(length: ImageLength) -> Self {
        let mut set = Self::none(length);
        set.insert(&length.all_leaves());
        set
    }

    /// The image's length.
    #[must_use]
    pub const fn length(&self) -> ImageLength {
        self.length
    }

    /// Adds `leaves`; those beyond the image are not there to add.
    pub fn insert(&mut self, leaves: &Run) {
        self.change(leaves, |word, mask| *word |= mask);
    }

    /// Takes `leaves` out.
    pub fn remove(&mut self, leaves: &Run) {
        self.change(leaves, |word, mask| *word &= !mask);
    }

    fn change(&mut self, leaves: &Run, change: impl Fn(&mut u64, u64)) {
        let end = leaves.end().min(self.length.leaves());
        let mut at = leaves.first;
        while at < end {
            let (word, bit) = (at / EXTENT_LEAVES, at % EXTENT_LEAVES);
            let count = (EXTENT_LEAVES - bit).min(end - at);
            change(&mut self.words[in_memory(word)], mask(bit, count));
            at += count;
        }
    }

    /// Adds all of `other`, a set of the same image.
    ///
    /// # Panics
    /// If the images differ in length.
    pub fn unite(&mut self, other: &Self) {
        assert_eq!(self.length, other.length, "sets of two images");
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Whether the leaf is in it.
    #[must_use]
    pub fn contains(&self, leaf: u64) -> bool {
        let word = self.words.get(in_memory(leaf / EXTENT_LEAVES));
        word.is_some_and(|word| word >> (leaf % EXTENT_LEAVES) & 1 == 1)
    }

    /// Whether none is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// How many are in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The leaves in a row that are in it, in order, each run as long as can be.
    pub fn runs(&self) -> impl Iterator<Item = Run> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let first = self.next(at, true)?;
            at = self.next(first, false).unwrap_or(self.length.leaves());
            Some(Run::new(first, at - first))
        })
    }

    /// The first leaf from `at` on that is in it, or not.
    fn next(&self, at: u64, wanted: bool) -> Option<u64> {
        let flip = if wanted { 0 } else { u64::MAX };
        let (mut word, bit) = (in_memory(at / EXTENT_LEAVES), at % EXTENT_LEAVES);
        let mut bits = (self.words.get(word)? ^ flip) >> bit << bit;
        while bits == 0 {
            word += 1;
            bits = self.words.get(word)? ^ flip;
        }
        let found = on_disk(word) * EXTENT_LEAVES + u64::from(bits.trailing_zeros());
        (found < self.length.leaves()).then_some(found)
    }

    /// The first leaves of it, as many as one extent has of them, and `count` at most.
    #[must_use]
    pub fn first_slice(&self, count: u32) -> Option<Slice> {
        let word = self.words.iter().position(|word| *word != 0)?;
        let mut leaves = self.words[word];
        while leaves.count_ones() > count {
            leaves ^= 1 << (u64::BITS - 1 - leaves.leading_zeros());
        }
        (leaves != 0).then_some(Slice {
            extent: on_disk(word),
            leaves,
        })
    }

    /// Regions in a row that hold a leaf of it, from `region` on.
    #[must_use]
    pub fn next_regions(&self, region: u64) -> Option<Run> {
        let per_region = on_disk(REGION_LEAVES);
        let first = self.next(region.checked_mul(per_region)?, true)? / per_region;
        let mut end = first + 1;
        while end < self.length.regions() && self.touches(end) {
            end += 1;
        }
        Some(Run::new(first, end - first))
    }

    /// Whether a leaf of the region is in it.
    #[must_use]
    pub fn touches(&self, region: u64) -> bool {
        self.leaves_in(region) != 0
    }

    /// Which leaves of the region are in it, the first as the lowest bit.
    #[must_use]
    pub fn leaves_in(&self, region: u64) -> u16 {
        let first = region * on_disk(REGION_LEAVES);
        let word = self.words.get(in_memory(first / EXTENT_LEAVES));
        let bits = word.map_or(0, |word| word >> (first % EXTENT_LEAVES)) & u64::from(u16::MAX);
        u16::try_from(bits).unwrap_or(u16::MAX)
    }

    /// How many regions hold a leaf of it.
    #[must_use]
    pub fn regions(&self) -> u64 {
        let mut count = 0;
        let mut at = 0;
        while let Some(run) = self.next_regions(at) {
            count += run.count;
            at = run.end();
        }
        count
    }

    /// The bits of `count` extents from `first` on, 8 bytes each, as [`LeafSet::unite_bytes`] takes them.
    #[must_use]
    pub fn bytes(&self, first: u64, count: u64) -> Vec<u8> {
        let end = first.saturating_add(count).min(self.length.extents());
        let words = &self.words[in_memory(first.min(end))..in_memory(end)];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Adds the bits of extents from `first` on; those beyond the image are not there to add. False, and nothing is added,
    /// if `bytes` are no whole extents of it.
    #[must_use]
    pub fn unite_bytes(&mut self, first: u64, bytes: &[u8]) -> bool {
        let (words, rest) = bytes.as_chunks();
        let end = first.checked_add(on_disk(words.len()));
        if !rest.is_empty() || end.is_none_or(|end| end > self.length.extents()) {
            return false;
        }
        for (extent, word) in (first..).zip(words) {
            self.unite_word(extent, u64::from_le_bytes(*word));
        }
        true
    }

    /// The words that hold the bits: that of extent `n` is the `n`th.
    #[must_use]
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Adds `bits` to an extent's word; bits beyond the image are dropped.
    pub(crate) fn unite_word(&mut self, extent: u64, bits: u64) {
        let first = extent * EXTENT_LEAVES;
        let count = self.length.leaves().saturating_sub(first).min(EXTENT_LEAVES);
        if count > 0 {
            self.words[in_memory(extent)] |= bits & mask(0, count);
        }
    }
}

/// `count` bits from `bit` on, at least one.
fn mask(bit: u64, count: u64) -> u64 {
    (u64::MAX >> (EXTENT_LEAVES - count)) << bit
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::units::LEAF_BYTES;

    fn length(leaves: u64) -> ImageLength {
        ImageLength::new(leaves * LEAF_BYTES).unwrap()
    }

    proptest! {
        #[test]
        fn it_is_the_set_it_says(leaves in 1_u64..400, changes in proptest::collection::vec((any::<bool>(), 0_u64..420, 0_u64..200), 0..12)) {
            let mut set = LeafSet::none(length(leaves));
            let mut model = BTreeSet::new();
            for (add, first, count) in changes {
                let run = Run::new(first, count);
                if add {
                    set.insert(&run);
                    model.extend(run.indices().filter(|&leaf| leaf < leaves));
                } else {
                    set.remove(&run);
                    model.retain(|leaf| !run.indices().contains(leaf));
                }
            }
            prop_assert_eq!(set.count(), model.len() as u64);
            prop_assert_eq!(set.is_empty(), model.is_empty());
            prop_assert!((0..leaves + 9).all(|leaf| set.contains(leaf) == model.contains(&leaf)));
            let listed: Vec<u64> = set.runs().flat_map(|run| run.indices()).collect();
            prop_assert_eq!(listed, model.iter().copied().collect::<Vec<_>>());
            let regions: BTreeSet<u64> = model.iter().map(|leaf| leaf / 16).collect();
            prop_assert_eq!(set.regions(), regions.len() as u64);
            prop_assert!((0..30).all(|region| set.touches(region) == regions.contains(&region)));
        }
    }

    #[test]
    fn bytes_carry_a_set_and_no_more_than_the_image_has() {
        let mut set = LeafSet::none(length(150));
        set.insert(&Run::new(60, 10));
        set.insert(&Run::new(149, 1));
        let mut other = LeafSet::none(length(150));
        assert!(other.unite_bytes(0, &set.bytes(0, 2)) && other.unite_bytes(2, &set.bytes(2, u64::MAX)));
        assert_eq!(set, other);
        assert!(other.unite_bytes(2, &[0xFF; 8]));
        assert_eq!(other.count(), 10 + 150 - 128);
        for (first, bytes) in [(0, 7), (2, 16), (3, 8), (u64::MAX, 8)] {
            assert!(!other.unite_bytes(first, &vec![0; bytes]), "{first}, {bytes}");
        }
    }

    #[test]
    fn neighbouring_leaves_are_one_run() {
        let mut set = LeafSet::none(length(300));
        set.insert(&Run::new(60, 10));
        set.insert(&Run::new(70, 130));
        assert_eq!(set.runs().collect::<Vec<_>>(), [Run::new(60, 140)]);
        assert_eq!(LeafSet::all(length(300)).count(), 300);
        assert_eq!(LeafSet::all(length(300)).runs().count(), 1);
        assert_eq!(LeafSet::none(length(0)).runs().count(), 0);
    }
}
