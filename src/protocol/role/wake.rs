//! A host that stood still and wakes (P5).
//!
//! While this site did not run, the other one may have claimed, or an operator may have put the VM elsewhere; frames and
//! answers that arrived meanwhile are as old as the sleep. So at the first event after a gap, before anything else:
//!
//! - outputs are held, and the record is read: they leave again when it still names this very start, or, of a primary,
//!   when the backup acknowledges a log frame that was written after the sleep (it has not claimed then);
//! - what was asked for is asked for anew, under a new number: an answer from before the sleep no longer counts;
//! - a copy that waits for the outcome of a switchover believes the record alone;
//! - the other site is not suspected for a silence that this one slept through.

use std::time::Duration;

use antipode_tiebreaker::Record;

use super::{Cause, Effect, Phase, Purpose, Role, Standing};
use crate::base::units::LogSeq;
use crate::protocol::limits::ALONE_GAP_MAX;
use crate::protocol::moment::Moment;

/// This site may have been replaced while it slept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doubt {
    /// A log frame that was handed to the channel no earlier than the last before the sleep: acknowledgements up to it may be
    /// as old as the sleep. It is known from the first tick after it on, as a gauge of before misses what came after the gauge.
    fence: Option<LogSeq>,
    /// The reading that was under way.
    then: Option<Purpose>,
}

impl Doubt {
    /// The same, with nothing to follow.
    pub(super) const fn alone(self) -> Self {
        Self { then: None, ..self }
    }
}

impl Role {
    /// How long this site may stand still before its outputs are held. It is the lease that the output rule gives to
    /// the role.
    #[must_use]
    pub fn gap_max(&self) -> Duration {
        let alone = matches!(
            self.phase,
            Phase::Alone | Phase::Syncing | Phase::Cloning | Phase::Settling
        );
        if alone {
            ALONE_GAP_MAX.max(self.detector.failure_timeout())
        } else {
            self.detector.failure_timeout()
        }
    }

    pub(super) fn notice_gap(&mut self, now: Moment) {
        let gap = now.saturating_since(self.now);
        self.now = self.now.max(now);
        if gap >= self.detector.failure_timeout() / 2 {
            self.detector.begin(self.now);
            self.suspected_at = None;
        }
        if gap > self.gap_max() {
            self.wake();
        }
    }

    fn wake(&mut self) {
        self.sleep_in_turn();
        match self.asked.take() {
            Some(_) if self.phase == Phase::Starting => self.read_record(Purpose::Start),
            Some(asked) => self.ask(asked.ask.operation),
            None => {}
        }
        let waits_closed = self.asked.is_some() && self.gate == super::Gate::Closed;
        if self.phase.is_live() && !waits_closed {
            let then = self
                .reading
                .as_ref()
                .map(|reading| reading.purpose)
                .filter(|purpose| *purpose != Purpose::Wake)
                .or(self.doubt.and_then(|doubt| doubt.then));
            self.doubt = Some(Doubt { fence: None, then });
            self.emit(Effect::HoldOutputs);
            self.read_record(Purpose::Wake);
            self.emit(Effect::Report);
        }
    }

    pub(super) fn wake_read(&mut self, record: Option<&Record>) {
        match self.standing(record.map(|record| &record.state)) {
            Standing::Alone | Standing::Primary => self.end_doubt(),
            // The answer was lost, or slept through.
            Standing::Parked if self.phase == Phase::Parking => self.park_answered(true, Standing::Parked),
            _ => self.lose(Cause::Lost),
        }
    }

    /// The backup has what was logged up to `received`: it had not claimed when it got that.
    pub(super) fn reassured_by(&mut self, received: LogSeq) {
        let fence = self.doubt.and_then(|doubt| doubt.fence);
        if fence.is_some_and(|fence| received > fence) {
            self.end_doubt();
        }
    }

    /// The gauges are of after the sleep.
    pub(super) fn set_fence(&mut self) {
        if let Some(doubt) = &mut self.doubt {
            doubt.fence.get_or_insert(self.gauges.logged);
        }
    }

    pub(super) fn end_doubt(&mut self) {
        let Some(doubt) = self.doubt.take() else { return };
        self.reading = None;
        self.apply_gate();
        self.emit(Effect::Report);
        if let Some(purpose) = doubt.then {
            self.read_record(purpose);
        }
    }
}
