//! The dirty map as pages of a file.
//!
//! ```text
//!   page:   BLAKE3, first 16 bytes, of all that follows │ page number 8 │ 509 words of 8 bytes, one for each extent
//! ```
//!
//! Pages are written over in place. A page that was cut off while it was written fails its check and reads as all
//! dirty: 2 GiB are compared that need not have been, and nothing is missed. So a page may be written at any moment;
//! what must be in order is only that marks are durable before the extents they stand for leave the activity log.

use crate::codec::Writer;
use crate::leaf_set::LeafSet;
use crate::limits::MAP_PAGE_BYTES;
use crate::replica::header::MAP_OFFSET;
use crate::units::{EXTENT_LEAVES, ImageLength, Run, in_memory, on_disk};

const CHECKSUM_BYTES: usize = 16;
const PREFIX_BYTES: usize = CHECKSUM_BYTES + 8;

/// Extents whose marks one page holds.
pub(crate) const PAGE_EXTENTS: u64 = on_disk((MAP_PAGE_BYTES - PREFIX_BYTES) / 8);

/// Pages that an image needs.
pub(crate) const fn pages(length: ImageLength) -> u64 {
    length.extents().div_ceil(PAGE_EXTENTS)
}

/// Where the page lies in the file.
pub(crate) const fn page_offset(page: u64) -> u64 {
    MAP_OFFSET + page * on_disk(MAP_PAGE_BYTES)
}

/// The page as it is written.
pub(crate) fn encode(page: u64, map: &LeafSet) -> Vec<u8> {
    let mut content = Writer::default();
    content.u64(page);
    let first = in_memory(page * PAGE_EXTENTS);
    for word in map.words().iter().skip(first).take(in_memory(PAGE_EXTENTS)) {
        content.u64(*word);
    }
    content.0.resize(MAP_PAGE_BYTES - CHECKSUM_BYTES, 0);
    let mut bytes = blake3::hash(&content.0).as_bytes()[..CHECKSUM_BYTES].to_vec();
    bytes.extend_from_slice(&content.0);
    bytes
}

/// Adds the page's marks to `map`; of a page that is not whole, every mark there could be. Answers whether it is.
pub(crate) fn decode(page: u64, bytes: &[u8], map: &mut LeafSet) -> bool {
    let (checksum, content) = bytes.split_at(CHECKSUM_BYTES);
    let is_whole =
        blake3::hash(content).as_bytes()[..CHECKSUM_BYTES] == *checksum && content[..8] == page.to_le_bytes();
    let first = page * PAGE_EXTENTS;
    if !is_whole {
        map.insert(&Run::new(first * EXTENT_LEAVES, PAGE_EXTENTS * EXTENT_LEAVES));
        return false;
    }
    for (extent, word) in (first..).zip(content[8..].as_chunks::<8>().0) {
        map.unite_word(extent, u64::from_le_bytes(*word));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::EXTENT_BYTES;

    #[test]
    fn pages_hold_the_map_and_damage_reads_as_dirty() {
        let length = ImageLength::new(EXTENT_BYTES * 1100 + 65_536 * 3).unwrap();
        let mut map = LeafSet::none(length);
        map.insert(&Run::new(3, 5));
        map.insert(&Run::new(509 * 64 - 1, 2));
        map.insert(&Run::new(1100 * 64 + 2, 1));
        assert_eq!(pages(length), 3);
        let written: Vec<Vec<u8>> = (0..3).map(|page| encode(page, &map)).collect();
        assert!(written.iter().all(|page| page.len() == MAP_PAGE_BYTES));
        let mut read = LeafSet::none(length);
        assert!((0..3).all(|page| decode(page, &written[in_memory(page)], &mut read)));
        assert_eq!(read, map);
        // A page in another's place, and a flipped bit.
        let mut read = LeafSet::none(length);
        assert!(!decode(1, &written[0], &mut read));
        assert_eq!(read.count(), 509 * 64);
        let mut flipped = written[2].clone();
        flipped[200] ^= 1;
        let mut read = LeafSet::none(length);
        assert!(!decode(2, &flipped, &mut read));
        assert_eq!(
            read.runs().collect::<Vec<_>>(),
            [Run::new(1018 * 64, 82 * 64 + 3)]
        );
    }
}
