//! Messages between the two ends: a kind, three numbers, and bytes.
//!
//! ```text
//!   kind 1 │ number 8 │ number 8 │ number 8 │ length 4 │ bytes
//! ```

use super::LEAF;
use std::io::{self, Read, Write};

/// What is said. Offsets, leaves and positions are as in `antipode_disk_sync`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// A leaf as it was read during a pass.
    Leaf { leaf: u64, bytes: Vec<u8> },
    /// Answer once all before this has been taken in.
    Pass,
    /// Both images are equal, at this position; from now on both execute the log.
    Lockstep { position: u64 },
    /// One entry of the log.
    Write {
        position: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Compare a leaf with this hash.
    Compare {
        unit: u64,
        read_at: u64,
        horizon: u64,
        hash: Vec<u8>,
    },
    /// Put this in a leaf's place.
    Place {
        unit: u64,
        read_at: u64,
        horizon: u64,
        bytes: Vec<u8>,
    },
    /// Damage a leaf as a bad disk does, behind everybody's back.
    Damage { leaf: u64 },
    /// Execute what is left of the log and close.
    End,
    /// What was asked for is done.
    Ready,
    /// A leaf was compared or placed.
    Done { unit: u64, read_at: u64, is_equal: bool },
    /// A leaf was written to since.
    Again { unit: u64 },
    /// The log was executed up to here.
    Reached { position: u64 },
}

impl Message {
    pub(super) fn send(&self, to: &mut impl Write) -> io::Result<()> {
        const NONE: &[u8] = &[];
        let (kind, numbers, bytes) = match self {
            Self::Leaf { leaf, bytes } => (0, [*leaf, 0, 0], bytes.as_slice()),
            Self::Pass => (1, [0; 3], NONE),
            Self::Lockstep { position } => (2, [*position, 0, 0], NONE),
            Self::Write {
                position,
                offset,
                bytes,
            } => (3, [*position, *offset, 0], bytes.as_slice()),
            Self::Compare {
                unit,
                read_at,
                horizon,
                hash,
            } => (4, [*unit, *read_at, *horizon], hash.as_slice()),
            Self::Place {
                unit,
                read_at,
                horizon,
                bytes,
            } => (5, [*unit, *read_at, *horizon], bytes.as_slice()),
            Self::Damage { leaf } => (6, [*leaf, 0, 0], NONE),
            Self::End => (7, [0; 3], NONE),
            Self::Ready => (8, [0; 3], NONE),
            Self::Done {
                unit,
                read_at,
                is_equal,
            } => (9, [*unit, *read_at, u64::from(*is_equal)], NONE),
            Self::Again { unit } => (10, [*unit, 0, 0], NONE),
            Self::Reached { position } => (11, [*position, 0, 0], NONE),
        };
        let mut whole = Vec::with_capacity(29 + bytes.len());
        whole.push(kind);
        for number in numbers {
            whole.extend(number.to_le_bytes());
        }
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        whole.extend(length.to_le_bytes());
        whole.extend(bytes);
        to.write_all(&whole)
    }

    pub(super) fn receive(from: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; 29];
        from.read_exact(&mut head)?;
        let (words, length) = head[1..].split_at(24);
        let words = words.as_chunks::<8>().0;
        let [first, second, third] = [0, 1, 2].map(|index: usize| u64::from_le_bytes(words[index]));
        let length = length
            .iter()
            .rev()
            .fold(0_usize, |all, byte| all << 8 | usize::from(*byte));
        if length > LEAF {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a message longer than a leaf",
            ));
        }
        let mut bytes = vec![0; length];
        from.read_exact(&mut bytes)?;
        Ok(match head[0] {
            0 => Self::Leaf { leaf: first, bytes },
            1 => Self::Pass,
            2 => Self::Lockstep { position: first },
            3 => Self::Write {
                position: first,
                offset: second,
                bytes,
            },
            4 => Self::Compare {
                unit: first,
                read_at: second,
                horizon: third,
                hash: bytes,
            },
            5 => Self::Place {
                unit: first,
                read_at: second,
                horizon: third,
                bytes,
            },
            6 => Self::Damage { leaf: first },
            7 => Self::End,
            8 => Self::Ready,
            9 => Self::Done {
                unit: first,
                read_at: second,
                is_equal: third == 1,
            },
            10 => Self::Again { unit: first },
            11 => Self::Reached { position: first },
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a message of no known kind",
                ));
            }
        })
    }
}
