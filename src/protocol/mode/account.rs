//! What each way of keeping a copy the same has cost (H4): time, bytes, and how long outputs waited.
//!
//! ```text
//!   the guest's time   replay ── a stretch that no replay executes ─▶ resume
//!                      while the copy differs: repair              under checkpoints: checkpoint
//!   bytes              by what the log frame holds
//!   outputs            by what kept them: a repair; else what is in the log frame that tells of them
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::{Cause, Mode};
use crate::base::spans::Spans;
use crate::base::units::LogSeq;
use crate::protocol::limits::MODE_FRAMES_MAX;
use crate::protocol::moment::Moment;
use crate::protocol::status::milliseconds;
use crate::replay::Carried;

/// A way of keeping a copy the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// It executes what the log tells.
    Replay,
    /// It becomes what a guest that computes has become (H1).
    Resume,
    /// It becomes the same machine again (H2).
    Repair,
    /// It becomes what the other one is, and executes nothing (H4).
    Checkpoint,
}

#[derive(Debug, Default)]
struct Tally {
    time: Duration,
    bytes: u64,
    outputs: u64,
    held: Duration,
    holds: Spans,
}

/// Of one pairing, at the site that leads.
#[derive(Debug)]
pub struct Account {
    mode: Mode,
    /// The copy is another machine.
    differs: bool,
    /// When it was that last.
    differed_until: Option<Moment>,
    /// Time is counted up to here.
    counted_to: Moment,
    replay: Tally,
    resume: Tally,
    repair: Tally,
    checkpoint: Tally,
    preemptions: u64,
    /// Frames whose outputs have not left, and what they carry, where that is not what entered.
    frames: BTreeMap<LogSeq, Way>,
}

/// What one way has cost, for JSON.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ShownWay {
    /// The part of the time since lockstep began.
    pub share: f64,
    /// Bytes of log, as they were handed to the connection.
    pub bytes: u64,
    /// Outputs that it kept.
    pub outputs: u64,
    /// For how long, all together, in milliseconds.
    pub hold_ms_sum: f64,
    /// The median of the last 512.
    pub hold_ms_p50: Option<f64>,
    /// What 99 of 100 of them did not exceed.
    pub hold_ms_p99: Option<f64>,
}

/// All of them, for JSON.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Modes {
    /// How it is kept the same now.
    pub mode: Mode,
    /// Why, if that has changed since lockstep began.
    pub cause: Option<Cause>,
    /// Times that the guest was stopped while it computed.
    pub preemptions: u64,
    /// The copy executes what the log tells.
    pub replay: ShownWay,
    /// It becomes what a guest that computes has become.
    pub resume: ShownWay,
    /// It becomes the same machine again.
    pub repair: ShownWay,
    /// It becomes what the other one is, and executes nothing.
    pub checkpoint: ShownWay,
}

impl Account {
    /// Lockstep begins `now`, in replay.
    #[must_use]
    pub fn from(now: Moment) -> Self {
        Self {
            mode: Mode::Replay,
            differs: false,
            differed_until: None,
            counted_to: now,
            replay: Tally::default(),
            resume: Tally::default(),
            repair: Tally::default(),
            checkpoint: Tally::default(),
            preemptions: 0,
            frames: BTreeMap::new(),
        }
    }

    /// The copy is kept the same by `mode` from `now` on.
    pub fn mode(&mut self, now: Moment, mode: Mode) {
        self.passed(now);
        self.mode = mode;
    }

    /// The copy is another machine, or is that no more.
    pub fn differs(&mut self, now: Moment, differs: bool) {
        self.passed(now);
        if self.differs {
            self.differed_until = Some(now);
        }
        self.differs = differs;
    }

    /// Some time has passed.
    pub fn passed(&mut self, now: Moment) {
        let span = now.saturating_since(self.counted_to);
        self.counted_to = self.counted_to.max(now);
        let way = if self.differs {
            Way::Repair
        } else {
            self.by_entries()
        };
        self.tally(way).time += span;
    }

    /// A frame of the log was made that holds what `carried` says and takes `sent` bytes. Answers with the bytes of RAM and
    /// disk among them.
    pub fn logged(&mut self, now: Moment, seq: LogSeq, sent: u64, carried: &Carried) -> u64 {
        self.passed(now);
        self.preemptions += u64::from(carried.preemptions);
        let of_resume = carried.share_of(carried.resume_bytes, sent);
        let of_state = carried.share_of(carried.repair_bytes, sent);
        let by_state = self.by_state();
        let entered = self.by_entries();
        self.tally(entered).bytes += sent.saturating_sub(of_resume + of_state);
        self.resume.bytes += of_resume;
        self.tally(by_state).bytes += of_state;
        // It was counted as replay, unless the copy differed meanwhile.
        let resumed = carried.resumed.min(self.replay.time);
        self.replay.time -= resumed;
        self.resume.time += resumed;
        let way = match carried {
            Carried {
                repair_bytes: 1.., ..
            } => by_state,
            Carried {
                resume_bytes: 1.., ..
            } => Way::Resume,
            _ => entered,
        };
        if way != Way::Replay {
            self.frames.insert(seq, way);
            if self.frames.len() > MODE_FRAMES_MAX {
                self.frames.pop_first();
            }
        }
        of_resume + of_state
    }

    /// An output has left `now` that was in frame `seq`, and was held for so long.
    pub fn let_out(&mut self, now: Moment, seq: LogSeq, held: Duration) {
        // They leave in their order.
        self.frames = self.frames.split_off(&seq);
        let was_kept_by_repair = self
            .differed_until
            .is_some_and(|until| now.saturating_since(until) <= held);
        let way = match self.frames.get(&seq) {
            _ if self.differs || was_kept_by_repair => Way::Repair,
            Some(way) => *way,
            None => Way::Replay,
        };
        let tally = self.tally(way);
        tally.outputs += 1;
        tally.held += held;
        tally.holds.add(held);
    }

    /// How it stands, in the present mode because of `cause`.
    #[must_use]
    pub fn shown(&self, cause: Option<Cause>) -> Modes {
        let all = [&self.replay, &self.resume, &self.repair, &self.checkpoint];
        let total: Duration = all.iter().map(|tally| tally.time).sum();
        let shown = |tally: &Tally| ShownWay {
            share: share(tally.time, total),
            bytes: tally.bytes,
            outputs: tally.outputs,
            hold_ms_sum: milliseconds(tally.held),
            hold_ms_p50: tally.holds.percentile(50).map(milliseconds),
            hold_ms_p99: tally.holds.percentile(99).map(milliseconds),
        };
        Modes {
            mode: self.mode,
            cause,
            preemptions: self.preemptions,
            replay: shown(&self.replay),
            resume: shown(&self.resume),
            repair: shown(&self.repair),
            checkpoint: shown(&self.checkpoint),
        }
    }

    /// By what all else travels.
    const fn by_entries(&self) -> Way {
        match self.mode {
            Mode::Replay => Way::Replay,
            Mode::Checkpoint => Way::Checkpoint,
        }
    }

    /// By what RAM and disk travel that are of no pre-emption.
    const fn by_state(&self) -> Way {
        match self.mode {
            Mode::Checkpoint if !self.differs => Way::Checkpoint,
            Mode::Checkpoint | Mode::Replay => Way::Repair,
        }
    }

    const fn tally(&mut self, way: Way) -> &mut Tally {
        match way {
            Way::Replay => &mut self.replay,
            Way::Resume => &mut self.resume,
            Way::Repair => &mut self.repair,
            Way::Checkpoint => &mut self.checkpoint,
        }
    }
}

/// With four places: more is noise in what people read.
fn share(part: Duration, total: Duration) -> f64 {
    if total.is_zero() {
        return 0.0;
    }
    (part.as_secs_f64() / total.as_secs_f64() * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn seq(number: u64) -> LogSeq {
        LogSeq::new(number)
    }

    fn resumed(span: u64) -> Carried {
        Carried {
            bytes: 100,
            resume_bytes: 80,
            preemptions: 1,
            resumed: ms(span),
            ..Carried::default()
        }
    }

    fn entered() -> Carried {
        Carried {
            bytes: 100,
            ..Carried::default()
        }
    }

    fn repairing() -> Carried {
        Carried {
            bytes: 100,
            repair_bytes: 90,
            ..Carried::default()
        }
    }

    #[test]
    fn time_falls_to_what_kept_the_copy_the_same() {
        let mut account = Account::from(at(0));
        account.passed(at(1000));
        account.logged(at(1000), seq(1), 10, &resumed(200));
        account.differs(at(2000), true);
        account.differs(at(2500), false);
        account.mode(at(3000), Mode::Checkpoint);
        account.passed(at(4000));
        let shown = account.shown(None);
        let shares = [shown.replay, shown.resume, shown.repair, shown.checkpoint].map(|way| way.share);
        assert_eq!(shares, [0.575, 0.05, 0.125, 0.25]);
        account.passed(at(8000));
        assert_eq!(account.shown(None).checkpoint.share, 0.625);
    }

    #[test]
    fn bytes_fall_to_what_the_frame_holds() {
        let mut account = Account::from(at(0));
        assert_eq!(account.logged(at(0), seq(1), 40, &entered()), 0);
        assert_eq!(account.logged(at(0), seq(2), 50, &resumed(1)), 40);
        account.differs(at(1), true);
        assert_eq!(account.logged(at(1), seq(3), 200, &repairing()), 180);
        account.differs(at(2), false);
        account.mode(at(3), Mode::Checkpoint);
        assert_eq!(account.logged(at(3), seq(4), 10, &repairing()), 9);
        let shown = account.shown(None);
        let bytes = [shown.replay, shown.resume, shown.repair, shown.checkpoint].map(|way| way.bytes);
        assert_eq!(bytes, [40 + 10 + 20, 40, 180, 10]);
    }

    #[test]
    fn an_output_falls_to_what_kept_it() {
        let mut account = Account::from(at(0));
        account.logged(at(0), seq(1), 10, &entered());
        account.logged(at(10), seq(2), 10, &resumed(1));
        account.let_out(at(40), seq(1), ms(40));
        account.let_out(at(60), seq(2), ms(50));
        account.let_out(at(61), seq(2), ms(52));
        // The copy differs from 100 to 200: what was made before and left after was kept by its repair.
        account.differs(at(100), true);
        account.differs(at(200), false);
        account.let_out(at(201), seq(3), ms(90));
        account.let_out(at(300), seq(4), ms(99));
        account.mode(at(400), Mode::Checkpoint);
        account.logged(at(430), seq(5), 10, &repairing());
        account.let_out(at(500), seq(5), ms(70));
        let shown = account.shown(None);
        let ways = [shown.replay, shown.resume, shown.repair, shown.checkpoint];
        assert_eq!(ways.map(|way| way.outputs), [2, 2, 1, 1]);
        assert_eq!(ways.map(|way| way.hold_ms_sum), [139.0, 102.0, 90.0, 70.0]);
        assert_eq!(
            (shown.resume.hold_ms_p50, shown.resume.hold_ms_p99),
            (Some(50.0), Some(52.0))
        );
        assert!(account.frames.len() <= 1, "what has left is forgotten");
    }

    #[test]
    fn frames_whose_outputs_nobody_waits_for_are_forgotten() {
        let mut account = Account::from(at(0));
        for number in 1..=2 * MODE_FRAMES_MAX as u64 {
            account.logged(at(number), seq(number), 10, &resumed(1));
        }
        assert_eq!(account.frames.len(), MODE_FRAMES_MAX);
    }

    proptest! {
        #[test]
        fn nothing_is_counted_twice_or_left_out(
            steps in prop::collection::vec((0..6_u8, 0..500_u64), 1..200),
        ) {
            let mut account = Account::from(at(0));
            let (mut now, mut bytes, mut held) = (0, 0, 0);
            for (number, (what, much)) in (1..).zip(steps) {
                now += much;
                match what {
                    0 => account.passed(at(now)),
                    1 => account.differs(at(now), much % 2 == 0),
                    2 if much % 2 == 0 => account.mode(at(now), Mode::Checkpoint),
                    2 => account.mode(at(now), Mode::Replay),
                    3 => {
                        account.logged(at(now), seq(number), much, &resumed(much));
                    }
                    4 => {
                        account.logged(at(now), seq(number), much, &repairing());
                    }
                    _ => account.let_out(at(now), seq(number), ms(much)),
                }
                bytes += if matches!(what, 3 | 4) { much } else { 0 };
                held += if what == 5 { much } else { 0 };
            }
            account.passed(at(now));
            let all = [&account.replay, &account.resume, &account.repair, &account.checkpoint];
            prop_assert_eq!(all.iter().map(|tally| tally.time).sum::<Duration>(), ms(now));
            prop_assert_eq!(all.iter().map(|tally| tally.bytes).sum::<u64>(), bytes);
            prop_assert_eq!(all.iter().map(|tally| tally.held).sum::<Duration>(), ms(held));
        }
    }
}
