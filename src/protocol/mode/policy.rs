//! Which mode it shall be.

use std::sync::LazyLock;
use std::time::Duration;

use super::{Cause, Choice, Mode, Rates};
use crate::protocol::limits::{MODE_LASTS, MODE_STAY_MAX, MODE_STAY_MIN};
use crate::protocol::moment::Moment;

const TABLE: &str = include_str!("policy.txt");

/// What it shall be, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// How the copy is kept the same from here on.
    pub mode: Mode,
    /// Why; none where it is so already.
    pub cause: Option<Cause>,
}

/// The first row of the table that fits.
///
/// # Panics
/// If no row fits. The last row of each mode fits everything; a test sees to that.
#[must_use]
pub fn answer(mode: Mode, rates: &Rates) -> Decision {
    let row = ROWS.iter().find(|row| row.fits(mode, rates));
    row.expect("a row fits everything").decision
}

pub(super) static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    TABLE
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(Row::parse)
        .collect()
});

/// What a cell asks of a measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    Any,
    AtLeast(u64),
    Below(u64),
}

impl Bound {
    fn parse(cell: &str) -> Self {
        let number = |digits: &str| digits.trim().parse().ok();
        let bound = match (cell.strip_prefix(">="), cell.strip_prefix('<')) {
            _ if cell == "-" => Some(Self::Any),
            (Some(digits), _) => number(digits).map(Self::AtLeast),
            (_, Some(digits)) => number(digits).map(Self::Below),
            _ => None,
        };
        bound.unwrap_or_else(|| panic!("the table has a bound that is none: {cell}"))
    }

    const fn fits(self, measured: u64) -> bool {
        match self {
            Self::Any => true,
            Self::AtLeast(least) => measured >= least,
            Self::Below(bound) => measured < bound,
        }
    }
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) mode: Mode,
    repairs: Bound,
    pub(super) preemptions: Bound,
    state: Bound,
    hold: Bound,
    pub(super) decision: Decision,
}

impl Row {
    fn parse(line: &str) -> Self {
        let mut cells = line.split('|').map(str::trim);
        let mut cell = || cells.next().expect("a row of the table has seven cells");
        let mode = mode_of(cell());
        let mut bound = || Bound::parse(cell());
        let (repairs, preemptions, state, hold) = (bound(), bound(), bound(), bound());
        let decision = Decision {
            mode: mode_of(cell()),
            cause: cause_of(cell()),
        };
        assert_eq!(
            decision.cause.is_some(),
            decision.mode != mode,
            "what changes has a cause, and nothing else: {line}"
        );
        Self {
            mode,
            repairs,
            preemptions,
            state,
            hold,
            decision,
        }
    }

    pub(super) fn fits(&self, mode: Mode, rates: &Rates) -> bool {
        self.mode == mode
            && self.repairs.fits(rates.repairs)
            && self.preemptions.fits(rates.preemptions)
            && self.state.fits(rates.state)
            && self.hold.fits(rates.hold)
    }
}

fn mode_of(word: &str) -> Mode {
    let found = Mode::ALL.iter().find(|mode| mode.name() == word);
    *found.unwrap_or_else(|| panic!("the table has a mode that is none: {word}"))
}

fn cause_of(word: &str) -> Option<Cause> {
    if word == "-" {
        return None;
    }
    let found = Cause::OF_TABLE.iter().find(|cause| cause.name() == word);
    Some(*found.unwrap_or_else(|| panic!("the table has a cause that is none: {word}")))
}

/// Decides for one pairing.
#[derive(Debug)]
pub struct Policy {
    choice: Choice,
    mode: Mode,
    /// Why it is that mode; none as long as it is the first.
    cause: Option<Cause>,
    since: Moment,
    /// How long each lasts at least.
    stay_in_replay: Duration,
    stay_in_checkpoint: Duration,
}

impl Policy {
    /// Lockstep begins `now`, in replay.
    #[must_use]
    pub const fn new(now: Moment, choice: Choice) -> Self {
        Self {
            choice,
            mode: Mode::Replay,
            cause: None,
            since: now,
            stay_in_replay: MODE_STAY_MIN,
            stay_in_checkpoint: MODE_STAY_MIN,
        }
    }

    /// The mode that it is.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Why; none as long as nothing has changed since lockstep began.
    #[must_use]
    pub const fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// Since when.
    #[must_use]
    pub const fn since(&self) -> Moment {
        self.since
    }

    /// The mode that it shall be from here on, if that is another. `rates` are asked for only where they decide.
    pub fn step(&mut self, now: Moment, rates: impl FnOnce() -> Rates) -> Option<Mode> {
        let (mode, cause) = match self.choice {
            Choice::Always(mode) => (mode, Cause::Chosen),
            Choice::Auto if now.saturating_since(self.since) < self.stay() => return None,
            Choice::Auto => {
                let Decision { mode, cause } = answer(self.mode, &rates());
                (mode, cause?)
            }
        };
        if mode == self.mode {
            return None;
        }
        self.judge_what_is_left(now, mode, cause);
        (self.mode, self.cause, self.since) = (mode, Some(cause), now);
        Some(mode)
    }

    /// How long the present mode lasts at least.
    #[must_use]
    pub const fn stay(&self) -> Duration {
        match self.mode {
            Mode::Replay => self.stay_in_replay,
            Mode::Checkpoint => self.stay_in_checkpoint,
        }
    }

    /// What was tried and came to nothing is not tried again as soon: `next` lasts for longer.
    fn judge_what_is_left(&mut self, now: Moment, next: Mode, cause: Cause) {
        let was_tried = self.cause.is_some();
        if !cause.is_trouble() || !was_tried {
            return;
        }
        let has_lasted = now.saturating_since(self.since) >= self.stay() + MODE_LASTS;
        let stay = match next {
            Mode::Replay => &mut self.stay_in_replay,
            Mode::Checkpoint => &mut self.stay_in_checkpoint,
        };
        *stay = if has_lasted {
            MODE_STAY_MIN
        } else {
            (*stay * 2).min(MODE_STAY_MAX)
        };
    }
}
