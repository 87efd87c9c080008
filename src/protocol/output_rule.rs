//! Which outputs may leave (P1).
//!
//! An output waits with the number of the log frame that holds its `Output` entry. What may leave is said by the role's
//! effects alone:
//!
//! ```text
//!   OpenOutputs       nobody else may go live: all may leave
//!   HoldOutputs       nothing leaves
//!   ReleaseThrough n  what is in log frames up to n is held by the backup: those leave, the others wait
//!   DiscardOutputs    this copy shows nothing: a backup's frames, and those of a site that has lost
//! ```
//!
//! A second lock beside the role's: outputs leave only for [`OutputRule::lease`] after the role last acted. A host that
//! was frozen and wakes may run this before the role has noticed, so the rule itself stops first.
//!
//! Every frame is asserted on its way out, in release builds too: a frame that nobody holds is worse than a VM that
//! stops.

use std::collections::VecDeque;
use std::time::Duration;

use super::moment::Moment;
use crate::base::units::LogSeq;

/// What may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// All.
    Open,
    /// What was written in log frames up to this; nothing if there is none.
    Held(Option<LogSeq>),
    /// None, ever.
    Discarded,
}

#[derive(Debug)]
struct Waiting<T> {
    output: T,
    written: LogSeq,
    since: Moment,
}

/// Outputs of one VM on their way out, in order.
#[derive(Debug)]
pub struct OutputRule<T> {
    gate: Gate,
    waiting: VecDeque<Waiting<T>>,
    acted_at: Moment,
    lease: Duration,
}

impl<T> OutputRule<T> {
    /// Nothing leaves before the role says so; and then for `lease` after it last acted.
    #[must_use]
    pub const fn new(lease: Duration) -> Self {
        Self {
            gate: Gate::Held(None),
            waiting: VecDeque::new(),
            acted_at: Moment::from_nanos(0),
            lease,
        }
    }

    /// What may leave.
    #[must_use]
    pub const fn gate(&self) -> Gate {
        self.gate
    }

    /// How long outputs leave after the role last acted.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        self.lease
    }

    /// The role has acted at `now`, and all of its effects are done; outputs leave for `lease` from now on.
    pub const fn role_acted(&mut self, now: Moment, lease: Duration) {
        self.acted_at = now;
        self.lease = lease;
    }

    /// All may leave.
    ///
    /// # Panics
    /// Where this copy's outputs are discarded: what has lost never shows anything again.
    pub fn open(&mut self) {
        assert!(
            self.gate != Gate::Discarded,
            "what has lost never shows anything again"
        );
        self.gate = Gate::Open;
    }

    /// Nothing may leave.
    ///
    /// # Panics
    /// Where this copy's outputs are discarded.
    pub fn hold(&mut self) {
        assert!(self.gate != Gate::Discarded, "what has lost is not held but gone");
        self.gate = Gate::Held(None);
    }

    /// What was written in log frames up to `through` may leave.
    ///
    /// # Panics
    /// Where outputs are not held.
    pub fn release_through(&mut self, through: LogSeq) {
        let Gate::Held(before) = self.gate else {
            panic!(
                "outputs are released one by one only while they are held, not {:?}",
                self.gate
            );
        };
        self.gate = Gate::Held(before.max(Some(through)));
    }

    /// Nothing that is here or comes leaves.
    pub fn discard(&mut self) {
        self.gate = Gate::Discarded;
        self.waiting.clear();
    }

    /// This copy, which showed nothing so far, is about to be shown: what is the backup's way to go live.
    pub fn go_live(&mut self) {
        self.waiting.clear();
        self.gate = Gate::Held(None);
    }

    /// The guest has made `output`; its entry is in the log frame `written`, 0 where none is written.
    pub fn submit(&mut self, now: Moment, output: T, written: LogSeq) {
        if self.gate != Gate::Discarded {
            self.waiting.push_back(Waiting {
                output,
                written,
                since: now,
            });
        }
    }

    /// The next output that may leave now, the log frame that it was written in, and how long it was held.
    ///
    /// # Panics
    /// Where an output would leave that the backup has not acknowledged: the assertion of P1.
    pub fn take(&mut self, now: Moment) -> Option<(T, LogSeq, Duration)> {
        if !self.leaves_at(now) || !self.permits(self.waiting.front()?.written) {
            return None;
        }
        let Waiting {
            output,
            written,
            since,
        } = self.waiting.pop_front()?;
        match self.gate {
            Gate::Open => {}
            Gate::Held(Some(through)) => assert!(
                written <= through,
                "an output in {written} would leave with {through} acknowledged"
            ),
            Gate::Held(None) | Gate::Discarded => panic!("an output would leave through {:?}", self.gate),
        }
        Some((output, written, now.saturating_since(since)))
    }

    /// Whether the role has acted lately enough for anything to leave at `now`.
    #[must_use]
    pub fn leaves_at(&self, now: Moment) -> bool {
        now.saturating_since(self.acted_at) <= self.lease
    }

    fn permits(&self, written: LogSeq) -> bool {
        match self.gate {
            Gate::Open => true,
            Gate::Held(through) => through.is_some_and(|through| written <= through),
            Gate::Discarded => false,
        }
    }

    /// Since when the oldest output has waited.
    #[must_use]
    pub fn waits_since(&self) -> Option<Moment> {
        self.waiting.front().map(|oldest| oldest.since)
    }

    /// How many outputs wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(300);

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    fn leaving(rule: &mut OutputRule<u64>, now: Moment) -> Vec<u64> {
        std::iter::from_fn(|| rule.take(now))
            .map(|(output, ..)| output)
            .collect()
    }

    fn with_outputs(seqs: &[u64]) -> OutputRule<u64> {
        let mut rule = OutputRule::new(LEASE);
        rule.role_acted(at(0), LEASE);
        for &seq in seqs {
            rule.submit(at(seq), seq, LogSeq::new(seq));
        }
        rule
    }

    #[test]
    fn nothing_leaves_before_the_role_says_so() {
        assert_eq!(leaving(&mut with_outputs(&[0, 1]), at(5)), [0_u64; 0]);
    }

    #[test]
    fn what_is_acknowledged_leaves_in_order_and_no_more() {
        let mut rule = with_outputs(&[1, 1, 2, 3]);
        rule.release_through(LogSeq::new(2));
        assert_eq!(leaving(&mut rule, at(5)), [1, 1, 2]);
        rule.release_through(LogSeq::new(1));
        assert_eq!(
            leaving(&mut rule, at(5)),
            [0_u64; 0],
            "an older word takes nothing back and gives nothing"
        );
        assert_eq!(rule.waits_since(), Some(at(3)));
        rule.open();
        assert_eq!(
            rule.take(at(10)),
            Some((3, LogSeq::new(3), Duration::from_millis(7)))
        );
    }

    #[test]
    fn what_was_acknowledged_before_a_hold_waits_for_a_new_word() {
        let mut rule = with_outputs(&[1]);
        rule.release_through(LogSeq::new(1));
        rule.hold();
        assert_eq!(leaving(&mut rule, at(5)), [0_u64; 0]);
    }

    #[test]
    fn nothing_leaves_when_the_role_has_slept() {
        let mut rule = with_outputs(&[1]);
        rule.open();
        assert_eq!(leaving(&mut rule, at(301)), [0_u64; 0]);
        rule.role_acted(at(301), LEASE);
        assert_eq!(leaving(&mut rule, at(302)), [1]);
    }

    #[test]
    fn a_backup_shows_what_it_makes_after_it_went_live_and_nothing_before() {
        let mut rule = with_outputs(&[]);
        rule.discard();
        rule.submit(at(1), 1, LogSeq::new(0));
        rule.go_live();
        rule.submit(at(2), 2, LogSeq::new(0));
        assert_eq!(leaving(&mut rule, at(2)), [0_u64; 0]);
        rule.open();
        assert_eq!(leaving(&mut rule, at(3)), [2]);
    }

    #[test]
    #[should_panic(expected = "never shows anything again")]
    fn what_has_lost_does_not_open() {
        let mut rule = with_outputs(&[1]);
        rule.discard();
        rule.open();
    }
}
