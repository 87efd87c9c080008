//! How far the backup is behind, and how fast the guest may go for it (P3).
//!
//! [`LagMeter`] remembers when the primary was where; the lag in time is the age of the oldest batch that the backup has not
//! executed: a guest that slept before has not made it late. [`LagControl`] lowers the guest's share by a quarter while the lag is above its target and gives a tenth
//! back while it is below half of it: between the two nothing changes, so that it does not swing.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use super::limits::{LAG_MARKS_MAX, LAG_STEP_INTERVAL, LAG_TARGET, SHARE_PERCENT_MIN};
use super::moment::Moment;
use crate::base::units::ExitOrdinal;

/// How far the backup is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Lag {
    /// Time since the primary was where the backup is.
    pub time: Duration,
    /// Bytes of log between them.
    pub bytes: u64,
    /// Counted exits between them.
    pub exits: u64,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Moment,
    position: ExitOrdinal,
    /// Bytes logged up to here, since the pairing began.
    bytes: u64,
}

/// Measures the lag.
#[derive(Debug, Clone, Default)]
pub struct LagMeter {
    /// Where the primary was when; the first is the newest one that the backup has reached.
    marks: VecDeque<Mark>,
    replayed: ExitOrdinal,
}

impl LagMeter {
    /// The primary has logged up to `position`, `bytes` since the pairing began.
    pub fn logged(&mut self, now: Moment, position: ExitOrdinal, bytes: u64) {
        if self.marks.len() == LAG_MARKS_MAX {
            // Every second one is enough for twice the time.
            let mut index = 0;
            self.marks.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.marks.push_back(Mark {
            at: now,
            position,
            bytes,
        });
        self.forget_reached();
    }

    /// The backup has reached `position`.
    pub fn replayed(&mut self, position: ExitOrdinal) {
        self.replayed = self.replayed.max(position);
        self.forget_reached();
    }

    fn forget_reached(&mut self) {
        while self
            .marks
            .get(1)
            .is_some_and(|next| next.position <= self.replayed)
        {
            self.marks.pop_front();
        }
    }

    /// The lag at `now`.
    #[must_use]
    pub fn lag(&self, now: Moment) -> Lag {
        let (Some(first), Some(last)) = (self.marks.front(), self.marks.back()) else {
            return Lag::default();
        };
        if last.position <= self.replayed {
            return Lag::default();
        }
        let unreached = self.marks.get(1).unwrap_or(first);
        Lag {
            time: now.saturating_since(unreached.at),
            bytes: last.bytes.saturating_sub(first.bytes),
            exits: last.position.get().saturating_sub(self.replayed.get()),
        }
    }
}

/// The part of a processor that the guest may use, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct CpuShare(u8);

impl CpuShare {
    /// All of it.
    pub const FULL: Self = Self(100);

    /// Percent, 1 to 100.
    #[must_use]
    pub const fn percent(self) -> u8 {
        self.0
    }
}

/// Decides the guest's share.
#[derive(Debug, Clone)]
pub struct LagControl {
    share: CpuShare,
    changed_at: Moment,
}

impl Default for LagControl {
    fn default() -> Self {
        Self {
            share: CpuShare::FULL,
            changed_at: Moment::default(),
        }
    }
}

impl LagControl {
    /// The share as it is.
    #[must_use]
    pub const fn share(&self) -> CpuShare {
        self.share
    }

    /// The new share, if `lag` asks for one.
    pub fn step(&mut self, now: Moment, lag: Duration) -> Option<CpuShare> {
        if now.saturating_since(self.changed_at) < LAG_STEP_INTERVAL {
            return None;
        }
        let CpuShare(percent) = self.share;
        let next = if lag > LAG_TARGET {
            CpuShare((percent - percent / 4).max(SHARE_PERCENT_MIN))
        } else if lag < LAG_TARGET / 2 {
            CpuShare((percent + 10).min(CpuShare::FULL.0))
        } else {
            self.share
        };
        (next != self.share).then(|| {
            self.share = next;
            self.changed_at = now;
            next
        })
    }

    /// Nobody follows any more: the guest has all of it. Says so if that is new.
    pub fn release(&mut self) -> Option<CpuShare> {
        let was = std::mem::replace(&mut self.share, CpuShare::FULL);
        (was != CpuShare::FULL).then_some(CpuShare::FULL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn the_lag_is_the_age_of_what_the_backup_has_not_reached() {
        let mut meter = LagMeter::default();
        assert_eq!(meter.lag(at(5)), Lag::default());
        for step in 0..10_u64 {
            meter.logged(at(step * 10), ExitOrdinal::new(step * 100), step * 1000);
        }
        meter.replayed(ExitOrdinal::new(450));
        let expected = Lag {
            time: Duration::from_millis(50),
            bytes: 5000,
            exits: 450,
        };
        assert_eq!(meter.lag(at(100)), expected);
        meter.replayed(ExitOrdinal::new(900));
        assert_eq!(meter.lag(at(200)), Lag::default());
        meter.logged(at(5_000), ExitOrdinal::new(901), 9_100);
        assert_eq!(
            meter.lag(at(5_003)).time,
            Duration::from_millis(3),
            "it slept before"
        );
    }

    #[test]
    fn marks_are_bounded_and_still_tell_the_time() {
        let mut meter = LagMeter::default();
        let count = LAG_MARKS_MAX as u64 * 8;
        for step in 0..count {
            meter.logged(at(step), ExitOrdinal::new(step), step);
        }
        assert!(meter.marks.len() <= LAG_MARKS_MAX);
        meter.replayed(ExitOrdinal::new(count / 2));
        let lag = meter.lag(at(count));
        let exact = Duration::from_millis(count / 2);
        assert!(lag.time <= exact && lag.time + exact / 32 >= exact, "{lag:?}");
    }

    #[test]
    fn the_share_falls_by_steps_and_comes_back() {
        let mut control = LagControl::default();
        let late = Duration::from_millis(150);
        assert_eq!(control.step(at(200), late), Some(CpuShare(75)));
        assert_eq!(control.step(at(300), late), None, "one step at a time");
        assert_eq!(control.step(at(400), late), Some(CpuShare(57)));
        assert_eq!(
            control.step(at(600), Duration::from_millis(70)),
            None,
            "neither late nor early"
        );
        let steps: Vec<u8> = (4..9)
            .filter_map(|step| control.step(at(step * 200), Duration::ZERO))
            .map(CpuShare::percent)
            .collect();
        assert_eq!(steps, [67, 77, 87, 97, 100]);
        (10..60).for_each(|step| {
            control.step(at(step * 200), late);
        });
        assert_eq!(control.share().percent(), SHARE_PERCENT_MIN);
        assert_eq!(control.release(), Some(CpuShare::FULL));
        assert_eq!(control.release(), None);
    }
}
