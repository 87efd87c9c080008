//! A limit on the rate at which is sent.

use std::time::Duration;

/// Injected time: a clock that never runs backwards.
pub trait Clock: Send + Sync {
    /// Since some moment of its own.
    fn now(&self) -> Duration;
}

/// What was not sent while nothing was there to send is not made up for beyond this.
const BURST: Duration = Duration::from_millis(50);

/// Says when the next bytes may go.
#[derive(Debug)]
pub(crate) struct Pacer {
    bytes_per_second: Option<u64>,
    /// When the line would be free, had it the rate that is allowed.
    free_at: Duration,
}

impl Pacer {
    pub(crate) const fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second,
            free_at: Duration::ZERO,
        }
    }

    /// How long to wait before `bytes` are sent at `now`.
    pub(crate) fn wait_for(&mut self, bytes: usize, now: Duration) -> Duration {
        let Some(rate) = self.bytes_per_second else {
            return Duration::ZERO;
        };
        let begins = self.free_at.max(now.saturating_sub(BURST));
        let nanoseconds =
            u128::try_from(bytes).unwrap_or(u128::MAX) * 1_000_000_000 / u128::from(rate.max(1));
        self.free_at = begins + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        begins.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_and_silence_is_not_saved_up() {
        let mut pacer = Pacer::new(Some(1_000_000));
        let mut now = Duration::from_secs(100);
        for _ in 0..1000 {
            now += pacer.wait_for(10_000, now);
        }
        let took = now - Duration::from_secs(100);
        assert!((9_900..10_000).contains(&took.as_millis()), "{took:?}");
        now += Duration::from_secs(60);
        let begun = now;
        for _ in 0..100 {
            now += pacer.wait_for(10_000, now);
        }
        assert!((now - begun).as_millis() >= 900);
        assert_eq!(Pacer::new(None).wait_for(usize::MAX, now), Duration::ZERO);
    }
}
