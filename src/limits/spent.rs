//! What a scope has used in the current UTC day and month.

use super::by_period::ByPeriod;
use super::calendar::Period;
use super::clock::SECOND;
use super::cost::Cost;

const DAY: u64 = 86_400 * SECOND;
const MONTH: u64 = 31 * DAY;

/// What was used in the current day and month, reservations included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) days: ByPeriod,
    pub(super) months: ByPeriod,
}

impl Spent {
    pub(super) fn none(period: Period) -> Spent {
        Spent { days: ByPeriod::new(period.day, DAY), months: ByPeriod::new(period.month, MONTH) }
    }

    pub(super) fn period(&self) -> Period {
        Period { day: self.days.present(), month: self.months.present() }
    }

    /// A new day starts at nothing, and so does a new month. In an earlier one, which a clock that was put back leads to,
    /// what was used stays used.
    pub(super) fn turn(&mut self, period: Period, now: u64) {
        self.days.turn(period.day, now);
        self.months.turn(period.month, now);
    }

    pub(super) fn tokens_today(&self) -> u64 {
        self.days.used().tokens
    }

    pub(super) fn nano_usd_today(&self) -> u64 {
        self.days.used().nano_usd
    }

    pub(super) fn nano_usd_this_month(&self) -> u64 {
        self.months.used().nano_usd
    }

    pub(super) fn add(&mut self, cost: Cost) {
        self.days.add(cost);
        self.months.add(cost);
    }

    /// A request counts in the period in which it was admitted; what it turns out to use after that is nobody's.
    pub(super) fn replace(&mut self, counted: Cost, actual: Cost, admitted: Period) {
        self.days.replace(admitted.day, counted, actual);
        self.months.replace(admitted.month, counted, actual);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the 22nd of November 2025, when 10 tokens and 7 billionths of a dollar have been used.
    #[test]
    fn only_a_later_period_starts_at_nothing() {
        let today = 20_414;
        let cases: [(&str, &[u64], (u64, u64)); 8] = [
            ("the same day", &[today], (10, 7)),
            ("the next day", &[today + 1], (0, 7)),
            ("the next month", &[today + 9], (0, 0)),
            ("the day before", &[today - 1], (10, 7)),
            ("the month before", &[today - 40], (10, 7)),
            ("1970", &[0], (10, 7)),
            ("back and on to the day after", &[today - 1, today + 1], (0, 7)),
            ("1970 and on to the same day", &[0, today], (10, 7)),
        ];
        for (name, days, expected) in cases {
            let mut spent = Spent::none(Period::of(today * 86_400));
            spent.add(Cost { tokens: 10, nano_usd: 7 });
            for day in days {
                spent.turn(Period::of(day * 86_400), 0);
            }
            assert_eq!((spent.tokens_today(), spent.nano_usd_this_month()), expected, "{name}");
        }
    }
}
