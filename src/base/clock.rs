//! Injected time. The live site's `CLOCK_MONOTONIC` drives virtual time (E8); nothing else reads a clock, and
//! `clippy.toml` forbids the calls that would.
//!
//! Virtual time is a function of exits: [`VirtualClock::sample`] is called while an exit is handled and holds its
//! answer until the next call, so that all devices see one instant per exit. It never runs backwards, whatever
//! the host clock does.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the host's clocks"
)]

use std::time::Duration;

use super::units::VirtualTime;

/// A host clock that never runs backwards, in nanoseconds from an arbitrary start.
pub trait HostClock {
    /// Nanoseconds since the clock's own start.
    fn monotonic_ns(&self) -> u64;
}

/// The host's `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl HostClock for SystemClock {
    fn monotonic_ns(&self) -> u64 {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .map_or(Duration::ZERO, Duration::from);
        u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The host's time of day, for what carries a date: a new VM's calendar, certificates.
#[must_use]
pub fn wall_clock_unix_seconds() -> i64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).map_or(0, |now| now.tv_sec())
}

/// Virtual time that follows a host clock's rate from the moment the VM was created.
#[derive(Debug)]
pub struct VirtualClock<C> {
    host: C,
    origin_ns: u64,
    last: VirtualTime,
}

impl<C: HostClock> VirtualClock<C> {
    /// A clock that reads zero now.
    #[must_use]
    pub fn starting_now(host: C) -> Self {
        let origin_ns = host.monotonic_ns();
        Self {
            host,
            origin_ns,
            last: VirtualTime::ZERO,
        }
    }

    /// The current virtual time, never earlier than any sample before.
    pub fn sample(&mut self) -> VirtualTime {
        let elapsed = self.host.monotonic_ns().saturating_sub(self.origin_ns);
        self.last = self.last.max(VirtualTime::from_nanos(elapsed));
        self.last
    }

    /// The latest sample.
    #[must_use]
    pub fn last(&self) -> VirtualTime {
        self.last
    }

    /// Host time left until virtual time reaches `deadline`.
    #[must_use]
    pub fn host_span_until(&self, deadline: VirtualTime) -> Duration {
        let elapsed = self.host.monotonic_ns().saturating_sub(self.origin_ns);
        deadline.saturating_since(VirtualTime::from_nanos(elapsed))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    struct Scripted<'a>(&'a Cell<u64>);

    impl HostClock for Scripted<'_> {
        fn monotonic_ns(&self) -> u64 {
            self.0.get()
        }
    }

    #[test]
    fn virtual_time_starts_at_zero_and_never_steps_back() {
        let host = Cell::new(1_000);
        let mut clock = VirtualClock::starting_now(Scripted(&host));
        assert_eq!(clock.sample(), VirtualTime::ZERO);
        host.set(1_500);
        assert_eq!(clock.sample(), VirtualTime::from_nanos(500));
        host.set(900);
        assert_eq!(clock.sample(), VirtualTime::from_nanos(500));
    }
}
