//! Spans of time that were measured lately.

use std::collections::VecDeque;
use std::time::Duration;

/// As many as are remembered.
const SPANS_MAX: usize = 512;

/// The last spans of one kind.
#[derive(Debug, Default)]
pub struct Spans(VecDeque<Duration>);

impl Spans {
    /// Takes in one more.
    pub fn add(&mut self, span: Duration) {
        if self.0.len() == SPANS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(span);
    }

    /// The one that so many percent of them do not exceed; none if there is none.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_ones() {
        let mut spans = Spans::default();
        assert_eq!(spans.percentile(50), None);
        (1..=2_000)
            .map(Duration::from_millis)
            .for_each(|span| spans.add(span));
        assert_eq!(spans.percentile(0), Some(Duration::from_millis(1_489)));
        assert_eq!(spans.percentile(50), Some(Duration::from_millis(1_744)));
        assert_eq!(spans.percentile(100), Some(Duration::from_millis(2_000)));
    }
}
