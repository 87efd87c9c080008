//! When a checkpoint is taken (H4): the primary's part.
//!
//! ```text
//!   replaying ── Wanted(checkpoint): outputs by what is executed ─▶ under way: Begin
//!       ▲                                                              │ executed
//!       │ executed: outputs by the other word again                    ▼
//!   under way: End ◀── Wanted(replay) ── resting ── something waits, or time ─▶ under way: Take
//!                                           ▲                                     │ executed
//!                                           └─────────────────────────────────────┘
//! ```
//!
//! One is under way at a time: a second one would wait behind it. What waits meanwhile has its own next.

use std::time::Duration;

use super::Mode;
use crate::base::units::LogSeq;
use crate::protocol::limits::{CHECKPOINT_AFTER_MAX, CHECKPOINT_AFTER_MIN};
use crate::protocol::moment::Moment;

/// What goes into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The copy executes nothing from here on.
    Begin,
    /// It becomes what this machine is.
    Take,
    /// The same, and it executes again from here on.
    End,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointEvent {
    /// How the copy shall be kept the same.
    Wanted(Mode),
    /// An output, or a flush, waits for the other site.
    Waits,
    /// What was to go into the log is there; this is the last frame of it.
    Logged(Step, LogSeq),
    /// The copy has executed this frame, or has become what it tells.
    Executed(LogSeq),
    /// The guest is to stand still: the copy must be one that executes.
    Stands,
    /// There is no copy any more, or it is another one.
    Over,
    /// Time goes by.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointEffect {
    /// Outputs leave by what the copy has executed; or need not for this any more.
    ByExecuted(bool),
    /// Have it logged.
    Log(Step),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Replaying,
    Resting,
    UnderWay {
        step: Step,
        logged: Option<LogSeq>,
    },
}

/// Of one VM, while this site leads.
#[derive(Debug, Default)]
pub struct Checkpointer {
    state: State,
    wanted: Mode,
    waits: bool,
    /// When the last one began.
    began: Moment,
}

impl Checkpointer {
    /// How the copy is kept the same, as far as it knows.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.state {
            State::Replaying => Mode::Replay,
            State::Resting | State::UnderWay { .. } => Mode::Checkpoint,
        }
    }

    /// For how long a checkpoint has been under way; none in replay.
    #[must_use]
    pub fn under_way(&self, now: Moment) -> Option<Duration> {
        match self.state {
            State::Replaying => None,
            State::Resting => Some(Duration::ZERO),
            State::UnderWay { .. } => Some(now.saturating_since(self.began)),
        }
    }

    /// What follows from `event`, in this order.
    pub fn step(&mut self, now: Moment, event: CheckpointEvent) -> Vec<CheckpointEffect> {
        let mut effects = Vec::new();
        match (event, self.state) {
            (CheckpointEvent::Wanted(mode), _) => self.wanted = mode,
            (CheckpointEvent::Waits, _) => self.waits = true,
            (CheckpointEvent::Stands, state) => {
                self.wanted = Mode::Replay;
                let ends = matches!(state, State::Replaying | State::UnderWay { step: Step::End, .. });
                if !ends {
                    self.begin(now, Step::End, &mut effects);
                }
            }
            (CheckpointEvent::Logged(logged, seq), State::UnderWay { step, logged: None })
                if logged == step =>
            {
                self.state = State::UnderWay {
                    step,
                    logged: Some(seq),
                };
            }
            (CheckpointEvent::Executed(seq), State::UnderWay { step, logged })
                if logged.is_some_and(|logged| logged <= seq) =>
            {
                self.state = if step == Step::End {
                    effects.push(CheckpointEffect::ByExecuted(false));
                    State::Replaying
                } else {
                    State::Resting
                };
            }
            (CheckpointEvent::Over, state) => {
                *self = Self::default();
                if state != State::Replaying {
                    effects.push(CheckpointEffect::ByExecuted(false));
                }
                return effects;
            }
            _ => {}
        }
        self.begin_what_is_due(now, &mut effects);
        effects
    }

    fn begin_what_is_due(&mut self, now: Moment, effects: &mut Vec<CheckpointEffect>) {
        let since = now.saturating_since(self.began);
        let is_due = since >= CHECKPOINT_AFTER_MAX || self.waits && since >= CHECKPOINT_AFTER_MIN;
        let step = match (self.state, self.wanted) {
            (State::Replaying, Mode::Checkpoint) => {
                effects.push(CheckpointEffect::ByExecuted(true));
                Step::Begin
            }
            (State::Resting, Mode::Replay) => Step::End,
            (State::Resting, Mode::Checkpoint) if is_due => Step::Take,
            _ => return,
        };
        self.begin(now, step, effects);
    }

    fn begin(&mut self, now: Moment, step: Step, effects: &mut Vec<CheckpointEffect>) {
        effects.push(CheckpointEffect::Log(step));
        self.state = State::UnderWay { step, logged: None };
        (self.waits, self.began) = (false, now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    fn seq(number: u64) -> LogSeq {
        LogSeq::new(number)
    }

    const NOTHING: [CheckpointEffect; 0] = [];

    #[test]
    fn checkpoints_are_taken_where_something_waits_and_one_at_a_time() {
        let mut core = Checkpointer::default();
        let mut step = |ms, event| core.step(at(ms), event);
        assert_eq!(step(0, CheckpointEvent::Waits), NOTHING, "that waits for a frame");
        assert_eq!(
            step(1, CheckpointEvent::Wanted(Mode::Checkpoint)),
            [
                CheckpointEffect::ByExecuted(true),
                CheckpointEffect::Log(Step::Begin)
            ]
        );
        assert_eq!(
            step(2, CheckpointEvent::Executed(seq(9))),
            NOTHING,
            "it is not logged yet"
        );
        assert_eq!(step(3, CheckpointEvent::Logged(Step::Begin, seq(10))), NOTHING);
        assert_eq!(step(4, CheckpointEvent::Executed(seq(9))), NOTHING);
        assert_eq!(
            step(5, CheckpointEvent::Executed(seq(10))),
            NOTHING,
            "nothing waits"
        );
        assert_eq!(step(6, CheckpointEvent::Waits), NOTHING, "it is too soon");
        assert_eq!(
            step(21, CheckpointEvent::Tick),
            [CheckpointEffect::Log(Step::Take)]
        );
        assert_eq!(step(22, CheckpointEvent::Waits), NOTHING);
        assert_eq!(step(23, CheckpointEvent::Logged(Step::Take, seq(14))), NOTHING);
        assert_eq!(step(90, CheckpointEvent::Tick), NOTHING, "one is under way");
        assert_eq!(
            step(91, CheckpointEvent::Executed(seq(15))),
            [CheckpointEffect::Log(Step::Take)],
            "of what has waited meanwhile"
        );
        step(92, CheckpointEvent::Logged(Step::Take, seq(20)));
        assert_eq!(step(140, CheckpointEvent::Executed(seq(20))), NOTHING);
        assert_eq!(step(1090, CheckpointEvent::Tick), NOTHING);
        assert_eq!(
            step(1091, CheckpointEvent::Tick),
            [CheckpointEffect::Log(Step::Take)],
            "a guest that is silent has one now and then"
        );
    }

    #[test]
    fn outputs_wait_for_the_last_one_until_the_copy_has_become_it() {
        let mut core = Checkpointer::default();
        core.step(at(0), CheckpointEvent::Wanted(Mode::Checkpoint));
        assert_eq!(
            core.step(at(1), CheckpointEvent::Wanted(Mode::Replay)),
            NOTHING,
            "it begins first"
        );
        core.step(at(2), CheckpointEvent::Logged(Step::Begin, seq(1)));
        assert_eq!(core.under_way(at(3)), Some(Duration::from_millis(3)));
        assert_eq!(
            core.step(at(3), CheckpointEvent::Executed(seq(1))),
            [CheckpointEffect::Log(Step::End)]
        );
        core.step(at(4), CheckpointEvent::Logged(Step::End, seq(5)));
        assert_eq!(
            (core.step(at(5), CheckpointEvent::Executed(seq(4))), core.mode()),
            (vec![], Mode::Checkpoint)
        );
        assert_eq!(
            core.step(at(6), CheckpointEvent::Executed(seq(5))),
            [CheckpointEffect::ByExecuted(false)]
        );
        assert_eq!(core.mode(), Mode::Replay);
    }

    #[test]
    fn a_guest_that_is_to_stand_is_carried_once_more_and_no_other_counts_for_that() {
        let mut core = Checkpointer::default();
        assert_eq!(core.step(at(0), CheckpointEvent::Stands), NOTHING);
        core.step(at(1), CheckpointEvent::Wanted(Mode::Checkpoint));
        assert_eq!(
            core.step(at(2), CheckpointEvent::Stands),
            [CheckpointEffect::Log(Step::End)]
        );
        core.step(at(3), CheckpointEvent::Logged(Step::Begin, seq(1)));
        assert_eq!(core.step(at(4), CheckpointEvent::Executed(seq(1))), NOTHING);
        assert_eq!(
            core.step(at(5), CheckpointEvent::Stands),
            NOTHING,
            "it is under way"
        );
        core.step(at(6), CheckpointEvent::Logged(Step::End, seq(3)));
        assert_eq!(
            core.step(at(7), CheckpointEvent::Executed(seq(3))),
            [CheckpointEffect::ByExecuted(false)]
        );
    }

    #[test]
    fn another_copy_begins_in_replay() {
        let mut core = Checkpointer::default();
        assert_eq!(core.step(at(0), CheckpointEvent::Over), NOTHING);
        core.step(at(0), CheckpointEvent::Wanted(Mode::Checkpoint));
        assert_eq!(
            core.step(at(1), CheckpointEvent::Over),
            [CheckpointEffect::ByExecuted(false)]
        );
        assert_eq!(
            (core.mode(), core.step(at(2), CheckpointEvent::Tick)),
            (Mode::Replay, vec![])
        );
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![Just(Step::Begin), Just(Step::Take), Just(Step::End)]
    }

    fn event() -> impl Strategy<Value = CheckpointEvent> {
        prop_oneof![
            Just(CheckpointEvent::Wanted(Mode::Checkpoint)),
            Just(CheckpointEvent::Wanted(Mode::Replay)),
            Just(CheckpointEvent::Waits),
            (step(), 1..30_u64).prop_map(|(step, number)| CheckpointEvent::Logged(step, seq(number))),
            Just(CheckpointEvent::Stands),
            (1..30_u64).prop_map(|number| CheckpointEvent::Executed(seq(number))),
            Just(CheckpointEvent::Over),
            Just(CheckpointEvent::Tick),
        ]
    }

    proptest! {
        /// What the copy is told makes sense to it, and outputs wait for it as long as it rests.
        #[test]
        fn what_is_logged_follows_from_what_was_and_outputs_wait_meanwhile(
            events in prop::collection::vec((0..60_u64, event()), 1..200),
        ) {
            let mut core = Checkpointer::default();
            let (mut now, mut by_executed, mut last) = (0, false, Step::End);
            for (span, event) in events {
                now += span;
                for effect in core.step(at(now), event) {
                    match effect {
                        CheckpointEffect::ByExecuted(on) => {
                            prop_assert!(on != by_executed);
                            by_executed = on;
                        }
                        CheckpointEffect::Log(step) => {
                            prop_assert!(by_executed);
                            prop_assert_eq!(step == Step::Begin, last == Step::End);
                            last = step;
                        }
                    }
                }
                if event == CheckpointEvent::Over {
                    last = Step::End;
                }
                prop_assert_eq!(by_executed, core.mode() == Mode::Checkpoint);
            }
        }
    }
}
