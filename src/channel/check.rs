//! What the two ends of a verification say to each other (D5).
//!
//! ```text
//!   Check   0        1              9                17             25
//!           ├ what   ┼ exit (8)     ┼ extent (8)     ┼ leaves (8)   ┤           integers little-endian
//!
//!   what       after it                                               sent by
//!   Want       whether it is to be given up (1); no round             the backup
//!   Hashes     leaves that are known (8), 32 bytes for each of them   the backup
//!   Mend       place (1), the leaf's content                          the primary
//!   Mended     place (1), whether it was written (1)                  the backup
//!   Told       a report, opaque here; no round                        the primary
//! ```

use antipode_disk_sync::online::Slice;
use antipode_disk_sync::units::LEAF_BYTES;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::session::Side;
use crate::base::limits::CHANNEL_CHECK_BYTES_MAX;
use crate::base::units::ExitOrdinal;
use crate::machine::workers::{Hashes, Round};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RoundHead {
    exit: U64,
    extent: U64,
    leaves: U64,
}

/// One end of a verification to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// The disks are to be compared; or not, after all.
    Want {
        /// Not.
        cancel: bool,
    },
    /// What is known of a round's slice here.
    Hashes(Round, Hashes),
    /// A leaf that differs, by its place in the extent, and what it held where the round began.
    Mend(Round, u8, Vec<u8>),
    /// Whether it was written.
    Mended(Round, u8, bool),
    /// How far it is.
    Told(Vec<u8>),
}

const WANT: u8 = 1;
const HASHES: u8 = 2;
const MEND: u8 = 3;
const MENDED: u8 = 4;
const TOLD: u8 = 5;

// The longest one there is.
const _: () = assert!(1 + size_of::<RoundHead>() as u64 + 1 + LEAF_BYTES <= CHANNEL_CHECK_BYTES_MAX as u64);

impl Check {
    /// Whether an end may say it that is `from`.
    pub(super) const fn may_come_from(&self, from: Side) -> bool {
        match self {
            Self::Want { .. } | Self::Hashes(..) | Self::Mended(..) => matches!(from, Side::Backup),
            Self::Mend(..) | Self::Told(_) => matches!(from, Side::Primary),
        }
    }

    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Want { cancel } => bytes.extend([WANT, u8::from(*cancel)]),
            Self::Hashes(round, hashes) => {
                put_round(bytes, HASHES, *round);
                bytes.extend(hashes.known().to_le_bytes());
                hashes.all().iter().for_each(|hash| bytes.extend(hash));
            }
            Self::Mend(round, place, content) => {
                put_round(bytes, MEND, *round);
                bytes.push(*place);
                bytes.extend(content);
            }
            Self::Mended(round, place, done) => {
                put_round(bytes, MENDED, *round);
                bytes.extend([*place, u8::from(*done)]);
            }
            Self::Told(report) => {
                bytes.push(TOLD);
                bytes.extend(report);
            }
        }
    }

    /// What `body` says; none if that is nothing which can be said.
    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let (&what, rest) = body.split_first()?;
        match (what, rest) {
            (WANT, &[cancel]) => Some(Self::Want {
                cancel: truth(cancel)?,
            }),
            (HASHES, rest) => {
                let (round, rest) = take_round(rest)?;
                let (known, rest) = U64::read_from_prefix(rest).ok()?;
                let (hashes, rest) = rest.as_chunks();
                let is_fit = known.get() & !round.slice.leaves == 0 && rest.is_empty();
                let hashes = Hashes::new(known.get(), hashes.to_vec()).filter(|_| is_fit)?;
                Some(Self::Hashes(round, hashes))
            }
            (MEND, rest) => {
                let (round, rest) = take_round(rest)?;
                let (&place, content) = rest.split_first()?;
                let is_fit = round.leaf(place).is_some() && content.len() as u64 <= LEAF_BYTES;
                is_fit.then(|| Self::Mend(round, place, content.to_vec()))
            }
            (MENDED, rest) => match take_round(rest)? {
                (round, &[place, done]) if round.leaf(place).is_some() => {
                    Some(Self::Mended(round, place, truth(done)?))
                }
                _ => None,
            },
            (TOLD, report) => Some(Self::Told(report.to_vec())),
            _ => None,
        }
    }
}

const fn truth(byte: u8) -> Option<bool> {
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn put_round(bytes: &mut Vec<u8>, what: u8, round: Round) {
    let head = RoundHead {
        exit: round.at.get().into(),
        extent: round.slice.extent.into(),
        leaves: round.slice.leaves.into(),
    };
    bytes.push(what);
    bytes.extend_from_slice(head.as_bytes());
}

fn take_round(bytes: &[u8]) -> Option<(Round, &[u8])> {
    let (head, rest) = RoundHead::read_from_prefix(bytes).ok()?;
    let round = Round {
        at: ExitOrdinal::new(head.exit.get()),
        slice: Slice {
            extent: head.extent.get(),
            leaves: head.leaves.get(),
        },
    };
    Some((round, rest))
}
