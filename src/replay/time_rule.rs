//! Virtual time between two samples (R6, E8): most reads of the time need no entry.
//!
//! A read moves time on by [`READ_STEP`] from the last time shown, unless the live clock is ahead of that by more than
//! [`DRIFT_MAX`]: then the recorder samples it and logs the sample. So two reads never show the same time, a guest that
//! polls the clock sees it pass at the host's rate, and its time is at most [`DRIFT_MAX`] late.

use std::time::Duration;

use crate::base::units::VirtualTime;

/// What a read of the time adds. Less than an exit to user space costs anywhere, or time would outrun the host's.
pub(super) const READ_STEP: Duration = Duration::from_nanos(500);

/// How far the guest's time may be behind the host's at a read.
pub(super) const DRIFT_MAX: Duration = Duration::from_millis(1);

/// The time that a read shows without a sample.
pub(super) fn unsampled(shown: VirtualTime) -> VirtualTime {
    shown + READ_STEP
}

/// Whether a read must be answered by the live clock, which shows `live`.
pub(super) fn needs_sample(shown: VirtualTime, live: VirtualTime) -> bool {
    live - unsampled(shown) > DRIFT_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_moves_at_every_read_and_is_never_far_behind() {
        let (mut shown, mut samples) = (VirtualTime::ZERO, 0);
        for read in 0..10_000_u64 {
            let live = VirtualTime::from_nanos(read * 20_000);
            let next = if needs_sample(shown, live) {
                live
            } else {
                unsampled(shown)
            };
            samples += usize::from(next == live);
            assert!(
                next > shown && live - next <= DRIFT_MAX,
                "{read}: {shown:?} {next:?}"
            );
            shown = next;
        }
        assert!((150..250).contains(&samples), "{samples}");
    }
}
