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

/// Processor time that all threads of this process have used, the guest's included.
#[must_use]
pub fn process_cpu_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .map_or(Duration::ZERO, Duration::from)
}

/// Processor time that the calling thread has used, the guest's included.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(Duration::ZERO, Duration::from)
}

/// The host's time of day, for what carries a date: a new VM's calendar, certificates.
#[must_use]
pub fn wall_clock_unix_seconds() -> i64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).map_or(0, |now| now.tv_sec())
}

/// The same in microseconds since 1970: what numbers an operator's requests upwards.
#[must_use]
pub fn wall_clock_unix_micros() -> u64 {
    let now =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// Virtual time that follows a host clock's rate from the moment the VM started here.
#[derive(Debug)]
pub struct VirtualClock<C> {
    host: C,
    /// Virtual time when the host's clock showed `origin_ns`.
    origin: VirtualTime,
    origin_ns: u64,
    last: VirtualTime,
}

impl<C: HostClock> VirtualClock<C> {
    /// A clock that reads `now` now.
    #[must_use]
    pub fn starting_at(now: VirtualTime, host: C) -> Self {
        let origin_ns = host.monotonic_ns();
        Self {
            host,
            origin: now,
            origin_ns,
            last: now,
        }
    }

    fn read(&self) -> VirtualTime {
        let elapsed = self.host.monotonic_ns().saturating_sub(self.origin_ns);
        self.origin + Duration::from_nanos(elapsed)
    }

    /// The current virtual time, never earlier than any sample before.
    pub fn sample(&mut self) -> VirtualTime {
        self.last = self.last.max(self.read());
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
        deadline.saturating_since(self.read())
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
    fn virtual_time_goes_on_where_it_was_and_never_steps_back() {
        let host = Cell::new(1_000);
        let mut clock = VirtualClock::starting_at(VirtualTime::from_nanos(7), Scripted(&host));
        assert_eq!(clock.sample(), VirtualTime::from_nanos(7));
        host.set(1_500);
        assert_eq!(clock.sample(), VirtualTime::from_nanos(507));
        host.set(900);
        assert_eq!(clock.sample(), VirtualTime::from_nanos(507));
    }
}
