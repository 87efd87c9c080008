//! The host's time of day, for certificates.

use antipode_certs::{UnixTime, WallClock};

use crate::base::clock::wall_clock_unix_seconds;

/// The host's time of day.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeOfDay;

impl WallClock for TimeOfDay {
    fn now(&self) -> UnixTime {
        UnixTime::from_seconds(wall_clock_unix_seconds())
    }
}
