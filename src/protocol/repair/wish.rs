//! What the two ends of a repair say to each other: how, and how much of it.

use std::collections::BTreeSet;

use antipode_disk_sync::units::LEAF_BYTES;
use serde::{Deserialize, Serialize};

use super::{Cause, Done};
use crate::base::limits::{CHANNEL_REPAIR_BYTES_MAX, REPAIR_BYTES_MAX, REPAIR_RUNS_MAX};
use crate::base::units::{ExitOrdinal, PAGE_BYTES};
use crate::machine::Touched;

/// Bytes of what differs, in words.
const WHAT_BYTES_MAX: usize = 512;
// Two numbers of a run have 40 digits at the most, and three signs between them; of pages and leaves there are 20.
const _: () = assert!(2 * REPAIR_RUNS_MAX * 27 + WHAT_BYTES_MAX * 6 + 1024 <= CHANNEL_REPAIR_BYTES_MAX);

/// Numbers, as runs: the first, and how many.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Runs(Vec<(u64, u64)>);

impl Runs {
    /// Of `numbers`; where there are more runs than fit, those that lie close are one, with what is between them.
    #[must_use]
    pub fn of(numbers: impl IntoIterator<Item = u64>) -> Self {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for number in numbers {
            match runs.last_mut() {
                Some((first, count)) if *first + *count == number => *count += 1,
                _ => runs.push((number, 1)),
            }
        }
        let mut gap = 1;
        while runs.len() > REPAIR_RUNS_MAX {
            gap *= 2;
            let mut merged: Vec<(u64, u64)> = Vec::new();
            for (first, count) in runs {
                match merged.last_mut() {
                    Some((begun, length)) if first - (*begun + *length) <= gap => {
                        *length = first + count - *begun;
                    }
                    _ => merged.push((first, count)),
                }
            }
            runs = merged;
        }
        Self(runs)
    }

    /// The numbers; none where they are more than `most`, or no runs that [`Self::of`] makes.
    #[must_use]
    pub fn numbers(&self, most: u64) -> Option<BTreeSet<u64>> {
        let mut numbers = BTreeSet::new();
        let mut end = 0_u64;
        let mut left = most;
        for (first, count) in &self.0 {
            left = left.checked_sub(*count)?;
            if *first < end || *count == 0 {
                return None;
            }
            end = first.checked_add(*count)?;
            numbers.extend(*first..end);
        }
        Some(numbers)
    }
}

/// What a copy that differs wishes for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// How often it has differed.
    pub number: u64,
    /// The exit where that shows first.
    pub at: u64,
    /// Why, as far as it is known.
    pub cause: Cause,
    /// What differs, in words.
    pub what: String,
    /// The exit at which both were last found to be the same.
    pub since: u64,
    /// Pages that it may have written since, by number.
    pub pages: Runs,
    /// Leaves of the disk.
    pub leaves: Runs,
}

/// A wish that no copy can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it says to have written what nobody can write")]
pub struct NoWish;

impl Wish {
    /// Of a copy that has differed `number` times, now at exit `at`, and may have written what `touched` says.
    #[must_use]
    pub fn new(number: u64, at: ExitOrdinal, cause: Cause, what: &str, touched: &Touched) -> Self {
        let mut what = what.to_owned();
        what.truncate(what.floor_char_boundary(WHAT_BYTES_MAX));
        Self {
            number,
            at: at.get(),
            cause,
            what,
            since: touched.since.get(),
            pages: Runs::of(touched.pages.iter().map(|address| address / PAGE_BYTES)),
            leaves: Runs::of(touched.leaves.iter().copied()),
        }
    }

    /// What it may have written; bounded, and not known to be of this VM.
    ///
    /// # Errors
    /// [`NoWish`]. A wish for more than can be carried is none of that: it is for whoever adds to it to refuse.
    pub fn touched(&self) -> Result<Touched, NoWish> {
        // Gaps that were closed may make it more than it was.
        let bytes = 2 * REPAIR_BYTES_MAX;
        let pages = self.pages.numbers(bytes / PAGE_BYTES).ok_or(NoWish)?;
        let address = |page: u64| page.checked_mul(PAGE_BYTES);
        Ok(Touched {
            since: ExitOrdinal::new(self.since),
            pages: pages
                .into_iter()
                .map(address)
                .collect::<Option<_>>()
                .ok_or(NoWish)?,
            leaves: self.leaves.numbers(bytes / LEAF_BYTES).ok_or(NoWish)?,
        })
    }
}

/// What one end of a repair says to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Backup: this copy differs.
    Wish(Wish),
    /// Primary: there is nothing to repair it with.
    Refused {
        /// Which wish.
        number: u64,
        /// Why.
        why: String,
    },
    /// Backup: it is the same again.
    Repaired(Done),
    /// Primary: outputs leave when the copy has made them too, so that is to be acknowledged at once; or no more.
    Verify {
        /// Whether they do.
        on: bool,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back_and_more_only_where_there_are_too_many_runs(
            numbers in prop::collection::btree_set(0..100_000_u64, 0..6000),
        ) {
            let runs = Runs::of(numbers.iter().copied());
            prop_assert!(runs.0.len() <= REPAIR_RUNS_MAX);
            let found = runs.numbers(u64::MAX).unwrap();
            prop_assert!(found.is_superset(&numbers));
            let starts = numbers.iter().filter(|number| **number == 0 || !numbers.contains(&(**number - 1)));
            if starts.count() <= REPAIR_RUNS_MAX {
                prop_assert_eq!(found, numbers);
            }
        }
    }

    #[test]
    fn runs_that_nobody_makes_are_none() {
        for runs in [
            vec![(5, 0)],
            vec![(5, 2), (6, 1)],
            vec![(9, 1), (3, 1)],
            vec![(u64::MAX, 1)],
            vec![(0, 11)],
            vec![(0, u64::MAX), (1, u64::MAX)],
        ] {
            assert_eq!(Runs(runs.clone()).numbers(10), None, "{runs:?}");
        }
        assert_eq!(Runs(vec![(5, 2), (7, 1)]).numbers(10), Some([5, 6, 7].into()));
    }

    #[test]
    fn the_longest_wish_fits_its_frame() {
        let touched = Touched {
            since: ExitOrdinal::new(u64::MAX),
            pages: (0..9000_u64)
                .map(|index| (u64::MAX / PAGE_BYTES - index * 7) * PAGE_BYTES)
                .collect(),
            leaves: (0..9000_u64).map(|index| u64::MAX / 2 - index * 9).collect(),
        };
        let what = "\u{1}".repeat(9000);
        let wish = Wish::new(
            u64::MAX,
            ExitOrdinal::new(u64::MAX),
            Cause::AccessedBitOnly,
            &what,
            &touched,
        );
        let bytes = serde_json::to_vec(&Word::Wish(wish.clone())).unwrap();
        assert!(bytes.len() <= CHANNEL_REPAIR_BYTES_MAX, "{}", bytes.len());
        assert_eq!(serde_json::from_slice::<Word>(&bytes).unwrap(), Word::Wish(wish));
    }
}
