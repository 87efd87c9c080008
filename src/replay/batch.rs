//! A batch: what the log holds about a stretch of execution.
//!
//! ```text
//!   number   first: ordinal of the first exit that is checked here
//!   bytes    checks, one an exit: first, first + 1, … through
//!   number   count of entries
//!   entry …  kind (1), exits since the last entry (number), content
//!   number   through, the watermark
//!   byte     1 if the execution ended here, else 0
//!   bytes    if so: how (text); number: virtual time in nanoseconds; 32 + 32 bytes: digests of RAM and vCPU
//! ```
//!
//! Times are nanoseconds since the last time in the batch. Both kinds of differences start from zero in every batch.

use antipode_disk_sync::online::Slice;

use super::catalogue::{Entry, OutputKind, RepairPiece};
use super::codec::{CodecError, Reader, put_bytes, put_number};
use super::machine::MachineDigests;
use crate::base::limits::{
    CONSOLE_INPUT_BYTES_MAX, ENTROPY_BYTES_MAX, FRAME_BYTES_MAX, LOG_BATCH_CHECKS_MAX, LOG_BATCH_ENTRIES_MAX,
    POSTED_WRITES_MAX, REPAIR_PIECE_BYTES_MAX,
};
use crate::base::units::{ExitOrdinal, PAGE_SIZE, VirtualTime};
use crate::devices::DiskRequestId;
use crate::machine::kvm::{PostedWrite, VcpuState, WritePlace};
use crate::machine::{EpochDigests, RamSums};

/// Bytes of the longest name of an outcome.
const OUTCOME_BYTES_MAX: usize = 32;

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The outcome's name.
    pub outcome: String,
    /// Virtual time then.
    pub virtual_time: VirtualTime,
    /// The machine then.
    pub digests: MachineDigests,
}

/// A stretch of execution.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// The first exit checked here.
    pub first: ExitOrdinal,
    /// A check for each exit from there.
    pub checks: Vec<u8>,
    /// What entered and left, in order.
    pub entries: Vec<(ExitOrdinal, Entry)>,
    /// The watermark: this exit was reached, and no entry before it is missing.
    pub through: ExitOrdinal,
    /// Set in the last batch of a whole log.
    pub end: Option<End>,
}

impl Batch {
    /// Keeps the first `exit_count` exits, of those that there are, with what entered before the last of them was left;
    /// answers the rest. What entered at the last is in the rest, as after any watermark.
    #[must_use]
    pub(super) fn split_off(&mut self, exit_count: u64) -> Self {
        let through = ExitOrdinal::new(self.first.get() + exit_count - 1);
        let later = self.entries.partition_point(|(exit, _)| *exit < through);
        Self {
            first: through.next(),
            checks: self
                .checks
                .split_off(usize::try_from(exit_count).unwrap_or(usize::MAX)),
            entries: self.entries.split_off(later),
            through: std::mem::replace(&mut self.through, through),
            end: self.end.take(),
        }
    }
}

const TIME_READ: u8 = 0;
const EXPIRY: u8 = 1;
const FRAME: u8 = 2;
const DISK_DONE: u8 = 3;
const DISK_FAILED: u8 = 4;
const CONSOLE: u8 = 5;
const ENTROPY: u8 = 6;
const POWER_BUTTON: u8 = 7;
const STOP: u8 = 8;
const OUTPUT_FRAME: u8 = 9;
const OUTPUT_CONSOLE: u8 = 10;
const OUTPUT_POWER_OFF: u8 = 11;
const PAGE: u8 = 12;
const RESUME: u8 = 13;
const EPOCH: u8 = 14;
const FLUSH: u8 = 15;
const STAND: u8 = 16;
const VERIFY: u8 = 17;
const REPAIR_PART: u8 = 18;
const REPAIR_PAGE: u8 = 19;
const REPAIR_LEAF: u8 = 20;
const REPAIR_END: u8 = 21;
const CHECKPOINTS: u8 = 22;
const REPLAYS: u8 = 23;
const CHECKPOINTS_FLUSHED: u8 = 24;

/// Bounds of an epoch's list of devices.
const EPOCH_PARTS_MAX: usize = 64;
const EPOCH_PART_NAME_BYTES_MAX: usize = 64;

const TO_PORT: u8 = 0;
const TO_MEMORY: u8 = 1;

fn kind_of(entry: &Entry) -> u8 {
    match entry {
        Entry::TimeRead(_) => TIME_READ,
        Entry::Expiry(_) => EXPIRY,
        Entry::Frame(_) => FRAME,
        Entry::Disk { is_done: true, .. } => DISK_DONE,
        Entry::Disk { is_done: false, .. } => DISK_FAILED,
        Entry::Console(_) => CONSOLE,
        Entry::Entropy(_) => ENTROPY,
        Entry::PowerButton => POWER_BUTTON,
        Entry::Stop => STOP,
        Entry::Page { .. } => PAGE,
        Entry::Resume { .. } => RESUME,
        Entry::Epoch(_) => EPOCH,
        Entry::Flush => FLUSH,
        Entry::Stand(_) => STAND,
        Entry::Verify(_) => VERIFY,
        Entry::Repair(piece) => match piece {
            RepairPiece::Part { .. } => REPAIR_PART,
            RepairPiece::Page { .. } => REPAIR_PAGE,
            RepairPiece::Leaf { .. } => REPAIR_LEAF,
            RepairPiece::End { .. } => REPAIR_END,
        },
        Entry::Checkpoints {
            flushes_wait: false, ..
        } => CHECKPOINTS,
        Entry::Checkpoints {
            flushes_wait: true, ..
        } => CHECKPOINTS_FLUSHED,
        Entry::Replays => REPLAYS,
        Entry::Output { kind, .. } => match kind {
            OutputKind::Frame => OUTPUT_FRAME,
            OutputKind::Console => OUTPUT_CONSOLE,
            OutputKind::PowerOff => OUTPUT_POWER_OFF,
        },
    }
}

/// What differences count from.
#[derive(Debug, Default)]
struct Base {
    exit: u64,
    nanos: u64,
}

impl Base {
    fn encode(&mut self, bytes: &mut Vec<u8>, exit: ExitOrdinal, entry: &Entry) {
        bytes.push(kind_of(entry));
        put_number(bytes, exit.get().wrapping_sub(self.exit));
        self.exit = exit.get();
        match entry {
            Entry::TimeRead(time) | Entry::Expiry(time) => {
                put_number(bytes, time.as_nanos().wrapping_sub(self.nanos));
                self.nanos = time.as_nanos();
            }
            Entry::Frame(content) | Entry::Console(content) | Entry::Entropy(content) => {
                put_bytes(bytes, content)
            }
            Entry::Disk { id, .. } => put_number(bytes, id.0),
            Entry::PowerButton | Entry::Stop | Entry::Flush | Entry::Replays => {}
            Entry::Verify(slice) => {
                put_number(bytes, slice.extent);
                bytes.extend_from_slice(&slice.leaves.to_le_bytes());
            }
            Entry::Page { address, delta } => {
                put_number(bytes, *address);
                put_bytes(bytes, delta);
            }
            Entry::Resume { vcpu, posted } => {
                put_bytes(bytes, vcpu);
                put_number(bytes, posted.len() as u64);
                for write in posted {
                    let (kind, address) = match write.place {
                        WritePlace::Port(port) => (TO_PORT, u64::from(port)),
                        WritePlace::Memory(address) => (TO_MEMORY, address),
                    };
                    bytes.push(kind);
                    put_number(bytes, address);
                    put_bytes(bytes, write.data());
                }
            }
            Entry::Epoch(digests) | Entry::Stand(digests) | Entry::Checkpoints { digests, .. } => {
                encode_epoch(bytes, digests);
            }
            Entry::Repair(piece) => encode_repair(bytes, piece),
            Entry::Output { digest, .. } => bytes.extend_from_slice(&digest.to_le_bytes()),
        }
    }

    fn decode(&mut self, reader: &mut Reader<'_>) -> Result<(ExitOrdinal, Entry), CodecError> {
        let kind = reader.byte()?;
        self.exit = self.exit.wrapping_add(reader.number()?);
        let entry = match kind {
            TIME_READ => Entry::TimeRead(self.time(reader)?),
            EXPIRY => Entry::Expiry(self.time(reader)?),
            FRAME => Entry::Frame(reader.bytes(FRAME_BYTES_MAX)?.to_vec()),
            DISK_DONE | DISK_FAILED => Entry::Disk {
                id: DiskRequestId(reader.number()?),
                is_done: kind == DISK_DONE,
            },
            CONSOLE => Entry::Console(reader.bytes(CONSOLE_INPUT_BYTES_MAX)?.to_vec()),
            ENTROPY => Entry::Entropy(reader.bytes(ENTROPY_BYTES_MAX)?.to_vec()),
            POWER_BUTTON => Entry::PowerButton,
            STOP => Entry::Stop,
            PAGE => Entry::Page {
                address: reader.number()?,
                delta: reader.bytes(PAGE_SIZE)?.to_vec(),
            },
            RESUME => Entry::Resume {
                vcpu: reader.bytes(VcpuState::BYTES)?.to_vec(),
                posted: decode_posted(reader)?,
            },
            EPOCH => Entry::Epoch(Box::new(decode_epoch(reader)?)),
            FLUSH => Entry::Flush,
            STAND => Entry::Stand(Box::new(decode_epoch(reader)?)),
            VERIFY => Entry::Verify(Slice {
                extent: reader.number()?,
                leaves: u64::from_le_bytes(array(reader)?),
            }),
            REPAIR_PART | REPAIR_PAGE | REPAIR_LEAF | REPAIR_END => {
                Entry::Repair(decode_repair(kind, reader)?)
            }
            CHECKPOINTS | CHECKPOINTS_FLUSHED => Entry::Checkpoints {
                digests: Box::new(decode_epoch(reader)?),
                flushes_wait: kind == CHECKPOINTS_FLUSHED,
            },
            REPLAYS => Entry::Replays,
            OUTPUT_FRAME => output(OutputKind::Frame, reader)?,
            OUTPUT_CONSOLE => output(OutputKind::Console, reader)?,
            OUTPUT_POWER_OFF => output(OutputKind::PowerOff, reader)?,
            unknown => return Err(CodecError::UnknownKind(unknown)),
        };
        Ok((ExitOrdinal::new(self.exit), entry))
    }

    fn time(&mut self, reader: &mut Reader<'_>) -> Result<VirtualTime, CodecError> {
        self.nanos = self.nanos.wrapping_add(reader.number()?);
        Ok(VirtualTime::from_nanos(self.nanos))
    }
}

fn encode_epoch(bytes: &mut Vec<u8>, digests: &EpochDigests) {
    for register in &digests.registers {
        bytes.extend_from_slice(&register.to_le_bytes());
    }
    bytes.extend_from_slice(&digests.ram.to_bytes());
    put_number(bytes, digests.parts.len() as u64);
    for (name, digest) in &digests.parts {
        put_bytes(bytes, name.as_bytes());
        bytes.extend_from_slice(&digest.to_le_bytes());
    }
}

fn encode_repair(bytes: &mut Vec<u8>, piece: &RepairPiece) {
    match piece {
        RepairPiece::Part {
            name,
            version,
            content,
        } => {
            put_bytes(bytes, name.as_bytes());
            put_number(bytes, u64::from(*version));
            put_bytes(bytes, content);
        }
        RepairPiece::Page { address, content } => {
            put_number(bytes, *address);
            put_bytes(bytes, content);
        }
        RepairPiece::Leaf { number, content } => {
            put_number(bytes, *number);
            put_bytes(bytes, content);
        }
        RepairPiece::End {
            number,
            disk_writes,
            digests,
        } => {
            put_number(bytes, *number);
            bytes.extend_from_slice(&disk_writes.to_le_bytes());
            encode_epoch(bytes, digests);
        }
    }
}

fn decode_repair(kind: u8, reader: &mut Reader<'_>) -> Result<RepairPiece, CodecError> {
    Ok(match kind {
        REPAIR_PART => RepairPiece::Part {
            name: part_name(reader)?,
            version: u16::try_from(reader.number()?).map_err(|_| CodecError::OverlongNumber)?,
            content: reader.bytes(REPAIR_PIECE_BYTES_MAX)?.to_vec(),
        },
        REPAIR_PAGE => RepairPiece::Page {
            address: reader.number()?,
            content: reader.bytes(PAGE_SIZE)?.to_vec(),
        },
        REPAIR_LEAF => RepairPiece::Leaf {
            number: reader.number()?,
            content: reader.bytes(REPAIR_PIECE_BYTES_MAX)?.to_vec(),
        },
        _ => RepairPiece::End {
            number: reader.number()?,
            disk_writes: u64::from_le_bytes(array(reader)?),
            digests: Box::new(decode_epoch(reader)?),
        },
    })
}

fn part_name(reader: &mut Reader<'_>) -> Result<String, CodecError> {
    let name = String::from_utf8(reader.bytes(EPOCH_PART_NAME_BYTES_MAX)?.to_vec());
    name.map_err(|_| CodecError::UnknownKind(EPOCH))
}

fn decode_epoch(reader: &mut Reader<'_>) -> Result<EpochDigests, CodecError> {
    let mut registers = [0; 18];
    for register in &mut registers {
        *register = u64::from_le_bytes(array(reader)?);
    }
    let ram = RamSums::from_bytes(&array(reader)?);
    let count = reader.length(EPOCH_PARTS_MAX)?;
    let mut parts = Vec::new();
    for _ in 0..count {
        parts.push((part_name(reader)?, u64::from_le_bytes(array(reader)?)));
    }
    Ok(EpochDigests {
        registers,
        ram,
        parts,
    })
}

fn decode_posted(reader: &mut Reader<'_>) -> Result<Vec<PostedWrite>, CodecError> {
    let count = reader.length(POSTED_WRITES_MAX)?;
    let mut posted = Vec::new();
    for _ in 0..count {
        let kind = reader.byte()?;
        let address = reader.number()?;
        let place = match (kind, u16::try_from(address)) {
            (TO_PORT, Ok(port)) => WritePlace::Port(port),
            (TO_MEMORY, _) => WritePlace::Memory(address),
            _ => return Err(CodecError::UnknownKind(kind)),
        };
        posted.extend(PostedWrite::new(place, reader.bytes(PostedWrite::BYTES_MAX)?));
    }
    Ok(posted)
}

fn output(kind: OutputKind, reader: &mut Reader<'_>) -> Result<Entry, CodecError> {
    Ok(Entry::Output {
        kind,
        digest: u64::from_le_bytes(array(reader)?),
    })
}

fn array<const N: usize>(reader: &mut Reader<'_>) -> Result<[u8; N], CodecError> {
    let mut array = [0; N];
    array.copy_from_slice(reader.exactly(N)?);
    Ok(array)
}

impl Batch {
    /// An empty batch of a machine that has come to exit `at`.
    #[must_use]
    pub fn starting_at(at: ExitOrdinal) -> Self {
        Self {
            first: at.next(),
            through: at,
            ..Self::default()
        }
    }

    /// The batch as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.checks.len() + 16 * self.entries.len());
        put_number(&mut bytes, self.first.get());
        put_bytes(&mut bytes, &self.checks);
        put_number(&mut bytes, self.entries.len() as u64);
        let mut base = Base::default();
        for (exit, entry) in &self.entries {
            base.encode(&mut bytes, *exit, entry);
        }
        put_number(&mut bytes, self.through.get());
        bytes.push(u8::from(self.end.is_some()));
        if let Some(end) = &self.end {
            put_bytes(&mut bytes, end.outcome.as_bytes());
            put_number(&mut bytes, end.virtual_time.as_nanos());
            bytes.extend_from_slice(&end.digests.ram);
            bytes.extend_from_slice(&end.digests.vcpu);
        }
        bytes
    }

    /// The batch that `bytes` are, and nothing else.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let first = ExitOrdinal::new(reader.number()?);
        let checks = reader.bytes(LOG_BATCH_CHECKS_MAX)?.to_vec();
        let count = reader.length(LOG_BATCH_ENTRIES_MAX)?;
        let mut base = Base::default();
        // No capacity ahead: a claimed count costs nothing until entries are there.
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(base.decode(&mut reader)?);
        }
        let through = ExitOrdinal::new(reader.number()?);
        let end = match reader.byte()? {
            0 => None,
            1 => Some(decode_end(&mut reader)?),
            unknown => return Err(CodecError::UnknownKind(unknown)),
        };
        reader.end()?;
        Ok(Self {
            first,
            checks,
            entries,
            through,
            end,
        })
    }
}

fn decode_end(reader: &mut Reader<'_>) -> Result<End, CodecError> {
    Ok(End {
        outcome: String::from_utf8_lossy(reader.bytes(OUTCOME_BYTES_MAX)?).into_owned(),
        virtual_time: VirtualTime::from_nanos(reader.number()?),
        digests: MachineDigests {
            ram: array(reader)?,
            vcpu: array(reader)?,
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let content = || prop::collection::vec(any::<u8>(), 0..100);
        let time = || any::<u64>().prop_map(VirtualTime::from_nanos);
        let kind = prop_oneof![
            Just(OutputKind::Frame),
            Just(OutputKind::Console),
            Just(OutputKind::PowerOff)
        ];
        prop_oneof![
            time().prop_map(Entry::TimeRead),
            time().prop_map(Entry::Expiry),
            content().prop_map(Entry::Frame),
            (any::<u64>(), any::<bool>()).prop_map(|(id, is_done)| Entry::Disk {
                id: DiskRequestId(id),
                is_done
            }),
            content().prop_map(Entry::Console),
            content().prop_map(Entry::Entropy),
            Just(Entry::PowerButton),
            Just(Entry::Stop),
            Just(Entry::Flush),
            Just(Entry::Replays),
            any::<(u64, u64)>().prop_map(|(extent, leaves)| Entry::Verify(Slice { extent, leaves })),
            (any::<u64>(), content()).prop_map(|(address, delta)| Entry::Page { address, delta }),
            (content(), prop::collection::vec(posted(), 0..5))
                .prop_map(|(vcpu, posted)| Entry::Resume { vcpu, posted }),
            digests().prop_map(|digests| Entry::Epoch(Box::new(digests))),
            (digests(), any::<bool>()).prop_map(|(digests, flushes_wait)| Entry::Checkpoints {
                digests: Box::new(digests),
                flushes_wait,
            }),
            (kind, any::<u64>()).prop_map(|(kind, digest)| Entry::Output { kind, digest }),
            piece().prop_map(Entry::Repair),
        ]
    }

    fn digests() -> impl Strategy<Value = EpochDigests> {
        let parts = prop::collection::vec(("[a-z-]{1,20}", any::<u64>()), 0..5);
        (any::<[u64; 18]>(), any::<[u8; RamSums::BYTES]>(), parts).prop_map(|(registers, ram, parts)| {
            EpochDigests {
                registers,
                ram: RamSums::from_bytes(&ram),
                parts,
            }
        })
    }

    fn piece() -> impl Strategy<Value = RepairPiece> {
        let content = || prop::collection::vec(any::<u8>(), 0..100);
        prop_oneof![
            ("[a-z-]{1,20}", any::<u16>(), content()).prop_map(|(name, version, content)| {
                RepairPiece::Part {
                    name,
                    version,
                    content,
                }
            }),
            (any::<u64>(), content()).prop_map(|(address, content)| RepairPiece::Page { address, content }),
            (any::<u64>(), content()).prop_map(|(number, content)| RepairPiece::Leaf { number, content }),
            (any::<(u64, u64)>(), any::<[u64; 18]>()).prop_map(|((number, disk_writes), registers)| {
                RepairPiece::End {
                    number,
                    disk_writes,
                    digests: Box::new(EpochDigests {
                        registers,
                        ram: RamSums::default(),
                        parts: vec![("pic".to_owned(), number)],
                    }),
                }
            }),
        ]
    }

    fn posted() -> impl Strategy<Value = PostedWrite> {
        let place = prop_oneof![
            any::<u16>().prop_map(WritePlace::Port),
            any::<u64>().prop_map(WritePlace::Memory)
        ];
        let content = prop::collection::vec(any::<u8>(), 0..=PostedWrite::BYTES_MAX);
        (place, content).prop_filter_map("too wide", |(place, content)| PostedWrite::new(place, &content))
    }

    fn batch() -> impl Strategy<Value = Batch> {
        let ordinal = || any::<u64>().prop_map(ExitOrdinal::new);
        let digests = any::<([u8; 32], [u8; 32])>().prop_map(|(ram, vcpu)| MachineDigests { ram, vcpu });
        let end = ("[a-z_]{0,32}", any::<u64>(), digests).prop_map(|(outcome, nanos, digests)| End {
            outcome,
            virtual_time: VirtualTime::from_nanos(nanos),
            digests,
        });
        (
            ordinal(),
            prop::collection::vec(any::<u8>(), 0..200),
            prop::collection::vec((ordinal(), entry()), 0..30),
            ordinal(),
            prop::option::of(end),
        )
            .prop_map(|(first, checks, entries, through, end)| Batch {
                first,
                checks,
                entries,
                through,
                end,
            })
    }

    proptest! {
        #[test]
        fn a_batch_comes_back_and_no_prefix_is_one(batch in batch()) {
            let bytes = batch.encode();
            prop_assert_eq!(Batch::decode(&bytes), Ok(batch));
            for end in 0..bytes.len() {
                prop_assert!(Batch::decode(&bytes[..end]).is_err(), "{} of {}", end, bytes.len());
            }
            let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
            prop_assert_eq!(Batch::decode(&longer), Err(CodecError::LeftOver(1)));
        }

        #[test]
        fn no_bytes_break_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(batch) = Batch::decode(&bytes) {
                prop_assert_eq!(Batch::decode(&batch.encode()), Ok(batch));
            }
        }
    }
}
