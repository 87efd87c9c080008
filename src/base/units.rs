//! Quantities as types, so that a count is never taken for an address or a time (style: names carry units).

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bytes of a page of guest memory, as an address and as a length.
pub const PAGE_BYTES: u64 = 4096;
/// See [`PAGE_BYTES`].
pub const PAGE_SIZE: usize = 4096;

/// A byte address in guest physical memory.
pub use vm_memory::GuestAddress as GuestPhys;

/// Nanoseconds of virtual time since the VM was created (E8). Never compared with any host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct VirtualTime(u64);

impl VirtualTime {
    /// The moment the VM was created.
    pub const ZERO: Self = Self(0);

    /// Virtual time `nanos` nanoseconds after the VM was created.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the VM was created.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`, zero if `earlier` is later.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Periods of a clock of `hertz` completed since the VM was created; saturates after 2^64 of them.
    #[must_use]
    pub fn ticks_at(self, hertz: u64) -> u64 {
        let ticks = u128::from(self.0) * u128::from(hertz) / 1_000_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// The first instant at which a clock of `hertz` has completed `ticks` periods: the inverse of
    /// [`Self::ticks_at`], so that a deadline is never a nanosecond early and never drifts.
    #[must_use]
    pub fn of_tick(ticks: u64, hertz: u64) -> Self {
        let nanos = (u128::from(ticks) * 1_000_000_000).div_ceil(u128::from(hertz));
        Self(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl Add<Duration> for VirtualTime {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub for VirtualTime {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}

/// How many counted exits lie before a point of guest execution (E5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ExitOrdinal(u64);

impl ExitOrdinal {
    /// The `number`-th exit; the first is 1, and 0 is the machine before it.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The ordinal after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ExitOrdinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// The number of a log frame (one batch) in its pairing (P2). What one site acknowledges and the other waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LogSeq(pub u64);

impl LogSeq {
    /// Before the first frame.
    pub const NONE: Self = Self(0);

    /// The `number`-th frame; the first is 1, and 0 is the pairing before it.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LogSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log {}", self.0)
    }
}

/// Bytes in one mebibyte.
pub const MEBIBYTE: u64 = 1 << 20;

/// Bytes in one disk sector, the unit of virtio-blk addresses.
pub const SECTOR_BYTES: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_follow_the_rate_without_overflow() {
        assert_eq!(
            VirtualTime::from_nanos(1_000_000_000).ticks_at(3_579_545),
            3_579_545
        );
        let century = VirtualTime::from_nanos(100 * 365 * 86_400 * 1_000_000_000);
        assert_eq!(century.ticks_at(3_579_545), 100 * 365 * 86_400 * 3_579_545);
    }

    #[test]
    fn a_tick_is_complete_at_its_instant_and_not_before() {
        for (ticks, hertz) in [
            (0, 1),
            (1, 3),
            (4_773, 1_193_182),
            (u64::from(u32::MAX), 3_579_545),
        ] {
            let instant = VirtualTime::of_tick(ticks, hertz);
            assert_eq!(instant.ticks_at(hertz), ticks);
            if let Some(before) = instant.0.checked_sub(1) {
                assert_eq!(VirtualTime(before).ticks_at(hertz), ticks - 1);
            }
        }
    }

    #[test]
    fn time_never_runs_backwards_in_arithmetic() {
        let early = VirtualTime::from_nanos(5);
        let late = early + Duration::from_nanos(7);
        assert_eq!(late - early, Duration::from_nanos(7));
        assert_eq!(early - late, Duration::ZERO);
    }
}
