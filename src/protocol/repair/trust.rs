//! By which word of its backup a primary lets outputs leave (H3).
//!
//! ```text
//!   received ── its copy differs ─▶ verified ── so many clean epochs ─▶ received
//!                                      ▲  └── it differs again: counted anew
//!   chosen: verified, always ──────────┘
//! ```
//!
//! *Received*: the backup has the log that tells of the output, and will make it before it goes on alone (P1). *Verified*: it has
//! made it, and it was the same. So an output that has left is one that whoever goes on has made, and not one that it may turn out
//! not to make; it leaves later by what the backup is behind. An epoch is clean when the backup has come past its end, where both
//! were compared whole.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::base::units::LogSeq;
use crate::protocol::limits::CLEAN_EPOCHS;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrustEvent {
    /// The copy is another machine.
    Differed,
    /// It is the same again: what the log told before it has not executed.
    Repaired,
    /// So many epochs ended in this log frame.
    Logged(LogSeq, u32),
    /// The copy has come to the end of this frame, and was the same.
    Executed(LogSeq),
    /// The copy executes nothing and becomes what checkpoints say (H4); or that no more.
    Rests(bool),
    /// There is no copy any more, or another one.
    Over,
}

/// How it stands, for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shown {
    /// An output leaves when the backup has made it too; else when it has received what tells of it.
    pub verified: bool,
    /// The VM's definition wants that.
    pub chosen: bool,
    /// The copy has differed, and so many epochs are to be clean first.
    pub clean_epochs_left: u32,
}

/// Whose word counts, of one VM.
#[derive(Debug, Default)]
pub struct Trust {
    is_chosen: bool,
    rests: bool,
    /// Epochs that are still to be clean; 0 if none needs to.
    left: u32,
    /// Frames in which epochs ended, and how many, which the copy has not executed.
    ends: VecDeque<(LogSeq, u32)>,
}

impl Trust {
    /// Verified always, if that `is_chosen`.
    #[must_use]
    pub fn new(is_chosen: bool) -> Self {
        Self {
            is_chosen,
            ..Self::default()
        }
    }

    /// Whether an output leaves only when the copy has made it.
    #[must_use]
    pub const fn is_verified(&self) -> bool {
        self.is_chosen || self.rests || self.left > 0
    }

    /// How it stands.
    #[must_use]
    pub const fn shown(&self) -> Shown {
        Shown {
            verified: self.is_verified(),
            chosen: self.is_chosen,
            clean_epochs_left: self.left,
        }
    }

    /// What `event` changes. True if outputs leave by another word from here on.
    pub fn step(&mut self, event: TrustEvent) -> bool {
        let before = self.is_verified();
        match event {
            TrustEvent::Differed | TrustEvent::Repaired => {
                self.left = CLEAN_EPOCHS;
                self.ends.clear();
            }
            TrustEvent::Logged(seq, epochs) => {
                if self.left > 0 && epochs > 0 {
                    self.ends.push_back((seq, epochs));
                }
            }
            TrustEvent::Executed(seq) => {
                while let Some((end, epochs)) = self.ends.front()
                    && *end <= seq
                {
                    self.left = self.left.saturating_sub(*epochs);
                    self.ends.pop_front();
                }
            }
            TrustEvent::Rests(rests) => self.rests = rests,
            TrustEvent::Over => {
                (self.left, self.rests) = (0, false);
                self.ends.clear();
            }
        }
        before != self.is_verified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(number: u64) -> LogSeq {
        LogSeq::new(number)
    }

    #[test]
    fn a_difference_is_forgotten_after_so_many_clean_epochs_and_no_fewer() {
        let mut trust = Trust::new(false);
        assert!(!trust.step(TrustEvent::Logged(seq(1), 9)));
        assert!(trust.step(TrustEvent::Differed));
        assert!(
            !trust.step(TrustEvent::Logged(seq(2), 5)),
            "of what is never executed"
        );
        assert!(!trust.step(TrustEvent::Repaired));
        assert!(!trust.step(TrustEvent::Logged(seq(3), CLEAN_EPOCHS - 1)));
        assert!(!trust.step(TrustEvent::Logged(seq(4), 1)));
        assert!(!trust.step(TrustEvent::Executed(seq(3))));
        assert_eq!(trust.shown().clean_epochs_left, 1);
        assert!(trust.step(TrustEvent::Executed(seq(4))));
        assert_eq!(trust.shown(), Shown::default());
    }

    #[test]
    fn another_difference_counts_anew_and_another_copy_has_none() {
        let mut trust = Trust::new(false);
        trust.step(TrustEvent::Differed);
        trust.step(TrustEvent::Logged(seq(1), CLEAN_EPOCHS));
        trust.step(TrustEvent::Differed);
        trust.step(TrustEvent::Executed(seq(1)));
        assert_eq!(trust.shown().clean_epochs_left, CLEAN_EPOCHS);
        assert!(trust.step(TrustEvent::Over));
    }

    #[test]
    fn a_copy_that_rests_has_made_nothing_that_it_has_not_become() {
        let mut trust = Trust::new(false);
        assert!(trust.step(TrustEvent::Rests(true)));
        assert!(!trust.step(TrustEvent::Differed), "it is verified already");
        assert!(!trust.step(TrustEvent::Rests(false)), "and stays so for that");
        assert!(trust.step(TrustEvent::Over));
        trust.step(TrustEvent::Rests(true));
        assert!(trust.step(TrustEvent::Rests(false)));
    }

    #[test]
    fn what_is_chosen_stays() {
        let mut trust = Trust::new(true);
        for event in [TrustEvent::Differed, TrustEvent::Repaired, TrustEvent::Over] {
            assert!(!trust.step(event));
            assert!(trust.shown().verified && trust.shown().chosen);
        }
    }
}
