//! What a client was told, and what it finds in the end. Pure.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// The account of one checked sequence: the numbers 1, 2, 3 …, written one at a time.
///
/// A number is *begun* when it is sent and *acknowledged* when the service said so. Only the last may be begun and not
/// acknowledged: nobody knows whether it was kept, and either is right.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    begun: u64,
    acknowledged: u64,
    /// Answers that showed a head below what was acknowledged.
    regressed: u64,
    /// Answers that showed a head which was never written.
    foreign: u64,
    /// Acknowledged numbers that are not there in the end; unknown until they were looked for.
    lost: Option<BTreeSet<u64>>,
    silence: Silence,
}

impl Ledger {
    /// The next number, which is sent now.
    pub fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    /// The number that was begun last is acknowledged at `at`; `head` is what it replaced.
    pub fn acknowledge(&mut self, head: u64, at: Duration) {
        self.regressed += u64::from(head < self.acknowledged);
        self.foreign += u64::from(head > self.begun);
        self.acknowledged = self.begun;
        self.silence.heard(at);
    }

    /// What the service has in the end.
    pub fn compare(&mut self, kept: &BTreeSet<u64>) {
        self.lost = Some(
            (1..=self.acknowledged)
                .filter(|number| !kept.contains(number))
                .collect(),
        );
        self.foreign += kept.range(self.begun + 1..).count() as u64 + u64::from(kept.contains(&0));
    }

    /// The highest number that was sent.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// How many were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Between answers.
    #[must_use]
    pub fn silence(&self) -> Silence {
        self.silence
    }

    /// The verdict, with at most [`LOST_SHOWN`] of what was lost by name.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let lost = self.lost.as_ref();
        Verdict {
            acked: self.acknowledged,
            begun: self.begun,
            lost: lost.map(|lost| lost.len() as u64),
            first_lost: lost.into_iter().flatten().take(LOST_SHOWN).copied().collect(),
            regressed: self.regressed,
            foreign: self.foreign,
            gap_ms_max: self.silence.longest().as_millis_u64(),
            gap_at_ms: self.silence.longest_since().as_millis_u64(),
        }
    }
}

/// How many lost numbers a verdict names.
pub const LOST_SHOWN: usize = 8;

/// What came of a checked sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Writes that were acknowledged.
    pub acked: u64,
    /// Writes that were sent.
    pub begun: u64,
    /// Acknowledged writes that are not there in the end; absent if the service could not be asked.
    pub lost: Option<u64>,
    /// The first of them.
    pub first_lost: Vec<u64>,
    /// Answers from before what was acknowledged.
    pub regressed: u64,
    /// Values that nobody wrote.
    pub foreign: u64,
    /// The longest time between two answers.
    pub gap_ms_max: u64,
    /// When it began, after the first write.
    pub gap_at_ms: u64,
}

/// The longest time without a sign of life.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silence {
    last: Option<Duration>,
    longest: Duration,
    since: Duration,
}

impl Silence {
    /// A sign of life at `at`; what is counted from the first one on.
    pub fn heard(&mut self, at: Duration) {
        if let Some(last) = self.last {
            let gap = at.saturating_sub(last);
            if gap > self.longest {
                (self.longest, self.since) = (gap, last);
            }
        }
        self.last = Some(at);
    }

    /// The longest until the last sign of life.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// When that began.
    #[must_use]
    pub fn longest_since(&self) -> Duration {
        self.since
    }

    /// How long it has been silent at `at`.
    #[must_use]
    pub fn present(&self, at: Duration) -> Duration {
        self.last.map_or(Duration::ZERO, |last| at.saturating_sub(last))
    }
}

/// Whole milliseconds.
pub(super) trait Millis {
    fn as_millis_u64(&self) -> u64;
}

impl Millis for Duration {
    fn as_millis_u64(&self) -> u64 {
        u64::try_from(self.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Three acknowledged, a fourth begun.
    fn played(heads: [u64; 3]) -> Ledger {
        let mut ledger = Ledger::default();
        for (head, number) in heads.into_iter().zip(1..) {
            assert_eq!(ledger.begin(), number);
            ledger.acknowledge(head, at(number * 10));
        }
        ledger.begin();
        ledger
    }

    fn found(kept: &[u64]) -> Verdict {
        let mut ledger = played([0, 1, 2]);
        ledger.compare(&kept.iter().copied().collect());
        ledger.verdict()
    }

    #[test]
    fn what_was_acknowledged_must_be_there_and_the_rest_may() {
        for kept in [&[1, 2, 3][..], &[1, 2, 3, 4]] {
            let verdict = found(kept);
            assert_eq!((verdict.acked, verdict.begun), (3, 4));
            assert_eq!(
                (verdict.lost, verdict.regressed, verdict.foreign),
                (Some(0), 0, 0)
            );
        }
    }

    #[test]
    fn a_planted_loss_is_named() {
        let verdict = found(&[1, 3]);
        assert_eq!((verdict.lost, verdict.first_lost), (Some(1), vec![2]));
        assert_eq!(found(&[]).lost, Some(3));
    }

    #[test]
    fn a_planted_step_back_in_time_is_counted() {
        let verdict = played([0, 1, 1]).verdict();
        assert_eq!(
            (verdict.regressed, verdict.foreign),
            (1, 0),
            "the head was 2, and 1 came"
        );
        assert_eq!(played([0, 0, 2]).verdict().regressed, 1);
    }

    #[test]
    fn planted_values_of_nobody_are_counted() {
        assert_eq!(found(&[1, 2, 3, 5]).foreign, 1);
        assert_eq!(found(&[0, 1, 2, 3]).foreign, 1);
        assert_eq!(played([0, 9, 2]).verdict().foreign, 1);
    }

    #[test]
    fn what_was_not_looked_for_is_not_said_to_be_there() {
        assert_eq!(played([0, 1, 2]).verdict().lost, None);
    }

    #[test]
    fn the_longest_silence_and_its_beginning_are_kept() {
        let mut silence = Silence::default();
        assert_eq!(silence.present(at(50)), Duration::ZERO, "nothing has begun");
        for moment in [100, 120, 900, 910] {
            silence.heard(at(moment));
        }
        assert_eq!((silence.longest(), silence.longest_since()), (at(780), at(120)));
        assert_eq!(silence.present(at(1_000)), at(90));
    }
}
