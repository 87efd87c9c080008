//! How long certificates live, and how near their end is.

use std::fmt;

use crate::limits::{
    AUTHORITY_DAYS_DEFAULT, AUTHORITY_DAYS_MAX, BACKDATED_SECONDS, LEAF_DAYS_DEFAULT, LEAF_DAYS_MAX,
    WARNED_PART_OF_LIFE,
};
use crate::moment::{UnixTime, in_words};

const DAY_SECONDS: i64 = 86_400;

/// A lifetime that no certificate may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{days} days is no lifetime for {what}: 1 to {days_max} days are allowed")]
pub struct DaysError {
    days: u32,
    what: &'static str,
    days_max: u32,
}

/// Days that a CA lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthorityDays(u32);

/// Days that a leaf certificate lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafDays(u32);

fn within(days: u32, days_max: u32, what: &'static str) -> Result<u32, DaysError> {
    match days {
        days if (1..=days_max).contains(&days) => Ok(days),
        days => Err(DaysError { days, what, days_max }),
    }
}

impl AuthorityDays {
    /// A CA's life of `days`.
    ///
    /// # Errors
    /// Outside 1 to [`AUTHORITY_DAYS_MAX`].
    pub fn new(days: u32) -> Result<Self, DaysError> {
        within(days, AUTHORITY_DAYS_MAX, "a CA").map(Self)
    }
}

impl Default for AuthorityDays {
    fn default() -> Self {
        Self(AUTHORITY_DAYS_DEFAULT)
    }
}

impl LeafDays {
    /// A leaf certificate's life of `days`.
    ///
    /// # Errors
    /// Outside 1 to [`LEAF_DAYS_MAX`].
    pub fn new(days: u32) -> Result<Self, DaysError> {
        within(days, LEAF_DAYS_MAX, "a certificate").map(Self)
    }
}

impl Default for LeafDays {
    fn default() -> Self {
        Self(LEAF_DAYS_DEFAULT)
    }
}

/// From when to when a certificate is valid, both moments included (RFC 5280, section 4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: UnixTime,
    /// The last second.
    pub not_after: UnixTime,
}

/// How a certificate stands at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its life has not begun.
    NotYet,
    /// In force, with its end far away.
    Good,
    /// In force, in the last tenth of its life: the time to renew it.
    Ending,
    /// Its life is over.
    Over,
}

impl Standing {
    /// The name used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotYet => "not-yet-valid",
            Self::Good => "good",
            Self::Ending => "expires-soon",
            Self::Over => "expired",
        }
    }
}

impl Validity {
    pub(crate) fn of_authority(days: AuthorityDays, now: UnixTime) -> Self {
        Self::of_days(days.0, now)
    }

    pub(crate) fn of_leaf(days: LeafDays, now: UnixTime) -> Self {
        Self::of_days(days.0, now)
    }

    fn of_days(days: u32, now: UnixTime) -> Self {
        Self {
            not_before: now.plus(-BACKDATED_SECONDS),
            not_after: now.plus(i64::from(days) * DAY_SECONDS),
        }
    }

    /// How it stands at `now`.
    #[must_use]
    pub fn at(self, now: UnixTime) -> Standing {
        let life = self.not_after.since(self.not_before);
        match self.not_after.since(now) {
            _ if now < self.not_before => Standing::NotYet,
            left if left < 0 => Standing::Over,
            left if left <= life / WARNED_PART_OF_LIFE => Standing::Ending,
            _ => Standing::Good,
        }
    }

    /// Where it stands at `now`, as people say it: `expires in 36 days (2027-11-21 08:30 UTC)`.
    #[must_use]
    pub fn in_words(self, now: UnixTime) -> impl fmt::Display {
        let Self {
            not_before,
            not_after,
        } = self;
        match self.at(now) {
            Standing::NotYet => format!("valid in {} ({not_before})", in_words(not_before.since(now))),
            Standing::Good | Standing::Ending => {
                format!("expires in {} ({not_after})", in_words(not_after.since(now)))
            }
            Standing::Over => format!("expired {} ago ({not_after})", in_words(now.since(not_after))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_seconds(1_795_249_800);

    #[test]
    fn lifetimes_have_limits() {
        assert!(LeafDays::new(1).is_ok() && LeafDays::new(LEAF_DAYS_MAX).is_ok());
        assert_eq!(
            LeafDays::new(LEAF_DAYS_MAX + 1).unwrap_err().to_string(),
            "1097 days is no lifetime for a certificate: 1 to 1096 days are allowed"
        );
        assert!(AuthorityDays::new(0).is_err() && AuthorityDays::new(AUTHORITY_DAYS_MAX + 1).is_err());
    }

    #[test]
    fn the_standing_changes_at_the_second() {
        let validity = Validity::of_leaf(LeafDays::default(), NOW);
        let life = validity.not_after.since(validity.not_before);
        let warned = validity.not_after.plus(-(life / 10));
        let table = [
            (validity.not_before.plus(-1), Standing::NotYet),
            (validity.not_before, Standing::Good),
            (NOW, Standing::Good),
            (warned.plus(-1), Standing::Good),
            (warned, Standing::Ending),
            (validity.not_after, Standing::Ending),
            (validity.not_after.plus(1), Standing::Over),
        ];
        for (moment, standing) in table {
            assert_eq!(validity.at(moment), standing, "{moment}");
        }
    }

    #[test]
    fn the_standing_is_said_in_words() {
        let validity = Validity::of_leaf(LeafDays::default(), NOW);
        let said = |days: i64| validity.in_words(NOW.plus(days * DAY_SECONDS)).to_string();
        assert_eq!(said(0), "expires in 12 months (2027-11-21 08:30 UTC)");
        assert_eq!(said(329), "expires in 36 days (2027-11-21 08:30 UTC)");
        assert_eq!(said(370), "expired 5 days ago (2027-11-21 08:30 UTC)");
        assert_eq!(said(-3), "valid in 2 days (2026-11-21 07:30 UTC)");
    }
}
