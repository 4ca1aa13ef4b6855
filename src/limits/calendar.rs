//! The UTC day and month that daily and monthly limits count by.

use super::clock::{Clock, SECOND};

const DAY: u64 = 86_400;
/// By so many seconds may the host's clock be set at once. More puts it in doubt.
const MAX_STEP: u64 = 300;
/// A clock in doubt is believed when it has gone on evenly for so many seconds.
const PROBATION: u64 = 3_600;

/// Where the calendar stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Period {
    /// Days since 1970-01-01.
    pub(super) day: u64,
    /// Months since January of the year 0.
    pub(super) month: u64,
}

/// Reads the host's clock once a second at most. When that is set, the calendar goes on by the clock that never jumps
/// until the new time has lasted: a glitch must not give out a day's or a month's budget a second time.
#[derive(Debug)]
pub(super) struct Calendar {
    period: Period,
    utc: u64,
    /// The clock that never goes back, when the host's clock was last read.
    read_at: u64,
    /// The last reading that was believed, by both clocks.
    believed: Reading,
    /// The first reading of a clock that says something else.
    doubted: Option<Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    utc: u64,
    at: u64,
}

impl Reading {
    /// What the clock should say now, if it goes evenly.
    fn expected(self, now: u64) -> u64 {
        self.utc.saturating_add(now.saturating_sub(self.at) / SECOND)
    }

    fn agrees(self, other: Reading) -> bool {
        self.expected(other.at).abs_diff(other.utc) <= MAX_STEP
    }
}

impl Calendar {
    pub(super) fn new(clock: &dyn Clock) -> Calendar {
        let (utc, now) = (clock.utc(), clock.now());
        Calendar { period: Period::of(utc), utc, read_at: now, believed: Reading { utc, at: now }, doubted: None }
    }

    pub(super) fn period(&mut self, clock: &dyn Clock, now: u64) -> Period {
        if now.saturating_sub(self.read_at) >= SECOND {
            self.read_at = now;
            self.read(Reading { utc: clock.utc(), at: now });
            let day = self.utc / DAY;
            // A clock set back over midnight by less than a day stays in the day that had begun.
            if day > self.period.day || day + 1 < self.period.day {
                self.period = Period::of(self.utc);
            }
        }
        self.period
    }

    fn read(&mut self, reading: Reading) {
        let lasted = self.doubted.is_some_and(|doubted| {
            doubted.agrees(reading) && reading.at.saturating_sub(doubted.at) >= PROBATION * SECOND
        });
        if lasted || self.believed.agrees(reading) {
            (self.utc, self.believed, self.doubted) = (reading.utc, reading, None);
            return;
        }
        self.utc = self.believed.expected(reading.at);
        if self.doubted.is_none() {
            tracing::warn!(
                seconds = i128::from(reading.utc) - i128::from(self.utc),
                "limits: the clock was set; daily and monthly limits go on by the old time until the new one has lasted an hour"
            );
        }
        if self.doubted.is_none_or(|doubted| !doubted.agrees(reading)) {
            self.doubted = Some(reading);
        }
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
        // A clock that had been wrong by more is believed once that has lasted.
        clock.set_utc((tomorrow.day - 2) * DAY);
        clock.advance(Duration::from_secs(2));
        assert_eq!(calendar.period(&*clock, clock.now()), tomorrow);
        clock.advance(Duration::from_secs(PROBATION));
        assert_eq!(calendar.period(&*clock, clock.now()).day, tomorrow.day - 2);
        assert_eq!(calendar.until_day_ends(), (DAY - PROBATION - 2) * SECOND);
    }

    /// What is tried, its steps from noon on (minutes that pass, minutes by which the host's clock is wrong then), and the
    /// days that the calendar has gone on at the end.
    type Case = (&'static str, &'static [(u64, i64)], i64);

    #[test]
    fn a_glitch_opens_no_day_and_a_change_that_lasts_does() {
        const YEAR: i64 = 365 * 1_440;
        let cases: [Case; 10] = [
            ("an even day", &[(719, 0), (2, 0)], 1),
            ("a small step over midnight", &[(718, 0), (1, 4)], 1),
            ("half a day ahead and back", &[(1, 0), (1, 800), (30, 800), (1, 0)], 0),
            ("a month ahead and back", &[(1, 30 * 1_440), (30, 30 * 1_440), (1, 0)], 0),
            ("years ahead, not yet believed", &[(1, 20 * YEAR), (59, 20 * YEAR)], 0),
            ("years ahead, believed", &[(1, YEAR), (30, YEAR), (30, YEAR)], 365),
            ("a clock that wanders", &[(1, YEAR), (50, 2 * YEAR), (50, YEAR), (50, 3 * YEAR)], 0),
            ("years back and ahead again", &[(1, -YEAR), (30, -YEAR), (1, 0)], 0),
            ("midnight comes while the clock is in doubt", &[(700, 0), (1, -YEAR), (30, -YEAR)], 1),
            ("the host slept for a week", &[(7 * 1_440, 0)], 7),
        ];
        for (name, steps, days) in cases {
            let clock = VirtualClock::new();
            let mut calendar = Calendar::new(&*clock);
            let first = calendar.period(&*clock, clock.now());
            let mut truth = clock.utc();
            let mut period = first;
            for (minutes, wrong) in steps {
                clock.advance(Duration::from_secs(minutes * 60));
                truth += minutes * 60;
                clock.set_utc(truth.saturating_add_signed(wrong * 60));
                period = calendar.period(&*clock, clock.now());
            }
            assert_eq!(period.day.cast_signed() - first.day.cast_signed(), days, "{name}");
        }
    }

    #[test]
    fn the_month_ends_with_its_last_day() {
        let clock = VirtualClock::new();
        let calendar = Calendar::new(&*clock);
        assert_eq!(calendar.until_month_ends(), (8 * DAY + DAY / 2) * SECOND, "noon of the 22nd of November");
    }
}
