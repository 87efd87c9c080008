//! Points in time and spans between them, as certificates need them: whole seconds, and words for people.

use std::fmt;

use time::OffsetDateTime;

/// Seconds since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(i64);

impl UnixTime {
    /// The moment `seconds` after the start of 1970.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds)
    }

    /// Seconds since the start of 1970.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0
    }

    /// The moment `seconds` later; saturates.
    #[must_use]
    pub const fn plus(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` to `self`, negative if `earlier` is later; saturates.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// As `2027-11-21 08:30 UTC`.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(at) = OffsetDateTime::from_unix_timestamp(self.0) else {
            return write!(f, "{} s after 1970", self.0);
        };
        let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
        write!(
            f,
            "{year}-{month:02}-{day:02} {:02}:{:02} UTC",
            at.hour(),
            at.minute()
        )
    }
}

/// The time of day, injected: a daemon hands in its host's, a test its own.
pub trait WallClock: fmt::Debug + Send + Sync {
    /// Now.
    fn now(&self) -> UnixTime;
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A span of `seconds`, without its sign, as people say it: `3 years`, `36 days`, `5 hours`.
///
/// The unit is the largest that the span holds twice, so that rounding down never hides half of it.
#[must_use]
pub fn in_words(seconds: i64) -> String {
    let seconds = seconds.unsigned_abs();
    let units = [
        (365 * DAY, "years"),
        (30 * DAY, "months"),
        (DAY, "days"),
        (HOUR, "hours"),
        (MINUTE, "minutes"),
    ];
    // Days are said up to three months: "36 days" tells more than "1 month".
    let fitting = units.iter().find(|(unit, name)| {
        let least = if *name == "months" { 3 } else { 2 };
        seconds >= unit * least
    });
    match fitting {
        Some((unit, name)) => format!("{} {name}", seconds / unit),
        None if seconds == 1 => "1 second".to_owned(),
        None => format!("{seconds} seconds"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_shown_as_dates() {
        assert_eq!(UnixTime::from_seconds(0).to_string(), "1970-01-01 00:00 UTC");
        assert_eq!(
            UnixTime::from_seconds(1_795_249_800).to_string(),
            "2026-11-21 08:30 UTC"
        );
        assert_eq!(
            UnixTime::from_seconds(i64::MAX).to_string(),
            "9223372036854775807 s after 1970"
        );
    }

    #[test]
    fn spans_are_said_in_their_largest_unit() {
        let table = [
            (0, "0 seconds"),
            (1, "1 second"),
            (-90, "90 seconds"),
            (120, "2 minutes"),
            (7199, "119 minutes"),
            (7200, "2 hours"),
            (2 * 86_400, "2 days"),
            (89 * 86_400, "89 days"),
            (90 * 86_400, "3 months"),
            (729 * 86_400, "24 months"),
            (730 * 86_400, "2 years"),
            (i64::MIN, "292471208677 years"),
        ];
        for (seconds, words) in table {
            assert_eq!(in_words(seconds), words);
        }
    }
}
