//! The UTC day and month that daily and monthly limits count by.

use super::clock::{Clock, SECOND};

const DAY: u64 = 86_400;

/// Where the calendar stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Period {
    /// Days since 1970-01-01.
    pub(super) day: u64,
    /// Months since January of the year 0.
    pub(super) month: u64,
}

/// Reads the host's clock once a second at most, and does not let small steps of it open a new day twice.
#[derive(Debug)]
pub(super) struct Calendar {
    period: Period,
    utc: u64,
    /// The clock that never goes back, when `utc` was read.
    read_at: u64,
}

impl Calendar {
    pub(super) fn new(clock: &dyn Clock) -> Calendar {
        let utc = clock.utc();
        Calendar { period: Period::of(utc), utc, read_at: clock.now() }
    }

    pub(super) fn period(&mut self, clock: &dyn Clock, now: u64) -> Period {
        if now.saturating_sub(self.read_at) >= SECOND {
            self.read_at = now;
            self.utc = clock.utc();
            let day = self.utc / DAY;
            // A clock set back over midnight by less than a day stays in the day that had begun.
            if day > self.period.day || day + 1 < self.period.day {
                self.period = Period::of(self.utc);
            }
        }
        self.period
    }

    /// Nanoseconds until the day ends.
    pub(super) fn until_day_ends(&self) -> u64 {
        ((self.period.day + 1) * DAY).saturating_sub(self.utc).max(1) * SECOND
    }

    /// Nanoseconds until the month ends.
    pub(super) fn until_month_ends(&self) -> u64 {
        let mut day = self.period.day;
        while Period::of(day * DAY).month == self.period.month {
            day += 1;
        }
        (day * DAY).saturating_sub(self.utc).max(1) * SECOND
    }
}

impl Period {
    pub(super) fn of(utc: u64) -> Period {
        let day = utc / DAY;
        Period { day, month: month(day) }
    }
}

/// Months since January of the year 0, from days since 1970-01-01 (proleptic Gregorian calendar).
fn month(day: u64) -> u64 {
    // Years are counted from March, so that the leap day is a year's last.
    let day = day + 719_468;
    let era = day / 146_097;
    let day_of_era = day % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    (era * 400 + year_of_era) * 12 + month_from_march + 2
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::clock::VirtualClock;
    use super::*;

    #[test]
    fn months_agree_with_jiff_for_four_centuries() {
        let mut date = jiff::civil::date(1970, 1, 1);
        for day in 0..146_097u64 {
            let months = i64::from(date.year()) * 12 + i64::from(date.month()) - 1;
            assert_eq!(month(day), u64::try_from(months).unwrap(), "{date}");
            date = date.tomorrow().unwrap();
        }
    }

    #[test]
    fn a_clock_set_back_over_midnight_stays_in_the_new_day() {
        let clock = VirtualClock::new();
        let mut calendar = Calendar::new(&*clock);
        let today = calendar.period(&*clock, clock.now());
        clock.advance(Duration::from_secs(12 * 3_600));
        let tomorrow = calendar.period(&*clock, clock.now());
        assert_eq!(tomorrow.day, today.day + 1);
        clock.set_utc(tomorrow.day * DAY - 5);
        clock.advance(Duration::from_secs(2));
        assert_eq!(calendar.period(&*clock, clock.now()), tomorrow);
        // A clock that had been wrong by more is believed.
        clock.set_utc((tomorrow.day - 2) * DAY);
        clock.advance(Duration::from_secs(2));
        assert_eq!(calendar.period(&*clock, clock.now()).day, tomorrow.day - 2);
        assert_eq!(calendar.until_day_ends(), (DAY - 2) * SECOND);
    }

    #[test]
    fn the_month_ends_with_its_last_day() {
        let clock = VirtualClock::new();
        let calendar = Calendar::new(&*clock);
        assert_eq!(calendar.until_month_ends(), (8 * DAY + DAY / 2) * SECOND, "noon of the 22nd of November");
    }
}
