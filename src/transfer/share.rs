//! How much of its time a guest runs whose RAM is being copied. Pure.

use std::time::Duration;

/// The least part of its time that a guest keeps, in percent.
pub(super) const SHARE_MIN: u64 = 2;

/// A guest never stands still longer than this at once: its clients wait meanwhile.
const REST_MAX: Duration = Duration::from_millis(500);

/// The part of its time in which the guest runs, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share(u64);

impl Default for Share {
    fn default() -> Self {
        Self(100)
    }
}

impl Share {
    /// In the last round, which took `took`, the guest wrote `written` bytes at this share; from now on it may write
    /// `limit` bytes a second, if it is limited.
    pub(super) fn follow(&mut self, limit: Option<u64>, written: u64, took: Duration) {
        let Some(limit) = limit else { return };
        let allowed = u128::from(limit) * took.as_nanos() / 1_000_000_000;
        let share = u128::from(self.0) * allowed / u128::from(written.max(1));
        // A guest that wrote little in one round may do so because it was slowed: it is never let go again.
        let share = u64::try_from(share).unwrap_or(u64::MAX).min(self.0);
        self.0 = share.max(SHARE_MIN);
    }

    /// How long the guest stands still for each `span`; none if it need not.
    pub(super) fn rest_of(self, span: Duration) -> Option<Duration> {
        let percent = 100 - u32::try_from(self.0).unwrap_or(100);
        (percent > 0).then(|| (span * percent / 100).min(REST_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_guest_that_is_not_limited_rests_never() {
        let mut share = Share::default();
        share.follow(None, 1 << 40, SECOND);
        assert_eq!(share.rest_of(SECOND), None);
    }

    #[test]
    fn the_share_is_what_makes_the_rate_the_limit_and_never_rises() {
        let mut share = Share::default();
        share.follow(Some(250), 2_000, 2 * SECOND);
        assert_eq!(share, Share(25));
        assert_eq!(
            share.rest_of(Duration::from_millis(40)),
            Some(Duration::from_millis(30))
        );
        assert_eq!(share.rest_of(SECOND), Some(REST_MAX), "of 750 ms");
        share.follow(Some(1_000), 10, SECOND);
        assert_eq!(share, Share(25));
        share.follow(Some(1), 1 << 40, SECOND);
        assert_eq!(share, Share(SHARE_MIN));
    }
}
