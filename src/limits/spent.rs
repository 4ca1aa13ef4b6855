//! What a scope has used in the current UTC day and month.

use super::calendar::Period;
use super::cost::Cost;

/// What was used in the current day and month, reservations included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) period: Period,
    pub(super) tokens_today: u64,
    pub(super) nano_usd_today: u64,
    pub(super) nano_usd_this_month: u64,
    pub(super) warned_today: bool,
    pub(super) warned_this_month: bool,
}

impl Spent {
    pub(super) fn none(period: Period) -> Spent {
        Spent {
            period,
            tokens_today: 0,
            nano_usd_today: 0,
            nano_usd_this_month: 0,
            warned_today: false,
            warned_this_month: false,
        }
    }

    /// A new day starts at nothing, and so does a new month. In an earlier one, which a clock that was put back leads to,
    /// what was used stays used.
    pub(super) fn turn(&mut self, period: Period) {
        if self.period == period {
            return;
        }
        if period.day < self.period.day {
            self.period = period;
        } else if self.period.month != period.month {
            *self = Spent::none(period);
        } else {
            let (nano_usd_this_month, warned_this_month) = (self.nano_usd_this_month, self.warned_this_month);
            *self = Spent { nano_usd_this_month, warned_this_month, ..Spent::none(period) };
        }
    }

    pub(super) fn add(&mut self, cost: Cost) {
        self.tokens_today = self.tokens_today.saturating_add(cost.tokens);
        self.nano_usd_today = self.nano_usd_today.saturating_add(cost.nano_usd);
        self.nano_usd_this_month = self.nano_usd_this_month.saturating_add(cost.nano_usd);
    }

    /// A request counts in the period in which it was admitted; what it turns out to use after that is nobody's.
    pub(super) fn replace(&mut self, counted: Cost, actual: Cost, admitted: Period) {
        if admitted.day == self.period.day {
            self.tokens_today = self.tokens_today.saturating_sub(counted.tokens).saturating_add(actual.tokens);
            self.nano_usd_today = self.nano_usd_today.saturating_sub(counted.nano_usd).saturating_add(actual.nano_usd);
        }
        if admitted.month == self.period.month {
            let month = &mut self.nano_usd_this_month;
            *month = month.saturating_sub(counted.nano_usd).saturating_add(actual.nano_usd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    /// From the 22nd of November 2025, when 10 tokens and 7 billionths of a dollar have been used.
    #[test]
    fn only_a_later_period_starts_at_nothing() {
        let today = 20_414;
        let cases: [(&str, &[u64], (u64, u64)); 7] = [
            ("the same day", &[today], (10, 7)),
            ("the next day", &[today + 1], (0, 7)),
            ("the next month", &[today + 9], (0, 0)),
            ("the day before", &[today - 1], (10, 7)),
            ("the month before", &[today - 40], (10, 7)),
            ("1970", &[0], (10, 7)),
            ("back and on to the day after", &[today - 1, today], (0, 7)),
        ];
        for (name, days, expected) in cases {
            let mut spent = Spent::none(Period::of(today * DAY));
            spent.add(Cost { tokens: 10, nano_usd: 7 });
            for day in days {
                spent.turn(Period::of(day * DAY));
            }
            assert_eq!((spent.tokens_today, spent.nano_usd_this_month), expected, "{name}");
        }
    }
}
