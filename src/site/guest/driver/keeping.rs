//! How the other copy is kept the same (H4): what policy and checkpointer want, done.

use std::time::Duration;

use super::super::orders::Order;
use super::super::pair::LogEnd;
use super::Driver;
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::machine::config::Kept;
use crate::protocol::mode::{
    CheckpointEffect, CheckpointEvent, Checkpointer, Choice, Meter, Mode, Policy, Step,
};
use crate::protocol::moment::Moment;
use crate::protocol::repair::TrustEvent;
use crate::protocol::role::Phase;

/// Of one VM, seen from one site.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    choice: Choice,
    /// While this site leads.
    policy: Option<Policy>,
    checkpointer: Checkpointer,
    pub(super) meter: Meter,
}

impl Keeping {
    /// Lockstep begins.
    pub(super) fn begin(&mut self, now: Moment) {
        self.policy = Some(Policy::new(now, self.choice));
        self.meter = Meter::from(now);
    }

    /// As the VM's definition wants it.
    pub(super) const fn choose(&mut self, kept: Kept) {
        self.choice = match kept {
            Kept::Auto => Choice::Auto,
            Kept::Replay => Choice::Always(Mode::Replay),
            Kept::Checkpoint => Choice::Always(Mode::Checkpoint),
        };
    }

    /// For how long a checkpoint has been under way, if there are any.
    pub(super) fn checkpoint_under_way(&self, now: Moment) -> Option<Duration> {
        self.checkpointer.under_way(now)
    }

    /// Why it is kept the same as it is.
    pub(super) fn cause(&self) -> Option<crate::protocol::mode::Cause> {
        self.policy.as_ref().and_then(Policy::cause)
    }
}

impl Driver {
    /// Now and then: shall the copy be kept the same otherwise, and is a checkpoint due?
    pub(super) fn watch_mode(&mut self) {
        let moment = self.moment();
        if !self.leads_log() {
            self.keeping.policy = None;
            return self.step_checkpointer(CheckpointEvent::Over);
        }
        self.keeping.meter.passed(moment);
        if self.parts.role.phase() == Phase::Primary
            && let Some(policy) = &mut self.keeping.policy
        {
            let (meter, role) = (&self.keeping.meter, &self.parts.role);
            let rates = || meter.rates(moment, role.view().round_trip.unwrap_or_default());
            if let Some(mode) = policy.step(moment, rates) {
                tracing::warn!(mode = mode.name(), cause = ?policy.cause(), rates = ?rates(), "the copy is kept the same otherwise");
            }
            let mode = policy.mode();
            self.step_checkpointer(CheckpointEvent::Wanted(mode));
        }
        let flush_waits = self
            .disk()
            .is_some_and(|disk| disk.flushes().wait_since().is_some());
        let event = if flush_waits {
            CheckpointEvent::Waits
        } else {
            CheckpointEvent::Tick
        };
        self.step_checkpointer(event);
    }

    /// An output is in this frame of the log, if in one.
    pub(super) fn output_waits(&mut self, seq: LogSeq) {
        if seq != LogSeq::NONE {
            self.step_checkpointer(CheckpointEvent::Waits);
        }
    }

    /// The guest is about to stand still, for a copy that executes.
    pub(super) fn end_checkpoints(&mut self) {
        self.step_checkpointer(CheckpointEvent::Stands);
    }

    /// The copy has come to the end of this frame.
    pub(super) fn checkpoint_executed(&mut self, seq: LogSeq) {
        self.step_checkpointer(CheckpointEvent::Executed(seq));
    }

    /// What was ordered is in the log. What cannot be had the copy will never have: it is suspected for that, as any that is late.
    pub(super) fn checkpointed(&mut self, step: Step, outcome: Result<(ExitOrdinal, u64), String>) {
        let last = match self.pair.as_ref().map(|pair| &pair.log) {
            Some(LogEnd::Sending { sender, .. }) => sender.last(),
            _ => return,
        };
        match outcome {
            Ok((position, byte_count)) => {
                tracing::debug!(?step, %position, byte_count, "a checkpoint is in the log");
                let moment = self.moment();
                if let Some(account) = &mut self.account {
                    match step {
                        Step::Begin => account.mode(moment, Mode::Checkpoint),
                        Step::Take => {}
                        Step::End => account.mode(moment, Mode::Replay),
                    }
                }
                self.step_checkpointer(CheckpointEvent::Logged(step, last));
            }
            Err(why) => tracing::error!("no checkpoint can be taken: {why}"),
        }
    }

    fn step_checkpointer(&mut self, event: CheckpointEvent) {
        let moment = self.moment();
        for effect in self.keeping.checkpointer.step(moment, event) {
            tracing::debug!(?effect);
            match effect {
                CheckpointEffect::ByExecuted(on) => self.step_trust(TrustEvent::Rests(on)),
                CheckpointEffect::Log(step) => {
                    if let Some(running) = &self.running {
                        running.handle.order(Order::Checkpoint(step));
                    }
                }
            }
        }
    }

    /// This copy executes nothing, and is what the other one was at `position`.
    pub(super) fn copy_rests(&mut self, position: ExitOrdinal) {
        let now = self.now();
        let over = self.pair.as_mut().and_then(|pair| pair.rests_at(now, position));
        self.replay_over(over);
    }

    /// It executes again what the log tells.
    pub(super) fn copy_follows(&mut self) {
        if let Some(pair) = &mut self.pair {
            pair.follows();
        }
    }
}
