//! What keeping a copy the same costs, of late.

use std::collections::VecDeque;
use std::time::Duration;

use crate::protocol::limits::{MODE_HOLDS_MAX, MODE_RATES_SPAN, MODE_REPAIRS_SPAN};
use crate::protocol::moment::Moment;

/// As closely as this the counts are kept.
const STEP: Duration = Duration::from_secs(1);

/// What the table judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// Repairs in a minute.
    pub repairs: u64,
    /// Pre-emptions in a second.
    pub preemptions: u64,
    /// KiB in a second of RAM and disk.
    pub state: u64,
    /// Milliseconds that the median output waits, beyond a round trip.
    pub hold: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    repairs: u64,
    preemptions: u64,
    state_bytes: u64,
}

/// Counts, and answers by the second.
#[derive(Debug, Default)]
pub struct Meter {
    total: Counts,
    /// What the counts were at moments of the last while; the first is at its beginning, or before.
    marks: VecDeque<(Moment, Counts)>,
    /// When outputs have left, and how long they were held.
    holds: VecDeque<(Moment, Duration)>,
}

impl Meter {
    /// From `now` on.
    #[must_use]
    pub fn from(now: Moment) -> Self {
        Self {
            marks: [(now, Counts::default())].into(),
            ..Self::default()
        }
    }

    /// The copy was found to be another machine.
    pub const fn differed(&mut self) {
        self.total.repairs += 1;
    }

    /// The guest was stopped so often while it computed, and so many bytes were sent of what machines are.
    pub const fn carried(&mut self, preemptions: u64, state_bytes: u64) {
        self.total.preemptions += preemptions;
        self.total.state_bytes += state_bytes;
    }

    /// An output has left that was held for so long.
    pub fn let_out(&mut self, now: Moment, held: Duration) {
        if self.holds.len() == MODE_HOLDS_MAX {
            self.holds.pop_front();
        }
        self.holds.push_back((now, held));
    }

    /// Some time has passed.
    pub fn passed(&mut self, now: Moment) {
        let is_due = |(at, _): &(Moment, Counts)| now.saturating_since(*at) >= STEP;
        if self.marks.back().is_none_or(is_due) {
            self.marks.push_back((now, self.total));
        }
        let is_over = |(at, _): &(Moment, Counts)| now.saturating_since(*at) >= MODE_REPAIRS_SPAN;
        while self.marks.get(1).is_some_and(is_over) {
            self.marks.pop_front();
        }
        while self
            .holds
            .front()
            .is_some_and(|(at, _)| now.saturating_since(*at) > MODE_RATES_SPAN)
        {
            self.holds.pop_front();
        }
    }

    /// What it comes to at `now`, with so long a round trip.
    #[must_use]
    pub fn rates(&self, now: Moment, round_trip: Duration) -> Rates {
        let of_late = self.before(now, MODE_RATES_SPAN);
        let seconds = MODE_RATES_SPAN.as_secs();
        let hold = self.median_hold().saturating_sub(round_trip);
        Rates {
            repairs: self.total.repairs - self.before(now, MODE_REPAIRS_SPAN).repairs,
            preemptions: (self.total.preemptions - of_late.preemptions) / seconds,
            state: (self.total.state_bytes - of_late.state_bytes) / 1024 / seconds,
            hold: u64::try_from(hold.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The counts that lie so far back; the oldest that are known if none do.
    fn before(&self, now: Moment, span: Duration) -> Counts {
        let marks = self.marks.iter();
        let mut old = marks.rev().filter(|(at, _)| now.saturating_since(*at) >= span);
        let first = self.marks.front();
        old.next()
            .or(first)
            .map_or(Counts::default(), |(_, counts)| *counts)
    }

    fn median_hold(&self) -> Duration {
        let mut holds: Vec<Duration> = self.holds.iter().map(|(_, held)| *held).collect();
        holds.sort_unstable();
        let middle = holds.len().saturating_sub(1) / 2;
        holds.get(middle).copied().unwrap_or_default()
    }
}

// The table speaks of repairs in a minute.
const _: () = assert!(MODE_REPAIRS_SPAN.as_secs() == 60 && MODE_RATES_SPAN.as_secs() < 60);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn rates_are_of_the_last_while() {
        let mut meter = Meter::from(at(0));
        // Thirty pre-emptions of 100 KiB in a second, for 20 s, and a repair every 4 s.
        for tenth in 1..=200_u64 {
            meter.carried(3, 3 * 100 * 1024);
            if tenth % 40 == 0 {
                meter.differed();
            }
            meter.passed(at(tenth * 100));
        }
        let expected = Rates {
            repairs: 5,
            preemptions: 30,
            state: 3000,
            hold: 0,
        };
        assert_eq!(meter.rates(at(20_000), Duration::ZERO), expected);
        (20..=40).for_each(|second| meter.passed(at(second * 1000)));
        let later = meter.rates(at(40_000), Duration::ZERO);
        assert_eq!((later.preemptions, later.state, later.repairs), (0, 0, 5));
        (40..=90).for_each(|second| meter.passed(at(second * 1000)));
        assert_eq!(meter.rates(at(90_000), Duration::ZERO), Rates::default());
        assert!(meter.marks.len() <= 62, "{}", meter.marks.len());
    }

    #[test]
    fn what_has_only_begun_counts_as_less_and_not_as_more() {
        let mut meter = Meter::from(at(0));
        meter.carried(100, 0);
        meter.passed(at(1000));
        assert_eq!(meter.rates(at(1000), Duration::ZERO).preemptions, 10);
    }

    #[test]
    fn the_hold_is_the_median_of_late_beyond_a_round_trip() {
        let mut meter = Meter::from(at(0));
        let ms = Duration::from_millis;
        for (index, held) in [900, 41, 45, 43, 900].into_iter().enumerate() {
            meter.let_out(at(index as u64), ms(held));
        }
        assert_eq!(meter.rates(at(10), ms(40)).hold, 5);
        assert_eq!(meter.rates(at(10), ms(400)).hold, 0);
        (0..2 * MODE_HOLDS_MAX).for_each(|_| meter.let_out(at(20), ms(50)));
        assert_eq!(meter.holds.len(), MODE_HOLDS_MAX);
        meter.passed(at(11_000));
        assert_eq!(
            meter.rates(at(11_000), ms(40)).hold,
            0,
            "nothing has left of late"
        );
    }
}
