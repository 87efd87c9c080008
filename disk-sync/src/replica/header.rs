//! The part of the metadata that changes as one: two slots, written in turn, the newer whole one counts.
//!
//! ```text
//!   byte 0        slot 0        16 KiB
//!   byte 16384    slot 1        16 KiB
//!   byte 32768    pages of the dirty map, 4 KiB each (`map`)
//!
//!   slot:   "antirepl"  8 │ version 4 │ body length 4 │ body │ zeros │ BLAKE3 of all before 32
//!   body:   sequence 8 │ image length 8 │ VM id 1 + n │ replica id 16
//!           │ state 1 (syncing: + source 16 + generation 16)
//!           │ in use 1 │ tracking 1
//!           │ lineage 0/1: current 16 │ base 0/1 + 16 │ history 4 + 16 n
//!           │ stamp 0/1 + 32
//!           │ activity log: a bit for each zone, the first as the lowest of a byte
//! ```
//!
//! Sequence `n` goes to slot `n mod 2`, over the older of the two, and is made durable before anything relies on it:
//! a write that is cut off damages the slot that was not in force. If a write fails it is not known what became of
//! it, and another one would go over the only whole slot: nothing is updated after that.

use super::identity::{Lineage, ReplicaId, State, VmId, read_option, write_option};
use crate::codec::{Malformed, Reader, Writer};
use crate::limits::SLOT_BYTES;
use crate::units::{ImageLength, in_memory, on_disk};

pub(crate) const MAGIC: &[u8; 8] = b"antirepl";
pub(crate) const VERSION: u32 = 2;
const CHECKSUM_BYTES: usize = 32;
const PREFIX_BYTES: usize = 16;

/// Where the pages of the dirty map begin.
pub(crate) const MAP_OFFSET: u64 = 2 * on_disk(SLOT_BYTES);

/// What one slot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) sequence: u64,
    pub(crate) length: ImageLength,
    pub(crate) vm: VmId,
    pub(crate) replica: ReplicaId,
    pub(crate) state: State,
    /// Somebody has it open for writing, or died having it.
    pub(crate) in_use: bool,
    /// Writes are marked in the dirty map.
    pub(crate) tracking: bool,
    /// None as long as it never held anything.
    pub(crate) lineage: Option<Lineage>,
    /// What the image looked like when it was last closed.
    pub(crate) stamp: Option<[u8; 32]>,
    /// Zones that may hold writes which nothing else knows of, in rising order.
    pub(crate) activity: Vec<u32>,
}

/// Bytes that are no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadSlot {
    /// They are something else altogether.
    Magic,
    /// They are not what was written.
    Checksum,
    /// They are whole, and of a version that is not known here.
    Version(u32),
    /// They are whole, and cannot be: a defect of whoever wrote them.
    Body(Malformed),
}

/// The offset of the slot for `sequence`.
pub(crate) fn slot_offset(sequence: u64) -> u64 {
    sequence % 2 * on_disk(SLOT_BYTES)
}

impl Header {
    /// The slot as it is written.
    ///
    /// # Panics
    /// Never: limits keep the body within the slot.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.u64(self.sequence).u64(self.length.bytes());
        self.vm.write(&mut body);
        body.bytes(&self.replica.0);
        self.state.write(&mut body);
        body.u8(u8::from(self.in_use)).u8(u8::from(self.tracking));
        body.u8(u8::from(self.lineage.is_some()));
        if let Some(lineage) = &self.lineage {
            lineage.write(&mut body);
        }
        write_option(&mut body, self.stamp.as_ref());
        body.bytes(&self.activity_bits());
        let mut slot = Writer::default();
        slot.bytes(MAGIC).u32(VERSION).count(body.0.len()).bytes(&body.0);
        let mut bytes = slot.0;
        assert!(
            bytes.len() + CHECKSUM_BYTES <= SLOT_BYTES,
            "limits.rs adds this up"
        );
        bytes.resize(SLOT_BYTES - CHECKSUM_BYTES, 0);
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        bytes
    }

    fn activity_bits(&self) -> Vec<u8> {
        let mut bits = vec![0; in_memory(u64::from(self.length.zones().div_ceil(8)))];
        for zone in &self.activity {
            bits[in_memory(u64::from(zone / 8))] |= 1 << (zone % 8);
        }
        bits
    }

    pub(crate) fn decode(slot: &[u8]) -> Result<Self, BadSlot> {
        let short = |_| BadSlot::Body(Malformed::Short);
        let mut reader = Reader::new(slot);
        if reader.bytes(MAGIC.len()).map_err(short)? != MAGIC {
            return Err(BadSlot::Magic);
        }
        let (content, checksum) = slot
            .split_at_checked(SLOT_BYTES - CHECKSUM_BYTES)
            .ok_or(BadSlot::Body(Malformed::Short))?;
        if blake3::hash(content).as_bytes() != checksum {
            return Err(BadSlot::Checksum);
        }
        let version = reader.u32().map_err(short)?;
        if version != VERSION {
            return Err(BadSlot::Version(version));
        }
        let length = in_memory(u64::from(reader.u32().map_err(short)?));
        let body = content.get(PREFIX_BYTES..PREFIX_BYTES + length);
        Self::decode_body(body.ok_or(BadSlot::Body(Malformed::Short))?).map_err(BadSlot::Body)
    }

    fn decode_body(body: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(body);
        let sequence = from.u64()?;
        let length = ImageLength::new(from.u64()?).map_err(|_| Malformed::Field("image length"))?;
        let header = Self {
            sequence,
            length,
            vm: VmId::read(&mut from)?,
            replica: ReplicaId(from.array()?),
            state: State::read(&mut from)?,
            in_use: from.flag("use")?,
            tracking: from.flag("tracking")?,
            lineage: if from.flag("lineage")? {
                Some(Lineage::read(&mut from)?)
            } else {
                None
            },
            stamp: read_option(&mut from, "stamp")?,
            activity: read_activity(&mut from, length)?,
        };
        from.end()?;
        Ok(header)
    }
}

fn read_activity(from: &mut Reader<'_>, length: ImageLength) -> Result<Vec<u32>, Malformed> {
    let zones = length.zones();
    let bits = from.bytes(in_memory(u64::from(zones.div_ceil(8))))?;
    let places = (0..)
        .zip(bits)
        .flat_map(|(at, byte)| (0..8).map(move |bit| (at * 8 + bit, byte >> bit & 1)));
    let hot: Vec<u32> = places
        .filter(|(_, bit)| *bit == 1)
        .map(|(zone, _)| zone)
        .collect();
    if hot.last().is_some_and(|last| *last >= zones) {
        return Err(Malformed::Field("activity log"));
    }
    Ok(hot)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::replica::identity::{GenerationId, SyncKey};

    fn headers() -> impl Strategy<Value = Header> {
        let lineage = (
            any::<[u8; 16]>(),
            any::<Option<[u8; 16]>>(),
            proptest::collection::vec(any::<[u8; 16]>(), 0..=32),
        );
        let state = (0..3_u8, any::<[u8; 16]>());
        (
            any::<u64>(),
            0..1_u64 << 44,
            "[a-z0-9][a-z0-9-]{0,62}",
            state,
            any::<(bool, bool, Option<[u8; 32]>)>(),
            proptest::option::of(lineage),
            proptest::collection::btree_set(any::<u16>(), 0..=3000),
        )
            .prop_map(
                |(sequence, bytes, vm, state, (in_use, tracking, stamp), lineage, activity)| {
                    let length = ImageLength::new(bytes).unwrap();
                    Header {
                        sequence,
                        length,
                        vm: vm.parse().unwrap(),
                        replica: ReplicaId(state.1),
                        state: match state.0 {
                            0 => State::Clean,
                            1 => State::Stale,
                            _ => State::Syncing(SyncKey {
                                source: ReplicaId(state.1),
                                generation: GenerationId(state.1),
                            }),
                        },
                        in_use,
                        tracking,
                        lineage: lineage.map(|(current, base, history)| Lineage {
                            current: GenerationId(current),
                            base: base.map(GenerationId),
                            history: history.into_iter().map(GenerationId).collect(),
                        }),
                        stamp,
                        activity: activity
                            .into_iter()
                            .map(u32::from)
                            .filter(|&zone| zone < length.zones())
                            .collect(),
                    }
                },
            )
    }

    /// The slot with its checksum made good, as somebody who means harm would.
    fn resealed(mut slot: Vec<u8>) -> Vec<u8> {
        let at = SLOT_BYTES - CHECKSUM_BYTES;
        let checksum = blake3::hash(&slot[..at]);
        slot[at..].copy_from_slice(checksum.as_bytes());
        slot
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_was_written_is_read(header in headers()) {
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn a_flipped_bit_is_seen(header in headers(), at in 8..SLOT_BYTES, bit in 0..8_u32) {
            let mut slot = header.encode();
            slot[at] ^= 1 << bit;
            prop_assert_eq!(Header::decode(&slot), Err(BadSlot::Checksum));
        }

        #[test]
        fn a_sealed_body_of_anything_is_read_or_refused(header in headers(), changes in proptest::collection::vec((16..400_usize, any::<u8>()), 1..6)) {
            let mut slot = header.encode();
            for (at, byte) in changes {
                slot[at] = byte;
            }
            if let Ok(header) = Header::decode(&resealed(slot)) {
                prop_assert!(header.activity.iter().all(|zone| *zone < header.length.zones()));
                prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
            }
        }
    }

    #[test]
    fn foreign_newer_and_cut_off_slots_are_told_apart() {
        let header = Header {
            sequence: 1,
            length: ImageLength::new(1 << 30).unwrap(),
            vm: "vm".parse().unwrap(),
            replica: ReplicaId([1; 16]),
            state: State::Clean,
            in_use: false,
            tracking: false,
            lineage: None,
            stamp: None,
            activity: vec![1, 5],
        };
        let slot = header.encode();
        assert_eq!(Header::decode(&vec![0; SLOT_BYTES]), Err(BadSlot::Magic));
        let mut newer = slot.clone();
        newer[8] = 3;
        assert_eq!(Header::decode(&resealed(newer)), Err(BadSlot::Version(3)));
        let mut long = slot.clone();
        long[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            Header::decode(&resealed(long)),
            Err(BadSlot::Body(Malformed::Short))
        );
        for length in 0..slot.len() {
            assert!(Header::decode(&slot[..length]).is_err(), "{length}");
        }
        // A bit beyond the last zone of an image that has no whole byte of them.
        let short = Header {
            length: ImageLength::new(9 << 22).unwrap(),
            activity: vec![1, 8],
            ..header
        };
        let mut outside = short.encode();
        assert_eq!(Header::decode(&outside), Ok(short));
        let at = outside
            .iter()
            .rposition(|byte| *byte == 1)
            .filter(|at| *at < SLOT_BYTES - 64);
        outside[at.unwrap()] = 2;
        assert_eq!(
            Header::decode(&resealed(outside)),
            Err(BadSlot::Body(Malformed::Field("activity log")))
        );
    }

    #[test]
    fn the_largest_image_with_the_longest_lineage_fits() {
        let length = ImageLength::new(crate::limits::IMAGE_BYTES_MAX).unwrap();
        let header = Header {
            sequence: u64::MAX,
            length,
            vm: "v".repeat(63).parse().unwrap(),
            replica: ReplicaId([1; 16]),
            state: State::Stale,
            in_use: true,
            tracking: true,
            lineage: Some(Lineage {
                current: GenerationId([1; 16]),
                base: Some(GenerationId([2; 16])),
                history: vec![GenerationId([3; 16]); crate::limits::LINEAGE_HISTORY_MAX],
            }),
            stamp: Some([4; 32]),
            activity: (0..length.zones()).collect(),
        };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
    }
}
