//! What makes a copy the same machine again that was found to differ (H2): in pieces, as the log carries it, and whole.
//!
//! ```text
//!   recorder: Repair ─▶ parts, pages, leaves, end ══ log ══▶ Staging ── end ─▶ Repair      nothing before it is whole
//! ```
//!
//! Both ends begin anew behind it: the rolling digest, and what the log has told of pages.

use super::catalogue::RepairPiece;
use crate::base::limits::{REPAIR_BYTES_MAX, REPAIR_PIECE_BYTES_MAX, STATE_PART_BYTES_MAX};
use crate::base::parts::{Part, Parts};
use crate::base::units::PAGE_SIZE;
use crate::base::zeros::is_zero;
use crate::machine::{Capture, EpochDigests};

/// The number of a repair that no copy has wished for: a checkpoint (H4).
pub const CHECKPOINT: u64 = 0;

/// What is staged of one at the most: beside RAM and disk the longest part of a machine.
const STAGED_BYTES_MAX: u64 = REPAIR_BYTES_MAX + STATE_PART_BYTES_MAX as u64;

/// All of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Repair {
    /// Which of the copy's wishes it answers, or [`CHECKPOINT`].
    pub number: u64,
    /// The machine.
    pub capture: Capture,
    /// Leaves of its disk, by number.
    pub leaves: Vec<(u64, Vec<u8>)>,
    /// What it is then.
    pub digests: EpochDigests,
}

impl Repair {
    /// What it holds of RAM and disk, in bytes.
    #[must_use]
    pub fn byte_count(&self) -> u64 {
        let leaves: usize = self.leaves.iter().map(|(_, content)| content.len()).sum();
        (self.capture.pages.len() * PAGE_SIZE + leaves) as u64
    }

    /// Its pieces, in their order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = RepairPiece> {
        let parts = self.capture.parts.iter().flat_map(|part| {
            // A part without content is one piece.
            let end = part.content.len().max(1);
            (0..end).step_by(REPAIR_PIECE_BYTES_MAX).map(|from| {
                let upto = part.content.len().min(from + REPAIR_PIECE_BYTES_MAX);
                RepairPiece::Part {
                    name: part.name.clone(),
                    version: part.version,
                    content: part.content[from..upto].to_vec(),
                }
            })
        });
        let pages = self.capture.pages.iter().map(|(address, content)| {
            let bytes = if is_zero(&content[..]) {
                &[][..]
            } else {
                &content[..]
            };
            RepairPiece::Page {
                address: *address,
                content: bytes.to_vec(),
            }
        });
        let leaves = self.leaves.iter().map(|(number, content)| RepairPiece::Leaf {
            number: *number,
            content: content.clone(),
        });
        let end = RepairPiece::End {
            number: self.number,
            disk_writes: self.capture.disk_writes,
            digests: Box::new(self.digests.clone()),
        };
        parts.chain(pages).chain(leaves).chain([end])
    }
}

/// Why pieces are no repair: the other site breaks the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRepair {
    /// There are more than there may be.
    #[error("a repair has more than {STAGED_BYTES_MAX} bytes")]
    TooLong,
    /// One is of no length that it can have.
    #[error("a page of a repair has {0} bytes")]
    Page(usize),
}

/// Pieces that have come.
#[derive(Debug, Default)]
pub(super) struct Staging {
    parts: Vec<Part>,
    pages: Vec<(u64, Box<[u8; PAGE_SIZE]>)>,
    leaves: Vec<(u64, Vec<u8>)>,
    bytes: u64,
}

impl Staging {
    /// Takes the next piece; answers with all of it if that is the last.
    pub(super) fn take(&mut self, piece: RepairPiece) -> Result<Option<Repair>, NoRepair> {
        match piece {
            RepairPiece::Part {
                name,
                version,
                content,
            } => {
                self.count(content.len())?;
                match self.parts.last_mut().filter(|part| part.name == name) {
                    Some(part) => part.content.extend(content),
                    None => self.parts.push(Part {
                        name,
                        version,
                        content,
                    }),
                }
            }
            RepairPiece::Page { address, content } => {
                self.count(PAGE_SIZE)?;
                let mut page = Box::new([0; PAGE_SIZE]);
                if !content.is_empty() {
                    let length = content.len();
                    let whole: [u8; PAGE_SIZE] = content.try_into().map_err(|_| NoRepair::Page(length))?;
                    page.copy_from_slice(&whole);
                }
                self.pages.push((address, page));
            }
            RepairPiece::Leaf { number, content } => {
                self.count(content.len())?;
                self.leaves.push((number, content));
            }
            RepairPiece::End {
                number,
                disk_writes,
                digests,
            } => {
                let whole = std::mem::take(self);
                return Ok(Some(Repair {
                    number,
                    capture: Capture {
                        parts: whole.parts.into_iter().collect::<Parts>(),
                        disk_writes,
                        pages: whole.pages,
                    },
                    leaves: whole.leaves,
                    digests: *digests,
                }));
            }
        }
        Ok(None)
    }

    fn count(&mut self, bytes: usize) -> Result<(), NoRepair> {
        self.bytes += bytes as u64;
        if self.bytes > STAGED_BYTES_MAX {
            return Err(NoRepair::TooLong);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::RamSums;

    fn repair() -> Repair {
        let mut parts = Parts::default();
        parts.put("long", 3, &vec![7_u8; 2 * REPAIR_PIECE_BYTES_MAX]);
        parts.put("pic", 1, &9_u64);
        let mut page = Box::new([0; PAGE_SIZE]);
        page[7] = 1;
        Repair {
            number: 4,
            capture: Capture {
                parts,
                disk_writes: 8,
                pages: vec![(0x1000, page), (0x5000, Box::new([0; PAGE_SIZE]))],
            },
            leaves: vec![(3, vec![5; 100])],
            digests: EpochDigests {
                registers: [6; 18],
                ram: RamSums::default(),
                parts: vec![("pic".to_owned(), 1)],
            },
        }
    }

    #[test]
    fn what_comes_in_pieces_is_whole_with_the_last_and_not_before() {
        let whole = repair();
        assert_eq!(whole.byte_count(), 2 * PAGE_SIZE as u64 + 100);
        let pieces: Vec<_> = whole.pieces().collect();
        let mut staging = Staging::default();
        let (last, before) = pieces.split_last().unwrap();
        for piece in before {
            assert_eq!(staging.take(piece.clone()), Ok(None));
        }
        assert_eq!(staging.take(last.clone()), Ok(Some(whole)));
        assert_eq!(staging.bytes, 0, "the next one begins anew");
    }

    #[test]
    fn more_than_a_repair_may_hold_is_refused_when_it_comes() {
        let mut staging = Staging::default();
        let page = |content: Vec<u8>| RepairPiece::Page { address: 0, content };
        assert_eq!(staging.take(page(vec![1; 3])), Err(NoRepair::Page(3)));
        let most = STAGED_BYTES_MAX / PAGE_SIZE as u64;
        staging.bytes = most * PAGE_SIZE as u64;
        assert_eq!(staging.take(page(Vec::new())), Err(NoRepair::TooLong));
    }
}
