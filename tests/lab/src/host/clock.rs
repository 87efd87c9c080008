//! The rate of the clock that an emulated host sees.
//!
//! QEMU hands its own machine's time-stamp counter through. Linux would find its rate out by a timer chip while it boots,
//! in a hundredth of a second: where the emulator waits for a CPU meanwhile, the host's clock is wrong by any factor from
//! then on. (Seen: a host whose minutes were half an hour.) So the rate is told.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

const MEASURED_FOR: Duration = Duration::from_millis(200);

/// Ticks of the time-stamp counter in a millisecond, as measured once.
pub(super) fn tsc_khz() -> u64 {
    static MEASURED: OnceLock<u64> = OnceLock::new();
    *MEASURED.get_or_init(|| {
        let (begun, first) = read_both();
        thread::sleep(MEASURED_FOR);
        let (ended, last) = read_both();
        let microseconds = u64::try_from((ended - begun).as_micros()).unwrap_or(u64::MAX);
        last.wrapping_sub(first).saturating_mul(1000) / microseconds
    })
}

/// Both clocks at one time: of some tries the one in which least time passed between two readings.
fn read_both() -> (Instant, u64) {
    let tries = (0..16).map(|_| {
        let before = Instant::now();
        // SAFETY: it reads a counter, which every processor of this architecture has and no kernel of ours forbids.
        let ticks = unsafe { std::arch::x86_64::_rdtsc() };
        (before.elapsed(), before, ticks)
    });
    let (_, moment, ticks) = tries.min_by_key(|(took, ..)| *took).expect("there are tries");
    (moment, ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_counter() {
        let khz = tsc_khz();
        let (begun, first) = read_both();
        thread::sleep(MEASURED_FOR / 2);
        let (ended, last) = read_both();
        let ticks = u128::from(last - first);
        let expected = (ended - begun).as_micros() * u128::from(khz) / 1000;
        assert!(
            ticks.abs_diff(expected) * 1000 < expected,
            "{ticks} for {expected}"
        );
    }
}
