//! Metadata as it is made and read. Nothing here changes it.

use super::ReplicaError;
use super::header::{self, BadSlot, Header};
use super::identity::{GenerationId, Lineage, ReplicaId, State, VmId};
use super::map;
use super::store::Store;
use crate::leaf_set::LeafSet;
use crate::limits::{MAP_PAGE_BYTES, SLOT_BYTES};
use crate::units::{ImageLength, LEAF_BYTES, on_disk};

/// What makes a new replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    /// Of which VM.
    pub vm: VmId,
    /// Its own name.
    pub replica: ReplicaId,
    /// The image's length.
    pub length: ImageLength,
    /// What the image holds, as a content of its own; none if it shall become a copy of another one.
    pub content: Option<GenerationId>,
    /// What the image looks like.
    pub stamp: Option<[u8; 32]>,
}

/// A replica's metadata as it was read.
#[derive(Debug)]
pub struct Loaded {
    pub(super) header: Header,
    pub(super) dirty: LeafSet,
    pub(super) damaged_pages: usize,
}

impl Creation {
    /// The whole file of the new metadata.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let header = Header {
            sequence: 0,
            length: self.length,
            vm: self.vm.clone(),
            replica: self.replica,
            state: match self.content {
                Some(_) => State::Clean,
                None => State::Stale,
            },
            in_use: false,
            tracking: false,
            lineage: self.content.map(Lineage::new),
            stamp: self.stamp,
            activity: Vec::new(),
        };
        let mut bytes = header.encode();
        bytes.resize(2 * SLOT_BYTES, 0);
        let map = LeafSet::none(self.length);
        for page in 0..map::pages(self.length) {
            bytes.extend(map::encode(page, &map));
        }
        bytes
    }
}

impl Loaded {
    /// Reads metadata, changing nothing.
    ///
    /// # Errors
    /// [`ReplicaError`].
    pub fn read(store: &impl Store) -> Result<Self, ReplicaError> {
        let mut slot = vec![0; SLOT_BYTES];
        let mut newest: Option<Header> = None;
        let mut faults = Vec::new();
        for sequence in 0..2 {
            store.read_at(header::slot_offset(sequence), &mut slot)?;
            match Header::decode(&slot) {
                Ok(found)
                    if newest
                        .as_ref()
                        .is_none_or(|newest| newest.sequence < found.sequence) =>
                {
                    newest = Some(found);
                }
                Ok(_) => {}
                Err(fault) => faults.push(fault),
            }
        }
        // A version that is not known is never passed over: it may be the newer one.
        for fault in &faults {
            match fault {
                BadSlot::Version(version) => return Err(ReplicaError::Version(*version)),
                BadSlot::Body(malformed) => return Err(ReplicaError::Senseless(*malformed)),
                BadSlot::Magic | BadSlot::Checksum => {}
            }
        }
        let Some(header) = newest else {
            let foreign = faults.iter().all(|fault| *fault == BadSlot::Magic);
            return Err(if foreign {
                ReplicaError::Foreign
            } else {
                ReplicaError::Damaged
            });
        };
        let mut dirty = LeafSet::none(header.length);
        let mut damaged_pages = 0;
        let mut page_bytes = vec![0; MAP_PAGE_BYTES];
        for page in 0..map::pages(header.length) {
            store.read_at(map::page_offset(page), &mut page_bytes)?;
            damaged_pages += usize::from(!map::decode(page, &page_bytes, &mut dirty));
        }
        Ok(Self {
            header,
            dirty,
            damaged_pages,
        })
    }

    /// Of which VM.
    #[must_use]
    pub fn vm(&self) -> &VmId {
        &self.header.vm
    }

    /// The replica's own name.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        self.header.replica
    }

    /// The image's length.
    #[must_use]
    pub fn length(&self) -> ImageLength {
        self.header.length
    }

    /// The number of its last update.
    pub(crate) fn sequence(&self) -> u64 {
        self.header.sequence
    }

    /// What may be done with it.
    #[must_use]
    pub fn state(&self) -> State {
        self.header.state
    }

    /// Where its content comes from.
    #[must_use]
    pub fn lineage(&self) -> Option<&Lineage> {
        self.header.lineage.as_ref()
    }

    /// What may differ from the replica that it was last equal to, zones that a crash left unsure included. Of
    /// one that is being synced: what is still to be compared.
    #[must_use]
    pub fn marks(&self) -> LeafSet {
        let mut marks = self.dirty.clone();
        fold(&self.header.activity, &mut marks);
        marks
    }

    /// Bytes of the zones that were being written to when it was last heard of.
    #[must_use]
    pub fn hot_bytes(&self) -> u64 {
        let mut hot = LeafSet::none(self.header.length);
        fold(&self.header.activity, &mut hot);
        hot.count() * LEAF_BYTES
    }

    /// Whether somebody has it open, or died having it.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.header.in_use
    }

    /// Whether the image was written to behind our back: it was closed, and looks different now.
    #[must_use]
    pub fn was_changed_behind(&self, stamp: Option<[u8; 32]>) -> bool {
        !self.header.in_use && self.header.stamp.is_some() && self.header.stamp != stamp
    }
}

/// Marks every leaf of these zones.
pub(super) fn fold(activity: &[u32], marks: &mut LeafSet) {
    for zone in activity {
        let leaves = marks.length().leaves_of_zone(*zone);
        marks.insert(&leaves);
    }
}

/// Bytes of the metadata of an image.
#[must_use]
pub fn metadata_bytes(length: ImageLength) -> u64 {
    header::MAP_OFFSET + map::pages(length) * on_disk(MAP_PAGE_BYTES)
}
