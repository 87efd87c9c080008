//! Civil dates and their days since 1970-01-01, in the proleptic Gregorian calendar.
//!
//! The method counts years from March, so that the leap day is a year's last, and in eras of 400 years, which all
//! have the same number of days (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").

const DAYS_PER_ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_SHIFT: i64 = 719_468;

/// A date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CivilDate {
    /// Astronomical year.
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: i64,
    /// 1 to 31.
    pub(super) day: i64,
}

impl CivilDate {
    /// The date `days` after 1970-01-01.
    pub(super) fn from_days(days: i64) -> Self {
        let shifted = days + EPOCH_SHIFT;
        let era = shifted.div_euclid(DAYS_PER_ERA);
        let day_of_era = shifted.rem_euclid(DAYS_PER_ERA);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
        }
    }

    /// Days since 1970-01-01.
    pub(super) fn to_days(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let month_from_march = (self.month + 9) % 12;
        let day_of_year = (153 * month_from_march + 2) / 5 + self.day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * DAYS_PER_ERA + day_of_era - EPOCH_SHIFT
    }

    /// The nearest date that exists.
    pub(super) fn clamped(self) -> Self {
        let month = self.month.clamp(1, 12);
        let first = Self {
            year: self.year,
            month,
            day: 1,
        };
        let first_of_next = if month == 12 {
            Self {
                year: self.year + 1,
                month: 1,
                day: 1,
            }
        } else {
            Self {
                month: month + 1,
                ..first
            }
        };
        let day_count = first_of_next.to_days() - first.to_days();
        Self {
            day: self.day.clamp(1, day_count),
            ..first
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn date(year: i64, month: i64, day: i64) -> CivilDate {
        CivilDate { year, month, day }
    }

    #[test]
    fn known_days() {
        for (civil, days) in [
            (date(1970, 1, 1), 0),
            (date(1969, 12, 31), -1),
            (date(2000, 2, 29), 11_016),
            (date(2000, 3, 1), 11_017),
            (date(2024, 2, 29), 19_782),
            (date(2100, 3, 1), 47_541),
            (date(0, 3, 1), -719_468),
        ] {
            assert_eq!(civil.to_days(), days, "{civil:?}");
            assert_eq!(CivilDate::from_days(days), civil);
        }
    }

    #[test]
    fn every_day_of_eight_centuries_follows_the_one_before() {
        let mut yesterday = date(1599, 12, 31);
        for days in date(1600, 1, 1).to_days()..date(2401, 1, 1).to_days() {
            let today = CivilDate::from_days(days);
            let expected = date(yesterday.year, yesterday.month, yesterday.day + 1);
            if today != expected {
                assert_eq!(today.day, 1);
                assert_eq!(today.month, yesterday.month % 12 + 1);
                assert_eq!(expected.clamped(), yesterday, "the month had no such day");
            }
            assert_eq!(today.clamped(), today);
            yesterday = today;
        }
    }

    proptest! {
        #[test]
        fn days_and_dates_are_inverse(days in -1_000_000_000_i64..1_000_000_000) {
            prop_assert_eq!(CivilDate::from_days(days).to_days(), days);
        }
    }
}
