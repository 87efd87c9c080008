//! A BLAKE3 tree over an image (D2).
//!
//! ```text
//!        content root = keyed(length ‖ top)               plain root = what `b3sum` prints
//!                 │                                              │
//!            ┌────┴────┐   nodes of ours: keyed, zeros      ┌────┴────┐   BLAKE3's own nodes
//!         region     region   are ZERO at any offset     region     region
//!        ┌──┴──┐                                        ┌──┴──┐
//!      leaf … leaf  ◀──────── the same 16 leaf values ──▶ leaf … leaf
//!        64 KiB: BLAKE3's value of the leaf at its offset; each byte is hashed once
//! ```
//!
//! **Two roots over one set of leaves.** The plain root is BLAKE3 of the image, so that anybody can check it with
//! `b3sum`. It cannot pass over holes: the value of a chunk depends on where it lies, so zeros have another value at
//! each place and all of them must be hashed. The content tree can: a leaf of zeros has the value `ZERO` wherever it
//! lies, and so has a node above nothing but zeros. Two images are equal exactly if their content roots are. What is
//! compared between sites is the content tree; whoever wants the plain root asks for it ([`Wanted::Both`]) and pays
//! for the zeros. `docs/decisions/0009-two-roots-over-one-set-of-leaves.md` has the figures.
//!
//! **Memory.** Regions take 32 bytes each (0.003 % of the image), 64 with the plain root; leaves are kept for images
//! up to [`crate::limits::LEAVES_KEPT_IMAGE_BYTES_MAX`] and hashed again where they are needed beyond it.
//!
//! **A second digest** reads only what changed: [`Tree::refresh`] takes the set of leaves that were written to.

mod build;
mod value;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::image::Image;
use crate::leaf_set::LeafSet;
use crate::limits::LEAVES_KEPT_IMAGE_BYTES_MAX;
use crate::units::{ImageLength, REGION_LEAVES, Run, in_memory, on_disk};

pub use build::{Found, HashError, RegionHash, Threads, Wanted, hash_region, hash_regions};
pub(crate) use value::leaf_value;
pub use value::{ContentRoot, Value};

/// The tree over one image.
#[derive(Debug)]
pub struct Tree {
    length: ImageLength,
    regions: Vec<Value>,
    /// BLAKE3's own values, if they are wanted. The only one of an image of one region is its root.
    plain: Option<Vec<[u8; 32]>>,
    leaves: Option<Vec<Value>>,
}

impl Tree {
    /// The tree over an image of zeros. BLAKE3's values are filled in by [`Tree::set`] alone.
    #[must_use]
    pub fn of_zeros(length: ImageLength, wanted: Wanted) -> Self {
        let regions = in_memory(length.regions());
        let keeps_leaves = length.bytes() <= LEAVES_KEPT_IMAGE_BYTES_MAX;
        Self {
            length,
            regions: vec![Value::ZERO; regions],
            plain: (wanted == Wanted::Both).then(|| vec![[0; 32]; regions]),
            leaves: keeps_leaves.then(|| vec![Value::ZERO; in_memory(length.leaves())]),
        }
    }

    /// The tree over regions of these values, which came from [`Tree::region_values`]. Leaves are not known.
    pub(crate) fn of_regions(length: ImageLength, regions: Vec<Value>, plain: Option<Vec<[u8; 32]>>) -> Self {
        Self {
            length,
            regions,
            plain,
            leaves: None,
        }
    }

    /// The value of each region, and BLAKE3's own if they are there.
    pub(crate) fn region_values(&self) -> (&[Value], Option<&[[u8; 32]]>) {
        (&self.regions, self.plain.as_deref())
    }

    /// Whether it has BLAKE3's own values.
    pub(crate) fn has_plain(&self) -> bool {
        self.plain.is_some()
    }

    /// Hashes all of `image`. `progress` is told bytes as they are done, and answers whether to go on.
    ///
    /// # Errors
    /// [`HashError`]: the image cannot be read, or nobody wants it any more.
    pub fn build(
        image: &dyn Image,
        threads: Threads,
        wanted: Wanted,
        progress: &(dyn Fn(u64) -> bool + Sync),
    ) -> Result<Self, HashError> {
        let tree = Self::of_zeros(image.length(), wanted);
        tree.filled(image, None, threads, progress)
    }

    /// Hashes the regions again in which leaves of `changed` lie. `progress` is as of [`Tree::build`].
    ///
    /// # Errors
    /// [`HashError`], as of [`Tree::build`].
    pub fn refresh(
        self,
        image: &dyn Image,
        changed: &LeafSet,
        threads: Threads,
        progress: &(dyn Fn(u64) -> bool + Sync),
    ) -> Result<Self, HashError> {
        self.filled(image, Some(changed), threads, progress)
    }

    fn filled(
        self,
        image: &dyn Image,
        work: Option<&LeafSet>,
        threads: Threads,
        progress: &(dyn Fn(u64) -> bool + Sync),
    ) -> Result<Self, HashError> {
        let wanted = if self.has_plain() {
            Wanted::Both
        } else {
            Wanted::Content
        };
        let length = self.length;
        let tree = Mutex::new(self);
        let unwanted_at = OnceLock::new();
        hash_regions(image, work, threads, wanted, &|found| {
            let regions = found.regions();
            let mut tree = tree.lock().unwrap_or_else(PoisonError::into_inner);
            tree.set(&found);
            drop(tree);
            let leaves = Run::new(
                regions.first * on_disk(REGION_LEAVES),
                regions.count * on_disk(REGION_LEAVES),
            );
            let bytes = length.bytes_of(&leaves);
            let goes_on = progress(bytes.end - bytes.start);
            if !goes_on {
                unwanted_at.get_or_init(|| bytes.start);
            }
            goes_on
        })?;
        if let Some(&offset) = unwanted_at.get() {
            let source = io::ErrorKind::Interrupted.into();
            return Err(HashError { offset, source });
        }
        Ok(tree.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes in what was found.
    ///
    /// # Panics
    /// If it lies outside the image.
    pub fn set(&mut self, found: &Found) {
        match found {
            Found::Zeros(regions) => {
                self.regions[in_memory(regions.first)..in_memory(regions.end())].fill(Value::ZERO);
                if let Some(leaves) = &mut self.leaves {
                    let first = in_memory(regions.first) * REGION_LEAVES;
                    let end = (in_memory(regions.end()) * REGION_LEAVES).min(leaves.len());
                    leaves[first..end].fill(Value::ZERO);
                }
            }
            Found::Hashed { first, regions } => {
                for (region, hash) in (*first..).zip(regions) {
                    self.set_region(region, hash);
                }
            }
        }
    }

    fn set_region(&mut self, region: u64, hash: &RegionHash) {
        let index = in_memory(region);
        self.regions[index] = hash.content;
        if let (Some(values), Some(plain)) = (&mut self.plain, hash.plain) {
            values[index] = plain;
        }
        if let Some(leaves) = &mut self.leaves {
            let first = index * REGION_LEAVES;
            leaves[first..first + hash.leaves.len()].copy_from_slice(&hash.leaves);
        }
    }

    /// The image's length.
    #[must_use]
    pub const fn length(&self) -> ImageLength {
        self.length
    }

    /// The value of a region.
    ///
    /// # Panics
    /// If the image has no such region.
    #[must_use]
    pub fn region(&self, region: u64) -> Value {
        self.regions[in_memory(region)]
    }

    /// The values of a region's leaves, if they are kept.
    #[must_use]
    pub fn leaves_of(&self, region: u64) -> Option<&[Value]> {
        let leaves = self.length.leaves_of(region);
        let kept = self.leaves.as_ref()?;
        Some(&kept[in_memory(leaves.first)..in_memory(leaves.end())])
    }

    /// What names the content.
    #[must_use]
    pub fn content_root(&self) -> ContentRoot {
        let width = self.regions.len().next_power_of_two();
        ContentRoot::of(self.length.bytes(), &Value::over(&self.regions, width))
    }

    /// What names the content of the regions in which leaves of `work` lie, and which regions these are.
    #[must_use]
    pub fn root_of(&self, work: &LeafSet) -> ContentRoot {
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while let Some(regions) = work.next_regions(at) {
            for region in regions.indices() {
                hasher.update(&region.to_le_bytes());
                hasher.update(&self.region(region).0);
            }
            at = regions.end();
        }
        ContentRoot::of(self.length.bytes(), &Value(hasher.finalize().into()))
    }

    /// BLAKE3 of the image, if it was wanted.
    #[must_use]
    pub fn plain_root(&self) -> Option<blake3::Hash> {
        let values = self.plain.as_ref()?;
        Some(match values.as_slice() {
            [] => blake3::hash(&[]),
            [root] => blake3::Hash::from_bytes(*root),
            _ => value::plain_root_over(values),
        })
    }
}
