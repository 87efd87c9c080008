//! How long a round trip takes: the last samples, and what most of them stay below (P4).

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::limits::{ROUND_TRIP_AGE_MS_MAX, ROUND_TRIP_SAMPLES_MAX};

/// What half of the samples stay below, and 99 of 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantiles {
    /// The median.
    pub p50: Duration,
    /// The 99th percentile; of fewer than 100 samples the largest.
    pub p99: Duration,
    /// How many samples there are.
    pub samples: usize,
}

/// The round trips of the last minute, [`ROUND_TRIP_SAMPLES_MAX`] of them at most.
#[derive(Debug, Default)]
pub struct RoundTrips {
    /// When each was measured, and its length; the oldest first.
    samples: VecDeque<(Duration, Duration)>,
}

impl RoundTrips {
    /// Adds one that was measured at `now`.
    pub fn add(&mut self, now: Duration, round_trip: Duration) {
        self.forget(now);
        if self.samples.len() == ROUND_TRIP_SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((now, round_trip));
    }

    fn forget(&mut self, now: Duration) {
        let age_max = Duration::from_millis(ROUND_TRIP_AGE_MS_MAX);
        while let Some((measured, _)) = self.samples.front()
            && now.saturating_sub(*measured) > age_max
        {
            self.samples.pop_front();
        }
    }

    /// What they stay below at `now`; none where nothing was measured lately.
    #[must_use]
    pub fn quantiles(&mut self, now: Duration) -> Option<Quantiles> {
        self.forget(now);
        let mut lengths: Vec<Duration> = self.samples.iter().map(|(_, length)| *length).collect();
        lengths.sort_unstable();
        // The smallest sample that at least `percent` of all do not exceed.
        let below = |percent: usize| lengths.get((lengths.len() * percent).div_ceil(100).checked_sub(1)?);
        Some(Quantiles {
            p50: *below(50)?,
            p99: *below(99)?,
            samples: lengths.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn quantiles_are_those_of_the_samples() {
        let mut trips = RoundTrips::default();
        assert_eq!(trips.quantiles(ms(0)), None);
        trips.add(ms(1), ms(7));
        let one = trips.quantiles(ms(1)).unwrap();
        assert_eq!((one.p50, one.p99, one.samples), (ms(7), ms(7), 1));
        let mut trips = RoundTrips::default();
        for length in (1..=200).rev() {
            trips.add(ms(0), ms(length));
        }
        let all = trips.quantiles(ms(0)).unwrap();
        assert_eq!((all.p50, all.p99, all.samples), (ms(100), ms(198), 200));
    }

    #[test]
    fn old_samples_are_forgotten_and_new_ones_push_out_the_oldest() {
        let mut trips = RoundTrips::default();
        trips.add(ms(0), ms(500));
        trips.add(ms(10), ms(1));
        assert_eq!(trips.quantiles(ms(ROUND_TRIP_AGE_MS_MAX)).unwrap().p99, ms(500));
        assert_eq!(trips.quantiles(ms(ROUND_TRIP_AGE_MS_MAX + 5)).unwrap().p99, ms(1));
        assert_eq!(trips.quantiles(ms(ROUND_TRIP_AGE_MS_MAX + 11)), None);
        trips.add(ms(0), ms(500));
        for _ in 0..ROUND_TRIP_SAMPLES_MAX {
            trips.add(ms(1), ms(2));
        }
        let last = trips.quantiles(ms(1)).unwrap();
        assert_eq!((last.p99, last.samples), (ms(2), ROUND_TRIP_SAMPLES_MAX));
    }
}
