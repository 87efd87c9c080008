//! What a machine has written since a position at which both copies of it were found to be the same (H2).
//!
//! Each end of an epoch is such a position once the copy has come past it, and so is the beginning of lockstep. Of each page
//! and each leaf of the disk it is kept in which epoch it was written last:
//!
//! ```text
//!   begin ──epoch 1── close at e ──epoch 2── close at f ──epoch 3─ …      since(e): what was written in epochs 2 and 3
//! ```
//!
//! What is written to pages in the epoch that is open is KVM's to tell, and comes here when that closes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use antipode_disk_sync::units::LEAF_BYTES;

use crate::base::limits::HISTORY_EPOCHS_MAX;
use crate::base::units::{ExitOrdinal, PAGE_BYTES};

/// The latest epochs.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The number of the one that is open; 0 before lockstep.
    epoch: u32,
    /// Where the latest ones began, and their numbers.
    begun: VecDeque<(ExitOrdinal, u32)>,
    /// By page number; 0 if it was not written.
    pages: Vec<u32>,
    /// By number.
    leaves: BTreeMap<u64, u32>,
}

impl History {
    /// Both copies go on from `at`, equal.
    pub(super) fn begin(&mut self, at: ExitOrdinal) {
        *self = Self {
            epoch: 1,
            begun: [(at, 1)].into(),
            ..Self::default()
        };
    }

    /// The guest asks for `bytes` of its disk to be written.
    pub(super) fn wrote(&mut self, bytes: &Range<u64>) {
        if self.epoch > 0 && !bytes.is_empty() {
            let leaves = bytes.start / LEAF_BYTES..bytes.end.div_ceil(LEAF_BYTES);
            self.leaves.extend(leaves.map(|leaf| (leaf, self.epoch)));
        }
    }

    /// The epoch ends at `at`; in it the pages at `addresses` were written.
    pub(super) fn close(&mut self, at: ExitOrdinal, addresses: &[u64]) {
        if self.epoch == 0 {
            return;
        }
        for address in addresses {
            let index = usize::try_from(address / PAGE_BYTES).unwrap_or(usize::MAX);
            if index >= self.pages.len() {
                self.pages.resize(index + 1, 0);
            }
            self.pages[index] = self.epoch;
        }
        self.epoch += 1;
        self.begun.push_back((at, self.epoch));
        if self.begun.len() > HISTORY_EPOCHS_MAX {
            self.begun.pop_front();
            let oldest = self.begun.front().map_or(0, |(_, epoch)| *epoch);
            self.leaves.retain(|_, epoch| *epoch >= oldest);
        }
    }

    /// Where the epoch began that is open.
    pub(super) fn last(&self) -> Option<ExitOrdinal> {
        self.begun.back().map(|(at, _)| *at)
    }

    /// The pages, by address, of the epochs since `at` that are closed, and the leaves of all of them. None if no epoch is
    /// known to have begun there.
    pub(super) fn since(&self, at: ExitOrdinal) -> Option<(Vec<u64>, Vec<u64>)> {
        // Where several began, it is not known at which of them the copies were compared.
        let (_, first) = self.begun.iter().find(|(begun, _)| *begun == at)?;
        let pages = (0..).zip(&self.pages).filter(|(_, epoch)| *epoch >= first);
        let leaves = self.leaves.iter().filter(|(_, epoch)| *epoch >= first);
        Some((
            pages.map(|(page, _)| page * PAGE_BYTES).collect(),
            leaves.map(|(leaf, _)| *leaf).collect(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(number: u64) -> ExitOrdinal {
        ExitOrdinal::new(number)
    }

    #[test]
    fn what_was_written_since_a_position_is_told_and_nothing_before() {
        let mut history = History::default();
        history.wrote(&(0..512));
        history.close(exit(3), &[0x1000]);
        assert_eq!(history.since(exit(3)), None, "there is no other copy");
        history.begin(exit(5));
        history.wrote(&(LEAF_BYTES - 1..LEAF_BYTES + 1));
        history.close(exit(9), &[0x1000, 0x3000]);
        history.wrote(&(7 * LEAF_BYTES..8 * LEAF_BYTES));
        history.close(exit(12), &[0x3000, 0x4000]);
        history.wrote(&(LEAF_BYTES..LEAF_BYTES + 1));
        assert_eq!(history.last(), Some(exit(12)));
        let all = (vec![0x1000, 0x3000, 0x4000], vec![0, 1, 7]);
        assert_eq!(history.since(exit(5)), Some(all));
        assert_eq!(history.since(exit(9)), Some((vec![0x3000, 0x4000], vec![1, 7])));
        assert_eq!(history.since(exit(12)), Some((vec![], vec![1])));
        assert_eq!(history.since(exit(10)), None, "no epoch began there");
    }

    #[test]
    fn of_epochs_that_began_at_one_exit_the_first_counts() {
        let mut history = History::default();
        history.begin(exit(5));
        history.close(exit(9), &[0x1000]);
        history.close(exit(9), &[0x2000]);
        assert_eq!(history.since(exit(9)), Some((vec![0x2000], vec![])));
    }

    #[test]
    fn only_the_latest_epochs_are_remembered() {
        let mut history = History::default();
        history.begin(exit(0));
        for at in 1..=HISTORY_EPOCHS_MAX as u64 {
            history.wrote(&(at * LEAF_BYTES..at * LEAF_BYTES + 1));
            history.close(exit(at), &[]);
        }
        assert_eq!(history.since(exit(0)), None);
        assert_eq!(history.leaves.len(), HISTORY_EPOCHS_MAX - 1);
        let (_, leaves) = history.since(exit(1)).unwrap();
        assert_eq!(leaves.len(), HISTORY_EPOCHS_MAX - 1);
    }
}
